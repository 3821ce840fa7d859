"""A training step that records, on a slow disk and on a fast one: seconds per step.

`python tests/benchmarks/slow_disk.py [--rounds 7] [--steps 60] [--delay 0.5]` runs a loop whose
step multiplies matrices, which leaves the interpreter's lock free as kernels of a model do, and
records 8,192 rows, with a flush at every fifth step, as a trainer with many checkpoints would ask
for. On the slow disk each fsync takes `--delay` seconds more, so that a flush takes longer than the
steps between two. Runs on both disks take turns. Printed is what the slow disk adds to a step: in
whole steps, and in the recorder's calls alone, which other load on the machine disturbs less.
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
    step, _ = np.median(fast_RSK, axis=(0, 1))
    added = np.median(late_RSK - fast_RSK, axis=(0, 1)) / step
    mean = (late_RSK[..., 1].mean() - fast_RSK[..., 1].mean()) / step
    print(f"median step {step * 1000:.1f} ms; {lost}")
    print(
        f"the slow disk adds: to the median step {added[0]:+.2%}; to the recorder's calls "
        f"{added[1]:+.3%} of a step (median), {mean:+.3%} (mean)"
    )


if __name__ == "__main__":
    main()
