"""Finished parts of a run, kept beside its output until that is written: a stopped run goes on.

Each part is one file that appears whole or not at all. Parts are the same however often the run was
stopped: what a part holds depends on the run's identity and on the part's name alone.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from rocktok.errors import LogError
from rocktok.files import resolved
from rocktok.publishing import replace_file
from rocktok.temporary import clear_below, holding

if TYPE_CHECKING:
    from pathlib import Path

    from rocktok._types import Array

_IDENTITY = "run.json"
#: Arrays of a part, by name.
Part = dict[str, "Array"]


@dataclass(frozen=True)
class Work:
    """The directory of the parts; None keeps nothing."""

    folder: Path | None = None

    def part(self, name: str, make: Callable[[], Part]) -> Part:
        """A part: as it stands, or made now and kept. Raises `LogError` where it cannot be."""
        if self.folder is None:
            return make()
        path = self.folder / f"{name}.npz"
        if path.exists():
            try:
                with np.load(path, allow_pickle=False) as stored:
                    return dict(stored)
            except (OSError, ValueError, EOFError, BadZipFile) as error:
                raise LogError(
                    f"{path}: is damaged ({error}); remove it, and start again"
                ) from error
        made = make()
        sink = io.BytesIO()
        arrays: dict[str, Any] = made
        np.savez(sink, **arrays)
        try:
            replace_file(path, sink.getvalue())
        except OSError as error:
            raise LogError(
                f"{path}: cannot be written ({error.strerror or error}); free space there, and "
                "start again"
            ) from error
        return made

    def remove(self) -> None:
        """Remove all parts."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def working(output: Path, identity: dict[str, Any]) -> Iterator[Work]:
    """The parts beside an output, held against other processes.

    Raises `LogError` for a directory that holds parts of another run, or that another process uses.
    """
    text = json.dumps(identity, sort_keys=True, indent=1).encode()
    with ExitStack() as stack:
        try:
            target = resolved(output)
            folder = target.with_name(f"{target.name}.partial")
            folder.mkdir(parents=True, exist_ok=True)
            if not stack.enter_context(holding(folder)):
                raise LogError(f"{folder}: another process is writing it; wait until it has ended")
            clear_below(folder)
            _claim(folder, text)
        except OSError as error:
            raise LogError(
                f"{output}: cannot be written ({error.strerror or error}); give another place"
            ) from error
        yield Work(folder)


def _claim(folder: Path, text: bytes) -> None:
    """Mark an empty directory as this run's. Raises `LogError` for another run's."""
    mark = folder / _IDENTITY
    if not mark.exists():
        if any(folder.iterdir()):
            raise LogError(f"{folder}: contains other files; move it away, or give another -o")
        replace_file(mark, text)
    if mark.read_bytes() != text:
        raise LogError(
            f"{folder}: contains parts of a run with other models, problems or options; remove it, "
            "or give another -o"
        )
