"""Intervals for every type, where a bootstrap of all would take too much: linearised variance.

The logarithm of a ratio of means is, to first order, a sum of what each prompt adds to it; its
variance is the sum of the squares of these (Woodruff 1971; delta method, prompts as clusters).
Sums by type and prompt have no bound, so prompts are hashed into `GROUPS` random groups, and the
groups are the clusters: an unbiased estimate of the same variance, with fewer degrees of freedom
(Wolter 2007, random groups). Ours.

Array suffixes: N rows; E pairs of a type and a group; V token ids; C types of a chunk; G groups;
Q count of rows, and sum of losses; S steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self, cast

import numpy as np

from rocktok._types import Array
from rocktok.analyses.stagnation.loss_curves import Slope
from rocktok.analyses.stagnation.result import TypeChange
from rocktok.hashing import hash_rows
from rocktok.stats.accumulator import Batch
from rocktok.stats.arrays import padded
from rocktok.stats.bootstrap import MIN_PROMPTS, numbered, places_of_prompts
from rocktok.stats.contrasts import ratio
from rocktok.stats.prompts import PromptFloor
from rocktok.stats.sums import TypeSums

#: More make intervals steadier, and take 16 bytes a type each, at the first and at the last step.
GROUPS = 64

#: Types that are worked out at a time.
_CHUNK = 4096

#: Rows of pairs that a partial result holds before equal ones are added up.
_LOOSE = 1 << 22


def groups_of(prompt_P: Array, seed: int) -> Array:
    """The group, 0 … GROUPS − 1 (int64), of each prompt; independent of its half and weights."""
    hashed = hash_rows(seed, np.array([-1]), prompt_P)
    return (hashed >> np.uint64(58)).astype(np.int64)


class GroupSums:
    """Rows, and the sum of their losses, by token type and group of prompts, at one step.

    Also which types stand in enough prompts. A partial result is sparse; the whole is a table of
    1 KB for each token id.
    """

    needs = ("token_id", "sequence_id", "prompt", "loss")

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._parts: list[tuple[Array, Array]] = []
        self._loose = 0
        self._floor = PromptFloor(MIN_PROMPTS)
        self._table_VGQ: Array = np.zeros((0, GROUPS, 2))

    def update(self, batch: Batch) -> None:
        """Add a batch of whole sequences."""
        token_N = batch["token_id"]
        if len(token_N) == 0:
            return
        prompt_P, place_N = places_of_prompts(batch)
        width = int(token_N.max()) + 1
        # By prompt first: the floor counts pairs, not rows.
        key_E, pair_N = numbered(place_N * np.int64(width) + token_N, len(prompt_P) * width)
        token_E, place_E = key_E % width, key_E // width
        self._floor.update({"token_id": token_E, "prompt": prompt_P[place_E]})
        loss_E = np.bincount(pair_N, batch["loss"].astype(np.float64), minlength=len(key_E))
        sum_EQ = np.stack([np.bincount(pair_N, minlength=len(key_E)), loss_E], axis=1)
        self._parts.append((token_E * GROUPS + groups_of(prompt_P, self.seed)[place_E], sum_EQ))
        self._loose += len(key_E)
        if self._loose > _LOOSE:
            self.close()

    def close(self) -> None:
        """Add up equal pairs, each of which then stands once."""
        if not self._parts:
            return
        key_N = np.concatenate([key_E for key_E, _ in self._parts])
        sum_NQ = np.concatenate([sum_EQ for _, sum_EQ in self._parts])
        key_E, pair_N = np.unique(key_N, return_inverse=True)
        sums = [np.bincount(pair_N, sum_N, minlength=len(key_E)) for sum_N in sum_NQ.T]
        self._parts, self._loose = [(key_E, np.stack(sums, axis=1))], 0

    def merge(self, other: Self) -> None:
        """Add another's sums."""
        other.close()
        self._floor.merge(other._floor)
        self._settle(other._parts)
        self._reach(len(other._table_VGQ))
        self._table_VGQ[: len(other._table_VGQ)] += other._table_VGQ

    def _settle(self, parts: list[tuple[Array, Array]]) -> None:
        for key_E, sum_EQ in parts:
            self._reach(int(key_E.max(initial=-1)) // GROUPS + 1)
            self._table_VGQ.reshape(-1, 2)[key_E] += sum_EQ

    def _reach(self, length: int) -> None:
        if length > len(self._table_VGQ):
            longer = np.zeros((length, GROUPS, 2))
            longer[: len(self._table_VGQ)] = self._table_VGQ
            self._table_VGQ = longer

    def of(self, ids: Array) -> Array:
        """(C, G, Q) of some token ids; zeros for those that were not seen."""
        self.close()
        self._settle(self._parts)
        self._parts = []
        self._reach(int(ids.max(initial=-1)) + 1)
        sum_CGQ: Array = self._table_VGQ[ids]
        return sum_CGQ

    def enough(self, ids: Array) -> Array:
        """Which token ids stand in enough prompts for an interval: (C,) bool."""
        length = int(ids.max(initial=0)) + 1
        enough: Array = self._floor.result(length)[ids] >= MIN_PROMPTS
        return enough


@dataclass(frozen=True)
class Spread:
    """95% intervals of the change of types between two steps; NaN where there is none."""

    ratio_low_C: Array
    ratio_high_C: Array
    delta_low_C: Array
    delta_high_C: Array


def spread(first_CGQ: Array, last_CGQ: Array) -> Spread:
    """Of ℓ̄(last) / ℓ̄(first), symmetric on the log scale, and of ℓ̄(last) − ℓ̄(first).

    Student's t with one degree of freedom less than groups that hold the type. NaN below two such
    groups; the ratio's, too, where a mean is not above 0.
    """
    from scipy.stats import t as student

    hold_C = ((first_CGQ[..., 0] + last_CGQ[..., 0]) > 0).sum(axis=1)
    terms, means, scales = [], [], []
    for sum_CGQ in (first_CGQ, last_CGQ):
        total_CQ = sum_CGQ.sum(axis=1)
        mean_C = ratio(total_CQ[:, 1], total_CQ[:, 0])
        terms.append(sum_CGQ[..., 1] - mean_C[:, None] * sum_CGQ[..., 0])
        means.append(mean_C)
        scales.append(total_CQ)
    free_C = np.maximum(hold_C - 1, 1)
    factor_C = np.where(hold_C > 1, student.ppf(0.975, free_C) * np.sqrt(hold_C / free_C), np.nan)
    half = {}
    for name, q in (("delta", 0), ("ratio", 1)):
        by_CG = [ratio(term_CG, scale_CQ[:, q, None]) for term_CG, scale_CQ in
                 zip(terms, scales, strict=True)]  # fmt: skip
        half[name] = factor_C * np.sqrt(((by_CG[1] - by_CG[0]) ** 2).sum(axis=1))
    change_C, delta_C = ratio(means[1], means[0]), means[1] - means[0]
    grown_C = np.exp(half["ratio"])
    return Spread(change_C / grown_C, change_C * grown_C, delta_C - half["delta"],
                  delta_C + half["delta"])  # fmt: skip


class EveryType:
    """All types over the steps; fed step by step, ascending, pre and post with groups.

    Holds 16 bytes for each step and token id, and the groups of two steps.
    """

    def __init__(self) -> None:
        self._count_SV: list[Array] = []
        self._loss_SV: list[Array] = []
        self._steps: list[int] = []
        self._ends: list[GroupSums] = []
        self._pre_at = 0

    def add(self, step: int, sums: TypeSums, groups: GroupSums | None) -> None:
        """One step's sums; of the pre and the post step also by groups."""
        if groups is not None and not self._ends:
            self._pre_at = len(self._steps)
        self._steps.append(step)
        self._count_SV.append(sums.count_V)
        self._loss_SV.append(sums.sum_V["loss"].copy())
        if groups is not None:
            self._ends.append(groups)

    def rows(self, drawn: Array) -> list[TypeChange]:
        """Of each type seen but those that were drawn again: as `learning.change_rows` gives."""
        length = max(map(len, self._count_SV))
        count_SV = np.stack([padded(count_V, length) for count_V in self._count_SV])
        seen_V = count_SV.sum(axis=0) > 0
        seen_V[drawn[drawn < length]] = False
        ids = np.flatnonzero(seen_V)
        count_ST = count_SV[:, ids]
        loss_ST = ratio(
            np.stack([padded(loss_V, length)[ids] for loss_V in self._loss_SV]), count_ST
        )
        slope = Slope((len(ids),))
        for step, loss_T in zip(self._steps, loss_ST, strict=True):
            slope.add(step, loss_T)
        slope_T = slope.result()
        rows: list[TypeChange] = []
        for start in range(0, len(ids), _CHUNK):
            part = slice(start, start + _CHUNK)
            rows += self._chunk(ids[part], count_ST[:, part], loss_ST[:, part], slope_T[part])
        return rows

    def _chunk(
        self, ids: Array, count_SC: Array, loss_SC: Array, slope_C: Array
    ) -> list[TypeChange]:
        ends = spread(*(groups.of(ids) for groups in self._ends))
        enough_C = np.all([groups.enough(ids) for groups in self._ends], axis=0)
        before_C, after_C = loss_SC[self._pre_at], loss_SC[-1]
        absent = [None] * len(loss_SC)
        columns: dict[str, list[Any]] = {
            "token_id": ids.tolist(),
            "token": [""] * len(ids),
            "groups": [[] for _ in ids],
            "frequency_pre": count_SC[self._pre_at].tolist(),
            "frequency_post": count_SC[-1].tolist(),
            "loss_pre": _numbers(before_C),
            "loss_post": _numbers(after_C),
            "stagnation": _numbers(ratio(after_C, before_C)),
            "stagnation_low": _numbers(np.where(enough_C, ends.ratio_low_C, np.nan)),
            "stagnation_high": _numbers(np.where(enough_C, ends.ratio_high_C, np.nan)),
            "delta_kl": _numbers(after_C - before_C),
            "delta_kl_low": _numbers(np.where(enough_C, ends.delta_low_C, np.nan)),
            "delta_kl_high": _numbers(np.where(enough_C, ends.delta_high_C, np.nan)),
            "slope": _numbers(slope_C),
        }
        columns |= {f"slope_{end}": [None] * len(ids) for end in ("low", "high")}
        columns["interval"] = [
            None if low is None else "linearised" for low in columns["delta_kl_low"]
        ]
        columns["curve"] = [_numbers(loss_S) for loss_S in loss_SC.T]
        columns |= {f"curve_{end}": [absent] * len(ids) for end in ("low", "high")}
        rows = zip(*columns.values(), strict=True)
        return [cast(TypeChange, dict(zip(columns, row, strict=True))) for row in rows]


def _numbers(values_C: Array) -> list[float | None]:
    return [value if np.isfinite(value) else None for value in values_C.tolist()]
