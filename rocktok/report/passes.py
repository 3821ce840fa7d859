"""`report` of a log: all analyses that the log allows, and the contents of the page beside them.

1. `detect`; its lifts go on beside all that follows;
2. `attribute`, `stagnation` and `stability`, where the log has the columns and steps they need;
3. one pass: losses of all types at both steps, losses by position, windows of the candidate rocks,
   a random sample of sequences;
4. one pass over each step of the text view, of the sampled sequences alone;
5. the analyses with sections of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal, cast

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect.detection import Detection
from rocktok.analyses.detect.log_passes import ZeroThresholdError
from rocktok.analyses.detect.passes import run_detect
from rocktok.analyses.detect.persistence import of_type
from rocktok.analyses.detect.result import DetectParams
from rocktok.analyses.lenses.passes import thresholds_ahead
from rocktok.analyses.pillars.passes import OutcomesOrPath
from rocktok.analyses.run import LogOrPath, opened, options_of, public
from rocktok.engine.made import Reads
from rocktok.engine.passes import Engine
from rocktok.engine.turns import Companion
from rocktok.report.alternatives import token_ids
from rocktok.report.built_in import BuiltIn
from rocktok.report.clusters import Clusters
from rocktok.report.grid import MOST, TypeShares, gammas_of, judge_types, setting_of
from rocktok.report.hardest import hardest_rows, hardest_types, wanted_instead
from rocktok.report.missing import lacks
from rocktok.report.other_analyses import (
    Missing,
    OtherResult,
    missing_of,
    of_outcomes,
    start_others,
)
from rocktok.report.parts import Look, OtherParts, PageContent
from rocktok.report.positions import LossByPosition
from rocktok.report.progress import Counted, Progress
from rocktok.report.result import (
    NO_NULL,
    PERSISTENCE,
    ReportOptions,
    ReportParams,
    ReportResult,
    Told,
)
from rocktok.report.sensitivity import (
    RockContexts,
    SensitivityRow,
    grid_rows,
    likely_rocks,
    typical,
    windows_of,
)
from rocktok.report.sequences import DrawnSequences
from rocktok.report.text_view import Texts, at_steps, choose, sequence_texts
from rocktok.report.type_columns import type_columns
from rocktok.stats.sums import TypeSums

#: Missing where the text is too little.
_NO_NULL: Missing = {
    "what": NO_NULL,
    "why": "too few positions are free of each type to draw a null from",
    "remedy": "record more sequences, or give --min-partner-share a number",
}


@public
def report(
    log: LogOrPath,
    *,
    clusters: Mapping[str, Sequence[str]] | None = None,
    replicates: int = 1000,
    sequences: int = 24,
    rows: int = 500,
    lifts: bool = True,
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
    all_types: bool = False,
    embeddings: Array | None = None,
    outcomes: Sequence[OutcomesOrPath] = (),
    engine: Engine | None = None,
    tell: Callable[[Told], None] | None = None,
) -> ReportResult:
    """All analyses that the log allows, as one result.

    Args:
        log: an open log (`rocktok.open`), or the path of one.
        clusters: name → patterns of functional clusters, matched before the built-in ones.
        replicates: number of bootstrap replicates of each analysis.
        sequences: maximum number of sequences in the text view.
        rows: maximum number of rows in the table of tokens; rocks are always included.
        pre, post, table, context, quantile_pre, quantile_post, tau_pre, tau_post, persistence,
            window, similarity, partners, gamma, eta, rule, fdr, min_hardness, top_k, tau_r,
            min_frequency, exclude_most_frequent, cap, exact, seed, all_types, embeddings: as in
            `rocktok.detect`.
        lifts: as in `rocktok.detect`, where the log has two steps of the same text.
        outcomes: of interventions, as `rocktok.pillars` takes them, for a section of their own.
        engine: runs the passes; default: threads on the available cores.
        tell: callback, given the result of each analysis as soon as it is complete; before the last
            of them a `ReportResult`, which lacks other analyses, texts and notes.

    Raises:
        TypeError: an unknown keyword; the message names the nearest one.
        UsageError: an option is out of range.
        LogError: the log is damaged, or has no positions to analyse.
    """
    params = options_of(ReportParams, locals())
    options, own = options_of(DetectParams, locals()), Clusters(clusters)
    progress = Progress(opened(log), engine or Engine(), tell or (lambda _: None))
    given = of_outcomes(progress.log, outcomes, seed)
    found: list[Detection] = []
    detecting = progress.start(
        "detect", lambda: _detection(progress, options, embeddings, found.append, lifts=lifts)
    )
    progress.start_ahead(
        "lenses",
        lambda: thresholds_ahead(
            progress.log, progress.engine, table=options.table, pre=options.pre,
            post=options.post, context=options.context, seed=seed,
        ),
    )  # fmt: skip
    progress.engine.until(lambda: bool(found) or detecting.done)
    progress.passes["detect"] = 0  # listed first, whatever is done first
    detection = found[0] if found else detecting.result().result
    progress.tell(detection.result)
    return _Report(detection, detecting, params, own, progress, given).result()


def _detection(
    progress: Progress,
    options: DetectParams,
    embeddings: Array | None,
    ready: Callable[[Detection], None],
    *,
    lifts: bool,
) -> Detection:
    """The detection; without persistence where too few losses are above zero for a threshold.

    `ready`: called with it when it lacks its lifts alone, where it has any.
    """
    log, engine = progress.log, progress.engine
    try:
        # The sensitivity grid needs the null distributions also where η is a number.
        return run_detect(
            log, options, embeddings=embeddings, engine=engine,
            lifts="auto" if lifts else False, null=True, replicate="auto",
            cutoffs="grad_norm" in log.columns("fixed"), ready=ready,
        )  # fmt: skip
    except ZeroThresholdError as error:
        progress.missing.append(missing_of(log, PERSISTENCE, error))
    return run_detect(log, replace(options, context="off"), embeddings=embeddings, engine=engine)


@dataclass(frozen=True)
class _Report:
    """Builds the result from a detection, which may lack its lifts until it is `detecting`'s."""

    detection: Detection
    detecting: Companion[Counted[Detection]]
    params: ReportParams
    clusters: Clusters
    progress: Progress
    given: tuple[OtherResult, ...] = ()

    def result(self) -> ReportResult:
        """Make all further passes, and put their results together."""
        detection, progress = self.detection, self.progress
        parts = BuiltIn(detection, progress, self.params.replicates)
        page = progress.engine.start(self._page, "report")
        started = start_others(
            detection.run.log, engine=progress.engine, table=detection.run.table,
            seed=detection.params.seed, replicates=self.params.replicates,
            detected=detection.result, tell=progress.tell,
        )  # fmt: skip
        others = parts.results()
        content = page.result()
        progress.passes.update(content.passes)
        if content.shares is None:
            progress.missing.append(_NO_NULL)
        said = {row["what"] for row in progress.missing}
        progress.missing.extend(row for row in lacks(detection) if row["what"] not in said)
        further = tuple(other.result() for other in started)
        progress.passes.update({other.analysis.name: other.passes for other in further})
        progress.missing.extend(o.missing for o in further if o.missing is not None)
        done = progress.note("detect", self.detecting.result())
        return replace(self, detection=done).with_parts(content, others, (*further, *self.given))

    def with_parts(
        self, content: PageContent, others: OtherParts, sections: tuple[OtherResult, ...]
    ) -> ReportResult:
        """The result, of the analyses that are done."""
        detection, progress, look = self.detection, self.progress, content.look
        log, steps = detection.run.log, detection.steps
        token_texts = self._token_texts(content.contexts, content.texts, others)
        return ReportResult(
            log={
                **log.identity(),
                "table": detection.run.table,
                "pre": steps.pre,
                "post": steps.post,
                "passes": {**progress.passes, "all": len(progress.made)},
                "reads": round(Reads.of(progress.made).times, 2),
            },
            run=dict(log.run or {}),
            params=cast(ReportOptions, {**asdict(self.params), "clusters": self.clusters.own}),
            detect=detection.result,
            types=type_columns(detection.types, look.sums),
            positions=tuple(look.positions.result()),
            density=detection.density,
            sensitivity=content.sensitivity,
            contexts=content.contexts,
            contexts_in_text=content.in_text,
            texts=content.texts,
            curves=content.curves,
            hardest=hardest_rows(detection, hardest_types(detection), look.instead),
            token_texts=token_texts,
            clusters={v: self.clusters.of(text) for v, text in token_texts.items()},
            cluster_names=self.clusters.names,
            missing=tuple(progress.missing),
            notes=self._notes(others),
            attribute=others.attribute,
            stagnation=others.stagnation,
            stability=others.stability,
            others=sections,
        )

    # -- contents of the page beside the analyses ------------------------------------------

    def _page(self) -> PageContent:
        """What the page shows beside the analyses: a pass of its own, and those of the text."""
        detection, progress = self.detection, self.progress
        likely, hardest = likely_rocks(detection), hardest_types(detection)
        looked = progress.counted(lambda: self._look(likely, hardest))
        look = looked.result
        shares = self._type_shares(likely, look.windows)
        # What takes one core for long lets analyses beside the page go on.
        content = progress.engine.aside(
            lambda: PageContent(
                look=look,
                shares=shares,
                sensitivity=self._sensitivity(shares or {}),
                contexts=self._contexts(shares or {}, look.windows),
                passes={"report": looked.passes},
            )
        )
        progress.tell(self.with_parts(content, OtherParts(None, None, None), self.given))
        ids = choose(look.drawn, content.contexts, self.params.sequences)
        named = [row["token_id"] for row in detection.result.rocks]
        curves = [*named, *detection.types.token_T[hardest].tolist()]
        read = progress.counted(lambda: at_steps(detection, ids, curves) if ids else None)
        passes = {**content.passes, "texts": read.passes}
        if read.result is None:
            return replace(content, passes=passes)
        steps = read.result

        def shown() -> PageContent:
            texts = sequence_texts(detection, steps, ids, look.drawn.seen)
            on_page = [sequence["sequence_id"] for sequence in texts["sequences"]]
            return replace(
                content,
                in_text=self._contexts(shares or {}, look.windows, on_page),
                texts=texts,
                curves=steps.curves,
                passes=passes,
            )

        return progress.engine.aside(shown)

    def _look(self, likely: list[int], hardest: Array) -> Look:
        detection = self.detection
        source, seed = detection.source, detection.params.seed
        earlier = () if source.pre is None else ("loss_pre",)
        present = detection.run.log.columns(source.table)
        gradient = ("grad_norm",) if "grad_norm" in present else ()
        sums = TypeSums((*earlier, "loss", *gradient), compiled=source.large)
        rocks = np.array(list(detection.rocks), dtype=np.int64)
        positions = LossByPosition(rocks, earlier)
        drawn = DrawnSequences(seed, self.params.sequences)
        collect = []
        if likely:
            collect = [windows_of(detection, likely)]
        instead = wanted_instead(detection, hardest)
        beside = [] if instead is None else [instead]
        detection.run.engine.run(source, sums, positions, drawn, *collect, *beside)
        windows = collect[0].result() if collect else {}
        return Look(sums, positions, windows, drawn, {} if instead is None else instead.result())

    def _type_shares(
        self, likely: list[int], windows: dict[str, Array]
    ) -> dict[int, TypeShares] | None:
        """None where no null can be drawn for any."""
        shares = judge_types(self.detection, likely, windows)
        own = setting_of(self.detection.params)
        if shares and all(each.share(own) is None for each in shares.values()):
            return None
        return shares

    def _sensitivity(self, shares: dict[int, TypeShares]) -> tuple[SensitivityRow, ...] | None:
        if not shares:
            return None
        detection = self.detection
        gammas = gammas_of(detection)
        return tuple(grid_rows(detection.types, detection.params, shares, gammas))

    def _contexts(
        self,
        shares: dict[int, TypeShares],
        windows: dict[str, Array],
        only: Collection[int] | None = None,
    ) -> dict[int, RockContexts]:
        """Token id of a rock → its typical retained contexts; `only`: in these sequences."""
        token_T, text = self.detection.types.token_T, self.detection.run.log.vocab.text
        by_token = {int(token_T[index]): each for index, each in shares.items()}
        here = {*by_token}
        if only is not None and windows:
            among_N = np.isin(windows["sequence"], list(only))
            here &= {*np.unique(windows["token"][among_N]).tolist()}
        return {
            v: typical(of_type(windows, v, MOST), by_token[v], text, only)
            if v in here
            else {"examples": [], "distinct": 0, "judged": by_token[v].judged}
            for v in (row["token_id"] for row in self.detection.result.rocks)
            if v in by_token
        }

    def _token_texts(
        self, contexts: dict[int, RockContexts], texts: Texts | None, others: OtherParts
    ) -> dict[int, str]:
        ids = {row["token_id"] for row in self.detection.result.tokens} | set(contexts)
        for sequence in texts["sequences"] if texts else ():
            ids |= set(sequence["token_ids"])
            if others_here := sequence.get("alternatives"):
                ids |= token_ids(others_here)
        for _, result in others.done():
            ids |= {int(row["token_id"]) for row in result.tokens}
        types = self.detection.types
        ids |= set(types.token_T[hardest_types(self.detection)].tolist())
        order = np.lexsort((types.token_T, -types.loss_T))[: self.params.rows]
        ids |= set(types.token_T[order].tolist())
        return {v: self.detection.run.log.vocab.text(v) for v in sorted(ids)}

    def _notes(self, others: OtherParts) -> tuple[str, ...]:
        """Notes of all analyses, each with the name of its analysis unless that is `detect`."""
        own = self.detection.result.notes
        lines = [
            *own,
            *(
                f"{name}: {note}"
                for name, result in others.done()
                for note in result.notes
                if note not in own
            ),
        ]
        said = {row["why"] for row in self.progress.missing}
        return tuple(line for line in dict.fromkeys(lines) if not any(why in line for why in said))
