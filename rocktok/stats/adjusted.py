"""Do rocks differ from other types of like loss and frequency: the adjusted contrast.

The value of each type of a group, such as the change of its loss, is held against what a local
regression over the other types predicts at the type's own loss and frequency. Its variance is that
over prompts, types fixed, and that over types, prompts fixed: intervals from prompts alone say what
these types did, not what others of their kind would do. Losses that are adjusted for come from the
half of the prompts on which the value is not measured, or their noise would be in both. Ours.

Array suffixes: B replicates; W a 1 and the replicates; T types; R supported types of the group; A
other types; C covariates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self, TypedDict, TypeVar

import numpy as np

from rocktok._types import Array
from rocktok.hashing import hash_rows
from rocktok.stats.contrasts import ratio
from rocktok.stats.groups import TypeFacts
from rocktok.stats.local_regression import (
    AT_ONCE,
    COMPILED,
    PairWeights,
    features,
    intercepts,
    parts_of,
    weighted_sums,
)

#: Other types at most, a seeded draw: what bounds the memory of their replicates.
MOST_OTHERS = 1_000

#: A type is supported with this many other types within this distance of its log loss.
MIN_NEAR = 5
REACH = 0.5

#: Supported types that a comparison needs, and their least share of the measured ones.
MIN_SUPPORTED = 10
MIN_SUPPORT = 0.5

#: Replicates, of resampled prompts, that are worked out together; more where types are few.
_REPLICATES = 16

#: Types of the group that are compared at once where replicates are resamples of types.
_ROWS = 32

Result = TypeVar("Result")


@dataclass(frozen=True)
class TypeValues:
    """What is compared, and adjusted for; NaN where a type has none.

    value_T, value_BT: a logarithm, such as that of the last mean loss over the first.
    covariate_TC, covariate_BTC: logarithms of the mean loss, and of the count.
    """

    token_T: Array
    value_T: Array
    value_BT: Array
    covariate_TC: Array
    covariate_BTC: Array

    def measured_T(self) -> Array:
        """Types that have a value and both covariates."""
        measured_T: Array = np.isfinite(self.value_T) & np.isfinite(self.covariate_TC).all(axis=1)
        return measured_T


class AdjustedContrast(TypedDict):
    """Mean excess of a group's values over those of other types like its own.

    `difference` is of logarithms, with a 95% interval, over the `supported` of the `measured`
    types. `loss_first`, `loss_second`: mean over the types of the group, and over the others, of
    the mean loss that is adjusted for.
    """

    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    measured: int
    supported: int
    comparable: bool
    loss_first: float | None
    loss_second: float | None


#: Cutoff → token ids of a group, ascending; the first cutoff is the one that is shown.
TypesByCutoff = Mapping[float, Array]


def types_to_measure(facts: TypeFacts, group: TypesByCutoff, seed: int) -> Array:
    """Types of any cutoff that stand often enough on both halves, and a draw of other types."""
    token_T = facts.token_T[facts.common_T()]
    group_T = np.isin(token_T, np.concatenate(list(group.values())))
    other_A = token_T[~group_T]
    drawn_A = other_A[np.argsort(hash_rows(seed, other_A), kind="stable")[:MOST_OTHERS]]
    return np.union1d(token_T[group_T], drawn_A)


def log_mean(sum_TW: Array, count_TW: Array) -> Array:
    """Logarithm of a mean; NaN of one that is not above 0."""
    return _log(ratio(sum_TW, count_TW))


def loss_and_count(sums: Sequence[Array]) -> tuple[Array, Array]:
    """Of sums of counts and losses the logarithm of the mean loss, and the count."""
    count_TW, loss_TW = sums
    return log_mean(loss_TW, count_TW), count_TW


def type_values(token_T: Array, other_2TW: Array, count_TW: Array, value_TW: Array) -> TypeValues:
    """Values of types, and what they are adjusted for; of all arrays the plain sums' come first.

    The loss is that of other prompts: its noise may be in the value, too.

    Args:
        token_T: the types, ascending.
        other_2TW: `loss_and_count` of the half of the prompts that the group was chosen on; used
            up, as it may be large.
        count_TW: on the half that is measured.
        value_TW: on that half the logarithm of a ratio of two means, under the same weights.
    """
    other_2TW[1] += count_TW
    other_2TW[1] = _log(other_2TW[1])
    plain_2T = other_2TW[..., 0].copy()
    return TypeValues(
        token_T, value_TW[:, 0].copy(), value_TW[:, 1:].T, plain_2T.T, other_2TW[..., 1:].T
    )


def adjusted_contrast(
    values: TypeValues, group: Array, seed: int, threads: int = 1
) -> AdjustedContrast:
    """A group against all other measured types; `p_holm` is None until `verdicts`.

    Args:
        values: of types that stand often enough on both halves of the prompts.
        group: token ids, chosen on the half that is not measured.
        seed: of the resamples of types, as many as there are of prompts.
        threads: that compute replicates; the same bits with any number.
    """
    (row,) = adjusted_contrasts(values, [group], seed, threads)
    return row


def adjusted_contrasts(
    values: TypeValues, groups: Sequence[Array], seed: int, threads: int = 1
) -> list[AdjustedContrast]:
    """`adjusted_contrast` of several groups, such as one at several cutoffs.

    Most pairs of types are in several of them, and are weighted once for all.
    """
    sides = [_Sides.of(values, group) for group in groups]
    rows = [one.row(values) for one in sides]
    compared = [number for number, one in enumerate(sides) if len(one.supported_R)]
    over_prompts = _over_prompts(values, [sides[number] for number in compared], threads)
    for number, over_prompts_B in zip(compared, over_prompts, strict=True):
        one = sides[number]
        difference = float(one.excess(values).mean())
        over_types_B = _over_types(values, one, seed, threads)
        variance = _variance(over_prompts_B) + _variance(over_types_B)
        rows[number]["difference"] = difference
        if math.isfinite(variance) and variance > 0:
            error = math.sqrt(variance)
            rows[number]["low"] = difference - 1.96 * error
            rows[number]["high"] = difference + 1.96 * error
            rows[number]["p"] = math.erfc(abs(difference) / error / math.sqrt(2))
    return rows


@dataclass(frozen=True)
class _Sides:
    """Places of the measured types of a group, and of those of all other types.

    is_supported_R: of the group's types, whether enough others have a loss like theirs.
    """

    first_R: Array
    other_A: Array
    is_supported_R: Array

    @classmethod
    def of(cls, values: TypeValues, group: Array) -> Self:
        measured_T, group_T = values.measured_T(), np.isin(values.token_T, group)
        first_R = np.flatnonzero(measured_T & group_T)
        other_A = np.flatnonzero(measured_T & ~group_T)
        level_T = values.covariate_TC[:, 0]
        near_R = (np.abs(level_T[first_R, None] - level_T[other_A]) <= REACH).sum(axis=1)
        return cls(first_R, other_A, near_R >= MIN_NEAR)

    @property
    def supported_R(self) -> Array:
        """Places of the supported types."""
        supported_R: Array = self.first_R[self.is_supported_R]
        return supported_R

    def row(self, values: TypeValues) -> AdjustedContrast:
        """How many types there are to compare, without the comparison."""
        measured, supported = len(self.first_R), len(self.supported_R)
        level_T = values.covariate_TC[:, 0]
        return {
            "difference": None,
            "low": None,
            "high": None,
            "p": None,
            "p_holm": None,
            "measured": measured,
            "supported": supported,
            "comparable": supported >= max(MIN_SUPPORTED, MIN_SUPPORT * measured),
            "loss_first": _mean_loss(level_T[self.first_R]),
            "loss_second": _mean_loss(level_T[self.other_A]),
        }

    def excess(self, values: TypeValues) -> Array:
        """Value of each supported type less what the others predict for it: (R,)."""
        at, other_A = self.supported_R, self.other_A
        x_RC, x_AC = values.covariate_TC[at], values.covariate_TC[other_A]
        features_9A = features(x_AC, values.value_T[other_A])
        (sums_B9R,) = PairWeights(x_RC[None], x_AC[None]).sums(features_9A[None], [slice(None)])
        excess_R: Array = values.value_T[at] - intercepts(sums_B9R[0], x_RC)
        return excess_R


def _over_prompts(values: TypeValues, sides: Sequence[_Sides], threads: int) -> list[Array]:
    """For each of the sides the (B,) differences with resampled prompts."""
    if not sides:
        return []
    pairs = _PairsOfAll(sides)
    per_replicate = len(pairs.first_R) * len(pairs.other_A)
    compiled = len(values.value_BT) * per_replicate >= COMPILED

    def differences(part: slice) -> list[Array]:
        # Copies: replicates may be innermost in the memory.
        value_BT = np.ascontiguousarray(values.value_BT[part])
        covariate_BTC = np.ascontiguousarray(values.covariate_BTC[part])
        return pairs.differences(value_BT, covariate_BTC, compiled)

    step = max(_REPLICATES, AT_ONCE // per_replicate)
    made = list(_on_threads(differences, parts_of(len(values.value_BT), step), threads))
    return [np.concatenate(drawn) for drawn in zip(*made, strict=True)]


class _PairsOfAll:
    """The pairs of types of several sides, each of them weighted once.

    first_R, other_A: places of all supported types, and of all others; the latter in spans, each of
    types that are others on the same sides.
    """

    def __init__(self, sides: Sequence[_Sides]) -> None:
        self.sides = sides
        self.first_R = np.unique(np.concatenate([one.supported_R for one in sides]))
        other_A = np.unique(np.concatenate([one.other_A for one in sides]))
        is_other_SA = np.stack([np.isin(other_A, one.other_A) for one in sides])
        kind_A = (is_other_SA << np.arange(len(sides))[:, None]).sum(axis=0)
        order = np.argsort(kind_A, kind="stable")
        self.other_A: Array = other_A[order]
        kinds, starts = np.unique(kind_A[order], return_index=True)
        ends = [*starts[1:].tolist(), len(order)]
        self._spans = [slice(a, b) for a, b in zip(starts.tolist(), ends, strict=True)]
        self._of_side = [
            [number for number, kind in enumerate(kinds.tolist()) if kind >> side & 1]
            for side in range(len(sides))
        ]

    def differences(self, value_BT: Array, covariate_BTC: Array, compiled: bool) -> list[Array]:
        """For each of the sides the (B,) differences of some replicates."""
        defined_BT = np.isfinite(value_BT) & np.isfinite(covariate_BTC).all(axis=-1)
        defined_BA = defined_BT[:, self.other_A]
        # What is undefined adds nothing; its numbers must be finite all the same.
        y_BA = np.where(defined_BA, value_BT[:, self.other_A], 0.0)
        x_BAC = np.where(defined_BA[..., None], covariate_BTC[:, self.other_A], 0.0)
        x_BRC = covariate_BTC[:, self.first_R]
        sums_SB9R = weighted_sums(x_BRC, x_BAC, y_BA, defined_BA, self._spans, compiled=compiled)
        means = []
        for one, spans in zip(self.sides, self._of_side, strict=True):
            at = one.supported_R
            rows = np.searchsorted(self.first_R, at)
            sums_B9R = np.sum([sums_SB9R[span][..., rows] for span in spans], axis=0)
            excess_BR = value_BT[:, at] - intercepts(sums_B9R, x_BRC[:, rows])
            means.append(_mean_of_finite(np.where(defined_BT[:, at], excess_BR, np.nan)))
        return means


def _over_types(values: TypeValues, one: _Sides, seed: int, threads: int) -> Array:
    """(B,) differences of resampled group and resampled others; prompts, and so support, fixed."""
    replicates, at, other_A = len(values.value_BT), one.supported_R, one.other_A
    x_RC, x_AC = values.covariate_TC[at], values.covariate_TC[other_A]
    features_A9 = features(x_AC, values.value_T[other_A]).T
    drawn_BR = _draws(seed, 0, replicates, len(one.first_R), threads)[:, one.is_supported_R]
    drawn_BA = _draws(seed, 1, replicates, len(other_A), threads).astype(np.float64)
    weights = PairWeights(x_RC[None], x_AC[None])

    def excess_BR(rows: slice) -> Array:
        # All replicates in one product: only how often each type counts differs between them.
        (weight_AR,) = weights.of(slice(0, 1), rows)
        terms_A9R = weight_AR[:, None, :] * features_A9[:, :, None]
        sums_BX = drawn_BA @ terms_A9R.reshape(len(other_A), -1)
        sums_B9R = sums_BX.reshape(replicates, 9, -1)
        excess_BR: Array = values.value_T[at[rows]] - intercepts(sums_B9R, x_RC[rows])
        return excess_BR

    made_BR = np.concatenate([*_on_threads(excess_BR, parts_of(len(at), _ROWS), threads)], axis=1)
    return ratio((drawn_BR * made_BR).sum(axis=1), drawn_BR.sum(axis=1))


def _on_threads(
    function: Callable[[slice], Result], parts: Sequence[slice], threads: int
) -> Iterator[Result]:
    """The function of each part, in order."""
    if threads == 1 or len(parts) == 1:
        yield from map(function, parts)
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(function, parts)


def _draws(seed: int, side: int, replicates: int, size: int, threads: int = 1) -> Array:
    """How often each of `size` types is drawn, with replacement, in each replicate: (B, size)."""

    def of_part(part: slice) -> Array:
        replicate_B1 = np.arange(part.start, min(part.stop, replicates))[:, None]
        hash_BA = hash_rows(seed, np.array([-2 - side]), replicate_B1, np.arange(size))
        uniform_BA = (hash_BA >> np.uint64(11)).astype(np.float64) * 2.0**-53
        cell_BA = (replicate_B1 - part.start) * size + (uniform_BA * size).astype(np.int64)
        drawn_N = np.bincount(cell_BA.ravel(), minlength=cell_BA.size)
        return drawn_N.reshape(cell_BA.shape)

    step = max(1, AT_ONCE // max(1, size))
    return np.concatenate([*_on_threads(of_part, parts_of(replicates, step), threads)])


def _log(values: Array) -> Array:
    """Natural logarithm; NaN of what is not above 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs: Array = np.log(values)
    np.copyto(logs, np.nan, where=~(values > 0))
    return logs


def _mean_loss(level: Array) -> float | None:
    return float(np.exp(level).mean()) if len(level) else None


def _mean_of_finite(values_BR: Array) -> Array:
    """Mean of the defined values of each replicate; NaN where none is."""
    finite_BR = np.isfinite(values_BR)
    return ratio(np.where(finite_BR, values_BR, 0.0).sum(axis=1), finite_BR.sum(axis=1))


def _variance(values_B: Array) -> float:
    """Of the defined replicates; NaN where more than a twentieth are not."""
    finite = values_B[np.isfinite(values_B)]
    enough = len(finite) >= max(2.0, 0.95 * len(values_B))
    return float(finite.var(ddof=1)) if enough else float("nan")
