"""How long a checkpoint waits for the recorder: `Recorder(sync_on_save=True)`.

`python tests/benchmarks/save_wait.py [--rounds 5] [--steps 16] [--rows 4096]` records some steps
of rollouts with the default columns, and times `sync`: encoding, writing and `fsync` of all their
rows, then a second `sync` with nothing left to do. Prints milliseconds by the clock and of
processor time.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np

from rocktok.hooks import Recorder


def spent(recorder: Recorder) -> np.ndarray:
    """Seconds of a `sync`: by the clock, of processor time."""
    began = np.array([time.perf_counter(), time.process_time()])
    recorder.sync()
    return np.array([time.perf_counter(), time.process_time()]) - began


def main() -> None:
    """Print the times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--rows", type=int, default=4096)
    args = parser.parse_args()
    draw = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        recorder = Recorder(
            Path(name) / "log", every=1, fixed_sequences=0, queue_steps=10**6, quiet=True
        )
        recorder.start(run={"vocab_size": 151_936})
        times, idle = [], []
        for number in range((args.rounds + 1) * args.steps):
            (sequence,) = recorder.new_sequence_ids(1).tolist()
            values = draw.random(args.rows, dtype=np.float32)
            columns = dict.fromkeys(("loss", *recorder.columns), values)
            token_ids = draw.integers(0, 151_936, args.rows)
            keys = {"sequence_id": np.full(args.rows, sequence), "token_id": token_ids}
            recorder.record(number, {**keys, "position": np.arange(args.rows), **columns})
            recorder.finish_step(number)
            if number % args.steps == args.steps - 1:
                times.append(spent(recorder))
                idle.append(spent(recorder))
        recorder.close()
    print(
        f"{args.steps} steps of {args.rows:,} rows, milliseconds by the clock, of processor time:"
    )
    for what, found in (("rows to write", times[1:]), ("nothing to do", idle[1:])):
        clock, processor = 1000 * np.median(found, axis=0)
        most = 1000 * np.max(found, axis=0)[0]
        print(f"{what}: {clock:.1f} (most {most:.1f}), {processor:.1f}")


if __name__ == "__main__":
    main()
