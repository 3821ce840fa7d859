"""The frame of every analysis command: options, log, engine, output, notes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rocktok.cli import options
from rocktok.cli.limit_keys import refuse_unknown_keys
from rocktok.cli.limits import check_limits, parse_limits

if TYPE_CHECKING:
    from rocktok.analyses.result import Result
    from rocktok.engine.passes import Engine
    from rocktok.log import Log
    from rocktok.tables.terminal import View


@dataclass(frozen=True)
class Job:
    """One run of a command, with the options that all analyses share.

    `log`: LOG, if the command has one. `rows`, `everything`, `wide`: options of the terminal table,
    for commands that have them. `limits`: --fail-if, for commands that have it.
    """

    log: str | None
    format_: str | None
    output: Path | None
    force: bool
    quiet: bool
    allow_missing: bool
    jobs: int | None
    dask: str | None
    rows: int | None = None
    everything: bool = False
    wide: bool = False
    limits: tuple[str, ...] = ()

    def run(self, analyse: Callable[[Log, Engine], Result]) -> None:
        """Analyse LOG, and deliver the result."""
        log = self.log
        assert log is not None
        self.perform(lambda engine: analyse(self.open(log), engine))

    def open(self, log: str) -> Log:
        """Open a log with --attempt and --allow-missing."""
        return options.open_named(log, allow_missing=self.allow_missing)

    def perform(self, analyse: Callable[[Engine], Result]) -> None:
        """Analyse, and deliver the result in the chosen format.

        An output that cannot be written, and a limit on what no result has, is refused before
        anything is read. Limits are checked when the result is delivered.
        """
        limits = parse_limits(self.limits)
        refuse_unknown_keys(limits)
        chosen = options.chosen_format(self.format_, self.output)
        options.check_output(self.output, force=self.force)
        with options.engine(self.jobs, self.dask, quiet=self.quiet) as engine:
            result = analyse(engine)
        options.deliver(rendered(result, chosen, self._view()), self.output, force=self.force)
        options.notes(getattr(result, "notes", ()), quiet=self.quiet)
        check_limits(limits, result.limits)

    def _view(self) -> View:
        """Width, colour and rows of a table; a file is written like a pipe."""
        view = view_of(self.output)
        return replace(view, top=self.rows, everything=self.everything, wide=self.wide)


def view_of(output: Path | None) -> View:
    """Width and colour of a table, for commands without options for it."""
    from rocktok.tables.terminal import View

    return View.of(sys.stdout) if output is None else View()


def rendered(result: Result, format_: str, view: View) -> bytes | str:
    """A result in one of the formats."""
    from rocktok.analyses.result import table_module

    if format_ == "json":
        return result.to_json()
    table = table_module(result)
    assert table is not None
    text: bytes | str = (
        view.safe(table.render(result, view))
        if format_ == "table"
        else table.encode(result, format_)
    )
    return text


def job_options(*, log: bool = True) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """LOG (where there is one), --seed, --jobs, --dask, --format and their like, as a `Job`."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def command(**given: Any) -> None:
            own = {name: given.pop(name) for name in Job.__dataclass_fields__ if name in given}
            function(Job(**{"log": None, **own}), **given)

        for option in (
            options.allow_missing_option,
            options.output_options(*options.FORMATS),
            options.engine_options,
            options.seed_option,
            *((options.log_argument,) if log else ()),
        ):
            command = option(command)
        return command

    return decorate
