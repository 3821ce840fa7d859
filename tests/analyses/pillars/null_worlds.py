"""Outcomes whose effects are known, and how often each statistic says something of them.

`python -m tests.analyses.pillars.null_worlds` prints the tables of docs/statistics.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rocktok._types import Array
from rocktok.analyses.pillars.after import compensation_cohort_rows, compensation_rows
from rocktok.analyses.pillars.agreement import agreement_rows, predictor_rows
from rocktok.analyses.pillars.arms import Benchmark, arm_rows, global_rows, pair_rows
from rocktok.analyses.pillars.asymmetry import rank_sum_p
from rocktok.analyses.pillars.paired import flips_p, interval, resampled
from rocktok.analyses.pillars.places import cohort_rows
from rocktok.analyses.pillars.power import discordance_bound, minimum_effect
from rocktok.analyses.pillars.result import PillarsParams
from rocktok.outcomes import Outcomes
from rocktok.stats.bootstrap import holm
from tests.analyses.pillars.made import Made

MARGIN, LEVEL = 0.01, 0.05


@dataclass(frozen=True)
class World:
    """Problems with chances to be answered, and arms that answer them.

    Attributes:
        accuracy: mean over problems.
        discordance: share of problems on which two runs differ.
        problems, draws, arms, baselines: numbers of them.
        effect: of every arm, in accuracy.
        shared: share of the problems whose text an arm leaves as the baseline has it; 0: arms are
            runs of their own.
        same_problems: whether all arms leave the same ones.
    """

    accuracy: float
    discordance: float
    problems: int = 500
    draws: int = 1
    arms: int = 40
    baselines: int = 5
    effect: float = 0.0
    shared: float = 0.0
    same_problems: bool = False

    def answers(self, generator: np.random.Generator) -> tuple[Array, Array, float]:
        """Correct draws of baselines (R, P) and arms (A, P), and the arms' effect, exactly."""
        share = self.discordance / (2 * self.accuracy * (1 - self.accuracy))
        weight = share / (1 - share)
        chance_P = generator.beta(
            self.accuracy * weight, (1 - self.accuracy) * weight, self.problems
        )
        # An effect takes (or gives) a part of what there is.
        if self.effect < 0:
            lifted_P = chance_P * (1 + self.effect / self.accuracy)
        else:
            lifted_P = 1 - (1 - chance_P) * (1 - self.effect / (1 - self.accuracy))
        base_RP = generator.binomial(self.draws, chance_P, (self.baselines, self.problems))
        arm_AP = generator.binomial(self.draws, lifted_P, (self.arms, self.problems))
        if self.shared:
            shape = (1 if self.same_problems else self.arms, self.problems)
            kept_AP = generator.random(shape) < self.shared
            arm_AP = np.where(kept_AP, base_RP[0], arm_AP)
        effect = float((lifted_P - chance_P).mean() * (1 - self.shared))
        return base_RP, arm_AP, effect


@dataclass
class Rates:
    """What came of some worlds.

    `named`: worlds with a pillar or a stumbling block, and `arms_named`: the share of arms;
    `rejected`: arms with p ≤ 0.05, uncorrected; `asymmetric`: worlds whose sign test has p ≤ 0.05,
    with the first baseline alone and with all; `covered`: of the intervals; `equivalent`: of arms;
    `minimum_effect`: median of one test.
    """

    named: float
    arms_named: float
    rejected: float
    asymmetric: tuple[float, float]
    covered: float
    equivalent: float
    minimum_effect: float

    def __str__(self) -> str:
        one, several = self.asymmetric
        return (
            f"named {self.named:.3f}, arms named {self.arms_named:.3f}, rejected "
            f"{self.rejected:.3f}, asymmetric {one:.3f} {several:.3f}, covered {self.covered:.3f}, "
            f"equivalent {self.equivalent:.3f}, minimum effect {self.minimum_effect:.3f}"
        )


def rates(world: World, worlds: int, seed: int, *, intervals: int = 4) -> Rates:
    """Rates over worlds; of each world the intervals of some arms."""
    generator = np.random.default_rng(seed)
    whole = world.problems * world.draws
    named, one, several = [], [], []
    arms_named, rejected, covered, equivalent, minimum = [], [], [], [], []
    for number in range(worlds):
        base_RP, arm_AP, effect = world.answers(generator)
        difference_AP = arm_AP - base_RP[0]
        p_A = [flips_p(difference_P) for difference_P in difference_AP]
        far = np.abs(difference_AP.sum(axis=1)) / whole >= MARGIN
        told = [p <= LEVEL and bool(size) for p, size in zip(holm(p_A), far, strict=True)]
        named.append(any(told))
        arms_named += told
        rejected += [p <= LEVEL for p in p_A]
        total_R, total_A = base_RP.sum(axis=1), arm_AP.sum(axis=1)
        one.append(rank_sum_p(total_R[:1], total_A) <= LEVEL)
        several.append(rank_sum_p(total_R, total_A) <= LEVEL)
        for index, difference_P in enumerate(difference_AP[:intervals]):
            means_B = resampled(difference_P, 2_000, (number, index)) / world.draws
            low, high = interval(means_B, 1 - LEVEL)
            covered.append(low <= effect <= high)
            low, high = interval(means_B, 1 - 2 * LEVEL)
            equivalent.append(max(-low, high) <= MARGIN)
        bound = discordance_bound(difference_AP[0], world.draws)
        minimum.append(minimum_effect(bound, world.problems, 1, LEVEL) or np.nan)
    mean = [float(np.mean(values)) for values in (named, arms_named, rejected, one, several,
                                                  covered, equivalent)]  # fmt: skip
    return Rates(mean[0], mean[1], mean[2], (mean[3], mean[4]), mean[5], mean[6],
                 float(np.nanmedian(minimum)))  # fmt: skip


def noise(seed: int, *, problems: int = 100, arms: int = 12) -> Outcomes:
    """Outcomes without any effect, with controls, places, losses and edits; problems differ."""
    generator = np.random.default_rng(seed)
    chance = generator.beta(1.4, 0.6, (problems, 1))
    level = generator.gamma(2, 0.1, (problems, 1))
    length = generator.integers(20, 200, (problems, 1))
    made = Made().add("baseline", generator.random((problems, 1)) < chance, num_tokens=length)
    for token in range(2 * arms):
        made.add(
            f"ban:{token}",
            generator.random((problems, 1)) < chance,
            group="rock" if token < arms else "control",
            control_of=None if token < arms else token - arms,
            fired=generator.random((problems, 1)) < 0.8,
            num_tokens=length,
            first_position=(length * generator.random((problems, 1))).astype(int),
            loss_after=level * generator.gamma(1, 1, (problems, 1)),
            baseline_loss_after=level * generator.gamma(1, 1, (problems, 1)),
            edit_after=generator.random((problems, 1)),
        )
    return made.outcomes()


def group_rates(worlds: int, seed: int) -> dict[str, float]:
    """Share of rejections at 5%, or of intervals without the truth, of what groups say of noise."""
    params = PillarsParams(replicates=1_000)
    outside: dict[str, list[bool]] = {}
    for number in range(worlds):
        pair = [Benchmark.of(name, noise(seed + 2 * number + at), params)
                for at, name in enumerate("ab")]  # fmt: skip
        rows = [row for one in pair for row in arm_rows(one)]
        first = [row for row in rows if row["benchmark"] == "a"]
        generator = np.random.default_rng(number)
        values = {"x": dict(enumerate(generator.random(12).tolist()))}
        pairs, contrasts = pair_rows(pair[0], first)
        changes, minus = compensation_rows(pair[0], LEVEL)
        thirds = compensation_cohort_rows(pair[0], LEVEL)
        means = [(row["ci_low"], row["ci_high"]) for row in global_rows(pair[0], first)]
        found: dict[str, list[tuple[float | None, float | None]]] = {
            "mean change": list(means),
            "cohorts": [(r["ci_low"], r["ci_high"]) for r in cohort_rows(pair[0], LEVEL)],
            "loss change": [(r["loss_change_low"], r["loss_change_high"]) for r in changes],
            "loss change, rocks minus controls": [
                (r["loss_change_low"], r["loss_change_high"]) for r in minus
            ],
            "edits, rocks minus controls": [
                (r["edit_after_low"], r["edit_after_high"]) for r in minus
            ],
            "thirds, change of the loss": [
                (r["loss_change_low"], r["loss_change_high"]) for r in thirds
            ],
            "thirds, rocks minus controls, loss": [
                (r["loss_difference_low"], r["loss_difference_high"]) for r in thirds
            ],
            "thirds, rocks minus controls, edits": [
                (r["edit_difference_low"], r["edit_difference_high"]) for r in thirds
            ],
            "agreement": [
                (r["spearman_low"], r["spearman_high"]) for r in agreement_rows("ab", rows, LEVEL)
            ],
        }
        for name, ends in found.items():
            outside.setdefault(name, []).extend(
                low > 0 or high < 0 for low, high in ends if low is not None and high is not None
            )
        p_values = {
            "pairs": [row["p_value"] for row in pairs],
            "contrasts": [row["p_value"] for row in contrasts],
            "same sign": [row["p_sign"] or 1.0 for row in agreement_rows("ab", rows, LEVEL)],
            "predictors": [row["p_value"] or 1.0 for row in predictor_rows(first, values, LEVEL)],
        }
        for name, ps in p_values.items():
            outside.setdefault(name, []).extend(p <= LEVEL for p in ps)
    return {name: float(np.mean(values)) for name, values in outside.items()}


#: Worlds of the tables: without an effect, with texts of the baseline's, with an effect.
NULL = (
    World(0.5, 0.05), World(0.5, 0.3), World(0.7, 0.2), World(0.7, 0.2, 100),
    World(0.7, 0.2, 100, 4), World(0.9, 0.05), World(0.9, 0.15, 100),
)  # fmt: skip
SHARED = (
    World(0.7, 0.2, shared=0.5, same_problems=True), World(0.7, 0.2, shared=0.5),
    World(0.7, 0.2, shared=0.95, same_problems=True), World(0.7, 0.2, shared=0.95),
)  # fmt: skip
EFFECTS = (
    World(0.7, 0.2, effect=-0.05), World(0.7, 0.2, effect=-0.1), World(0.7, 0.2, effect=0.05),
    World(0.7, 0.2, 500, 4, effect=-0.05), World(0.7, 0.1, 2000, effect=-0.03),
)  # fmt: skip


def main() -> None:
    """Print the tables."""
    for worlds, table in ((200, NULL), (200, SHARED), (50, EFFECTS)):
        for world in table:
            print(world, rates(world, worlds, 7), flush=True)
    print(group_rates(100, 1_000))


if __name__ == "__main__":
    main()
