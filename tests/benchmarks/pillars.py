"""`pillars` on 200 arms of 1,000 problems: CPU seconds of the statistics, and of a whole run.

Run `python tests/benchmarks/pillars.py`. The statistics: exact sign-flip p, 10,000 resamples, two
intervals and the minimum effect of every arm, with one draw of each problem and with four. The
whole run adds reading the file, groups, controls and cohorts.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

import rocktok
from rocktok.analyses.pillars.arms import Benchmark, arm_rows
from rocktok.analyses.pillars.result import PillarsParams
from rocktok.outcomes import load_outcomes
from tests.analyses.pillars.made import NAMES, Made

ARMS, PROBLEMS = 200, 1_000


def outcomes(path: Path, draws: int) -> Path:
    """Half of the arms are rocks, half their controls; a tenth of the answers differ."""
    generator = np.random.default_rng(0)
    shape = ARMS + 1, PROBLEMS, draws
    base = generator.random(shape[1:]) < 0.7
    correct = np.where(generator.random(shape) < 0.1, ~base, base)
    arm, problem, draw = (index.ravel() for index in np.indices(shape))
    rock, control = arm * (arm <= ARMS // 2), arm * (arm > ARMS // 2)
    made = Made()
    made.columns = dict(zip(NAMES, (
        np.where(arm == 0, "baseline", np.char.add("ban:", arm.astype(str))).tolist(),
        np.where(arm == 0, -1, arm),
        np.where(arm == 0, "baseline", "ban").tolist(),
        np.select([arm == 0, rock > 0], ["baseline", "rock"], "control").tolist(),
        [int(one) - ARMS // 2 if one else None for one in control],
        np.char.add("p", problem.astype(str)).tolist(),
        np.zeros(arm.size, np.int64), draw,
        np.where(arm == 0, base.ravel()[problem * draws + draw], correct.ravel()),
        np.full(arm.size, 100), [None if one == 0 else 50 for one in arm], arm > 0,
        *[[None] * arm.size] * 3,
    ), strict=True))  # fmt: skip
    return made.save(path)


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        for draws in (1, 4):
            path = outcomes(Path(folder) / f"{draws}.parquet", draws)
            benchmark = Benchmark.of("toy", load_outcomes(path), PillarsParams())
            arm_rows(benchmark)  # imports
            began = time.process_time()
            arm_rows(benchmark)
            own = time.process_time() - began
            began = time.process_time()
            rocktok.pillars(path)
            whole = time.process_time() - began
            print(f"{draws} draws: statistics {own:.2f} s, whole run {whole:.2f} s")


if __name__ == "__main__":
    main()
