"""Two Dask workers, processes of one thread each, against two threads: the same passes in turns.

`python tests/benchmarks/cluster.py LOG [--repeats 5]` sums five numbers by token type (the five
sums) over a log's rollouts at step 0; LOG as `five_sums.py` or `large_logs.py` make it.
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


def seconds(engine: Engine, path: Path) -> tuple[float, bytes]:
    """Time from opening the log to the sums, and the sums."""
    began = time.perf_counter()
    log = rocktok.open(path)
    nobody = Prompts(np.zeros(0, np.int64), np.zeros(0, np.uint64), known=False)
    sums = TypeSums(("loss", "grad_norm"), compiled=True)
    engine.run(Source(log, "rollout", None, 0, nobody), sums)
    return time.perf_counter() - began, sums.sum_V["loss"].tobytes()


def main() -> None:
    """Print the figures."""
    from distributed import Client, LocalCluster

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
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
        assert seconds(threads, asked.log)[1] == seconds(dask, asked.log)[1]
        pairs = [
            (seconds(dask, asked.log)[0], seconds(threads, asked.log)[0])
            for _ in range(asked.repeats)
        ]
    ratios = sorted(ours / theirs for ours, theirs in pairs)
    print(
        f"| {asked.log.name} | {statistics.median(a for a, _ in pairs):.2f} | "
        f"{statistics.median(b for _, b in pairs):.2f} | "
        f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) |"
    )


if __name__ == "__main__":
    main()
