"""Rocks of half-samples: by hand, against plain loops, and against `detect` on the same prompts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rocktok
from rocktok.analyses.detect.passes import run_detect
from rocktok.analyses.detect.result import DetectParams
from rocktok.analyses.detect.tested import ClusterCounts, Replication
from rocktok.analyses.detect.votes import Votes
from rocktok.analyses.stability import half_samples as module
from rocktok.analyses.stability.half_samples import (
    HardSamples,
    half_samples,
    hard_samples,
    passed,
    rock_samples,
)
from rocktok.analyses.stability.rock_passes import named_again, why_not
from rocktok.engine.passes import Engine
from rocktok.hashing import hash_rows
from rocktok.stats.fdr import benjamini_hochberg
from rocktok.stats.tail import tails
from tests import tested_twin, worlds
from tests.evaluation import batch_of
from tests.paths import SAMPLE

Array = np.ndarray[Any, Any]


def test_samples_come_in_complementary_pairs() -> None:
    key = hash_rows(8, np.arange(13))
    member = half_samples(5, 20, key)
    assert member.shape == (13, 20)
    assert (member.sum(axis=0) == 6).all()
    assert not (member[:, ::2] & member[:, 1::2]).any()
    # An even number of prompts is parted as a whole; an odd number of samples is raised by one.
    even = half_samples(5, 19, key[:12])
    assert even.shape == (12, 20)
    assert (even[:, ::2] ^ even[:, 1::2]).all()
    # Whoever is drawn hangs on the prompt, not on its place; and on the seed.
    order = np.random.default_rng(0).permutation(13)
    assert (half_samples(5, 20, key[order]) == member[order]).all()
    assert (half_samples(6, 20, key) != member).any()
    # Each prompt is in about half of the samples, and so is each pair of them in a quarter.
    many = half_samples(0, 2000, key[:12])
    assert np.abs(many.mean(axis=1) - 0.5).max() < 1e-12
    together = (many[0] & many[1]).mean()
    assert together == pytest.approx(5 / 22, abs=4 * np.sqrt(5 / 22 * 17 / 22 / 1000))


def random_votes(rng: np.random.Generator, types: int = 25, clusters: int = 24) -> Votes:
    held = rng.random((types, clusters)) < rng.uniform(0.2, 1, (types, 1))
    type_E, cluster_E = np.nonzero(held)
    rows_E = rng.integers(1, 6, len(type_E))
    level_T = rng.choice([0.1, 0.3, 0.9], types)
    chance_E = np.clip(rng.normal(0.25, 0.1, len(type_E)), 0, 1)
    chance_E[rng.random(len(type_E)) < 0.05] = np.nan
    hard_E = rng.binomial(rows_E, level_T[type_E])
    return Votes(np.arange(types) * 3, type_E, cluster_E, rows_E, hard_E, chance_E)


def random_contexts(
    rng: np.random.Generator, votes: Votes, testable_T: Array
) -> dict[int, ClusterCounts | None]:
    contexts: dict[int, ClusterCounts | None] = {}
    for place in np.flatnonzero(testable_T).tolist():
        pairs = (votes.type_E == place) & (votes.hard_E > 0)
        judged = votes.hard_E[pairs]
        retained = rng.binomial(judged, rng.choice([0.05, 0.15, 0.8]))
        counts = ClusterCounts(votes.cluster_E[pairs], judged, retained)
        contexts[place] = None if rng.random() < 0.1 else counts
    return contexts


def can_be_tested(votes: Votes) -> Array:
    types = len(votes.token_T)
    hard = votes.hard_E > 0
    enough = np.bincount(votes.type_E, votes.hard_E, types) >= 5
    return enough & (np.bincount(votes.type_E[hard], minlength=types) >= 5)


def rocks_by_plain_loops(
    votes: Votes, contexts: dict[int, ClusterCounts | None], member_C: Array, excluded_T: Array
) -> tuple[set[int], dict[int, dict[str, Any]]]:
    """The definition, one half-sample, in plain Python."""
    pairs = list(zip(*(getattr(votes, n).tolist() for n in (
        "type_E", "cluster_E", "rows_E", "hard_E", "chance_E")), strict=True))  # fmt: skip
    family, facts = {}, {}
    for t in range(len(votes.token_T)):
        held = [pair[1:] for pair in pairs if pair[0] == t and member_C[pair[1]]]
        voting = [(n, h, p) for _, n, h, p in held if p == p]
        s, expected = sum(h / n for n, h, _ in voting), sum(p for *_, p in voting)
        hard = [h for _, _, h, _ in held if h]
        counts = contexts.get(t)
        judged = (
            []
            if counts is None
            else [
                (j, r)
                for c, j, r in zip(
                    *(a.tolist() for a in (counts.cluster_C, counts.judged_C, counts.retained_C)),
                    strict=True,
                )
                if member_C[c]
            ]
        )
        able = sum(hard) >= 5 and len(hard) >= 5
        p_hard = tested_twin.tail([p for *_, p in voting], s)
        p_context = tested_twin.tail([0.05] * len(judged), sum(r / j for j, r in judged))
        tested = able and counts is not None
        hits, all_judged = sum(r for _, r in judged), sum(j for j, _ in judged)
        facts[t] = {
            "held": len(held),
            "able": able,
            "p_hard": p_hard,
            "hardness": 0.0 if s == 0 else s / expected if expected else np.inf,
            "large": hits > 0 and hits / all_judged >= 0.1 and not excluded_T[t],
        }
        if len(held) >= 5:
            family[t] = max(p_hard, p_context) if tested else 1.0
    q = tested_twin.q_values(family)
    rocks = {t for t in family if q[t] <= 0.05 and facts[t]["large"]
             and facts[t]["hardness"] >= 1.5}  # fmt: skip
    return rocks, facts


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_agrees_with_plain_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    votes = random_votes(rng)
    testable_T = can_be_tested(votes)
    contexts = random_contexts(rng, votes, testable_T)
    excluded_T = rng.random(len(votes.token_T)) < 0.1
    member_CH = half_samples(seed, 4, np.arange(24))
    hard = hard_samples(votes, testable_T, member_CH, 0.05, 1.5)
    worth = set(hard.place_V[hard.worth_judging(0.05)].tolist())
    # Contexts of others are not asked for, and would change nothing.
    some = {place: counts for place, counts in contexts.items() if place in worth}
    found, more = (rock_samples(hard, c, excluded_T, member_CH, 0.05) for c in (some, contexts))
    assert (found.named_VH == more.named_VH).all()
    named = np.zeros((len(votes.token_T), 4), dtype=bool)
    named[found.place_V] = found.named_VH
    rocks = held = again = 0
    facts = []
    for h in range(4):
        theirs, of_half = rocks_by_plain_loops(votes, contexts, member_CH[:, h], excluded_T)
        assert set(np.flatnonzero(named[:, h]).tolist()) == theirs
        facts.append(of_half)
        assert hard.tests_H[h] == sum(one["held"] >= 5 for one in of_half.values())
        for v, t in enumerate(hard.place_V.tolist()):
            one = of_half[t]
            assert hard.able_VH[v, h] == one["able"]
            assert hard.held_VH[v, h] == one["held"]
            assert hard.enough_VH[v, h] == (one["hardness"] >= 1.5)
            if not one["able"]:
                assert hard.p_VH[v, h] == 1
                continue
            p = hard.p_VH[v, h]
            least = 0.05 / hard.tests_H[h]
            assert (p <= least) == (one["p_hard"] <= least)
            assert (p > 0.5) == (one["p_hard"] > 0.5) or p == 1
            if least < p < 1:
                assert p == pytest.approx(one["p_hard"], rel=1e-9)
    for h in range(4):
        for t in np.flatnonzero(named[:, h]).tolist():
            other = facts[h ^ 1][t]
            rocks += 1
            held += other["held"] >= 3
            again += other["held"] >= 3 and other["hardness"] >= 1.5
    assert found.replication == Replication(rocks, held, again)
    assert found.mean_rocks == rocks / 4


def test_the_random_votes_have_rocks() -> None:
    """Or the agreement above would be about nothing."""
    rocks = types = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        votes = random_votes(rng)
        contexts = random_contexts(rng, votes, can_be_tested(votes))
        none = np.zeros(len(votes.token_T), dtype=bool)
        found, _ = rocks_by_plain_loops(votes, contexts, np.arange(24) < 12, none)
        rocks, types = rocks + len(found), types + len(none)
    assert 10 < rocks < types / 2


@settings(max_examples=100, deadline=None)
@given(
    chances=st.lists(st.floats(0, 1), min_size=1, max_size=40),
    part=st.floats(0, 1),
    tests=st.integers(1, 10_000),
)
def test_bounds_lie_on_the_side_of_the_tail(chances: list[float], part: float, tests: int) -> None:
    n, s = len(chances), part * len(chances)
    bound = module._bounds(
        np.array([[s]]), np.array([[sum(chances)]]), np.array([[float(n)]]), np.array([tests]), 0.05
    )[0, 0]
    tail = tails(np.array(chances), np.array([n]), np.array([s]))[0]
    if bound == 1:
        assert tail >= 0.5 - 1e-9
    elif not np.isnan(bound):
        assert bound <= 0.05 / tests
        assert tail <= bound * (1 + 1e-9) + 1e-300


def test_bounds_spare_what_decides_nothing() -> None:
    sums, means = np.array([[3.0, 9.9, 40.0]]), np.array([[10.0, 10.0, 10.0]])
    bounds = module._bounds(sums, means, np.full((1, 3), 50.0), np.array([100] * 3), 0.05)
    assert bounds[0, 0] == 1
    assert np.isnan(bounds[0, 1])
    # Hoeffding's: (n·KL of 40 in 50 from 10 in 50) nats.
    assert bounds[0, 2] == pytest.approx(np.exp(-(40 * np.log(4) + 10 * np.log(1 / 4))), rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 1e-4, 0.002, 0.01, 0.02, 0.5, 1.0]), max_size=30),
    st.integers(0, 30),
)
def test_passed_is_benjamini_and_hochberg(p_values: list[float], more: int) -> None:
    p = np.array(p_values)
    whole = benjamini_hochberg(np.concatenate([p, np.ones(more)]))[: len(p)] <= 0.05
    assert passed(p, len(p) + more, 0.05).tolist() == whole.tolist()


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    votes = random_votes(np.random.default_rng(3), types=60)
    member = half_samples(1, 40, np.arange(24))

    def made(**how: Any) -> HardSamples:
        return hard_samples(votes, can_be_tested(votes), member, 0.05, 1.5, **how)

    threads = partial(Engine(jobs=3).on_threads, ahead=4)
    whole = made()
    cut = [made(compiled=True)]
    monkeypatch.setattr(module, "_CHUNK", 3)
    monkeypatch.setattr(module, "_CHANCES", 50)
    for other in [*cut, made(), made(compiled=True), made(each=threads)]:
        for name, values in vars(whole).items():
            assert values.tobytes() == getattr(other, name).tobytes(), name


def test_nothing_to_test() -> None:
    votes = random_votes(np.random.default_rng(0))
    none = np.zeros(len(votes.token_T), dtype=bool)
    member = half_samples(0, 6, np.arange(24))
    hard = hard_samples(votes, none, member, 0.05, 1.5)
    assert not hard.worth_judging(0.05).any()
    found = rock_samples(hard, {}, none, member, 0.05)
    assert (found.mean_rocks, found.replication.share) == (0, None)


def test_inclusion_is_near_that_of_detect_run_anew(tmp_path: Path) -> None:
    """`detect` on the prompts of a half-sample has thresholds, ratios and contexts of its own."""
    planted = worlds.planted_rocks(500_004, 60, 17)
    batch = batch_of(planted)
    log = rocktok.open(str(planted.write(tmp_path / "log")))
    params = DetectParams()
    whole = run_detect(log, params)
    again = named_again(whole, 4)
    assert whole.contexts is not None and whole.contexts.hardness is not None
    clusters = whole.contexts.hardness.expected.clusters
    member = half_samples(0, 4, clusters.prompt_P)
    hits: dict[int, float] = dict.fromkeys(whole.rocks, 0.0)
    number = 0
    for h in range(4):
        here = member[clusters.of(batch["prompt"]), h]
        alone = run_detect(log, params, only=np.unique(batch["sequence_id"][here])).rocks
        number += len(alone)
        for v in alone:
            hits[v] = hits.get(v, 0.0) + 1 / 4
    assert number >= 4 * 17 / 2
    assert again.summary["mean_rocks"] == pytest.approx(number / 4, rel=0.1)
    apart = [abs(again.inclusion.get(v, 0.0) - share) for v, share in hits.items()]
    assert np.mean(apart) <= 0.05


@pytest.mark.exhaustive
@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    ["topics, phrases, shared rollouts", "losses fall fivefold", "sample shuffled, persistent"],
)
def test_half_samples_of_noise_name_hardly_anything(tmp_path: Path, name: str) -> None:
    """What is tied to a place of the text is flagged, and told of as such."""
    rocks = 0.0
    for seed in range(600_000, 600_004):
        log = rocktok.open(str(worlds.NULL_WORLDS[name].make(seed).write(tmp_path / str(seed))))
        whole = run_detect(log, DetectParams())
        again = named_again(whole, 200)
        bound = {r["token_id"] for r in whole.result.rocks if "position_bound" in r["flags"]}
        assert max([0.0, *(x for v, x in again.inclusion.items() if v not in bound)]) < 0.5
        rocks += sum(x for v, x in again.inclusion.items() if v not in bound) / 4
    assert rocks <= 0.1


def test_contexts_are_judged_again_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And inclusion is the same where windows are collected in rounds."""
    log = rocktok.open(str(worlds.planted_rocks(500_005, 40, 12).write(tmp_path / "log")))
    whole = run_detect(log, DetectParams())
    assert whole.contexts is not None
    places = sorted(whole.types.context)
    again = whole.contexts.of_types(whole.types, places)
    assert list(again) == places
    for place, context in whole.types.context.items():
        ours, theirs = again[place].by_cluster, context.by_cluster
        assert ours is not None and theirs is not None
        for name, values in vars(ours).items():
            assert values.tolist() == getattr(theirs, name).tolist()
        assert again[place].summary() == context.summary()
        assert (context.voters, context.hits) == (len(theirs.cluster_C), theirs.retained_C.sum())
    small = named_again(whole, 30)
    # What votes are made of is held no longer: in a large log that is hundreds of megabytes.
    assert whole.contexts.hardness is not None
    with pytest.raises(KeyError):
        whole.contexts.hardness.expected.all_votes()
    monkeypatch.setattr("rocktok.analyses.detect.context_passes.ROUND_WINDOWS", 500)
    assert named_again(run_detect(log, DetectParams()), 30) == small
    # All types judged: the contexts of the others were kept as summaries.
    assert named_again(run_detect(log, DetectParams(all_types=True)), 30) == small


def test_why_rocks_are_not_named_again() -> None:
    log = rocktok.open(SAMPLE)
    assert why_not(run_detect(log, DetectParams())) is None
    ranked = why_not(run_detect(log, DetectParams(top_k=5)))
    assert ranked == "rocks follow the rule 'top-k', a ranking without a test of each type"
    assert "every step has its own text" in str(
        why_not(run_detect(log, DetectParams(table="rollout")))
    )
