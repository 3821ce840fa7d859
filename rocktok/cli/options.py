"""Options that several commands share, each declared once, and how results leave a command."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from rocktok.errors import UsageError, printable
from rocktok.files import descriptor_of, local_path, write_output, writes_into

if TYPE_CHECKING:
    from rocktok.engine.passes import Engine
    from rocktok.log import Log

F = TypeVar("F", bound=Callable[..., Any])

FORMATS = ("table", "json", "csv", "parquet")
_SUFFIXES = {".json": "json", ".csv": "csv", ".parquet": "parquet"}


class Renamed(click.Option):
    """An option whose former name, `old`, still works but is not shown."""

    def __init__(self, declarations: Sequence[str], *, old: str, **attributes: Any) -> None:
        super().__init__(declarations, **attributes)
        self.old = old

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """As click does it, with the old name."""
        super().add_to_parser(parser, ctx)
        parser.add_option(self, [self.old], dest=self.name, action="store", nargs=self.nargs)


class InputFile(click.Path):
    """A file that is read; `~` is the user's home."""

    def __init__(self, *, exists: bool = False) -> None:
        super().__init__(exists=exists, dir_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """As click does it."""
        return super().convert(local_path(value), param, ctx)


class OutputFile(click.Path):
    """A file that is written, or `-`, which is None: stdout, as without the option.

    It is a local one. As `Path` an address would be a folder `s3:`.
    """

    def __init__(self) -> None:
        super().__init__(dir_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """As click does it, without addresses; what stands for stdout is no path."""
        if value == "-" or descriptor_of(value) == 1:
            return None
        if "://" in os.fspath(value):
            self.fail(f"{value}: is an address; give a local path for the output", param, ctx)
        return super().convert(local_path(value), param, ctx)


def output_directory(_: click.Context, parameter: click.Parameter, name: str) -> str:
    """Callback of an option that takes a directory to write, or an address; never stdout."""
    if name == "-" or descriptor_of(name) is not None:
        raise click.BadParameter(f"{name}: the output is a directory; give its name")
    return name


def local_directory(context: click.Context, parameter: click.Parameter, name: str) -> Path:
    """Callback of an option that takes a local directory to write."""
    if "://" in output_directory(context, parameter, name):
        raise click.BadParameter(f"{name}: is an address; give a local path for the output")
    return local_path(name)


def output_file(_: click.Context, parameter: click.Parameter, name: str | None) -> Path | None:
    """Callback of an option that takes a local file which is written piece by piece, not stdout."""
    if name is None:
        return None
    if name == "-" or descriptor_of(name) is not None:
        raise click.BadParameter(f"{name}: the output is a file; give its name")
    if "://" in name:
        raise click.BadParameter(f"{name}: is an address; give a local path for the output")
    if local_path(name).is_dir():
        raise click.BadParameter(f"{name}: is a directory; give the name of a file")
    return local_path(name)


_ATTEMPT = "rocktok.attempt"

_EXPLAIN = "rocktok.explain"


def log_argument(function: F) -> F:
    """LOG: a directory or an address."""
    return click.argument("log", metavar="LOG")(attempt_option(function))


def attempt_option(function: F) -> F:
    """--attempt, for `open_named`."""
    return click.option(
        "--attempt",
        type=int,
        metavar="N",
        expose_value=False,
        callback=lambda context, _, value: context.meta.update({_ATTEMPT: value}),
        help="Read the log as attempt N left it. Default: the latest attempt.",
    )(function)


def output_options(*formats: str) -> Callable[[F], F]:
    """--format, -o/--output, --force, --quiet."""

    def decorate(function: F) -> F:
        for option in (
            click.option("-q", "--quiet", is_flag=True, help="Print no notes on stderr."),
            click.option("--force", is_flag=True, help="Replace the output file if it exists."),
            click.option(
                "-o",
                "--output",
                type=OutputFile(),
                help="Output file; it appears whole or not at all.",
            ),
            click.option(
                "--format",
                "format_",
                type=click.Choice(formats),
                help="Output format. Default: from the suffix of the output file, else table.",
            ),
        ):
            function = option(function)
        return function

    return decorate


def allow_missing_option(function: F) -> F:
    """--allow-missing."""
    return click.option(
        "--allow-missing",
        is_flag=True,
        help="Skip damaged or missing shards; every output states their number.",
    )(function)


def engine_options(function: F) -> F:
    """--jobs, --dask and --explain."""
    for option in (
        click.option(
            "--explain",
            is_flag=True,
            expose_value=False,
            callback=lambda context, _, value: context.meta.update({_EXPLAIN: value}),
            help="Print each pass over the log on stderr: rows, columns, analyses, seconds.",
        ),
        click.option(
            "--dask",
            metavar="ADDRESS|FILE",
            help="Run on a Dask cluster: scheduler address or scheduler file.",
        ),
        click.option(
            "--jobs", type=int, metavar="N", help="Number of threads. Default: the available cores."
        ),
    ):
        function = option(function)
    return function


@contextmanager
def engine(jobs: int | None, dask: str | None, *, quiet: bool) -> Iterator[Engine]:
    """The engine of --jobs and --dask, with a progress bar if stderr is a terminal.

    With --explain a line for each pass takes its place.
    """
    from rocktok.cli.explain import explained
    from rocktok.cli.progress import progress_bar
    from rocktok.engine.passes import Engine

    if click.get_current_context().meta.get(_EXPLAIN):
        with explained() as told, Engine(jobs, dask, explain=told) as made:
            yield made
        return
    with progress_bar(quiet=quiet) as tell, Engine(jobs, dask, tell) as made:
        yield made


def seed_option(function: F) -> F:
    """--seed."""
    return click.option("--seed", type=int, default=0, show_default=True, help="Random seed.")(
        function
    )


def table_option(function: F) -> F:
    """--table."""
    return click.option(
        "--table",
        type=click.Choice(["auto", "fixed", "rollout"]),
        default="auto",
        show_default=True,
        help="Table of the log to read. auto: fixed if the log has it, else rollout.",
    )(function)


def step_option(words: str) -> Callable[[F], F]:
    """--step."""
    return click.option("--step", type=int, metavar="STEP", help=words)


def pre_and_post_options(function: F) -> F:
    """--pre and --post."""
    for name, which, default in (("post", "Later", "last"), ("pre", "Earlier", "first")):
        words = f"{which} step. Default: the {default} complete step."
        function = click.option(f"--{name}", type=int, metavar="STEP", help=words)(function)
    return function


def top_options(function: F) -> F:
    """--top and --all of a command whose analysis takes them."""
    for option in (
        click.option("--all", "all_types", is_flag=True, help="Show every token type."),
        click.option(
            "--top",
            type=int,
            metavar="N",
            help="Maximum number of types to show. Default: 20 in the terminal table, 100 in "
            "files.",
        ),
    ):
        function = option(function)
    return function


def _one_or_more(_: click.Context, parameter: click.Parameter, value: int | None) -> int | None:
    name = parameter.opts[0].removeprefix("--")
    if value is not None and value < 1:
        raise UsageError(f"{name} is {value}; it must be 1 or more", parameter=name)
    return value


def rows_option(function: F) -> F:
    """--top of a command whose files hold everything, as `Job.rows`."""
    return click.option(
        "--top",
        "rows",
        type=int,
        callback=_one_or_more,
        metavar="N",
        help="Maximum number of rows per list in the terminal table. Default: 20. Files hold all.",
    )(function)


def rows_options(function: F) -> F:
    """--top and --all of a command whose files hold everything, as `Job.rows` and `.everything`."""
    option = click.option(
        "--all", "everything", is_flag=True, help="Show complete lists in the terminal table."
    )
    return rows_option(option(function))


def replicates_option(
    default: int = 1000, text: str = "Number of bootstrap replicates over prompts."
) -> Callable[[F], F]:
    """--replicates; `text`: its help."""
    return click.option(
        "--replicates",
        type=int,
        default=default,
        show_default=True,
        help=text,
    )


def rocks_option(default: str = "rocks of this log by its default options") -> Callable[[F], F]:
    """--rocks FILE; `default`: the rocks without it."""
    return click.option(
        "--rocks",
        type=InputFile(),
        metavar="FILE",
        help=f"JSON file of `rocktok detect`. Default: {default}.",
    )


def controls_options(function: F) -> F:
    """--controls FILE and --control-kind, for `rocks_and_pairs`."""
    for option in (
        click.option(
            "--control-kind",
            type=click.Choice(["frequency", "loss"]),
            default="frequency",
            show_default=True,
            help="Kind of control to read from the file of --controls.",
        ),
        click.option(
            "--controls",
            type=InputFile(),
            metavar="FILE",
            help="JSON file of `rocktok controls`: rocks and their controls.",
        ),
    ):
        function = option(function)
    return function


def rocks_and_pairs(
    rocks: Path | None, controls: Path | None, control_kind: str, vocab: str | None = None
) -> tuple[tuple[int, ...] | None, tuple[tuple[int, int], ...] | None]:
    """(rocks, pairs of a rock and its control) from the files; None without a file.

    `vocab`: identity of the log's vocabulary; the files must have the same if both are known.

    Raises `UsageError` for both files at once, `LogError` for a file of another kind.
    """
    from rocktok.inputs import load_controls, load_rocks

    if rocks is not None and controls is not None:
        raise UsageError("--controls names its own rocks; leave out --rocks")
    if controls is not None:
        return load_controls(controls, control_kind, vocab)
    return (None if rocks is None else load_rocks(rocks, vocab)), None


def chosen_format(format_: str | None, output: Path | None) -> str:
    """The format asked for, or that of the output's suffix. Raises `UsageError`."""
    chosen = format_ or (_SUFFIXES.get(output.suffix, "table") if output else "table")
    if chosen == "parquet" and output is None and sys.stdout.isatty():
        raise UsageError("Parquet cannot be shown in a terminal; give -o FILE or a pipe")
    return chosen


def check_output(output: Path | None, *, force: bool) -> None:
    """Refuse an existing output before any work is done. Raises `UsageError`."""
    if output is not None and output.exists() and not force and not writes_into(output):
        raise UsageError(f"{output}: exists already; give --force to replace it")


def deliver(data: bytes | str, output: Path | None, *, force: bool) -> None:
    """Write a result to its file or to stdout."""
    raw = data.encode() if isinstance(data, str) else data
    if output is not None:
        write_output(output, raw, force=force)
        return
    # Straight to the bytes: token text may not fit the terminal's encoding.
    sys.stdout.flush()
    sys.stdout.buffer.write(raw)
    sys.stdout.buffer.flush()


def open_named(log: str, *, allow_missing: bool) -> Log:
    """Open LOG; stderr tells when it waits for a file."""
    from rocktok.log import open_log

    def notice(line: str) -> None:
        click.echo(f"rocktok: {printable(line)}", err=True)

    attempt = click.get_current_context().meta.get(_ATTEMPT)
    return open_log(log, allow_missing=allow_missing, attempt=attempt, notice=notice)


def numbers(_: click.Context, parameter: click.Parameter, text: str | None) -> Any:
    """Callback of an option that takes numbers with commas between them."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of numbers such as 50,100,200") from None


def say(lines: Sequence[str]) -> None:
    """Print the lines of a command that writes elsewhere: answer, certainty, output path."""
    from rocktok.tables.terminal import View

    text = "\n".join([*View.of(sys.stdout).answer(lines), ""])
    # A path among them need not be UTF-8.
    deliver(os.fsencode(text), None, force=False)


def say_path(path: Path) -> None:
    """Print the path of an output: its bytes, or printable text on a terminal."""
    shown = printable(str(path)).encode() if sys.stdout.isatty() else bytes(path)
    deliver(shown + b"\n", None, force=False)


def notes(lines: list[str] | tuple[str, ...], *, quiet: bool) -> None:
    """Print the notes of a result on stderr."""
    for line in () if quiet else lines:
        click.echo(f"rocktok: note: {printable(line)}", err=True)
