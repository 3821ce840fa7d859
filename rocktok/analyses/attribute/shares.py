"""Shares of the gradient norm by token type and by group of types.

Shares are of summed norms, ‖g_o‖ over occurrences: vectors cancel, norms do not. Source: arXiv
2605.09253, section 4; squared norms, the share of positions beside every share, the bootstrap over
prompts and the contrasts are ours.

Array suffixes: B replicates; T types of a bootstrap; G members of a group; M quantities.
"""

from __future__ import annotations

from functools import cached_property
from typing import cast

import numpy as np

from rocktok._types import Array
from rocktok.analyses.attribute.result import GroupContrast, ShareRow, Totals
from rocktok.stats.arrays import is_among
from rocktok.stats.bootstrap import PromptBootstrap, holm
from rocktok.stats.contrasts import MIN_TYPES, contrast, ratio
from rocktok.stats.exact_types import ExactTypeSums
from rocktok.stats.groups import NAMES, Groups
from rocktok.stats.intervals import FEW_PROMPTS, Estimate, ends
from rocktok.words import counted

#: Share → the quantity it is a share of, as `PromptBootstrap` names it.
SHARES = {
    "position_share": "",
    "loss_share": "loss",
    "grad_share": "grad_norm",
    "grad_sq_share": "grad_norm²",
    "head_grad_share": "head_grad_norm",
    "head_grad_sq_share": "head_grad_norm²",
}

#: Quantities that are summed where groups are compared.
CONTRASTED = ("", "loss", "grad_norm")

#: Measures of a type that are compared between groups: numerator and denominator.
CONTRASTS = {
    "mean_grad_norm": ("grad_norm", ""),
    "grad_norm_per_nat": ("grad_norm", "loss"),
}


def quantities(columns: set[str]) -> tuple[str, ...]:
    """What is summed, of the columns that a log has."""
    return tuple(q for q in SHARES.values() if q in ("", "loss") or q[:-1] in columns
                 or q in columns)  # fmt: skip


def kinds(groups: Groups, alone: Array) -> tuple[Array, Array]:
    """Token ids that a bootstrap must tell apart, and the kind of each.

    Each of the types `alone` is a kind by itself. All others of the same groups are one kind: sums
    of a group need no more, and there may be thousands of types.
    """
    types = np.union1d(groups.all_ids, alone)
    members_T = [is_among(types, np.array(groups.members[name], np.int64)) for name in NAMES]
    groups_T = sum(member_T.astype(np.int64) << n for n, member_T in enumerate(members_T))
    key_T = np.where(is_among(types, alone), (1 << len(NAMES)) + types, groups_T)
    return types, np.unique(key_T, return_inverse=True)[1]


class Shares:
    """Shares of every type at one step, of groups and of some types under each replicate.

    `alone`: token ids that the bootstrap tells apart; None: all that it was given.
    """

    def __init__(
        self, sums: ExactTypeSums, bootstrap: PromptBootstrap, alone: Array | None = None
    ) -> None:
        self.sums = sums
        self.alone = frozenset((bootstrap.types if alone is None else alone).tolist())
        self.count_V = sums.count_V
        self.sum_V = {"": self.count_V.astype(np.float64), **sums.sum_V}
        self.sum_V |= {f"{name}²": values for name, values in sums.square_V.items()}
        self.bootstrap = bootstrap
        self.shares = {s: q for s, q in SHARES.items() if q in bootstrap.quantities}

    @cached_property
    def _whole(self) -> dict[str, Estimate]:
        return {quantity: self.bootstrap.of(quantity) for quantity in self.shares.values()}

    @cached_property
    def _total(self) -> dict[str, float]:
        return {quantity: float(self.sum_V[quantity].sum()) for quantity in self.shares.values()}

    @property
    def totals(self) -> Totals:
        """Sums over all positions."""
        names = {"": "positions"}
        sums: dict[str, float] = {
            names.get(q, q.replace("²", "_sq")): total for q, total in self._total.items()
        }
        counts = {"positions": int(self.count_V.sum()), "types": int((self.count_V > 0).sum())}
        return cast(Totals, {**sums, **counts})

    def of_types(self, ids: Array, *, intervals: bool = True) -> ShareRow:
        """All shares of a set of types together, with intervals where prompts suffice."""
        row: dict[str, float | bool | None] = {}
        for share, quantity in self.shares.items():
            total = self._total[quantity]
            part = float(self.sum_V[quantity][ids[ids < len(self.count_V)]].sum())
            row[share] = part / total if total else None
        taken, grad = row["position_share"], row["grad_share"]
        row["concentration"] = grad / taken if taken and grad else None
        return cast(ShareRow, row | (self._intervals(ids) if intervals else {}))

    def _intervals(self, ids: Array) -> dict[str, float | bool | None]:
        place = self.bootstrap.places(ids)
        estimates = {
            share: self.bootstrap.of(quantity, place) / self._whole[quantity]
            for share, quantity in self.shares.items()
        }
        estimates["concentration"] = estimates["grad_share"] / estimates["position_share"]
        few = len(place) > 0 and any(bool(each.few_prompts) for each in estimates.values())
        row: dict[str, float | bool | None] = {FEW_PROMPTS: few}
        for name, estimate in estimates.items():
            most = np.inf if name == "concentration" else 1.0
            row[f"{name}_low"], row[f"{name}_high"] = ends(estimate.interval(most=most))
        return row


def contrasts(
    bootstrap: PromptBootstrap, groups: Groups, chosen_on: str, measured_on: str
) -> list[GroupContrast]:
    """The rocks against each other group, by the bootstrap over prompts, groups held fixed.

    For each measure of a type, the difference of the groups' medians and the rank-biserial
    correlation, P(rock > other) − P(rock < other) over pairs of types. Holm's correction is over
    all that are tested. `p_types_naive` is the paper's Mann-Whitney test, which takes types for
    independent draws and rejects true nulls far too often.

    Args:
        bootstrap: of the groups' types.
        groups: the rocks, and what they are compared with.
        chosen_on, measured_on: on which prompts groups were chosen, and are measured.
    """
    rows: list[GroupContrast] = []

    def measures(sums: list[Array]) -> list[Array]:
        places = [map(bootstrap.quantities.index, names) for names in CONTRASTS.values()]
        return [ratio(sums[over], sums[under]) for over, under in places]

    for measure, values_TW in zip(
        CONTRASTS, bootstrap.by_type(len(CONTRASTS), measures), strict=True
    ):
        values_T, values_BT = values_TW[:, 0], values_TW[:, 1:].T
        for other in NAMES[1:]:
            row: GroupContrast = {
                "measure": measure,
                "first": "rocks",
                "second": other,
                "chosen_on": chosen_on,
                "measured_on": measured_on,
            }
            places = [_places(bootstrap, groups.members[name]) for name in ("rocks", other)]
            kept = [at[np.isfinite(values_T[at])] for at in places]
            small = [
                f"{name} has {counted(len(at), 'type')} with a value"
                for name, at in zip(("rocks", other), kept, strict=True)
                if len(at) < MIN_TYPES
            ]
            if small:
                row["skipped"] = f"{' and '.join(small)}; at least {MIN_TYPES} are needed"
            else:
                compared = contrast(values_T, values_BT, kept[0], kept[1])
                row = cast(GroupContrast, {**row, **compared})
            rows.append(row)
    tested = [row for row in rows if "p" in row]
    for row, adjusted in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p_holm"] = adjusted
    return rows


def untested(reason: str) -> list[GroupContrast]:
    """The rows of `contrasts` where there are no two halves of the prompts, and why."""
    return [
        {
            "measure": measure,
            "first": "rocks",
            "second": other,
            "chosen_on": "half 0",
            "measured_on": "half 1",
            "skipped": reason,
        }
        for measure in CONTRASTS
        for other in NAMES[1:]
    ]


def _places(bootstrap: PromptBootstrap, ids: tuple[int, ...]) -> Array:
    return np.flatnonzero(np.isin(bootstrap.types, np.array(ids, dtype=np.int64)))
