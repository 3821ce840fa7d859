"""What compares rocks with other types, on a large log: this checkout against another.

    python tests/benchmarks/groups_large.py LOG OTHER [--rounds 2] [--only detect,attribute]

Makes a log of two steps of `--rows` rows where there is none. OTHER is a checkout, such as the
commit before. Whole commands in turn, processor time of the process and its children, medians; the
first round is not counted, as loops are compiled in it. Then by how much each command exceeds
`detect`, and whether both checkouts gave the same numbers (how many passes they took may differ).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
COMMANDS = ("detect", "attribute", "controls", "stagnation", "stability")


def measure(checkout: Path, command: str, log: Path) -> tuple[float, float, dict[str, Any]]:
    """Processor time in seconds, peak memory in MB, and the result of one command."""
    process = subprocess.Popen(
        [sys.executable, "-m", "rocktok", command, str(log), "--format", "json", "-q"],
        stdout=subprocess.PIPE,
        # Elsewhere: Python would look for the package in the current directory first.
        cwd=log.parent,
        env={**os.environ, "PYTHONPATH": str(checkout)},
    )
    assert process.stdout is not None
    written = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{checkout}: rocktok {command} failed")
    result = json.loads(written)
    result["log"].pop("passes", None)
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, result


def make(log: Path, rows: int) -> None:
    """The log, unless it is there."""
    if not log.exists():
        maker = Path(__file__).with_name("large_logs.py")
        options = ["--rows", str(rows), "--shards", "4", "--table", "fixed", "--steps", "0", "100"]
        subprocess.run([sys.executable, maker, log, *options], check=True)


def main() -> None:
    """Print one line per command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("log", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", default=",".join(COMMANDS))
    given = parser.parse_args()
    log, checkouts = given.log.resolve(), (given.other.resolve(), ROOT)
    make(log, given.rows)
    print("command: seconds of processor time before, now, ratio; above detect; peak MB; numbers")
    of_detect: tuple[float, float] | None = None
    for command in given.only.split(","):
        times: tuple[list[float], list[float]] = [], []
        peaks, results = [0.0, 0.0], [{}, {}]
        for number in range(given.rounds + 1):
            for side, checkout in enumerate(checkouts):
                seconds, peak, results[side] = measure(checkout, command, log)
                peaks[side] = max(peaks[side], peak)
                if number:
                    times[side].append(seconds)
        before, now = map(statistics.median, times)
        if command == "detect":
            of_detect = before, now
        above = ""
        if of_detect is not None:
            above = f"{before - of_detect[0]:+.1f}, {now - of_detect[1]:+.1f}; "
        same = "the same" if results[0] == results[1] else "differ"
        print(
            f"{command}: {before:.1f}, {now:.1f}, {now / before:.2f}; {above}"
            f"{peaks[0]:.0f}, {peaks[1]:.0f}; {same}",
            flush=True,
        )


if __name__ == "__main__":
    main()
