"""Words of messages, and names of files that tell a step."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from rocktok.errors import DamagedError, LogError, UsageError

_NUMBER = re.compile(r"\d+")

Loaded = TypeVar("Loaded")


@contextmanager
def laid_out(where: object) -> Iterator[None]:
    """Turns what trips over a value of another kind into a `LogError` that names the place.

    Each kind checks what matters; the rest of what a foreign file may hold is without end.
    """
    try:
        yield
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LogError(
            f"{where}: is not laid out as files of this kind ({line}); check which kind it is"
        ) from error


def last_number(path: Path) -> int | None:
    """The last number in a file's name, suffix left out; None for none."""
    numbers = _NUMBER.findall(path.stem)
    return int(numbers[-1]) if numbers else None


def files_of(paths: Iterable[Path], *patterns: str) -> list[Path]:
    """The files among some paths, and those that folders among them hold by these patterns.

    Raises `LogError` for a path that is not there, a folder without such a file, a pickle.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise LogError(f"{path}: no such file or directory; give the files to import")
        if not path.is_dir():
            found.append(path)
            continue
        within = sorted({one for pattern in patterns for one in path.glob(pattern)})
        if not within:
            raise LogError(f"{path}: has no {' or '.join(patterns)}; give the files to import")
        found += within
    for path in found:
        if path.suffix in (".pkl", ".pickle"):
            raise LogError(
                f"{path}: is a pickle, which can run any code when it is read, and is not read; "
                "save its numbers as Parquet or JSON Lines, and import these"
            )
    twice = {path for path in found if found.count(path) > 1} if len(found) < 10_000 else set()
    if twice:
        raise UsageError(f"{min(twice)}: is given twice; give each file once")
    return found


def steps_for(files: list[Path], steps: tuple[int, ...] | None, lone: int = 0) -> list[int]:
    """A step for each file: the numbers given, or the last one in each name.

    `lone`: the step of a single file whose name has none.

    Raises `UsageError` for names without numbers, and for one step of two files.
    """
    if steps is not None and len(steps) != len(files):
        message = f"steps has {len(steps)} numbers for {len(files)} files; give one for each file"
        raise UsageError(message, parameter="steps")
    if steps is not None:
        found = list(steps)
    elif len(files) == 1:
        found = [lone]
    else:
        numbers = [last_number(path) for path in files]
        for path, number in zip(files, numbers, strict=True):
            if number is None:
                message = f"steps is not given, and {path} has no number; give one for each file"
                raise UsageError(message, parameter="steps")
        found = [number for number in numbers if number is not None]
    for number, path in zip(found, files, strict=True):
        if found.count(number) > 1:
            other = files[found.index(number)]
            raise UsageError(
                f"steps has {number} for {other} and for {path if path != other else files[-1]}; "
                "give each file its own step",
                parameter="steps",
            )
    return found


def whole_or_last(
    files: list[Path], load: Callable[[Path], Loaded], notes: list[str]
) -> Iterable[tuple[Path, Loaded]]:
    """Each file and its content; a damaged last one of several is noted, and left out.

    So it is with the files of a run that was killed while it wrote.

    Raises `DamagedError` for a damaged file that others follow, or that is alone.
    """
    for number, path in enumerate(files, 1):
        try:
            content = load(path)
        except DamagedError as error:
            if number < len(files) or number == 1:
                raise
            notes.append(f"the last file is left out, as of a run that was killed: {error}")
            return
        yield path, content
