"""Do intervals cover and tests hold their level: seeded simulations, from rows to verdict.

The rates that these print (`-s`) stand in docs/statistics.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from rocktok.analyses.detect.lifts import HardBootstrap, context_lift
from rocktok.analyses.detect.persistence import Thresholds
from rocktok.analyses.detect.similarity import Similarity
from rocktok.analyses.stagnation.choose import choose
from rocktok.analyses.stagnation.learning import comparisons, corpus_row, group_rows
from rocktok.analyses.stagnation.loss_curves import QUANTITIES, LossCurves
from rocktok.analyses.stagnation.result import StagnationParams
from rocktok.hashing import halves, hash_rows
from rocktok.stats.bootstrap import PromptBootstrap
from rocktok.stats.groups import HalfFacts

Rows = dict[str, np.ndarray]

TYPES = 48
LEARNED = 0.6


def text_and_levels(
    rng: np.random.Generator, count: int, tokens: int, *, alike: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Types of unequal frequency, (count, tokens), and what the losses of each begin with.

    `alike`: of the same frequency and much the same losses, so that rocks have controls.
    """
    weights = 1 / np.arange(1, TYPES + 1) ** (0.0 if alike else 0.5)
    text = rng.choice(TYPES, (count, tokens), p=weights / weights.sum())
    spread = 0.15 if alike else 0.7
    return text, np.exp(np.linspace(-spread, spread, TYPES))[rng.permutation(TYPES)]


def simulate(
    seed: int, prompts: int, *, sequences: int = 2, tokens: int = 24, own: float = 0.0,
    alike: bool = False,
) -> list[Rows]:  # fmt: skip
    """Rows of two steps of one text; every type keeps the share LEARNED of its loss on average.

    Losses depend on type, prompt and occurrence. The share that an occurrence keeps depends on the
    prompt and the occurrence, never on the type, or with `own` on the type by a factor that is
    independent of its loss.
    """
    rng = np.random.default_rng([seed, prompts])
    count = prompts * sequences
    text, level_T = text_and_levels(rng, count, tokens, alike=alike)
    level = level_T[text]
    prompt = np.repeat(np.arange(prompts), sequences)
    easy = rng.lognormal(0.0, 0.4, prompts)[prompt][:, None]
    first = level * easy * rng.exponential(1.0, text.shape)
    factor = np.exp(own * rng.normal(size=TYPES) - own**2 / 2)[text]
    learned = rng.lognormal(0.0, 0.3, prompts)[prompt][:, None] * rng.gamma(2, 0.5, text.shape)
    last = LEARNED * factor * first * learned / np.exp(0.3**2 / 2)
    same = {
        "token_id": text.ravel(),
        "sequence_id": np.repeat(np.arange(count), tokens),
        "position": np.tile(np.arange(tokens), count),
        "prompt": np.repeat(hash_rows(seed, prompt), tokens),
    }
    return [{**same, "loss": loss.ravel().astype(np.float32)} for loss in (first, last)]


def analysed(steps: list[Rows], seed: int, select_at: str = "first", **options: Any) -> Any:
    """(group rows, tests, corpus row) of simulated rows, as `engine.stagnation` runs them."""
    params = StagnationParams(
        select_at=select_at, seed=seed, **{"top_k": 12, "replicates": 400, **options}
    )
    facts = HalfFacts(seed, positions=True)
    facts.update(steps[0 if select_at == "first" else -1])
    chosen = choose(facts.result(), params, 0 if select_at == "first" else None)
    course = LossCurves(chosen.members, pre=0)
    for step, rows in enumerate(steps):
        if select_at == "first":
            kept = halves(rows["prompt"], seed) == 1
            rows = {name: values[kept] for name, values in rows.items()}
        types = np.array(
            sorted({v for ids in chosen.members.values() for v in ids}), dtype=np.int64
        )
        bootstrap = PromptBootstrap(types, QUANTITIES, seed, params.replicates)
        bootstrap.update(rows)
        course.add(step, bootstrap)
    return group_rows(course), comparisons(course, chosen), corpus_row(course)


def rates(prompts: int, tries: int, *, alike: bool = False) -> dict[str, float]:
    """Under the null: how often p is small, and intervals cover the truth."""
    p: dict[str, list[float]] = {}
    ratio, group, corpus = [], [], []
    for seed in range(tries):
        groups, rows, whole = analysed(simulate(seed, prompts, alike=alike), seed)
        for row in rows:
            if "p" in row:
                p.setdefault(row["second"], []).append(row["p"])
                p.setdefault("naive", []).append(row["p_types_naive"])
            if row.get("ratio_low") is not None:
                ratio.append(row["ratio_low"] <= 1 <= row["ratio_high"])
        for row in groups:
            if row.get("stagnation_low") is not None:
                group.append(row["stagnation_low"] <= LEARNED <= row["stagnation_high"])
        if whole["stagnation_low"] is not None:
            corpus.append(whole["stagnation_low"] <= LEARNED <= whole["stagnation_high"])
    found = {
        f"p({name}) <= {level}": float(np.mean(np.array(values) <= level))
        for name, values in p.items()
        for level in (0.01, 0.05, 0.1)
    }
    found |= {f"n({name})": float(len(values)) for name, values in p.items()}
    for name, covered in (("ratio", ratio), ("group", group), ("corpus", corpus)):
        found |= {f"cover {name}": float(np.mean(covered)) if covered else float("nan")}
    return found


@pytest.mark.exhaustive
@pytest.mark.long
def test_intervals_cover_and_tests_hold_their_level_at_500_prompts() -> None:
    found = rates(500, 100)
    print(found)
    for name in ("high_kl", "random", "loss_control"):
        n = found[f"n({name})"]
        for level in (0.01, 0.05, 0.1):
            limit = level + 2 * (level * (1 - level) / n) ** 0.5
            assert found[f"p({name}) <= {level}"] <= limit
    for name in ("ratio", "group", "corpus"):
        assert found[f"cover {name}"] >= 0.92


@pytest.mark.long
def test_matched_controls_hold_their_level() -> None:
    found = rates(200, 100, alike=True)
    print("alike", found)
    n = found["n(control)"]
    assert n >= 95
    for level in (0.01, 0.05, 0.1):
        limit = level + 2 * (level * (1 - level) / n) ** 0.5
        assert found[f"p(control) <= {level}"] <= limit
    assert found["cover ratio"] >= 0.92


@pytest.mark.exhaustive
@pytest.mark.long
def test_choosing_at_the_last_step_shows_stagnation_where_there_is_none() -> None:
    """Learning differs between types, independently of how hard they were."""
    ratios: dict[str, list[float]] = {"first": [], "last": []}
    above = {"first": 0, "last": 0}
    for seed in range(30):
        steps = simulate(seed, 200, own=0.5)
        for select_at in ratios:
            _, rows, _ = analysed(steps, seed, select_at, replicates=200)
            row = next(row for row in rows if row["second"] == "random")
            ratios[select_at].append(np.log(row["ratio"]))
            # An interval that few prompts would carry is not given, and counts as not above.
            above[select_at] += (row["ratio_low"] or 0.0) > 1
    mean = {name: float(np.mean(values)) for name, values in ratios.items()}
    error = {name: float(np.std(values) / 30**0.5) for name, values in ratios.items()}
    print({name: (np.exp(mean[name]), error[name]) for name in mean}, above)
    assert mean["last"] > 0.2
    assert abs(mean["first"]) <= 2.5 * error["first"]
    assert above["last"] > 20


# Lifts of `detect --lifts`.

KINDS = 8


def lift_rows(
    seed: int, prompts: int, share_K: np.ndarray, hard_K: np.ndarray, *, heavy: bool = False
) -> tuple[Rows, Rows]:
    """Persistent and other occurrences of a type, in contexts of some kinds; those of a kind alike.

    A prompt has 0 to 4 of them, or with `heavy` tails up to 60, half of them in the kind that it
    prefers. How often an occurrence is hard depends on its kind alone.
    """
    rng = np.random.default_rng([seed, prompts, 7])
    held = rng.integers(0, 5, prompts)
    if heavy:
        held = np.minimum(rng.lognormal(0.0, 1.2, prompts).astype(int), 60)
    prompt = np.repeat(np.arange(prompts), held)
    prefers = rng.choice(len(share_K), prompts, p=share_K)[prompt]
    kind = np.where(
        rng.random(len(prompt)) < 0.5, prefers, rng.choice(len(share_K), len(prompt), p=share_K)
    )
    hard = rng.random(len(prompt)) < hard_K[kind]
    everything = {
        "window": np.repeat(kind[:, None], 4, axis=1).astype(np.int32),
        "prompt": hash_rows(seed, prompt),
        "sequence": np.arange(len(prompt)),
        "hash": hash_rows(seed, np.arange(len(prompt))),
    }
    persistent, other = ({k: v[at] for k, v in everything.items()} for at in (hard, ~hard))
    return persistent, other


def lift_truth(share_K: np.ndarray, hard_K: np.ndarray) -> float:
    """Pairs of prompts are independent, so kinds of two occurrences are, given who is hard."""
    hard, easy = share_K * hard_K, share_K * (1 - hard_K)
    hard, easy = hard / hard.sum(), easy / easy.sum()
    return float((hard @ hard) / (hard @ easy))


#: Shares of the kinds of contexts, and how often they are hard. The first: every kind is as common
#: as every other, so that no prompt tells more than another, and pairs of them all the rest.
LIFT_CASES = {
    "null, equal kinds": (np.full(KINDS, 1 / KINDS), np.full(KINDS, 0.4)),
    "null, unequal kinds": (1 / np.arange(1, KINDS + 1), np.full(KINDS, 0.4)),
    "singled out, equal": (np.full(KINDS, 1 / KINDS), np.linspace(0.1, 0.8, KINDS)),
    "singled out, unequal": (1 / np.arange(1, KINDS + 1), np.linspace(0.8, 0.1, KINDS)),
}


def context_lift_coverage(
    case: str, prompts: int, tries: int, *, heavy: bool = False
) -> tuple[float, int]:
    """How often the interval covers, and how many runs have one."""
    share_K, hard_K = LIFT_CASES[case]
    share_K = share_K / share_K.sum()
    truth, covered, given = lift_truth(share_K, hard_K), 0, 0
    similarity = Similarity("bag", 0.5, 4, np.ones(KINDS))
    for seed in range(tries):
        rows = lift_rows(seed, prompts, share_K, hard_K, heavy=heavy)
        lift, _, _ = context_lift(similarity, "other-prompt", *rows, seed)
        if lift.low is None or lift.high is None:
            continue
        given += 1
        covered += lift.low <= truth <= lift.high
    return covered / max(given, 1), given


@pytest.mark.exhaustive
@pytest.mark.long
@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("case", LIFT_CASES)
def test_intervals_of_context_lift_cover(case: str, heavy: bool) -> None:
    for prompts in (200, 64):
        covered, given = context_lift_coverage(case, prompts, 100, heavy=heavy)
        print(case, "heavy" if heavy else "light", prompts, covered, given)
        assert given >= (80 if prompts == 200 else 40) or heavy
        # The rates of 300 runs, in docs/statistics.md, are 93% or more; 100 have an error of 2.5%.
        assert given < 40 or covered >= 0.89


def least_lift_holds(prompts: int, tries: int) -> tuple[float, int]:
    """How often the lower bound that stands alone lies below the truth, and how often there is one.

    One kind in five, and one other occurrence in 200 is of it.
    """
    share_K = np.array([0.2, *np.full(KINDS - 1, 0.8 / (KINDS - 1))])
    hard_K = np.array([0.98, *np.zeros(KINDS - 1)])
    truth, held, known = lift_truth(share_K, hard_K), 0, 0
    similarity = Similarity("bag", 0.5, 4, np.ones(KINDS))
    for seed in range(tries):
        rows = lift_rows(seed, prompts, share_K, hard_K)
        lift, _, _ = context_lift(similarity, "other-prompt", *rows, seed)
        if lift.value is None and lift.low is not None:
            known += 1
            held += lift.low <= truth
    return held / known, known


@pytest.mark.long
def test_a_lower_bound_of_context_lift_holds() -> None:
    held, known = least_lift_holds(200, 200)
    print("lower bound alone", held, known)
    assert known > 20
    assert held >= 0.95


def hard_steps(seed: int, prompts: int, correlation: float) -> Rows:
    """Losses at two steps whose normal scores correlate, half of it through the prompt."""
    rng = np.random.default_rng([seed, prompts, 11])
    prompt = np.repeat(np.arange(prompts), rng.integers(0, 7, prompts))

    def pair(size: int) -> np.ndarray:
        cov = [[1, correlation], [correlation, 1]]
        return rng.multivariate_normal([0, 0], cov, size)

    score = (pair(prompts)[prompt] + pair(len(prompt))) / 2**0.5
    loss = np.exp(score).astype(np.float32)
    return {
        "token_id": np.zeros(len(prompt), dtype=np.int32),
        "sequence_id": prompt,
        "prompt": hash_rows(seed, prompt),
        "loss_pre": loss[:, 0],
        "loss_post": loss[:, 1],
    }


def persistence_lift_coverage(correlation: float, prompts: int, tries: int) -> tuple[float, int]:
    """Thresholds: what a fifth of the losses reach."""
    cut = float(norm.ppf(0.8))
    joint = multivariate_normal([0, 0], [[1, correlation], [correlation, 1]]).cdf([-cut, -cut])
    truth, covered, given = float(joint) / 0.04, 0, 0
    thresholds = Thresholds(float(np.exp(cut)), float(np.exp(cut)))
    for seed in range(tries):
        hard = HardBootstrap(np.array([0]), thresholds, seed)
        hard.update(hard_steps(seed, prompts, correlation))
        (lift,) = hard.lifts()
        if lift.low is None or lift.high is None:
            continue
        given += 1
        covered += lift.low <= truth <= lift.high
    return covered / max(given, 1), given


@pytest.mark.long
@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_intervals_of_persistence_lift_cover(correlation: float) -> None:
    covered, given = persistence_lift_coverage(correlation, 200, 200)
    print("persistence_lift, correlation", correlation, covered, given)
    assert given >= (190 if correlation else 20)
    assert covered >= 0.9


def main() -> None:
    """The rates of docs/statistics.md."""
    for prompts in (30, 64, 200):
        for case in LIFT_CASES:
            for heavy in (False, True):
                rate = context_lift_coverage(case, prompts, 300, heavy=heavy)
                print("context lift", case, "heavy" if heavy else "light", prompts, *rate)
        for correlation in (0.0, 0.6):
            rate = persistence_lift_coverage(correlation, prompts, 400)
            print("persistence lift", correlation, prompts, *rate, flush=True)


if __name__ == "__main__":
    main()
