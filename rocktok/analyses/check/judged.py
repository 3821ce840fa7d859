"""Findings from numbers: each with the thresholds that docs/definitions.md gives reasons for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from rocktok._types import Array
from rocktok.analyses.check.estimator_sums import EstimatorSums, Name
from rocktok.analyses.check.grading import (
    NOTHING,
    Levels,
    Number,
    finding,
    grade,
    percent,
    plain,
    unknown,
)
from rocktok.analyses.check.measures import BEGINNING, OPENING, REST, SPECIAL, SequenceSample
from rocktok.analyses.check.result import EstimatorRow, Finding, Severity, rank_of
from rocktok.analyses.check.said import Said
from rocktok.stats.bootstrap import PromptBootstrap
from rocktok.stats.intervals import Estimate

SPECIAL_LEVELS: Levels = {"note": 0.05, "warning": 0.2, "problem": 0.5}
#: How many times its share of the positions a share of the loss must be.
SPECIAL_RATIO = 3.0
OPENING_LEVELS: Levels = {"note": 3.0, "warning": 10.0, "problem": 30.0}
CUT_LEVELS: Levels = {"note": 0.05, "warning": 0.2, "problem": 0.5}
CUT_RISE: Levels = {"warning": 0.1}
LOOP_LEVELS: Levels = {"note": 0.01, "warning": 0.05, "problem": 0.2}
#: How far a mean over rollouts may be from what it must be, as a share; and how sure, as it is a
#: test that half of all healthy runs would otherwise fail at some time.
ON_POLICY, ON_POLICY_LEVEL = 0.05, 0.99
NORMALISATION: Levels = {"note": 0.1, "warning": 0.5}
MICRO_BATCHES = (2, 4, 8, 16)
#: Change of the loss over the last third that counts as none, as a share of it.
FLAT = 0.05
#: Share of the pace before that counts as having stopped.
SLOWED = 0.1

_NO_LOSS = "There is no loss at that step."

#: Exactness → why its losses may be negative, so that parts of their sum need not be shares of it.
_SIGNED = {"sampled": "one-sample estimates", "truncated": "partial sums"}


def of_signed(found: Finding, mean: Estimate, exactness: str, parts: Sequence[float]) -> Finding:
    """The finding; `unknown` where losses cancel in the sum that it divides by.

    Args:
        found: a finding that compares parts of the loss with each other.
        mean: mean loss of what it divides by.
        exactness: of the losses.
        parts: shares of the loss that it tells.
    """
    if exactness not in _SIGNED or found["severity"] == "unknown":
        return found
    low = Number.of(mean, positive=False).low
    if low is not None and low > 0 and all(0 <= part <= 1 for part in parts):
        return found
    return unknown(
        found["name"],
        f"The recorded losses are {exactness}: {_SIGNED[exactness]}, which cancel in part, so that "
        "parts of their sum are no shares.",
        "score the text exactly with `rocktok rescore`, or record more prompts",
        measure=found["measure"],
    )


def special_tokens(said: Said, sums: PromptBootstrap) -> Finding:
    """How much of the loss special tokens take."""
    measure = "share of the loss on special tokens"
    if said.special is None:
        return unknown(
            "special_tokens", "run.json does not say which tokens are special.",
            "record with the TRL hook of this version, or write special_ids into run.json",
            measure=measure,
        )  # fmt: skip
    share = sums.of("loss", SPECIAL) / sums.of("loss")
    of_rows = sums.of("", SPECIAL) / sums.of("")
    number, times = Number.of(share, most=1.0), Number.of(share / of_rows)
    if number.value is None:
        return unknown("special_tokens", _NO_LOSS, "give another --step", measure=measure)
    severity = grade(number, SPECIAL_LEVELS)
    if grade(times, {"note": SPECIAL_RATIO}) == "ok" or times.value is None:
        severity = "ok"
    text = (
        f"Special tokens carry {percent(number.value)} of the loss at "
        f"{percent(float(of_rows.value))} of the positions."
    )
    return finding(
        "special_tokens", severity, text, number=number, measure=measure,
        remedy="check how both models begin and end their texts (terminal_ids, end_token, "
        "template), or exclude special tokens from the loss",
        position_share=float(of_rows.value), ratio=times.value,
    )  # fmt: skip


def opening(sums: PromptBootstrap) -> Finding:
    """Whether the loss stands at the beginning of the texts."""
    measure = f"mean loss of the first {OPENING} positions over that of the others"
    begun = sums.of("loss", BEGINNING) / sums.of("", BEGINNING)
    later = sums.of("loss", REST) / sums.of("", REST)
    number = Number.of(begun / later)
    if number.value is None:
        why = f"No text has a loss beyond its first {OPENING} positions."
        return unknown("opening", why, "record longer texts", measure=measure)
    share = sums.of("loss", BEGINNING) / sums.of("loss")
    of_rows = sums.of("", BEGINNING) / sums.of("")
    each = [np.array([2 * at, 2 * at + 1]) for at in range(OPENING)]
    means = [sums.of("loss", at) / sums.of("", at) for at in each]
    text = (
        f"The first {OPENING} positions carry {percent(float(share.value))} of the loss at "
        f"{percent(float(of_rows.value))} of the positions: {plain(number.value)} times the mean "
        "loss of the other positions."
    )
    return finding(
        "opening", grade(number, OPENING_LEVELS), text, number=number, measure=measure,
        remedy="compare the prompt format that both models were tuned on: chat template, system "
        "prompt, thinking mode, blanks at the end of the prompt",
        loss_share=float(share.value), position_share=float(of_rows.value),
        mean_losses=[float(one.value) if np.isfinite(one.value) else None for one in means],
    )  # fmt: skip


def truncated(overall: Number, now: Number, rise: Number, sequences: int, said: Said) -> Finding:
    """How many texts were truncated; `now`: in the last third of the steps of generation."""
    measure = "share of sequences that were cut, in the last third of the steps"
    # Where few prompts carry the last third, all steps together may tell.
    sure = now if now.low is not None else overall
    of_rise: Severity = "ok" if rise.value is None else grade(rise, CUT_RISE)
    severity = max((grade(sure, CUT_LEVELS), of_rise), key=rank_of)
    limit = said.max_completion_length
    at = f" at {limit:,} tokens" if limit else " at the maximum length"
    text = f"{percent(now.value)} of the sequences were cut{at}"
    text += f", {_points(rise.value)} than in the first third." if rise.value is not None else "."
    return finding(
        "truncated", severity, text, number=now, measure=measure,
        remedy="raise max_completion_length; if the share rises, the student no longer ends its "
        "texts: see terminal_ids, end_token and loops",
        overall=overall.value, rise=rise.value, rise_low=rise.low, rise_high=rise.high,
        sequences=sequences, max_completion_length=limit,
    )  # fmt: skip


def loops(sums: PromptBootstrap, window: int, block: int) -> Finding:
    """How many texts end in a loop."""
    measure = "share of sequences that end in a loop"
    number = Number.of(sums.of("loop") / sums.of(""), most=1.0)
    judged = int(sums.of("judged").value)
    text = (
        f"{percent(number.value)} of the sequences end in a loop: their last {window} tokens "
        f"repeat a block of {block} or fewer."
    )
    if not judged:
        text = f"No sequence has {window} tokens, so none can end in a loop of that length."
    return finding(
        "loops", grade(number, LOOP_LEVELS), text, number=number, measure=measure,
        remedy="sample with a repetition penalty or a lower maximum length, or exclude looping "
        "texts from the loss; the loss on a loop is small and uninformative",
        sequences=int(sums.of("").value), long_enough=judged,
    )  # fmt: skip


def normalisation(sums: PromptBootstrap, means: PromptBootstrap, sample: SequenceSample) -> Finding:
    """How far the means of the loss are apart that trainers minimise."""
    measure = "mean by sequence minus mean by token, as a share of the latter"
    by_token = sums.of("loss") / sums.of("")
    by_sequence = means.of("mean") / means.of("")
    number = Number.of((by_sequence - by_token) / by_token, positive=False)
    if number.value is None:
        return unknown("normalisation", _NO_LOSS, "give another --step", measure=measure)
    # Of a difference either sign is as bad.
    size = number if number.value >= 0 else Number(-number.value, *_turned(number))
    text = (
        f"The mean loss is {plain(float(by_token.value))} nats by token, "
        f"{plain(float(by_sequence.value))} by sequence ({number.value:+.0%})"
    )
    micro = {f"micro_batch_{m}": sample.micro_batches(m) for m in MICRO_BATCHES}
    if micro["micro_batch_8"] is not None:
        text += f", {plain(micro['micro_batch_8'])} by random micro-batches of 8"
    return finding(
        "normalisation", grade(size, NORMALISATION), f"{text}.", number=number, measure=measure,
        remedy="state which mean is trained, and compare runs by the same mean; a mean of "
        "micro-batch means depends on how sequences are batched",
        by_token=float(by_token.value), by_sequence=float(by_sequence.value),
        **micro,
    )  # fmt: skip


def on_policy(
    said: Said, surprisal: PromptBootstrap | None, k1: EstimatorSums | None, step: int
) -> Finding:
    """Whether the rollouts were drawn from the student that was scored.

    If so, −log p of the tokens is its entropy on average, and log p − log q the loss. The first is
    the sharper test.
    """
    number, details = NOTHING, {"by": "entropy", "step": step}
    measure = "mean −log p of the tokens of rollouts over the student's mean entropy, minus 1"
    if surprisal is not None:
        number = _excess(*(surprisal.of(n) / surprisal.of("") for n in _DRAWN))
        details |= {n: float((surprisal.of(n) / surprisal.of("")).value) for n in _DRAWN}
    elif k1 is not None and k1.occurrences:
        measure = "mean log p − log q of rollouts over the mean loss, minus 1"
        number = _excess(k1.mean(Name("k1")), k1.loss)
        details["by"] = "loss"
    if number.value is None:
        return unknown("on_policy", _NO_LOSS, "record more rollouts", measure=measure)
    apart = number.low is not None and number.high is not None
    apart = apart and not (number.low or 0) <= 0 <= (number.high or 0)
    why = unlike_sampling(said)
    severity: Severity = "ok"
    text = f"The rollouts of step {step} are consistent with samples from the scored student."
    if apart and abs(number.value) >= ON_POLICY:
        severity = "note" if why else "warning"
        text = (
            f"The rollouts of step {step} were not sampled from the scored student: "
            f"{measure} is {number.value:+.0%}"
        )
        text += f" ({why})." if why else "."
    elif number.low is None:
        why = f"Too few prompts carry the mean of the rollouts of step {step} to decide."
        return unknown("on_policy", why, "record more prompts at a step", measure=measure)
    return finding(
        "on_policy", severity, text, number=number, measure=measure,
        remedy="compare the sampler's log-probabilities with the trainer's: temperature, top-p and "
        "top-k, stale weights, different precision", **details,
    )  # fmt: skip


_DRAWN = ("surprisal", "student_entropy")

#: Types that a rank correlation must have: of two it is always 1 or −1.
RANKED_TYPES = 10


def _excess(mean: Estimate, expected: Estimate) -> Number:
    """By how much a mean is above the one expected, as a share of that."""
    return Number.of((mean - expected) / expected, level=ON_POLICY_LEVEL, positive=False)


def unlike_sampling(said: Said) -> str:
    """Which settings of the sampling make it another distribution than the loss's; "": none."""
    sampling = said.sampling or {}
    found = []
    for name, neutral in (("top_p", (1, None)), ("top_k", (0, -1, None)), ("min_p", (0, None)),
                          ("repetition_penalty", (1, None))):  # fmt: skip
        value = sampling.get(name)
        if value not in neutral:
            found.append(f"{name}={value}")
    drawn = sampling.get("temperature")
    if drawn is not None and said.temperature is not None and drawn != said.temperature:
        found.append(f"temperature={drawn}, the loss's {said.temperature}")
    return ", ".join(found)


def cheaper(name: str, rows: Sequence[EstimatorRow], why: str, remedy: str) -> Finding:
    """What a run that logs a cheaper estimate alone would have got wrong; `rows`: the estimates."""
    measure = "rank correlation of mean losses by type with the exact ones, for the best estimate"
    ranked = [row for row in rows if row["rank_correlation"] is not None]
    if not ranked:
        return unknown(name, why, remedy, measure=measure)
    most = max(row["types"] for row in ranked)
    if most < RANKED_TYPES:
        why = (
            f"Only {most} types occur five times or more; a rank says something of {RANKED_TYPES}."
        )
        return unknown(name, why, "record more text", measure=measure)
    best = max((row for row in ranked if row["types"] >= RANKED_TYPES), key=_correlation)
    number = Number(_correlation(best))
    kind = f"top-{best['k']} ({best['estimator']})" if best["k"] else best["estimator"]
    correlation = _between(*sorted(_correlations(best)))
    if _correlation(best) <= 0 < max(_correlations(best)):
        return unknown(
            name,
            f"{kind}, the best estimate, has a rank correlation of {correlation} with the exact "
            "loss: the teacher's likeliest tokens in the log leave open how likely it finds the "
            "student's.",
            "record more of them: Recorder(alternatives=…)", measure=measure,
        )  # fmt: skip
    text = (
        f"{kind}, the best estimate, has a rank correlation of {correlation} with the "
        f"exact loss over {best['types']:,} types; its error per token is "
        f"{_between(best['error_sd'], best['error_sd_most'])} nats (rms) at a mean loss of "
        f"{plain(best['exact_mean'])}"
    )
    if best["rocks"]:
        text += f"; it ranks {best['rocks_in_top']} of {best['rocks']} rocks at the top"
        text += f", the exact loss {best['rocks_in_top_exact']}"
    # The log has the exact loss: this is no fault of the run.
    return finding(
        name, "ok", f"{text}.", number=number, measure=measure,
        estimator=best["estimator"], k=best["k"], table=best["table"], step=best["step"],
    )  # fmt: skip


def _correlation(row: EstimatorRow) -> float:
    """The lower one of both ends."""
    return min(_correlations(row))


def _correlations(row: EstimatorRow) -> list[float]:
    """At both ends of what the log leaves open; at one, where the other ranks nothing."""
    both = (row["rank_correlation"], row["rank_correlation_most"])
    return [one for one in both if one is not None]


def _between(low: float, high: float | None = None) -> str:
    """Both ends of a number, or one where they read alike."""
    ends = [plain(low), plain(low if high is None else high)]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def saturation(means: Mapping[int, Estimate], first: int) -> Finding:
    """Whether the loss of the kept text is still falling.

    Args:
        means: step → mean loss, of the last third of the steps, and of the first one.
        first: the first of all steps; means has one or none where there are fewer than three.
    """
    measure = "change of the mean loss over the last third of the steps, as a share of it"
    course = {step: mean for step, mean in sorted(means.items()) if step != first}
    if len(course) < 2:
        return unknown(
            "saturation", "The kept text was scored at fewer than three steps.",
            "record kept text (fixed_sequences, fixed_every), or run `rocktok rescore`",
            measure=measure,
        )  # fmt: skip
    step_T = np.array(list(course), dtype=np.float64)
    weight_T = (step_T - step_T.mean()) / np.square(step_T - step_T.mean()).sum()
    span = step_T[-1] - step_T[0]
    change = _combined(list(course.values()), weight_T * span)
    level = _combined(list(course.values()), np.full(len(course), 1 / len(course)))
    number = Number.of(change / level, positive=False)
    if number.value is None:
        return unknown("saturation", _NO_LOSS, "give another --step", measure=measure)
    start, end = int(step_T[0]), int(step_T[-1])
    fell = float(means[start].value - means[first].value) / (start - first)
    severity, verdict = _course(number, fell * span / float(level.value))
    text = (
        f"From step {start} to {end} the loss of the kept text changed by {number.value:+.1%}: "
        f"{verdict}."
    )
    return finding(
        "saturation", severity, text, number=number, measure=measure,
        remedy="if it rises, check the learning rate and the end tokens; if it has stopped "
        "falling, more of the same text brings nothing (see `rocktok stagnation`)",
        first_step=start, last_step=end, steps=len(course), slope=float(change.value) / float(span),
        slope_before=fell, mean_loss=float(level.value),
    )  # fmt: skip


def _course(number: Number, before: float) -> tuple[Severity, str]:
    """Severity and verdict; `before`: the change at the pace before, as a share, too."""
    if number.low is None or number.high is None:
        return "ok", "too few prompts carry it to decide"
    if number.low > 0:
        return "warning", "it rises"
    flat = number.low >= -FLAT and number.high <= FLAT
    # A run of few steps has changed little without having stopped.
    if flat and number.low > SLOWED * before and before < 0:
        return "note", "it has stopped falling"
    return "ok", "it is still falling" if number.high < 0 else "this may be chance"


def _combined(parts: list[Estimate], weight_T: Array) -> Estimate:
    """A weighted sum of estimates."""
    weights = weight_T.tolist()
    value = sum(w * part.value for part, w in zip(parts, weights, strict=True))
    effect = sum(w * part.effect for part, w in zip(parts, weights, strict=True))
    prompts = np.asarray(np.min([part.prompts for part in parts], axis=0))
    return replace(parts[0], value=np.asarray(value), effect=np.asarray(effect), prompts=prompts)


def _turned(number: Number) -> tuple[float | None, float | None]:
    """Ends of the interval of the number's negative."""
    low, high = number.low, number.high
    return (None, None) if low is None or high is None else (-high, -low)


def _points(value: float | None) -> str:
    assert value is not None
    return f"{abs(100 * value):.1f} percentage points {'more' if value >= 0 else 'fewer'}"
