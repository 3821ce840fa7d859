"""Exceptions that a user meets. Each carries the exit code of the command that raised it.

Messages are one line: what is wrong, where, and what to do about it.
"""

from __future__ import annotations

import re
import unicodedata

_PLAIN = re.compile(r"[ -~]*")


def printable(text: str) -> str:
    """Text of a log or a path as one line: what steers a terminal (Unicode C*, Zl, Zp) escaped.

    Unassigned characters stay: a newer Unicode may have them.
    """
    if _PLAIN.fullmatch(text):
        return text
    return "".join(_escape(c) if _steers(c) else c for c in text)


def _steers(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


class RocktokError(Exception):
    """Base of every error that `rocktok` raises on purpose. Its message is printable."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))


class LogError(RocktokError):
    """The log is missing, damaged, of another version, or lacks what was asked."""


class DamagedError(LogError):
    """A file of the log is truncated, altered or gone: `--allow-missing` can go on without it."""


class DataError(LogError):
    """A value in the log breaks a rule of the format (NaN loss, negative token id, …)."""


class HookError(RocktokError):
    """A trainer that the hooks do not know, or a log that the recorder may not write into."""


class UsageError(RocktokError):
    """Options that contradict each other or lie outside their range.

    `parameter` names the Python parameter that the message begins with, if it does: the command
    line shows its option instead.
    """

    exit_code = 2

    def __init__(self, message: str, parameter: str | None = None) -> None:
        super().__init__(message)
        self.parameter = parameter


class LimitError(RocktokError):
    """A limit that was asked for did not hold."""

    exit_code = 3


class RocktokWarning(UserWarning):
    """Something a reader of the results must know, though they were computed."""
