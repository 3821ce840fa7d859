"""Which of the statistics that are asked for a trainer can give."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rocktok.errors import HookError
from rocktok.hooks.arguments import COLUMN_PRESETS

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from rocktok.hooks.recorder import Recorder


def fit_columns(
    recorder: Recorder, asked: Sequence[str], possible: Collection[str], why: str
) -> tuple[str, ...]:
    """The asked columns that are possible; those of a preset that are not are said.

    Args:
        recorder: says what is left out.
        asked: names of columns, in the format's order.
        possible: names that can be had.
        why: why the others cannot.

    Raises:
        HookError: `asked` is no preset, and has names that cannot be had.
    """
    absent = [name for name in asked if name not in possible]
    if not absent:
        return tuple(asked)
    if not any(set(asked) == set(preset) for preset in COLUMN_PRESETS.values()):
        raise HookError(
            f"columns {', '.join(absent)} cannot be had, as {why}; choose from "
            f"{', '.join(possible) or 'none'}"
        )
    recorder.say(f"not recorded, as {why}: {', '.join(absent)}")
    return tuple(name for name in asked if name in possible)
