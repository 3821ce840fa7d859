"""Mean losses over the steps of a run, of types, of groups and of all positions, with replicates.

Array suffixes: B replicates; T types of the bootstrap; S steps.
"""

from __future__ import annotations

import numpy as np

from rocktok._types import Array
from rocktok.analyses.stagnation.result import CorpusStep, GroupStep
from rocktok.stats.bootstrap import PromptBootstrap
from rocktok.stats.contrasts import ratio
from rocktok.stats.intervals import Estimate, ends, mean_of_means

#: What the bootstrap of a step must sum.
QUANTITIES = ("", "loss")

#: Steps above 0 at which a type must stand for a slope.
MIN_SLOPE = 3


class LossCurves:
    """Fed step by step, ascending; keeps the replicates of the pre and the post step alone.

    `groups`: name → token ids. `pre`: the step from which changes are measured; post is the last.
    `loss_ST`: mean losses, NaN where a type is absent. `slope`: of the log loss on the log of the
    step, (T,).
    """

    def __init__(self, groups: dict[str, tuple[int, ...]], pre: int) -> None:
        self.groups, self._pre_step = groups, pre
        self.steps: list[int] = []
        self.frequency_ST: list[Array] = []
        self.loss_ST: list[Array] = []
        self.ends_ST: list[tuple[Array, Array]] = []
        self.group_rows: list[GroupStep] = []
        self.corpus_rows: list[CorpusStep] = []
        self._pre: Step | None = None
        self._post: Step | None = None
        self._slope: Slope | None = None
        self._slope_prompts_T: Array | None = None

    def add(self, step: int, bootstrap: PromptBootstrap) -> None:
        """One step's sums, of the same types and weights as the steps before."""
        means = Step(bootstrap)
        self.steps.append(step)
        self.frequency_ST.append(means.count_T.astype(np.int64))
        self.loss_ST.append(means.mean_T)
        self.ends_ST.append(means.mean.interval())
        self.corpus_rows.append(means.corpus_row(step))
        for name, ids in self.groups.items():
            self.group_rows.append(means.group_row(step, name, ids))
        if step == self._pre_step:
            self._pre = means
        self._post = means
        if self._slope is None:
            self._slope = Slope(means.mean.effect.shape)
            self._slope_prompts_T = np.full(len(means.types), np.inf)
        assert self._slope_prompts_T is not None
        used_T = self._slope.add(step, means.mean_T, means.mean.effect)
        least_T = np.minimum(self._slope_prompts_T, means.mean.prompts)
        self._slope_prompts_T = np.where(used_T, least_T, self._slope_prompts_T)

    @property
    def slope(self) -> Estimate:
        """Slopes of the types; as many prompts behind each as at the step with the fewest."""
        assert self._slope is not None and self._slope_prompts_T is not None
        return Estimate(self._slope.result(), self._slope.effect(), self._slope_prompts_T)

    @property
    def ends(self) -> tuple[Step, Step]:
        """Pre and post step."""
        assert self._pre is not None and self._post is not None
        return self._pre, self._post


class Step:
    """Means at one step: of the types (T,), of all positions, and of groups."""

    def __init__(self, bootstrap: PromptBootstrap) -> None:
        self.types = bootstrap.types
        self._count, self._loss = bootstrap.each(""), bootstrap.each("loss")
        self._largest = float(bootstrap.largest_M[QUANTITIES.index("loss")])
        self.count_T = self._count.value
        self.mean = self._loss / self._count
        self.mean_T = self.mean.value
        self.positions = int(bootstrap.of("").value)
        self.corpus = bootstrap.of("loss") / bootstrap.of("")

    def places(self, ids: tuple[int, ...] | Array) -> Array:
        """Of token ids among the types."""
        return np.flatnonzero(np.isin(self.types, np.asarray(ids, dtype=np.int64)))

    @property
    def mean_BT(self) -> Array:
        """Means of the types in each replicate; NaN where it does not hold them."""
        drawn_BT = (self._loss.value + self._loss.effect, self._count.value + self._count.effect)
        return ratio(*drawn_BT)

    def group(self, at: Array) -> Estimate:
        """Mean over types that are seen (places) of their mean losses: each counts the same."""
        return mean_of_means(self._count[at], self._loss[at], self._largest)

    def occurrences(self, at: Array) -> Estimate:
        """Of some types (places) together."""
        count = self._count[at]
        return Estimate.total(count.value.sum(), count.effect.sum(axis=1), 1.0)

    def group_row(self, step: int, group: str, ids: tuple[int, ...]) -> GroupStep:
        """Mean over the types that are seen at this step, with a 95% interval."""
        at = self.places(ids)
        at = at[np.isfinite(self.mean_T[at])]
        mean, low, high = None, None, None
        if len(at):
            estimate = self.group(at)
            mean, (low, high) = float(estimate.value), ends(estimate.interval())
        return {
            "step": step,
            "group": group,
            "types_seen": len(at),
            "frequency": int(self.count_T[at].sum()),
            "loss": mean,
            "loss_low": low,
            "loss_high": high,
        }

    def corpus_row(self, step: int) -> CorpusStep:
        """Mean of all positions, with a 95% interval."""
        low, high = ends(self.corpus.interval())
        return {
            "step": step,
            "positions": self.positions,
            "loss": float(self.corpus.value),
            "loss_low": low,
            "loss_high": high,
        }


class Slope:
    """Least squares of log mean loss on log step, over steps above 0, added up step by step.

    `shape`: of the effects on the means, (B, T); (0, T): without.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._steps_T = np.zeros((3, shape[1]))
        self._line_T = np.zeros((2, shape[1]))
        self._line_BT = np.zeros((2, *shape))

    def add(self, step: int, mean_T: Array, effect_BT: Array | None = None) -> Array:
        """Another step; types of which it is used: it is not where they have no loss above 0."""
        if step <= 0:
            return np.zeros(len(mean_T), dtype=bool)
        x = float(np.log(step))
        used_T: Array = np.isfinite(mean_T) & (mean_T > 0)
        one_T = used_T.astype(np.float64)
        y_T = np.log(np.where(used_T, mean_T, 1.0))
        self._steps_T += np.stack([one_T, x * one_T, x * x * one_T])
        self._line_T += np.stack([y_T, x * y_T])
        if effect_BT is not None:
            y_BT = np.where(used_T, effect_BT / np.where(used_T, mean_T, 1.0), 0.0)
            self._line_BT[0] += y_BT
            self._line_BT[1] += x * y_BT
        return used_T

    def result(self) -> Array:
        """Slopes (T,), NaN with fewer than `MIN_SLOPE` steps."""
        return self._fit(self._line_T)

    def effect(self) -> Array:
        """What the slopes gain to first order under the weights of each replicate, (B, T)."""
        return self._fit(self._line_BT)

    def _fit(self, line: Array) -> Array:
        n_T, x_T, xx_T = self._steps_T
        y, xy = line
        over_T = np.where(n_T >= MIN_SLOPE, n_T * xx_T - x_T * x_T, 0.0)
        slope: Array = np.full(y.shape, np.nan)
        fits = np.broadcast_to(over_T > 1e-12, y.shape)
        np.divide(n_T * xy - x_T * y, over_T, out=slope, where=fits)
        return slope
