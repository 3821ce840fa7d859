"""`controls` as tables for people, CSV or Parquet."""

from __future__ import annotations

import textwrap
from typing import Any

from rocktok.analyse.controls import ControlsResult
from rocktok.report.encode import Form, encode_rows
from rocktok.report.text import Field, count, render_table

Row = dict[str, Any]

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
        "",
        "Standardised mean differences, rocks less others, before and after matching",
        render_table(_BALANCE, cells).rstrip("\n"),
        f"! unbalanced: beyond ±{UNBALANCED}  alone: no like within the caliper",
    ]
    for kind, found in result.kinds.items():
        alone = found["unmatched"]
        if alone:
            shown = ", ".join(_one(place) for place in alone[:_SHOWN])
            more = f" and {count(len(alone) - _SHOWN)} more" if len(alone) > _SHOWN else ""
            what = f"{kind}: nothing like {_WHAT[kind]}"
            parts += ["", what, textwrap.fill(f"{shown}{more}", 78, initial_indent="  ",
                                              subsequent_indent="  ")]  # fmt: skip
    return "\n".join(parts) + "\n"


_WHAT = {
    "frequency": "the types",
    "loss": "the types",
    "occurrence": "sequence:position",
    "window": "sequence:position",
}


def _one(place: int | list[int]) -> str:
    return str(place) if isinstance(place, int) else f"{place[0]}:{place[1]}"


def _difference(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"


def encode(result: ControlsResult, form: Form) -> bytes:
    """One row per pair."""
    names = [f"{side}_{name}" for side in ("rock", "control")
             for name in ("sequence_id", "position", "token_id")]  # fmt: skip
    about = result.to_dict()
    return encode_rows(result.rows(), ["kind", *names], set(names), form, about)
