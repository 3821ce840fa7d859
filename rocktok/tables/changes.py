"""Changes and intervals as cells of a table: signs always, a real minus."""

from __future__ import annotations

from rocktok.tables.text import number


def points(share: float) -> str:
    """A share in percent."""
    return f"{100 * share:.1f}%"


def signed(share: float) -> str:
    """A change in percentage points, with its sign."""
    text = f"{100 * share:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def or_dash(share: float | None) -> str:
    """A change in percentage points, where there is one."""
    return "–" if share is None else signed(share)


def points_between(low: float | None, high: float | None) -> str:
    """An interval in percentage points, where there is one."""
    return "–" if low is None or high is None else f"{signed(low)} to {signed(high)}"


def signed_number(value: float | None) -> str:
    """A number with a real minus, where there is one."""
    return number(value).replace("-", "−")


def numbers_between(low: float | None, high: float | None) -> str:
    """An interval, where there is one."""
    return "–" if low is None or high is None else f"{signed_number(low)} to {signed_number(high)}"
