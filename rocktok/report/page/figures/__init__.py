"""Figures that a paper can use: each takes a result (or its numbers) and, if given, an axis.

    from rocktok.report.page import figures
    figures.funnel(result)                 # a matplotlib Figure; shown by notebooks as it is
    figures.stagnation(result, ax=axes[0])

`result` is what the analysis returns, a `ReportResult`, or numbers as in report.json. Figures are
made without pyplot: no global state, no window.
"""

from __future__ import annotations

from rocktok.report.page.figures.gradients import gradient_cosine, gradient_norm, shares
from rocktok.report.page.figures.learning import delta_kl, early_late, stagnation
from rocktok.report.page.figures.rocks import ccr, clusters, coverage, density, funnel, sensitivity
from rocktok.report.page.figures.texts import position

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
    "position",
    "sensitivity",
    "shares",
    "stagnation",
]
