"""Which tokens are rocks, how sure that is, and where they stand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rocktok.report.page.figures.style import (
    group_style,
    label,
    legend_below,
    log_axis,
    panel,
    write,
)

Numbers = Mapping[str, Any]


def _funnel(ax: Any, numbers: Numbers) -> None:
    """Mean loss of every type against its frequency, rocks marked; median and 10–90% of all."""
    for rock in (False, True):
        points = [p for p in numbers["points"] if p["is_rock"] == rock]
        style = group_style("rocks" if rock else "others")
        # Points of a large vocabulary as one picture: a path each would make the file heavy.
        ax.plot(
            [p["frequency"] for p in points], [p["mean_loss"] for p in points], linestyle="",
            marker="o" if rock else ".", markersize=3.2 if rock else 2.4, color=style["color"],
            markeredgewidth=0.3, markeredgecolor="white" if rock else style["color"],
            label="rocks" if rock else "other types", rasterized=len(points) > 500,
            zorder=3 if rock else 1,
        )  # fmt: skip
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
    legend_below(ax, 4)


def _labelled(ax: Any, named: list[tuple[tuple[float, float], str]]) -> None:
    """Texts beside their points, in the order given; one that would lie over another is left out.

    Places are compared on logarithmic axes, in hundredths of a decade.
    """
    taken: list[tuple[float, float]] = []
    for (x, y), text in named:
        place = float(np.log10(x)), float(np.log10(y)) if y > 0 else -9.0
        if any(abs(place[0] - a) < 0.75 and abs(place[1] - b) < 0.17 for a, b in taken):
            continue
        taken.append(place)
        write(ax, label(text), (x, y), xytext=(3, 2), textcoords="offset points", fontsize=5.5)


def _log_or_linear(ax: Any, values: list[float]) -> None:
    """A logarithmic axis from the smallest positive value that matters."""
    positive = [value for value in values if value > 0]
    if positive:
        log_axis(ax.yaxis)
        ax.set_ylim(bottom=max(min(positive) / 1.5, max(positive) * 1e-5))


def _coverage(ax: Any, numbers: Numbers) -> None:
    """Share of the loss that the first K carry, and how far samples of prompts agree on them."""
    rows = numbers["cutoffs"]
    k = [row["k"] for row in rows]
    ax.fill_between(k, [row["halves_least"] for row in rows], [row["halves_most"] for row in rows],
                    color="#0072B2", alpha=0.15, linewidth=0)  # fmt: skip
    nested = f"Jaccard, nested {numbers['nested_prompts']} of {numbers['prompts']}"
    ax.plot(k, [row["coverage"] for row in rows], color="black", marker="o",
            label="loss covered")  # fmt: skip
    ax.plot(k, [row["halves"] for row in rows], color="#0072B2", linestyle="--", marker="s",
            label="Jaccard, disjoint halves")  # fmt: skip
    ax.plot(k, [row["nested"] for row in rows], color="#E69F00", linestyle="-.", marker="^",
            label=nested)  # fmt: skip
    ax.plot(k, [row["chance"] for row in rows], color="#999999", linestyle=":", marker="",
            label="Jaccard, chance")  # fmt: skip
    best = numbers["recommended"]
    if best is not None:
        ax.axvline(best["k"], color="black", linewidth=0.6, linestyle=(0, (1, 2)))
        ax.annotate(f"K = {best['k']:,}", (best["k"], 1.02), xytext=(0, 2), ha="center",
                    textcoords="offset points", fontsize=6)  # fmt: skip
    ax.set_xscale("log")
    ax.set_xticks(k, [f"{value:,}" for value in k])
    ax.minorticks_off()
    ax.set_ylim(0, 1.02)
    ax.set_xlabel("cutoff K (types by Rock Score)")
    ax.set_ylabel("share of loss, or Jaccard")
    legend_below(ax)


def _density(ax: Any, numbers: Numbers) -> None:
    """Sequences by the share of their positions that is of a rock type, or retained."""
    edges = numbers["edges"]
    looks = (
        ("type", "of a rock type", "#D55E00", "-", None),
        ("retained", "retained occurrences", "#0072B2", "--", "////"),
    )
    for name, text, color, line, hatch in looks:
        counts = numbers[name]
        if counts is None:
            continue
        share = np.array(counts) / max(1, sum(counts))
        ax.stairs(share, edges, color=color, fill=True, alpha=0.25, linewidth=0, hatch=hatch)
        ax.stairs(share, edges, color=color, linestyle=line, linewidth=1.1)
        ax.plot([], [], color=color, linestyle=line, label=text)
        median = numbers["medians"].get(name)
        if median is not None:
            ax.axvline(median, color=color, linewidth=0.7, linestyle=line)
    ax.set_xlim(0, 1)
    ax.set_xlabel("share of a sequence's positions")
    ax.set_ylabel("share of sequences")
    legend_below(ax, title="vertical lines: medians", title_fontsize=6)


def _ccr(ax: Any, numbers: Numbers) -> None:
    """Context-consistent rock rate against Rock Score; the darker, the more is retained."""
    points = numbers["points"]
    drawn = ax.scatter(
        [p["rock_score"] for p in points], [p["ccr"] for p in points],
        c=[p["retained_share"] for p in points], cmap="cividis_r", vmin=0, vmax=1, s=13,
        edgecolors="black", linewidths=0.3, rasterized=len(points) > 500,
    )  # fmt: skip
    for p in points:
        if p["ccr_low"] is not None:
            ax.vlines(p["rock_score"], p["ccr_low"], p["ccr_high"], color="black", linewidth=0.4)
    largest = sorted(points, key=lambda p: -p["rock_score"] * p["ccr"])[:8]
    taken: list[tuple[float, float]] = []
    for p in largest:
        place = float(np.log10(p["rock_score"])), p["ccr"]
        if not any(abs(place[0] - a) < 0.7 and abs(place[1] - b) < 0.06 for a, b in taken):
            taken.append(place)
            write(ax, label(p["token"]), (p["rock_score"], p["ccr"]), xytext=(3, 3),
                  textcoords="offset points", fontsize=5.5)  # fmt: skip
    log_axis(ax.xaxis)
    ax.set_ylim(-0.03, 1.1)
    ax.set_xlabel("Rock Score (nats)")
    ax.set_ylabel("CCR")
    bar = ax.figure.colorbar(drawn, ax=ax, pad=0.02, aspect=30)
    bar.set_label("retained of persistent")
    bar.outline.set_linewidth(0.4)


def _sensitivity(ax: Any, numbers: Numbers) -> None:
    """Jaccard of the rocks with those in use, over γ, η and the null's distance; their number."""
    cells = numbers["cells"]
    gammas = sorted({cell["gamma"] for cell in cells})
    columns = list(dict.fromkeys((cell["eta"], cell["null_distance"]) for cell in cells))
    grid = np.full((len(gammas), len(columns)), np.nan)
    for cell in cells:
        at = gammas.index(cell["gamma"]), columns.index((cell["eta"], cell["null_distance"]))
        grid[at] = np.nan if cell["jaccard"] is None else cell["jaccard"]
        light = cell["jaccard"] is not None and cell["jaccard"] > 0.55
        ax.text(at[1], at[0], cell["rocks"], ha="center", va="center", fontsize=6,
                color="white" if light else "black")  # fmt: skip
    image = ax.imshow(grid, cmap="cividis_r", vmin=0, vmax=1, aspect="auto", origin="lower")
    in_use = numbers["in_use"]
    used = [i for i, (eta, _) in enumerate(columns) if eta == in_use["eta"]]
    if used and in_use["gamma"] in gammas:
        corner = used[0] - 0.5, gammas.index(in_use["gamma"]) - 0.5
        from matplotlib.patches import Rectangle

        ax.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="#D55E00", linewidth=1.6))
    ax.set_xticks(
        range(len(columns)),
        [f"auto\n{distance}" if eta == "auto" else f"{eta:g}" for eta, distance in columns],
    )
    ax.set_yticks(range(len(gammas)), [f"{gamma:g}" for gamma in gammas])
    ax.set_xlabel("η (auto: distance of its null, tokens)")
    ax.set_ylabel("γ")
    ax.spines[:].set_visible(False)
    bar = ax.figure.colorbar(image, ax=ax, pad=0.02, aspect=30)
    bar.set_label("Jaccard with the rocks in use")
    if in_use.get("top_k") is not None:
        ax.set_title(f"number of rocks, at most {in_use['top_k']:,}", fontsize=6.5, loc="left")
    bar.outline.set_linewidth(0.4)


def _clusters(ax: Any, numbers: Numbers) -> None:
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
        write(ax, f"{row['rocks']}  {examples}", (far, at), xytext=(3, 0), va="center",
              textcoords="offset points", fontsize=5.5)  # fmt: skip
    ax.set_yticks(place, [row["cluster"].replace(" and ", "\nand ") for row in rows])
    # Room for the text beside the longest bar, with no tick above 100%.
    ax.set_xlim(0, reach * 1.45)
    ax.set_xticks(_share_ticks(reach))
    ax.set_xlabel("share of all (%)")
    legend_below(ax, title="numbers: rock types", title_fontsize=6)


def _share_ticks(reach: float) -> list[float]:
    """Round percentages from 0 to `reach`, none above 100."""
    from matplotlib.ticker import MaxNLocator

    ticks = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(0, min(100.0, reach))
    return [float(tick) for tick in ticks if 0 <= tick <= 100]


funnel = panel("funnel", _funnel)
coverage = panel("coverage", _coverage)
density = panel("density", _density)
ccr = panel("ccr", _ccr)
sensitivity = panel("sensitivity", _sensitivity)
clusters = panel("clusters", _clusters)
