"""Progress on stderr, where that is a terminal: rows, rows a second, time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: A pass that is over sooner shows nothing.
PATIENCE = 1.0


@contextmanager
def progress_bar(*, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A callback (rows done, rows of the pass), or None if stderr is not a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("pass {task.fields[number]}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} rows"),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    began = time.monotonic()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", number=1, total=None, visible=False, speed="")
        pass_began, number = began, 1

        def tell(done: int, total: int) -> None:
            nonlocal pass_began, number
            now = time.monotonic()
            speed = done / max(now - pass_began, 1e-9)
            bar.update(
                task,
                completed=done,
                total=total,
                number=number,
                speed=f"{speed / 1e6:,.1f} M rows/s",
                visible=now - began > PATIENCE,
            )
            if done >= total:
                number, pass_began = number + 1, now
                bar.reset(task, number=number, speed="", visible=now - began > PATIENCE)

        yield tell
