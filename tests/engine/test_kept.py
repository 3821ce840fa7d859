"""Rows that passes over the same steps share."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import rocktok
from rocktok._types import Array
from rocktok.analyses.run import Run
from rocktok.engine.kept import KeptRows
from rocktok.engine.passes import Engine
from rocktok.engine.source import Source
from rocktok.log import LogWriter
from rocktok.log.shard import OpenShard
from rocktok.stats.accumulator import Batch
from tests.logs import RUN, rows, sequence_rows

NAMES = ("sequence_id", "position", "token_id", "prompt", "loss_pre", "loss_post")


class Rows:
    """All rows, in their order."""

    needs = NAMES

    def __init__(self) -> None:
        self.parts: list[dict[str, Array]] = []

    def update(self, batch: Batch) -> None:
        self.parts.append({name: np.array(batch[name]) for name in NAMES})

    def merge(self, other: Rows) -> None:
        self.parts += other.parts

    def all(self) -> list[list[float]]:
        return [np.concatenate([part[name] for part in self.parts]).tolist() for name in NAMES]


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    monkeypatch.setattr("rocktok.log.tasks.TASK_ROWS", 40)
    # The later step lacks a sequence, and has one of its own.
    steps = [(0, range(0, 9)), (5, [*range(1, 9), 20])]
    with LogWriter(tmp_path / "log", run=RUN) as writer:
        writer.write(sequence_rows(range(21)), table="sequences")
        for step, ids in steps:
            writer.write(rows(step, ids), table="fixed")
            writer.finish_step(step, "fixed")
            writer.flush()
    run = Run.begin(rocktok.open(tmp_path / "log"), Engine(jobs=1), "fixed", 0)
    return run.source(5, 0)


def passed(source: Source, jobs: int = 1) -> tuple[list[list[float]], int]:
    """All rows of a pass, and its sequences without a partner."""
    found = Rows()
    with Engine(jobs=jobs) as engine:
        unpaired = engine.run(source, found).unpaired
    return found.all(), unpaired


@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize("long", [1, 1 << 20])
def test_the_second_pass_reads_nothing_and_gives_the_same(
    source: Source, jobs: int, long: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Rows of a half are copied run by run, or marked: the runs here are short.
    monkeypatch.setattr("rocktok.engine.source._LONG", long)
    alone = [passed(replace(source, half=half)) for half in (None, 0, 1)]
    assert alone[0][1] == 2
    kept = replace(source, kept=KeptRows())
    assert passed(kept, jobs) == alone[0]
    monkeypatch.setattr(OpenShard, "read_group", None)
    assert [passed(replace(kept, half=half), jobs) for half in (None, 0, 1)] == alone


@pytest.mark.parametrize("most", [0, 700])
def test_what_does_not_fit_is_read_again(
    source: Source, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, kept = passed(source), replace(source, kept=KeptRows(most))
    reads = []
    real = OpenShard.read_group
    monkeypatch.setattr(OpenShard, "read_group", lambda *given: reads.append(given) or real(*given))
    assert [passed(kept) for _ in range(3)] == [alone] * 3
    assert len(reads) > 2


def test_closed_it_keeps_nothing(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = KeptRows()
    alone = passed(replace(source, kept=kept))
    kept.close()
    assert passed(replace(source, kept=kept)) == alone
    assert not kept._tasks


def test_a_worker_gets_none_of_it(source: Source) -> None:
    kept = KeptRows()
    passed(replace(source, kept=kept))
    assert kept._tasks
    assert len(pickle.dumps(kept)) < 200
    assert not pickle.loads(pickle.dumps(kept))._tasks
