"""Every row is written or counted: writer threads that die, full disks, steps recorded twice."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import rocktok
from rocktok import publishing
from rocktok.errors import RocktokWarning
from rocktok.hooks.background import Background, StepRows
from rocktok.log import LogWriter
from tests.processes import LIMIT
from tests.recording import (
    make_recorder,
    make_rollout,
    manifest,
    read,
    record_step,
    rows_of,
    sequence_ids,
)


def counted(log: Path) -> int:
    return sum(item["rows"] for item in manifest(log)["dropped"])


def written(log: Path) -> int:
    return sum(pq.read_metadata(path).num_rows for path in (log / "rollout").rglob("*.parquet"))


class Strange(BaseException):
    """What no handler of `Exception` sees."""


# --- the writer thread -------------------------------------------------------------------------


@pytest.mark.parametrize("error", [Strange, SystemExit, KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("where", ["write", "finish_step", "_table"])
def test_nothing_that_is_raised_ends_the_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, error: type[BaseException]
) -> None:
    rec = make_recorder(tmp_path)
    rec.start()
    record_step(rec, 0)
    assert rec._background is not None
    rec._background.settle(LIMIT)
    owner, name = (Background, "_write") if where == "_table" else (LogWriter, where)
    original = getattr(owner, name)

    def failing(self: Any, *args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(owner, name, original)
        raise error("strange")

    monkeypatch.setattr(owner, name, failing)
    with pytest.warns(RocktokWarning, match="dropped: .*strange"):
        record_step(rec, 1)
        rec._background.settle(LIMIT)
        record_step(rec, 2)
    assert rec._background._thread.is_alive()
    rec.close()
    found = manifest(tmp_path)
    assert [(d["step"], d["rows"]) for d in found["dropped"]] == [(1, 3)]
    assert found["steps"]["rollout"] == [0, 2]
    assert set(read(tmp_path)["step"].tolist()) == {0, 2}
    assert found["final"]


def test_a_thread_that_ends_has_a_successor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, runs = Background._run, []

    def run(self: Background) -> None:
        runs.append(threading.current_thread())
        if len(runs) > 1:
            original(self)

    monkeypatch.setattr(Background, "_run", run)
    rec = make_recorder(tmp_path)
    rec.start()
    runs[0].join()
    with pytest.warns(RocktokWarning, match="the writer thread had ended; a new one continues"):
        record_step(rec, 0)
    record_step(rec, 1)
    rec.close()
    assert len(runs) == 2
    assert manifest(tmp_path)["steps"]["rollout"] == [0, 1]


def test_where_no_thread_can_be_started_the_end_writes_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Background._run
    monkeypatch.setattr(Background, "_run", lambda self: None)
    rec = make_recorder(tmp_path)
    rec.start()
    assert rec._background is not None
    rec._background._thread.join()
    monkeypatch.setattr(Background, "_run", original)

    def refuse(self: Background) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(Background, "_start", refuse)
    rows = {"step": np.zeros(3, np.int32), **rows_of(0)}
    # What waited when the thread ended is still there.
    rec._background._items.append(StepRows("rollout", 0, 3, [rows]))
    with pytest.warns(RocktokWarning, match="the writer thread had ended"):
        rec.close()
    assert manifest(tmp_path)["steps"]["rollout"] == [0]
    assert written(tmp_path) == 3


# --- steps -------------------------------------------------------------------------------------


@pytest.mark.parametrize("flushed", [False, True])
def test_a_step_recorded_twice_counts_what_it_loses(tmp_path: Path, flushed: bool) -> None:
    rec = make_recorder(tmp_path)
    rec.start()
    record_step(rec, 0)
    assert rec._background is not None
    if flushed:
        rec._background.settle(LIMIT)
    with pytest.warns(RocktokWarning, match="step 0 of rollout was dropped: .*was finished"):
        rec.record(0, rows_of(7, length=5))
        rec.finish_step(0)
        rec._background.settle(LIMIT)
        record_step(rec, 1)
    rec.close()
    assert [(d["step"], d["rows"]) for d in manifest(tmp_path)["dropped"]] == [(0, 5)]
    assert written(tmp_path) == 6
    # It is not all that there was of the step.
    assert rocktok.open(tmp_path).incomplete_steps("rollout") == [0]


def test_rows_of_a_step_that_is_never_finished_are_counted(tmp_path: Path) -> None:
    rec = make_recorder(tmp_path)
    rec.start()
    record_step(rec, 0)
    rec.record(1, rows_of(7, length=5))
    rec.close()
    (dropped,) = manifest(tmp_path)["dropped"]
    assert (dropped["step"], dropped["rows"]) == (1, 5)
    assert dropped["reason"] == "recording ended within the step"


def test_a_sequence_row_that_comes_twice_costs_its_step(tmp_path: Path) -> None:
    rec = make_recorder(tmp_path)
    rec.start()
    with pytest.warns(RocktokWarning, match="sequence 5 comes twice"):
        for step in range(2):
            rec.record(step, rows_of(5), rollouts=[make_rollout(5)])
            rec.finish_step(step)
            assert rec._background is not None
            rec._background.settle(LIMIT)
        rec.flush()
    rec.close()
    assert sequence_ids(tmp_path) == [5]
    assert (written(tmp_path), counted(tmp_path)) == (3, 3)


# --- disks -------------------------------------------------------------------------------------


def test_no_step_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fsync that does not return: steps are taken as long as there is room, then counted."""
    go_on, waiting = threading.Event(), threading.Event()

    def fsync(descriptor: int) -> None:
        waiting.set()
        go_on.wait(LIMIT)

    monkeypatch.setattr(publishing.os, "fsync", fsync)
    rec = make_recorder(tmp_path, queue_steps=3)
    go_on.set()
    rec.start()
    go_on.clear()
    waiting.clear()
    record_step(rec, 0)
    rec.flush()
    assert waiting.wait(LIMIT)
    with pytest.warns(RocktokWarning, match="queue full"):
        for step in range(1, 10):
            record_step(rec, step)
            rec.flush()
    assert not go_on.is_set()
    go_on.set()
    rec.close()
    # The step that the disk has, and the three that there was room for.
    assert written(tmp_path) == 12
    assert counted(tmp_path) == 18


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path, name: str) -> None:
    with pytest.raises(OSError, match="No space left"), (folder / name).open("wb") as file:
        while True:
            file.write(b"x" * 4096)
            file.flush()


def record_rows(rec: Any, step: int, rows: int = 6000) -> None:
    (sequence_id,) = rec.new_sequence_ids(1).tolist()
    batch = rows_of(sequence_id, length=rows)
    batch["loss"] = np.random.default_rng(step).random(rows, dtype=np.float32)
    rec.record(step, batch)
    rec.finish_step(step)
    rec._background.settle(LIMIT)


@pytest.mark.long
@pytest.mark.parametrize("greedy", [False, True])
def test_a_disk_that_stays_full(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], greedy: bool
) -> None:
    """The log counts what it lacks; where others take even that room, the end says the number."""
    with small_disk(tmp_path / "small", "4m") as disk, warnings.catch_warnings(record=True) as got:
        warnings.simplefilter("always")
        rec = make_recorder(disk / "log")
        rec.start()
        for step in range(8):
            if step == 4:
                fill(disk, "other")
            record_rows(rec, step)
        background = rec._background
        assert background is not None
        if greedy:
            fill(disk, "greedy")
            record_rows(rec, 8)
            background._writer._reserve.remove()
            fill(disk, "greedier")
        rec.close()
        steps = 9 if greedy else 8
        lost = sum(item.rows for item in background.manifest.dropped)
        assert written(disk / "log") + lost == 6000 * steps
        assert written(disk / "log") == 6000 * 4
        said = capsys.readouterr().err
        assert f"dropped: {6000 * (steps - 4):,} rows of {steps - 4} steps;" in said
        messages = [str(w.message) for w in got if w.category is RocktokWarning]
        unsaved = [m for m in messages if "and the log may not count them" in m]
        if greedy:
            assert "30,000 rows of 5 steps were dropped" in unsaved[0]
        else:
            assert not unsaved
            assert counted(disk / "log") == lost
            assert manifest(disk / "log")["final"]
        assert not [p for p in (disk / "log").rglob(".*") if p.is_file()]


def test_the_room_for_the_manifest_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve = tmp_path / "manifest/.rank-00000.reserve"
    rec = make_recorder(tmp_path)
    rec.start()
    record_step(rec, 0)
    assert rec._background is not None
    rec._background.settle(LIMIT)
    assert reserve.stat().st_size == 1 << 16
    original = publishing._write_temporary

    def full(path: Path, data: bytes) -> Path:
        if reserve.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(path, data)

    monkeypatch.setattr(publishing, "_write_temporary", full)
    with (
        pytest.warns(
            RocktokWarning, match="2 buffered rows were dropped: the disk did not store the last"
        ),
        pytest.warns(RocktokWarning, match="No space left on device"),
    ):
        record_step(rec, 1)
        rec._background.settle(LIMIT)
        record_step(rec, 2)
        rec.close()
    assert not reserve.exists()
    found = manifest(tmp_path)
    lost = [(d["table"], d["rows"]) for d in found["dropped"]]
    assert sorted(lost) == [("rollout", 3), ("rollout", 3), ("sequences", 1), ("sequences", 1)]
    assert (found["final"], written(tmp_path)) == (True, 3)
