"""Do they learn: losses at two steps, and over all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import numpy as np

from rocktok.analyses.stagnation.result import StagnationResult
from rocktok.report.naming import RockNames, rock_names
from rocktok.report.page.figures.figure import AbsentError, Figure
from rocktok.report.page.figures.points import ENOUGH as ENOUGH_TYPES
from rocktok.report.page.figures.points import (
    GroupValues,
    by_group,
    of_types,
    size,
    strips,
    thinned,
)
from rocktok.report.page.figures.rule import named, with_rule
from rocktok.report.page.figures.style import group_style, legend_below, log_axis
from rocktok.report.result import ReportResult
from rocktok.stats.group_names import ALL_POSITIONS, LABELS, NAMES, OTHERS, ROCKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Occurrences from which the mean loss of a type is drawn against another.
ENOUGH = 20


class TwoLosses(TypedDict):
    """One type at two steps."""

    token_id: int
    frequency: int
    loss_pre: float
    loss_post: float
    is_rock: bool


class EarlyLateNumbers(TypedDict):
    """Types at two steps; `types`: how many, of which `points` are drawn. `named`: the rocks."""

    named: NotRequired[RockNames]
    pre: int | None
    post: int
    points: list[TwoLosses]
    types: int


class DeltaNumbers(TypedDict):
    """Changes of loss by group; `chosen`: on one half of the prompts, measured on the other."""

    pre: int
    post: int
    table: str
    groups: list[GroupValues]
    chosen: bool


class CurvePoint(TypedDict):
    """Mean loss at a step, with its interval; None where no type of the group stands there."""

    step: int
    loss: float | None
    low: float | None
    high: float | None


class Kept(TypedDict):
    """The share of the loss at the step of choice that is left at the last, with its interval."""

    share: float | None
    low: float | None
    high: float | None


class Line(TypedDict):
    """A group's losses over the steps; `kept`: from the step on at which groups were chosen."""

    group: str
    types: int | None
    curve: list[CurvePoint]
    kept: NotRequired[Kept]


class StagnationNumbers(TypedDict):
    """Losses over the steps; `chosen`: on one half of the prompts, measured on the other.

    `pre`, `post`: steps between which changes are measured; losses up to pre chose the groups.

    `rollouts`: of several logs, those whose losses are of each step's own rollouts; None: all.
    """

    table: str
    text: str
    lines: list[Line]
    chosen: bool
    pre: NotRequired[int]
    post: NotRequired[int]
    rollouts: NotRequired[list[str] | None]


def _early_late_of(result: ReportResult) -> EarlyLateNumbers:
    rocks = set(result.rocks)
    columns = (result.types[k] for k in ("token_id", "frequency", "loss_pre", "loss_post"))
    at_both = [
        (v, n, first, last)
        for v, n, first, last in zip(*columns, strict=True)
        if first is not None and n >= ENOUGH and first > 0 and last > 0
    ]
    if not at_both:
        two_steps = result.log["pre"] is not None
        raise AbsentError(
            f"no type with loss occurs {ENOUGH} times at two steps",
            "record more sequences" if two_steps else None,
        )
    points: list[TwoLosses] = [
        {"token_id": v, "frequency": n, "loss_pre": first, "loss_post": last,
         "is_rock": v in rocks}
        for v, n, first, last in map(at_both.__getitem__, thinned([v for v, *_ in at_both], rocks))
    ]  # fmt: skip
    return {"named": rock_names(result.detect), "pre": result.log["pre"],
            "post": result.log["post"], "points": points, "types": len(at_both)}  # fmt: skip


def _early_late_caption(numbers: EarlyLateNumbers) -> str:
    text = (
        "Mean loss of each type with 20 occurrences or more at two steps, on the same text. Below "
        "the line is learned."
    )
    if any(point["is_rock"] for point in numbers["points"]):
        text += " Rocks are chosen by what is drawn here, so they lie high by choice."
    return with_rule(text, numbers)


def _draw_early_late(ax: Axes, numbers: EarlyLateNumbers) -> None:
    """Mean loss of each type at the earlier and the later step; on the line nothing was learned."""
    values = [loss for p in numbers["points"] for loss in (p["loss_pre"], p["loss_post"])]
    ends = max(min(values) / 1.5, max(values) * 1e-5), max(values) * 1.5
    ax.plot(ends, ends, color="black", linewidth=0.7, linestyle="--", label="no change")
    some = any(p["is_rock"] for p in numbers["points"])
    for rock in (False, True) if some else (False,):
        points = [p for p in numbers["points"] if p["is_rock"] == rock]
        style = group_style(ROCKS.name if rock else OTHERS.name)
        (line,) = ax.plot(
            [p["loss_pre"] for p in points], [p["loss_post"] for p in points], linestyle="",
            marker="o" if rock else ".", markersize=3.2, color=style["color"],
            markeredgewidth=0.3, markeredgecolor="white" if rock else style["color"],
            label=f"{len(points)} of {named(numbers)}" if rock
            else f"{'other ' * some}types ({len(points)})",
            rasterized=len(points) > 500,
        )  # fmt: skip
        of_types(line, [p["token_id"] for p in points])
    log_axis(ax.xaxis)
    ax.set_xlim(*ends)
    log_axis(ax.yaxis)
    ax.set_ylim(*ends)
    ax.set_xlabel(f"mean loss at step {numbers['pre']} (nats)")
    ax.set_ylabel(f"mean loss at step {numbers['post']} (nats)")
    legend_below(ax)


def _how_chosen(groups: Iterable[str]) -> str:
    """How groups are chosen, in a caption."""
    rocks = (
        "rocks at the first two steps of fixed text (so they are not quite the list of this page), "
    )
    return (
        " Groups are chosen on one half of the prompts and measured on the other: "
        f"{rocks * (ROCKS.name in groups)}high loss, the types with the most loss, at the step "
        "from which changes are measured."
    )


def _of_rollouts(whose: str) -> str:
    return f" {whose} step's own rollouts: learning and drift of the contexts are mixed."


def _delta_of(result: StagnationResult) -> DeltaNumbers:
    groups = by_group(
        {
            name: [(r["token_id"], r["delta_kl"]) for r in result.tokens if name in r["groups"]]
            for name in NAMES
        }
    )
    if not groups:
        raise AbsentError(
            "no type occurs often enough in both halves of the prompts", "record more prompts"
        )
    return {"pre": result.log["pre"], "post": result.log["post"],
            "table": result.log["table"], "groups": groups,
            "chosen": result.log["descriptive"] is None}  # fmt: skip


def _delta_caption(numbers: DeltaNumbers) -> str:
    text = (
        "ΔKL of each type of a group; bars are medians. Linear up to 0.1, logarithmic beyond."
        + (_how_chosen([g["group"] for g in numbers["groups"]]) if numbers.get("chosen") else "")
    )
    return text + _of_rollouts("Each") if numbers["table"] == "rollout" else text


def _draw_delta(ax: Axes, numbers: DeltaNumbers) -> None:
    """Change of the types' mean losses by group; below zero: learned."""
    strips(ax, numbers["groups"], f"ΔKL, step {numbers['pre']} to {numbers['post']} (nats)")
    ax.axhline(0, color="black", linewidth=0.5, linestyle=":")
    # Most changes are small beside the largest: linear up to a tenth of a nat, then logarithmic.
    ax.set_yscale("symlog", linthresh=0.1)
    values = [one["value"] for group in numbers["groups"] for one in group["types"]]
    low, high = min(-0.1, *values) * 1.4, max(0.1, *values) * 1.4
    ticks = [tick for tick in (-10, -3, -1, -0.3, -0.1, 0, 0.1, 0.3, 1, 3, 10) if low < tick < high]
    ax.set_yticks(ticks, [f"{tick:g}".replace("-", "−") for tick in ticks])
    ax.set_ylim(low, high)
    ax.minorticks_off()


def _kept(row: Mapping[str, Any]) -> Kept:
    share, low, high = (row.get(f"stagnation{end}") for end in ("", "_low", "_high"))
    return {"share": share, "low": low, "high": high}


def _stagnation_of(result: StagnationResult) -> StagnationNumbers:
    corpus: list[CurvePoint] = [
        {"step": row["step"], "loss": row["loss"], "low": row["loss_low"], "high": row["loss_high"]}
        for row in result.corpus["curve"]
    ]
    lines: list[Line] = [
        {"group": ALL_POSITIONS.name, "types": None, "curve": corpus, "kept": _kept(result.corpus)}
    ]
    for group in result.groups:
        curve: list[CurvePoint] = [
            {"step": row["step"], "loss": row.get("loss"), "low": row.get("loss_low"),
             "high": row.get("loss_high")}
            for row in result.curves
            if row["group"] == group["group"]
        ]  # fmt: skip
        if group["types_at_both_ends"]:
            lines.append(
                {
                    "group": group["group"],
                    "types": group["types"],
                    "curve": curve,
                    "kept": _kept(group),
                }
            )
    return {"table": result.log["table"], "text": result.log["text"], "lines": lines,
            "pre": result.log["pre"], "post": result.log["post"],
            "chosen": result.log["descriptive"] is None}  # fmt: skip


def _stagnation_of_several(by_log: Mapping[str, StagnationNumbers]) -> StagnationNumbers:
    """The first log's with the lines of all, and which are of rollouts."""
    numbers = next(iter(by_log.values())).copy()
    numbers["lines"] = [line for one in by_log.values() for line in one["lines"]]
    rollouts = [name for name, one in by_log.items() if one["table"] == "rollout"]
    if rollouts:
        numbers["table"] = "rollout"
        numbers["rollouts"] = rollouts if len(rollouts) < len(by_log) else None
    return numbers


def _stagnation_caption(numbers: StagnationNumbers) -> str:
    text = "Mean loss of a group's types, each counting the same; bands are 95% over prompts." + (
        _how_chosen([line["group"] for line in numbers["lines"]]) if numbers.get("chosen") else ""
    )
    if numbers["table"] != "rollout":
        return text
    rollouts = numbers.get("rollouts")
    return text + _of_rollouts(f"Of {', '.join(rollouts)}: each" if rollouts else "Each")


def _draw_stagnation(ax: Axes, numbers: StagnationNumbers) -> None:
    """Mean loss over the steps by group, with 95% bands over prompts."""
    from matplotlib.ticker import MaxNLocator

    for line in numbers["lines"]:
        style = group_style(line["group"])
        steps = [point["step"] for point in line["curve"]]
        low = np.array([point["low"] for point in line["curve"]], dtype=float)
        middle = np.array([point["loss"] for point in line["curve"]], dtype=float)
        high = np.array([point["high"] for point in line["curve"]], dtype=float)
        types = line["types"]
        held = "" if types is None else f" ({size(types)})"
        ax.plot(steps, middle, **style, label=f"{LABELS[line['group']]}{held}")
        if types is None or types >= ENOUGH_TYPES:
            ax.fill_between(steps, low, high, color=style["color"], alpha=0.15, linewidth=0)
    log_axis(ax.yaxis)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.set_xlabel("optimizer steps")
    ax.set_ylabel("mean loss (nats)")
    legend_below(ax)


early_late = Figure(
    "early_late",
    "Early against late loss",
    _early_late_caption,
    rests_on=(ReportResult,),
    numbers_of=_early_late_of,
    draw=_draw_early_late,
)
delta_kl = Figure(
    "delta_kl",
    "Change of the loss",
    _delta_caption,
    rests_on=(StagnationResult,),
    numbers_of=_delta_of,
    draw=_draw_delta,
    part=lambda report: report.stagnation,
)
stagnation = Figure(
    "stagnation",
    "Loss over training",
    _stagnation_caption,
    rests_on=(StagnationResult,),
    numbers_of=_stagnation_of,
    draw=_draw_stagnation,
    part=lambda report: report.stagnation,
    shared_axes="xy",
    common=_stagnation_of_several,
)
