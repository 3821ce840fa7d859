"""`rocktok detect` on the sample: whole processes, against reading the same columns alone.

Run it as `python tests/benchmarks/detect.py [LOG]`. The first run has no compiled bytecode (as on
a machine that has just installed rocktok without compiling it); the ratio divides the command's
time by that of a process that only imports NumPy and pyarrow and reads the columns.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SAMPLE = Path(__file__).parents[2] / "sample_data" / "opd"

READ = """
import sys, numpy, pyarrow.parquet as pq, pathlib
for path in pathlib.Path(sys.argv[1], "fixed").rglob("*.parquet"):
    pq.ParquetFile(path, page_checksum_verification=True).read(
        columns=["step", "sequence_id", "position", "token_id", "loss"])
"""


def seconds(command: list[str], environment: dict[str, str] | None = None) -> float:
    """Wall time of one process."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - began


def main() -> None:
    """Print the figures."""
    log = sys.argv[1] if len(sys.argv) > 1 else str(SAMPLE)
    detect = [sys.executable, "-m", "rocktok", "detect", log, "-q"]
    read = [sys.executable, "-c", READ, log]
    with tempfile.TemporaryDirectory() as empty:
        first = seconds(detect, {**os.environ, "PYTHONPYCACHEPREFIX": empty})
    seconds(detect)
    seconds(read)
    pairs = [(seconds(detect), seconds(read)) for _ in range(7)]
    ratios = [ours / theirs for ours, theirs in pairs]
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}")
    print(f"first run, no bytecode: {first:.2f} s")
    print(f"later runs: median {statistics.median(ours for ours, _ in pairs):.2f} s")
    print(f"reading alone: median {statistics.median(theirs for _, theirs in pairs):.2f} s")
    print(f"ratio: median {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
