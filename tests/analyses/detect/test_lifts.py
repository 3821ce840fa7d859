"""Lifts of `detect`, against plain loops; and what permuted labels give."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rocktok
from rocktok.analyses.detect import context_passes as contexts
from rocktok.analyses.detect import lift_passes as engine_lifts
from rocktok.analyses.detect import table as report
from rocktok.analyses.detect.lifts import (
    HardBootstrap,
    Lift,
    LiftColumns,
    PromptWeights,
    context_lift,
    singled_out,
)
from rocktok.analyses.detect.permute import DrawLimits, Drawn, draw_hash
from rocktok.analyses.detect.persistence import Thresholds
from rocktok.analyses.detect.similarity import Similarity
from rocktok.engine.passes import Engine
from rocktok.errors import LogError, UsageError
from rocktok.stats.bootstrap import REPLICATES, poisson_weights
from tests import planted
from tests.logs import RUN, rows, write_log
from tests.stats.interval_twin import interval, same

W = 2


def occurrences(rng: np.random.Generator, number: int, prompts: int, kinds: int) -> dict[str, Any]:
    """Windows of `kinds` kinds, all tokens of a kind alike."""
    kind = rng.integers(0, kinds, number)
    return {
        "window": np.repeat(kind[:, None], 2 * W, axis=1).astype(np.int32),
        "prompt": rng.integers(0, prompts, number).astype(np.uint64),
        "sequence": rng.integers(0, 3 * prompts, number),
        "hash": rng.integers(0, 2**62, number).astype(np.uint64),
    }


def bag() -> Similarity:
    return Similarity("bag", 0.5, 2 * W, np.ones(100))


def by_hand(ours: dict[str, Any], theirs: dict[str, Any], partners: str, weight: Any) -> Any:
    """P(similar) under the weights of each replicate, pair by pair."""
    similar, pairs = 0.0, 0.0
    for i in range(len(ours["prompt"])):
        for j in range(len(theirs["prompt"])):
            p, q = ours["prompt"][i], theirs["prompt"][j]
            name = {"other-prompt": "prompt", "all": "hash"}[partners]
            if ours[name][i] == theirs[name][j]:
                continue
            w = weight[p] * weight[q] if p != q else weight[p]
            pairs = pairs + w
            if ours["window"][i][0] == theirs["window"][j][0]:
                similar = similar + w
    with np.errstate(invalid="ignore"):
        return similar / pairs


def twin_interval(
    ours: dict[str, Any], other: dict[str, Any], partners: str, seed: int
) -> tuple[float | None, float | None]:
    """From numerical derivatives, and occurrences counted by prompt."""

    pairs_PP: list[tuple[np.ndarray, np.ndarray]] = []
    for theirs in (ours, other):
        similar, partners_ = np.zeros((2, 30, 30))
        for i, p in enumerate(ours["prompt"].tolist()):
            for j, q in enumerate(theirs["prompt"].tolist()):
                name = {"other-prompt": "prompt", "all": "hash"}[partners]
                if ours[name][i] != theirs[name][j]:
                    partners_[p, q] += 1
                    similar[p, q] += ours["window"][i][0] == theirs["window"][j][0]
        pairs_PP.append((similar, partners_))

    def lift(weight_P: np.ndarray) -> float:
        weight_PP = np.outer(weight_P, weight_P)
        np.fill_diagonal(weight_PP, weight_P)
        both, one = ((weight_PP * a).sum() / (weight_PP * b).sum() for a, b in pairs_PP)
        return float(np.log(both / one))

    counts = [np.bincount(rows["prompt"].astype(int)) for rows in (ours, other)]
    prompts = min(count.sum() ** 2 / ((count**2).sum() + 0.5) for count in counts)
    weights = poisson_weights(seed, REPLICATES, np.arange(30, dtype=np.uint64)).T
    low, high = interval(lift, [], weights, prompts=prompts, positive=False)
    return (None, None) if low is None or high is None else (np.exp(low), np.exp(high))


@pytest.mark.parametrize("partners", ["other-prompt", "all"])
def test_context_lift_is_that_of_plain_loops(partners: str) -> None:
    rng = np.random.default_rng(1)
    persistent, other = occurrences(rng, 150, 30, 3), occurrences(rng, 120, 30, 4)
    lift, both, one = context_lift(bag(), partners, persistent, other, seed=5)
    plain = dict.fromkeys(range(30), 1.0)
    expected = [by_hand(persistent, o, partners, plain) for o in (persistent, other)]
    assert [both, one] == pytest.approx(expected)
    assert lift.value == pytest.approx(expected[0] / expected[1])
    assert lift.low is not None
    assert same((lift.low, lift.high), twin_interval(persistent, other, partners, 5))


@pytest.mark.parametrize("partners", ["other-prompt", "all"])
@pytest.mark.parametrize("kinds", [2, 9, 400])
def test_pairs_that_are_only_counted_give_the_same(partners: str, kinds: int) -> None:
    rng = np.random.default_rng(kinds)
    # Enough pairs for the loops.
    persistent, other = (occurrences(rng, n, 40, kinds) for n in (300, 260))
    similarity = Similarity("surprisal", 0.5, 2 * W, rng.random(400))
    given = partners, persistent, other, 5
    assert context_lift(similarity.compiled(), *given) == context_lift(similarity, *given)


def test_persistence_lifts_are_the_same_compiled() -> None:
    rng = np.random.default_rng(2)
    size = 3_000
    batch = {
        "token_id": rng.integers(0, 9, size).astype(np.int32),
        "sequence_id": np.arange(size) // 20,
        "prompt": (np.arange(size) // 60).astype(np.uint64),
        "loss_pre": rng.exponential(1.0, size).astype(np.float32),
        "loss_post": rng.exponential(1.0, size).astype(np.float32),
    }
    found = []
    for compiled in (False, True):
        hard = HardBootstrap(np.array([1, 4, 8]), Thresholds(0.9, post=0.8), 3, compiled=compiled)
        hard.update(batch)
        hard.close()
        found.append((hard.each("").value.tolist(), hard.lifts()))
    assert found[0] == found[1]
    assert all(lift.low is not None for lift in found[0][1])


def test_weights_that_types_share_are_those_of_each() -> None:
    prompt_P = np.sort(np.random.default_rng(3).integers(0, 2**63, 1_300).astype(np.uint64))
    shared = PromptWeights.draw(4, prompt_P)
    assert shared.weight_PB.dtype == np.uint8
    for some_P in (prompt_P, prompt_P[::7], prompt_P[:0]):
        value_PK = np.random.default_rng(5).integers(0, 1_000, (len(some_P), 4)).astype(np.float64)
        by_hand = value_PK.T @ (poisson_weights(4, REPLICATES, some_P) - 1)
        for compiled in (False, True):
            gain_KB = shared.gains(some_P, value_PK, compiled=compiled)
            np.testing.assert_array_equal(gain_KB, by_hand)


def test_contexts_that_the_loss_singles_out_lift_above_1() -> None:
    rng = np.random.default_rng(2)
    persistent, other = occurrences(rng, 80, 40, 2), occurrences(rng, 80, 40, 20)
    lift, _, _ = context_lift(bag(), "other-prompt", persistent, other, seed=0)
    assert lift.low is not None and lift.low > 1.5


def coverage(runs: int) -> float:
    covered = known = 0
    for seed in range(runs):
        rng = np.random.default_rng([3, seed])
        everything = occurrences(rng, 200, 60, 6)
        hard = rng.random(200) < 0.4
        halves = ({k: v[m] for k, v in everything.items()} for m in (hard, ~hard))
        lift, _, _ = context_lift(bag(), "other-prompt", *halves, seed=seed)
        if lift.low is not None and lift.high is not None:
            known += 1
            covered += lift.low <= 1 <= lift.high
    assert known == runs
    return covered / runs


def test_labels_at_random_cover_1() -> None:
    assert coverage(50) >= 0.9


@pytest.mark.exhaustive
@pytest.mark.long
def test_labels_at_random_cover_1_as_often_as_claimed() -> None:
    assert coverage(400) >= 0.92


def test_exactly_as_many_are_drawn_however_the_batches_are_cut() -> None:
    rng = np.random.default_rng(4)
    token = rng.integers(0, 6, 3000)
    batch = {"token_id": token, "sequence_id": np.arange(3000), "position": np.zeros(3000, int)}
    frequency = np.bincount(token)
    wanted = np.array([0, 1, 7, 100, 250, int(frequency[5])])
    limits = [DrawLimits(9, np.arange(6), wanted, frequency) for _ in range(2)]
    limits[0].update({k: v[:1000] for k, v in batch.items()})
    limits[1].update({k: v[1000:] for k, v in batch.items()})
    limits[0].merge(limits[1])
    drawn = Drawn(9, limits[0].result()).chosen(batch)
    assert np.bincount(token[drawn], minlength=6).tolist() == wanted.tolist()
    hashes = draw_hash(9, batch, np.arange(3000))
    for v in (2, 4):
        mine = hashes[token == v]
        assert sorted(hashes[drawn & (token == v)]) == sorted(mine)[: wanted[v]]


def test_a_run_with_lifts(tmp_path: Path) -> None:
    log = rocktok.open(write_log(tmp_path, sequences=1000))
    options: dict[str, Any] = {"eta": 0.0, "gamma": 0.2, "quantile_pre": 0.5, "quantile_post": 0.5}
    plain = rocktok.detect(log, **options).to_dict()
    one = rocktok.detect(log, lifts=True, engine=Engine(1), **options)
    three = rocktok.detect(log, lifts=True, engine=Engine(3), **options)
    assert one.to_json() == three.to_json()
    assert "permuted" not in plain
    found = json.loads(one.to_json())
    assert found["permuted"]["rocks"] == len(plain["tokens"]) > 0
    assert found["log"]["passes"] > plain["log"]["passes"]
    for before, row in zip(plain["tokens"], found["tokens"], strict=True):
        assert {k: row[k] for k in before if k != "flags"} == {
            k: v for k, v in before.items() if k != "flags"
        }
        if row["persistence_lift_low"] is not None:
            assert row["persistence_lift_low"] <= row["persistence_lift_measured"]
            assert row["persistence_lift_measured"] <= row["persistence_lift_high"]
    known = [row for row in found["tokens"] if row["singled_out"] is not None]
    assert known
    # Losses are drawn without regard to anything: next to nothing may be singled out.
    assert sum(row["singled_out"] for row in known) <= len(known) / 10


def test_lifts_without_context_are_refused(tmp_path: Path) -> None:
    log = rocktok.open(write_log(tmp_path))
    with pytest.raises(UsageError, match="lifts need persistence and context; leave out either"):
        rocktok.detect(log, lifts=True, context="off")
    with rocktok.LogWriter(tmp_path / "rollouts", run=RUN) as writer:
        for step in (0, 10):
            writer.write(rows(step, range(6)))
    with pytest.raises(UsageError, match="lifts choose rocks on one half of the prompts"):
        rocktok.detect(log, lifts=True, half=0)
    with pytest.raises(LogError, match="lifts need persistence, but rollout/"):
        rocktok.detect(rocktok.open(tmp_path / "rollouts"), lifts=True)


# Planted: what the loss singles out, and what it does not.


def planted_run(path: Path, seed: int, *, by_context: bool) -> Any:
    planted.singled_log(seed, by_context=by_context, types=10, prompts=320).write(path)
    options: dict[str, Any] = {"tau_pre": 1.0, "tau_post": 1.0, "tau_r": 0.5}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return rocktok.detect(rocktok.open(path), lifts=True, **options)


def with_interval(result: Any) -> list[dict[str, Any]]:
    return [row for row in result.tokens if row["context_lift_high"] is not None]


def test_what_the_loss_singles_out_is(tmp_path: Path) -> None:
    result = planted_run(tmp_path / "log", 0, by_context=True)
    known = with_interval(result)
    assert len(known) >= 8
    assert all(row["context_lift_low"] > 1 for row in known)
    assert [row["singled_out"] for row in known].count(True) >= 8
    assert not any(row["singled_out"] is False for row in known)
    found = result.permuted
    assert found["rocks"] == 10
    assert found["reach_lowest"] == 0


@pytest.mark.exhaustive
@pytest.mark.long
def test_what_is_hard_at_random_is_not_singled_out(tmp_path: Path) -> None:
    covered, rocks, permuted = [], 0, 0
    for seed in range(3):
        result = planted_run(tmp_path / str(seed), seed, by_context=False)
        covered += [
            row["context_lift_low"] <= 1 <= row["context_lift_high"]
            for row in with_interval(result)
        ]
        rocks += result.permuted["rocks"]
        permuted += result.permuted["rocks_permuted"]
    assert len(covered) >= 8
    assert np.mean(covered) >= 0.8
    # As many as labels at random give: they are at random.
    assert rocks >= 25
    assert 0.6 <= permuted / rocks <= 1 / 0.6


def test_where_no_other_is_alike_there_is_a_lower_bound_alone() -> None:
    rng = np.random.default_rng(6)
    persistent, other = occurrences(rng, 60, 40, 2), occurrences(rng, 80, 40, 2)
    other["window"] = other["window"] + 50
    lift, both, one = context_lift(bag(), "other-prompt", persistent, other, seed=0)
    assert one == 0 and both is not None
    assert lift.value is None and lift.high is None and lift.low is not None
    # All that prompts not seen could hold, were one like it: e^-3.69 is 2.5%.
    most = 3.6889 * np.bincount(other["prompt"].astype(int)).max() / 80
    assert lift.low <= both / most
    assert lift.low >= 0.8 * both / most
    sure = Lift(2.0, 1.5, 2.5)
    assert singled_out((sure, lift)) is (True if lift.low > 1 else None)
    assert singled_out((sure, Lift(None, 0.7))) is None
    assert singled_out((sure, Lift(None, 1.7))) is True
    assert singled_out((Lift(1.1, 0.9, 1.2), Lift(None, 1.7))) is False
    assert report._with_interval(lift.value, 12.345, lift.high) == "≥ 12"
    few = {name: values[:10] for name, values in persistent.items()}
    assert context_lift(bag(), "other-prompt", few, other, seed=0)[0].low is None


# What large logs do: samples, rounds, walks that judge by a sample.


def lifted(path: Path, **options: Any) -> dict[str, Any]:
    given = {"eta": 0.0, "gamma": 0.2, "quantile_pre": 0.5, "quantile_post": 0.5, **options}
    found: dict[str, Any] = rocktok.detect(rocktok.open(path), lifts=True, **given).to_dict()
    return found


def test_rounds_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_log(tmp_path, sequences=120)
    whole = lifted(path)
    monkeypatch.setattr(engine_lifts, "ROUND_LIFTS", 7)
    again = lifted(path)
    assert again["log"].pop("passes") > whole["log"].pop("passes")
    assert again == whole
    # As in a log above 4 million rows: windows are held in rounds.
    monkeypatch.setattr(contexts, "ROUND_WINDOWS", 200)
    rounds = lifted(path)
    assert rounds["tokens"] == whole["tokens"]
    # All types were judged, so that none is left out of those with permuted labels.
    assert rounds["permuted"] == whole["permuted"]
    few = lifted(path, top_k=3)["permuted"]
    assert few["judged"] < whole["permuted"]["judged"]
    assert not few["complete"]


def test_lifts_of_a_sample_are_those_of_its_smallest_hashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_log(tmp_path, sequences=400)
    whole = {row["token_id"]: row for row in lifted(path)["tokens"]}
    monkeypatch.setattr(engine_lifts, "LIFT_SAMPLE", 25)
    sampled = lifted(path)["tokens"]
    for row in sampled:
        many = max(row["persistent"], row["frequency"] - row["persistent"]) > 25
        # Measured on one half of the prompts, of some of the rocks.
        assert many or "lifts_sampled" not in row["flags"]
        before = whole[row["token_id"]]
        for name in ("persistence_lift", "persistence_lift_low", "persistence_lift_high", "ccr"):
            assert row[name] == before[name]
        # A share of a sample of pairs is near that of all.
        assert row["context_similar"] == pytest.approx(before["context_similar"], abs=0.12)
    assert any("lifts_sampled" in row["flags"] for row in sampled)
    other = [
        row for row in sampled if row["context_lift"] != whole[row["token_id"]]["context_lift"]
    ]
    assert other
    monkeypatch.setattr(engine_lifts, "ROUND_LIFTS", 7)
    assert lifted(path)["tokens"] == sampled


def test_a_small_cap_and_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rocktok.analyses.detect.params.MIN_CAP", 1)
    path = write_log(tmp_path, sequences=120)
    whole, exact = lifted(path), lifted(path, cap=10, exact=True)
    assert exact["tokens"] == whole["tokens"]
    assert exact["permuted"] == whole["permuted"]
    capped = lifted(path, cap=10)
    rows = {row["token_id"]: row for row in whole["tokens"]}
    assert capped["permuted"]["rocks"] == len(capped["tokens"]) > 0
    assert capped["permuted"]["complete"]
    for row in capped["tokens"]:
        # Lifts take a sample of their own, whatever the walk does.
        for name in LiftColumns.__annotations__:
            assert row[name] == rows[row["token_id"]][name]


@pytest.mark.long
def test_samples_within_rounds_give_what_samples_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round that ends after whole types may not sample one that its windows do not hold."""
    monkeypatch.setattr("rocktok.analyses.detect.params.MIN_CAP", 1)
    path = write_log(tmp_path, sequences=120)
    whole = lifted(path, cap=6)["tokens"]
    sampled = ["sampled" in row["flags"] for row in whole]
    assert any(sampled) and not all(sampled)
    for windows in (12, 20, 30):
        monkeypatch.setattr(contexts, "ROUND_WINDOWS", windows)
        assert lifted(path, cap=6)["tokens"] == whole
