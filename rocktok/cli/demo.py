"""`rocktok demo`."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

import click

from rocktok.cli import options
from rocktok.cli.help import Command


def _directory(context: click.Context, parameter: click.Parameter, name: str | None) -> Path | None:
    return None if name is None else options.local_directory(context, parameter, name)


@click.command(
    "demo",
    cls=Command,
    examples=(
        ("rocktok demo", "The report of a real run, opened in the browser."),
        ("rocktok demo --log-only demo-log", "Its log, to try other commands on."),
    ),
)
@click.option(
    "-o",
    "--output",
    callback=_directory,
    metavar="DIR",
    help="Output directory of the report. Default: a new temporary one.",
)
@click.option(
    "--open/--no-open",
    "show",
    default=True,
    help="Open the report in the browser, where there is a display. Default: --open.",
)
@click.option(
    "--log-only",
    callback=_directory,
    metavar="DIR",
    help="Copy the log to a new directory, and make no report.",
)
@click.option("--force", is_flag=True, help="Replace an existing report.")
def demo_command(output: Path | None, show: bool, log_only: Path | None, force: bool) -> None:
    """Make the report of a log that ships with rocktok, and open it in the browser.

    The log is a small extract of a real distillation. Nothing is downloaded.
    """
    from rocktok.errors import UsageError

    if log_only is not None:
        if output is not None:
            raise UsageError("--log-only makes no report; leave out --output")
        _copy(log_only)
        return
    page = _report(output, force=force) / "report.html"
    if show and _has_display():
        import webbrowser

        webbrowser.open(page.resolve().as_uri())


def _report(output: Path | None, *, force: bool) -> Path:
    """Write the report as `rocktok report` does; returns its directory."""
    import tempfile

    from rocktok.cli.report import report_command
    from rocktok.log.shipped import demo_path

    log = demo_path()
    folder = output or Path(tempfile.mkdtemp(prefix="rocktok-demo-"))
    # Its notes are on the page, too.
    flags = ["--quiet", *(["--force"] if force else ())]
    click.echo("rocktok: making the report of the log that ships with rocktok …", err=True)
    arguments = ["--output", str(folder), *flags, "--", str(log)]
    try:
        report_command.main(arguments, prog_name="rocktok demo", standalone_mode=False)
    except BaseException:
        if output is None:
            # No report is in it, or it would not be empty.
            with suppress(OSError):
                folder.rmdir()
        raise
    return folder


def _has_display() -> bool:
    """Whether a browser window can be shown; without one, Python would start a text browser."""
    if sys.platform in ("win32", "darwin", "cygwin"):
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))


def _copy(target: Path) -> None:
    """Copy the log to a directory that does not exist, whole or not at all."""
    import shutil

    from rocktok.errors import LogError, UsageError
    from rocktok.log.shipped import demo_path
    from rocktok.temporary import temporary_directory

    source = demo_path()
    if target.exists():
        raise UsageError(f"{target}: exists already; give a new directory")
    try:
        with temporary_directory(target) as made:
            shutil.copytree(source, made, dirs_exist_ok=True)
            made.rename(target)
    except OSError as error:
        raise LogError(
            f"{target}: cannot be written ({error.strerror or error}); give another place, or "
            "free space there"
        ) from error
    options.say([f"rocktok detect {target}"])
    options.say_path(target)
