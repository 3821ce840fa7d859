"""What a recorder may be asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import rocktok.schema as schema
from rocktok.errors import HookError

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_COLUMNS = (
    "student_logprob",
    "teacher_logprob",
    "student_entropy",
    "teacher_entropy",
    "grad_norm",
)


def check_counts(least: int, **counts: object) -> None:
    """Raise `HookError` for a count that is no integer of at least `least`."""
    for name, value in counts.items():
        if not isinstance(value, int) or value < least:
            raise HookError(
                f"Recorder: {name} must be an integer of at least {least}, not {value!r}"
            )


def check_columns(columns: Sequence[str]) -> None:
    """Raise `HookError` for a statistic that the format does not know."""
    unknown = [name for name in columns if name not in schema.OPTIONAL_STATISTICS]
    if unknown:
        raise HookError(
            f"Recorder: no column {', '.join(map(repr, unknown))}; choose from "
            f"{', '.join(schema.OPTIONAL_STATISTICS)}"
        )
