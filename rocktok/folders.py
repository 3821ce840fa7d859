"""What stands in a local folder: files that can be read without waiting, and what only looks so."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Entry:
    """A name below a directory; `problem` says why it is no file that can be read (None: it is)."""

    path: str
    size: int
    problem: str | None = None


def why_no_file(path: str) -> str | None:
    """Why a path that is there is no file that can be read, None if it is one.

    Raises `FileNotFoundError` for a path that is not there.
    """
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116
    except FileNotFoundError:
        if os.path.lexists(path):
            return "is a link to a file that does not exist"
        raise
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if stat.S_ISREG(mode):
        return None
    return "is a directory" if stat.S_ISDIR(mode) else "is a pipe, a socket or a device"


def walk(root: str, relative: str, suffix: str) -> Iterator[Entry]:
    """What a folder below `root`, and those below it, hold under names with a suffix.

    Hidden names and those with other endings are left out. Links are followed; one that leads
    nowhere may stand for a folder, and is a problem whatever its ending. A folder that is its own
    parent by a link is a problem, not a circle.
    """
    if not os.path.lexists(f"{root}/{relative}"):
        return
    folders: list[tuple[str, frozenset[tuple[int, int]]]] = [(relative, frozenset())]
    while folders:
        folder, above = folders.pop()
        path = f"{root}/{folder}"
        if not Path(path).is_dir():
            yield Entry(folder, 0, why_no_file(path) or "is a file")
            continue
        status = os.stat(path)  # noqa: PTH116
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            yield Entry(folder, 0, "is a link to a folder that contains it")
            continue
        with os.scandir(path) as names:
            for name in names:
                if name.name.startswith("."):
                    continue
                below = f"{folder}/{name.name}"
                if name.name.endswith(suffix):
                    yield _entry(below, name)
                elif name.is_symlink() and not Path(name.path).exists():
                    yield Entry(_shown(below), 0, why_no_file(name.path))
                elif name.is_dir():
                    folders.append((below, above | {identity}))


def _entry(path: str, name: os.DirEntry[str]) -> Entry:
    shown = _shown(path)
    if shown != path:
        return Entry(shown, 0, "has a name that is not UTF-8")
    try:
        if (problem := why_no_file(name.path)) is not None:
            return Entry(path, 0, problem)
        return Entry(path, name.stat().st_size)
    except OSError as error:
        return Entry(path, 0, f"cannot be read ({error.strerror})")


def _shown(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")
