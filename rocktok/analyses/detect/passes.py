"""`detect` over a log: the passes, in order.

1. sums per type, the prompts, and the upper halves of the quantile histograms;
2. their lower halves, which give the thresholds (left out where both are given);
3. who is persistent, by type, place and prompt, and a pool of positions for the null; in a small
   log the windows, too, and in a large one, where rocks are tested, another pass for the votes of
   the prompts;
4. the windows of the likeliest types, and a null for types too frequent for the shared pool (a
   small log: only where there are such types; a large one: a pass for each round of windows);
5. density, what stands beside the rocks, their prompts, and what the teacher wrote instead (left
   out without an earlier step and without rocks, where the rows of a prompt are neighbours);
6. what the late student itself still writes, where that was recorded;
7. for the replication 1 to 4 on one half of the prompts, and 1 to 3 on the other; lifts are of the
   rocks of the one half, and take a pass over the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect import ranking as analysis
from rocktok.analyses.detect.cutoff_passes import rocks_at_cutoffs
from rocktok.analyses.detect.detection import Detection
from rocktok.analyses.detect.instead_passes import alternatives_coverage, alternatives_of
from rocktok.analyses.detect.judge_passes import judge_contexts
from rocktok.analyses.detect.lift_passes import CHOSEN_ON, lifts_on_other_half, permuted
from rocktok.analyses.detect.lifts import Lifts
from rocktok.analyses.detect.log_passes import LogPasses
from rocktok.analyses.detect.ranking import TypeTable
from rocktok.analyses.detect.result import (
    MOST_ROCKS,
    DetectParams,
    DetectResult,
    PermutedRow,
)
from rocktok.analyses.detect.token_rows import make_result
from rocktok.analyses.run import LogOrPath, Run, options_of, public
from rocktok.engine.choose import REMEDY
from rocktok.engine.kept import KeptRows
from rocktok.engine.passes import Engine
from rocktok.errors import DamagedError, DataError, LogError, UsageError

#: Positions of a log up to which replication is given unasked.
MOST_REPLICATED = 10_000_000


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
    engine: Engine | None = None,
    half: int | None = None,
    only: Array | None = None,
    lifts: bool = False,
    replication: bool | Literal["auto"] = "auto",
) -> DetectResult:
    """Find the token types whose loss persists in recurring contexts, beyond chance.

    docs/definitions.md defines what is computed.

    Args:
        log: an open log (`rocktok.open`), or the path of one.
        pre, post: earlier and later step; None: the first and the last complete step.
        table: "fixed", "rollout", or "auto": fixed if the log has it, else rollout.
        context: "auto": persistence and contexts if the log has the same text at two steps;
            "required": an error without it; "off": the Rock Score only.
        quantile_pre, quantile_post: loss quantiles that are the thresholds at pre and at post;
            quantile_post None: 0.8, or with persistence "recalcitrant" 0.2, of the loss decrease.
        tau_pre, tau_post: thresholds in nats instead; tau_post "same": that of pre.
        persistence: "high": hard at both steps; "recalcitrant": hard at pre, and hardly lower at
            post.
        window: number of tokens on each side of a context window; None: 8.
        similarity: "surprisal", "bag", "jaccard", "positional" or "embedding" of windows, or
            "hidden": of the teacher's hidden states before the tokens, from contexts/; "auto":
            "hidden" where at least half of the positions have a row in contexts/, and neither
            window nor gamma is given, else "surprisal".
        partners: occurrences that a context is compared with: "other-prompt", "other-sequence" or
            "all".
        gamma: minimum similarity for two contexts to match; "auto": 0.5 for windows, and for hidden
            states the 95% quantile of random pairs of positions.
        eta: minimum share of partners that match; "auto": the share that 95% of positions away
            from the token do not exceed.
        rule: "tested": rocks are harder than their prompts and positions predict, in contexts that
            recur beyond chance; "top-k": the first by context Rock Score, as in the paper. None:
            "top-k" if top_k, tau_r or a number as eta is given, else "tested".
        fdr: false discovery rate of the tested rocks.
        min_hardness: minimum hardness of a tested rock, as a multiple of its expected value.
        top_k: maximum number of rocks under the rule "top-k"; None: 100.
        tau_r: minimum score of a rock in nats, instead of `top_k`.
        min_frequency: minimum number of occurrences of a rock.
        exclude_most_frequent: number of most frequent types that cannot be rocks.
        cap: maximum number of persistent occurrences judged per type; above it a sample is judged,
            with an interval.
        exact: judge every occurrence, without a cap.
        seed: random seed.
        all_types: list every type instead of the rocks only.
        embeddings: (token ids, D) matrix for `similarity="embedding"`.
        engine: runs the passes; default: threads on the available cores.
        half: analyse only this half of the prompts (0 or 1; `rocktok.hashing.halves` with `seed`);
            the other half remains for tests.
        only: ascending ids (int64) of the sequences to analyse.
        lifts: also measure the lifts of rocks, chosen on one half of the prompts and measured on
            the other, and count the rocks under labels permuted within types; takes more passes.
        replication: also measure the share of rocks of one half of the prompts that are hard in
            the other half; "auto": in logs of up to 10 million positions.

    Returns:
        A frozen `DetectResult`: `.table` (pandas), `.to_json()`, `.tokens`.

    Raises:
        TypeError: an unknown keyword; the message names the nearest parameter.
        UsageError: an option is out of range.
        LogError: the log is damaged, or lacks the table, step or columns.

    Example::

        result = rocktok.detect("runs/opd", fdr=0.01)
        result.table[["token", "hardness", "ccr", "q_value"]]
    """
    params = options_of(DetectParams, locals())
    if lifts and context == "off":
        raise UsageError(
            "lifts need persistence and context; leave out either lifts or context 'off'",
            parameter="lifts",
        )
    if lifts and half is not None:
        raise UsageError(
            "lifts choose rocks on one half of the prompts and measure them on the other; leave "
            "out either lifts or half",
            parameter="lifts",
        )
    return run_detect(
        log, params, embeddings=embeddings, engine=engine, half=half, only=only, lifts=lifts,
        replicate=replication,
    ).result  # fmt: skip


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
    replicate: bool | Literal["auto"] = False,
    cutoffs: bool = False,
    ready: Callable[[Detection], None] | None = None,
) -> Detection:
    """`detect`, with all that its result rests on.

    Args:
        lifts: as in `detect`; "auto": where there is persistence.
        null: draw positions for nulls whatever η is, as for looking at others.
        replicate: `replication` of `detect`.
        cutoffs: find the rocks of half 0 of the prompts at all cutoffs, for who asks for them at
            the first two steps by `rocks_at_cutoffs`; where these are pre and post, and the half is
            searched.
        ready: where lifts are measured, called with the detection when it lacks them alone.

    Raises as `detect` does, and `ZeroThresholdError` where thresholds cannot be had.
    """
    if (params.similarity == "embedding") != (embeddings is not None):
        raise UsageError(
            "embeddings: give both similarity 'embedding' and an embedding matrix, or neither",
            parameter="embeddings",
        )
    run = Run.begin(log, engine, params.table, params.seed)
    steps = run.view.pre_post(params.pre, params.post, params.context)
    if lifts is True and steps.pre is None:
        raise LogError(f"{run.log.name}: lifts need persistence, but {steps.no_context}; {REMEDY}")
    kept = KeptRows()
    source = replace(run.source(steps.post, steps.pre, half=half, only=only), kept=kept)
    lacking = source.lacks("contexts") if params.similarity == "hidden" else None
    if steps.pre is not None and lacking is not None:
        raise LogError(f"{run.log.name}: {lacking}, or choose another similarity than 'hidden'")
    passes = LogPasses(run, params, steps, source)
    counts = passes.count()
    given, (passes, of_similarity) = params, passes.choose_similarity(counts)
    params = passes.params
    types, thresholds, contexts = counts.types, None, None
    wanted = counts.sizes.rows <= MOST_REPLICATED if replicate == "auto" else replicate
    wanted = bool(wanted and half is None and steps.pre is not None and params.tests)
    search = None
    whole = embeddings is None and half is None and only is None
    between = [step for step in run.view.complete if (steps.pre or 0) <= step <= steps.post]
    if cutoffs and whole and len(between) == 2:
        search = partial(_rocks_of_half, passes)
    halves = passes.start_halves(
        embeddings, chosen=wanted or bool(lifts and steps.pre is not None), other=wanted,
        search=search,
    )  # fmt: skip
    if steps.pre is not None:
        thresholds = passes.thresholds(counts)
        types, contexts = judge_contexts(
            source, run.engine, params, thresholds, types,
            count_V=counts.count_V, clusters=counts.clusters, embeddings=embeddings, null=null,
            permuted=bool(lifts),
        )  # fmt: skip
    score_T = analysis.scores(types)
    order, is_rock = analysis.ranking(types, params, score_T)
    rocks = order[is_rock]
    shown = np.arange(len(order)) if params.all_types else _shown(types, order, is_rock)
    hardness = None if contexts is None else contexts.hardness
    lifting = drawing = None
    if lifts and contexts is not None:
        assert halves.chosen is not None
        start, of_half = run.engine.start, halves.chosen
        lifting = start(partial(lifts_on_other_half, contexts, types, rocks, of_half))
        drawing = start(partial(permuted, contexts, types, rocks, score_T, of_half))
    alternatives, of_alternatives = alternatives_of(source, types, order[shown], thresholds)
    known, flags = None, None
    if alternatives is None:
        known = passes.without_last(counts, rocks, order[shown])
    if known is not None:
        density, prompts = known
    else:
        density, prompts, flags = passes.last(
            types, rocks, order[shown], thresholds, hardness, alternatives
        )
    types, rollout_step = passes.with_rollouts(types)
    notes, replicated = passes.notes(thresholds, counts), None
    notes += [*of_similarity, *of_alternatives]
    notes += [] if alternatives is None else alternatives_coverage(source, alternatives)
    chosen, why = None, ""
    if halves.chosen is not None:
        try:
            chosen = halves.chosen.result()
        except (DamagedError, DataError):
            raise
        except LogError as error:
            why = str(error)
    if contexts is not None and contexts.unsketched:
        notes.append(
            f"{contexts.unsketched:,} of {counts.sizes.rows:,} positions have no row in contexts/: "
            "their contexts are not judged"
        )
    if wanted:
        try:
            replicated = None if chosen is None else halves.replication(chosen)
        except (DamagedError, DataError):
            raise
        except LogError as error:
            why = str(error)
        if replicated is None:
            notes.append(f"replication is unknown: {why}")

    def result(
        notes: list[str], both_lifts: tuple[dict[int, Lifts], PermutedRow] | None
    ) -> DetectResult:
        return make_result(
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
            similarity_given=given.similarity,
            notes=notes,
            thresholds=thresholds,
            gamma=None if contexts is None else contexts.rule.similarity.gamma,
            sizes=counts.sizes,
            unpaired=None if steps.pre is None else counts.unpaired,
            types=types,
            prompts=prompts,
            order=order,
            is_rock=is_rock,
            shown=shown,
            flags=flags,
            replication=replicated,
            density=density.result(),
            text=run.log.vocab.text,
            lifts=both_lifts,
            instead=None if alternatives is None else alternatives.result(),
        )

    made = partial(
        Detection,
        run=run,
        params=params if contexts is None else contexts.params,
        steps=steps,
        source=source,
        embeddings=embeddings,
        types=types,
        thresholds=thresholds,
        contexts=contexts,
        density=density.histogram(),
    )
    both_lifts = None
    if lifting is not None and drawing is not None:
        if ready is not None:
            ready(made(result=result(notes, None)))
        if chosen is None:
            notes.append(f"lifts are unknown: {why}")
        elif len(rocks):
            both = int(np.isin(types.token_T[rocks], chosen).sum())
            notes.append(
                f"lifts: for the {both} of {len(rocks)} rocks that half {CHOSEN_ON} of the prompts "
                f"also names, measured on half {1 - CHOSEN_ON}"
            )
        both_lifts = lifting.result(), drawing.result()
    kept.close()
    return made(result=result(notes, both_lifts))


def _rocks_of_half(passes: LogPasses) -> Array:
    """Token ids of the rocks of half 0 of the prompts; found at all cutoffs, which are kept."""
    steps, run = passes.steps, passes.run
    params = replace(passes.params, table=run.table, pre=steps.pre, post=steps.post)
    return rocks_at_cutoffs(run, params, half=CHOSEN_ON).shown


def _shown(types: TypeTable, order: Array, is_rock: Array) -> Array:
    """Which places of the order are shown: rocks; where none can be told, the largest losses."""
    told = types.persistent_T is not None or bool(is_rock.any())
    return np.flatnonzero(is_rock) if told else np.arange(min(MOST_ROCKS, len(order)))


def _identity(matrix: Array | None) -> str | None:
    """What tells an embedding matrix from any other."""
    if matrix is None:
        return None
    digest = hashlib.blake2b(str(matrix.shape).encode(), digest_size=8)
    digest.update(np.ascontiguousarray(matrix).tobytes())
    return digest.hexdigest()
