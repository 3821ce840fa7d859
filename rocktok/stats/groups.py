"""Groups of token types that an analysis compares: rocks, and what they are fairly compared with.

- `rocks`: what `detect` found.
- `high_kl`: the largest mean loss among other types, rare ones too.
- `random`: a seeded draw from all other types.
- `control`: to each rock another type of like frequency.

All but the rocks have at least 20 occurrences and 5 prompts in each half of the prompts, `high_kl`
5 and 3; they are no rocks, and as many as the rocks where there are so many. Source: arXiv
2605.09253, section 4; floors, matching and its caliper are ours.

Array suffixes: T token types; H halves of the prompts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from rocktok._types import Array
from rocktok.hashing import hash_rows
from rocktok.stats.accumulator import Batch
from rocktok.stats.arrays import is_among, padded
from rocktok.stats.exact_types import ExactTypeSums
from rocktok.stats.group_names import CONTROL, HIGH_KL, RANDOM, ROCKS
from rocktok.stats.halves import half_of_rows
from rocktok.stats.matching import match
from rocktok.stats.prompts import PromptFloor
from rocktok.stats.sums import TypeSums

#: Of the groups chosen here.
NAMES = tuple(group.name for group in (ROCKS, HIGH_KL, RANDOM, CONTROL))

MIN_FREQUENCY = 20
MIN_PROMPTS = 5

#: Of `high_kl`, the paper's rare tokens of high loss: with the floors above it would hold none.
RARE_FREQUENCY = 5
RARE_PROMPTS = 3

#: What the above demand of a type, in words.
FLOORS = f"{MIN_FREQUENCY} times and in {MIN_PROMPTS} prompts in each half of the prompts"

#: Largest |log₁₀ n − log₁₀ n'| of a rock and its control.
CALIPER = 0.1


@dataclass(frozen=True)
class TypeFacts:
    """What groups are chosen by: of each type seen, ascending ids.

    frequency_HT, prompts_HT: in each half of the prompts; prompts are counted up to `MIN_PROMPTS`.
    loss_HT: sum of the losses, nats.
    position_HT: sum of the positions, where it was asked for.
    """

    token_T: Array
    frequency_HT: Array
    prompts_HT: Array
    loss_HT: Array
    position_HT: Array | None = None

    def common_T(self) -> Array:
        """Types that have enough occurrences and prompts in each half."""
        return self._above_T(MIN_FREQUENCY, MIN_PROMPTS)

    def rare_T(self) -> Array:
        """Types that have enough occurrences and prompts in each half for `high_kl`."""
        return self._above_T(RARE_FREQUENCY, RARE_PROMPTS)

    def _above_T(self, frequency: int, prompts: int) -> Array:
        often_HT = (self.frequency_HT >= frequency) & (self.prompts_HT >= prompts)
        above_T: Array = np.all(often_HT, axis=0)
        return above_T

    def hardest(self, others_T: Array, half: int | None) -> Array:
        """Places of those of some types that `high_kl` may hold, the largest mean loss first.

        Args:
            others_T: (T,) bool, the types.
            half: of the prompts whose losses count; None: both.
        """
        sides = slice(None) if half is None else slice(half, half + 1)
        able = np.flatnonzero(others_T & self.rare_T())
        mean_A = self.loss_HT[sides].sum(axis=0)[able] / self.frequency_HT[sides].sum(axis=0)[able]
        hardest: Array = able[np.lexsort((self.token_T[able], -mean_A))]
        return hardest


class HalfFacts:
    """Accumulates `TypeFacts`; needs prompts, and with `positions` the positions.

    `exact`: its sums have the same bits however the rows are cut.
    """

    def __init__(
        self,
        seed: int,
        *,
        positions: bool = False,
        exact: bool = False,
        compiled: bool = False,
    ) -> None:
        self.seed = seed
        columns = ("loss", "position") if positions else ("loss",)
        self.needs = ("token_id", "prompt", *columns)
        kind: Any = ExactTypeSums if exact else TypeSums
        # By token id and half, side by side: 2 · id + half.
        self._sums: Any = kind(columns, compiled=compiled)
        self._floor = PromptFloor(MIN_PROMPTS, compiled=compiled)

    def update(self, batch: Batch) -> None:
        """Add a batch's rows to their halves."""
        half_N = half_of_rows(batch["prompt"], self.seed)
        key_N = _keys(batch["token_id"], half_N)
        self._sums.update({**batch, "token_id": key_N})
        self._floor.update({"token_id": key_N, "prompt": batch["prompt"]})

    def merge(self, other: Self) -> None:
        """Add another's."""
        self._sums.merge(other._sums)
        self._floor.merge(other._floor)

    def result(self) -> TypeFacts:
        """Of all types seen."""
        count_HV = _by_half(self._sums.count_V)
        token_T = np.flatnonzero(count_HV.sum(axis=0))
        prompts_HV = _by_half(self._floor.result(2 * count_HV.shape[1]))
        sums_HT = {
            name: _by_half(self._sums.sum_V[name])[:, token_T] for name in self._sums.columns
        }
        return TypeFacts(
            token_T,
            count_HV[:, token_T],
            prompts_HV[:, token_T],
            sums_HT["loss"],
            sums_HT.get("position"),
        )

    def squares(self, token_T: Array) -> Array:
        """(H, T) sums of the squared losses of types that were seen; not of exact sums."""
        squares_HT: Array = _by_half(self._sums.square_V["loss"])[:, token_T]
        return squares_HT


def _keys(token_N: Array, half_N: Array) -> Array:
    """One number for a token id and a half."""
    # Ids from 2³⁰ on leave int32.
    wide = np.int64 if token_N.max(initial=0) >= 1 << 30 else np.int32
    keys_N: Array = 2 * token_N.astype(wide) + half_N.astype(wide)
    return keys_N


def _by_half(values_K: Array) -> Array:
    """(H, V) of values by the numbers of `_keys`."""
    by_half_HV: Array = padded(values_K, len(values_K) + len(values_K) % 2).reshape(-1, 2).T
    return by_half_HV


@dataclass(frozen=True)
class Groups:
    """Token ids of each group, and rocks to which no control could be matched.

    Attributes:
        members: group → token ids (ascending; `control`: beside their rocks, see `pairs`).
        pairs: (rock, its control).
        unmatched: rocks without a type of like frequency.
    """

    members: dict[str, tuple[int, ...]]
    pairs: tuple[tuple[int, int], ...]
    unmatched: tuple[int, ...]

    def of(self, token_id: int) -> list[str]:
        """Groups that hold a type."""
        return [name for name, ids in self.members.items() if token_id in ids]

    def with_controls(self, pairs: tuple[tuple[int, int], ...]) -> Groups:
        """These groups with other controls: (rock, its control)."""
        alone = set(self.members["rocks"]) - {rock for rock, _ in pairs}
        members = {**self.members, "control": tuple(sorted({other for _, other in pairs}))}
        return Groups(members, pairs, tuple(sorted(alone)))

    @property
    def all_ids(self) -> Array:
        """Members of any group, ascending."""
        return np.array(sorted({v for ids in self.members.values() for v in ids}), dtype=np.int64)


def choose_groups(
    facts: TypeFacts, rocks: Array, seed: int, size: int | None = None, half: int | None = None
) -> Groups:
    """The four groups.

    Args:
        rocks: token ids.
        seed: of the random group.
        size: of the groups beside the rocks; None: as many as there are rocks.
        half: choose by frequency and loss in this half of the prompts alone; None: in both.
    """
    rocks = np.sort(np.asarray(rocks, dtype=np.int64))
    size = len(rocks) if size is None else size
    sides = slice(None) if half is None else slice(half, half + 1)
    frequency_T = facts.frequency_HT[sides].sum(axis=0)
    other_T = ~is_among(facts.token_T, rocks)
    able = np.flatnonzero(facts.common_T() & other_T)
    token_A = facts.token_T[able]
    by_loss = facts.hardest(other_T, half)
    by_hash = np.argsort(hash_rows(seed, token_A), kind="stable")
    pairs, unmatched = match_frequency(
        rocks, _counts_of(facts.token_T, frequency_T, rocks), token_A, frequency_T[able]
    )
    ids_of = {
        "rocks": rocks,
        "high_kl": facts.token_T[by_loss[:size]],
        "random": token_A[by_hash[:size]],
        "control": np.array([control for _, control in pairs], dtype=np.int64),
    }
    members = {name: tuple(sorted(ids.tolist())) for name, ids in ids_of.items()}
    return Groups(members, pairs, unmatched)


def _counts_of(token_T: Array, frequency_T: Array, ids: Array) -> Array:
    """Frequency of some types; 0 for one that was not seen."""
    at = np.minimum(np.searchsorted(token_T, ids), max(0, len(token_T) - 1))
    if len(token_T) == 0:
        return np.zeros(len(ids), dtype=np.int64)
    counts: Array = np.where(token_T[at] == ids, frequency_T[at], 0)
    return counts


def match_frequency(
    rocks: Array, count_R: Array, others: Array, count_A: Array, caliper: float = CALIPER
) -> tuple[tuple[tuple[int, int], ...], tuple[int, ...]]:
    """One-to-one pairs of least total |Δ log₁₀ n| within a caliper, as many as there can be.

    Returns ((rock, control) pairs, rocks left alone). A type that was not seen is left alone.
    """
    seen = count_R > 0
    rock_RC, other_AC = np.log10(count_R[seen])[:, None], np.log10(count_A)[:, None]
    pair_P2, _ = match(rock_RC, other_AC, np.array([caliper]))
    left = rocks[seen]
    pairs = tuple((int(left[i]), int(others[j])) for i, j in pair_P2.tolist())
    matched = {rock for rock, _ in pairs}
    return pairs, tuple(v for v in rocks.tolist() if v not in matched)


def note_overlap(members: dict[str, tuple[int, ...]]) -> list[str]:
    """A note where there are so few types that two groups are one; else none."""
    high, drawn = (set(members[name]) for name in ("high_kl", "random"))
    if not high or high != drawn:
        return []
    few = "1 type occurs" if len(high) == 1 else f"{len(high)} types occur"
    return [
        f"only {few} in enough prompts beside the rocks, so high_kl and "
        "random are the same; give a smaller --group-size"
    ]
