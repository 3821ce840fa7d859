"""The log that ships in the package: a small extract of a real run, to try every command on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rocktok.errors import LogError
from rocktok.log.opening import open_log

if TYPE_CHECKING:
    from rocktok.log.catalogue import Log


def demo() -> Log:
    """Open the log that ships in the package: a real distillation, fixed text at a few steps.

    Example::

        rocktok.detect(rocktok.demo())

    Raises `LogError` where the package was installed without it.
    """
    return open_log(demo_path())


def is_demo(path: str) -> bool:
    """Whether a path is that of the log that ships in the package."""
    return Path(path) == _path()


def _path() -> Path:
    return Path(__file__).parents[1] / "demo"


def demo_path() -> Path:
    """Where the log lies that ships in the package. Raises `LogError` where it does not."""
    path = _path()
    if not (path / "run.json").is_file():
        raise LogError(
            f"{path}: the log that ships in the package is not there; install rocktok again"
        )
    return path
