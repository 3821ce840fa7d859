"""The tested rule: by hand, against plain loops, and the same however the rows are cut."""

from __future__ import annotations

import copy
import math
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocktok.analyses.detect import strata, tested
from rocktok.analyses.detect.clusters import PromptList, choose_clusters
from rocktok.analyses.detect.hard_sums import HardSums
from rocktok.analyses.detect.neighbours import Neighbours
from rocktok.analyses.detect.persistence import Thresholds
from rocktok.analyses.detect.votes import OccurrenceSums, OnePassExpected, Votes
from rocktok.hashing import halves
from rocktok.stats.fdr import benjamini_hochberg
from rocktok.stats.tail import tails
from rocktok.stats.tally import Tally, counted
from tests import tested_twin

Array = np.ndarray[Any, Any]
Batch = dict[str, Array]

HARD = Thresholds(pre=1.0, post=1.0)


# --- arithmetic --------------------------------------------------------------------------------


def one_tail(chances: list[float], s: float) -> float:
    return float(tails(np.array(chances), np.array([len(chances)]), np.array([s]))[0])


def test_tails_by_hand() -> None:
    assert one_tail([0.5] * 3, 2) == pytest.approx(4 / 8)
    assert one_tail([0.1, 0.2, 0.3], 3) == pytest.approx(0.006)
    # P(1 or more) = 1 − 0.9·0.8, P(2) = 0.1·0.2; halfway between 1 and 2: their geometric mean.
    assert one_tail([0.1, 0.2], 1.5) == pytest.approx(math.sqrt(0.28 * 0.02))
    assert one_tail([0.1, 0.2], 0.25) == pytest.approx(0.28**0.25)
    assert one_tail([0.1, 0.2], 0) == 1
    assert one_tail([], 0) == 1
    assert one_tail([0.0, 0.0], 1) == 0
    assert one_tail([1.0, 1.0], 2) == 1
    # Sums of thirds come out a little below or above a whole number.
    assert one_tail([0.1, 0.2], 1 - 1e-13) == pytest.approx(0.28, rel=1e-12)
    # A hundred at 5%: far below what 1 − P(fewer) could resolve.
    assert one_tail([0.05] * 100, 100) == pytest.approx(0.05**100, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.floats(0, 1), max_size=30), min_size=1, max_size=20), st.data())
def test_tails_agree_with_plain_loops(sums: list[list[float]], data: st.DataObject) -> None:
    reached = [data.draw(st.floats(0, 1)) * len(chances) for chances in sums]
    together = tails(
        np.array([p for chances in sums for p in chances]),
        np.array([len(chances) for chances in sums]),
        np.array(reached),
    )
    for chances, s, p in zip(sums, reached, together.tolist(), strict=True):
        assert p == pytest.approx(tested_twin.tail(chances, s), rel=1e-9, abs=1e-300)
        assert p == one_tail(chances, s)


def test_tails_of_many_large_sums_are_cut_into_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    votes = rng.integers(0, 60, 40)
    chances, reached = rng.random(votes.sum()), rng.random(40) * votes
    whole = tails(chances, votes, reached)
    assert tails(chances, votes, reached, compiled=True).tobytes() == whole.tobytes()
    monkeypatch.setattr("rocktok.stats.tail._CELLS", 100)
    assert tails(chances, votes, reached).tobytes() == whole.tobytes()


def test_q_values_by_hand() -> None:
    q = benjamini_hochberg(np.array([0.04, 0.01, 0.04, 1.0]))
    assert q == pytest.approx([4 * 0.04 / 3, 0.04, 4 * 0.04 / 3, 1])
    # 0.9 is no larger than what comes after it allows.
    assert benjamini_hochberg(np.array([0.9, 0.91])) == pytest.approx([0.91, 0.91])
    assert len(benjamini_hochberg(np.zeros(0))) == 0


@given(st.lists(st.sampled_from([0.0, 1e-3, 0.01, 0.3, 0.99]), max_size=9), st.integers(0, 9))
def test_tests_that_are_not_given_have_p_1(small: list[float], others: int) -> None:
    whole = benjamini_hochberg(np.array([*small, *[1.0] * others]))
    some = benjamini_hochberg(np.array(small), len(small) + others)
    assert some.tolist() == whole[: len(small)].tolist()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1e-4, 0.01, 0.02, 0.5, 1.0]), min_size=1, max_size=20))
def test_q_values_agree_with_plain_loops(p_values: list[float]) -> None:
    q = tested_twin.q_values(dict(enumerate(p_values)))
    assert benjamini_hochberg(np.array(p_values)) == pytest.approx(list(q.values()), rel=1e-12)


def test_strata_by_hand() -> None:
    position = [0, 1, 5, 9, 0, 3, 4, 0, 7]
    batch = {
        "sequence_id": np.array([4] * 4 + [5] * 3 + [6] + [9]),
        "position": np.array(position, dtype=np.int32),
    }
    # Of ten, of five, of one, and one whose only row is its eighth position.
    assert strata.strata_of(batch).tolist() == [0, 3, 7, 1, 0, 8, 1, 0, 1]


def test_place_ratios_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strata, "MIN_OTHERS", 4)
    count = np.array([[4, 4, 2], [2, 6, 5]])
    hard = np.array([[1, 0, 1], [1, 3, 3]])
    # Others of type 0: 2 (too few), 6 with 3, 5 with 3; in all 7 of 13.
    assert strata.place_ratios(count, hard)[0] == pytest.approx([1, (3 / 6) / (7 / 13), 39 / 35])
    # Others of type 1: 4 with 1, 4 with 0, 2 (too few); in all 2 of 10.
    assert strata.place_ratios(count, hard)[1] == pytest.approx([1.25, 0, 1])
    assert strata.place_ratios(count, hard * 0).tolist() == [[1] * 3] * 2
    assert strata.position_bound(count).tolist() == [False, False]
    monkeypatch.setattr(strata, "MIN_OTHERS", 6)
    # Type 0 stands in strata with 2, 6, 5 others: 6 of 10 where there are too few.
    assert strata.position_bound(count).tolist() == [True, True]
    # Half of type 0 stands beside a single other position: that is enough.
    assert strata.position_bound(np.array([[2, 2], [9, 1]])).tolist() == [True, True]
    assert strata.position_bound(np.array([[3, 2], [9, 1]])).tolist() == [False, True]


def test_context_votes_by_hand() -> None:
    retained = np.array([True, False, True, True, False, False])
    counts = tested.context_counts(np.array([7, 7, 3, 9, 3, 3]), retained)
    assert counts.cluster_C.tolist() == [3, 7, 9]
    assert counts.judged_C.tolist() == [3, 2, 1]
    assert counts.retained_C.tolist() == [1, 1, 1]
    assert counts.votes == pytest.approx(1 / 3 + 1 / 2 + 1)
    none = tested.context_counts(np.zeros(0, int), np.zeros(0, bool))
    assert (len(none.cluster_C), none.votes) == (0, 0.0)


def test_the_rule_by_hand() -> None:
    """Six prompts with a type that is hard wherever it stands; a tenth of the rest is hard."""
    votes = Votes(
        token_T=np.array([3, 5]),
        type_E=np.repeat([0, 1], 6),
        cluster_E=np.tile(np.arange(6), 2),
        rows_E=np.array([2] * 6 + [1] * 6),
        hard_E=np.array([2] * 6 + [1] + [0] * 5),
        chance_E=np.full(12, 0.1),
    )
    hard = tested.hard_tests(votes)
    assert hard.p_hard == pytest.approx([1e-6, math.nan], nan_ok=True)
    everything = tested.hard_tests(votes, all_types=True)
    assert everything.p_hard == pytest.approx([1e-6, 1 - 0.9**6])
    assert hard.hardness == pytest.approx([10, 1 / 0.6])
    assert hard.testable.tolist() == [True, False]
    assert hard.worth_judging(0.05).tolist() == [True, False]

    def rule(voters: int, sums: float, hits: int, judgeable: bool = True) -> tested.TestedTypes:
        contexts = {0: tested.Recurrence(12, hits, voters, sums, judgeable, float(hits))}
        means, persistent = np.array([2.0, 1.0]), np.array([12, 1])
        return tested.judge_types(hard, contexts, means, persistent)

    found = rule(6, 3.0, 6)
    p = sum(math.comb(6, k) * 0.05**k * 0.95 ** (6 - k) for k in range(3, 7))
    assert found.p_context[0] == pytest.approx(p)
    assert found.p_value == pytest.approx([p, 1])
    assert found.q_value == pytest.approx([2 * p, 1])
    assert found.tests == 2
    assert found.is_rock.tolist() == [True, False]
    assert found.score[0] == pytest.approx(2 * (6 - 0.6))
    # A tenth of the judged occurrences is enough: 7 of 70, which no float is exactly.
    tenth = {0: tested.Recurrence(70, 7, 6, 3.0, True, 7.0)}
    for judged, is_rock in ((70, True), (71, False)):
        tenth[0] = replace(tenth[0], judged=judged)
        found = tested.judge_types(hard, tenth, np.ones(2), np.array([judged, 1]))
        assert found.is_rock[0] == is_rock
    # Contexts that recur too seldom; enough prompts, but too few occurrences; no null.
    assert not rule(6, 1.0, 6).is_rock[0]
    assert not rule(6, 3.0, 1).is_rock[0]
    scarce = rule(0, 0.0, 0, judgeable=False)
    assert not scarce.tested[0]
    assert scarce.p_value[0] == scarce.q_value[0] == 1
    assert math.isnan(scarce.score[0])


def test_a_prompt_of_one_type_has_no_vote() -> None:
    batch = {
        "token_id": np.array([1, 1, 1, 2], dtype=np.int32),
        "sequence_id": np.array([0, 0, 1, 1]),
        "position": np.array([0, 1, 0, 1], dtype=np.int32),
        "prompt": np.array([8, 8, 9, 9], dtype=np.uint64),
        "loss_pre": np.array([2, 2, 0, 2], dtype=np.float32),
        "loss_post": np.array([2, 3, 0, 2], dtype=np.float32),
    }
    expected = sums_of([batch]).expected()
    assert isinstance(expected, OnePassExpected)
    votes = expected.all_votes()
    assert np.isnan(votes.chance_E).tolist() == [True, False, False]
    assert votes.chance_E[1:].tolist() == [1, 0]
    assert expected.loss_T.tolist() == [2.5, 2.0]
    tests = tested.hard_tests(votes, all_types=True)
    assert tests.prompts_held.tolist() == [2, 1]
    assert tests.hardness.tolist() == [0, math.inf]
    assert tests.p_hard.tolist() == [1, 0]


def test_clusters_are_groups_where_sums_would_be_too_many() -> None:
    prompts, count = np.arange(100, dtype=np.uint64), np.array([1000, 1000, 3])
    one, two = (choose_clusters(prompts, count, 0, most_places=n) for n in (2003, 2002))
    assert (one.groups, one.one_pass) == (None, True)
    # A pair of type and prompt takes no more sums than 100 + 100 + 3.
    assert (two.groups, two.one_pass) == (None, False)
    assert choose_clusters(prompts, count, 0, most_places=0, most_sums=203).groups is None
    assert choose_clusters(prompts, count, 0, most_places=0, most_sums=202).groups == 64
    assert choose_clusters(prompts, count, 0, most=99).groups == 64
    many = np.arange(5000, dtype=np.uint64)
    assert choose_clusters(many, count, 0).groups == 4096
    assert choose_clusters(many, count, 0, most_sums=2002).groups == 512
    # Never fewer, whatever it takes.
    assert choose_clusters(many, count, 0, most_sums=10).groups == 64


# --- logs --------------------------------------------------------------------------------------


def random_batch(seed: int, sequences: int = 24, tokens: int = 14) -> Batch:
    """Whole sequences with gaps; some types are hard, more so towards the end of the text."""
    rng = np.random.default_rng(seed)
    hardness = rng.choice([0.1, 0.2, 0.9], tokens, p=[0.5, 0.3, 0.2])
    prompts = rng.integers(0, 2**63, sequences, dtype=np.uint64)
    if seed % 3 == 0:
        hardness[:2] = 1.0
    parts = []
    for sequence in range(sequences):
        position = np.flatnonzero(rng.random(rng.integers(1, 40)) < 0.9)
        n = len(position)
        token = rng.integers(0, tokens, n)
        persistent = rng.random(n) < hardness[token] * (0.5 + position / 80)
        parts.append(
            {
                "sequence_id": np.full(n, sequence * 2 + 1),
                "position": position.astype(np.int32),
                "prompt": np.full(n, prompts[sequence // 2]),
                "token_id": token.astype(np.int32),
                "loss_pre": np.where(persistent, 2, 0.5).astype(np.float32),
                "loss_post": np.where(persistent, rng.choice([1, 1.25, 4], n), 0.1).astype(
                    np.float32
                ),
            }
        )
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def rows_of(batch: Batch) -> list[tested_twin.Row]:
    columns = (
        batch["sequence_id"],
        batch["position"],
        batch["token_id"],
        batch["prompt"],
        HARD.chosen(batch),
        batch["loss_post"],
    )
    return [tested_twin.Row(*row) for row in zip(*(c.tolist() for c in columns), strict=True)]


def cut(batch: Batch, rng: np.random.Generator) -> list[Batch]:
    """Batches of whole sequences, in order."""
    sequences = np.unique(batch["sequence_id"])
    edges = np.unique(rng.integers(0, len(sequences) + 1, 4))
    part = np.searchsorted(edges, np.searchsorted(sequences, batch["sequence_id"]), side="right")
    return [{n: x[part == k] for n, x in batch.items()} for k in np.unique(part)]


def run(accumulator: Any, batches: list[Batch], *, apart: bool = False) -> Any:
    """Fed batch by batch; `apart`: each to a copy of its own, closed, then merged."""
    empty = copy.deepcopy(accumulator)
    for batch in batches:
        if not apart:
            accumulator.update(batch)
            continue
        # As a worker on another machine has it.
        partial = pickle.loads(pickle.dumps(copy.deepcopy(empty)))
        partial.update(batch)
        partial.close()
        accumulator.merge(pickle.loads(pickle.dumps(partial)))
    return accumulator


def sums_of(
    batches: list[Batch],
    *,
    apart: bool = False,
    most: int = 4096,
    most_places: int = 1 << 20,
    compiled: bool = False,
) -> HardSums:
    prompts = run(PromptList(), batches, apart=apart)
    count = np.bincount(np.concatenate([batch["token_id"] for batch in batches]))
    clusters = choose_clusters(prompts.result(), count, seed=5, most=most, most_places=most_places)
    return run(HardSums(HARD, clusters, compiled=compiled), batches, apart=apart)


def everything(
    batches: list[Batch],
    *,
    apart: bool = False,
    most: int = 4096,
    most_places: int = 1 << 20,
    compiled: bool = False,
) -> tuple[Any, ...]:
    """Votes, what was expected, and flags of some types."""
    sums = sums_of(batches, apart=apart, most=most, most_places=most_places, compiled=compiled)
    expected: Any = sums.expected()
    occurrences = OccurrenceSums(HARD, expected, compiled=compiled)
    run(occurrences, batches, apart=apart)
    if isinstance(expected, OnePassExpected):
        for name, values in vars(occurrences.votes()).items():
            assert values.tobytes() == getattr(expected.all_votes(), name).tobytes(), name
    else:
        expected = expected.with_all(occurrences)
    votes = expected.all_votes()
    persistent = np.bincount(votes.type_E, votes.hard_E, len(votes.token_T))
    rocks = votes.token_T[(persistent > 0)][::2]
    flags = run(Neighbours(HARD, expected, rocks), batches, apart=apart).result()
    return votes, expected, flags


#: How prompts vote: one pass over each of them, two passes, and groups.
WAYS: dict[str, dict[str, int]] = {
    "one pass": {},
    "two passes": {"most_places": 100},
    "groups": {"most": 8},
}


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), cuts=st.integers(0, 10**6))
def test_the_same_bytes_however_the_rows_are_cut(way: str, seed: int, cuts: int) -> None:
    batch, how = random_batch(seed), WAYS[way]
    whole = everything([batch], **how)
    batches = cut(batch, np.random.default_rng(cuts))
    for apart, compiled in ((False, False), (True, False), (True, True)):
        again = everything(batches, apart=apart, compiled=compiled, **how)
        for one, other in zip(whole, again, strict=True):
            for name, values in vars(one).items():
                if isinstance(values, np.ndarray):
                    assert values.tobytes() == getattr(other, name).tobytes(), name
    # In another order, too: sums do not depend on it.
    again = everything(batches[::-1], apart=True, **how)
    assert whole[0].chance_E.tobytes() == again[0].chance_E.tobytes()


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), min_others=st.sampled_from([3, 20, 200]))
def test_agrees_with_plain_loops(way: str, seed: int, min_others: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strata, "MIN_OTHERS", min_others)
        batch = random_batch(seed)
        assert_same_as_twin(batch, way, min_others, np.random.default_rng(seed))


def assert_same_as_twin(
    batch: Batch, way: str, min_others: int, rng: np.random.Generator
) -> tested.TestedTypes:
    clusters = sums_of([batch], **WAYS[way]).clusters
    groups = clusters.groups
    assert (way == "one pass", way == "groups") == (clusters.one_pass, groups == 8)
    votes, expected, _ = everything([batch], **WAYS[way])
    # In the second pass what is expected of a position is rounded to 2⁻³⁶.
    rel = 1e-8 if way == "two passes" else 1e-9
    hard = tested.hard_tests(votes, all_types=True)
    for name, values in vars(tested.hard_tests(votes)).items():
        values_T = getattr(hard, name)
        if name == "p_hard":
            values_T = np.where(hard.testable, values_T, np.nan)
        assert values.tobytes() == values_T.tobytes(), name
    hard_N = HARD.chosen(batch)
    token_T = hard.token_T
    judged: dict[int, Any] = {}
    contexts = {}
    for place, v in enumerate(token_T.tolist()):
        prompt_M = batch["prompt"][hard_N & (batch["token_id"] == v)]
        if len(prompt_M) == 0 or rng.random() < 0.1:
            continue
        scarce = rng.random() < 0.1
        retained_M = rng.random(len(prompt_M)) < rng.choice([0.05, 0.5, 0.9])
        counts = tested.context_counts(clusters.of(prompt_M), retained_M)
        hits = int(retained_M.sum())
        contexts[place] = tested.Recurrence(
            len(prompt_M), hits, len(counts.cluster_C), counts.votes, not scarce, float(hits)
        )
        pairs = list(zip(prompt_M.tolist(), retained_M.tolist(), strict=True))
        judged[v] = None if scarce else pairs
    count = np.bincount(batch["token_id"])[token_T]
    mean = np.bincount(batch["token_id"], batch["loss_post"].astype(np.float64))[token_T] / count
    persistent = np.bincount(batch["token_id"][hard_N], minlength=token_T[-1] + 1)[token_T]
    ours = tested.judge_types(hard, contexts, mean, persistent)

    corpus = tested_twin.Corpus(rows_of(batch), groups=groups, seed=5, min_others=min_others)
    theirs = tested_twin.tested(corpus, judged)
    assert token_T.tolist() == corpus.types
    for place, v in enumerate(corpus.types):
        one = theirs[v]
        assert hard.prompts_held[place] == one["prompts_held"]
        assert ours.tested[place] == one["tested"]
        close = {"rel": rel, "abs": 1e-12, "nan_ok": True}
        assert hard.hardness[place] == pytest.approx(one["hardness"], **close)
        assert hard.p_hard[place] == pytest.approx(one["p_hard"], **close)
        if v in judged and judged[v] is not None:
            assert ours.p_context[place] == pytest.approx(one["p_context"], **close)
            assert ours.score[place] == pytest.approx(one["score"], **close)
        if one["tested"] and v not in judged:
            # Not judged: no p-value, and no rock.
            assert math.isnan(ours.p_value[place])
            assert not ours.is_rock[place]
            continue
        assert ours.p_value[place] == pytest.approx(one["p_value"], **close)
    # Where all that could pass were judged, q-values are those of the whole rule.
    missing = [v for v in corpus.types if theirs[v]["tested"] and v not in judged]
    if not missing:
        for place, v in enumerate(corpus.types):
            one = theirs[v]
            assert ours.q_value[place] == pytest.approx(one["q_value"], rel=rel, abs=1e-12)
            edge = abs(one["hardness"] - 1.5) < 2 * rel or abs(one["q_value"] - 0.05) < rel
            assert edge or ours.is_rock[place] == one["is_rock"]

    rocks = token_T[ours.tested & (persistent > 0)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rocktok.analyses.detect.neighbours._SLICE", 3)
        flags = run(Neighbours(HARD, expected, rocks), [batch]).result()
    assert flags.token_R.tolist() == rocks.tolist()
    for place, (v, one) in enumerate(tested_twin.flags(corpus, rocks.tolist()).items()):
        shade = int(flags.shadowed_by[place])
        assert (None if shade < 0 else shade) == one["shadowed_by"], v
        assert flags.stretch[place] == one["stretch"], v
        assert flags.position_bound[place] == one["position_bound"], v
    return ours


def test_the_random_logs_have_rocks_and_flags() -> None:
    """Or the agreement above would be about nothing."""
    rocks = shadows = stretches = bound = 0
    for seed in range(40):
        batch = random_batch(seed)
        rng = np.random.default_rng(seed)
        rocks += int(assert_same_as_twin(batch, "one pass", 200, rng).is_rock.sum())
        *_, flags = everything([batch])
        shadows += int((flags.shadowed_by >= 0).sum())
        stretches += int(flags.stretch.sum())
        bound += int(flags.position_bound.sum())
    assert min(rocks, shadows, stretches, bound) > 5


def test_what_is_not_worth_judging_changes_no_rock_and_no_q_of_one() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        types = 40
        p_hard = np.where(rng.random(types) < 0.3, 10.0 ** -rng.uniform(1, 6, types), 0.5)
        hard = tested.HardTests(
            np.arange(types),
            np.full(types, 9),
            np.full(types, 2.0),
            p_hard,
            rng.random(types) < 0.9,
            np.zeros((types, 2)),
        )
        contexts = {
            place: tested.Recurrence(20, 10, 9, float(rng.uniform(0, 5)), True, 10.0)
            for place in range(types)
        }
        ones = np.ones(types)
        whole = tested.judge_types(hard, contexts, ones, 20 * ones)
        worth = hard.worth_judging(0.05)
        part = tested.judge_types(
            hard, {k: c for k, c in contexts.items() if worth[k]}, ones, 20 * ones
        )
        assert part.is_rock.tolist() == whole.is_rock.tolist()
        passed = whole.q_value <= 0.05
        assert part.q_value[passed].tolist() == whole.q_value[passed].tolist()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_some_prompts_alone_are_as_a_log_of_these(seed: int) -> None:
    batch = random_batch(seed)
    sums = sums_of([batch])
    half_P = halves(sums.clusters.prompt_P, 3) == 1
    here = half_P[sums.clusters.of(batch["prompt"])]
    if not here.any():
        return
    alone: Any = sums_of([{n: x[here] for n, x in batch.items()}]).expected()
    part: Any = sums.expected(half_P)
    for name, values in vars(alone.all_votes()).items():
        others = getattr(part.all_votes(), name)
        if name == "cluster_E":
            values, others = alone.clusters.prompt_P[values], part.clusters.prompt_P[others]
        assert values.tobytes() == others.tobytes(), name


def test_replication_by_hand() -> None:
    other = tested.HardTests(
        np.array([2, 4, 6, 8]),
        np.array([3, 2, 9, 9]),
        np.array([1.5, 9.0, 1.4, 9.0]),
        np.ones(4),
        np.ones(4, bool),
        np.ones((4, 2)),
    )
    # 4 is in too few prompts, 5 in none; of 2 and 6 only 2 is hard.
    assert tested.replication(np.array([2, 4, 5, 6]), other) == tested.Replication(4, 2, 1)
    assert tested.replication(np.array([5]), other).share is None


def test_tallies_add_up_as_they_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rocktok.stats.tally._LOOSE", 10)
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 30, (50, 7))
    tally, other = Tally(2), Tally(2)
    for at, row in enumerate(keys):
        keys_of_row, sums = counted(row, row % 2 == 0)
        (tally if at < 25 else other).add(keys_of_row, sums, distinct=True)
        assert len(tally._parts) + len(other._parts) < 20
    tally.merge(other)
    key, sums = tally.settle()
    assert key.tolist() == np.unique(keys).tolist()
    assert sums[:, 0].tolist() == np.bincount(keys.ravel())[key].tolist()
    assert sums[:, 1].tolist() == np.where(key % 2 == 0, sums[:, 0], 0).tolist()


def test_losses_of_any_size_keep_their_order() -> None:
    """Sums of the largest float32 did not fit into 64 bits, and came out negative."""
    batch = random_batch(3)
    hard = HARD.chosen(batch)
    largest, *others = np.unique(batch["token_id"][hard]).tolist()
    huge = hard & (batch["token_id"] == largest)
    batch["loss_post"] = np.where(huge, np.float32(3e38), batch["loss_post"])
    expected = sums_of([batch]).expected()
    loss_by_type = dict(zip(expected.token_T.tolist(), expected.loss_T.tolist(), strict=True))
    assert all(loss_by_type[largest] > loss_by_type[other] > 0 for other in others)


def test_how_much_more_text_by_hand() -> None:
    """Type 0 is testable in every quarter, 1 in one of the halves, 2 in the whole, 3 never."""
    hard = tested.HardTests(
        np.arange(4), np.full(4, 9), np.ones(4), np.ones(4), np.array([True, True, True, False]),
        np.array([[1.0, 1.0], [0.0, 0.5], [0.0, 0.0], [0.0, 0.0]]),
    )  # fmt: skip
    # 10% in a quarter, 30% in all: 10 points for each doubling, and two more doublings to go.
    assert tested.text_wanted(hard, np.array([10.0, 10.0, 10.0, 70.0])) == pytest.approx(4.0)
    assert tested.text_wanted(hard, np.array([10.0, 10.0, 30.0, 50.0])) == 1.0
    assert tested.text_wanted(hard, np.array([30.0, 0.0, 0.0, 70.0])) is None
    assert tested.text_wanted(hard, np.zeros(4)) is None


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_parts_of_the_prompts_are_as_logs_of_these(seed: int) -> None:
    batch = random_batch(seed)
    sums = sums_of([batch])
    votes = sums.expected().all_votes()
    found = tested.hard_tests(votes)
    wanted_TP = np.zeros((len(votes.token_T), 2))
    for column, parts in ((0, 4), (1, 2)):
        for part in range(parts):
            here = votes.cluster_E % parts == part
            for place in range(len(votes.token_T)):
                mine = here & (votes.type_E == place)
                enough = votes.hard_E[mine].sum() >= 5 and (votes.hard_E[mine] > 0).sum() >= 5
                wanted_TP[place, column] += enough / parts
    np.testing.assert_array_equal(found.testable_in, wanted_TP)
