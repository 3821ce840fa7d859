"""`detect` over a log: the passes, in order.

1. sums per type, and the upper halves of the quantile histograms;
2. their lower halves, which give the thresholds (left out where both are given);
3. who is persistent, and a pool of positions for the null; in a small log the windows, too;
4. the windows of the likeliest types, and a null for types too frequent for the shared pool (a
   small log: only where there are such types; a large one: a pass for each round of windows);
5. density, and the prompts of the rocks;
6. what the late student itself still writes, where that was recorded.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect import ranking as analysis
from rocktok.analyses.detect.context_passes import judge_contexts
from rocktok.analyses.detect.density import Density, density_of
from rocktok.analyses.detect.detection import Detection
from rocktok.analyses.detect.lift_passes import lifts as lifts_of
from rocktok.analyses.detect.lift_passes import permuted
from rocktok.analyses.detect.null import MIN_DRAWS
from rocktok.analyses.detect.persistence import Thresholds
from rocktok.analyses.detect.ranking import TypeTable
from rocktok.analyses.detect.result import DetectParams, DetectResult
from rocktok.analyses.detect.token_rows import make_result
from rocktok.analyses.run import LogOrPath, Run, options_of, public
from rocktok.engine.choose import REMEDY, PrePost
from rocktok.engine.passes import Engine
from rocktok.engine.source import DERIVABLE, Source
from rocktok.errors import LogError, UsageError
from rocktok.stats.arrays import padded
from rocktok.stats.prompts import PromptCounts
from rocktok.stats.quantiles import Histogram, quantile_rank, value_of
from rocktok.stats.sums import SequenceCounts, TypeSums


@public
def detect(
    log: LogOrPath,
    *,
    pre: int | None = None,
    post: int | None = None,
    table: str = "auto",
    context: str = "auto",
    quantile_pre: float = 0.8,
    quantile_post: float | None = None,
    tau_pre: float | None = None,
    tau_post: float | Literal["same"] | None = None,
    persistence: str = "high",
    window: int = 8,
    similarity: str = "surprisal",
    partners: str = "other-prompt",
    gamma: float = 0.5,
    eta: float | Literal["auto"] = "auto",
    top_k: int = 100,
    tau_r: float | None = None,
    min_frequency: int = 1,
    exclude_most_frequent: int = 0,
    cap: int = 50_000,
    exact: bool = False,
    seed: int = 0,
    all_types: bool = False,
    embeddings: Array | None = None,
    engine: Engine | None = None,
    half: int | None = None,
    only: Array | None = None,
    lifts: bool = False,
) -> DetectResult:
    """Find the tokens whose loss persists in recurring contexts.

    docs/definitions.md defines what is computed.

    Args:
        log: an open log (`rocktok.open`), or the path of one.
        pre, post: earlier and later step; None: the first and the last complete one.
        table: "fixed", "rollout", or "auto": fixed text where there is any.
        context: "auto": persistence and contexts where the same text stands at two steps;
            "required": an error without it; "off": the Rock Score alone.
        quantile_pre, quantile_post: of the losses at pre and at post, which are the thresholds;
            quantile_post None: 0.8, or with persistence "recalcitrant" 0.2, of the change.
        tau_pre, tau_post: thresholds in nats instead; tau_post "same": that of pre.
        persistence: "high": hard at both steps; "recalcitrant": hard at pre, and hardly better.
        window: tokens on each side of a context window.
        similarity: "surprisal", "bag", "jaccard", "positional" or "embedding".
        partners: occurrences that a context is compared with: "other-prompt", "other-sequence" or
            "all".
        gamma: minimum similarity for two windows to match.
        eta: minimum share of partners that match; "auto": what 95% of positions without the token
            do not exceed.
        top_k: rocks at most.
        tau_r: minimum score of a rock in nats, instead of `top_k`.
        min_frequency: occurrences of a type below which it cannot be a rock.
        exclude_most_frequent: how many of the most frequent types cannot be rocks.
        cap: persistent occurrences of a type above which a sample is judged, with an interval.
        exact: judge every occurrence, whatever it takes.
        seed: of everything that is drawn.
        all_types: give every type seen, not only the rocks.
        embeddings: (token ids, D) matrix for `similarity="embedding"`.
        engine: what makes the passes; default: threads on the cores this process may use.
        half: look at this half of the prompts alone (0 or 1; `rocktok.hashing.halves` with `seed`):
            what is detected there can be tested on the other.
        only: ascending ids (int64) of the sequences to look at.
        lifts: say, too, whether the loss singles the contexts of the rocks out, and how many
            rocks labels permuted within types would give; a few passes more.

    Returns:
        A frozen `DetectResult`: `.table` (pandas), `.to_json()`, `.tokens`.

    Raises:
        TypeError: a keyword that is none of the above; the message names the nearest.
        UsageError: options out of range.
        LogError: the log is damaged, or lacks what was asked.

    Example::

        result = rocktok.detect("runs/opd", top_k=50)
        result.table[["token", "ccr", "context_rock_score"]]
    """
    params = options_of(DetectParams, locals())
    if lifts and context == "off":
        raise UsageError(
            "lifts need persistence and context; leave out either lifts or context 'off'",
            parameter="lifts",
        )
    return run_detect(
        log, params, embeddings=embeddings, engine=engine, half=half, only=only, lifts=lifts
    ).result


class ZeroThresholdError(LogError):
    """So many losses are zero that the threshold would be."""


def run_detect(
    log: LogOrPath,
    params: DetectParams,
    *,
    embeddings: Array | None = None,
    engine: Engine | None = None,
    half: int | None = None,
    only: Array | None = None,
    lifts: bool | Literal["auto"] = False,
    null: bool = False,
) -> Detection:
    """`detect`, with all that its result rests on.

    Args:
        lifts: as in `detect`; "auto": where there is persistence.
        null: draw positions for nulls whatever η is, as for looking at others.

    Raises as `detect` does, and `ZeroThresholdError` where thresholds cannot be had.
    """
    if (params.similarity == "embedding") != (embeddings is not None):
        raise UsageError(
            "embeddings: similarity 'embedding' and an embedding matrix go together",
            parameter="embeddings",
        )
    run = Run.begin(log, engine, params.table, params.seed)
    steps = run.view.pre_post(params.pre, params.post, params.context)
    if lifts is True and steps.pre is None:
        raise LogError(f"{run.log.name}: lifts need persistence, but {steps.no_context}; {REMEDY}")
    source = run.source(steps.post, steps.pre, half=half, only=only)
    passes = _Passes(run, params, steps, source)
    counts = passes.count()
    types, thresholds, contexts = counts.types, None, None
    score_T = types.loss_T.astype(np.float64)
    if steps.pre is not None:
        thresholds = passes.thresholds(counts)
        types, contexts = judge_contexts(
            source, run.engine, params, thresholds, types,
            count_V=counts.count_V, embeddings=embeddings, null=null,
        )  # fmt: skip
        score_T = analysis.context_scores(types)
    order, is_rock = analysis.ranking(types, params, score_T)
    rocks = order[is_rock]
    both_lifts = None
    if lifts and contexts is not None:
        both_lifts = lifts_of(contexts, types, rocks), permuted(contexts, types, rocks, score_T)
    density, prompts = passes.density(types, rocks, thresholds)
    types, rollout_step = passes.with_rollouts(types)
    result = make_result(
        log={
            **run.log.identity(),
            "table": run.table,
            "pre": steps.pre,
            "post": steps.post,
            "no_context": steps.no_context,
            "rollout_step": rollout_step,
            "passes": run.passes,
            "embeddings": _identity(embeddings),
        },
        params=params,
        notes=passes.notes(thresholds, counts),
        thresholds=thresholds,
        sizes=counts.sizes,
        unpaired=None if steps.pre is None else counts.unpaired,
        types=types,
        prompts=prompts,
        order=order,
        is_rock=is_rock,
        density=density.result(),
        text=run.log.vocab.text,
        lifts=both_lifts,
    )
    return Detection(
        run=run,
        params=params,
        steps=steps,
        source=source,
        embeddings=embeddings,
        types=types,
        thresholds=thresholds,
        contexts=contexts,
        density=density.histogram(),
        result=result,
    )


@dataclass(frozen=True)
class _Counts:
    """What the first pass comes to.

    `upper`: column → upper halves of the histogram that gives its quantile. `unpaired`: sequences
    that stand at one of two steps only. `unlisted`: those that are not in sequences/.
    """

    types: TypeTable
    count_V: Array
    sizes: SequenceCounts
    upper: dict[str, Histogram]
    unpaired: int
    unlisted: int


@dataclass(frozen=True)
class _Passes:
    """The passes of one `detect` over the rows of both steps."""

    run: Run
    params: DetectParams
    steps: PrePost
    source: Source

    def count(self) -> _Counts:
        """Sums of every type, and the upper halves of the quantile histograms."""
        compiled = self.source.large
        present = set(self.run.log.columns(self.run.table))
        means = tuple(name for name, column in DERIVABLE.items() if column in present)
        sums = TypeSums(("loss", *means), compiled=compiled)
        sizes = SequenceCounts()
        upper = {name: Histogram(name, compiled=compiled) for name in self._quantiles()}
        read = self.run.engine.run(self.source, sums, sizes, *upper.values())
        if sizes.rows == 0:
            raise LogError(
                f"{self.run.log.name}: no sequence of {self.run.table}/ stands at both step "
                f"{self.steps.pre} and step {self.steps.post}; choose other steps with --pre and "
                "--post"
            )
        token_T = np.flatnonzero(sums.count_V)
        frequency_T, sum_V = sums.count_V[token_T], sums.sum_V
        types = TypeTable(
            token_T=token_T,
            frequency_T=frequency_T,
            loss_T=sum_V["loss"][token_T],
            extra_T={name: sum_V[name][token_T] / frequency_T for name in means},
        )
        return _Counts(types, sums.count_V, sizes, upper, read.unpaired, read.unlisted)

    def _quantiles(self) -> dict[str, float]:
        """Column → quantile, for the thresholds that the options leave open."""
        params = self.params
        if self.steps.pre is None:
            return {}
        quantiles = {} if params.tau_pre is not None else {"loss_pre": params.quantile_pre}
        if params.persistence == "recalcitrant":
            quantiles["change"] = params.second_quantile
        elif params.tau_post is None:
            quantiles["loss_post"] = params.second_quantile
        return quantiles

    def thresholds(self, counts: _Counts) -> Thresholds:
        """From the lower halves of the histograms; no pass where the options give both."""
        located = {
            name: counts.upper[name].locate(quantile_rank(q, counts.sizes.rows))
            for name, q in self._quantiles().items()
        }
        lower = {
            name: Histogram(name, prefix, compiled=self.source.large)
            for name, (prefix, _) in located.items()
        }
        if lower:
            self.run.engine.run(self.source, *lower.values())
        values = {
            name: float(value_of(prefix, lower[name].locate(rank)[0]))
            for name, (prefix, rank) in located.items()
        }
        self._refuse_zero(values)
        pre = self.params.tau_pre if self.params.tau_pre is not None else values["loss_pre"]
        if self.params.persistence == "recalcitrant":
            return Thresholds(pre, change=values["change"])
        tau = self.params.tau_post
        post = values["loss_post"] if tau is None else pre if tau == "same" else float(tau)
        return Thresholds(pre, post=post)

    def _refuse_zero(self, values: dict[str, float]) -> None:
        for name, option in (("loss_pre", "pre"), ("loss_post", "post")):
            if values.get(name, 1.0) <= 0:
                step = getattr(self.steps, option)
                raise ZeroThresholdError(
                    f"{self.run.log.name}: a share of {self._quantiles()[name]:g} of the losses at "
                    f"step {step} is zero or less, so the threshold would be too; raise "
                    f"--quantile-{option} or give --tau-{option}"
                )

    def density(
        self, types: TypeTable, rocks: Array, thresholds: Thresholds | None
    ) -> tuple[Density, dict[int, int]]:
        """The last pass over the same rows: density, and the prompts of the types shown."""
        density = density_of(types, rocks, thresholds, self.params.seed)
        prompts = PromptCounts(types.token_T if self.params.all_types else types.token_T[rocks])
        self.run.engine.run(self.source, density, prompts)
        return density, prompts.result()

    def with_rollouts(self, types: TypeTable) -> tuple[TypeTable, int | None]:
        """How often the late student itself still writes each type, and the step; None: no such."""
        if self.run.table != "fixed" or not self.run.log.shards("rollout"):
            return types, None
        pre, post = -1 if self.steps.pre is None else self.steps.pre, self.steps.post
        rollout_steps = [s for s in self.run.log.complete_steps("rollout") if pre < s <= post]
        if not rollout_steps:
            return types, None
        rollouts = replace(self.source, table="rollout", pre=None, post=rollout_steps[-1])
        sums = TypeSums(("loss",), compiled=rollouts.large)
        self.run.engine.run(rollouts, sums)
        length = int(types.token_T[-1]) + 1
        extra_T = {
            "rollout_frequency": padded(sums.count_V, length)[types.token_T],
            "rollout_rock_score": padded(sums.sum_V["loss"], length)[types.token_T],
        }
        return replace(types, extra_T={**types.extra_T, **extra_T}), rollout_steps[-1]

    def notes(self, thresholds: Thresholds | None, counts: _Counts) -> list[str]:
        """What a reader of the numbers must know."""
        notes, rows = list(self.steps.notes), counts.sizes.rows
        if counts.unlisted:
            notes.append(
                f"{counts.unlisted} sequences are not in sequences/: each counts as its own prompt"
            )
        if self.steps.pre is not None and counts.unpaired:
            notes.append(f"{counts.unpaired} sequences stand at one of the steps only")
        if self.params.eta == "auto" and thresholds is not None and rows < MIN_DRAWS:
            notes.append(
                f"{rows} positions are too few to draw a null from ({MIN_DRAWS} are "
                "needed), so no context was judged; give --eta a number"
            )
        if thresholds is not None and (thresholds.change or 0.0) < 0:
            notes.append(
                f"tau_change is {thresholds.change:.3g}: a fifth of the positions got worse, and "
                "these are the ones that 'recalcitrant' selects"
            )
        if thresholds is not None and thresholds.post is not None:
            ratio = thresholds.post / thresholds.pre
            quantiles = self.params.tau_pre is None and self.params.tau_post is None
            if ratio < 0.5 and quantiles:
                notes.append(
                    f"tau_post is {ratio:.2f} of tau_pre: losses fell, and quantiles hide "
                    "learning that is uniform; compare with --tau-post same"
                )
        return notes


def _identity(matrix: Array | None) -> str | None:
    """What tells an embedding matrix from any other."""
    if matrix is None:
        return None
    digest = hashlib.blake2b(str(matrix.shape).encode(), digest_size=8)
    digest.update(np.ascontiguousarray(matrix).tobytes())
    return digest.hexdigest()
