"""`rocktok report` against the commands whose passes it makes: whole processes, in turn.

Make a log with `python tests/benchmarks/large_logs.py LOG --rows 10000000 --shards 4 --table fixed
--steps 0 100`, then run `python tests/benchmarks/report.py LOG`. The ratio divides the
report's time by the sum of those of `detect --lifts`, `attribute` (where gradient norms were
recorded), `stagnation` and `stability --context off`, all of which it holds.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import rocktok

REPEATS = 3


def timed(*arguments: str) -> tuple[float, float]:
    """Wall seconds, and the peak memory (MB) of the process, without those that it starts."""
    began = time.perf_counter()
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "rocktok", *arguments, "-q"],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )
    _, status, usage = os.wait4(pid, 0)
    if status:
        sys.exit(f"rocktok {' '.join(arguments)} ended with {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def main() -> None:
    """Print the figures."""
    log = sys.argv[1]
    commands = [
        ("detect", log, "--lifts"),
        ("stagnation", log),
        ("stability", log, "--context", "off"),
    ]
    if "grad_norm" in rocktok.open(log).columns("fixed"):
        commands.insert(1, ("attribute", log))
    ratios, ours, parts = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(REPEATS):
            out = str(Path(folder, "report"))
            whole, memory = timed("report", log, "-o", out, "--force")
            each = [timed(*command) for command in commands]
            ours.append(whole)
            parts.append([seconds for seconds, _ in each])
            ratios.append(whole / sum(parts[-1]))
        passes = json.loads(Path(out, "report.json").read_text())["log"]["passes"]
        size = Path(out, "report.html").stat().st_size
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}")
    names = ", ".join(f"{name} {count}" for name, count in passes.items())
    print(f"report: {statistics.median(ours):.2f} s, {memory:.0f} MB; passes: {names}")
    for at, command in enumerate(commands):
        seconds = statistics.median(row[at] for row in parts)
        print(f"  {command[0]}: {seconds:.2f} s, {each[at][1]:.0f} MB")
    print(f"ratio: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"page: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
