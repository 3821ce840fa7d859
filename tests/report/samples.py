"""The report of the sample log, made once for all tests of a process."""

from __future__ import annotations

from functools import cache

import rocktok
from rocktok.report.page.files import render_report
from rocktok.report.passes import report
from rocktok.report.result import ReportResult
from tests.analyses.pillars.made import world
from tests.paths import SAMPLE


@cache
def sample_report() -> ReportResult:
    """With all that a report has."""
    return report(rocktok.open(SAMPLE), replicates=200, outcomes=[world(1).outcomes()])


@cache
def sample_files() -> dict[str, bytes]:
    """Its files."""
    return render_report(sample_report())
