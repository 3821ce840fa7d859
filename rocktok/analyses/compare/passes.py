"""`compare` over logs and files of `detect`: the list of rocks of each, then their agreement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rocktok._types import Array
from rocktok.analyses.compare.lists import LISTED, Ranking
from rocktok.analyses.compare.rankings import compare_rankings
from rocktok.analyses.compare.result import CompareResult
from rocktok.analyses.detect.passes import detect
from rocktok.analyses.detect.result import MOST_ROCKS
from rocktok.analyses.run import LogOrPath, opened, path_of, public
from rocktok.engine.passes import Engine
from rocktok.errors import DamagedError, DataError, LogError, UsageError
from rocktok.files import local_path
from rocktok.inputs import load_detect, load_id_list, load_rock_list, not_of_detect
from rocktok.log.catalogue import Log
from rocktok.log.sequences import load_domains, load_prompts

#: The K of the published table.
THEIRS = (50, 100, 200)


@public
def compare(
    *sources: LogOrPath,
    top_k: int | None = None,
    at: Sequence[int] | None = None,
    types: int | None = None,
    by: str | None = None,
    seed: int = 0,
    engine: Engine | None = None,
) -> CompareResult:
    """Agreement of logs on their rocks: overlap and rank correlation of each pair.

    Args:
        sources: logs, paths of logs, JSON files of `rocktok detect`, or published lists, the
            best first: CSV files with a column rock_id, JSON lists of token ids; with `by` one log.
        top_k: maximum number of rocks per list; None: all if they are tested, else 100.
        at: numbers K; the first K of each list are compared, beyond `top_k`, too. None: 50, 100 and
            200 where a source is a published list, else none.
        types: number of types that the lists are drawn from, for the agreement by chance; None:
            what the sources say.
        by: "domain": compare the domains of one log.
        seed: random seed of `detect`.
        engine: runs the passes; default: threads on the available cores.

    Raises:
        UsageError: an option is out of range, or fewer than two sources.
        LogError: a source is damaged, or the lists cannot be compared.
    """
    engine = engine or Engine()
    if top_k is not None and top_k < 1:
        raise UsageError(f"top_k is {top_k}; it must be 1 or more", parameter="top_k")
    if types is not None and types < 1:
        raise UsageError(f"types is {types}; it must be 1 or more", parameter="types")
    if at is not None and (not at or min(at) < 1):
        raise UsageError(
            f"at is {','.join(map(str, at))}; give numbers of 1 or more", parameter="at"
        )
    if by not in (None, "domain"):
        raise UsageError(f"by is {by!r}; it must be 'domain'", parameter="by")
    notes: tuple[str, ...] = ()
    if by is None:
        rankings = [_ranking(source, engine, top_k, seed) for source in sources]
    else:
        rankings, notes = _domains(sources, engine, top_k, seed)
    if at is None:
        at = THEIRS if any(one.ranked_by == LISTED for one in rankings) else ()
    result = compare_rankings(
        rankings,
        {"top_k": top_k, "by": by, "seed": seed, "at": list(dict.fromkeys(at)), "types": types},
    )
    return replace(result, notes=(*notes, *result.notes))


def _ranking(source: LogOrPath, engine: Engine, top_k: int | None, seed: int) -> Ranking:
    if isinstance(source, Log):
        return _of_log(source.name, source, engine, top_k=top_k, seed=seed)
    name = path_of(source, "compare")
    if name.endswith(".json") and not local_path(name).is_dir():
        return _of_file(name, top_k)
    if name.endswith(".csv") and not local_path(name).is_dir():
        ranking = Ranking.of_list(name, load_rock_list(name))
        return ranking.cut(_most(ranking, top_k))
    return _of_log(name, opened(source), engine, top_k=top_k, seed=seed)


def _of_file(path: str, top_k: int | None) -> Ranking:
    ids = load_id_list(path)
    if ids is not None:
        ranking = Ranking.of_list(path, ids)
        return ranking.cut(_most(ranking, top_k))
    try:
        content = load_detect(path)
        ranking, notes = Ranking.of(path, content), tuple(map(str, content.get("notes", ())))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise not_of_detect(path) from error
    rocks, most = len(ranking.tokens), _most(ranking, top_k)
    if most is not None and rocks < most and ranking.ranked_by != "score":
        notes = (*notes, f"holds {rocks} rocks, fewer than the {most} that --top-k compares")
    return replace(ranking.cut(most), notes=notes)


def _most(ranking: Ranking, top_k: int | None) -> int | None:
    """How many of a list are compared. None: all, as the set of tested rocks is one."""
    return MOST_ROCKS if top_k is None and ranking.ranked_by != "score" else top_k


def _of_log(
    name: str, log: Log, engine: Engine, *, top_k: int | None, seed: int, only: Array | None = None
) -> Ranking:
    try:
        detected = detect(
            log, engine=engine, seed=seed, only=only, replication=False, all_types=True
        )
    except (DamagedError, DataError):
        raise
    except LogError as error:
        # What it names are options of another command.
        remedy = f"; run `rocktok detect {log.name}` with that option and give its JSON"
        raise LogError(f"{error}{remedy if '--' in str(error) else ''}") from error
    ranking = Ranking.of(name, detected.to_dict())
    return replace(ranking.cut(_most(ranking, top_k)), notes=detected.notes)


def _domains(
    sources: tuple[LogOrPath, ...], engine: Engine, top_k: int | None, seed: int
) -> tuple[list[Ranking], tuple[str, ...]]:
    """Rocks of each domain of one log; notes."""
    if len(sources) != 1:
        raise UsageError(
            f"--by domain compares the domains of one log, but {len(sources)} were given"
        )
    log = opened(sources[0])
    domains = load_domains(log)
    if len(domains) == 1:
        raise LogError(
            f"{log.name}: all sequences have the domain {next(iter(domains))!r}; a comparison "
            "needs two or more domains"
        )
    rankings = []
    for name, ids in domains.items():
        try:
            rankings.append(_of_log(name, log, engine, top_k=top_k, seed=seed, only=ids))
        except LogError as error:
            raise LogError(f"domain {name!r}: {error}") from error
    without = len(load_prompts(log).sequence_S) - sum(map(len, domains.values()))
    notes = (f"{without:,} sequences have no domain and are left out",) if without else ()
    return rankings, notes
