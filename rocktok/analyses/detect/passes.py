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
from dataclasses import replace
from typing import Any

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect import ranking as analysis
from rocktok.analyses.detect.context import MIN_DRAWS
from rocktok.analyses.detect.context_passes import Contexts
from rocktok.analyses.detect.density import Density
from rocktok.analyses.detect.lift_passes import lifts as lifts_of
from rocktok.analyses.detect.lift_passes import permuted
from rocktok.analyses.detect.persistence import Thresholds
from rocktok.analyses.detect.ranking import DetectParams, TypeTable
from rocktok.analyses.detect.result import DetectResult, make_result
from rocktok.engine.choose import REMEDY, TableView
from rocktok.engine.passes import Engine
from rocktok.engine.source import DERIVABLE, Source
from rocktok.errors import LogError, UsageError
from rocktok.log.catalogue import Log
from rocktok.log.sequences import load_prompts
from rocktok.stats.arrays import padded
from rocktok.stats.prompts import PromptCounts
from rocktok.stats.quantiles import Histogram, quantile_rank, value_of
from rocktok.stats.sums import SequenceCounts, TypeSums


def detect(
    log: Log,
    *,
    embeddings: Array | None = None,
    engine: Engine | None = None,
    half: int | None = None,
    only: Array | None = None,
    lifts: bool = False,
    **options: Any,
) -> DetectResult:
    """Find the tokens whose loss persists in recurring contexts.

    Args:
        log: an open log (`rocktok.open`).
        embeddings: (token ids, D) matrix for `similarity="embedding"`.
        engine: what makes the passes; default: threads on the cores this process may use.
        half: look at this half of the prompts alone (0 or 1; `rocktok.hashing.halves` with the
            option `seed`): what is found there can be tested on the other.
        only: ascending ids (int64) of the sequences to look at.
        lifts: say, too, whether the loss singles the contexts of the rocks out, and how many
            rocks labels permuted within types would give; a few passes more.
        options: fields of `rocktok.analyses.detect.ranking.DetectParams`.

    Returns:
        A frozen `DetectResult`: `.table` (pandas), `.to_json()`, `.tokens`.

    Raises:
        UsageError: options out of range.
        LogError: the log is damaged, or lacks what was asked.

    Example::

        result = rocktok.detect(rocktok.open("runs/opd"), top_k=50)
        result.table[["token", "ccr", "context_rock_score"]]
    """
    params = DetectParams(**options)
    if lifts and params.context == "off":
        raise UsageError(
            "lifts need persistence and context; leave out either lifts or context 'off'",
            parameter="lifts",
        )
    return DetectRun(log, params, embeddings, engine or Engine(), half, only, lifts).result()


class ZeroThresholdError(LogError):
    """So many losses are zero that the threshold would be."""


class DetectRun:
    """One `detect`, pass after pass. What it leaves behind, `report` looks at further.

    After `result`: `types` (all seen), `thresholds` and `contexts` (None without persistence),
    `density`.
    """

    types: TypeTable
    density: Density
    thresholds: Thresholds | None = None
    contexts: Contexts | None = None

    def __init__(
        self,
        log: Log,
        params: DetectParams,
        embeddings: Array | None,
        engine: Engine,
        half: int | None,
        only: Array | None,
        lifts: bool,
    ) -> None:
        if (params.similarity == "embedding") != (embeddings is not None):
            raise UsageError(
                "embeddings: similarity 'embedding' and an embedding matrix go together",
                parameter="embeddings",
            )
        self.log, self.params, self.embeddings, self.engine = log, params, embeddings, engine
        self.view = TableView.of(log, params.table)
        self.choice = self.view.pre_post(params.pre, params.post, params.context)
        if lifts and self.choice.pre is None:
            raise LogError(
                f"{log.name}: lifts need persistence, but {self.choice.no_context}; {REMEDY}"
            )
        self.lifts = lifts
        #: Whether positions are drawn for the null; only η "auto" needs them.
        self.null = params.eta == "auto"
        present = set(log.columns(self.view.table))
        self.means = tuple(name for name, column in DERIVABLE.items() if column in present)
        choice = self.choice
        prompts = load_prompts(log)
        self.source = Source(
            log, self.view.table, choice.pre, choice.post, prompts, half, params.seed, only
        )
        self.passes_before = engine.passes
        self.unpaired: int | None = None
        self.prompts: dict[int, int] = {}

    def result(self) -> DetectResult:
        """All passes, then the ranking and the density."""
        sums, sizes = self._count()
        types = self.types = self._types(sums)
        thresholds = None
        if self.choice.pre is not None:
            thresholds = self.thresholds = self._thresholds(sizes.rows)
            contexts = Contexts(
                self.source, self.engine, self.params, thresholds, self.embeddings, self.null
            )
            contexts.judge(types, sums.count_V, sizes.rows)
            self.contexts = contexts
            score_T = analysis.context_scores(types)
        else:
            score_T = types.loss_T.astype(np.float64)
        order, is_rock = analysis.ranking(types, self.params, score_T)
        found = None
        if self.lifts:
            rocks = order[is_rock]
            found = (
                lifts_of(contexts, types, rocks),
                permuted(contexts, types, rocks, score_T),
            )
        density = self._density(types, order[is_rock], thresholds)
        self._add_rollout(types)
        return make_result(
            log=self.log.identity(),
            source={
                "table": self.view.table,
                "pre": self.choice.pre,
                "post": self.choice.post,
                "no_context": self.choice.no_context,
                "rollout_step": self.rollout_step,
                "passes": self.engine.passes - self.passes_before,
                "embeddings": _identity(self.embeddings),
            },
            params=self.params,
            notes=self._notes(thresholds, sizes.rows),
            thresholds=thresholds,
            sizes=sizes,
            unpaired=self.unpaired,
            types=types,
            prompts=self.prompts,
            order=order,
            is_rock=is_rock,
            density=density,
            text=self.log.vocab.text,
            lifts=found,
        )

    # -- passes ----------------------------------------------------------------------------

    def _count(self) -> tuple[TypeSums, SequenceCounts]:
        compiled = self.source.large
        sums = TypeSums(("loss_post", *self.means), compiled=compiled)
        sizes = SequenceCounts()
        self.upper = {name: Histogram(name, compiled=compiled) for name in self._quantiles()}
        read = self.engine.run(self.source, sums, sizes, *self.upper.values())
        if self.choice.pre is not None:
            self.unpaired = read.unpaired
        self.unlisted = read.unlisted
        if sizes.rows == 0:
            choice = self.choice
            raise LogError(
                f"{self.log.name}: no sequence of {self.view.table}/ stands at both step "
                f"{choice.pre} and step {choice.post}; choose other steps with --pre and --post"
            )
        return sums, sizes

    def _quantiles(self) -> dict[str, float]:
        """Column → quantile, for the thresholds that are not given."""
        params = self.params
        if self.choice.pre is None:
            return {}
        wanted = {} if params.tau_pre is not None else {"loss_pre": params.quantile_pre}
        if params.persistence == "recalcitrant":
            wanted["change"] = params.second_quantile
        elif params.tau_post is None:
            wanted["loss_post"] = params.second_quantile
        return wanted

    def _thresholds(self, rows: int) -> Thresholds:
        located = {
            name: self.upper[name].locate(quantile_rank(q, rows))
            for name, q in self._quantiles().items()
        }
        lower = {
            name: Histogram(name, prefix, compiled=self.source.large)
            for name, (prefix, _) in located.items()
        }
        if lower:
            self.engine.run(self.source, *lower.values())
        found = {
            name: float(value_of(prefix, lower[name].locate(rank)[0]))
            for name, (prefix, rank) in located.items()
        }
        self._refuse_zero(found)
        pre = self.params.tau_pre if self.params.tau_pre is not None else found["loss_pre"]
        if self.params.persistence == "recalcitrant":
            return Thresholds(pre, change=found["change"])
        tau = self.params.tau_post
        post = found["loss_post"] if tau is None else pre if tau == "same" else float(tau)
        return Thresholds(pre, post=post)

    def _refuse_zero(self, found: dict[str, float]) -> None:
        for name, option in (("loss_pre", "pre"), ("loss_post", "post")):
            if found.get(name, 1.0) <= 0:
                step = getattr(self.choice, option)
                raise ZeroThresholdError(
                    f"{self.log.name}: a share of {self._quantiles()[name]:g} of the losses at "
                    f"step {step} is zero or less, so the threshold would be too; raise "
                    f"--quantile-{option} or give --tau-{option}"
                )

    def _types(self, sums: TypeSums) -> TypeTable:
        token_T = np.flatnonzero(sums.count_V)
        frequency_T, sum_V = sums.count_V[token_T], sums.sum_V
        return TypeTable(
            token_T=token_T,
            frequency_T=frequency_T,
            loss_T=sum_V["loss_post"][token_T],
            extra_T={name: sum_V[name][token_T] / frequency_T for name in self.means},
        )

    # -- after the ranking -----------------------------------------------------------------

    def _density(
        self, types: TypeTable, rocks: Array, thresholds: Thresholds | None
    ) -> dict[str, Any]:
        """The last pass over the same rows: density, and the prompts of the types shown."""
        judged = None if thresholds is None else _retained_sequences(types, rocks)
        density = Density(
            types.token_T[rocks],
            judged,
            _sampled_shares(types, rocks),
            thresholds,
            self.params.seed,
        )
        shown = types.token_T if self.params.all_types else types.token_T[rocks]
        prompts = PromptCounts(shown)
        self.engine.run(self.source, density, prompts)
        self.density, self.prompts = density, prompts.result()
        return density.result()

    def _add_rollout(self, types: TypeTable) -> None:
        """How often the late student itself still writes each type, where that was recorded."""
        self.rollout_step: int | None = None
        if self.view.table != "fixed" or not self.log.shards("rollout"):
            return
        first = -1 if self.choice.pre is None else self.choice.pre
        post = self.choice.post
        steps = [s for s in self.log.complete_steps("rollout") if first < s <= post]
        if not steps:
            return
        self.rollout_step = steps[-1]
        rollouts = replace(self.source, table="rollout", pre=None, post=steps[-1])
        sums = TypeSums(("loss_post",), compiled=rollouts.large)
        self.engine.run(rollouts, sums)
        length = int(types.token_T[-1]) + 1
        types.extra_T["rollout_frequency"] = padded(sums.count_V, length)[types.token_T]
        types.extra_T["rollout_rock_score"] = padded(sums.sum_V["loss_post"], length)[types.token_T]

    def _notes(self, thresholds: Thresholds | None, rows: int) -> list[str]:
        notes = list(self.choice.notes)
        if self.unlisted:
            notes.append(
                f"{self.unlisted} sequences are not in sequences/: each counts as its own prompt"
            )
        if self.unpaired:
            notes.append(f"{self.unpaired} sequences stand at one of the steps only")
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


def _retained_sequences(types: TypeTable, rocks: Array) -> tuple[Array, Array]:
    """(sequence ids, retained occurrences in each) of the rocks that were judged in full."""
    found: list[Array] = [np.zeros(0, dtype=np.int64)]
    for index in rocks.tolist():
        context = types.context[index]
        if context.hit_sequences is not None and not context.sampled:
            found.append(context.hit_sequences)
    ids, counts = np.unique(np.concatenate(found), return_counts=True)
    return ids, counts


def _sampled_shares(types: TypeTable, rocks: Array) -> dict[int, float]:
    """Token id → retained share of the persistent occurrences, of the rocks that were sampled."""
    judged = {int(types.token_T[i]): types.context.get(i) for i in rocks.tolist()}
    return {v: context.share for v, context in judged.items() if context and context.sampled}
