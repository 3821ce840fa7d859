"""`controls` as tables for people, CSV or Parquet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rocktok.analyses.controls.result import ControlsResult
from rocktok.tables.encode import Form, encode_rows
from rocktok.tables.names import left_out
from rocktok.tables.text import Field, count, filled, render_table, token

Row = Mapping[str, Any]

_BALANCE = (
    Field("kind", text=True),
    Field("covariate", text=True),
    Field("pairs"),
    Field("alone"),
    Field("before"),
    Field("after"),
    Field("", text=True),
)

#: |standardised mean difference| above which a covariate counts as unbalanced (Austin 2011).
UNBALANCED = 0.1

#: Of what could not be matched; JSON has all.
_SHOWN = 20


def render(result: ControlsResult) -> str:
    """Summary, balance of each kind, and what could not be matched."""
    log = result.log
    cells = []
    for kind, found in result.kinds.items():
        for i, row in enumerate(found["balance"]):
            after = row["smd_after"]
            cells.append(
                (
                    kind if i == 0 else "",
                    row["covariate"],
                    count(row["pairs"]) if i == 0 else "",
                    count(len(found["unmatched"])) if i == 0 else "",
                    _difference(row["smd_before"]),
                    _difference(after),
                    "!" if after is not None and abs(after) > UNBALANCED else "",
                )
            )
    parts = [
        f"controls of {len(log['rocks'])} rocks in {log['table']}/, step {log['step']} "
        f"({log['path']})",
        f"{log['passes']} passes; one log is one training run",
        *left_out(log),
        "",
        "Standardised mean differences, rocks less others, before and after matching",
        render_table(_BALANCE, cells).rstrip("\n"),
        f"! unbalanced: beyond ±{UNBALANCED}  alone: no like within the caliper",
    ]
    for kind, found in result.kinds.items():
        alone = found["unmatched"]
        if alone:
            shown = [_one(place, result) for place in alone[:_SHOWN]]
            if len(alone) > _SHOWN:
                shown.append(f"and {count(len(alone) - _SHOWN)} more")
            parts += ["", f"{kind}: nothing like {_WHAT[kind]}", filled(shown)]
    return "\n".join(parts) + "\n"


_WHAT = {
    "frequency": "the types",
    "loss": "the types",
    "occurrence": "sequence:position token",
    "window": "sequence:position token",
}


def _one(place: int | list[int], result: ControlsResult) -> str:
    if isinstance(place, int):
        return token(result.text(place))
    return f"{place[0]}:{place[1]} {token(result.text(place[2]))}"


def _difference(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"


def encode(result: ControlsResult, form: Form) -> bytes:
    """One row per pair."""
    names = [f"{side}_{name}" for side in ("rock", "control")
             for name in ("sequence_id", "position", "token_id", "token")]  # fmt: skip
    return encode_rows(result.rows(), ["kind", *names], set(names), form, result.to_dict())
