"""How stable the first K by Rock Score are, and what other settings would make of the rocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict, cast

import numpy as np

from rocktok.analyses.stability.result import StabilityResult
from rocktok.report.page.figures.figure import AbsentError, Figure
from rocktok.report.page.figures.style import FIXED, legend_below
from rocktok.report.result import ReportResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Cutoff(TypedDict):
    """The first K types: the share of the loss they carry, Jaccard between samples of prompts."""

    k: int
    coverage: float
    chance: float
    halves: float | None
    halves_least: float | None
    halves_most: float | None
    nested: float | None


class Recommended(TypedDict):
    """The largest K on which halves of the prompts agree."""

    k: int
    coverage: float
    jaccard: float


class CoverageNumbers(TypedDict):
    """Cutoffs; `nested_prompts`: in each nested sample, of all `prompts`."""

    cutoffs: list[Cutoff]
    recommended: Recommended | None
    nested_prompts: int | None
    prompts: int


class Setting(TypedDict):
    """Rocks under one setting of the grid, and their overlap with those in use."""

    gamma: float
    eta: float | Literal["auto"]
    null_distance: int | None
    counts: NotRequired[Literal["rocks", "hard and recurring"]]
    rocks: int
    shared: int
    jaccard: float | None
    loss_share: float


class InUse(TypedDict):
    """The setting in use; `top_k`: most rocks that a cell may count, None: no limit.

    `fdr`: of tested rocks; None: they are the first by their scores.
    """

    gamma: float
    eta: float | Literal["auto"]
    rocks: int
    top_k: int | None
    fdr: NotRequired[float | None]


class SensitivityNumbers(TypedDict):
    """The grid."""

    cells: list[Setting]
    in_use: InUse


def _coverage_of(result: StabilityResult) -> CoverageNumbers:
    cutoffs: list[Cutoff] = [
        {
            "k": row["k"],
            "coverage": row["coverage"],
            "chance": row["chance"],
            "halves": row["halves"]["jaccard"],
            "halves_least": row["halves"]["jaccard_least"],
            "halves_most": row["halves"]["jaccard_most"],
            "nested": row["nested"][-1]["jaccard"] if row["nested"] else None,
        }
        for row in result.cutoffs
    ]
    nested = result.cutoffs[0]["nested"]
    return {
        "cutoffs": cutoffs,
        "recommended": cast("Recommended | None", result.recommended),
        "nested_prompts": nested[-1]["prompts"] if nested else None,
        "prompts": result.log["prompts"],
    }


def _draw_coverage(ax: Axes, numbers: CoverageNumbers) -> None:
    """Share of the loss that the first K carry, and how far samples of prompts agree on them."""
    rows = numbers["cutoffs"]
    k = [row["k"] for row in rows]
    halves, least, most = np.array(
        [(row["halves"], row["halves_least"], row["halves_most"]) for row in rows], dtype=float
    ).T
    ax.fill_between(k, least, most, color="#0072B2", alpha=0.15, linewidth=0)
    nested = np.array([row["nested"] for row in rows], dtype=float)
    nested_label = f"Jaccard, nested {numbers['nested_prompts']} of {numbers['prompts']}"
    ax.plot(k, [row["coverage"] for row in rows], color="black", marker="o",
            label="loss covered")  # fmt: skip
    ax.plot(k, halves, color="#0072B2", linestyle="--", marker="s",
            label="Jaccard, disjoint halves")  # fmt: skip
    ax.plot(k, nested, color="#E69F00", linestyle="-.", marker="^",
            label=nested_label)  # fmt: skip
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


def counting_rocks(cells: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Cells of the grid that count rocks by the rule in use, not what passes by hardness alone."""
    return [cell for cell in cells if cell.get("counts", "rocks") == "rocks"]


def _sensitivity_of(result: ReportResult) -> SensitivityNumbers:
    if result.sensitivity is None:
        raise AbsentError("no contexts were judged")
    if not any(cell["rocks"] for cell in counting_rocks(result.sensitivity)):
        raise AbsentError("no rocks under any setting")
    params, gamma = result.detect.params, result.detect.thresholds["gamma"]
    assert gamma is not None
    return {"cells": cast("list[Setting]", list(result.sensitivity)),
            "in_use": {"gamma": gamma, "eta": params["eta"],
                       "rocks": len(result.rocks),
                       "top_k": None if params["tau_r"] else params["top_k"],
                       "fdr": params["fdr"] if params["rule"] == "tested" else None}}  # fmt: skip


def _sensitivity_caption(numbers: SensitivityNumbers) -> str:
    text = (
        "How many rocks there are (numbers), and their Jaccard with the rocks in use (shade), if γ "
        "and η were others, and with the null drawn nearer. The frame is what is in use."
    )
    most, fdr = numbers["in_use"]["top_k"], numbers["in_use"].get("fdr")
    if fdr is not None:
        return (
            f"{text} With η auto a cell counts tested rocks (FDR {100 * fdr:g}%). A number says "
            "nothing of chance: there a cell counts types that pass by hardness alone, and retain "
            "10% or more of their judged occurrences, untested."
        )
    return f"{text} No cell counts more than the first {most:,} (--top-k)." if most else text


def _draw_sensitivity(ax: Axes, numbers: SensitivityNumbers) -> None:
    """Jaccard of the rocks with those in use, over γ, η and the null's distance; their number."""
    cells = numbers["cells"]
    gammas = sorted({cell["gamma"] for cell in cells})
    columns = list(dict.fromkeys((cell["eta"], cell["null_distance"]) for cell in cells))
    grid = np.full((len(gammas), len(columns)), np.nan)
    for cell in cells:
        at = gammas.index(cell["gamma"]), columns.index((cell["eta"], cell["null_distance"]))
        grid[at] = np.nan if cell["jaccard"] is None else cell["jaccard"]
        light = cell["jaccard"] is not None and cell["jaccard"] > 0.55
        ax.text(at[1], at[0], str(cell["rocks"]), ha="center", va="center", fontsize=6,
                color="white" if light else "black",
                gid=f"{FIXED}{at[0]}-{at[1]}")  # fmt: skip
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
    ax.set_yticks(range(len(gammas)), [f"{gamma:.3g}" for gamma in gammas])
    fdr = in_use.get("fdr")
    untested = "" if fdr is None else "; a number: untested"
    ax.set_xlabel(f"η (auto: distance of its null, tokens{untested})")
    ax.set_ylabel("γ")
    ax.spines[:].set_visible(False)
    bar = ax.figure.colorbar(image, ax=ax, pad=0.02, aspect=30)
    bar.set_label("Jaccard with the rocks in use")
    if fdr is not None:
        title = f"number of rocks, η auto: tested at FDR {100 * fdr:g}%"
        ax.set_title(title, fontsize=6.5, loc="left")
    elif in_use.get("top_k") is not None:
        ax.set_title(f"number of rocks, at most {in_use['top_k']:,}", fontsize=6.5, loc="left")
    bar.outline.set_linewidth(0.4)


coverage = Figure(
    "coverage",
    "First K by Rock Score: coverage and stability",
    "For each K, the share of the loss that the first K types by Rock Score carry, and how far "
    "two samples of prompts agree on them: disjoint halves understate it, nested samples "
    "overstate it. The shade is the range over the draws.",
    rests_on=(StabilityResult,),
    numbers_of=_coverage_of,
    draw=_draw_coverage,
    part=lambda report: report.stability,
    shared_axes="xy",
    table="cutoffs",
)
sensitivity = Figure(
    "sensitivity",
    "Sensitivity",
    _sensitivity_caption,
    rests_on=(ReportResult,),
    numbers_of=_sensitivity_of,
    draw=_draw_sensitivity,
)
