"""`rocktok stagnation` against the passes it makes: whole commands, paired.

Make a log with `python tests/benchmarks/large_logs.py LOG --rows 5000000 --shards 4 --table fixed
--steps $(seq 1 20)`, then run `python tests/benchmarks/stagnation.py LOG`. The ratio divides the
command's time by that of `detect --context off` on one step, times the number of passes.
"""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
import time

REPEATS = 3


def timed(*arguments: str) -> tuple[float, str]:
    """Wall seconds and stdout of one command."""
    command = [sys.executable, "-m", "rocktok", *arguments, "-q"]
    began = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return time.perf_counter() - began, done.stdout


def main() -> None:
    """Print the figures."""
    log = sys.argv[1]
    timed("detect", log, "--context", "off")
    ratios: dict[str, list[float]] = {"": [], "--all": []}
    ours: dict[str, list[float]] = {"": [], "--all": []}
    theirs = []
    for _ in range(REPEATS):
        one, _ = timed("detect", log, "--context", "off")
        theirs.append(one)
        for option in ratios:
            whole, table = timed("stagnation", log, *option.split())
            passes = int(table.splitlines()[0].rsplit("; ", 1)[1].split()[0])
            ratios[option].append(whole / (one * passes))
            ours[option].append(whole)
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}")
    print(f"detect --context off: {statistics.median(theirs):.2f} s")
    for option, found in ratios.items():
        name = f"stagnation {option}".strip()
        print(f"{name}: {statistics.median(ours[option]):.2f} s, {passes} passes")
        print(f"ratio: {statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})")


if __name__ == "__main__":
    main()
