"""Two Dask workers, processes of one thread each, against two threads: the same passes in turns.

`python tests/benchmarks/cluster.py LOG [--repeats 5] [--table rollout]` sums five numbers by token
type (the five sums) over a log's rows at step 0; LOG as `five_sums.py` or `large_logs.py` make it.
Prints seconds by the clock, then processor time of the client, its scheduler and its workers.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

import rocktok
from rocktok.engine.passes import Engine
from rocktok.engine.source import Source
from rocktok.log.sequences import Prompts
from rocktok.stats.sums import TypeSums


def processor() -> float:
    """Seconds of processor time of this process and those that it has started, which still run."""
    import psutil

    this = psutil.Process()
    return sum(sum(one.cpu_times()[:2]) for one in (this, *this.children(recursive=True)))


def seconds(engine: Engine, path: Path, table: str) -> tuple[float, float, bytes]:
    """Time from opening the log to the sums, by the clock and of processors, and the sums."""
    began, used = time.perf_counter(), processor()
    log = rocktok.open(path)
    nobody = Prompts(np.zeros(0, np.int64), np.zeros(0, np.uint64), known=False)
    sums = TypeSums(("loss", "grad_norm"), compiled=True)
    engine.run(Source(log, table, None, 0, nobody), sums)
    spent = time.perf_counter() - began, processor() - used
    return *spent, sums.sum_V["loss"].tobytes()


def main() -> None:
    """Print the figures."""
    from distributed import Client, LocalCluster

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--table", default="rollout")
    asked = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=folder
        ) as cluster,
        Client(cluster) as client,
        Engine(2) as threads,
        Engine(dask=cluster.scheduler_address) as dask,
    ):
        client.wait_for_workers(2)
        call = asked.log, asked.table
        assert seconds(threads, *call)[2] == seconds(dask, *call)[2]
        pairs = [(seconds(dask, *call), seconds(threads, *call)) for _ in range(asked.repeats)]
    for number, kind in enumerate(("clock", "processor")):
        ratios = sorted(ours[number] / theirs[number] for ours, theirs in pairs)
        print(
            f"| {asked.log.name}, {kind} | {statistics.median(a[number] for a, _ in pairs):.2f} | "
            f"{statistics.median(b[number] for _, b in pairs):.2f} | "
            f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) |"
        )


if __name__ == "__main__":
    main()
