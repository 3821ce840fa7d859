"""`detect` with context on large logs, stage by stage, each size in a process of its own.

`python tests/benchmarks/detect_large.py DIRECTORY [--rows 5000000 10000000 20000000]` makes logs of
two steps of those many rows in the directory, or takes those there.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rocktok
from rocktok.engine.passes import Engine


def timed(times: dict[str, float]) -> Callable[..., Any]:
    """`Engine.run` that notes how long each pass took, by its first accumulator."""
    real = Engine.run

    def run(self: Engine, source: Any, *accumulators: Any) -> Any:
        began = time.perf_counter()
        done = real(self, source, *accumulators)
        name = " + ".join(dict.fromkeys(type(a).__name__ for a in accumulators))
        times[f"pass {self.passes}: {name}"] = time.perf_counter() - began
        return done

    return run


def one(path: Path) -> None:
    """Print stages and peak memory for one log."""
    times: dict[str, float] = {}
    Engine.run = timed(times)  # type: ignore[method-assign]
    began = time.perf_counter()
    result = rocktok.detect(rocktok.open(path))
    total = time.perf_counter() - began
    for name, seconds in times.items():
        print(f"| {path.name} | {name} | {seconds:.2f} |")
    judging = total - sum(times.values())
    print(f"| {path.name} | judging contexts, and all else between passes | {judging:.2f} |")
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    sampled = sum("sampled" in row["flags"] for row in result.rocks)
    found = f"{len(result.rocks)} rocks, {sampled} of them sampled"
    persistent = f"{result.totals['persistent']:,} persistent occurrences"
    print(f"| {path.name} | all: {found}, {persistent}, peak {peak:.0f} MB | {total:.2f} |")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    sizes = [5_000_000, 10_000_000, 20_000_000]
    parser.add_argument("--rows", type=int, nargs="+", default=sizes)
    parser.add_argument("--one", action="store_true")
    asked = parser.parse_args()
    if asked.one:
        return one(asked.directory)
    print(f"{len(os.sched_getaffinity(0))} cores")
    print("| log | stage | seconds |")
    for rows in asked.rows:
        path = asked.directory / f"two{rows // 1_000_000}"
        if not path.exists():
            maker = [sys.executable, Path(__file__).with_name("large_logs.py"), path]
            options = ["--rows", str(rows), "--shards", "4", "--table", "fixed"]
            subprocess.run([*maker, *options, "--steps", "0", "100"], check=True)
        subprocess.run([sys.executable, __file__, str(path), "--one"], check=True)
    return None


if __name__ == "__main__":
    main()
