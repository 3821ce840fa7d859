"""The analyses that are built into a report, beside `detect`: started together, and collected."""

from __future__ import annotations

from dataclasses import dataclass, field

from rocktok.analyses.attribute.passes import attribute
from rocktok.analyses.attribute.result import AttributeResult
from rocktok.analyses.detect.detection import Detection
from rocktok.analyses.stability.passes import run_stability
from rocktok.analyses.stability.result import StabilityParams, StabilityResult
from rocktok.analyses.stagnation.passes import stagnation
from rocktok.analyses.stagnation.result import StagnationResult
from rocktok.engine.turns import Companion
from rocktok.report.other_analyses import Missing
from rocktok.report.parts import OtherParts
from rocktok.report.progress import Counted, Progress

#: `attribute`, `stagnation` and `stability`, where they were started.
_Started = tuple[
    Companion[Counted[AttributeResult | None]] | None,
    Companion[Counted[StagnationResult | None]] | None,
    Companion[Counted[StabilityResult | None]],
]

#: Types, in descending order of Rock Score, whose stability is measured.
RANKED = 5_000


@dataclass(frozen=True)
class BuiltIn:
    """`attribute`, `stagnation` and `stability` of what was detected; made, they are under way."""

    detection: Detection
    progress: Progress
    replicates: int
    _started: _Started = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_started", self._start())

    def results(self) -> OtherParts:
        """Wait for them; what the log does not allow is noted, in one order."""
        shares, curves, samples = self._started
        progress = self.progress
        attributed = None if shares is None else progress.note("attribute", shares.result())
        if (no_course := self._no_course()) is not None:
            progress.missing.append(no_course)
        learned = None if curves is None else progress.note("stagnation", curves.result())
        return OtherParts(attributed, learned, progress.note("stability", samples.result()))

    def _start(self) -> _Started:
        detection, progress = self.detection, self.progress
        log, engine, table = detection.run.log, detection.run.engine, detection.run.table
        post, options = detection.steps.post, detection.params
        replicates = self.replicates
        shares = curves = None
        # First, as it gives most of its work to other threads, and the others go on beside it.
        samples = progress.start_allowed(
            "stability",
            "stability of the rocks under half of the prompts",
            lambda: run_stability(
                log,
                StabilityParams(
                    step=post, context="off", top=RANKED, table=table, seed=options.seed
                ),
                engine=engine, detection=detection,
            ),
        )  # fmt: skip
        if "grad_norm" in log.columns(table):
            shares = progress.start_allowed(
                "attribute",
                "shares of the gradient norm by token type",
                lambda: attribute(
                    log, detected=detection.result, embeddings=detection.embeddings, step=post,
                    replicates=replicates, table=table, seed=options.seed, engine=engine,
                ),
            )  # fmt: skip
        if self._no_course() is None:
            curves = progress.start_allowed(
                "stagnation",
                "loss of rocks over the steps",
                lambda: stagnation(
                    log, detected=detection.result, embeddings=detection.embeddings,
                    pre=options.pre, post=options.post, top_k=options.most_rocks,
                    replicates=replicates, table=table, seed=options.seed, engine=engine,
                ),
            )  # fmt: skip
        return shares, curves, samples

    def _no_course(self) -> Missing | None:
        """Why --pre and --post leave one step; without these options `stagnation` decides."""
        pre, post = self.detection.params.pre, self.detection.params.post
        if pre is None and post is None:
            return None
        view = self.detection.run.view
        steps = {*view.complete, *(s for s in (pre, post) if s is not None)}
        low, high = min(steps) if pre is None else pre, max(steps) if post is None else post
        if low < high:
            return None
        return {
            "what": "loss of rocks over the steps",
            "why": f"{view.table}/ has no complete step before {high}",
            "remedy": "give a later --post",
        }
