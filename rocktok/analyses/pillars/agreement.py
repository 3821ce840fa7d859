"""Whether benchmarks agree on the arms, and whether other numbers predict the effects."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from rocktok._types import Array
from rocktok.analyses.pillars.result import AgreementRow, ArmRow, PredictorRow
from rocktok.stats.fdr import benjamini_hochberg
from rocktok.stats.ranks import spearman

#: Arms that a correlation needs for an interval.
MIN_ARMS = 10


def agreement_rows(
    benchmarks: Sequence[str], rows: Sequence[ArmRow], level: float
) -> list[AgreementRow]:
    """Each pair of benchmarks, on the arms that both have."""
    by_name: dict[str, dict[tuple[str, int], float]] = {name: {} for name in benchmarks}
    for row in rows:
        by_name[row["benchmark"]][row["mode"], row["token_id"]] = row["delta"]
    made = []
    for at, first in enumerate(benchmarks):
        for second in benchmarks[at + 1 :]:
            common = [key for key in by_name[first] if key in by_name[second]]
            deltas = [np.array([by_name[n][key] for key in common]) for n in (first, second)]
            made.append(_agreement(first, second, deltas[0], deltas[1], level))
    return made


def _agreement(
    first: str, second: str, first_A: Array, second_A: Array, level: float
) -> AgreementRow:
    from scipy.stats import fisher_exact

    rho, low, high = correlation(first_A, second_A, level)
    signed_A = (first_A != 0) & (second_A != 0)
    signed = int(signed_A.sum())
    same = chance = p_sign = None
    if signed:
        down_A, down2_A = first_A[signed_A] < 0, second_A[signed_A] < 0
        same = float((down_A == down2_A).mean())
        one, two = float(down_A.mean()), float(down2_A.mean())
        chance = one * two + (1 - one) * (1 - two)
        table = [[int((down_A & down2_A).sum()), int((down_A & ~down2_A).sum())],
                 [int((~down_A & down2_A).sum()), int((~down_A & ~down2_A).sum())]]  # fmt: skip
        p_sign = float(fisher_exact(table)[1])
    return {
        "first": first,
        "second": second,
        "arms": len(first_A),
        "spearman": rho,
        "spearman_low": low,
        "spearman_high": high,
        "signed": signed,
        "same_sign": same,
        "same_sign_chance": chance,
        "p_sign": p_sign,
    }


def correlation(
    first_A: Array, second_A: Array, level: float
) -> tuple[float | None, float | None, float | None]:
    """Spearman's ρ and its interval over arms.

    The interval is Fisher's with the variance (1 + ρ²/2)/(n − 3) of Bonett and Wright (2000); none
    below `MIN_ARMS`.
    """
    from scipy.special import ndtri
    from scipy.stats import rankdata

    if len(first_A) < 3:
        return None, None, None
    rho = spearman(rankdata(first_A), rankdata(second_A))
    if rho is None or len(first_A) < MIN_ARMS:
        return rho, None, None
    error = math.sqrt((1 + rho**2 / 2) / (len(first_A) - 3))
    # A perfect correlation has an infinite transform.
    center, reach = math.atanh(max(-0.999999, min(0.999999, rho))), float(ndtri(1 - level / 2))
    return rho, math.tanh(center - reach * error), math.tanh(center + reach * error)


def predictor_rows(
    rows: Sequence[ArmRow], predictors: Mapping[str, Mapping[int, float]], level: float
) -> list[PredictorRow]:
    """Correlation of the deltas of rocks with each predictor, by benchmark and mode.

    Args:
        rows: the arms.
        predictors: name → token id → value.
        level: 1 − level is that of the intervals.
    """
    made: list[PredictorRow] = []
    keys = dict.fromkeys((r["benchmark"], r["mode"]) for r in rows if r["group"] == "rock")
    for benchmark, mode in keys:
        own = [
            r for r in rows if (r["benchmark"], r["mode"], r["group"]) == (benchmark, mode, "rock")
        ]
        family = [_predictor(benchmark, mode, name, own, values, level)
                  for name, values in predictors.items()]  # fmt: skip
        tested = [row for row in family if row["p_value"] is not None]
        q_values = benjamini_hochberg(np.array([row["p_value"] for row in tested], np.float64))
        for row, q in zip(tested, q_values.tolist(), strict=True):
            row["q_bh"] = q
        made += family
    return made


def _predictor(
    benchmark: str,
    mode: str,
    name: str,
    rows: Sequence[ArmRow],
    values: Mapping[int, float],
    level: float,
) -> PredictorRow:
    from scipy.stats import spearmanr

    known = [row for row in rows if row["token_id"] in values]
    delta_A = np.array([row["delta"] for row in known])
    value_A = np.array([values[row["token_id"]] for row in known])
    rho, low, high = correlation(delta_A, value_A, level)
    p = None
    if rho is not None and low is not None:
        p = float(spearmanr(delta_A, value_A).pvalue)
    return {
        "benchmark": benchmark,
        "mode": mode,
        "predictor": name,
        "arms": len(known),
        "spearman": rho,
        "spearman_low": low,
        "spearman_high": high,
        "p_value": p,
        "q_bh": None,
    }
