"""What every analysis command does around its analysis: options, log, engine, output, notes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rocktok.cli import options

if TYPE_CHECKING:
    from rocktok.engine.passes import Engine
    from rocktok.log import Log


@dataclass(frozen=True)
class Job:
    """One run of a command over LOG, with the options that all analyses share."""

    log: str
    format_: str | None
    output: Path | None
    force: bool
    quiet: bool
    allow_missing: bool
    jobs: int | None
    dask: str | None

    def run(self, name: str, analyse: Callable[[Log, Engine], Any]) -> None:
        """Analyse the log, and deliver the result as `rocktok.report.<name>` renders it.

        What would be refused at the end is refused before anything is read.
        """
        chosen = options.chosen_format(self.format_, self.output)
        options.check_output(self.output, force=self.force)
        opened = options.open_named(self.log, allow_missing=self.allow_missing)
        with options.engine(self.jobs, self.dask, quiet=self.quiet) as engine:
            result = analyse(opened, engine)
        options.deliver(_render(name, result, chosen), self.output, force=self.force)
        options.notes(result.notes, quiet=self.quiet)


def _render(name: str, result: Any, format_: str) -> bytes | str:
    if format_ == "json":
        text: str = result.to_json()
        return text
    report = import_module(f"rocktok.report.{name}")
    make = report.render if format_ == "table" else partial(report.encode, form=format_)
    rendered: bytes | str = make(result)
    return rendered


def job_options(function: Callable[..., None]) -> Callable[..., None]:
    """LOG, --seed, --jobs, --dask, --format and their like; the command is given a `Job`."""

    @wraps(function)
    def command(**given: Any) -> None:
        shared = {name: given.pop(name) for name in Job.__dataclass_fields__}
        function(Job(**shared), **given)

    for decorate in (
        options.allow_missing_option,
        options.output_options(*options.FORMATS),
        options.engine_options,
        options.seed_option,
        options.log_argument,
    ):
        command = decorate(command)
    return command
