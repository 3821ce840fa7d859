"""`occurrences` over a log: those of `detect`; rounds that judge every type; one that writes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from rocktok._types import Array
from rocktok._version import __version__
from rocktok.analyses.detect.context_passes import Contexts
from rocktok.analyses.detect.detection import Detection
from rocktok.analyses.detect.passes import run_detect
from rocktok.analyses.detect.persistence import PersistentWindows
from rocktok.analyses.detect.result import DetectParams
from rocktok.analyses.occurrences.file_passes import SCHEMA, RowGroups, Runs, rows_of
from rocktok.analyses.occurrences.judged import LOOKED_AT, JudgedType
from rocktok.analyses.occurrences.result import LISTED, OccurrencesResult, OccurrencesRow
from rocktok.analyses.occurrences.round_passes import Rounds
from rocktok.analyses.run import LogOrPath, options_of, public
from rocktok.engine.passes import Engine
from rocktok.errors import LogError, UsageError
from rocktok.files import open_output, refuse_output, resolved
from rocktok.temporary import temporary_directory


@public
def occurrences(
    log: LogOrPath,
    output: str | os.PathLike[str] | None = None,
    *,
    list_partners: int = LISTED,
    force: bool = False,
    pre: int | None = None,
    post: int | None = None,
    table: str = "auto",
    context: str = "auto",
    quantile_pre: float = 0.8,
    quantile_post: float | None = None,
    tau_pre: float | None = None,
    tau_post: float | Literal["same"] | None = None,
    persistence: str = "high",
    window: int | None = None,
    similarity: str = "auto",
    partners: str = "other-prompt",
    gamma: float | Literal["auto"] = "auto",
    eta: float | Literal["auto"] = "auto",
    rule: str | None = None,
    fdr: float = 0.05,
    min_hardness: float = 1.5,
    top_k: int | None = None,
    tau_r: float | None = None,
    min_frequency: int = 1,
    exclude_most_frequent: int = 0,
    cap: int = 50_000,
    exact: bool = False,
    seed: int = 0,
    embeddings: Array | None = None,
    engine: Engine | None = None,
) -> OccurrencesResult:
    """Every persistent occurrence, retained or not, with the similar ones of other prompts.

    Args:
        log: an open log (`rocktok.open`), or the path of one.
        output: Parquet file to write, one row per occurrence; None: only the numbers by type.
        list_partners: maximum number of similar partners listed per occurrence; all are counted.
        force: replace the output file if it exists.
        pre, post, table, context, quantile_pre, quantile_post, tau_pre, tau_post, persistence,
            window, similarity, partners, gamma, eta, rule, fdr, min_hardness, top_k, tau_r,
            min_frequency, exclude_most_frequent, cap, exact, seed, embeddings: as in
            `rocktok.detect`, and with the same verdicts.
        engine: runs the passes; default: threads on the available cores.

    Raises:
        UsageError: an option is out of range, or the output exists.
        LogError: the log is damaged, or lacks the same text at two steps.
    """
    if list_partners < 0:
        raise UsageError(
            f"list_partners is {list_partners}; it must be 0 or more", parameter="list_partners"
        )
    params = options_of(DetectParams, locals())
    if output is not None:
        refuse_output(output, force=force)
    # Without persistence there is nothing to list.
    wanted = replace(params, context="required" if context == "auto" else context)
    found = run_detect(log, wanted, embeddings=embeddings, engine=engine)
    listing = _Listing(found, _contexts_of(found), list_partners)
    if output is None:
        listing.count()
    else:
        # The folder is not named after the output itself, whose own file is begun.
        beside = Path(f"{resolved(output)}.rounds")
        with open_output(output, force=force) as file, temporary_directory(beside) as folder:
            listing.write(file, folder)
    return listing.result(None if output is None else os.fspath(output))


def _contexts_of(found: Detection) -> Contexts:
    if found.contexts is None:
        raise LogError(
            f"{found.run.log.name}: occurrences are those that persist, but "
            f"{found.steps.no_context}; leave out --context off"
        )
    return found.contexts


@dataclass(frozen=True)
class _Counts:
    """Of one type, as in its row."""

    judged: int
    retained: int
    similar: float | None
    persistent_similar: float | None


class _Listing:
    """The occurrences of one `detect`, and what is counted of them."""

    def __init__(self, found: Detection, contexts: Contexts, list_partners: int) -> None:
        self._found, self._contexts, self._most = found, contexts, list_partners
        self._counts: dict[int, _Counts] = {}

    def count(self) -> None:
        """Judge all types."""
        for types in self._rounds():
            self._add(types)

    def write(self, file: BinaryIO, folder: Path) -> None:
        """Judge all types, and write their occurrences in the order of the text.

        `folder`: for verdicts, until the text has been read once more.
        """
        contexts, runs = self._contexts, Runs(folder)
        for types in self._rounds():
            self._add(types)
            runs.add(types)
        params = contexts.params
        with RowGroups(file, SCHEMA, self._about()) as writer:
            collect = PersistentWindows(contexts.thresholds, params.window_size, params.seed)
            rock_U = np.array(sorted(self._found.rocks), dtype=np.int64)
            for part in contexts.engine.partials(contexts.source, collect):
                (collected,) = part.accumulators
                assert isinstance(collected, PersistentWindows)
                rows = collected.result()
                if rows and len(rows["sequence"]):
                    first, last = int(rows["sequence"].min()), int(rows["sequence"].max())
                    writer.add(rows_of(rows, runs.between(first, last), rock_U, params.window_size))

    def _rounds(self) -> Iterable[list[JudgedType]]:
        return Rounds(self._contexts, self._found.types, self._most)

    def _add(self, types: list[JudgedType]) -> None:
        for one in types:
            self._counts[one.token_id] = _Counts(
                one.judged,
                one.retained,
                float(one.similar_M.mean()) if len(one.similar_M) else None,
                float(one.persistent_similar_M.mean()) if len(one.similar_M) else None,
            )

    def _about(self) -> dict[str, Any]:
        """The metadata of the file."""
        run, steps = self._found.run, self._found.steps
        facts = run.log.facts
        identity = run.log.identity()
        return {
            "schema": OccurrencesResult.SCHEMA,
            "log": {**identity, "table": run.table, "pre": steps.pre, "post": steps.post},
            "steps": {"pre": steps.pre, "post": steps.post},
            "parameters": self._params(),
            "thresholds": self._found.result.thresholds,
            "tokenizer": {
                "size": identity["vocab_size"],
                "identity": identity["vocab"],
                "terminal_ids": {
                    "student": facts.terminal_student,
                    "teacher": facts.terminal_teacher,
                },
                "special_ids": facts.special,
            },
            "rocktok": __version__,
        }

    def _params(self) -> dict[str, Any]:
        """Options of `detect`, with γ as it was used."""
        used = self._found.result.thresholds["gamma"]
        options = {**self._found.result.params, "gamma": used}
        del options["all_types"]
        return {**options, "list_partners": self._most, "partners_looked_at": LOOKED_AT}

    def result(self, output: str | None) -> OccurrencesResult:
        """The numbers by type."""
        found, run, steps = self._found, self._found.run, self._found.steps
        assert steps.pre is not None
        rows = self._rows()
        rocks = [row for row in rows if row["rock"]]
        return OccurrencesResult(
            log={
                **run.log.identity(),
                "table": run.table,
                "pre": steps.pre,
                "post": steps.post,
                "passes": run.passes,
            },
            params=self._params(),
            totals={
                "positions": found.result.totals["positions"],
                "persistent": sum(row["persistent"] for row in rows),
                "judged": sum(row["judged"] for row in rows),
                "retained": sum(row["retained"] or 0 for row in rows),
                "rocks": len(rocks),
                "rock_persistent": sum(row["persistent"] for row in rocks),
                "rock_retained": sum(row["retained"] or 0 for row in rocks),
            },
            tokens=tuple(rows),
            output=output,
            notes=(*steps.notes, *self._notes(rows)),
        )

    def _rows(self) -> list[OccurrencesRow]:
        """Rocks in their order, then the others by persistent occurrences."""
        types, text = self._found.types, self._found.run.log.vocab.text
        assert types.persistent_T is not None
        rank = {row["token_id"]: row["rank"] for row in self._found.result.rocks}
        frequency = dict(zip(types.token_T.tolist(), types.frequency_T.tolist(), strict=True))
        persistent = dict(zip(types.token_T.tolist(), types.persistent_T.tolist(), strict=True))
        rows: list[OccurrencesRow] = [
            {
                "token_id": v,
                "token": text(v),
                "rock": v in rank,
                "frequency": frequency[v],
                "persistent": persistent[v],
                "judged": counts.judged,
                "retained": counts.retained if counts.judged else None,
                "similar": counts.similar,
                "persistent_similar": counts.persistent_similar,
            }
            for v, counts in self._counts.items()
        ]
        last = len(rank) + 1
        return sorted(
            rows,
            key=lambda row: (rank.get(row["token_id"], last), -row["persistent"], row["token_id"]),
        )

    def _notes(self, rows: list[OccurrencesRow]) -> list[str]:
        notes = []
        sampled = [row for row in rows if 0 < row["judged"] < row["persistent"]]
        if sampled and not self._contexts.params.exact:
            notes.append(
                f"{len(sampled)} types have occurrences without a verdict: of types above --cap a "
                "sample is judged, and with --similarity hidden only what has a sketch; --exact "
                "judges all that can be"
            )
        unknown = sum(row["judged"] == 0 for row in rows)
        if unknown:
            notes.append(
                f"{unknown} types leave too few positions free of themselves for a null, or have "
                "no contexts: none of their occurrences has a verdict; --min-partner-share with a "
                "number judges without a null"
            )
        return notes
