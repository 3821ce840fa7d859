"""Full queues, failing disks, SIGTERM: training goes on, the log says what it lacks."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rocktok
from rocktok.errors import RocktokWarning
from rocktok.hooks import recorder
from rocktok.hooks.pending import PendingStep
from rocktok.log import LogWriter
from tests.processes import LIMIT, wait_until
from tests.recording import (
    make_recorder,
    make_rollout,
    manifest,
    read,
    record_step,
    rows_of,
    sequence_ids,
)

# --- what goes wrong later ---------------------------------------------------------------------


def test_a_full_queue_drops_whole_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    original, finished = LogWriter.finish_step, []

    def slow(self: LogWriter, step: int, table: str = "rollout") -> None:
        go_on.wait(LIMIT)
        finished.append(step)
        original(self, step, table)

    monkeypatch.setattr(LogWriter, "finish_step", slow)
    rec = make_recorder(tmp_path, queue_steps=2)
    rec.start()
    with pytest.warns(RocktokWarning, match="step 2 of rollout was not recorded: queue full"):
        for step in range(6):
            record_step(rec, step)
    # Recording did not wait for the disk.
    assert finished == []
    go_on.set()
    wait_until(lambda: rec._background is None or rec._background._taken >= 2)
    record_step(rec, 6)
    rec.close()
    found = manifest(tmp_path)
    assert found["steps"]["rollout"] == [0, 1, 6]
    assert [(d["table"], d["step"], d["rows"]) for d in found["dropped"]] == [
        ("rollout", step, 3) for step in (2, 3, 4, 5)
    ]
    assert {d["reason"] for d in found["dropped"]} == {
        "queue full: the disk is slower than training"
    }
    assert rocktok.open(tmp_path).incomplete_steps("rollout") == [2, 3, 4, 5]


def test_kept_texts_of_a_dropped_step_keep_their_sequence_rows(tmp_path: Path) -> None:
    rec = make_recorder(tmp_path)
    rec.start()
    kept, other = make_rollout(100), make_rollout(101, prompt=1)
    rec.record(0, rows_of(100, loss=np.nan), rollouts=[kept, other])
    rec.keep(rec.fixed.accept([kept]))
    with pytest.warns(RocktokWarning, match="loss is NaN"):
        rec.finish_step(0)
    record_step(rec, 1)
    rec.close()
    assert sequence_ids(tmp_path) == [100, 0]


class FailingDisk:
    """Makes publishing fail for a while, as `os.write` and `os.link` would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
        from rocktok import publishing

        self.failing = False
        self.failures = 0
        original = publishing._write_temporary

        def write(path: Path, data: bytes) -> Path:
            if self.failing:
                self.failures += 1
                raise OSError(error, os.strerror(error), str(path))
            return original(path, data)

        monkeypatch.setattr(publishing, "_write_temporary", write)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.EIO])
def test_a_failing_disk_costs_only_what_was_buffered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    disk = FailingDisk(monkeypatch, error)
    rec = make_recorder(tmp_path)
    rec.start()
    assert rec._background is not None
    record_step(rec, 0)
    rec._background.settle(10)
    disk.failing = True
    record_step(rec, 1)
    record_step(rec, 2)
    rec._background.settle(10)
    disk.failing = False
    with pytest.warns(RocktokWarning, match="6 buffered rows were dropped: writing failed: "):
        record_step(rec, 3)
    rec.close()
    assert disk.failures
    found = manifest(tmp_path)
    assert found["steps"]["rollout"] == [0, 3]
    reason = f"writing failed: {os.strerror(error)}"
    assert [(d["step"], d["rows"], d["reason"]) for d in found["dropped"]] == [
        (1, 3, reason),
        (2, 3, reason),
    ]
    assert set(read(tmp_path)["step"]) == {0, 3}


def test_a_disk_that_never_recovers_breaks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FailingDisk(monkeypatch, errno.ENOSPC)
    rec = make_recorder(tmp_path)
    rec.start()
    disk.failing = True
    with (
        pytest.warns(RocktokWarning, match="9 rows of 3 steps, 3 rows of sequences/ were dr"),
        pytest.warns(
            RocktokWarning, match="3 buffered rows were dropped: the disk did not store the last"
        ),
        pytest.warns(RocktokWarning, match="No space left on device"),
    ):
        for step in range(3):
            record_step(rec, step)
            rec.flush()
        rec.close()
    assert not list(tmp_path.rglob("rank-*.parquet"))
    assert not rec.running


@pytest.mark.long
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        rec = make_recorder(folder / "log")
        rec.start()
        assert rec._background is not None
        generator = np.random.default_rng(0)
        record_step(rec, 0)
        rec._background.settle(10)
        big = rows_of(9, length=60_000)
        big["loss"] = generator.random(60_000, dtype=np.float32)
        rec.record(1, big)
        rec.finish_step(1)
        rec._background.settle(10)
        with pytest.warns(RocktokWarning, match="60000 buffered rows were dropped"):
            record_step(rec, 2)
        rec.close()
        found = manifest(folder / "log")
        assert found["steps"]["rollout"] == [0, 2]
        assert [(d["step"], d["rows"]) for d in found["dropped"]] == [(1, 60_000)]
        assert not [p for p in (folder / "log").rglob(".*") if p.is_file()]
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_column_that_can_be_infinite_says_what_to_record_instead() -> None:
    step = PendingStep()
    rows = {"loss": np.ones(2), "forward_kl": np.array([0.5, np.inf])}
    step.add(0, rows, ("forward_kl",), ())
    assert step.dropped is not None
    assert step.dropped.startswith("forward_kl is NaN or infinite, as where the student excludes")
    assert step.dropped.endswith("such as columns='lenses'")


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ({"loss": np.array([0.1, np.nan, 0.2])}, "loss is NaN or infinite"),
        ({"student_logprob": np.array([0.1, -np.inf, 0])}, "student_logprob is NaN or infinite"),
        ({"loss": np.array([0.1, -0.5, 0.2])}, "loss is negative (-0.5), which"),
        ({"token_id": np.array([0.5, 1, 2])}, "DataError: rollout: column token_id"),
        ({"position": np.arange(2)}, "DataError: rollout: column position has 2 rows"),
    ],
)
def test_rows_that_the_log_may_not_hold_drop_their_step(
    tmp_path: Path, rows: dict[str, Any], reason: str
) -> None:
    rec = make_recorder(tmp_path)
    rec.start()
    assert rec._background is not None
    with pytest.warns(RocktokWarning):
        rec.record(0, rows_of(0))
        rec.record(0, {**rows_of(1), **rows})
        rec.record(0, rows_of(2))
        rec.finish_step(0)
        rec._background.settle(10)
        record_step(rec, 1)
    rec.close()
    (dropped,) = manifest(tmp_path)["dropped"]
    assert (dropped["step"], dropped["rows"]) == (0, 9)
    assert dropped["reason"].startswith(reason)
    assert set(read(tmp_path)["step"]) == {1}


def test_a_missing_column_drops_the_step(tmp_path: Path) -> None:
    rec = make_recorder(tmp_path)
    rec.start()
    rows = rows_of(0)
    del rows["student_logprob"]
    with pytest.warns(RocktokWarning, match="KeyError: 'student_logprob'"):
        rec.record(0, rows)
        rec.finish_step(0)
    rec.close()
    assert manifest(tmp_path)["dropped"][0]["step"] == 0


def test_warnings_as_errors_do_not_reach_training(tmp_path: Path) -> None:
    rec = make_recorder(tmp_path)
    rec.start()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rec.record(0, rows_of(0, loss=np.inf))
        rec.finish_step(0)
        rec.mismatch(0, "sums differ")
    rec.close()
    assert manifest(tmp_path)["mismatches"] == {"0": 1}


def test_mismatches_are_warned_of_once_and_counted(tmp_path: Path) -> None:
    rec = make_recorder(tmp_path)
    rec.start()
    record_step(rec, 0)
    with pytest.warns(RocktokWarning) as caught:
        for step in (0, 0, 1):
            rec.mismatch(step, "sums differ")
    assert len(caught) == 1
    rec.close()
    assert manifest(tmp_path)["mismatches"] == {"0": 2, "1": 1}


def test_a_disk_that_hangs_does_not_hold_the_end_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = threading.Event()
    monkeypatch.setattr(LogWriter, "flush", lambda self: stuck.wait(LIMIT))
    monkeypatch.setattr(recorder, "CLOSE_WAIT", 0.2)
    rec = make_recorder(tmp_path)
    rec.start()
    with pytest.warns(RocktokWarning, match="did not store the last records"):
        rec.close()
    assert not rec.running
    stuck.set()


# --- SIGTERM -----------------------------------------------------------------------------------

TERMINATED = """
import os, signal, sys, time
import numpy as np
from rocktok.hooks import Recorder
from rocktok.hooks import recorder as module

mode, log = sys.argv[1:]
if mode == "handler":
    def handler(number, frame):
        print("handler called", flush=True)
        sys.exit(3)
    signal.signal(signal.SIGTERM, handler)
recorder = Recorder(log, every=1, columns=[])
recorder.start()
for step in range(2):
    recorder.record(step, {"sequence_id": [step], "position": [0], "token_id": [1],
                           "loss": np.array([0.5], np.float32)})
    if step == 0:
        recorder.finish_step(step)
if mode == "fork":
    # A child that waited for records to be written would wait for ever.
    module.CLOSE_WAIT = 3600
    # Python forgets signals that come before a forked child is ready.
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(tell, b"x")
        time.sleep(3600)
        os._exit(0)
    os.read(ready, 1)
    os.kill(child, signal.SIGTERM)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    os._exit(0)
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(3600)
"""


@pytest.mark.parametrize(
    ("mode", "code", "output"),
    [("default", -signal.SIGTERM, ""), ("handler", 3, "handler called\n")],
)
def test_sigterm_publishes_and_passes_on(tmp_path: Path, mode: str, code: int, output: str) -> None:
    command = [sys.executable, "-c", TERMINATED, mode, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert (done.returncode, done.stdout) == (code, output), done.stderr
    assert read(tmp_path)["step"].tolist() == [0]
    assert not manifest(tmp_path)["final"]


def test_sigterm_in_a_forked_child_is_not_held_up(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TERMINATED, "fork", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert done.stdout == f"{-signal.SIGTERM}\n", done.stderr


def test_the_handler_is_restored(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    rec = make_recorder(tmp_path)
    rec.start()
    assert signal.getsignal(signal.SIGTERM) is not before
    rec.close()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_handler_set_later_is_left_alone(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    rec = make_recorder(tmp_path)
    rec.start()
    ours = signal.getsignal(signal.SIGTERM)
    calls = []
    try:
        signal.signal(signal.SIGTERM, lambda number, frame: calls.append(number))
        later = signal.getsignal(signal.SIGTERM)
        rec.close()
        assert signal.getsignal(signal.SIGTERM) is later
        assert ours is not later
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_is_left_running_is_published_at_exit(tmp_path: Path) -> None:
    code = TERMINATED.replace("os.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(3600)\n", "")
    subprocess.run(
        [sys.executable, "-c", code, "default", str(tmp_path)], check=True, timeout=LIMIT
    )
    assert read(tmp_path)["step"].tolist() == [0]
    assert not manifest(tmp_path)["final"]
