"""`lenses` over a log: who is a rock and persistent; thresholds of the lenses; sums by class.

Five passes over the rows beside those of `detect`: two for quantiles of columns and of what is made
from them, two for scores that are scaled by these, one for the sums. All but the last depend on no
rocks, and may be made ahead.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import cast

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect.log_passes import LogPasses, ZeroThresholdError
from rocktok.analyses.detect.passes import run_detect
from rocktok.analyses.detect.persistence import Thresholds
from rocktok.analyses.detect.result import DetectParams, DetectResult
from rocktok.analyses.lenses.cells import Cells
from rocktok.analyses.lenses.correct_passes import load_correct
from rocktok.analyses.lenses.lens import LENSES, Lens, cuts_of
from rocktok.analyses.lenses.quantities import POST, PRE, SHUFFLED, Correct
from rocktok.analyses.lenses.result import (
    LensesLog,
    LensesOptions,
    LensesParams,
    LensesResult,
    LensRow,
    MissingRow,
)
from rocktok.analyses.lenses.shares import lens_rows
from rocktok.analyses.lenses.thresholds import CutsByEnding, Histograms, Quantiles
from rocktok.analyses.run import LogOrPath, Run, options_of, public
from rocktok.engine.choose import PrePost
from rocktok.engine.passes import Engine
from rocktok.engine.source import Source
from rocktok.log.catalogue import Log
from rocktok.stats.bootstrap import REPLICATES

#: Columns that the recorder writes unasked.
_BY_DEFAULT = {"student_logprob", "teacher_logprob", "student_entropy", "teacher_entropy"}


@public
def lenses(
    log: LogOrPath,
    *,
    rocks: tuple[int, ...] | None = None,
    detected: DetectResult | None = None,
    engine: Engine | None = None,
    table: str = "auto",
    pre: int | None = None,
    post: int | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> LensesResult:
    """Classes of positions by the criteria of other papers, and the rock occurrences in each.

    Args:
        log: an open log, or the path of one.
        rocks: token ids; None: the rocks of `detect` with its default options.
        detected: a result of `detect` on this log, whose rocks, thresholds, table and steps are
            used.
        engine: runs the passes; default: threads on the available cores.
        table: "fixed", "rollout", or "auto": fixed if the log has it, else rollout.
        pre, post: earlier and later step; None: the first and the last complete step.
        replicates: number of bootstrap replicates over prompts.
        seed: random seed.

    Raises:
        UsageError: an option is out of range.
        LogError: the log is damaged, or lacks the table, step or columns.
    """
    params = options_of(LensesParams, locals())
    if detected is not None:
        table, pre, post = detected.log["table"], detected.log["pre"], detected.log["post"]
    run = Run.begin(log, engine, table, seed)
    # Without persistence there no earlier step is looked for here.
    context = "auto" if detected is None else detected.params["context"]
    steps = run.view.pre_post(pre, post, context)
    usable, missing = usable_lenses(run.log, run.table)
    return _Look(run, params, steps, usable, missing, rocks, detected).result()


def thresholds_ahead(
    log: Log, engine: Engine, *, table: str, pre: int | None, post: int | None, context: str,
    seed: int,
) -> None:  # fmt: skip
    """Make the thresholds that `lenses` will ask the same engine for.

    Args:
        table, pre, post, context, seed: as in `detect`, whose steps `lenses` will have.

    Raises `LogError` as `lenses` does.
    """
    run = Run.begin(log, engine, table, seed)
    steps = run.view.pre_post(pre, post, context)
    usable, missing = usable_lenses(log, run.table)
    params = LensesParams(table=table, pre=pre, post=post, seed=seed)
    _ = _Look(run, params, steps, usable, missing, None, None).cuts()


def usable_lenses(
    log: Log, table: str
) -> tuple[dict[str, tuple[str, ...]], tuple[MissingRow, ...]]:
    """Lens → the columns that it takes; and what the others lack."""
    present = {*log.columns(table), "loss"}
    usable, missing = {}, []
    for lens in LENSES:
        ways = [way for way in lens.columns if present >= set(way)]
        lacks = [] if ways else [c for c in lens.columns[0] if c not in present]
        missing += [_missing_column(lens, column, table) for column in lacks]
        if lens.exact and log.rules.exactness != "exact":
            lacks = ["loss"]
            missing.append(_not_exact(lens, log.rules.exactness))
        if lens.correct and "correct" not in log.columns("sequences"):
            lacks = ["correct"]
            missing.append(
                {
                    "lens": lens.name,
                    "column": "correct",
                    "why": "sequences/ has no column correct",
                    "remedy": "write correct (whether the answer was right) into sequences/",
                }
            )
        if not lacks:
            usable[lens.name] = ways[0]
    return usable, tuple(missing)


def find_cuts(
    engine: Engine,
    source: Source,
    quantiles: Quantiles,
    columns: list[str],
    *,
    cuts: CutsByEnding,
    correct: Correct | None,
    seed: int,
) -> CutsByEnding:
    """Thresholds of lenses, in two passes; none where none are wanted.

    Args:
        columns: that the lenses need.
        cuts: thresholds that scale what is looked at.
        correct: which sequences were right; None where no lens needs that.
        seed: of the shuffle.
    """
    if not quantiles.wanted:
        return {}
    large = source.large
    upper = Histograms(
        quantiles.upper(), columns, cuts=cuts, correct=correct, seed=seed, compiled=large
    )
    engine.run(source, upper)
    lower = Histograms(
        quantiles.lower(upper), columns, cuts=cuts, correct=correct, seed=seed, compiled=large
    )
    engine.run(source, lower)
    return quantiles.values(upper, lower)


def _missing_column(lens: Lens, column: str, table: str) -> MissingRow:
    asked = f"[…, '{column}']" if column in _BY_DEFAULT else "'lenses'"
    return {
        "lens": lens.name,
        "column": column,
        "why": f"{table}/ has no column {column}",
        "remedy": f"record it with Recorder(columns={asked})",
    }


def _not_exact(lens: Lens, exactness: str) -> MissingRow:
    return {
        "lens": lens.name,
        "column": "loss",
        "why": f"losses are {exactness!r}, and the lens needs whole distributions",
        "remedy": "record exact losses, or score saved checkpoints with `rocktok rescore`",
    }


@dataclass(frozen=True)
class _Hard:
    """Who is persistent, and which types are rocks; `no_rocks`: why there are none.

    `similarity`: how contexts were compared; None: they were not.
    """

    thresholds: Thresholds | None
    rocks: Array
    no_rocks: str | None
    notes: tuple[str, ...] = ()
    similarity: str | None = None


@dataclass(frozen=True)
class _Look:
    """What is looked at: two steps, or one, through the lenses whose columns the log has."""

    run: Run
    params: LensesParams
    steps: PrePost
    usable: dict[str, tuple[str, ...]]
    missing: tuple[MissingRow, ...]
    rocks: tuple[int, ...] | None
    detected: DetectResult | None

    def result(self) -> LensesResult:
        """All passes."""
        run, steps, params = self.run, self.steps, self.params
        # In the passes of `detect`, where these are made here.
        cutting = run.engine.start(self.cuts)
        hard = self._hard()
        cells = self._cells(hard, cutting.result())
        rows, log = self._rows(cells, hard)
        return LensesResult(
            log=log,
            params=cast(
                LensesOptions,
                {**asdict(params), "rocks": None if self.rocks is None else "given"},
            ),
            lenses=tuple(rows),
            missing=self.missing,
            notes=(*(steps.notes if self.detected is None else run.view.notes), *hard.notes),
        )

    # -- rocks -----------------------------------------------------------------------------

    def _hard(self) -> _Hard:
        steps, none = self.steps, np.zeros(0, np.int64)
        if steps.pre is None:
            why = steps.no_context if self.detected is None else self.detected.log["no_context"]
            return _Hard(None, none, why)
        if self.detected is None and self.rocks is None:
            try:
                found = run_detect(self.run.log, self._options, engine=self.run.engine).result
            except ZeroThresholdError as error:
                return _Hard(None, none, str(error).removeprefix(f"{self.run.log.name}: "))
        elif self.detected is not None:
            found = self.detected
        else:
            return self._given()
        tau = found.thresholds
        assert tau["tau_pre"] is not None
        thresholds = Thresholds(tau["tau_pre"], tau["tau_post"], tau["tau_change"])
        rocks = np.array(sorted(row["token_id"] for row in found.rocks), dtype=np.int64)
        why = None if len(rocks) else "`detect` finds no rocks"
        return _Hard(thresholds, rocks, why, similarity=found.similarity)

    def _given(self) -> _Hard:
        """Rocks that were given, and who is persistent by the default thresholds."""
        rocks = np.array(sorted(set(self.rocks or ())), dtype=np.int64)
        note = (
            "the rocks were given: if they were chosen on these prompts, the comparisons condition "
            "on the outcome"
        )
        passes = LogPasses(self.run, self._options, self.steps, self._source)
        try:
            thresholds = passes.thresholds(passes.count())
        except ZeroThresholdError as error:
            why = str(error).removeprefix(f"{self.run.log.name}: ")
            return _Hard(None, np.zeros(0, np.int64), why)
        return _Hard(thresholds, rocks, None, (note,))

    @property
    def _options(self) -> DetectParams:
        """Of `detect`."""
        params = self.params
        return DetectParams(
            table=self.run.table, pre=self.steps.pre, post=self.steps.post, seed=params.seed
        )

    # -- passes ----------------------------------------------------------------------------

    @property
    def _source(self) -> Source:
        return self.run.source(self.steps.post, self.steps.pre)

    @property
    def _lenses(self) -> list[Lens]:
        return [lens for lens in LENSES if lens.name in self.usable]

    @property
    def _columns(self) -> list[str]:
        """That the lenses need, each once."""
        return sorted({column for way in self.usable.values() for column in way})

    def _correct(self) -> Correct | None:
        if not any(lens.correct for lens in self._lenses):
            return None
        return load_correct(self.run.log)

    def cuts(self) -> CutsByEnding:
        """Thresholds of all lenses, in up to four passes; none where they were made ahead."""
        key = thresholds_ahead, self.run.table, self.steps.pre, self.steps.post, self.run.seed
        return self.run.engine.once(self.run.log, key, self._cuts)

    def _cuts(self) -> CutsByEnding:
        lenses, correct, source = self._lenses, self._correct(), self._source
        wanted = [(POST, name, q) for name, q in cuts_of(lenses)]
        if source.pre is not None:
            early = {cut for lens in lenses if lens.moves for cut in lens.cuts}
            wanted += [(PRE, name, q) for name, q in sorted(early)]
        cuts = self._quantiles(Quantiles(wanted), {}, correct)
        endings = [POST] if source.pre is None else [POST, SHUFFLED]
        later = [(end, name, q) for end in endings for name, q in cuts_of(lenses, later=True)]
        scaled = self._quantiles(Quantiles(later), cuts, correct)
        steps = [POST] if source.pre is None else [POST, PRE]
        return {end: {**cuts.get(end, {}), **scaled.get(end, {})} for end in (*steps, *endings[1:])}

    def _cells(self, hard: _Hard, cuts: CutsByEnding) -> Cells:
        """The last pass, which looks at all lenses."""
        correct, source = self._correct(), self._source
        if hard.thresholds is None:
            cuts = {end: values for end, values in cuts.items() if end != SHUFFLED}
        gradient = ("grad_norm",) if "grad_norm" in self.run.log.columns(self.run.table) else ()
        cells = Cells(
            self.usable, self._columns, cuts=cuts, thresholds=hard.thresholds, rocks=hard.rocks,
            quantities=("loss", *gradient), seed=self.params.seed,
            replicates=self.params.replicates, correct=correct, compiled=source.large,
        )  # fmt: skip
        self.run.engine.run(source, cells)
        return cells

    def _quantiles(
        self,
        quantiles: Quantiles,
        cuts: CutsByEnding,
        correct: Correct | None,
    ) -> CutsByEnding:
        """Two passes; `cuts`: those that scale what is looked at."""
        source, engine, columns = self._source, self.run.engine, self._columns
        return find_cuts(
            engine, source, quantiles, columns, cuts=cuts, correct=correct, seed=self.params.seed
        )

    # -- rows ------------------------------------------------------------------------------

    def _rows(self, cells: Cells, hard: _Hard) -> tuple[list[LensRow], LensesLog]:
        run, steps = self.run, self.steps
        found = cells.result()
        kinds = found[0].count_C[:, 0].reshape(-1, 4).sum(axis=0).astype(int).tolist()
        persistent = None if hard.thresholds is None else kinds[2] + kinds[3]
        rock_occurrences = None if hard.thresholds is None else kinds[3]
        why = hard.no_rocks
        if why is None and not rock_occurrences:
            why = "no occurrence of the rocks is persistent here"
        rows = lens_rows(found, rocks=why is None, gradient="grad_norm" in found[0].value_C)
        log: LensesLog = {
            **run.log.identity(),
            "table": run.table,
            "pre": steps.pre,
            "post": steps.post,
            "no_context": steps.no_context,
            "passes": run.passes,
            "positions": cells.rows,
            "rocks": hard.rocks.tolist(),
            "no_rocks": why,
            "hard": persistent,
            "rock_occurrences": rock_occurrences,
            "similarity": hard.similarity,
        }
        return rows, log
