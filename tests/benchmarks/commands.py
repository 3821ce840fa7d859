"""Whole commands on small logs: this checkout against another, in processor time.

    python tests/benchmarks/commands.py OTHER [--rounds 3] [--only detect,report] [LOG...]

OTHER is a checkout, such as the commit before. Rounds alternate between the two; the first of each
is not counted, as bytecode is compiled in it. Says as well whether both gave the same output.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOGS = (ROOT / "sample_data/opd", ROOT / "sample_data/smol")

#: Command → arguments after the log, in which FOLDER is an empty directory.
COMMANDS = {
    "info": ["--format", "json"],
    "detect": ["--format", "json"],
    "detect --all": ["--all", "--format", "json"],
    "detect --top-k 20": ["--top-k", "20", "--format", "json"],
    "detect --format csv": ["--format", "csv"],
    "check": ["--format", "json"],
    "lenses": ["--format", "json"],
    "stagnation": ["--format", "json"],
    "attribute": ["--format", "json"],
    "controls": ["--format", "json"],
    "stability": ["--format", "json"],
    "occurrences": ["-o", "FOLDER/occurrences.parquet"],
    "summary": ["--format", "json"],
    "report": ["-o", "FOLDER/report"],
}


def _adopt() -> None:
    """Processes that a command leaves behind become this one's, which counts their time, too.

    A report is drawn by forks of a process that ends after the command.
    """
    if sys.platform == "linux":
        set_child_subreaper = 36
        ctypes.CDLL(None).prctl(set_child_subreaper, 1, 0, 0, 0)


def _wait_for_all() -> None:
    with suppress(ChildProcessError):
        while True:
            os.wait()


def measure(checkout: Path, command: str, log: Path) -> tuple[float, dict[str, bytes]]:
    """Processor time of a command and its children; its output and the files it wrote."""
    with tempfile.TemporaryDirectory() as folder:
        rest = [part.replace("FOLDER", folder) for part in COMMANDS[command]]
        # Elsewhere: Python would look for the package in the current directory first.
        began = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-m", "rocktok", command.split()[0], str(log), *rest],
            capture_output=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(checkout)},
        )
        _wait_for_all()
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        written = {
            str(path.relative_to(folder)): path.read_bytes()
            for path in Path(folder).rglob("*")
            if path.is_file()
        }
        written["stdout"] = done.stdout.replace(folder.encode(), b"FOLDER")
    seconds = ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime
    return seconds, written


def main() -> None:
    """Print one line per log and command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path)
    parser.add_argument("logs", nargs="*", type=Path, default=list(LOGS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(COMMANDS))
    given = parser.parse_args()
    _adopt()
    print("log, command: seconds of processor time before, now (medians), ratio, output")
    for log in given.logs:
        for command in given.only.split(","):
            times: tuple[list[float], list[float]] = [], []
            outputs = [{}, {}]
            for number in range(given.rounds + 1):
                for side, checkout in enumerate((given.other, ROOT)):
                    seconds, outputs[side] = measure(checkout.resolve(), command, log.resolve())
                    if number:
                        times[side].append(seconds)
            before, now = map(statistics.median, times)
            unlike = sorted(
                name
                for name in outputs[0].keys() | outputs[1].keys()
                if outputs[0].get(name) != outputs[1].get(name)
            )
            same = f"differs: {', '.join(unlike[:4])}" if unlike else "the same"
            print(
                f"{log.name}, {command}: {before:.2f}, {now:.2f}, {now / before:.2f}, {same}",
                flush=True,
            )


if __name__ == "__main__":
    main()
