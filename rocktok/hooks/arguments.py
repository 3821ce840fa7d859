"""What a recorder may be asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import rocktok.schema as schema
from rocktok.errors import HookError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

DEFAULT_COLUMNS = (
    "student_logprob",
    "teacher_logprob",
    "student_entropy",
    "teacher_entropy",
    "grad_norm",
)
#: Statistics beside the loss, by what they are for: `lenses` has what `rocktok lenses` reads.
COLUMN_PRESETS = {
    "default": DEFAULT_COLUMNS,
    "lenses": (
        *DEFAULT_COLUMNS,
        "jsd",
        "overlap",
        "student_mass",
        "teacher_mass",
        "teachability",
        "student_end",
        "teacher_end",
    ),
    "all": schema.OPTIONAL_STATISTICS,
}
#: Sums over the run's terminal ids.
END_COLUMNS = ("student_end", "teacher_end")


def check_counts(least: int, **counts: object) -> None:
    """Raise `HookError` for a count that is no integer of at least `least`."""
    for name, value in counts.items():
        if not isinstance(value, int) or value < least:
            raise HookError(
                f"Recorder: {name} must be an integer of at least {least}, not {value!r}"
            )


def columns_of(asked: str | Iterable[str]) -> tuple[str, ...]:
    """The statistics that a preset's name or names of columns stand for, in the format's order.

    Raises `ValueError` for a name that neither presets nor format know.
    """
    names = schema.OPTIONAL_STATISTICS
    if isinstance(asked, str) and asked not in COLUMN_PRESETS:
        raise ValueError(
            f"columns is {asked!r}; give one of the presets {', '.join(COLUMN_PRESETS)}, or a "
            "sequence of names"
        )
    wanted = COLUMN_PRESETS[asked] if isinstance(asked, str) else tuple(asked)
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise ValueError(
            f"no column {', '.join(map(repr, unknown))}; choose from {', '.join(names)}"
        )
    return tuple(name for name in names if name in wanted)


def check_columns(asked: str | Iterable[str]) -> tuple[str, ...]:
    """As `columns_of`. Raises `HookError` for names that are not known."""
    try:
        return columns_of(asked)
    except ValueError as error:
        raise HookError(f"Recorder: {error}") from error


def alternatives_of(asked: int, vocabulary: int | None) -> int:
    """How many likeliest tokens of each model are recorded; the default is cut to the vocabulary.

    Raises `HookError` for more than the vocabulary has.
    """
    if vocabulary is None or asked <= vocabulary:
        return asked
    if asked == schema.ALTERNATIVES:
        return vocabulary
    raise HookError(
        f"Recorder: alternatives is {asked}, more than the vocabulary of {vocabulary}; give at "
        f"most {vocabulary}"
    )


def check_terminal_ids(columns: Sequence[str], terminal_ids: Collection[int]) -> None:
    """Raise `HookError` where columns are sums over terminal ids, and none are known."""
    wanted = [name for name in END_COLUMNS if name in columns]
    if wanted and not terminal_ids:
        raise HookError(
            f"Recorder: {' and '.join(wanted)} need the run's terminal ids, and terminal_ids names "
            'none; give start(run={"terminal_ids": {"student": [ids], "teacher": [ids]}, …}), or '
            "name the columns without these"
        )
