"""`detect` over a log: the passes, in order.

1. sums per type, prompts per type, and the upper halves of the quantile histograms;
2. their lower halves, which give the thresholds (left out where both are given);
3. the persistent occurrences with their windows, and a pool of positions for the null;
4. a pool for types too frequent for the shared one (only where there are such types);
5. density, once the rocks are known.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rocktok.analyse import accumulate, windows
from rocktok.analyse import detect as analysis
from rocktok.analyse.accumulate import Histogram, TypeSums, padded
from rocktok.analyse.density import Density
from rocktok.analyse.detect import Context, DetectParams, Thresholds, TypeTable
from rocktok.analyse.persistence import Persistent, distinct_prompts
from rocktok.analyse.results import DetectResult, make_result
from rocktok.analyse.similarity import Similarity, Windows
from rocktok.engine.choose import choose_steps
from rocktok.engine.passes import Engine
from rocktok.engine.source import DERIVABLE, Source
from rocktok.errors import LogError, UsageError
from rocktok.log.reader import Log
from rocktok.log.sequences import load_prompts

Array = npt.NDArray[Any]


def detect(
    log: Log,
    *,
    embeddings: Array | None = None,
    engine: Engine | None = None,
    **options: Any,
) -> DetectResult:
    """Find the tokens whose loss persists in recurring contexts.

    Args:
        log: an open log (`rocktok.open`).
        embeddings: (token ids, D) matrix for `similarity="embedding"`.
        engine: what makes the passes; default: threads on the cores this process may use.
        options: fields of `rocktok.analyse.detect.DetectParams`.

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
    if (params.similarity == "embedding") != (embeddings is not None):
        raise UsageError(
            "embeddings: similarity 'embedding' and an embedding matrix go together",
            parameter="embeddings",
        )
    return _Run(log, params, embeddings, engine or Engine()).result()


class _Run:
    """One `detect`, pass after pass."""

    def __init__(
        self, log: Log, params: DetectParams, embeddings: Array | None, engine: Engine
    ) -> None:
        self.log, self.params, self.embeddings, self.engine = log, params, embeddings, engine
        self.choice = choose_steps(log, params)
        present = set(log.columns(self.choice.table))
        means = {name: column for name, column in DERIVABLE.items() if column in present}
        self.means = tuple(means)
        self.plain = Source(
            log,
            self.choice.table,
            self.choice.pre,
            self.choice.post,
            (),
            load_prompts(log),
        )
        self.source = replace(self.plain, columns=tuple(means.values()))
        self.unpaired: int | None = None
        self.pool: dict[str, Array] = {}
        self.free: windows.FreePools | None = None

    def result(self) -> DetectResult:
        """All passes, then the ranking and the density."""
        sums, sizes, prompts = self._count()
        types = self._types(sums, prompts)
        thresholds, persistent = None, None
        if self.choice.pre is not None:
            thresholds = self._thresholds(sizes.rows)
            persistent = self._persistent(types, thresholds)
            score_T = analysis.context_scores(types)
        else:
            score_T = types.loss_T.astype(np.float64)
        order, is_rock = analysis.ranking(types, self.params, score_T)
        rocks = types.token_T[order[is_rock]]
        density = self._density(rocks, types, persistent)
        self._add_rollout(types)
        return make_result(
            log=self.log.identity(),
            source={
                "table": self.choice.table,
                "pre": self.choice.pre,
                "post": self.choice.post,
                "no_context": self.choice.no_context,
                "rollout_step": self.rollout_step,
                "passes": self.engine.passes,
            },
            params=self.params,
            notes=self._notes(thresholds, sizes.rows),
            thresholds=thresholds,
            sizes=sizes,
            unpaired=self.unpaired,
            types=types,
            order=order,
            is_rock=is_rock,
            score_T=score_T,
            persistent=persistent,
            density=density,
            text=self.log.vocab.text,
        )

    # -- passes ----------------------------------------------------------------------------

    def _count(self) -> tuple[TypeSums, accumulate.SequenceCounts, accumulate.PromptCounts]:
        sums = TypeSums(("loss_post", *self.means))
        sizes, prompts = accumulate.SequenceCounts(), accumulate.PromptCounts()
        self.upper = {name: Histogram(name) for name in self._quantiles()}
        read = self.engine.run(self.source, sums, sizes, prompts, *self.upper.values())
        if self.choice.pre is not None:
            self.unpaired = read.unpaired
        self.unlisted = read.unlisted
        if sizes.rows == 0:
            choice = self.choice
            raise LogError(
                f"{self.log.name}: no sequence of {choice.table}/ stands at both step "
                f"{choice.pre} and step {choice.post}; choose other steps with --pre and --post"
            )
        return sums, sizes, prompts

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
            name: self.upper[name].locate(accumulate.quantile_rank(q, rows))
            for name, q in self._quantiles().items()
        }
        lower = {name: Histogram(name, prefix) for name, (prefix, _) in located.items()}
        if lower:
            self.engine.run(self.plain, *lower.values())
        found = {
            name: float(accumulate.value_of(prefix, lower[name].locate(rank)[0]))
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
                raise LogError(
                    f"{self.log.name}: a share of {self._quantiles()[name]:g} of the losses at "
                    f"step {step} is zero or less, so the threshold would be too; raise "
                    f"--quantile-{option} or give --tau-{option}"
                )

    def _types(self, sums: TypeSums, prompts: accumulate.PromptCounts) -> TypeTable:
        self.count_V = sums.count_V
        token_T = np.flatnonzero(sums.count_V)
        frequency_T = sums.count_V[token_T]
        extra = {n: s[token_T] / frequency_T for n, s in sums.sum_V.items() if n != "loss_post"}
        return TypeTable(
            token_T=token_T,
            frequency_T=frequency_T,
            prompts_T=prompts.result(len(sums.count_V))[token_T],
            loss_T=sums.sum_V["loss_post"][token_T],
            extra_T=extra,
        )

    def _persistent(self, types: TypeTable, thresholds: Thresholds) -> dict[str, Array]:
        collect = Persistent(thresholds, self.params.window)
        pool = windows.Pool(self.params.seed, 2 * self.params.window)
        draw = self.params.eta == "auto"
        self.engine.run(self.plain, collect, *([pool] if draw else []))
        rows = collect.occurrences.result()
        length = len(self.count_V)
        counts = [padded(c, length)[types.token_T] for c in collect.hard.values()]
        types.persistent_T, types.hard_pre_T, types.hard_post_T = counts
        types.persistent_prompts_T = distinct_prompts(rows, length)[types.token_T]
        if draw:
            self.pool = pool.result()
            self._draw_for_frequent(types, complete=pool.complete)
        self._judge(types, rows)
        return rows

    def _judge(self, types: TypeTable, rows: dict[str, Array]) -> None:
        params = self.params
        similarity = Similarity(
            params.similarity,
            params.gamma,
            2 * params.window,
            analysis.surprisal(self.count_V),
            self.embeddings,
        )
        rule = analysis.ContextRule(similarity, params.partners, params.eta)

        def judge(index: int) -> Context:
            v = int(types.token_T[index])
            return rule.judge(v, _windows(_of_type(rows, v)), self._draws)

        analysis.walk(types, params, judge)

    # -- the null --------------------------------------------------------------------------

    def _draw_for_frequent(self, types: TypeTable, *, complete: bool) -> None:
        """A pass of its own for types that leave too few positions of the pool free."""
        if complete or types.persistent_T is None:
            return
        around = self.pool["around"]
        row_P = np.repeat(np.arange(len(around)), around.shape[1])
        here = around.ravel() != windows.MISSING
        length = np.int64(len(self.count_V))
        pairs = accumulate.distinct(row_P[here] * length + around.ravel()[here])
        free_V = len(around) - np.bincount(pairs % length, minlength=int(length))
        scarce = (free_V[types.token_T] < analysis.DRAWS) & (types.persistent_T > 0)
        chosen = types.token_T[scarce].tolist()
        if chosen:
            reach, near = 2 * self.params.window, analysis.distances(self.params.window)
            self.free = windows.FreePools(self.params.seed, reach, chosen, near, analysis.DRAWS)
            self.engine.run(self.plain, self.free)

    def _draws(self, v: int) -> tuple[Windows, int] | None:
        for distance in analysis.distances(self.params.window):
            if self.free is not None and (v, distance) in self.free.pools:
                drawn = self.free.pools[(v, distance)].result()
                rows = np.arange(len(drawn.get("hash", ())))
            else:
                drawn = self.pool
                rows = self._free_rows(v, distance)
            if len(rows) >= analysis.MIN_DRAWS:
                reach, w = 2 * self.params.window, self.params.window
                near = [reach + k for k in windows.offsets(w).tolist()]
                around = drawn["around"][rows][:, near]
                return Windows(around, drawn["prompt"][rows], drawn["sequence"][rows]), distance
        return None

    def _free_rows(self, v: int, distance: int) -> Array:
        """The first rows of the pool with no v within a distance; enough of them for the draw."""
        reach = 2 * self.params.window
        around = self.pool["around"][:, reach - distance : reach + distance + 1]
        stop = 2 * analysis.DRAWS
        while True:
            free = np.flatnonzero(~(around[:stop] == v).any(axis=1))
            if len(free) >= analysis.DRAWS or stop >= len(around):
                return free[: analysis.DRAWS]
            stop *= 2

    # -- after the ranking -----------------------------------------------------------------

    def _density(
        self, rocks: Array, types: TypeTable, persistent: dict[str, Array] | None
    ) -> dict[str, Any]:
        retained = _retained_sequences(rocks, types, persistent)
        density = Density(rocks, retained)
        self.engine.run(self.plain, density)
        return density.result()

    def _add_rollout(self, types: TypeTable) -> None:
        """How often the late student itself still writes each type, where that was recorded."""
        self.rollout_step: int | None = None
        if self.choice.table != "fixed" or not self.log.shards("rollout"):
            return
        first = -1 if self.choice.pre is None else self.choice.pre
        post = self.choice.post
        steps = [s for s in self.log.complete_steps("rollout") if first < s <= post]
        if not steps:
            return
        self.rollout_step = steps[-1]
        sums = TypeSums(("loss_post",))
        rollouts = replace(self.plain, table="rollout", pre=None, post=steps[-1])
        self.engine.run(rollouts, sums)
        length = len(self.count_V)
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
        if self.params.eta == "auto" and thresholds is not None and rows < analysis.MIN_DRAWS:
            notes.append(
                f"{rows} positions are too few to draw a null from ({analysis.MIN_DRAWS} are "
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


def _retained_sequences(
    rocks: Array, types: TypeTable, persistent: dict[str, Array] | None
) -> tuple[Array, Array] | None:
    """(sequence ids, retained occurrences of rocks in each)."""
    if persistent is None:
        return None
    found: list[Array] = [np.zeros(0, dtype=np.int64)]
    for index, context in types.context.items():
        v = int(types.token_T[index])
        if context.retained_M is not None and v in rocks:
            found.append(_of_type(persistent, v)["sequence"][context.retained_M])
    ids, counts = np.unique(np.concatenate(found), return_counts=True)
    return ids, counts


def _of_type(rows: dict[str, Array], v: int) -> dict[str, Array]:
    start, stop = np.searchsorted(rows["token"], [v, v + 1])
    return {name: values[start:stop] for name, values in rows.items()}


def _windows(rows: dict[str, Array]) -> Windows:
    return Windows(rows["window"], rows["prompt"], rows["sequence"])
