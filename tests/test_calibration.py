"""Do intervals cover and tests hold their level: seeded simulations, from rows to verdict.

The rates that these print (`-s`) stand in docs/statistics.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rocktok.analyse import stagnation as analysis
from rocktok.analyse.bootstrap import PromptBootstrap
from rocktok.analyse.course import QUANTITIES, Course
from rocktok.analyse.groups import HalfFacts
from rocktok.analyse.stagnation import StagnationParams, choose, corpus_row, group_rows
from rocktok.hashing import halves, hash_rows

Rows = dict[str, np.ndarray]

TYPES = 48
LEARNED = 0.6


def simulate(
    seed: int, prompts: int, *, sequences: int = 2, tokens: int = 24, own: float = 0.0
) -> list[Rows]:
    """Rows of two steps of one text; every type keeps the share LEARNED of its loss on average.

    Losses depend on type, prompt and occurrence. The share that an occurrence keeps depends on the
    prompt and the occurrence, never on the type, or with `own` on the type by a factor that is
    independent of its loss.
    """
    rng = np.random.default_rng([seed, prompts])
    count = prompts * sequences
    weights = 1 / np.arange(1, TYPES + 1) ** 0.5
    text = rng.choice(TYPES, (count, tokens), p=weights / weights.sum())
    level = np.exp(np.linspace(-0.7, 0.7, TYPES))[rng.permutation(TYPES)][text]
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
    return [{**same, "loss_post": loss.ravel().astype(np.float32)} for loss in (first, last)]


def analysed(steps: list[Rows], seed: int, select_at: str = "first", **options: Any) -> Any:
    """(group rows, tests, corpus row) of simulated rows, as `engine.stagnation` runs them."""
    params = StagnationParams(
        select_at=select_at, seed=seed, **{"top_k": 12, "replicates": 400, **options}
    )
    facts = HalfFacts(seed, positions=True)
    facts.update(steps[0 if select_at == "first" else -1])
    chosen = choose(facts.result(), params, 0 if select_at == "first" else None)
    course = Course(chosen.members)
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
    return group_rows(course), analysis.tests(course, chosen), corpus_row(course)


def rates(prompts: int, tries: int) -> dict[str, float]:
    """Under the null: how often p is small, and intervals cover the truth."""
    p: dict[str, list[float]] = {}
    ratio, group, corpus = [], [], []
    for seed in range(tries):
        groups, rows, whole = analysed(simulate(seed, prompts), seed)
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
def test_choosing_at_the_last_step_shows_stagnation_where_there_is_none() -> None:
    """Learning differs between types, independently of how hard they were."""
    ratios: dict[str, list[float]] = {"first": [], "last": []}
    verdicts: dict[str, list[str]] = {"first": [], "last": []}
    for seed in range(30):
        steps = simulate(seed, 200, own=0.5)
        for select_at in ratios:
            _, rows, _ = analysed(steps, seed, select_at, replicates=200)
            row = next(row for row in rows if row["second"] == "random")
            ratios[select_at].append(np.log(row["ratio"]))
            verdicts[select_at].append(row["verdict"])
    mean = {name: float(np.mean(values)) for name, values in ratios.items()}
    error = {name: float(np.std(values) / 30**0.5) for name, values in ratios.items()}
    print({name: (np.exp(mean[name]), error[name]) for name in mean}, verdicts)
    assert mean["last"] > 0.2
    assert abs(mean["first"]) <= 2.5 * error["first"]
    assert verdicts["last"].count("learns less") > 20
