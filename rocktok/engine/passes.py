"""Running accumulators over a log: on threads here, or on a Dask cluster; the same bytes.

A pass is shared out in tasks that the log alone decides. Each makes a partial result of its own;
partials are merged in the order of the tasks, with a bounded number of them waiting.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from rocktok.engine.cluster import Cluster
from rocktok.engine.heap import give_back
from rocktok.engine.made import PassMade
from rocktok.engine.once import Answers
from rocktok.engine.partial import Partial, Prototypes, make_partials
from rocktok.engine.requests import Request
from rocktok.engine.source import Source, for_task
from rocktok.engine.turns import NAMES, Companion, Turns, named
from rocktok.engine.workers import Workers, called, cores, in_order
from rocktok.errors import LogError, RocktokError, UsageError
from rocktok.log.checks import SequenceRuns
from rocktok.log.tasks import Task
from rocktok.stats.accumulator import Accumulator

T = TypeVar("T")

#: Partials that may wait to be merged, for each worker.
OUTSTANDING = 4


class Engine(AbstractContextManager["Engine"]):
    """Makes passes over logs, and counts them.

    Args:
        jobs: threads; None: the cores this process may use. What is computed outside of passes
            uses as many, on a cluster too.
        dask: address of a Dask scheduler, or its scheduler file; passes are then made there.
        progress: told of the rows of each finished task, and of all rows of the pass.
        explain: told of each pass that was made.

    Raises:
        UsageError: `jobs` below 1.
        RocktokError: no scheduler there.
    """

    def __init__(
        self,
        jobs: int | None = None,
        dask: str | None = None,
        progress: Callable[[int, int], None] | None = None,
        explain: Callable[[PassMade], None] | None = None,
    ) -> None:
        if jobs is not None and jobs < 1:
            raise UsageError(f"jobs is {jobs}; it must be 1 or more", parameter="jobs")
        self.made: list[PassMade] = []
        self._progress, self._explain = progress, explain
        self._turns = Turns(self._serve)
        self._cluster = None if dask is None else Cluster.connect(dask)
        self.jobs = jobs or cores()
        self._workers = Workers(self.jobs, self._turns)
        self._answers = Answers()

    def __exit__(self, *details: object) -> None:
        self._turns.close()
        self._workers.close()
        if self._cluster is not None:
            self._cluster.close()

    def once(self, on: object, key: object, make: Callable[[], T]) -> T:
        """What `make` returns; made once, if one of the last calls was for the same.

        For what several analyses ask for. `on`: a log; `key`: all that it depends on besides.
        """
        answer = self._answers.to(on, key)
        # Another companion may be about it.
        self._turns.wait(lambda: not answer.under_way)
        here = self._turns.here
        if not answer.there:
            answer.make(make, self.made, here)
        for pass_made in answer.passes:
            pass_made.count_for(here)
        made: T = answer.value
        return made

    @property
    def passes(self) -> int:
        """Passes that were made; within a companion those that it had a part in."""
        here = self._turns.here
        return len(self.made) if here is None else here.passes

    def start(self, function: Callable[[], T], name: str | None = None) -> Companion[T]:
        """Begin an analysis beside others: one pass serves all who ask for the same rows.

        Only one runs at any time, and the results are the same as one after the other. It first
        runs when whoever started it asks for a pass, or for a result. `name`: of the analysis.
        """

        def run() -> T:
            with named(name) if name is not None else nullcontext():
                return function()

        return self._turns.start(run)

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what an analysis that was started brings about before it is done."""
        self._turns.wait(condition)

    def run(self, source: Source, *accumulators: Accumulator, patient: bool = False) -> Partial:
        """One pass: every row of the source goes to every accumulator.

        The pass may serve other analyses that were started, too; `patient`: it waits until they ask
        for the same rows, or for nothing else. Returns the accumulators with what
        the reading counted. Raises `DataError` or `DamagedError` as the reader does; the
        accumulators are then of no use.
        """
        request = Request(source, accumulators, self._turns.here, NAMES.get(), patient)
        self._turns.ask(request)
        if isinstance(request.outcome, BaseException):
            raise request.outcome
        assert request.outcome is not None
        return request.outcome

    def _serve(self, requests: Sequence[Request]) -> None:
        """Answer requests for the same rows by one pass; if that fails, each by its own."""
        if requests[0].source.large:
            give_back()
        try:
            wholes = self._merged(requests)
        except LogError as error:
            if len(requests) == 1:
                requests[0].outcome = error
                return
            # It may be a column that one of them alone reads.
            for request in requests:
                self._serve([request])
        except RocktokError as error:
            for request in requests:
                request.outcome = error
        else:
            for request, whole in zip(requests, wholes, strict=True):
                request.outcome = whole

    def _merged(self, requests: Sequence[Request]) -> list[Partial]:
        wholes = [Partial.empty(request.accumulators) for request in requests]
        # The parts begin with what nothing was added to.
        blank = copy.deepcopy([request.accumulators for request in requests])
        sums = wholes
        if len(requests) > 1:
            # If a task fails, those who are not to blame begin again: with nothing.
            sums = [Partial.empty(each) for each in copy.deepcopy(blank)]
        for parts in self._parts(requests, blank):
            for total in sums:
                total.add(parts.pop(0))  # held no longer: of many types they are large
        if sums is not wholes:
            for whole in wholes:
                whole.add(sums.pop(0))
        return wholes

    def partials(self, source: Source, *accumulators: Accumulator) -> Iterator[Partial]:
        """One pass whose partial results are not merged, in the order of the tasks.

        Of rows of two steps, joined, each task holds a range of sequences, above that of the one
        before. `accumulators` are empty, and stay so. Raises as `run` does; duplicates are found
        only after the last part.
        """
        request = Request(source, accumulators, self._turns.here, NAMES.get())
        for (part,) in self._parts([request], [accumulators]):
            yield part

    def _parts(
        self, requests: Sequence[Request], blank: Sequence[Sequence[Accumulator]]
    ) -> Iterator[list[Partial]]:
        """For each task its partial results, one for each request."""
        made = PassMade.of(requests, number=len(self.made) + 1)
        self.made.append(made)
        for request in requests:
            made.count_for(request.asker)
        needs = frozenset[str]().union(*(request.needs for request in requests))
        sources = [request.source for request in requests]
        tasks = sources[0].tasks(needs)
        total, done, runs = sum(t.rows for t in tasks), 0, SequenceRuns()
        prototypes: Any = Prototypes(blank)
        if self._cluster is not None:
            prototypes = self._cluster.share(prototypes)
        travels = self._cluster is not None
        bundles = self._bundles(tasks)
        calls = (
            ([for_task(sources, task, travels) for task in bundle], bundle, prototypes)
            for bundle in bundles
        )
        began = time.perf_counter()
        for bundle, results in zip(bundles, self.map(make_partials, calls), strict=True):
            for task in bundle:
                result = results.pop(0)
                made.add(result.rows, result.decoded)
                runs.merge(result.parts[0].runs)
                yield result.parts
                done += task.rows
                if self._progress is not None:
                    self._progress(done, total)
        runs.check()
        made.seconds = time.perf_counter() - began
        if self._explain is not None:
            self._explain(made)

    def _bundles(self, tasks: Sequence[Task]) -> list[Sequence[Task]]:
        """Tasks that are handed out together; here, each alone."""
        if self._cluster is not None:
            return self._cluster.bundles(tasks)
        return [[task] for task in tasks]

    def map(self, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """Results of function(*call) in the order of the calls, a bounded number of them ahead.

        On a cluster the function must be importable there, and may be called again where a
        worker dies.
        """
        if self._cluster is not None:
            yield from self._cluster.map(function, calls, OUTSTANDING)
        else:
            yield from self.on_threads(function, calls, OUTSTANDING * self.jobs)

    def on_threads(
        self, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]], ahead: int
    ) -> Iterator[Any]:
        """`map` on the threads of this process, on a cluster too; `ahead`: calls at once."""
        if self.jobs == 1:
            for call in calls:
                self._turns.check()
                yield function(*call)
            return
        pool = ThreadPoolExecutor(self.jobs)
        try:
            for result in in_order(pool.submit, ahead, function, calls):
                self._turns.check()
                yield result
        finally:
            pool.shutdown(cancel_futures=True)

    def aside(self, function: Callable[[], T]) -> T:
        """What a function returns that makes no passes; analyses beside this one go on meanwhile.

        On a thread of this process, where there is more than one.
        """
        (result,) = self.asides(called, [(function,)], 1)
        made: T = result
        return made

    def asides(
        self, function: Callable[..., T], calls: Iterable[tuple[Any, ...]], ahead: int
    ) -> Iterator[T]:
        """`on_threads`, while analyses beside this one go on: all share the same threads."""
        if self.jobs == 1:
            return self.on_threads(function, calls, ahead)
        return self._workers.map(function, calls, ahead)
