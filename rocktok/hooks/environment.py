"""A recorder from environment variables, for trainers whose workers only those reach."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rocktok.errors import HookError
from rocktok.hooks.arguments import COLUMN_PRESETS
from rocktok.hooks.recorder import Recorder

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Name → what it sets, for messages and documentation.
VARIABLES = {
    "ROCKTOK_LOG": "directory or address of the log (needed)",
    "ROCKTOK_EVERY": "optimizer steps between records (10)",
    "ROCKTOK_COLUMNS": "a preset (default, lenses, all) or names with commas",
    "ROCKTOK_RESUME_STEP": "optimizer steps that the student has taken at the start",
    "ROCKTOK_STUDENT": "name of the student in the log",
    "ROCKTOK_TEACHER": "name of the teacher in the log",
    "ROCKTOK_SUPERSEDE": "1: start over a finished run in the same directory",
    "ROCKTOK_QUIET": "1: no line when recording starts and ends",
}


@dataclass(frozen=True)
class Settings:
    """What the environment variables ask for. `resume_step`: None where none is given."""

    log: str
    every: int
    columns: str | tuple[str, ...]
    resume_step: int | None
    student: str | None
    teacher: str | None
    supersede: bool
    quiet: bool

    def recorder(self) -> Recorder:
        """A recorder of rollouts. Raises `HookError` for settings that it refuses."""
        return Recorder(
            self.log,
            every=self.every,
            columns=self.columns,
            fixed_sequences=0,
            student=self.student,
            teacher=self.teacher,
            supersede=self.supersede,
            quiet=self.quiet,
        )


def settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings in the environment.

    Raises:
        HookError: there is no `ROCKTOK_LOG`, or a value is not what it must be.
    """
    given = {name: text for name, text in environment.items() if name in VARIABLES and text}
    if "ROCKTOK_LOG" not in given:
        raise HookError("ROCKTOK_LOG is not set; set it to the directory of the log")
    columns = given.get("ROCKTOK_COLUMNS", "default")
    found = Settings(
        log=given["ROCKTOK_LOG"],
        every=_number(given, "ROCKTOK_EVERY", 1) or 10,
        columns=columns if columns in COLUMN_PRESETS else tuple(columns.split(",")),
        resume_step=_number(given, "ROCKTOK_RESUME_STEP", 0),
        student=given.get("ROCKTOK_STUDENT"),
        teacher=given.get("ROCKTOK_TEACHER"),
        supersede=_switch(given, "ROCKTOK_SUPERSEDE"),
        quiet=_switch(given, "ROCKTOK_QUIET"),
    )
    found.recorder()  # refuses what it does not take now, not within the training
    return found


def _number(given: Mapping[str, str], name: str, least: int) -> int | None:
    text = given.get(name)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or int(text) < least:
        raise HookError(f"{name} is {text!r}; it must be an integer of at least {least}")
    return int(text)


def _switch(given: Mapping[str, str], name: str) -> bool:
    text = given.get(name, "0")
    if text not in ("0", "1"):
        raise HookError(f"{name} is {text!r}; it must be 0 or 1")
    return text == "1"
