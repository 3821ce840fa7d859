"""Progress on stderr, where that is a terminal: rows, rows a second, time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: A pass that is over sooner shows nothing.
PATIENCE = 1.0


@contextmanager
def progress_bar(*, quiet: bool) -> Iterator[Callable[[int, int | None], None] | None]:
    """A callback (rows done, rows of the pass, None where nobody knows them beforehand).

    None if stderr is not a terminal.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.fields[name]}"),
        BarColumn(),
        TextColumn("{task.fields[rows]}"),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    began = time.monotonic()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, visible=False, name="", rows="", speed="")
        pass_began, number = began, 1

        def tell(done: int, total: int | None) -> None:
            nonlocal pass_began, number
            now = time.monotonic()
            speed = done / max(now - pass_began, 1e-9)
            bar.update(
                task,
                completed=done,
                total=total,
                name="rows" if total is None else f"pass {number}",
                rows=f"{done:,}" if total is None else f"{done:,} of {total:,} rows",
                speed=f"{speed / 1e6:,.1f} M rows/s",
                visible=now - began > PATIENCE,
            )
            if total is not None and done >= total:
                number, pass_began = number + 1, now
                bar.reset(task, speed="", visible=now - began > PATIENCE)

        yield tell
