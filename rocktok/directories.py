"""Directories that a command writes: refused before the work, whole or not at all after it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from rocktok.errors import LogError, UsageError
from rocktok.files import resolved
from rocktok.publishing import sync_directory, write_synced
from rocktok.temporary import abandoned, holding, remove, temporary_directory, temporary_name

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

#: While an existing directory is written, it holds two others: `STAGING.<random>.tmp` with what
#: is new, `.old` with what was there. Once all of that is aside, `.tmp` is renamed to `.new`.
STAGING = "rocktok.exchange"


def check_directory(
    path: Path,
    *,
    force: bool,
    own: Collection[str],
    marker: str,
    schema: str,
    inputs: Iterable[str] = (),
    what: str = "a report",
) -> Path:
    """Refuse a directory that must not or cannot be written. `force`: over one of ours.

    Ours are those whose JSON file `marker` has a schema that begins so, and which hold nothing
    that `own` does not match (patterns of relative paths) and none of `inputs`. `what` names them.

    What a killed process was about to exchange in it is put back, or completed.

    Returns the directory that is meant, links followed. Raises `UsageError`, or `LogError` for
    one that cannot be written.
    """
    try:
        target = resolved(path)
        if target.exists() and not target.is_dir():
            raise UsageError(f"{path}: is a file; give a directory")
        if target.exists():
            with _alone(target):
                _recover(target, marker)
        if target.exists() and any(target.iterdir()):
            _check_ours(path, own, marker, schema, what)
            if not force:
                raise UsageError(f"{path}: exists already; give --force to replace it")
            _check_apart(path, inputs)
        _probe(target)
    except OSError as error:
        raise _unwritable(path, error) from error
    return target


def _check_ours(path: Path, own: Collection[str], marker: str, schema: str, what: str) -> None:
    try:
        ours = str(json.loads((path / marker).read_bytes())["schema"]).startswith(schema)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        ours = False
    if not ours:
        raise UsageError(f"{path}: contains other files; give a new directory")
    folders = {pattern.rpartition("/")[0] for pattern in own}
    for entry in sorted(path.rglob("*")):
        name = entry.relative_to(path).as_posix()
        if entry.is_dir() and not entry.is_symlink():
            is_ours = name in folders
        else:
            is_ours = any(fnmatchcase(name, p) and name.count("/") == p.count("/") for p in own)
        if not is_ours:
            raise UsageError(
                f"{path}: contains {name}, which is not part of {what}; move it away, or give "
                "a new directory"
            )


def _check_apart(path: Path, inputs: Iterable[str]) -> None:
    """What is read is never in the way of what is written."""
    target = path.resolve()
    for name in inputs:
        read = None if "://" in name else Path(name).resolve()
        if read and (read.is_relative_to(target) or target.is_relative_to(read)):
            raise UsageError(f"{path}: overlaps with the log {name}; give a new directory")


def _probe(target: Path) -> None:
    """Make and remove what writing will make first: an hour of work may come before it."""
    name, place = Path(STAGING), target
    while not place.exists():
        name, place = Path(place.name), place.parent
    with temporary_directory(place / name):
        pass


def _unwritable(path: Path, error: Exception) -> LogError:
    reason = getattr(error, "strerror", None) or str(error)
    return LogError(
        f"{path}: cannot be written ({reason}); give another place, or free space there"
    )


def write_directory(path: Path, files: Mapping[str, bytes], *, marker: str) -> None:
    """Write a directory of files, whole or not at all; what it held is replaced.

    One that is there stays the same directory, so that a mount point and a shell's own will do:
    complete entries are moved in, `marker` last. A new one is renamed to its name.

    Raises `LogError` if the disk fails, or another process writes it; what the directory held is
    then there still. Where the process is killed, `check_directory` sees to that later.
    """
    make_directory(path, lambda folder: _fill(folder, files), marker=marker)


def make_directory(path: Path, fill: Callable[[Path], None], *, marker: str) -> None:
    """`write_directory` of files that need not fit in memory.

    `fill` is given an empty folder to write them into; the disk must have them when it returns.
    """
    try:
        if path.is_dir():
            _replace(path, fill, marker)
        else:
            with temporary_directory(path) as made:
                fill(made)
                made.rename(path)
        for directory in (path, path.parent):
            sync_directory(directory)
    except OSError as error:
        raise _unwritable(path, error) from error


def _fill(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        write_synced(folder / name, data)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep other processes from exchanging what a directory holds. Raises `LogError`."""
    with holding(path) as ours:
        if not ours:
            raise LogError(f"{path}: another process is writing it; wait until it has ended")
        yield


def _replace(path: Path, fill: Callable[[Path], None], marker: str) -> None:
    """Put what `fill` writes in the place of what a directory holds."""
    with _alone(path):
        _recover(path, marker)
        made = temporary_name(path / STAGING)
        try:
            made.mkdir()
            fill(made)
            _exchange(path, made, marker)
        finally:
            # What a failure could not put back stays for the next run.
            if not _remains(made.with_suffix(".old"), marker, path):
                for left in (made, made.with_suffix(".new"), made.with_suffix(".old")):
                    remove(left)


def _remains(aside: Path, marker: str, path: Path) -> bool:
    return (aside / marker).exists() and not (path / marker).exists()


def _exchange(path: Path, made: Path, marker: str) -> None:
    """Move what `path` holds aside and the entries of `made` in; all back if one fails."""
    moved: list[tuple[Path, Path]] = []

    def move(source: Path, target: Path) -> None:
        source.rename(target)
        moved.append((source, target))

    aside, complete = made.with_suffix(".old"), made.with_suffix(".new")
    earlier = [entry for entry in path.iterdir() if entry != made]
    aside.mkdir()
    try:
        for entry in sorted(earlier, key=lambda one: one.name != marker):
            move(entry, aside / entry.name)
        move(made, complete)
        for entry in _marker_last(complete, marker):
            move(entry, path / entry.name)
    except BaseException:
        for source, target in reversed(moved):
            target.rename(source)
        raise


def _marker_last(folder: Path, marker: str) -> list[Path]:
    return sorted(folder.iterdir(), key=lambda one: one.name == marker)


def _recover(path: Path, marker: str) -> None:
    """Undo an exchange that a killed process had begun; complete one that wanted little."""
    for made in list(abandoned(path / STAGING, "tmp|new|old")):
        aside, complete = made.with_suffix(".old"), made.with_suffix(".new")
        source = complete if complete.exists() else aside
        # Without `.new` and `.tmp` the exchange was complete, and `.old` was to be removed.
        if source == complete or made.with_suffix(".tmp").exists():
            for entry in _marker_last(source, marker) if source.exists() else ():
                entry.rename(path / entry.name)
        for left in (made.with_suffix(".tmp"), complete, aside):
            remove(left)
