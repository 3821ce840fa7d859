"""`weights` as text for people."""

from __future__ import annotations

from rocktok.analyses.weights.result import WeightsResult
from rocktok.tables.terminal import View
from rocktok.tables.text import Field, counted, percent, render_table, token

_FIELDS = (
    Field("token", text=True),
    Field("id"),
    Field("loss"),
    Field("positions"),
    Field("", text=True, dim=True),
)


def opening(result: WeightsResult) -> list[str]:
    """What is weighted, and by what rule."""
    weights, budget, number = result.weights, result.weights.budget, len(result.tokens)
    near = ""
    if weights.radius:
        near = f", and so do positions within {weights.radius} of retained contexts"
    return [
        f"{counted(number, 'token type')} {'gets' if number == 1 else 'get'} weight "
        f"{weights.weight:g}{near}. The types carry {percent(budget.loss_share)} of the loss at "
        f"{percent(budget.token_share)} of the positions.",
        _how(result),
    ]


def _how(result: WeightsResult) -> str:
    rocks, target, budget = counted(result.rocks, "rock"), result.target, result.weights.budget
    select = result.weights.select
    if select == "rocks":
        return f"Selected: the {rocks} of the file."
    assert target.loss_share is not None
    assert budget.loss_share is not None
    over = budget.loss_share - target.loss_share
    theirs = f"{percent(target.loss_share)}, at {percent(target.token_share)} of the positions"
    also = f"{sum(row['rock'] for row in result.tokens):,} of the types are rocks"
    if over < -1e-9:
        return (
            f"All that can be selected by {select}: {percent(-over)} less than the loss of the "
            f"{rocks} ({theirs}); {also}."
        )
    return (
        f"Selected by {select} until they reach the loss of the {rocks} ({theirs}): "
        f"{percent(over)} more; {also}."
    )


def render(result: WeightsResult, view: View | None = None) -> str:
    """The answer, one row per type, provenance."""
    view = view or View.plain()
    shown = view.first(result.tokens)
    cells = [
        (
            token(row["token"]),
            str(row["token_id"]),
            percent(row["loss_share"]),
            percent(row["token_share"]),
            "r" if row["rock"] else "",
        )
        for row in shown
    ]
    log = result.weights.provenance.log
    parts = [
        *view.answer(opening(result)),
        "",
        render_table(_FIELDS, cells, view).rstrip("\n"),
        *view.more(len(result.tokens) - len(shown), "--all", "types"),
        view.aside("r rock  loss, positions: shares at the later step"),
        "",
    ]
    if result.mask is not None:
        mask = result.mask
        parts += [
            view.prose(
                f"mask: {counted(mask['positions'], 'position')}, {mask['weighted']:,} with weight "
                f"{result.weights.weight:g}, {mask['by_radius']:,} of these by the radius alone"
            ),
            "",
        ]
    steps = result.weights.provenance.steps
    where = f"step {steps['post']}"
    if steps["pre"] is not None:
        where = f"step {steps['pre']} to {steps['post']}"
    parts += [view.aside(f"{log['table']}/, {where}"), view.aside(str(log["path"]))]
    return "\n".join(parts) + "\n"
