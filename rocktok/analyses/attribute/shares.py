"""Who takes the gradient: shares of its norm by type and by group of types.

Shares are of summed norms, ‖g_o‖ over occurrences: vectors cancel, norms do not. Source: arXiv
2605.09253, section 4; squared norms, the share of positions beside every share, the bootstrap over
prompts and the contrasts are ours.

Array suffixes: B replicates; T types of a bootstrap; G members of a group; M quantities.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from rocktok._types import Array
from rocktok.analyses.result import Result
from rocktok.errors import UsageError
from rocktok.stats.bootstrap import REPLICATES, PromptBootstrap, holm, interval
from rocktok.stats.contrasts import MIN_TYPES, contrast, ratio
from rocktok.stats.groups import NAMES, Groups
from rocktok.stats.sums import TypeSums

Row = dict[str, Any]

#: Share → the quantity it is a share of, as `PromptBootstrap` names it.
SHARES = {
    "position_share": "",
    "loss_share": "loss_post",
    "grad_share": "grad_norm",
    "grad_sq_share": "grad_norm²",
    "head_grad_share": "head_grad_norm",
    "head_grad_sq_share": "head_grad_norm²",
}

#: Measures of a type that are compared between groups: numerator and denominator.
CONTRASTS = {
    "mean_grad_norm": ("grad_norm", ""),
    "grad_norm_per_nat": ("grad_norm", "loss_post"),
}


@dataclass(frozen=True)
class AttributeParams:
    """Options of `attribute`.

    `group_size`: types in each group beside the rocks; None: as many as there are rocks.
    """

    table: str = "auto"
    step: int | None = None
    top: int = 100
    all_types: bool = False
    group_size: int | None = None
    replicates: int = REPLICATES
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("top", 1), ("replicates", 100)):
            value = getattr(self, name)
            if value < least:
                raise UsageError(f"{name} is {value}; it must be {least} or more", parameter=name)
        if self.group_size is not None and self.group_size < 1:
            message = f"group_size is {self.group_size}; it must be 1 or more"
            raise UsageError(message, parameter="group_size")


@dataclass(frozen=True)
class AttributeResult(Result):
    """Gradient shares of a log.

    Attributes:
        log: identity of the log, table, steps and passes.
        params: every option.
        totals: sums over all positions at the reference step.
        tokens: one mapping per type at the reference step, largest `grad_share` first.
        groups: one mapping per step and group.
        members: token ids of each group, pairs of rocks and controls, rocks without a control.
        tests: contrasts of the rocks with each other group.
        geometry: what `gradients/` gives, None where the log has none.
        notes: what a reader of the numbers must know.
    """

    SCHEMA: ClassVar[str] = "rocktok.attribute/1"

    log: Row
    params: Row
    totals: Row
    tokens: tuple[Row, ...]
    groups: tuple[Row, ...]
    members: Row
    tests: tuple[Row, ...]
    geometry: Row | None
    notes: tuple[str, ...]

    @cached_property
    def table(self) -> Any:
        """The tokens as a pandas DataFrame; groups joined by commas."""
        import pandas as pd

        frame = pd.DataFrame(list(self.tokens))
        frame["groups"] = [",".join(row["groups"]) for row in self.tokens]
        return frame

    def shown(self) -> tuple[str, Any]:
        """The groups."""
        return "", self.groups


def quantities(columns: set[str]) -> tuple[str, ...]:
    """What is summed, of the columns that a log has."""
    return tuple(q for q in SHARES.values() if q in ("", "loss_post") or q[:-1] in columns
                 or q in columns)  # fmt: skip


class Shares:
    """Shares of every type at one step, and of chosen types under each replicate."""

    def __init__(self, sums: TypeSums, bootstrap: PromptBootstrap) -> None:
        self.count_V = sums.count_V
        self.sum_V = {"": self.count_V.astype(np.float64), **sums.sum_V}
        self.sum_V |= {f"{name}²": values for name, values in sums.square_V.items()}
        self.bootstrap = bootstrap
        self.shares = {s: q for s, q in SHARES.items() if q in bootstrap.quantities}

    @property
    def totals(self) -> Row:
        """Sums over all positions."""
        names = {"": "positions", "loss_post": "loss"}
        found = {
            names.get(q, q.replace("²", "_sq")): float(self.sum_V[q].sum())
            for q in self.shares.values()
        }
        return {**found, "positions": int(self.count_V.sum())}

    def of_types(self, ids: Array, *, intervals: bool = True) -> Row:
        """All shares of a set of types together, with intervals where prompts suffice."""
        row: Row = {}
        for share, quantity in self.shares.items():
            total = float(self.sum_V[quantity].sum())
            part = float(self.sum_V[quantity][ids[ids < len(self.count_V)]].sum())
            row[share] = part / total if total else None
        taken = row["position_share"]
        row["concentration"] = row["grad_share"] / taken if taken and row["grad_share"] else None
        return {**row, **(self._intervals(ids) if intervals else {})}

    def _intervals(self, ids: Array) -> Row:
        place = np.flatnonzero(np.isin(self.bootstrap.types, ids))
        enough = len(place) > 0 and bool(self.bootstrap.enough_T[place].any())
        row: Row = {}
        share_B: dict[str, Array] = {}
        for share, quantity in self.shares.items():
            m = self.bootstrap.quantities.index(quantity)
            part_B = self.bootstrap.sum_BTM[:, place, m].sum(axis=1)
            total_B = self.bootstrap.sum_BTM[:, :, m].sum(axis=1)
            share_B[share] = ratio(part_B, total_B)
        share_B["concentration"] = ratio(share_B["grad_share"], share_B["position_share"])
        for share, values_B in share_B.items():
            low, high, _ = interval(values_B) if enough else (None, None, 0)
            row |= {f"{share}_low": low, f"{share}_high": high}
        return row


def contrasts(bootstrap: PromptBootstrap, groups: Groups, described: Row) -> list[Row]:
    """The rocks against each other group, by the bootstrap over prompts, groups held fixed.

    For each measure of a type, the difference of the groups' medians and the rank-biserial
    correlation, P(rock > other) − P(rock < other) over pairs of types. Holm's correction is over
    all that are tested. `p_types_naive` is the paper's Mann-Whitney test, which takes types for
    independent draws and rejects true nulls far too often.

    Args:
        described: goes into every row: on which prompts groups were chosen, and measured.
    """
    rows: list[Row] = []
    for measure, (over, under) in CONTRASTS.items():
        values_T, values_BT = _measure(bootstrap, over, under)
        for other in NAMES[1:]:
            row: Row = {"measure": measure, "first": "rocks", "second": other, **described}
            places = [_places(bootstrap, groups.members[name]) for name in ("rocks", other)]
            kept = [at[np.isfinite(values_T[at])] for at in places]
            small = [
                f"{name} has {len(at)} types with a value"
                for name, at in zip(("rocks", other), kept, strict=True)
                if len(at) < MIN_TYPES
            ]
            if small:
                row["skipped"] = f"{' and '.join(small)}; at least {MIN_TYPES} are needed"
            else:
                row |= contrast(values_T, values_BT, kept[0], kept[1])
            rows.append(row)
    tested = [row for row in rows if "p" in row]
    for row, adjusted in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p_holm"] = adjusted
    return rows


def _places(bootstrap: PromptBootstrap, ids: tuple[int, ...]) -> Array:
    return np.flatnonzero(np.isin(bootstrap.types, np.array(ids, dtype=np.int64)))


def _measure(bootstrap: PromptBootstrap, over: str, under: str) -> tuple[Array, Array]:
    """A ratio of sums by type: (T,), and of each replicate (B, T); NaN where undefined."""
    a, b = (bootstrap.quantities.index(name) for name in (over, under))
    plain, drawn = bootstrap.sum_TM[:-1], bootstrap.sum_BTM[:, :-1]
    return ratio(plain[:, a], plain[:, b]), ratio(drawn[..., a], drawn[..., b])
