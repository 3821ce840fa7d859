"""The five sums of each token type: ours, DuckDB, Polars, and only decoding the columns.

`python tests/benchmarks/five_sums.py DIRECTORY [--rows 20000000 100000000]` makes logs of those
many rows in the directory (or takes those there), and times, in turns, within one process: count,
Σloss, Σloss², Σgrad_norm, Σgrad_norm² by token type, in float64, from opening the log to the sums.
Ours verifies checksums of column chunks (and once does not), DuckDB and Polars do not. Then whole
processes: time, and peak memory.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet as pq

import rocktok
from rocktok.engine.passes import Engine
from rocktok.engine.source import Source
from rocktok.log import shard
from rocktok.log.sequences import Prompts
from rocktok.stats.sums import TypeSums

CORES = len(os.sched_getaffinity(0))
COLUMNS = ["token_id", "loss", "grad_norm"]


def ours(path: Path) -> Any:
    """Rocktok, verifying."""
    log = rocktok.open(path)
    nobody = Prompts(np.zeros(0, np.int64), np.zeros(0, np.uint64), known=False)
    sums = TypeSums(("loss", "grad_norm"), compiled=True)
    with Engine(CORES) as engine:
        engine.run(Source(log, "rollout", None, 0, nobody), sums)
    return sums.count_V, sums.sum_V["loss"], sums.square_V["grad_norm"]


def unverified(path: Path) -> Any:
    """Rocktok, checksums of column chunks left alone."""
    real = shard.checksums
    shard.checksums = lambda crcs: lambda chunk, data: None
    try:
        return ours(path)
    finally:
        shard.checksums = real


def decoded(path: Path) -> None:
    """Only reading the three columns, checksums verified."""

    def read(name: Path) -> None:
        file = pq.ParquetFile(name, page_checksum_verification=True)
        for group in range(file.num_row_groups):
            file.read_row_group(group, columns=COLUMNS, use_threads=False)

    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(read, sorted(path.glob("rollout/**/*.parquet"))))


def duckdb(path: Path) -> Any:
    """SQL on the same files."""
    import duckdb

    con = duckdb.connect()
    con.execute(f"set threads = {CORES}")
    return con.execute(
        "select token_id, count(*) n, sum(loss::double) x, sum(loss::double * loss::double), "
        "sum(grad_norm::double), sum(grad_norm::double * grad_norm::double) yy "
        f"from read_parquet('{path}/rollout/**/*.parquet') group by token_id"
    ).fetchnumpy()


def polars(path: Path) -> Any:
    """A lazy group-by, streamed."""
    import polars as pl

    x, y = (pl.col(name).cast(pl.Float64) for name in COLUMNS[1:])
    frame = pl.scan_parquet(f"{path}/rollout/**/*.parquet").group_by("token_id")
    sums = [x.sum(), (x * x).sum().alias("xx"), y.sum(), (y * y).sum().alias("yy")]
    return frame.agg(pl.len(), *sums).collect(engine="streaming")


WAYS: dict[str, Callable[[Path], Any]] = {
    "rocktok": ours,
    "rocktok, not verifying": unverified,
    "DuckDB": duckdb,
    "Polars": polars,
    "decoding and verifying alone": decoded,
}


def check(path: Path) -> None:
    """The same answer as DuckDB."""
    count_V, x_V, yy_V = ours(path)
    other = duckdb(path)
    at = other["token_id"]
    assert np.array_equal(count_V[at], other["n"])
    assert count_V.sum() == other["n"].sum()
    np.testing.assert_allclose(x_V[at], other["x"], rtol=1e-9)
    np.testing.assert_allclose(yy_V[at], other["yy"], rtol=1e-9)


def in_turns(path: Path, repeats: int, names: list[str]) -> None:
    """Times of some ways, and ratios to ours of the same turn."""
    for name in names:
        WAYS[name](path)
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(repeats):
        for name in names:
            began = time.perf_counter()
            WAYS[name](path)
            times[name].append(time.perf_counter() - began)
    for name, taken in times.items():
        ratios = sorted(a / b for a, b in zip(times["rocktok"], taken, strict=True))
        print(
            f"| {path.name} | {name} | {statistics.median(taken):.2f} | "
            f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) |"
        )


def whole_process(path: Path, name: str) -> tuple[float, float]:
    """Seconds and peak megabytes of one way in a process of its own."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, str(path), "--one", name], check=True, capture_output=True
    )
    return time.perf_counter() - began, float(done.stdout)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000_000, 100_000_000])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ways", choices=WAYS, nargs="+", default=list(WAYS))
    parser.add_argument("--one", choices=WAYS)
    asked = parser.parse_args()
    if asked.one:
        WAYS[asked.one](asked.directory)
        # Not ru_maxrss: a child begins with what its parent had.
        status = Path("/proc/self/status").read_text()
        print(int(status.split("VmHWM:")[1].split()[0]) / 1024)
        return
    print(
        f"{CORES} cores, {platform.machine()}, Python {platform.python_version()}, "
        f"NumPy {np.__version__}, pyarrow {pyarrow.__version__}, {datetime.date.today()}"
    )
    print("| log | way | seconds | rocktok's time over it: median (least to most) |")
    paths = [asked.directory / f"{rows // 1_000_000}m" for rows in asked.rows]
    for rows, path in zip(asked.rows, paths, strict=True):
        if not path.exists():
            maker = [sys.executable, Path(__file__).with_name("large_logs.py"), path]
            subprocess.run([*maker, "--rows", str(rows)], check=True)
        check(path)
        in_turns(path, asked.repeats, asked.ways)
    print("| log | way, a process of its own | seconds | peak MB |")
    for path in paths:
        for name in set(asked.ways) & {"rocktok", "DuckDB", "Polars"}:
            runs = [whole_process(path, name) for _ in range(3)]
            seconds, memory = (statistics.median(column) for column in zip(*runs, strict=True))
            print(f"| {path.name} | {name} | {seconds:.2f} | {memory:.0f} |")


if __name__ == "__main__":
    main()
