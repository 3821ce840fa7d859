"""`rocktok compare`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rocktok.cli import options
from rocktok.cli.job import Job, job_options

if TYPE_CHECKING:
    from rocktok.analyses.compare.rankings import CompareResult, Ranking
    from rocktok.engine.passes import Engine
    from rocktok.log import Log


@click.command("compare")
@click.argument("sources", nargs=-1, required=True, metavar="A B [C...]")
@options.top_k_option
@click.option(
    "--by", type=click.Choice(["domain"]), help="Compare the parts of one LOG: its domains."
)
@job_options(log=False)
def compare_command(
    job: Job, sources: tuple[str, ...], top_k: int, by: str | None, seed: int
) -> None:
    """Say whether logs agree on their rocks: overlap and rank correlation of every two.

    A, B, C are logs, which are searched with the defaults of `rocktok detect`, or its JSON files,
    of which the first --top-k rocks count. Tokens are matched by id where the vocabularies are
    the same, by text otherwise.
    """
    from rocktok.analyses.compare.rankings import compare
    from rocktok.errors import UsageError

    if top_k < 1:
        raise UsageError(f"top_k is {top_k}; it must be 1 or more", parameter="top_k")

    def analyse(engine: Engine) -> CompareResult:
        if by is not None:
            rankings, notes = _domains(job, sources, engine, top_k, seed)
        else:
            notes = ()
            rankings = [_ranking(job, source, engine, top_k, seed) for source in sources]
        found = compare(rankings, {"top_k": top_k, "by": by, "seed": seed})
        return replace(found, notes=(*notes, *found.notes))

    job.perform(analyse)


def _ranking(job: Job, source: str, engine: Engine, top_k: int, seed: int) -> Ranking:
    if source.endswith(".json") and not Path(source).is_dir():
        return _of_file(source, top_k)
    return _searched(source, job.open(source), engine, top_k=top_k, seed=seed)


def _of_file(source: str, top_k: int) -> Ranking:
    from rocktok.analyses.compare.rankings import Ranking
    from rocktok.inputs import load_detect, not_of_detect

    try:
        content = load_detect(source)
        ranking, notes = Ranking.of(source, content), tuple(map(str, content.get("notes", ())))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise not_of_detect(source) from error
    held = len(ranking.tokens)
    if held < top_k:
        notes = (*notes, f"holds {held} rocks, fewer than the {top_k} that --top-k compares")
    return replace(ranking, tokens=ranking.tokens[:top_k], notes=notes)


def _searched(name: str, log: Log, engine: Engine, **options: Any) -> Ranking:
    from rocktok.analyses.compare.rankings import Ranking
    from rocktok.analyses.detect.passes import detect
    from rocktok.errors import DamagedError, DataError, LogError

    try:
        found = detect(log, engine=engine, **options)
    except (DamagedError, DataError):
        raise
    except LogError as error:
        # What it names are options of another command.
        remedy = f"; run `rocktok detect {log.name}` with that option and give its JSON"
        raise LogError(f"{error}{remedy if '--' in str(error) else ''}") from error
    return replace(Ranking.of(name, found.to_dict()), notes=found.notes)


def _domains(
    job: Job, sources: tuple[str, ...], engine: Engine, top_k: int, seed: int
) -> tuple[list[Ranking], tuple[str, ...]]:
    """Rocks of each domain of one log; notes."""
    from rocktok.errors import LogError, UsageError
    from rocktok.log.sequences import load_domains, load_prompts

    if len(sources) != 1:
        raise UsageError(
            f"--by domain compares the parts of one log, but {len(sources)} were given"
        )
    log = job.open(sources[0])
    domains = load_domains(log)
    if len(domains) == 1:
        raise LogError(
            f"{log.name}: all its sequences are of one domain, {next(iter(domains))!r}; two or "
            "more can be compared"
        )
    rankings = []
    for name, ids in domains.items():
        try:
            rankings.append(_searched(name, log, engine, only=ids, top_k=top_k, seed=seed))
        except LogError as error:
            raise LogError(f"domain {name!r}: {error}") from error
    without = len(load_prompts(log).sequence_S) - sum(map(len, domains.values()))
    notes = (f"{without:,} sequences have no domain, and are left out",) if without else ()
    return rankings, notes
