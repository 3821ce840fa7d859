"""`stability`'s samples against one pass over the same rows, in one process, paired.

Make a log with `python tests/benchmarks/large_logs.py LOG --rows 5000000 --shards 4 --table fixed
--steps 1`, then run `python tests/benchmarks/stability.py LOG`. One pass: sums of all types and
distinct prompts, which is the command's first. The samples: 5 sizes of 40 repeats, and 80 halves;
then the same with the 200 bootstrap replicates of inclusion.
"""

from __future__ import annotations

import statistics
import sys
import time

import numpy as np

import rocktok
from rocktok.analyses.stability.overlap import SHARES
from rocktok.analyses.stability.subsamples import Subsamples, limits
from rocktok.engine.passes import Engine
from rocktok.engine.source import Source
from rocktok.log.sequences import load_prompts
from rocktok.stats.sums import DistinctValues, TypeSums

REPEATS = 5
CANDIDATES = 2_000


def main() -> None:
    """Print the figures."""
    log = rocktok.open(sys.argv[1])
    step = log.complete_steps("fixed")[-1]
    source = Source(log, "fixed", None, step, load_prompts(log))
    engine = Engine()
    rows: dict[str, list[float]] = {"samples": [], "samples and inclusion": []}
    for repeat in range(REPEATS + 1):
        sums, prompts = TypeSums(("loss",), compiled=source.large), DistinctValues("prompt")
        one = timed(engine, source, sums, prompts)
        types = np.argsort(-sums.sum_V["loss"])[:CANDIDATES]
        ids = prompts.result()
        sizes = [round(share * len(ids)) for share in SHARES]
        limit_RS = limits(0, 40, sizes, ids)
        ratios = {
            name: timed(engine, source, Subsamples(types, 0, limit_RS, drawn, compiled=True)) / one
            for name, drawn in zip(rows, (0, 200), strict=True)
        }
        if repeat:
            for name, ratio in ratios.items():
                rows[name].append(ratio)
    print(f"one pass: {one:.2f} s; {source.rows:,} rows, {len(ids):,} prompts")
    for name, ratios_ in rows.items():
        middle = statistics.median(ratios_)
        print(f"{name}: {middle:.2f} passes ({min(ratios_):.2f} to {max(ratios_):.2f})")


def timed(engine: Engine, source: Source, *accumulators: object) -> float:
    """Seconds of a pass."""
    began = time.perf_counter()
    engine.run(source, *accumulators)  # type: ignore[arg-type]
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
