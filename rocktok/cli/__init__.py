"""The command line: a thin shell over the library, and the only code that prints or exits."""

from __future__ import annotations

import atexit
import difflib
import io
import os
import signal
import sys
import warnings
from contextlib import suppress
from importlib import import_module
from typing import NoReturn

import click

from rocktok._version import __version__
from rocktok.analyses import analyses
from rocktok.cli.startup import lighten, share_one_heap
from rocktok.cli.streams import ReaderGoneError, guard_streams
from rocktok.errors import LogError, RocktokError, UsageError, printable

#: Options whose name differs from the parameter of the library.
_OPTIONS = {
    "gamma": "min-similarity",
    "eta": "min-partner-share",
    "columns_map": "map",
    "teacher_files": "teacher-file",
}


class LazyGroup(click.Group):
    """Finds a command in `rocktok.cli.<name>` when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order in which users meet them."""
        return list(analyses())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module."""
        if cmd_name not in analyses():
            return None
        name = analyses()[cmd_name].attribute
        module = import_module(f"rocktok.cli.{name}")
        command: click.Command = getattr(module, f"{name}_command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, with the nearest name for one that does not exist."""
        near = difflib.get_close_matches(args[0], analyses(), n=1)
        if args[0] not in analyses() and near:
            ctx.fail(f"No such command {args[0]!r}. Did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(entry.name, entry.help) for entry in analyses().values()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="rocktok %(version)s")
def cli() -> None:
    """Find tokens whose loss persists in on-policy distillation, and their share of the loss."""


class _Stopped(BaseException):
    """A signal asks to end: in order, so that processes end and temporary files go."""


def _heed_signals() -> None:
    """SIGTERM as Ctrl-C. Not by `KeyboardInterrupt`: raised within exec(), it ends Python by -2."""

    def stop(number: int, _: object) -> None:
        raise _Stopped(number)

    for one in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(one) != signal.SIG_IGN:  # as nohup and `&` leave them
            signal.signal(one, stop)


def main() -> None:
    """Entry point: every error a user can cause is one line on stderr and an exit code."""
    _heed_signals()
    try:
        cli.main(standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show(shown := io.StringIO())
        lines = shown.getvalue().rstrip("\n").split("\n")
        click.echo("\n".join(map(printable, lines)), err=True)
        sys.exit(error.exit_code)
    except click.Abort:
        _stop("stopped", 130)
    except _Stopped as stopped:
        _stop("stopped", 128 + stopped.args[0])
    except RocktokError as error:
        _stop(_as_options(error), error.exit_code)
    except ReaderGoneError:
        sys.exit(0)
    except Exception as error:
        if os.environ.get("ROCKTOK_TRACEBACK"):
            raise
        _stop(
            f"internal error: {type(error).__name__}: {error}; this is a bug in rocktok: "
            "please report it with what ROCKTOK_TRACEBACK=1 shows",
            1,
        )


def run() -> NoReturn:
    """Entry point of the process: `main`, then its end at once.

    On a busy machine a process that ends in the usual way is aborted now and then: threads of a
    library may still be starting while what holds them is taken apart. Nothing of ours is left to
    do by then.
    """
    code: object = 0
    guard_streams()
    lighten(sys.argv[1:])
    share_one_heap(sys.argv[1:])
    # A number that overflows is in the result; where in the arithmetic it did helps no reader.
    warnings.simplefilter("ignore", RuntimeWarning)
    try:
        main()
    except SystemExit as stop:
        code = stop.code
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        # What could not be written was said.
        with suppress(OSError, ValueError, LogError, ReaderGoneError):
            stream.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def _as_options(error: RocktokError) -> str:
    """The error's message, with the option in place of the library's parameter."""
    text = str(error)
    if isinstance(error, UsageError) and error.parameter is not None:
        option = _OPTIONS.get(error.parameter, error.parameter.replace("_", "-"))
        return f"--{option}{text.removeprefix(error.parameter)}"
    return text


def _stop(message: str, code: int) -> None:
    click.echo(f"rocktok: {printable(message)}", err=True)
    sys.exit(code)
