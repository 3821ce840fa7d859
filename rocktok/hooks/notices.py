"""What the recorder says: a line when it starts and ends, and each kind of trouble once."""

from __future__ import annotations

import logging
import sys
import warnings
from contextlib import suppress

from rocktok.errors import RocktokWarning


def say(line: str) -> None:
    """One line on stderr, where progress bars are, whatever the levels of logging are set to."""
    with suppress(OSError, ValueError, AttributeError):
        print(f"rocktok: {line}", file=sys.stderr, flush=True)


class Warned:
    """Warns of each kind of trouble once, and never raises."""

    def __init__(self) -> None:
        self._keys: set[str] = set()

    def warn(self, key: str, message: str) -> None:
        """Warn, unless that has been done for this key."""
        if key in self._keys:
            return
        self._keys.add(key)
        try:
            warnings.warn(message, RocktokWarning, stacklevel=4)
        except RocktokWarning:
            # Warnings are errors here (python -W error): recording may not break training.
            logging.getLogger("rocktok").warning(message)
