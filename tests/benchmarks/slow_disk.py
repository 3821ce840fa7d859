"""A training step that records, on a slow disk and on a fast one: seconds per step.

`python tests/benchmarks/slow_disk.py [--rounds 7] [--steps 60] [--delay 0.5]` runs a loop whose
step multiplies matrices, which leaves the interpreter's lock free as kernels of a model do, and
records 8,192 rows, with a flush at every fifth step, as a trainer with many checkpoints would ask
for. On the slow disk each fsync takes `--delay` seconds more, so that a flush takes longer than the
steps between two. Runs on both disks take turns. Printed is what the slow disk adds to a step: to
whole steps (the fastest of each over the rounds, for other work on the machine only makes them
slower), and to the recorder's calls alone.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
import warnings
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np

from rocktok.hooks import Recorder

ROWS = 8192


def slow(delay: float) -> object:
    """fsync that takes longer by so many seconds, on every thread."""
    original = os.fsync

    def fsync(descriptor: int) -> None:
        time.sleep(delay)
        original(descriptor)

    return mock.patch("os.fsync", fsync)


def steps(count: int, delay: float) -> tuple[np.ndarray, str]:
    """(steps, 2): seconds of each step, and of the recorder's calls in it; what was dropped."""
    work = np.random.default_rng(0).random((900, 900))
    batch = {
        "position": np.arange(ROWS),
        "token_id": np.arange(ROWS) % 1000,
        "loss": np.random.default_rng(1).random(ROWS, dtype=np.float32),
    }
    seconds = []
    with tempfile.TemporaryDirectory() as folder, slow(delay):
        recorder = Recorder(
            Path(folder) / "log", every=1, columns=[], fixed_sequences=0, queue_steps=count + 1,
            quiet=True,
        )  # fmt: skip
        recorder.start()
        for step in range(count):
            began = time.perf_counter()
            work @ work
            worked = time.perf_counter()
            (sequence,) = recorder.new_sequence_ids(1).tolist()
            recorder.record(step, {"sequence_id": np.full(ROWS, sequence), **batch})
            recorder.finish_step(step)
            if step % 5 == 4:
                recorder.flush()
            ended = time.perf_counter()
            seconds.append((ended - began, ended - worked))
        background = recorder._background
        recorder.close()
        assert background is not None and background.is_saved
        lost = sum(item.rows for item in background.manifest.dropped)
    return np.array(seconds), f"{lost} of {ROWS * count} rows dropped"


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--delay", type=float, default=0.5)
    asked = parser.parse_args()
    warnings.simplefilter("error")
    print(f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}, fsync + {asked.delay} s")
    steps(5, 0.0)
    fast, late, lost = [], [], ""
    for _ in range(asked.rounds):
        fast.append(steps(asked.steps, 0.0)[0])
        seconds, lost = steps(asked.steps, asked.delay)
        late.append(seconds)
    # (rounds, steps, kinds of time)
    fast_RSK, late_RSK = np.stack(fast), np.stack(late)
    least_SK, least_late_SK = fast_RSK.min(axis=0), late_RSK.min(axis=0)
    step = np.median(least_SK[:, 0])
    whole, calls = np.median(least_late_SK - least_SK, axis=0) / step
    median = np.median(late_RSK[..., 1] - fast_RSK[..., 1]) / step
    print(f"step {step * 1000:.1f} ms; {lost}")
    print(
        f"the slow disk adds to a step {whole:+.2%}, to the recorder's calls alone {calls:+.3%} "
        f"(fastest), {median:+.3%} (median)"
    )


if __name__ == "__main__":
    main()
