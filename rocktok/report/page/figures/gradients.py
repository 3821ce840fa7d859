"""Figures of the gradient: shares of its norm, and its directions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np

from rocktok.analyses.attribute.result import AttributeResult
from rocktok.report.page.figures.figure import AbsentError, Figure
from rocktok.report.page.figures.points import GroupValues, by_group, strips
from rocktok.report.page.figures.style import legend_below, log_axis
from rocktok.stats.group_names import LABELS
from rocktok.stats.groups import NAMES
from rocktok.tables.text import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class GroupShares(TypedDict):
    """Shares of a group, with the ends of their intervals."""

    group: str
    types: int
    position_share: float | None
    position_share_low: float | None
    position_share_high: float | None
    loss_share: float | None
    loss_share_low: float | None
    loss_share_high: float | None
    grad_share: float | None
    grad_share_low: float | None
    grad_share_high: float | None


class SharesNumbers(TypedDict):
    """Shares of the groups that have types, at one step."""

    step: int
    groups: list[GroupShares]


class GradientNumbers(TypedDict):
    """One measure of the types, by group, at one step."""

    measure: str
    step: int
    groups: list[GroupValues]


_Share = Literal["position_share", "loss_share", "grad_share"]
_Low = Literal["position_share_low", "loss_share_low", "grad_share_low"]
_High = Literal["position_share_high", "loss_share_high", "grad_share_high"]

_SHARES: tuple[tuple[_Share, _Low, _High, str, str, str | None], ...] = (
    ("position_share", "position_share_low", "position_share_high", "positions", "#BBBBBB", "////"),
    ("loss_share", "loss_share_low", "loss_share_high", "loss", "#0072B2", None),
    ("grad_share", "grad_share_low", "grad_share_high", "gradient norm", "#D55E00", "\\\\\\\\"),
)


#: Groups are rocks, or what they are held against.
_NO_GROUPS = "no rocks to hold against other types"


def _shares_of(result: AttributeResult) -> SharesNumbers:
    groups: list[GroupShares] = [
        {
            "group": row["group"],
            "types": row["types"],
            "position_share": row["position_share"],
            "position_share_low": row.get("position_share_low"),
            "position_share_high": row.get("position_share_high"),
            "loss_share": row["loss_share"],
            "loss_share_low": row.get("loss_share_low"),
            "loss_share_high": row.get("loss_share_high"),
            "grad_share": row["grad_share"],
            "grad_share_low": row.get("grad_share_low"),
            "grad_share_high": row.get("grad_share_high"),
        }
        for row in result.groups
        if row["step"] == result.log["step"] and row["types"]
    ]
    if not groups:
        raise AbsentError(_NO_GROUPS)
    return {"step": result.log["step"], "groups": groups}


def _draw_shares(ax: Axes, numbers: SharesNumbers) -> None:
    """Shares of positions, loss and gradient norm by group, with 95% intervals."""
    groups = numbers["groups"]
    place = np.arange(len(groups))
    for at, (share, low, high, text, color, hatch) in enumerate(_SHARES):
        heights = 100 * np.array([row[share] for row in groups], dtype=float)
        x = place + (at - 1) * 0.27
        ax.bar(x, heights, 0.25, color=color, hatch=hatch, edgecolor="white", linewidth=0,
               label=text)  # fmt: skip
        for x_of, row in zip(x, groups, strict=True):
            bottom, top = row[low], row[high]
            if bottom is not None and top is not None:
                ax.vlines(x_of, 100 * bottom, 100 * top, color="black", linewidth=0.8)
    ax.set_xticks(place, [f"{LABELS[r['group']]}\n({counted(r['types'], 'type')})" for r in groups])
    ax.set_ylabel("share of all (%)")
    legend_below(ax, 3)


def _measured(
    result: AttributeResult, rows: Iterable[Mapping[str, Any]], measure: str
) -> list[GroupValues]:
    values = {row["token_id"]: row[measure] for row in rows}
    members: Mapping[str, Any] = result.members
    return by_group({name: [(v, values.get(v)) for v in members.get(name) or ()] for name in NAMES})


def _norms_of(result: AttributeResult) -> GradientNumbers:
    geometry, measure = result.geometry, "mean_norm"
    if geometry is None:
        measure = "mean_grad_norm"
        groups, step = _measured(result, result.tokens, measure), result.log["step"]
    else:
        groups, step = _measured(result, geometry["tokens"], measure), geometry["step"]
    if not groups:
        raise AbsentError(_NO_GROUPS)
    return {"measure": measure, "step": step, "groups": groups}


def _norms_caption(numbers: GradientNumbers) -> str:
    if numbers["measure"] == "mean_grad_norm":
        return "Mean gradient norm of each type; bars are medians. No directions were recorded."
    return (
        "One point for each type. The mean gradient of a rare type is larger by noise alone: it "
        "falls as one over the root of the occurrences."
    )


def _draw_norms(ax: Axes, numbers: GradientNumbers) -> None:
    """Size of the types' gradients by group; bars are medians."""
    mean = numbers["measure"] == "mean_norm"
    strips(
        ax,
        numbers["groups"],
        "norm of the mean gradient (nats/logit)" if mean else "mean gradient norm (nats/logit)",
    )
    values = [one["value"] for group in numbers["groups"] for one in group["types"]]
    if values and min(values) > 0:
        log_axis(ax.yaxis)


def _cosines_of(result: AttributeResult) -> GradientNumbers:
    if result.geometry is None:
        raise AbsentError("the log has no gradient sums")
    measure = "split_cos_global"
    groups = _measured(result, result.geometry["tokens"], measure)
    if not groups:
        raise AbsentError("no type of a group has gradient sums")
    return {"measure": measure, "step": result.geometry["step"], "groups": groups}


def _draw_cosines(ax: Axes, numbers: GradientNumbers) -> None:
    """Cosine of a type's mean gradient with the sum of all others', other prompts."""
    strips(ax, numbers["groups"], "cosine with all others' gradient")
    ax.axhline(0, color="black", linewidth=0.5, linestyle=":")


shares = Figure(
    "shares",
    "Shares of positions, loss and gradient",
    "Of all positions, of the loss and of the summed gradient norms, with 95% intervals over "
    "prompts. Norms are summed; vectors cancel.",
    rests_on=(AttributeResult,),
    numbers_of=_shares_of,
    draw=_draw_shares,
    part=lambda report: report.attribute,
    shared_axes="y",
)
gradient_norm = Figure(
    "gradient_norm",
    "Size of the gradient",
    _norms_caption,
    rests_on=(AttributeResult,),
    numbers_of=_norms_of,
    draw=_draw_norms,
    part=lambda report: report.attribute,
)
gradient_cosine = Figure(
    "gradient_cosine",
    "Direction of the gradient",
    "Of types with gradient sums in both halves of the prompts: cosine of a type's mean "
    "gradient in one half with the sum of all others' "
    "in the other half. Zero: it points nowhere in particular.",
    rests_on=(AttributeResult,),
    numbers_of=_cosines_of,
    draw=_draw_cosines,
    part=lambda report: report.attribute,
)
