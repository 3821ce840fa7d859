"""`report` over a log: every analysis that it allows, then what only the report shows.

1. `detect`, with lifts;
2. one pass: losses of all types at both steps, losses by position, windows of the likely rocks, a
   draw of sequences;
3. each step shown as text once, of the sequences shown;
4. `attribute`, `stagnation` and `stability`, where the log has what they need.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np

from rocktok._types import Array
from rocktok.analyses.attribute.passes import attribute
from rocktok.analyses.detect import ranking as analysis
from rocktok.analyses.detect.context import distances
from rocktok.analyses.detect.passes import DetectRun, ZeroThresholdError
from rocktok.analyses.detect.persistence import PersistentWindows, of_type, sample_limits
from rocktok.analyses.detect.ranking import DetectParams
from rocktok.analyses.detect.result import DetectResult
from rocktok.analyses.stability.passes import stability
from rocktok.analyses.stagnation.passes import stagnation
from rocktok.engine.passes import Engine
from rocktok.errors import DamagedError, DataError, LogError
from rocktok.log.catalogue import Log
from rocktok.report.clusters import Clusters
from rocktok.report.missing import lacks
from rocktok.report.other_analyses import run_others
from rocktok.report.positions import LossByPosition
from rocktok.report.result import NO_NULL, PERSISTENCE, ReportParams, ReportResult
from rocktok.report.sensitivity import (
    MOST,
    Judged,
    Setting,
    grid_rows,
    judge,
    lowest,
    settings,
    typical,
)
from rocktok.report.sequences import DrawnSequences
from rocktok.report.text_view import sequence_texts
from rocktok.stats.arrays import padded
from rocktok.stats.sums import TypeSums

Row = dict[str, Any]

#: Types by Rock Score whose inclusion probability is asked for.
INCLUSIONS = 5_000

#: Types down the bound on R_ctx that the grid judges, for each rock there may be; where rocks are
#: chosen by score, those whose bound reaches it, at most so many. The rocks are always among them.
CANDIDATES = 2
MOST_TYPES = 1_000


def report(
    log: Log,
    *,
    clusters: Mapping[str, Sequence[str]] | None = None,
    embeddings: Array | None = None,
    engine: Engine | None = None,
    tell: Callable[[Any], None] | None = None,
    **options: Any,
) -> ReportResult:
    """All analyses that a log allows, and what the report shows beside them.

    Args:
        log: an open log (`rocktok.open`).
        clusters: name → patterns of functional clusters, asked before the built-in table.
        embeddings: (token ids, D) matrix for `similarity="embedding"`.
        engine: what makes the passes; default: threads on the cores this process may use.
        tell: given the result of each analysis as soon as there is one.
        options: fields of `rocktok.report.result.ReportParams`, and of
            `rocktok.analyses.detect.ranking.DetectParams`.

    Raises:
        UsageError: options out of range.
        LogError: the log is damaged, or has nothing to analyse.
    """
    own = {field.name: options.pop(field.name) for field in fields(ReportParams)
           if field.name in options}  # fmt: skip
    params, chosen = ReportParams(**own), DetectParams(**options)
    detecting = DetectRun(log, chosen, embeddings, engine or Engine(), None, None, False)
    # The grid has nulls, whatever η is in use.
    detecting.null = True
    detecting.lifts = params.lifts and detecting.choice.pre is not None
    run = _Run(detecting, params, Clusters(clusters))
    run.own_clusters = {name: list(patterns) for name, patterns in (clusters or {}).items()}
    run.tell = tell or run.tell
    return run.result()


class _Run:
    def __init__(self, run: DetectRun, params: ReportParams, clusters: Clusters) -> None:
        self.run, self.params, self.clusters = run, params, clusters
        self.log, self.engine = run.log, run.engine
        self.passes: dict[str, int] = {}
        self.tell: Callable[[Any], None] = lambda _: None
        self.own_clusters: dict[str, list[str]] = {}
        self.missing: list[Row] = []

    def result(self) -> ReportResult:
        """All passes."""
        found = self._counted("detect", self._detect)
        self.tell(found)
        others = self._others(found)
        rocks = np.array([row["token_id"] for row in found.rocks], dtype=np.int64)
        sums, places, windows, drawn = self._counted("report", lambda: self._look(rocks))
        judged = self._judge(windows)
        contexts = self._contexts(found, judged, windows)
        texts = self._counted("texts", lambda: self._texts(drawn, contexts))
        said = {row["what"] for row in self.missing}
        self.missing += [row for row in lacks(self.run) if row["what"] not in said]
        token_texts = self._token_texts(found, contexts, texts, others)
        run = self.run
        further = run_others(
            self.log, engine=self.engine, table=run.view.table, seed=run.params.seed
        )
        self.passes |= {other.analysis.name: other.passes for other in further}
        self.missing += [other.missing for other in further if other.missing is not None]
        return ReportResult(
            log={
                **self.log.identity(),
                "table": run.view.table,
                "pre": run.choice.pre,
                "post": run.choice.post,
                "passes": self.passes,
            },
            run=dict(self.log.run or {}),
            params={**asdict(self.params), "clusters": self.own_clusters},
            detect=found,
            types=self._types(sums),
            positions=tuple(places.result()),
            density=run.density.histogram(),
            sensitivity=self._grid(judged),
            contexts=contexts,
            texts=texts,
            token_texts=token_texts,
            clusters={v: self.clusters.of(text) for v, text in token_texts.items()},
            cluster_names=self.clusters.names,
            missing=tuple(self.missing),
            notes=self._notes(found, others),
            attribute=others["attribute"],
            stagnation=others["stagnation"],
            stability=others["stability"],
            others=further,
        )

    def _detect(self) -> DetectResult:
        """Without persistence where no loss, or too few of them, is above zero."""
        try:
            return self.run.result()
        except ZeroThresholdError as error:
            why, _, remedy = str(error).removeprefix(f"{self.log.name}: ").partition("; ")
            params = replace(self.run.params, context="off")
            self.run = DetectRun(self.log, params, None, self.engine, None, None, False)
            self._miss(PERSISTENCE, why, remedy)
            return self.run.result()

    def _counted(self, name: str, function: Callable[[], Any]) -> Any:
        before = self.engine.passes
        found = function()
        self.passes[name] = self.engine.passes - before
        return found

    # -- what only the report shows --------------------------------------------------------

    def _look(self, rocks: Array) -> tuple[Any, ...]:
        source, seed = self.run.source, self.run.params.seed
        columns = ("loss_post",) if source.pre is None else ("loss_pre", "loss_post")
        present = self.log.columns(source.table)
        gradient = ("grad_norm",) if "grad_norm" in present else ()
        sums = TypeSums((*columns, *gradient), compiled=source.large)
        places = LossByPosition(rocks, columns)
        drawn = DrawnSequences(seed, self.params.sequences)
        likely = self._likely()
        collect = []
        if likely:
            types = self.run.types
            assert self.run.thresholds is not None
            assert types.persistent_T is not None
            counts = {int(types.token_T[i]): int(types.persistent_T[i]) for i in likely}
            limit_V = sample_limits(counts, MOST, lambda n: n > MOST)
            window = self.run.params.window
            collect = [PersistentWindows(self.run.thresholds, window, seed, limit_V)]
        self.engine.run(source, sums, places, drawn, *collect)
        return sums, places, collect[0].result() if collect else {}, drawn

    def _likely(self) -> list[int]:
        """Types (indices) that may be rocks under some setting, down the bound on their score."""
        if self.run.contexts is None:
            return []
        types, params = self.run.types, self.run.params
        order = analysis.candidates(types, replace(params, all_types=False))
        if params.tau_r is None:
            first = CANDIDATES * params.top_k
        else:
            bound_T = types.bound_T()
            first = min(sum(bool(bound_T[index] >= params.tau_r) for index in order), MOST_TYPES)
        rocks = set(self.run.density.rocks.tolist())
        return [i for at, i in enumerate(order) if at < first or int(types.token_T[i]) in rocks]

    def _setting(self) -> Setting:
        params = self.run.params
        far = distances(params.window)[0] if params.eta == "auto" else None
        return Setting(params.gamma, params.eta, far)

    def _judge(self, windows: dict[str, Array]) -> dict[int, Judged]:
        contexts, params = self.run.contexts, self.run.params
        if contexts is None:
            return {}
        near = distances(params.window)
        grid = settings(params.gamma, params.eta, near)
        similarity = lowest(contexts.rule.similarity, params.gamma)
        found = {}
        for index in self._likely():
            v = int(self.run.types.token_T[index])
            ours = contexts.rule.windows(of_type(windows, v, MOST))
            nulls = {distance: contexts.draws_at(v, distance) for distance in near}
            found[index] = judge(ours, nulls, similarity, grid, self._setting())
        if found and all(one.share[self._setting()] is None for one in found.values()):
            self._miss(
                NO_NULL,
                "too few positions are free of each type to draw a null from",
                "record more sequences, or give --eta a number",
            )
            return {}
        return found

    def _grid(self, judged: dict[int, Judged]) -> tuple[Row, ...] | None:
        if not judged:
            return None
        params = self.run.params
        grid = settings(params.gamma, params.eta, distances(params.window))
        return tuple(grid_rows(self.run.types, params, judged, grid))

    def _contexts(
        self, found: DetectResult, judged: dict[int, Judged], windows: dict[str, Array]
    ) -> dict[int, Row]:
        """Of each rock, typical retained contexts, the windows as texts."""
        by_token = {int(self.run.types.token_T[index]): one for index, one in judged.items()}
        contexts = {}
        for row in found.rocks:
            v = int(row["token_id"])
            if v not in by_token:
                continue
            examples, total = typical(of_type(windows, v, MOST), by_token[v])
            for example in examples:
                for side in ("before", "after"):
                    example[side] = [self.log.vocab.text(u) for u in example[side] if u is not None]
            contexts[v] = {"examples": examples, "distinct": total,
                           "judged": len(by_token[v].rate_M)}  # fmt: skip
        return contexts

    def _texts(self, drawn: DrawnSequences, contexts: dict[int, Row]) -> Row | None:
        if self.params.sequences == 0:
            return None
        return sequence_texts(self.run, self.engine, drawn, contexts, self.params.sequences)

    def _types(self, sums: TypeSums) -> dict[str, list[Any]]:
        types = self.run.types
        found: dict[str, list[Any]] = {
            "token_id": types.token_T.tolist(),
            "frequency": types.frequency_T.tolist(),
            "loss_last": (types.loss_T / types.frequency_T).tolist(),
        }
        size = int(types.token_T[-1]) + 1
        gradient = sums.sum_V.get("grad_norm")
        if gradient is not None:
            found["grad_share"] = _shares(padded(gradient, size)[types.token_T])
        first = sums.sum_V.get("loss_pre")
        if first is not None:
            sum_T = padded(first, size)[types.token_T]
            found["loss_first"] = (sum_T / types.frequency_T).tolist()
        else:
            found["loss_first"] = [None] * len(types.token_T)
        return found

    # -- the other analyses ----------------------------------------------------------------

    def _others(self, found: DetectResult) -> dict[str, Any]:
        choice, params = self.run.choice, self.params
        ours = self.run.params
        shared: dict[str, Any] = {
            "table": self.run.view.table,
            "seed": ours.seed,
            "engine": self.engine,
        }
        columns = self.log.columns(self.run.view.table)
        results: dict[str, Any] = dict.fromkeys(("attribute", "stagnation", "stability"))
        if "grad_norm" in columns:
            results["attribute"] = self._allowed(
                "attribute", "who takes the gradient",
                lambda: attribute(self.log, detected=found, embeddings=self.run.embeddings,
                                  step=choice.post, replicates=params.replicates, **shared),
            )  # fmt: skip
        if self._course():
            results["stagnation"] = self._allowed(
                "stagnation", "whether rocks learn",
                lambda: stagnation(self.log, pre=ours.pre, post=ours.post, top_k=ours.top_k,
                                   replicates=params.replicates, **shared),
            )  # fmt: skip
        results["stability"] = self._allowed(
            "stability", "whether another sample would pick the same",
            lambda: stability(self.log, step=choice.post, context="off", top=INCLUSIONS, **shared),
        )  # fmt: skip
        return results

    def _course(self) -> bool:
        """Whether there are two steps from --pre to --post; without these, `stagnation` says."""
        pre, post = self.run.params.pre, self.run.params.post
        if pre is None and post is None:
            return True
        table = self.run.view.table
        steps = {*self.log.complete_steps(table), *(s for s in (pre, post) if s is not None)}
        low, high = min(steps) if pre is None else pre, max(steps) if post is None else post
        if low < high:
            return True
        self._miss(
            "whether rocks learn", f"{table}/ has no complete step before {high}",
            "give a later --post",
        )  # fmt: skip
        return False

    def _allowed(self, name: str, what: str, analyse: Callable[[], Any]) -> Any:
        """The result, or None and what is missing for it."""
        try:
            found = self._counted(name, analyse)
        except (DamagedError, DataError):
            raise
        except LogError as error:
            text = str(error).removeprefix(f"{self.log.name}: ")
            why, _, remedy = text.partition("; ")
            self._miss(what, why, remedy)
            return None
        self.tell(found)
        return found

    def _miss(self, what: str, why: str, remedy: str) -> None:
        self.missing.append({"what": what, "why": why, "remedy": remedy})

    def _token_texts(
        self, found: DetectResult, contexts: dict[int, Row], texts: Row | None, others: Row
    ) -> dict[int, str]:
        ids = {int(row["token_id"]) for row in found.tokens} | set(contexts)
        for sequence in texts["sequences"] if texts else ():
            ids |= set(sequence["token_ids"])
        for result in others.values():
            ids |= {int(row["token_id"]) for row in result.tokens} if result else set()
        types = self.run.types
        order = np.lexsort((types.token_T, -types.loss_T))[: self.params.rows]
        ids |= set(types.token_T[order].tolist())
        return {v: self.log.vocab.text(v) for v in sorted(ids)}

    def _notes(self, found: DetectResult, others: Mapping[str, Any]) -> tuple[str, ...]:
        """Of every analysis, with its name where it is not `detect`."""
        lines = list(found.notes)
        for name, result in others.items():
            for note in result.notes if result is not None else ():
                lines += [] if note in found.notes else [f"{name}: {note}"]
        said = {row["why"] for row in self.missing}
        return tuple(line for line in dict.fromkeys(lines) if not any(why in line for why in said))


def _shares(sum_T: Array) -> list[float | None]:
    total = float(sum_T.sum())
    return [value / total if total else None for value in sum_T.tolist()]
