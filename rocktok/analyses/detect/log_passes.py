"""The passes of one `detect` over the rows of both steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect import auto
from rocktok.analyses.detect import ranking as analysis
from rocktok.analyses.detect.clusters import Clusters, PromptList, choose_clusters
from rocktok.analyses.detect.density import Density, density_of
from rocktok.analyses.detect.hard_sums import HardSums
from rocktok.analyses.detect.hardness import Hardness, hardness_of, votes_of
from rocktok.analyses.detect.instead import Alternatives
from rocktok.analyses.detect.judge_passes import judge_contexts
from rocktok.analyses.detect.neighbours import Neighbours, RockFlags
from rocktok.analyses.detect.null import MIN_DRAWS
from rocktok.analyses.detect.persistence import Thresholds
from rocktok.analyses.detect.ranking import TypeTable
from rocktok.analyses.detect.result import DetectParams
from rocktok.analyses.detect.tested import HardTests, Replication, replication
from rocktok.analyses.detect.windows import SketchCount
from rocktok.analyses.run import Run
from rocktok.engine.choose import PrePost
from rocktok.engine.source import DERIVABLE, Source
from rocktok.engine.turns import Companion
from rocktok.errors import LogError
from rocktok.stats.arrays import padded
from rocktok.stats.prompt_runs import PromptOf, PromptRuns
from rocktok.stats.prompts import PromptCounts
from rocktok.stats.quantiles import Histogram, quantile_rank, value_of
from rocktok.stats.sums import SequenceCounts, TypeSums


class ZeroThresholdError(LogError):
    """So many losses are zero that the threshold would be."""


@dataclass(frozen=True)
class Counts:
    """What the first pass comes to.

    `clusters`: prompts that vote, where rocks are tested. `upper`: column → upper halves of the
    histogram that gives its quantile. `unpaired`: sequences that stand at one of two steps only.
    `unlisted`: those that are not in sequences/. `sketches`: where similarity "auto" may stand for
    hidden states, how many positions have one. `runs`: how many prompts hold each type, where no
    other pass has to find out.
    """

    types: TypeTable
    count_V: Array
    clusters: Clusters | None
    sizes: SequenceCounts
    upper: dict[str, Histogram]
    unpaired: int
    unlisted: int
    sketches: SketchCount | None
    runs: PromptRuns | None


@dataclass(frozen=True)
class Halves:
    """What is under way on the halves of the prompts.

    `chosen`: the rocks of half 0, token ids, best first; `other`: the tests of all types on half 1;
    None where not wanted.
    """

    chosen: Companion[Array] | None
    other: Companion[HardTests] | None
    min_hardness: float

    def replication(self, rocks: Array) -> Replication:
        """How hard the rocks of half 0 of the prompts (token ids) are in half 1.

        Raises `LogError` where that half does not allow it.
        """
        assert self.other is not None
        return replication(rocks, self.other.result(), self.min_hardness)


@dataclass(frozen=True)
class LogPasses:
    """The passes of one `detect` over the rows of both steps."""

    run: Run
    params: DetectParams
    steps: PrePost
    source: Source

    def count(self) -> Counts:
        """Sums of every type, and the upper halves of the quantile histograms."""
        compiled = self.source.large
        present = set(self.run.log.columns(self.run.table))
        means = tuple(name for name, column in DERIVABLE.items() if column in present)
        earlier = () if self.steps.pre is None else ("loss_pre",)
        sums = TypeSums(("loss", *earlier, *means), compiled=compiled)
        sizes, prompts = SequenceCounts(), PromptList()
        tests = self.params.tests and self.steps.pre is not None
        upper = {name: Histogram(name, compiled=compiled) for name in self._quantiles()}
        listed = [prompts] if tests else []
        undecided = self.params.similarity == "auto" and not self.params.of_windows
        sketches = SketchCount() if undecided and self._has_contexts else None
        runs = None
        if self.steps.pre is None:
            runs = PromptRuns(PromptOf(self.source.prompts.of), compiled=compiled)
        counted = [part for part in (sketches, runs) if part is not None]
        read = self.run.engine.run(self.source, sums, sizes, *listed, *upper.values(), *counted)
        if sizes.rows == 0:
            raise LogError(
                f"{self.run.log.name}: no sequence of {self.run.table}/ is scored at both step "
                f"{self.steps.pre} and step {self.steps.post}; choose other steps with --pre and "
                "--post"
            )
        token_T = np.flatnonzero(sums.count_V)
        frequency_T, sum_V = sums.count_V[token_T], sums.sum_V
        types = TypeTable(
            token_T=token_T,
            frequency_T=frequency_T,
            loss_T=sum_V["loss"][token_T],
            loss_pre_T=sum_V["loss_pre"][token_T] if earlier else None,
            extra_T={name: sum_V[name][token_T] / frequency_T for name in means},
        )
        clusters = None
        if tests:
            clusters = choose_clusters(prompts.result(), sums.count_V, self.run.seed)
        return Counts(
            types, sums.count_V, clusters, sizes, upper, read.unpaired, read.unlisted, sketches,
            runs,
        )  # fmt: skip

    @property
    def _has_contexts(self) -> bool:
        return self.steps.pre is not None and self.source.lacks("contexts") is None

    def choose_similarity(self, counts: Counts) -> tuple[LogPasses, tuple[str, ...]]:
        """The same with a similarity that says what is compared, and what to note of it."""
        if self.steps.pre is None:
            return self, ()
        chosen = auto.choose(self.params, counts.sketches, has_contexts=self._has_contexts)
        return replace(self, params=chosen.params), chosen.notes

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

    def thresholds(self, counts: Counts) -> Thresholds:
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
                    f"step {step} is zero or less, and so is the threshold; raise "
                    f"--quantile-{option} or give --tau-{option}"
                )

    def without_last(
        self, counts: Counts, rocks: Array, shown: Array
    ) -> tuple[Density, dict[int, int]] | None:
        """What `last` comes to where the first pass has told all of it; None: it has not."""
        if counts.runs is None or len(rocks) or not counts.runs.is_exact:
            return None
        token_T = counts.types.token_T[shown]
        prompts_T = counts.runs.result(token_T)
        prompts = dict(zip(token_T.tolist(), prompts_T.tolist(), strict=True))
        return Density.without_rocks(counts.sizes.sequences, self.params.seed), prompts

    def last(
        self,
        types: TypeTable,
        rocks: Array,
        shown: Array,
        thresholds: Thresholds | None,
        hardness: Hardness | None,
        alternatives: Alternatives | None = None,
    ) -> tuple[Density, dict[int, int], RockFlags | None]:
        """The last pass over the same rows: density, the prompts of the types shown (indices), and
        what stands beside the rocks, where these were tested. `alternatives` is fed, too.
        """
        density = density_of(types, rocks, thresholds, self.params.seed)
        prompts = PromptCounts(types.token_T[shown], compiled=self.source.large)
        beside = None
        if hardness is not None and len(rocks):
            assert thresholds is not None
            tokens, large = types.token_T[rocks], self.source.large
            beside = Neighbours(thresholds, hardness.expected, tokens, compiled=large)
        more = [part for part in (beside, alternatives) if part is not None]
        engine = self.run.engine
        engine.run(self.source, density, prompts, *more)
        flags = None if beside is None else engine.aside(beside.result)
        return density, prompts.result(), flags

    def judged(
        self, embeddings: Array | None, told: Callable[[str], None] | None = None
    ) -> tuple[TypeTable, str | None]:
        """All types, those that may be rocks judged; without an earlier step their sums alone.

        With the similarity of their contexts; None: these were not compared. `told`: is given it as
        soon as it is known, after one pass. Raises `LogError` where the rows do not allow it.
        """
        counts = self.count()
        if self.steps.pre is None:
            return counts.types, None
        chosen, _ = self.choose_similarity(counts)
        params = replace(chosen.params, all_types=False)
        if told is not None:
            told(params.similarity)
        thresholds = self.thresholds(counts)
        types, _ = judge_contexts(
            self.source, self.run.engine, params, thresholds, counts.types,
            count_V=counts.count_V, clusters=counts.clusters, embeddings=embeddings, null=False,
        )  # fmt: skip
        return types, params.similarity

    def on_half(self, half: int) -> LogPasses:
        """The same over one half of the prompts."""
        return replace(self, source=replace(self.source, half=half))

    def rocks_of_half(self, half: int, embeddings: Array | None) -> Array:
        """Token ids of the rocks of one half of the prompts, best first.

        Raises `LogError` where the half does not allow it.
        """
        types, _ = self.on_half(half).judged(embeddings)
        order, is_rock = analysis.ranking(types, self.params, analysis.scores(types))
        rocks: Array = types.token_T[order[is_rock]]
        return rocks

    def start_halves(
        self,
        embeddings: Array | None,
        *,
        chosen: bool,
        other: bool,
        search: Callable[[], Array] | None = None,
    ) -> Halves:
        """Start the search on half 0 of the prompts, and the tests of all types on half 1.

        `search`: what finds the rocks of half 0; None: `rocks_of_half`.
        """
        start = self.run.engine.start
        search = search or partial(self.rocks_of_half, 0, embeddings)
        return Halves(
            start(search) if chosen else None,
            start(self._tests_of_other_half) if other else None,
            self.params.min_hardness,
        )

    def _tests_of_other_half(self) -> HardTests:
        """How hard every type is in half 1. Raises `LogError` where that does not allow it."""
        other = self.on_half(1)
        counts = other.count()
        assert counts.clusters is not None
        thresholds = other.thresholds(counts)
        sums = HardSums(thresholds, counts.clusters, compiled=other.source.large)
        self.run.engine.run(other.source, sums)
        votes = votes_of(sums)
        if votes is not None:
            self.run.engine.run(other.source, votes)
        return self.run.engine.aside(partial(hardness_of, sums, votes)).tests

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

    def _rule_notes(self) -> list[str]:
        implied = self.params.of_top_k
        if self.params.rule is not None or not implied:
            return []
        options = " and ".join(f"--{name.replace('_', '-')}" for name in implied)
        return [
            f"rocks follow the rule 'top-k' because of {options}: the largest scores, untested; "
            "leave it out for tested rocks"
        ]

    def notes(self, thresholds: Thresholds | None, counts: Counts) -> list[str]:
        """Notes on the numbers of the result."""
        notes, rows = [*self._rule_notes(), *self.steps.notes], counts.sizes.rows
        if counts.unlisted:
            notes.append(
                f"{counts.unlisted} sequences are not in sequences/: each counts as its own prompt"
            )
        if self.steps.pre is not None and counts.unpaired:
            notes.append(f"{counts.unpaired} sequences are scored at only one of the two steps")
        if self.params.eta == "auto" and thresholds is not None and rows < MIN_DRAWS:
            notes.append(
                f"{rows} positions are too few for a null ({MIN_DRAWS} are "
                "needed), so no context was judged; give --min-partner-share a number"
            )
        if thresholds is not None and (thresholds.change or 0.0) < 0:
            notes.append(
                f"tau_change is {thresholds.change:.3g}: losses rose at so many positions "
                "that 'recalcitrant' selects only such positions"
            )
        if thresholds is not None and thresholds.post is not None:
            ratio = thresholds.post / thresholds.pre
            quantiles = self.params.tau_pre is None and self.params.tau_post is None
            if ratio < 0.5 and quantiles:
                notes.append(
                    f"tau_post is {ratio:.2f} of tau_pre: losses fell, and quantiles hide "
                    "uniform learning; compare with --tau-post same"
                )
        return notes
