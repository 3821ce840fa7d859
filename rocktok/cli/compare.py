"""`rocktok compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rocktok.cli import options
from rocktok.cli.job import Job, job_options

if TYPE_CHECKING:
    from rocktok.analyse.compare import CompareResult, Ranking
    from rocktok.engine.passes import Engine


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
    one file, by text otherwise.
    """
    from rocktok.analyse.compare import compare

    def analyse(engine: Engine) -> CompareResult:
        if by is not None:
            rankings = _domains(job, sources, engine, top_k=top_k, seed=seed)
        else:
            rankings = [_ranking(job, source, engine, top_k, seed) for source in sources]
        return compare(rankings, {"top_k": top_k, "by": by, "seed": seed})

    job.perform("compare", analyse)


def _ranking(job: Job, source: str, engine: Engine, top_k: int, seed: int) -> Ranking:
    from dataclasses import replace

    from rocktok.analyse.compare import Ranking
    from rocktok.engine.detect import detect
    from rocktok.inputs import load_detect, not_of_detect

    if source.endswith(".json") and not Path(source).is_dir():
        try:
            ranking = Ranking.of(source, load_detect(source))
        except (KeyError, TypeError, ValueError) as error:
            raise not_of_detect(source) from error
        return replace(ranking, tokens=ranking.tokens[:top_k])
    found = detect(job.open(source), engine=engine, top_k=top_k, seed=seed)
    return Ranking.of(source, found.to_dict())


def _domains(
    job: Job, sources: tuple[str, ...], engine: Engine, top_k: int, seed: int
) -> list[Ranking]:
    """Rocks of each domain of one log."""
    from rocktok.analyse.compare import Ranking
    from rocktok.engine.detect import detect
    from rocktok.errors import LogError, UsageError
    from rocktok.log.sequences import load_domains

    if len(sources) != 1:
        raise UsageError(
            f"--by domain compares the parts of one log, but {len(sources)} were given"
        )
    log = job.open(sources[0])
    rankings = []
    for name, ids in load_domains(log).items():
        try:
            found = detect(log, engine=engine, only=ids, top_k=top_k, seed=seed)
        except LogError as error:
            raise LogError(f"domain {name!r}: {error}") from error
        rankings.append(Ranking.of(name, found.to_dict()))
    return rankings
