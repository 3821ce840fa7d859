"""Which types are followed: rocks, types with the most loss, and what these are compared with.

Array suffixes: T types; C covariates; R types of the group that is asked about; A other types that
may be taken; P pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rocktok._types import Array
from rocktok.analyses.stagnation.result import GroupBalance, StagnationParams
from rocktok.errors import LogError
from rocktok.hashing import hash_rows
from rocktok.stats.group_names import CONTROL, HIGH_KL, HIGH_LOSS, LOSS_CONTROL, RANDOM, ROCKS
from rocktok.stats.groups import CALIPER, TypeFacts
from rocktok.stats.matching import balance, match

#: Matched on these, within calipers; `control` on all, `loss_control` on all but the frequency.
COVARIATES = ("log10 frequency", "log10 mean loss", "mean position")


#: Largest difference of mean positions, in standard deviations over the types.
POSITION_CALIPER = 0.2


@dataclass(frozen=True)
class ComparedGroups:
    """Groups, pairs of `control` and `loss_control`, types left alone, and the balance.

    `first`: the group that the others are held against: `rocks`, or without any `high_loss`.
    `common`, `others`: how many types stand often enough, and how many of these are not in it.
    """

    first: str
    members: dict[str, tuple[int, ...]]
    pairs: dict[str, tuple[tuple[int, int], ...]]
    unmatched: dict[str, tuple[int, ...]]
    balance: tuple[GroupBalance, ...]
    common: int
    others: int

    def of(self, token_id: int) -> list[str]:
        """Groups that hold a type."""
        return [name for name, ids in self.members.items() if token_id in ids]


def choose(
    facts: TypeFacts,
    params: StagnationParams,
    half: int | None,
    rock_ids: Array | None = None,
    pairs: tuple[tuple[int, int], ...] | None = None,
) -> ComparedGroups:
    """The groups, at the step of the facts.

    `high_loss` are the largest Rock Scores above 0 among types that stand often enough in both
    halves: as many as there are rocks, or without any `top_k`, and no more than a third of these.

    Args:
        facts: with positions.
        half: of the prompts whose numbers choose; None: both.
        rock_ids: token ids of the rocks; None: there are none.
        pairs: (rock, control) that are the group `control`, however they were matched; those of
            types that were not seen are left out.
    """
    assert facts.position_HT is not None
    sides = slice(None) if half is None else slice(half, half + 1)
    count_T, loss_T, place_T = (
        values[sides].sum(axis=0)
        for values in (facts.frequency_HT, facts.loss_HT, facts.position_HT)
    )
    common = np.flatnonzero(facts.common_T())
    rocks = np.flatnonzero(np.isin(facts.token_T, [] if rock_ids is None else rock_ids))
    most = len(rocks) or min(params.top_k, max(1, len(common) // 3))
    high_loss = np.sort(by_rock_score(facts, half)[:most])
    name, first = (ROCKS.name, rocks) if len(rocks) else (HIGH_LOSS.name, high_loss)
    able = np.setdiff1d(common, first)
    size = len(first) if params.group_size is None else params.group_size
    hardest = facts.hardest(~np.isin(np.arange(len(count_T)), first), half)
    by_hash = able[np.argsort(hash_rows(params.seed, facts.token_T[able]), kind="stable")]
    places = {
        ROCKS.name: rocks,
        HIGH_LOSS.name: high_loss,
        HIGH_KL.name: hardest[:size],
        RANDOM.name: by_hash[:size],
    }
    values_TC = _covariates(count_T, loss_T, place_T, common)
    matched: dict[str, tuple[tuple[int, int], ...]] = {}
    unmatched: dict[str, tuple[int, ...]] = {}
    balances: list[GroupBalance] = []
    for control, columns in ((CONTROL.name, [0, 1, 2]), (LOSS_CONTROL.name, [1, 2])):
        others = able
        if control == CONTROL.name and pairs is not None:
            pair_P2, others = _pairs_in(facts.token_T, first, able, pairs)
        else:
            caliper_C = np.array([CALIPER, CALIPER, POSITION_CALIPER])[columns]
            ours_RC, others_AC = values_TC[first][:, columns], values_TC[others][:, columns]
            pair_P2, _ = match(ours_RC, others_AC, caliper_C)
        places[control] = others[pair_P2[:, 1]]
        ids = facts.token_T[first[pair_P2[:, 0]]].tolist(), facts.token_T[places[control]].tolist()
        matched[control] = tuple(zip(*ids, strict=True))
        unmatched[control] = tuple(facts.token_T[np.delete(first, pair_P2[:, 0])].tolist())
        rows = balance(COVARIATES, values_TC[first], values_TC[others], pair_P2)
        balances += [{"control": control, **row} for row in rows]
    members = {group: tuple(np.sort(facts.token_T[at]).tolist()) for group, at in places.items()}
    return ComparedGroups(
        name, members, matched, unmatched, tuple(balances), len(common), len(able)
    )


def by_rock_score(facts: TypeFacts, half: int | None) -> Array:
    """Places of the types that stand often enough and have a loss, the largest Rock Score first."""
    sides = slice(None) if half is None else slice(half, half + 1)
    count_T, loss_T = (v[sides].sum(axis=0) for v in (facts.frequency_HT, facts.loss_HT))
    common = np.flatnonzero(facts.common_T())
    ranked = common[np.lexsort((facts.token_T[common], -count_T[common], -loss_T[common]))]
    losing: Array = ranked[loss_T[ranked] > 0]
    return losing


def _pairs_in(
    token_T: Array, first: Array, able: Array, pairs: tuple[tuple[int, int], ...]
) -> tuple[Array, Array]:
    """(n, 2) places of the pairs in the group and among the others, and these others."""
    rock = {v: r for r, v in enumerate(token_T[first].tolist())}
    seen = {v: t for t, v in enumerate(token_T.tolist())}
    pair_list = [(rock[a], seen[b]) for a, b in pairs if a in rock and b in seen]
    pair_P2 = np.array(pair_list, dtype=np.int64).reshape(-1, 2)
    others = np.union1d(able, pair_P2[:, 1])
    pair_P2[:, 1] = np.searchsorted(others, pair_P2[:, 1])
    return pair_P2, others


def _covariates(count_T: Array, loss_T: Array, place_T: Array, common: Array) -> Array:
    """(T, C) log₁₀ n, log₁₀ mean loss, and mean position in standard deviations over types."""
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_T, position_T = loss_T / count_T, place_T / count_T
        logs = np.log10(count_T), np.log10(mean_T)
    spread = float(np.std(position_T[common])) if len(common) else 0.0
    return np.stack([*logs, position_T / (spread or 1.0)], axis=1)


def check_given(
    groups: ComparedGroups,
    rocks: Array | None,
    pairs: Sequence[tuple[int, int]] | None,
    name: str,
    at: str,
) -> None:
    """Raise `LogError` if a log has none of the rocks, or of the pairs, that were given.

    `name`: of the log. `at`: table and step at which groups were chosen.
    """
    if rocks is not None and not groups.members["rocks"]:
        raise LogError(
            f"{name}: none of the {len(rocks)} rocks occurs in {at}; give rocks of this log"
        )
    if pairs and not groups.pairs["control"]:
        raise LogError(
            f"{name}: none of the {len(pairs)} pairs of a rock and its control "
            f"occurs in {at}; give controls of this log"
        )
