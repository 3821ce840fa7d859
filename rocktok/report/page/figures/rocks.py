"""Which tokens are rocks: among all types, by their contexts, and by what they are for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NotRequired, TypedDict

import numpy as np

from rocktok.analyses.detect.result import DetectResult
from rocktok.report.clusters import Clusters
from rocktok.report.naming import RockNames, rock_names
from rocktok.report.page.figures.figure import AbsentError, Figure
from rocktok.report.page.figures.points import of_types, thinned
from rocktok.report.page.figures.rule import named, with_names, with_rule
from rocktok.report.page.figures.style import group_style, label, legend_below, log_axis, write
from rocktok.report.result import ReportResult
from rocktok.stats.group_names import OTHERS, ROCKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Bins of the frequency, and types from which a bin has a band.
_BINS, _TYPES_OF_A_BIN = 14, 5

#: Rocks that are named in the funnel.
_NAMED = 8


class TypePoint(TypedDict):
    """One type."""

    token_id: int
    frequency: int
    mean_loss: float
    is_rock: bool


class Band(TypedDict):
    """Losses of the types of like frequency."""

    frequency_low: float
    frequency_high: float
    types: int
    p10: float
    median: float
    p90: float


class TokenLabel(TypedDict):
    """A type with its text."""

    token_id: int
    token: str


class FunnelNumbers(TypedDict):
    """All types; `types`: how many, of which `points` are drawn. `named`: what rocks are."""

    named: NotRequired[RockNames]
    points: list[TypePoint]
    band: list[Band]
    labels: list[TokenLabel]
    types: int


class RockPoint(TypedDict):
    """A rock with its context-consistent rock rate, and the ends of its interval."""

    token_id: int
    token: str
    rock_score: float
    ccr: float
    ccr_low: float | None
    ccr_high: float | None
    retained_share: float | None


class CcrNumbers(TypedDict):
    """Rocks with contexts; `persistence`: what counts as hard. `named`: what rocks are."""

    named: NotRequired[RockNames]
    points: list[RockPoint]
    persistence: str


class ClusterRow(TypedDict):
    """Rocks of one functional cluster."""

    cluster: str
    rocks: int
    position_share: float
    loss_share: float
    examples: list[str]


class ClustersNumbers(TypedDict):
    """All clusters, in their order; `named`: what rocks are."""

    named: NotRequired[RockNames]
    clusters: list[ClusterRow]


def _funnel_of(result: ReportResult | DetectResult) -> FunnelNumbers:
    if isinstance(result, DetectResult):
        ranked = [row["token_id"] for row in result.rocks]
        texts = {row["token_id"]: row["token"] for row in result.tokens}
        ids = [row["token_id"] for row in result.tokens]
        frequencies = [row["frequency"] for row in result.tokens]
        losses = [row["mean_loss"] for row in result.tokens]
    else:
        ranked, texts = list(result.rocks), result.token_texts
        ids, frequencies = result.types["token_id"], result.types["frequency"]
        losses = result.types["loss_post"]
    rocks = set(ranked)
    points: list[TypePoint] = [
        {"token_id": ids[i], "frequency": frequencies[i], "mean_loss": losses[i],
         "is_rock": ids[i] in rocks}
        for i in thinned(ids, rocks)
    ]  # fmt: skip
    labels: list[TokenLabel] = [{"token_id": v, "token": texts[v]} for v in ranked[:_NAMED]]
    band = _band(frequencies, losses)
    detected = result if isinstance(result, DetectResult) else result.detect
    return {"named": rock_names(detected), "points": points, "band": band, "labels": labels,
            "types": len(ids)}  # fmt: skip


def _band(frequencies: Sequence[int], losses: Sequence[float]) -> list[Band]:
    """Median and 10th to 90th percentile of the types' losses, by bins of log frequency."""
    frequency_T, loss_T = np.array(frequencies, dtype=float), np.array(losses, dtype=float)
    if not len(frequency_T):
        return []
    edges = np.geomspace(1, frequency_T.max() * 1.0001 + 1, _BINS + 1)
    bin_T = np.clip(np.searchsorted(edges, frequency_T, side="right") - 1, 0, _BINS - 1)
    rows: list[Band] = []
    for at in range(_BINS):
        in_bin = loss_T[bin_T == at]
        if len(in_bin) >= _TYPES_OF_A_BIN:
            low, median, high = np.quantile(in_bin, (0.1, 0.5, 0.9))
            rows.append(
                {"frequency_low": float(edges[at]), "frequency_high": float(edges[at + 1]),
                 "types": len(in_bin), "p10": float(low), "median": float(median),
                 "p90": float(high)}
            )  # fmt: skip
    return rows


def _funnel_caption(numbers: FunnelNumbers) -> str:
    text = (
        "Mean loss of every token type against how often it occurs in the text. The line is the "
        "median of types of like frequency, the band their 10th to 90th percentile. Rare types "
        "spread more by chance alone."
    )
    drawn = len(numbers["points"])
    if drawn < numbers["types"]:
        text += f" {drawn:,} of {numbers['types']:,} types are drawn as points."
    return with_rule(text, numbers)


def _draw_funnel(ax: Axes, numbers: FunnelNumbers) -> None:
    """Mean loss of every type against its frequency, rocks marked; median and 10–90% of all."""
    some = any(p["is_rock"] for p in numbers["points"])
    for rock in (False, True) if some else (False,):
        points = [p for p in numbers["points"] if p["is_rock"] == rock]
        style = group_style(ROCKS.name if rock else OTHERS.name)
        # Points of a large vocabulary as one picture: a path each would make the file heavy.
        (line,) = ax.plot(
            [p["frequency"] for p in points], [p["mean_loss"] for p in points], linestyle="",
            marker="o" if rock else ".", markersize=3.2 if rock else 2.4, color=style["color"],
            markeredgewidth=0.3, markeredgecolor="white" if rock else style["color"],
            label=named(numbers) if rock else f"{'other ' * some}types",
            rasterized=len(points) > 500, zorder=3 if rock else 1,
        )  # fmt: skip
        of_types(line, [p["token_id"] for p in points])
    band = numbers["band"]
    # Bins are of whole numbers below their upper edge: one that holds 1 alone stands at 1.
    ends = [(np.ceil(r["frequency_low"]), np.ceil(r["frequency_high"]) - 1) for r in band]
    middle = [np.sqrt(low * max(low, high)) for low, high in ends]
    ax.plot(middle, [row["median"] for row in band], color="black", zorder=2, label="median")
    ax.fill_between(
        middle, [row["p10"] for row in band], [row["p90"] for row in band], color="black",
        alpha=0.13, linewidth=0, zorder=0, label="10–90%",
    )  # fmt: skip
    places = {p["token_id"]: (p["frequency"], p["mean_loss"]) for p in numbers["points"]}
    _labelled(ax, [(places[one["token_id"]], one["token"]) for one in numbers["labels"]])
    log_axis(ax.xaxis)
    _log_or_linear(ax, [p["mean_loss"] for p in numbers["points"]])
    ax.set_xlabel("occurrences of the type")
    ax.set_ylabel("mean loss (nats)")
    legend_below(ax)


def _labelled(ax: Axes, named: list[tuple[tuple[float, float], str]]) -> None:
    """Texts beside their points, in their order; one that would lie over another is left out.

    Places are compared on logarithmic axes, in hundredths of a decade.
    """
    taken: list[tuple[float, float]] = []
    for (x, y), text in named:
        place = float(np.log10(x)), float(np.log10(y)) if y > 0 else -9.0
        if any(abs(place[0] - a) < 0.75 and abs(place[1] - b) < 0.17 for a, b in taken):
            continue
        taken.append(place)
        write(ax, label(text), (x, y), (3, 2))


def _log_or_linear(ax: Axes, values: list[float]) -> None:
    """A logarithmic axis from the smallest positive value that matters."""
    positive = [value for value in values if value > 0]
    if positive:
        log_axis(ax.yaxis)
        ax.set_ylim(bottom=max(min(positive) / 1.5, max(positive) * 1e-5))


def _ccr_of(result: DetectResult) -> CcrNumbers:
    points: list[RockPoint] = [
        {"token_id": row["token_id"], "token": row["token"], "rock_score": row["rock_score"],
         "ccr": row["ccr"], "ccr_low": row["ccr_low"], "ccr_high": row["ccr_high"],
         "retained_share": (row["retained"] or 0) / row["persistent"]
         if row["persistent"] else None}
        for row in result.rocks
        if row["ccr"] is not None
    ]  # fmt: skip
    if not points:
        raise AbsentError("no type has a context-consistent rock rate")
    return {"named": rock_names(result), "points": points,
            "persistence": result.params["persistence"]}  # fmt: skip


def _ccr_caption(numbers: CcrNumbers) -> str:
    recalcitrant = numbers["persistence"] == "recalcitrant"
    hard = "hard at first, hardly better later" if recalcitrant else "hard at both steps"
    text = (
        f"Each rock: share of its occurrences that are retained ({hard}, in recurring "
        "contexts) against its Rock Score, the sum of its losses. Dark: most of its hard "
        "occurrences recur."
    )
    return with_rule(text, numbers)


def _draw_ccr(ax: Axes, numbers: CcrNumbers) -> None:
    """Context-consistent rock rate against Rock Score; the darker, the more is retained."""
    points = numbers["points"]
    retained = np.array([p["retained_share"] for p in points], dtype=float)
    drawn = ax.scatter(
        [p["rock_score"] for p in points], [p["ccr"] for p in points],
        c=retained, cmap="cividis_r", vmin=0, vmax=1, s=13,
        edgecolors="black", linewidths=0.3, rasterized=len(points) > 500,
    )  # fmt: skip
    of_types(drawn, [p["token_id"] for p in points])
    for p in points:
        if p["ccr_low"] is not None and p["ccr_high"] is not None:
            ax.vlines(p["rock_score"], p["ccr_low"], p["ccr_high"], color="black", linewidth=0.4)
    largest = sorted(points, key=lambda p: -p["rock_score"] * p["ccr"])[:8]
    taken: list[tuple[float, float]] = []
    for p in largest:
        place = float(np.log10(p["rock_score"])), p["ccr"]
        if not any(abs(place[0] - a) < 0.7 and abs(place[1] - b) < 0.06 for a, b in taken):
            taken.append(place)
            write(ax, label(p["token"]), (p["rock_score"], p["ccr"]), (3, 3))
    log_axis(ax.xaxis)
    ax.set_ylim(-0.03, 1.1)
    ax.set_xlabel(with_names("Rock Score (nats)", numbers))
    ax.set_ylabel("CCR")
    bar = ax.figure.colorbar(drawn, ax=ax, pad=0.02, aspect=30)
    bar.set_label("retained of persistent")
    bar.outline.set_linewidth(0.4)


def _clusters_of(result: ReportResult | DetectResult) -> ClustersNumbers:
    if isinstance(result, ReportResult):
        detected, names, clusters = result.detect, result.cluster_names, result.clusters
    else:
        rules = Clusters()
        detected, names = result, rules.names
        clusters = {row["token_id"]: rules.of(row["token"]) for row in result.rocks}
    if not detected.rocks:
        raise AbsentError("no rocks")
    total = detected.totals["positions"]
    rows: list[ClusterRow] = []
    for name in names:
        rocks = [row for row in detected.rocks if clusters[row["token_id"]] == name]
        rows.append(
            {"cluster": name, "rocks": len(rocks),
             "position_share": sum(row["frequency"] for row in rocks) / total,
             "loss_share": sum(row["loss_share"] or 0.0 for row in rocks),
             "examples": [row["token"] for row in rocks[:3]]}
        )  # fmt: skip
    return {"named": rock_names(detected), "clusters": rows}


def _draw_clusters(ax: Axes, numbers: ClustersNumbers) -> None:
    """Rock types by what their tokens are for: how many, and their share of positions and loss."""
    rows = numbers["clusters"]
    place = np.arange(len(rows))[::-1]
    ax.barh(place + 0.2, [100 * row["loss_share"] for row in rows], 0.38, color="#D55E00",
            label="of the loss")  # fmt: skip
    ax.barh(place - 0.2, [100 * row["position_share"] for row in rows], 0.38, color="#BBBBBB",
            hatch="////", edgecolor="white", linewidth=0, label="of the positions")  # fmt: skip
    reach = max([1.0, *(100 * max(r["loss_share"], r["position_share"]) for r in rows)])
    for at, row in zip(place, rows, strict=True):
        examples = " ".join(label(text, 9) for text in row["examples"][:2])
        far = 100 * max(row["loss_share"], row["position_share"])
        write(ax, f"{row['rocks']}  {examples}", (far, at), (3, 0), va="center")
    ax.set_yticks(place, [row["cluster"].replace(" and ", "\nand ") for row in rows])
    # Room for the text beside the longest bar, with no tick above 100%.
    ax.set_xlim(0, reach * 1.45)
    ax.set_xticks(_share_ticks(reach))
    ax.set_xlabel("share of all (%)")
    legend_below(ax, title=f"numbers: {named(numbers, 'rock types')}")


def _share_ticks(reach: float) -> list[float]:
    """Round percentages from 0 to `reach`, none above 100."""
    from matplotlib.ticker import MaxNLocator

    ticks = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(0, min(100.0, reach))
    return [float(tick) for tick in ticks if 0 <= tick <= 100]


funnel = Figure[ReportResult | DetectResult, FunnelNumbers](
    "funnel",
    "Loss and frequency",
    _funnel_caption,
    rests_on=(ReportResult, DetectResult),
    numbers_of=_funnel_of,
    draw=_draw_funnel,
    shared_axes="xy",
)
ccr = Figure(
    "ccr",
    "Context-consistent rock rate",
    _ccr_caption,
    rests_on=(DetectResult,),
    numbers_of=_ccr_of,
    draw=_draw_ccr,
    part=lambda report: report.detect,
    shared_axes="xy",
)
clusters = Figure[ReportResult | DetectResult, ClustersNumbers](
    "clusters",
    "What rocks are for",
    partial(
        with_rule,
        "Rock types by the look of their text: how many, the likeliest of them, and their shares "
        "of the positions and of the loss.",
    ),
    rests_on=(ReportResult, DetectResult),
    numbers_of=_clusters_of,
    draw=_draw_clusters,
    shared_axes="x",
    table="clusters",
)
