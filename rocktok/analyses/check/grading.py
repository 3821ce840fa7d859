"""How bad a number is: thresholds, and on which end of an interval they rest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from rocktok.analyses.check.result import SEVERITIES, Finding, Severity
from rocktok.stats.intervals import Estimate, ends


class Number(NamedTuple):
    """A number with its interval, of a level; ends are None where there is none.

    `few`: whether that is because few prompts carry it.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    level: float = 0.95
    few: bool = False

    @classmethod
    def of(
        cls,
        estimate: Estimate,
        *,
        level: float = 0.95,
        positive: bool = True,
        most: float = math.inf,
    ) -> Number:
        """A single estimate."""
        value = float(estimate.value)
        if not math.isfinite(value):
            return NOTHING
        found = ends(estimate.interval(level, positive=positive, most=most))
        return cls(value, *found, level, few=found[0] is None)


NOTHING = Number(None)

#: Severity → the number from which on something is as bad as that.
Levels = Mapping[Severity, float]


def grade(number: Number, levels: Levels, *, below: bool = False) -> Severity:
    """The worst level that the whole interval has reached; `below`: small numbers are bad.

    A number without an interval, which few prompts carry, is no worse than a note.
    """
    if number.value is None:
        return "unknown"
    bound = number.high if below else number.low
    sure = bound is not None
    reached: Severity = "ok"
    for severity in SEVERITIES[1:]:
        if severity not in levels:
            continue
        of = number.value if bound is None else bound
        if (of <= levels[severity]) if below else (of >= levels[severity]):
            reached = severity
    return reached if sure or reached == "ok" else "note"


def finding(
    name: str,
    severity: Severity,
    text: str,
    *,
    number: Number = NOTHING,
    measure: str = "",
    remedy: str | None = None,
    **details: object,
) -> Finding:
    """A finding; what is fine needs no remedy."""
    if severity == "note" and number.few:
        text += " Few prompts carry this number: it is no more than a note."
    return {
        "name": name,
        "severity": severity,
        "value": number.value,
        "low": number.low,
        "high": number.high,
        "level": None if number.low is None else number.level,
        "measure": measure,
        "text": text,
        "remedy": None if severity == "ok" else remedy,
        "details": details,
    }


def unknown(name: str, why: str, remedy: str, *, measure: str = "") -> Finding:
    """A finding that the log does not allow."""
    return finding(name, "unknown", why, measure=measure, remedy=remedy)


def percent(value: float | None) -> str:
    """A share in words."""
    if value is None:
        return "–"
    return f"{100 * value:.1f}%" if abs(value) < 0.995 else f"{100 * value:.0f}%"


def plain(value: float | None) -> str:
    """A number with three digits."""
    return "–" if value is None else f"{value:.3g}"
