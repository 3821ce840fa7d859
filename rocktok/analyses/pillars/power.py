"""The smallest effect that a comparison on so many problems could have told."""

from __future__ import annotations

import math

import numpy as np

from rocktok._types import Array

#: Chance that an effect of the minimum size is told.
POWER = 0.8

#: Level of the upper bound of the discordance.
BOUND = 0.95


def discordance_bound(difference_P: Array, draws: int) -> float:
    """Upper bound, 95%, of the mean square of the differences as shares of the draws.

    With one draw that is the share of problems on which two arms differ, and the bound Clopper and
    Pearson's; with more, squares between 0 and 1 stand in it as parts of a problem.
    """
    from scipy.stats import beta

    problems = len(difference_P)
    changed = float((np.square(difference_P, dtype=np.float64) / draws**2).sum())
    return 1.0 if changed >= problems else float(beta.ppf(BOUND, changed + 1, problems - changed))


def minimum_effect(discordance: float, problems: int, tests: int, level: float) -> float | None:
    """Smallest |Δ| that is rejected with a chance of 80%; None where none up to 1 would be.

    δ√n = z(1 − level/2m)·√π + z(0.8)·√(π − δ²), with π no less than δ, since no effect exceeds the
    share of problems that change.

    Args:
        discordance: π; `problems`: n; `tests`: m.
        level: of all tests together.
    """
    from scipy.optimize import brentq

    def least(share: float) -> float:
        return _effect(share, problems, tests, level)

    effect = least(discordance)
    if effect <= discordance:
        return effect
    if least(1.0) > 1.0:
        return None
    # least(π) − π falls through 0 between here and 1.
    return float(brentq(lambda share: least(share) - share, discordance, 1.0))


def _effect(share: float, problems: int, tests: int, level: float) -> float:
    a, b = (z * math.sqrt(1 / problems) for z in _normal(tests, level))
    a *= math.sqrt(share)
    under = a * a - (1 + b * b) * (a * a - b * b * share)
    # Where the test alone needs more than √π, no second term is left.
    return a if under < 0 else (a + math.sqrt(under)) / (1 + b * b)


def problems_needed(discordance: float, effect: float, tests: int, level: float) -> int:
    """Problems at which that effect is rejected with a chance of 80%."""
    of_test, of_power = _normal(tests, level)
    share = max(discordance, effect)
    root = of_test * math.sqrt(share) + of_power * math.sqrt(max(0.0, share - effect**2))
    return math.ceil((root / effect) ** 2)


def _normal(tests: int, level: float) -> tuple[float, float]:
    from scipy.special import ndtri

    return float(ndtri(1 - level / (2 * tests))), float(ndtri(POWER))
