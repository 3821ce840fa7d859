"""`rocktok info` and `rocktok compact` on a log of many small shards: whole commands.

`python tests/benchmarks/many_shards.py DIRECTORY [--shards 20000]` makes the log there: one
shard of 500 rows a step, as a trainer killed after every step would leave them.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from rocktok.log import LogWriter


class _Hasty(LogWriter):
    """Leaves the manifest to the end: rewriting it 20,000 times is not what is measured."""

    def _write_manifest(self) -> None:
        if self._manifest.final:
            super()._write_manifest()


def make(path: Path, shards: int) -> None:
    """Write the log."""
    rng = np.random.default_rng(0)
    ids = np.arange(2 * shards)
    with _Hasty(path, run={"vocab_size": 1_000, "loss": {"exactness": "exact"}}) as writer:
        prompts = np.char.add("p", (ids // 4).astype(str))
        writer.write(
            {"sequence_id": ids, "step": 0, "num_tokens": 250, "prompt_id": prompts},
            table="sequences",
        )
        for step in range(shards):
            batch = {
                "step": step,
                "sequence_id": np.repeat([2 * step, 2 * step + 1], 250),
                "position": np.tile(np.arange(250), 2),
                "token_id": rng.integers(0, 1_000, 500),
                "loss": rng.exponential(1, 500),
            }
            writer.write(batch)
            writer.finish_step(step)
            writer.flush()


def command(*arguments: str | Path) -> str:
    """Time of a rocktok command."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    call = [sys.executable, "-m", "rocktok", *map(str, arguments)]
    subprocess.run(call, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return f"{seconds:.2f} s, {used:.2f} s of processor time"


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--shards", type=int, default=20_000)
    asked = parser.parse_args()
    many, few = asked.directory / "many", asked.directory / "few"
    if not many.exists():
        make(many, asked.shards)
    shutil.rmtree(few, ignore_errors=True)
    print(f"{len(os.sched_getaffinity(0))} cores, {asked.shards} shards")
    for _ in range(3):
        print(f"info: {command('info', many)}")
    print(f"compact: {command('compact', many, '-o', few)}")
    print(f"info on the result: {command('info', few)}")


if __name__ == "__main__":
    main()
