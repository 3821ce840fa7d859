"""What a pass reads: rows of one step, or of two steps joined, with prompts attached."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from rocktok._types import Array
from rocktok.engine.kept import KeptRows
from rocktok.errors import LogError
from rocktok.hashing import halves
from rocktok.log.attach import TABLE_OF, BesideRows
from rocktok.log.catalogue import Log
from rocktok.log.checks import SequenceRuns
from rocktok.log.join import JoinedSteps
from rocktok.log.reader import Reader
from rocktok.log.selection import EVERYWHERE
from rocktok.log.sequences import Prompts
from rocktok.log.tasks import Task, ids_within, joined_tasks, step_tasks
from rocktok.runs import run_starts
from rocktok.stats.accumulator import LARGE

#: Columns that follow from others, made where an accumulator needs them.
_DERIVED = {
    "change": ("loss_pre", "loss_post"),
    "student_probability": ("student_logprob",),
    "teacher_probability": ("teacher_logprob",),
    "mean_log_ratio": ("log_ratio",),
}

#: Sequences of a log (16 bytes each) up to which all may go to a cluster with every task.
MANY_SEQUENCES = 1 << 12

DERIVABLE = {name: parts[0] for name, parts in _DERIVED.items() if not parts[0].startswith("loss")}

#: Rows of a joined pass carry these, whatever is needed: the text is compared on the way.
_JOINED = {"sequence_id", "position", "token_id", "loss", "loss_pre", "loss_post"}

#: What an asker finds in a batch whatever it needs, if it is there.
_KEYS = _JOINED | {"step"}

_UNKNOWN: Any = object()

#: Rows that count of a batch: a mark for each, or where they stand in long runs these.
_Kept = Array | list[slice]

#: Rows of a run, on average, from which runs are copied as such.
_LONG = 64

#: Table beside `fixed` → what gives it to a log.
REMEDIES = {
    "alternatives": "record with Recorder(alternatives=5), or score saved checkpoints with "
    "`rocktok rescore`",
    "contexts": "record with Recorder(contexts=True), or score saved checkpoints with "
    "`rocktok rescore`",
}


@dataclass(frozen=True)
class Source:
    """Rows of one table at one step (`pre` None), or joined at two.

    Batches hold what the accumulators of a pass need: columns of the table as they are at post,
    `loss` among them; with `pre` also `loss_pre` and `loss_post`, which is `loss` (float32, those
    within rounding of 0 set to 0), and any other column as it is at pre, as NAME_pre; `prompt`
    (uint64), and what follows from these. `half`: only rows whose prompt is in that half (0 or 1),
    the halves cut by `seed`. `only`: ascending ids of the sequences that count. `kept`: joined rows
    that passes before have read, for those after.

    Rows of `fixed` can be had with what tables beside it say of them, as matrices. `student_ids`,
    `student_probs`, `teacher_ids`, `teacher_probs` (N, k): the alternatives at post, ids −1 and
    probabilities NaN in rows that `has_alternatives` (N,) says have none. `context` (N, 32) uint8:
    whichever step holds it, zeros in rows without one by `has_context` (N,).
    """

    log: Log
    table: str
    pre: int | None
    post: int
    prompts: Prompts
    half: int | None = None
    seed: int = 0
    only: npt.NDArray[np.int64] | None = None
    kept: KeptRows | None = None

    @cached_property
    def rows(self) -> int:
        """Rows at post."""
        return sum(rows for _, rows in self.log.holders(self.table, self.post))

    @property
    def large(self) -> bool:
        """Whether compiled loops pay."""
        return self.rows >= LARGE

    def tasks(self, needs: Collection[str] = ()) -> list[Task]:
        """How a pass over these rows, with these columns, is shared out.

        Raises `LogError` for columns of a table that the log lacks, or lacks at post.
        """
        beside = self._beside(needs)
        if self.pre is None and not beside:
            return step_tasks(self.log, self.table, self.post)
        return joined_tasks(self.log, self.table, self.pre, self.post, beside=beside)

    def _beside(self, needs: Collection[str]) -> dict[str, list[int]]:
        """Table beside these rows → its steps to read, where columns of it are needed."""
        steps = {}
        for table in sorted({TABLE_OF[name] for name in needs if name in TABLE_OF}):
            missing = self.lacks(table)
            if missing is not None:
                raise LogError(f"{self.log.name}: {missing}")
            recorded = [step.step for step in self.log.steps(table)]
            # The student's words are those of its step; the teacher does not change.
            steps[table] = [self.post] if table == "alternatives" else recorded
        return steps

    def lacks(self, table: str) -> str | None:
        """What the log lacks of a table beside `fixed` for these rows; None: nothing.

        In words that go on from the log's name, with the remedy.
        """
        if not self.log.shards(table):
            return f"has no {table}/ table; {REMEDIES[table]}"
        if self.table != "fixed":
            return f"has {table}/ only for the text in fixed/; choose table fixed"
        if table == "alternatives" and not self.log.holders(table, self.post):
            return f"has nothing in {table}/ at step {self.post}; {REMEDIES[table]}"
        return None

    @cached_property
    def whole(self) -> bool:
        """Whether every row that was recorded at post is here: what has none is then wrong."""
        skipped = any(shard.table == self.table for shard in self.log.skipped)
        return self.log.is_complete(self.table, self.post) and not skipped

    def for_task(self, task: Task, *, travels: bool = False) -> TaskSource:
        """What a worker must have of this source to read the rows of a task.

        `travels`: it goes to another process, so that no more should go with it than must.
        """
        low, high = task.span.low, task.span.high
        reader = self.log.reader
        if travels and all(shard.entry is not None for shards in task.shards for shard in shards):
            # Of use for shards alone that no manifest lists; with 1,000 ranks it has 1,000 names.
            reader = replace(reader, writers=None)
            if task.span == EVERYWHERE and len(self.prompts.sequence_S) > MANY_SEQUENCES:
                low, high = ids_within(self.log, task)
        return TaskSource(
            reader, self.table, self.pre, self.post, self.prompts.within(low, high), self.half,
            self.seed, self._only_within(low, high), self.whole, self.kept,
        )  # fmt: skip

    def beside(self, other: TaskSource, task: Task) -> TaskSource:
        """The same as `for_task`, where another asker's is at hand: what they share is shared."""
        only = self._only_within(task.span.low, task.span.high)
        return replace(other, half=self.half, seed=self.seed, only=only)

    def _only_within(self, low: int | None, high: int | None) -> npt.NDArray[np.int64] | None:
        """`only`, as far as these ids go."""
        only = self.only
        if only is None:
            return None
        start = 0 if low is None else int(np.searchsorted(only, low))
        return only[start : None if high is None else int(np.searchsorted(only, high))]


@dataclass(frozen=True)
class TaskSource:
    """A `Source` as it is sent to a worker: no catalogue, and only what the task's ids need."""

    reader: Reader
    table: str
    pre: int | None
    post: int
    prompts: Prompts
    half: int | None
    seed: int
    only: npt.NDArray[np.int64] | None
    whole: bool
    kept: KeptRows | None


def for_task(sources: Sequence[Source], task: Task, travels: bool) -> tuple[TaskSource, ...]:
    """What a worker must have of each asker's source."""
    first = sources[0].for_task(task, travels=travels)
    return (first, *(source.beside(first, task) for source in sources[1:]))


@dataclass
class Reading:
    """The rows of one task, for one or several askers. Iterate; then the counts are known.

    `sources`: what each asker takes of the same rows; they differ in `half`, `seed` and `only`
    alone. `needs`: the columns of each. A batch is a tuple of the askers' rows, each with no more
    columns than it would have if it asked alone.

    `unpaired`: sequences that only one of two joined steps has; `unlisted`: those that are not in
    sequences/ (where sequence_id is read); `runs`: what finds duplicates; `lacking`: for each table
    beside `fixed` that is read, rows that it says nothing of; `decoded`: bytes of the columns that
    were read, by step and column; `rows`: how many were read, by step.
    """

    sources: Sequence[TaskSource]
    task: Task
    needs: Sequence[frozenset[str]]
    unpaired: int = field(default=0, init=False)
    unlisted: int = field(default=0, init=False)
    runs: SequenceRuns = field(default_factory=SequenceRuns, init=False)
    lacking: dict[str, int] = field(default_factory=dict, init=False)
    decoded: Counter[tuple[int, str]] = field(default_factory=Counter, init=False)
    rows: Counter[int] = field(default_factory=Counter, init=False)
    _alone: frozenset[int] = field(default=frozenset(), init=False)

    @property
    def source(self) -> TaskSource:
        """What all askers share."""
        return self.sources[0]

    @cached_property
    def all_needs(self) -> frozenset[str]:
        """Columns that any asker needs."""
        return frozenset().union(*self.needs)

    def __iter__(self) -> Iterator[tuple[dict[str, Array], ...]]:
        prompts, exact = self.source.prompts, self.source.reader.rules.exactness == "exact"
        beside = self._beside()
        by_half = any(source.half is not None for source in self.sources)
        for batch in self._joined() if self.source.pre is not None else self._single():
            for table in beside:
                batch.update(table.attach(batch))
            for name in ("loss", "loss_pre", "loss_post"):
                if name in batch and exact and batch[name].min(initial=0) < 0:
                    batch[name] = np.maximum(batch[name], np.float32(0))
            if "sequence_id" in batch:
                self.unlisted += prompts.unlisted(batch["sequence_id"])
            if "prompt" in self.all_needs or by_half:
                batch["prompt"] = prompts.of(batch["sequence_id"])
            yield tuple(self._each(batch))
        for table in beside:
            table.finish(self._alone)
            self.lacking[table.table] = table.lacking

    def lacking_for(self, needs: Collection[str]) -> Counter[str]:
        """`lacking` of the tables that these columns are in."""
        tables = {TABLE_OF[name] for name in needs if name in TABLE_OF}
        return Counter({table: n for table, n in self.lacking.items() if table in tables})

    def _each(self, batch: dict[str, Array]) -> Iterator[dict[str, Array]]:
        """The rows of each asker; rows that several select, and what follows of columns, once."""
        if len(self.sources) == 1:
            yield self._with_derived(_selected(self.source, batch), self.all_needs)
            return
        batch = self._with_derived(batch, self.all_needs)
        kept: list[tuple[TaskSource, _Kept | None]] = []
        for source, needs in zip(self.sources, self.needs, strict=True):
            kept_N = next((k for other, k in kept if _same_rows(source, other)), _UNKNOWN)
            if kept_N is _UNKNOWN:
                kept_N = _kept(source, batch)
                kept.append((source, kept_N))
            names = [name for name in batch if name in needs or name in _KEYS]
            yield {name: _taken(batch[name], kept_N) for name in names}

    def _beside(self) -> list[BesideRows]:
        columns: dict[str, list[str]] = {}
        for name in sorted(self.all_needs & set(TABLE_OF)):
            wanted = columns.setdefault(TABLE_OF[name], [])
            # A mark is known from the keys.
            wanted += [name] if not name.startswith("has_") else []
        strict = {"alternatives": self.source.whole, "contexts": False}
        return [
            BesideRows(self.source.reader, self.task, table, wanted, strict[table])
            for table, wanted in sorted(columns.items())
        ]

    def _stored(self) -> list[str]:
        """Columns to read, by their names in the table (loss is that at post)."""
        columns = set()
        for name in self.all_needs:
            # By the keys a row beside finds its own.
            beside = ("sequence_id", "position") if name in TABLE_OF else (name,)
            columns |= set(_DERIVED.get(name, beside))
        if "prompt" in columns or any(map(_selects, self.sources)):
            columns.add("sequence_id")
        if "sequence_id" in columns:
            # With the step, duplicates between shards are found.
            columns.add("step")
        made = {"prompt", "loss_pre", "loss_post", *(f"{name}_pre" for name in self._early())}
        return sorted(columns - made)

    def _early(self) -> list[str]:
        """Columns to read at pre beside the loss."""
        if self.source.pre is None:
            return []
        early = {name.removesuffix("_pre") for name in self.all_needs if name.endswith("_pre")}
        return sorted(early - {"loss"})

    def _single(self) -> Iterator[dict[str, Array]]:
        source = self.source
        wanted = self._stored()
        for shard in self.task.shards[0]:
            for part in source.reader.scan_shard(
                shard, wanted, [source.post], self.runs, self.task.span
            ):
                self._count(source.post, part.columns)
                yield dict(part.columns)

    def _count(self, step: int, columns: Mapping[str, Array]) -> None:
        for name, values in columns.items():
            self.decoded[step, name] += values.nbytes
        self.rows[step] += len(next(iter(columns.values())))

    def _joined(self) -> Iterator[dict[str, Array]]:
        source = self.source
        assert source.pre is not None
        columns = [name for name in self._stored() if name not in _JOINED | {"step"}]
        joined = JoinedSteps(
            source.reader, source.table, source.pre, source.post, columns, self.task,
            self._early(), self._count,
        )  # fmt: skip
        keys_alone = not columns and not self._early()
        kept = source.kept if keys_alone else None
        yield from joined if kept is None else kept.batches(joined, self.rows)
        self.unpaired, self._alone = joined.unpaired, joined.alone

    def _with_derived(self, batch: dict[str, Array], needs: Collection[str]) -> dict[str, Array]:
        if "loss" in needs and "loss_post" in batch:
            batch["loss"] = batch["loss_post"]
        if "change" in needs:
            batch["change"] = batch["loss_pre"] - batch["loss_post"]
        for name, column in DERIVABLE.items():
            if name in needs:
                values = batch[column].astype(np.float64)
                batch[name] = values if name == "mean_log_ratio" else np.exp(values)
        return batch


def reads_ids(source: Source | TaskSource, needs: Collection[str]) -> bool:
    """Whether rows are read with the ids of their sequences, that is in whole row groups."""
    beside = any(name in TABLE_OF for name in needs)
    by_id = beside or "prompt" in needs or "sequence_id" in needs
    return source.pre is not None or by_id or _selects(source)


def _selects(source: Source | TaskSource) -> bool:
    return source.half is not None or source.only is not None


def _same_rows(one: TaskSource, other: TaskSource) -> bool:
    """Whether two askers take the same rows of a batch."""
    halves_alike = one.half == other.half and (one.half is None or one.seed == other.seed)
    return halves_alike and one.only is other.only


def _kept(source: TaskSource, batch: Mapping[str, Array]) -> _Kept | None:
    """Which rows of a batch count; None: all."""
    if not _selects(source):
        return None
    id_N = batch["sequence_id"]
    start_S = run_starts(id_N)
    kept_S = np.ones(len(start_S), dtype=bool)
    if source.half is not None:
        # A sequence has one prompt.
        kept_S &= halves(batch["prompt"][start_S], source.seed) == source.half
    if source.only is not None:
        only, id_S = source.only, id_N[start_S]
        at_S = np.minimum(np.searchsorted(only, id_S), max(0, len(only) - 1))
        kept_S &= (only[at_S] == id_S) if len(only) else False
    end_S = np.append(start_S, len(id_N))
    edges = end_S[np.flatnonzero(np.diff(kept_S, prepend=False, append=False))]
    if len(edges) * _LONG <= 2 * len(id_N):
        return [slice(*ends) for ends in edges.reshape(-1, 2).tolist()]
    kept_N: Array = np.repeat(kept_S, np.diff(end_S))
    return kept_N


def _taken(values_N: Array, kept: _Kept | None) -> Array:
    """The rows of a column that count."""
    if kept is None:
        return values_N
    if isinstance(kept, list):
        return np.concatenate([values_N[rows] for rows in kept] or [values_N[:0]])
    return values_N[kept]


def _selected(source: TaskSource, batch: dict[str, Array]) -> dict[str, Array]:
    kept = _kept(source, batch)
    return {name: _taken(values, kept) for name, values in batch.items()}
