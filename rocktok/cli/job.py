"""What every analysis command does around its analysis: options, log, engine, output, notes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rocktok.cli import options

if TYPE_CHECKING:
    from rocktok.analyses.result import Result
    from rocktok.engine.passes import Engine
    from rocktok.log import Log


@dataclass(frozen=True)
class Job:
    """One run of a command, with the options that all analyses share. `log`: LOG, if it has one."""

    log: str | None
    format_: str | None
    output: Path | None
    force: bool
    quiet: bool
    allow_missing: bool
    jobs: int | None
    dask: str | None

    def run(self, analyse: Callable[[Log, Engine], Result]) -> None:
        """Analyse LOG, and deliver the result."""
        log = self.log
        assert log is not None
        self.perform(lambda engine: analyse(self.open(log), engine))

    def open(self, log: str) -> Log:
        """Open a log as the options say."""
        return options.open_named(log, allow_missing=self.allow_missing)

    def perform(self, analyse: Callable[[Engine], Result]) -> None:
        """Analyse, and deliver the result as the module `table` beside it renders it.

        What would be refused at the end is refused before anything is read.
        """
        chosen = options.chosen_format(self.format_, self.output)
        options.check_output(self.output, force=self.force)
        with options.engine(self.jobs, self.dask, quiet=self.quiet) as engine:
            result = analyse(engine)
        options.deliver(rendered(result, chosen), self.output, force=self.force)
        options.notes(getattr(result, "notes", ()), quiet=self.quiet)


def rendered(result: Result, format_: str) -> bytes | str:
    """A result in one of the formats."""
    from rocktok.analyses.result import table_module

    if format_ == "json":
        return result.to_json()
    table = table_module(result)
    assert table is not None
    make = table.render if format_ == "table" else partial(table.encode, form=format_)
    rendered: bytes | str = make(result)
    return rendered


def job_options(*, log: bool = True) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """LOG (where there is one), --seed, --jobs, --dask, --format and their like, as a `Job`."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def command(**given: Any) -> None:
            shared = {name: given.pop(name, None) for name in Job.__dataclass_fields__}
            function(Job(**shared), **given)

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
