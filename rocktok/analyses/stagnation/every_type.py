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

from typing import Any, Self, cast

import numpy as np

from rocktok._types import Array
from rocktok.analyses.stagnation.loss_curves import Slope
from rocktok.analyses.stagnation.result import TypeChange
from rocktok.hashing import hash_rows
from rocktok.stats.accumulator import Batch
from rocktok.stats.arrays import padded
from rocktok.stats.bootstrap import numbered, places_of_prompts
from rocktok.stats.contrasts import ratio
from rocktok.stats.intervals import GroupedEstimate
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

    `largest`: loss of any row, in absolute value. A partial result is sparse; the whole is a table
    of 1 KB for each token id.
    """

    needs = ("token_id", "sequence_id", "prompt", "loss")

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._parts: list[tuple[Array, Array]] = []
        self._loose = 0
        self.largest = 0.0
        self._table_VGQ: Array = np.zeros((0, GROUPS, 2))

    def update(self, batch: Batch) -> None:
        """Add a batch of whole sequences."""
        token_N = batch["token_id"]
        if len(token_N) == 0:
            return
        prompt_P, place_N = places_of_prompts(batch)
        width = int(token_N.max()) + 1
        key_E, pair_N = numbered(place_N * np.int64(width) + token_N, len(prompt_P) * width)
        token_E, place_E = key_E % width, key_E // width
        loss_N = batch["loss"].astype(np.float64)
        self.largest = max(self.largest, float(np.abs(loss_N).max()))
        loss_E = np.bincount(pair_N, loss_N, minlength=len(key_E))
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
        self.largest = max(self.largest, other.largest)
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


def mean_losses(sum_CGQ: Array, largest: float) -> GroupedEstimate:
    """Mean losses of types, (C,), from their sums by group of prompts.

    `largest`: loss of one occurrence of any type.
    """
    count_GC, loss_GC = sum_CGQ.transpose(2, 1, 0)
    count_C, loss_C = (
        GroupedEstimate.total(part_GC.sum(axis=0), part_GC - part_GC.mean(axis=0), size)
        for part_GC, size in ((count_GC, 1.0), (loss_GC, largest))
    )
    return loss_C / count_C


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
        slope = Slope((0, len(ids)))
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
        pre, post = (mean_losses(groups.of(ids), groups.largest) for groups in self._ends)
        change, difference = post / pre, post - pre
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
        }
        values = (
            ("stagnation", ratio(after_C, before_C), change.interval()),
            ("delta_kl", after_C - before_C, difference.interval(positive=False)),
        )
        for name, value_C, (low_C, high_C) in values:
            columns[name] = _numbers(value_C)
            columns |= {f"{name}_low": _numbers(low_C), f"{name}_high": _numbers(high_C)}
        columns["slope"] = _numbers(slope_C)
        columns |= {f"slope_{end}": [None] * len(ids) for end in ("low", "high")}
        columns["interval"] = [
            None if low is None else "linearised" for low in columns["delta_kl_low"]
        ]
        columns["few_prompts_carry_it"] = difference.few_prompts.tolist()
        columns["curve"] = [_numbers(loss_S) for loss_S in loss_SC.T]
        columns |= {f"curve_{end}": [absent] * len(ids) for end in ("low", "high")}
        rows = zip(*columns.values(), strict=True)
        return [cast(TypeChange, dict(zip(columns, row, strict=True))) for row in rows]


def _numbers(values_C: Array) -> list[float | None]:
    return [value if np.isfinite(value) else None for value in values_C.tolist()]
