"""Analyses that are started together share their passes, and each gets what it would get alone."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rocktok
from rocktok.analyses.run import Run
from rocktok.engine.made import PassMade, Reads
from rocktok.engine.passes import Engine
from rocktok.engine.source import Source
from rocktok.errors import DataError, LogError
from rocktok.log import LogWriter, tasks
from rocktok.stats.accumulator import Batch
from tests.beside_logs import alternatives
from tests.logs import RUN, rows, sequence_rows, write_by_hand


class Seen:
    """Every row of some columns, in the order in which they come; also who was fed in which cut."""

    def __init__(self, *needs: str) -> None:
        self.needs = needs
        self.batches: list[dict[str, Any]] = []

    def update(self, batch: Batch) -> None:
        self.batches.append({name: batch[name].copy() for name in self.needs})

    def merge(self, other: Seen) -> None:
        self.batches += other.batches

    def said(self) -> list[dict[str, Any]]:
        return [{name: values.tolist() for name, values in b.items()} for b in self.batches]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four shards a step, alternatives at the later one; the ranks hold unequal parts."""
    path = tmp_path_factory.mktemp("together") / "log"
    attempt, run_id = None, None
    for rank in range(4):
        with LogWriter(
            path,
            columns=["teacher_logprob"],
            run=RUN,
            rank=rank,
            world_size=4,
            attempt=attempt,
            run_id=run_id,
        ) as part:
            attempt, run_id = part.attempt, part.run_id
            ids = range(rank * 20, rank * 20 + 20 - rank)
            part.write(sequence_rows(ids), table="sequences")
            for step in (0, 10):
                scored = rows(step, ids, tokens=30)
                part.write({**scored, "teacher_logprob": -scored["loss"]}, table="fixed")
                part.finish_step(step, "fixed")
                part.flush()
            part.write(alternatives(rows(10, ids, tokens=30), share=0.7), "alternatives")
    return path


@pytest.fixture(scope="module")
def alone(log: Path) -> list[tuple[Any, ...]]:
    """The answers to `_requests`, asked one after the other."""
    with pytest.MonkeyPatch.context() as patch, Engine(1) as engine:
        patch.setattr(tasks, "TASK_ROWS", 500)
        answers = [ask() for ask in _requests(_run(log, engine))]
        assert engine.passes == len(answers)
    return answers


@pytest.fixture(autouse=True)
def _small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "TASK_ROWS", 500)


def _run(path: Path, engine: Engine) -> Run:
    return Run.begin(rocktok.open(path), engine, "fixed", 0)


def _asked(run: Run, source: Source, *needs: str) -> Callable[[], tuple[Any, ...]]:
    def ask() -> tuple[Any, ...]:
        seen = Seen(*needs)
        read = run.engine.run(source, seen)
        return seen.said(), read.unpaired, read.unlisted, dict(read.lacking)

    return ask


def _requests(run: Run) -> list[Callable[[], tuple[Any, ...]]]:
    """Every way in which two requests for the same rows can differ."""
    joined, single = run.source(10, 0), run.source(10)
    some = np.array([3, 5, 44], dtype=np.int64)
    return [
        _asked(run, joined, "loss_pre", "loss_post"),
        _asked(run, run.source(10, 0, half=0), "token_id", "prompt", "change"),
        _asked(run, run.source(10, 0, half=1), "token_id"),
        _asked(run, run.source(10, 0, half=1, only=some), "sequence_id", "loss"),
        _asked(run, run.source(10, 0, only=some), "sequence_id", "position"),
        _asked(run, joined, "token_id", "student_ids", "has_alternatives"),
        _asked(run, single, "token_id", "loss"),
        _asked(run, single, "token_id", "prompt"),
        _asked(run, run.source(10, half=0), "loss", "teacher_probability"),
        _asked(run, run.source(0, half=0), "loss", "teacher_probability"),
    ]


@pytest.mark.parametrize("jobs", [1, 2, 8])
def test_each_gets_what_it_gets_alone(log: Path, alone: list[tuple[Any, ...]], jobs: int) -> None:
    with Engine(jobs) as engine:
        started = [engine.start(ask) for ask in _requests(_run(log, engine))]
        assert [each.result() for each in started] == alone
        assert engine.passes == 4  # joined, later, later without ids, earlier


@given(order=st.permutations(range(10)))
@settings(max_examples=5, deadline=None)
def test_any_order_of_asking_gives_the_same(
    log: Path, alone: list[tuple[Any, ...]], order: list[int]
) -> None:
    with Engine(1) as engine:
        requests = _requests(_run(log, engine))
        waiting = {i: engine.start(requests[i]) for i in order}
        assert [waiting[i].result() for i in range(10)] == alone


def test_one_pass_serves_those_who_ask_for_the_same_rows(log: Path) -> None:
    with Engine(1) as engine:
        run = _run(log, engine)

        def twice(*needs: str) -> int:
            for _ in range(2):
                _asked(run, run.source(10, 0), *needs)()
            return engine.passes

        started = [
            engine.start(lambda n=n: twice(n), n) for n in ("loss_pre", "token_id", "prompt")
        ]
        # Each has had a part in two passes, and two were made.
        assert [each.result() for each in started] == [2, 2, 2]
        assert [made.names for made in engine.made] == [("loss_pre", "token_id", "prompt")] * 2


def test_a_companion_of_a_companion_counts_for_both(log: Path) -> None:
    with Engine(1) as engine:
        run = _run(log, engine)
        ask = _asked(run, run.source(10), "prompt")

        def outer() -> tuple[int, int]:
            def inner() -> int:
                ask()
                return engine.passes

            started = engine.start(inner)
            return started.result(), engine.passes

        ask()
        assert engine.start(outer).result() == (1, 1)
        assert engine.passes == 2


@pytest.mark.parametrize("wrong_at", [7, 1_999])
def test_the_one_who_asks_for_what_is_wrong_is_told_alone(tmp_path: Path, wrong_at: int) -> None:
    # In the first of four tasks, or in the last: rows of others have then been added up.
    for shard in range(4):
        part = rows(0, range(100 * shard, 100 * shard + 100), tokens=5)
        part["teacher_logprob"] = np.full(500, -1.0, np.float32)
        if wrong_at // 500 == shard:
            part["teacher_logprob"][wrong_at % 500] = np.nan
        write_by_hand(tmp_path, part, name=f"{shard}")
    with Engine(1) as engine:
        run = Run.begin(rocktok.open(tmp_path), engine, "auto", 0)
        source = run.source(0)
        good = engine.start(_asked(run, source, "prompt", "loss"))
        wrong = engine.start(_asked(run, source, "prompt", "teacher_logprob"))
        lacks = engine.start(_asked(run, source, "prompt", "student_ids"))
        assert sum(len(batch["loss"]) for batch in good.result()[0]) == 2_000
        with pytest.raises(DataError, match="teacher_logprob"):
            wrong.result()
        with pytest.raises(LogError, match="alternatives"):
            lacks.result()


def test_an_error_of_a_companion_reaches_who_asks_for_its_result(log: Path) -> None:
    with Engine(1) as engine:
        run = _run(log, engine)

        def fails() -> None:
            _asked(run, run.source(10), "prompt")()
            raise ZeroDivisionError

        failing, other = engine.start(fails), engine.start(_asked(run, run.source(10), "prompt"))
        assert other.result()
        with pytest.raises(ZeroDivisionError):
            failing.result()


def test_a_companion_that_is_dropped_ends(log: Path) -> None:
    ended = threading.Event()
    with Engine(1) as engine:
        run = _run(log, engine)
        ask = _asked(run, run.source(10), "prompt")

        def endless() -> None:
            try:
                while True:
                    ask()
            finally:
                ended.set()

        started = engine.start(endless)
        ask()
        assert not ended.is_set()
        del started
        assert ended.wait(60)
        assert ask()


def test_an_engine_that_is_closed_ends_all(log: Path) -> None:
    ended = []
    with Engine(1) as engine:
        run = _run(log, engine)
        ask = _asked(run, run.source(10), "prompt")

        def endless() -> None:
            try:
                while True:
                    ask()
            finally:
                ended.append(True)

        started = [engine.start(endless), engine.start(endless)]
        ask()
    assert ended == [True, True]
    del started


def test_the_patient_wait_for_others_who_read_the_same(log: Path) -> None:
    with Engine(1) as engine:
        run = _run(log, engine)

        def patient() -> None:
            engine.run(run.source(10), Seen("prompt"), patient=True)

        def later() -> None:
            _asked(run, run.source(0), "prompt")()
            _asked(run, run.source(10), "prompt")()

        started = [engine.start(patient, "patient"), engine.start(later, "later")]
        for each in started:
            each.result()
        assert [(made.steps, made.names) for made in engine.made] == [
            ((0,), ("later",)),
            ((10,), ("patient", "later")),
        ]


def test_what_is_made_once_is_made_once_side_by_side(log: Path) -> None:
    with Engine(1) as engine:
        run, made = _run(log, engine), []

        def make() -> int:
            _asked(run, run.source(10), "prompt")()
            made.append(1)
            return len(made)

        def ask() -> tuple[int, int]:
            return engine.once(run.log, "key", make), engine.passes

        started = [engine.start(ask) for _ in range(3)]
        assert [each.result() for each in started] == [(1, 1)] * 3
        assert engine.passes == 1


def test_what_was_read_is_counted_by_step_and_column(log: Path) -> None:
    told: list[PassMade] = []
    with Engine(2, explain=told.append) as engine:
        run = _run(log, engine)
        _asked(run, run.source(10, 0), "loss_pre")()
        _asked(run, run.source(10), "loss")()
        _asked(run, run.source(10), "prompt")()
    rows_10 = 30 * (20 + 19 + 18 + 17)
    assert [dict(made.rows) for made in told] == [
        {0: rows_10, 10: rows_10},
        {10: rows_10},
        {10: rows_10},
    ]
    assert told[1].columns == ("loss",)
    assert told[1].decoded == {(10, "loss"): 4 * rows_10}
    reads = Reads.of(told)
    assert (reads.rows, reads.rows_once, reads.times) == (4 * rows_10, 2 * rows_10, 2.0)
    # sequence_id (8 bytes), step, position, token_id and loss (4) of both steps.
    assert reads.decoded_once == 2 * rows_10 * (8 + 4 + 4 + 4 + 4)
    assert reads.decoded == reads.decoded_once + rows_10 * (4 + 8 + 4)


@pytest.mark.long
def test_a_report_in_shared_passes_is_that_of_separate_ones(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the passes that were made."""
    shared = [_report(log, jobs) for jobs in (1, 2, 8)]
    made = [content.pop("log")["passes"]["all"] for content in shared]
    monkeypatch.setattr("rocktok.engine.turns.next_pass", lambda waiting: [waiting[0]])
    separate = _report(log, 1)
    assert made == [made[0]] * 3 < [separate.pop("log")["passes"]["all"]] * 3
    assert shared == [separate] * 3


def _report(path: Path, jobs: int) -> dict[str, Any]:
    from dataclasses import fields

    from rocktok.report.passes import report

    with Engine(jobs) as engine:
        result = report(
            rocktok.open(path), engine=engine, replicates=100, quantile_pre=0.5, gamma=0.3
        )
    content: dict[str, Any] = {}
    for field in fields(result):
        value = getattr(result, field.name)
        content[field.name] = value
    for name in ("detect", "attribute", "stagnation", "stability"):
        if content[name] is not None:
            content[name] = json.loads(content[name].to_json())
            del content[name]["log"]["passes"]
    content["others"] = [
        (other.missing, None if other.result is None else _without_passes(other.result))
        for other in result.others
    ]
    return content


def _without_passes(result: Any) -> dict[str, Any]:
    content = json.loads(result.to_json())
    del content["log"]["passes"]
    return content
