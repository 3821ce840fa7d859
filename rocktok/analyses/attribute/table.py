"""`attribute` as tables for people, CSV or Parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rocktok.analyses.attribute.result import AttributeResult, TypeShares
from rocktok.stats.group_names import LETTERS, legend
from rocktok.stats.groups import NAMES
from rocktok.stats.intervals import FEW_PROMPTS, MIN_EFFECTIVE, WHY_NONE
from rocktok.stats.verdicts import (
    DEPENDS,
    INCONCLUSIVE,
    NOT_COMPARABLE,
    SAME,
    AdjustedComparison,
)
from rocktok.tables.adjusted import adjusted_table
from rocktok.tables.encode import Form, encode_table, kinds_of
from rocktok.tables.names import contexts_of_rocks, left_out
from rocktok.tables.terminal import View
from rocktok.tables.text import (
    Field,
    count,
    counted,
    number,
    p_value,
    percent,
    render_table,
    token,
)

Row = Mapping[str, Any]

_GROUPS = (
    Field("group", text=True),
    Field("types"),
    Field("pos"),
    Field("loss"),
    Field("grad"),
    Field("95%"),
    Field("grad/pos"),
    Field("95%"),
)
_TOKENS = (
    Field("token", text=True),
    Field("freq"),
    Field("pos"),
    Field("loss"),
    Field("grad"),
    Field("95%"),
    Field("grad²"),
    Field("grad/pos"),
    Field("", text=True, dim=True),
)
_TESTS = (
    Field("against", text=True),
    Field("difference"),
    Field("rank-bis."),
    Field("p Holm"),
    Field("p naive"),
)
_GEOMETRY = (
    Field("group", text=True),
    Field("types"),
    Field("‖mean‖"),
    Field("cos bal."),
    Field("cos glob."),
    Field("split cos"),
    Field("coherence"),
)
_MEASURES = {
    "mean_grad_norm": "mean gradient norm, median over types",
    "grad_norm_per_nat": "gradient norm per nat of loss, median over types",
}


def opening(result: AttributeResult) -> list[str]:
    """The share of the gradient norm on rocks, and its certainty."""
    step = result.log["step"]
    rocks = next(r for r in result.groups if (r["step"], r["group"]) == (step, "rocks"))
    return [
        _answer(rocks, result.tokens),
        *verdict(result.adjusted),
        _where(rocks if rocks["types"] else result.tokens[0], result.tests),
    ]


def render(result: AttributeResult, view: View | None = None) -> str:
    """Answer, groups, contrasts, directions, tokens, provenance."""
    view = view or View.plain()
    log, step = result.log, result.log["step"]
    parts = [*view.answer(opening(result)), "", *_compared(result, view)]
    if result.geometry is not None:
        parts += _geometry(result.geometry, view)
    top, everything = result.params["top"], result.params["all_types"]
    shown = view.first(result.tokens, top, everything=everything)
    parts += [
        view.heading(f"Tokens by share of the gradient norm, step {step}"),
        render_table(_TOKENS, map(_token, shown), view).rstrip("\n"),
        *view.more(result.totals["types"] - len(shown), "--all"),
        *map(view.aside, _few((*result.groups, *shown))),
        *([view.aside(legend(NAMES))] if any(row["groups"] for row in shown) else []),
        "",
        view.aside(
            f"{log['table']}/, step {step}: {count(result.totals['positions'])} positions, "
            f"{number(result.totals['loss'], 4)} nats; {counted(log['passes'], 'pass')}"
        ),
        *map(view.aside, (*contexts_of_rocks(log), *left_out(log), log["path"])),
    ]
    return "\n".join(parts) + "\n"


def _compared(result: AttributeResult, view: View) -> list[str]:
    """The groups and their contrasts; one line where there is nothing to compare."""
    step = result.log["step"]
    groups = [row for row in result.groups if row["step"] == step and row["types"]]
    if not groups:
        return ["No rocks, and so no groups of types to compare.", ""]
    parts = [
        view.heading(f"Shares by group, step {step}"),
        render_table(_GROUPS, map(_group, groups), view),
        *adjusted_table(
            result.adjusted, view, what="Mean gradient norm of rocks", types="rocks", loss="loss"
        ),
    ]
    for measure, words in _MEASURES.items():
        rows = [row for row in result.tests if row["measure"] == measure]
        parts += [view.heading(f"Rocks minus others: {words}"), *_tests(rows, view)]
    return parts


def _few(rows: Sequence[Row]) -> list[str]:
    return [WHY_NONE] if any(row.get(FEW_PROMPTS) for row in rows) else []


def _answer(rocks: Row, tokens: Sequence[Row]) -> str:
    if not tokens or rocks["grad_share"] is None:
        return "No position has a gradient, so there are no shares."
    if not rocks["types"]:
        first = tokens[0]
        return (
            f"No rock types; {token(first['token'])} has the largest share of the gradient norm, "
            f"{percent(first['grad_share'])}."
        )
    low, high = rocks["grad_share_low"], rocks["grad_share_high"]
    sure = "no interval" if low is None else f"95% interval {100 * low:.0f} to {percent(high, 0)}"
    return (
        f"{counted(rocks['types'], 'rock type')} {'carries' if rocks['types'] == 1 else 'carry'} "
        f"{percent(rocks['grad_share'], 0)} of the gradient norm at "
        f"{percent(rocks['position_share'], 0)} of the positions ({sure})."
    )


def verdict(adjusted: AdjustedComparison | None) -> list[str]:
    """Whether rocks have a larger gradient than types of similar loss; [] without a contrast."""
    if adjusted is None:
        return []
    like, said = "other types of similar loss and frequency", adjusted["verdict"]
    if said == NOT_COMPARABLE:
        return [
            f"The gradient of rocks is not comparable with that of other types: "
            f"{adjusted['supported']} of {adjusted['measured']} rocks have five other types "
            f"of similar loss (mean loss of rocks {number(adjusted['loss_first'])} nats, of others "
            f"{number(adjusted['loss_second'])})."
        ]
    if said in (DEPENDS, INCONCLUSIVE):
        how = "depends on the cutoff" if said == DEPENDS else "is undecided"
        return [f"Whether the gradient of rocks is larger or smaller than that of {like} {how}."]
    if said == SAME:
        return [f"Given the measured loss, the gradient of rocks equals that of {like}."]
    return [f"Given the measured loss, the gradient of rocks is {said} than that of {like}."]


def _where(first: Row, rows: Sequence[Row]) -> str:
    """Certainty of the shares and of the contrasts."""
    intervals = "Intervals are over prompts"
    if first["grad_share_low"] is None:
        intervals = f"No interval: fewer than {MIN_EFFECTIVE} effective prompts carry the share"
    if all("skipped" in row for row in rows):
        return f"{intervals}; no contrasts."
    halves = f"chosen on {rows[0]['chosen_on']}, measured on {rows[0]['measured_on']}"
    return f"{intervals}; contrasts: {halves}."


def _between(row: Row, name: str, *, shares: bool) -> str:
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    if low is None or high is None:
        return "–"
    if shares:
        return f"{100 * low:.1f} to {100 * high:.1f}"
    return f"{low:.2f} to {high:.2f}"


def _shares(row: Row) -> Sequence[str]:
    names = ("position_share", "loss_share", "grad_share")
    return (*(percent(row[name]) for name in names), _between(row, "grad_share", shares=True))


def _ratio(row: Row) -> str:
    return "–" if row["concentration"] is None else f"{row['concentration']:.2f}"


def _group(row: Row) -> Sequence[str]:
    between = _between(row, "concentration", shares=False)
    return (row["group"], str(row["types"]), *_shares(row), _ratio(row), between)


def _token(row: Row) -> Sequence[str]:
    marks = "".join(LETTERS[name] for name in row["groups"])
    squared = percent(row["grad_sq_share"])
    return (
        token(row["token"]),
        count(row["frequency"]),
        *_shares(row),
        squared,
        _ratio(row),
        marks,
    )


def _tests(rows: Sequence[Row], view: View) -> list[str]:
    tested = [row for row in rows if "skipped" not in row]
    skipped = [row for row in rows if "skipped" in row]
    reasons = {row["skipped"] for row in skipped}
    if len(reasons) == 1 and not tested:
        return [f"skipped: {reasons.pop()}", ""]
    lines = [f"{row['second']}: skipped: {row['skipped']}" for row in skipped]
    if tested:
        cells = (
            (
                row["second"],
                number(row["difference_of_medians"]),
                f"{row['rank_biserial']:.2f}",
                p_value(row["p_holm"]),
                p_value(row["p_types_naive"]),
            )
            for row in tested
        )
        lines.insert(0, render_table(_TESTS, cells, view).rstrip("\n"))
    return [*lines, ""]


def _geometry(found: Row, view: View) -> list[str]:
    kind = "exact" if found["exact"] else f"sketches of {found['sketch_dims']:,} dimensions"
    rows = (row for row in found["groups"] if row["step"] == found["step"])
    cells = (
        (
            row["group"],
            str(row["types"]),
            *(number(row[name]) for name in ("mean_norm", "cos_balanced", "cos_global")),
            number(row["split_cos_global"]),
            number(row["coherence"]),
        )
        for row in rows
    )
    return [
        view.heading(
            f"Directions of mean gradients, step {found['step']}, medians over types ({kind})"
        ),
        render_table(_GEOMETRY, cells, view),
    ]


def encode(result: AttributeResult, form: Form) -> bytes:
    """The tokens, with all columns."""
    kinds = kinds_of(TypeShares, result.tokens[0])
    return encode_table(result.tokens, kinds, form, result.about("tokens"))
