"""Estimates with intervals: the one rule for every interval over prompts that a command gives.

A function of sums over prompts is linearised: what it gains, to first order, where a replicate
gives each prompt another weight. The spread and the skewness of these effects give the interval,
and Kish's effective number of prompts, (Σw)²/Σw² with w what a prompt adds to the sum, says whether
there is one: where few prompts carry the sum, tails that were not seen are as large as the rest.

The number is too large where a sum lacks the tail that it has by nature, so that the intervals that
it lets pass would be those that cover least. So Σw² is taken as if, with even chances, one more
occurrence stood in the sum, as large as the largest of all types. Sources: Kish 1965; Hall 1992
(skewness); the added occurrence and the choice of the wider end are ours, by simulation
(docs/statistics.md).

Array suffixes: B replicates; G random groups of prompts; T types; … any shape.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from rocktok._types import Array

#: Effective prompts below which no interval is given.
MIN_EFFECTIVE = 20

#: Says of a row that an interval is left out for this reason.
FEW_PROMPTS = "few_prompts_carry_it"

#: The same in the notes of a table.
WHY_NONE = f"no interval (–): fewer than {MIN_EFFECTIVE} effective prompts carry the number"


@dataclass(frozen=True)
class Estimate:
    """Numbers (…), and their effects (B, …) under the weights of each replicate.

    `prompts`: the effective number of prompts behind the sums that a number is made of, (…).
    """

    value: Array
    effect: Array
    prompts: Array

    @classmethod
    def total(cls, value: Array, effect: Array, largest: Array | float) -> Self:
        """A sum over prompts. `largest`: size of the largest part that one occurrence adds."""
        self = cls(value, effect, np.zeros(np.shape(value)))
        square = self._power(2) + np.square(largest) / 2
        prompts = np.zeros(np.shape(value))
        np.divide(np.square(value), square, out=prompts, where=square > 0)
        return replace(self, prompts=prompts)

    def __getitem__(self, at: Any) -> Self:
        """Some of the numbers."""
        return replace(
            self, value=self.value[at], effect=self.effect[:, at], prompts=self.prompts[at]
        )

    def __truediv__(self, under: Self) -> Self:
        """Quotient; NaN where the second is not above 0."""
        positive = under.value > 0
        value = np.full(np.broadcast(self.value, under.value).shape, np.nan)
        np.divide(self.value, under.value, out=value, where=positive)
        gained = self.effect - np.where(positive, value, 0.0) * under.effect
        effect = np.full(gained.shape, np.nan)
        np.divide(gained, under.value, out=effect, where=np.broadcast_to(positive, gained.shape))
        return replace(
            self, value=value, effect=effect, prompts=np.minimum(self.prompts, under.prompts)
        )

    def __sub__(self, other: Self) -> Self:
        """Difference."""
        return replace(
            self,
            value=self.value - other.value,
            effect=self.effect - other.effect,
            prompts=np.minimum(self.prompts, other.prompts),
        )

    def log(self) -> Self:
        """Natural logarithm; NaN of what is not above 0."""
        positive = self.value > 0
        value, effect = np.full(self.value.shape, np.nan), np.full(self.effect.shape, np.nan)
        np.log(self.value, out=value, where=positive)
        where = np.broadcast_to(positive, effect.shape)
        np.divide(self.effect, self.value, out=effect, where=where)
        return replace(self, value=value, effect=effect)

    @property
    def few_prompts(self) -> Array:
        """Which numbers have no interval because few prompts carry them: (…) bool."""
        few: Array = np.isfinite(self.value) & (self.prompts < MIN_EFFECTIVE)
        return few

    def interval(
        self, level: float = 0.95, *, positive: bool = True, most: float = np.inf
    ) -> tuple[Array, Array]:
        """Lower and upper ends, (…); NaN below `MIN_EFFECTIVE` prompts.

        The wider of Student's t and Hall's t for skewed sums at either end; of what is `positive`
        the upper end is also no less than that of t for the logarithm, and the lower not below 0.

        Args:
            level: share of intervals that shall cover.
            positive: whether the numbers are ratios or means of what is not negative.
            most: what they cannot exceed.
        """
        from scipy.special import stdtrit

        given = np.isfinite(self.value) & (self.prompts >= MIN_EFFECTIVE)
        prompts = np.where(given, self.prompts, MIN_EFFECTIVE)
        # Of sums of squares around a mean that is estimated, too.
        square = self._power(2)
        variance = square * prompts / (prompts - 1)
        error, skewness = np.sqrt(variance), np.zeros(np.shape(self.value))
        np.divide(self._power(3), square**1.5, out=skewness, where=variance > 0)
        reach = stdtrit(self._freedom(prompts), (1 + level) / 2)
        low = self.value - error * np.maximum(reach, _skewed(reach, skewness))
        high = self.value + error * np.maximum(reach, -_skewed(-reach, skewness))
        if positive:
            relative = np.zeros(np.shape(self.value))
            np.divide(error, self.value, out=relative, where=self.value > 0)
            low = np.where(self.value > 0, np.maximum(low, 0.0), low)
            high = np.maximum(high, self.value * np.exp(reach * relative))
        return np.where(given, low, np.nan), np.where(given, np.minimum(high, most), np.nan)

    def _power(self, power: int) -> Array:
        """Moments of the effects, which are those of weights from Poisson(1): Σ over prompts."""
        moment: Array = self._raised(power).mean(axis=0)
        return moment

    def _raised(self, power: int) -> Array:
        """Squares or cubes of the effects."""
        raised = self.effect * self.effect
        # NumPy's x**3 calls a function for each element: twenty times as long as a product.
        return raised if power == 2 else np.multiply(raised, self.effect, out=raised)

    def _freedom(self, prompts: Array) -> Array:
        """Degrees of freedom of the variance."""
        return prompts - 1


@dataclass(frozen=True)
class GroupedEstimate(Estimate):
    """With the parts (G, …) of random groups of prompts, less their mean, in place of effects."""

    def _power(self, power: int) -> Array:
        groups = len(self.effect)
        # What hashing prompts into groups leaves of the sums over prompts, on average.
        left = 1 - 1 / groups if power == 2 else (1 - 1 / groups) * (1 - 2 / groups)
        moment: Array = self._raised(power).sum(axis=0) / left
        return moment

    def _freedom(self, prompts: Array) -> Array:
        groups = len(self.effect)
        freedom: Array = prompts * groups / (prompts + groups) - 1
        return freedom


def effective_prompts(count_P: Array) -> float:
    """Behind occurrences, from their number by prompt: as `Estimate.total` has it, exactly."""
    return float(count_P.sum() ** 2 / ((count_P**2).sum() + 0.5))


def ends(interval: tuple[Array, Array]) -> tuple[float | None, float | None]:
    """Ends of a single number's interval; None where there is none."""
    low, high = (float(end) for end in interval)
    return (low, high) if np.isfinite(low) else (None, None)


def mean_of_means(count_T: Estimate, sum_T: Estimate, largest: float) -> Estimate:
    """Mean over types of their means, each type counting the same: a single number.

    Args:
        count_T: occurrences of each type, none of them 0.
        sum_T: sums over these.
        largest: size of the largest part of one occurrence.
    """
    means_T = sum_T / count_T
    weight_T = 1 / count_T.value / len(count_T.value)
    # One more occurrence would be of one of the types, of each with the same chance.
    parts = type(sum_T).total(
        (sum_T.value * weight_T).sum(),
        (sum_T.effect * weight_T).sum(axis=1),
        largest * np.sqrt((weight_T**2).mean()),
    )
    return replace(
        sum_T,
        value=means_T.value.mean(),
        effect=means_T.effect.mean(axis=1),
        prompts=parts.prompts,
    )


def _skewed(reach: Array, skewness: Array) -> Array:
    """What t must reach where the sum's skewness is this: Hall's transformation, inverted."""
    flat = np.abs(skewness) < 1e-6
    third = np.where(flat, 1.0, skewness) / 3
    bent = (np.cbrt(1 + 3 * third * (reach - third / 2)) - 1) / third
    t: Array = np.where(flat, reach, bent)
    return t
