"""`rocktok report`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from rocktok.cli import options
from rocktok.cli.help import Command
from rocktok.cli.rocks import rock_options

if TYPE_CHECKING:
    from rocktok._types import Array
    from rocktok.analyses.compare.result import CompareResult
    from rocktok.log import Log
    from rocktok.report.page.drawing import Drawing
    from rocktok.report.result import ReportResult

_FORMATS = ("png", "pdf", "svg")

#: Of a report: what tells it from other directories, and all that it may hold.
MARKER, SCHEMA = "report.json", "rocktok.report"
OWN = (MARKER, "report.html", *(f"figures/*.{form}" for form in _FORMATS), "tables/*.csv")


def _formats(_: click.Context, parameter: click.Parameter, text: str) -> tuple[str, ...]:
    chosen = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    wrong = [part for part in chosen if part not in _FORMATS]
    if wrong:
        raise click.BadParameter(
            f"{wrong[0]!r} is not a figure format; choose from {', '.join(_FORMATS)}"
        )
    return chosen


@click.command(
    "report",
    cls=Command,
    common=(
        "compare",
        "output",
        "pre",
        "post",
        "fdr",
        "formats",
        "sequences",
        "force",
        "jobs",
    ),
    examples=(
        ("rocktok report runs/opd -o report", "Figures, tables, and report/report.html."),
        ("rocktok report --compare runs/a runs/b -o both", "Two runs side by side."),
    ),
)
@options.attempt_option
@click.argument("logs", nargs=-1, required=True, metavar="LOG | --compare A B [C...]")
@click.option(
    "-o",
    "--output",
    required=True,
    callback=options.local_directory,
    metavar="DIR",
    help="Output directory; it appears whole or not at all.",
)
@click.option("--compare", is_flag=True, help="Show the figures of several logs side by side.")
@click.option(
    "--figure-format",
    "formats",
    callback=_formats,
    default="svg",
    show_default=True,
    metavar="F,F,…",
    help="Formats of the figure files: png, pdf, svg.",
)
@click.option(
    "--columns",
    type=click.IntRange(1, 2),
    default=1,
    show_default=True,
    help="Width of the figures, in columns of a paper.",
)
@rock_options
@click.option(
    "--sequences",
    type=int,
    default=24,
    show_default=True,
    help="Maximum number of sequences in the text view.",
)
@click.option(
    "--rows",
    type=int,
    default=500,
    show_default=True,
    help="Maximum number of rows in the table of token types; rocks are always included.",
)
@options.replicates_option()
@click.option(
    "--lifts/--no-lifts",
    default=True,
    show_default=True,
    help="Test whether hard occurrences share contexts more than others of their type, and count "
    "rocks under permuted labels.",
)
@click.option(
    "--clusters",
    type=options.InputFile(),
    metavar="FILE",
    help="JSON file of functional clusters (name → patterns), matched before the built-in ones.",
)
@click.option(
    "--outcomes",
    multiple=True,
    metavar="FILE",
    help="File of `rocktok intervene`, shown as a section. May be given several times.",
)
@options.seed_option
@options.engine_options
@click.option("--force", is_flag=True, help="Replace an existing report.")
@click.option("-q", "--quiet", is_flag=True, help="Print no notes on stderr.")
@options.allow_missing_option
def report_command(
    logs: tuple[str, ...],
    output: Path,
    compare: bool,
    formats: tuple[str, ...],
    columns: int,
    pre: int | None,
    post: int | None,
    table: str,
    context: str,
    quantile_pre: float,
    quantile_post: float | None,
    tau_pre: float | None,
    tau_post: float | Literal["same"] | None,
    persistence: str,
    window: int | None,
    similarity: str,
    partners: str,
    gamma: float | Literal["auto"],
    eta: float | Literal["auto"],
    embeddings: Array | None,
    rule: str | None,
    fdr: float,
    min_hardness: float,
    top_k: int | None,
    tau_r: float | None,
    min_frequency: int,
    exclude_most_frequent: int,
    cap: int,
    exact: bool,
    sequences: int,
    rows: int,
    replicates: int,
    lifts: bool,
    clusters: Path | None,
    outcomes: tuple[str, ...],
    seed: int,
    jobs: int | None,
    dask: str | None,
    force: bool,
    quiet: bool,
    allow_missing: bool,
) -> None:
    """Write all analyses of LOG as figures, tables and one HTML page.

    The page shows which rocks there are, where they occur, whether they learn, and their share of
    loss and gradient. It names the data that the log lacks, with the remedy.
    """
    from rocktok.directories import check_directory, write_directory
    from rocktok.report.page.drawing import Drawing
    from rocktok.report.passes import report

    _check_logs(logs, outcomes, compare=compare)
    check = partial(
        check_directory, output, force=force, own=OWN, marker=MARKER, schema=SCHEMA, inputs=logs
    )
    check()
    analyse = partial(
        report,
        clusters=_patterns(clusters),
        replicates=replicates,
        sequences=sequences,
        rows=rows,
        lifts=lifts,
        pre=pre,
        post=post,
        table=table,
        context=context,
        quantile_pre=quantile_pre,
        quantile_post=quantile_post,
        tau_pre=tau_pre,
        tau_post=tau_post,
        persistence=persistence,
        window=window,
        similarity=similarity,
        partners=partners,
        gamma=gamma,
        eta=eta,
        embeddings=embeddings,
        rule=rule,
        fdr=fdr,
        min_hardness=min_hardness,
        top_k=top_k,
        tau_r=tau_r,
        min_frequency=min_frequency,
        exclude_most_frequent=exclude_most_frequent,
        cap=cap,
        exact=exact,
        outcomes=outcomes,
        seed=seed,
    )
    with (
        options.engine(jobs, dask, quiet=quiet) as engine,
        Drawing(formats, engine.jobs, columns) as drawing,
    ):
        opened = [options.open_named(log, allow_missing=allow_missing) for log in logs]
        make = _comparison if compare else _page
        answer, notes, files = make(opened, partial(analyse, engine=engine), formats, drawing)
    # Check again: another process may have written there since.
    write_directory(check(), files, marker=MARKER)
    options.notes(list(dict.fromkeys(notes)), quiet=quiet)
    options.say(answer)
    options.say_path(output / "report.html")


def _check_logs(logs: tuple[str, ...], outcomes: tuple[str, ...], *, compare: bool) -> None:
    """Raise `UsageError` for one log too many or too few, and for outcomes beside several."""
    from rocktok.errors import UsageError

    if len(logs) > 1 and not compare:
        raise UsageError(f"{len(logs)} logs were given; add --compare to show several")
    if compare and len(logs) < 2:
        raise UsageError("--compare needs two logs or more")
    if compare and outcomes:
        raise UsageError("--outcomes are those of one student; leave out --compare")


def _patterns(clusters: Path | None) -> dict[str, list[str]] | None:
    from rocktok.inputs import load_patterns

    return None if clusters is None else load_patterns(clusters)


def _page(
    logs: list[Log],
    analyse: Callable[..., ReportResult],
    formats: tuple[str, ...],
    drawing: Drawing,
) -> tuple[list[str], list[str], dict[str, bytes]]:
    """(answer, notes, files) of one log."""
    from rocktok.report.page.files import add_figures, render_report

    result = analyse(logs[0], tell=partial(add_figures, drawing))
    return result.detect.answer(), _notes([result]), render_report(result, formats, drawing)


def _comparison(
    logs: list[Log],
    analyse: Callable[..., ReportResult],
    formats: tuple[str, ...],
    drawing: Drawing,
) -> tuple[list[str], list[str], dict[str, bytes]]:
    """(answer, notes, files) of several logs."""
    from rocktok.report.page.comparison import render_comparison

    _check_comparable(logs)
    results = [analyse(log) for log in logs]
    compared = _compared(results)
    files = render_comparison(results, compared, formats, drawing)
    return compared.answer(), _notes(results), files


def _notes(results: list[ReportResult]) -> list[str]:
    """Notes of the analyses, and one per analysis that the log does not allow."""
    from rocktok.report.page.files import missing

    return [
        *(note for result in results for note in result.notes),
        *(
            f"not in the report: {row['what']}: {row['why']}; {row['remedy']}"
            for result in results
            for row in missing(result)
        ),
    ]


def _check_comparable(logs: list[Log]) -> None:
    """What `compare` would refuse at the end is refused before the logs are read."""
    from rocktok.analyses.compare.rankings import Ranking, check_lists

    empty = [{"log": {**log.identity(), "pre": None}, "tokens": []} for log in logs]
    check_lists([Ranking.of(log.name, one) for log, one in zip(logs, empty, strict=True)])


def _compared(results: list[ReportResult]) -> CompareResult:
    from rocktok.analyses.compare.rankings import Ranking, compare_rankings
    from rocktok.analyses.detect.result import MOST_ROCKS

    rankings = [Ranking.of(str(r.log["path"]), r.detect.to_dict()) for r in results]
    ours = results[0].detect.params
    most = ours["top_k"] or MOST_ROCKS
    return compare_rankings(rankings, {"top_k": most, "by": None, "seed": ours["seed"]})
