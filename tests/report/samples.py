"""The report of the sample log, made once for all tests of a process."""

from __future__ import annotations

from functools import cache

import rocktok
from rocktok.engine.passes import Engine
from rocktok.report.page.files import render_report
from rocktok.report.passes import report
from rocktok.report.result import ReportResult
from tests.analyses.pillars.made import world
from tests.paths import SAMPLE


@cache
def sample_report() -> ReportResult:
    """With all that a report has."""
    return report_anew()


def report_anew(engine: Engine | None = None) -> ReportResult:
    """The same, made by another engine."""
    log, outcomes = rocktok.open(SAMPLE), [world(1).outcomes()]
    return report(log, replicates=200, outcomes=outcomes, engine=engine)


@cache
def sample_files() -> dict[str, bytes]:
    """Its files."""
    return render_report(sample_report())
