"""Fair comparison sets for rocks, and how well they are balanced.

Source: arXiv 2605.09253 compares with a "frequency-matched" list that covers a fifth of the rocks'
occurrences. The kinds, the calipers and the balance are ours. Array suffixes: R rocks; A others;
C covariates.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, ClassVar

import numpy as np

from rocktok._types import Array
from rocktok.analyses.controls.occurrences import FEATURES
from rocktok.analyses.result import Result
from rocktok.errors import UsageError
from rocktok.stats.groups import CALIPER, TypeFacts
from rocktok.stats.matching import balance, match

Row = dict[str, Any]

KINDS = ("frequency", "loss", "occurrence", "window")

#: Covariates of occurrences and of windows, and their calipers in standard deviations.
OF_OCCURRENCES = {
    "occurrence": ("relative position", "log10 length", "log10 loss"),
    "window": ("window tokens", "window log10 frequency"),
}
DEVIATIONS = 0.2

#: Candidates are drawn from so many bins of the rocks' losses, so many of each.
BINS, OF_EACH = 20, 250


@dataclass(frozen=True)
class ControlsParams:
    """Options of `controls`. `occurrences`: of rocks, that are matched."""

    table: str = "auto"
    step: int | None = None
    kinds: tuple[str, ...] = KINDS
    occurrences: int = 1_000
    window: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("occurrences", "window"):
            if getattr(self, name) < 1:
                message = f"{name} is {getattr(self, name)}; it must be 1 or more"
                raise UsageError(message, parameter=name)
        for kind in self.kinds:
            if kind not in KINDS:
                message = f"kinds has {kind!r}; choose from {', '.join(KINDS)}"
                raise UsageError(message, parameter="kinds")


@dataclass(frozen=True)
class ControlsResult(Result):
    """Matched sets.

    Attributes:
        log: identity of the log, table, step, passes.
        params: every option.
        kinds: kind → pairs, those left alone, balance. Types are ids, occurrences (sequence_id,
            position, token_id).
        token_texts: token id, as text, → text of each type in the above.
        notes: what a reader of the numbers must know.
    """

    SCHEMA: ClassVar[str] = "rocktok.controls/1"

    log: Row
    params: Row
    kinds: dict[str, Row]
    token_texts: dict[str, str]
    notes: tuple[str, ...]

    @cached_property
    def table(self) -> Any:
        """The pairs as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(self.rows())

    def rows(self) -> list[Row]:
        """One mapping per pair; of types, sequence and position are null."""
        rows = []
        for kind, found in self.kinds.items():
            for pair in found["pairs"]:
                row: Row = {"kind": kind}
                for side, one in zip(("rock", "control"), pair, strict=True):
                    place = (None, None, one) if isinstance(one, int) else one
                    names = ("sequence_id", "position", "token_id")
                    row |= {f"{side}_{n}": v for n, v in zip(names, place, strict=True)}
                    row[f"{side}_token"] = self.text(place[-1])
                rows.append(row)
        return rows

    def text(self, token_id: int) -> str:
        """Of one of the types."""
        return self.token_texts[str(token_id)]

    def shown(self) -> tuple[str, Any]:
        """The pairs."""
        return "", self.table


def types_of(kinds: dict[str, Row]) -> list[int]:
    """Token ids of all pairs, and of what was left alone, ascending."""
    places = [place for found in kinds.values()
              for place in (*found["unmatched"], *chain.from_iterable(found["pairs"]))]  # fmt: skip
    return sorted({place if isinstance(place, int) else place[-1] for place in places})


def match_types(facts: TypeFacts, rocks: Array, kind: str) -> Row:
    """`frequency` or `loss`: types of like log₁₀ n, or of like log₁₀ mean loss, one to each rock.

    Controls are no rocks and stand often enough in both halves of the prompts.
    """
    count_T, loss_T = facts.frequency_HT.sum(axis=0), facts.loss_HT.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        value_TC = np.log10(np.stack([count_T, loss_T / count_T], axis=1))
    ours = np.flatnonzero(np.isin(facts.token_T, rocks))
    able = np.setdiff1d(np.flatnonzero(facts.common_T()), ours)
    column = [KINDS.index(kind)]
    found, left = match(value_TC[ours][:, column], value_TC[able][:, column], np.array([CALIPER]))
    pairs = zip(facts.token_T[ours[found[:, 0]]], facts.token_T[able[found[:, 1]]], strict=True)
    absent = np.setdiff1d(rocks, facts.token_T).tolist()
    return {
        "pairs": [[int(rock), int(other)] for rock, other in pairs],
        "unmatched": sorted([*facts.token_T[ours[left]].tolist(), *absent]),
        "balance": balance(
            ("log10 frequency", "log10 mean loss"), value_TC[ours], value_TC[able], found
        ),
    }


def match_occurrences(
    ours: tuple[dict[str, Array], Array], others: tuple[dict[str, Array], Array], kind: str
) -> Row:
    """`occurrence` or `window`: to each sampled rock occurrence one of another type.

    Args:
        ours, others: as `Occurrences.result` gives them. For `window`, only others whose
            window holds no rock.
    """
    columns = [FEATURES.index(name) for name in OF_OCCURRENCES[kind]]
    (our_rows, our_MF), (rows, other_MF) = ours, others
    if kind == "window":
        clean = other_MF[:, FEATURES.index("rocks in window")] == 0
        rows, other_MF = {name: v[clean] for name, v in rows.items()}, other_MF[clean]
    rock_RC, other_AC = our_MF[:, columns], other_MF[:, columns]
    spread_C = np.nanstd(rock_RC, axis=0) if len(rock_RC) else np.zeros(len(columns))
    # What does not vary among the rocks must be the same.
    caliper_C = np.where(spread_C > 0, DEVIATIONS * spread_C, 1e-9)
    found, left = match(rock_RC, other_AC, caliper_C)
    ids, other_ids = _places(our_rows), _places(rows)
    return {
        "pairs": [[ids[i], other_ids[j]] for i, j in found.tolist()],
        "unmatched": [ids[i] for i in left.tolist()],
        "balance": balance(OF_OCCURRENCES[kind], rock_RC, other_AC, found),
    }


def _places(rows: dict[str, Array]) -> list[list[int]]:
    columns = (rows[name].tolist() for name in ("sequence_id", "position", "token_id"))
    return [[int(x) for x in place] for place in zip(*columns, strict=True)]
