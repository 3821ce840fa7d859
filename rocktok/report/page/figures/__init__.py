"""Figures that a paper can use: each takes a result (or its numbers) and, if given, an axis.

    from rocktok.report.page import figures
    figures.funnel(result)                 # a matplotlib Figure; shown by notebooks as it is
    figures.stagnation(result, ax=axes[0])
    figures.funnel.numbers(result)         # what is drawn, as in report.json

`result` is what the analysis returns, a `ReportResult`, or numbers as in report.json. Figures are
made without pyplot: no global state, no window.
"""

from __future__ import annotations

from typing import Any

from rocktok.report.page.figures.figure import Figure
from rocktok.report.page.figures.gradients import gradient_cosine, gradient_norm, shares
from rocktok.report.page.figures.learning import delta_kl, early_late, stagnation
from rocktok.report.page.figures.lenses import lenses
from rocktok.report.page.figures.pillars import pillars
from rocktok.report.page.figures.robustness import coverage, sensitivity
from rocktok.report.page.figures.rocks import ccr, clusters, funnel
from rocktok.report.page.figures.texts import density, position

#: All of them, in the order in which a page tells its story; the numbers of each are of a kind.
FIGURES: tuple[Figure[Any, Any], ...] = (
    early_late,
    stagnation,
    funnel,
    clusters,
    ccr,
    density,
    position,
    delta_kl,
    shares,
    gradient_norm,
    gradient_cosine,
    lenses,
    pillars,
    coverage,
    sensitivity,
)

#: Those that a page shows last, folded: how far the answer depends on settings.
APPENDIX = frozenset({"sensitivity"})

BY_NAME = {figure.name: figure for figure in FIGURES}

__all__ = [
    "ccr",
    "clusters",
    "coverage",
    "delta_kl",
    "density",
    "early_late",
    "funnel",
    "gradient_cosine",
    "gradient_norm",
    "lenses",
    "pillars",
    "position",
    "sensitivity",
    "shares",
    "stagnation",
]
