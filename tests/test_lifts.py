"""Lifts of `detect`, against plain loops; and what permuted labels give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rocktok
from rocktok.analyse.bootstrap import REPLICATES, interval, poisson_weights
from rocktok.analyse.lifts import context_lift
from rocktok.analyse.permute import DrawLimits, Drawn, draw_hash
from rocktok.analyse.similarity import Similarity
from rocktok.engine.passes import Engine
from rocktok.errors import LogError, UsageError
from tests.logs import RUN, rows, write_log

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


@pytest.mark.parametrize("partners", ["other-prompt", "all"])
def test_context_lift_is_that_of_plain_loops(partners: str) -> None:
    rng = np.random.default_rng(1)
    persistent, other = occurrences(rng, 40, 30, 3), occurrences(rng, 30, 30, 4)
    lift, both, one = context_lift(bag(), partners, persistent, other, seed=5)
    plain = dict.fromkeys(range(30), 1.0)
    expected = [by_hand(persistent, o, partners, plain) for o in (persistent, other)]
    assert [both, one] == pytest.approx(expected)
    assert lift.value == pytest.approx(expected[0] / expected[1])
    drawn = poisson_weights(5, REPLICATES, np.arange(30, dtype=np.uint64))
    weight = dict(enumerate(drawn))
    again = [by_hand(persistent, o, partners, weight) for o in (persistent, other)]
    low, high, undefined = interval(again[0] / again[1])
    assert (lift.low, lift.high) == pytest.approx((low, high))
    assert lift.undefined == undefined


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
    log = rocktok.open(write_log(tmp_path, sequences=120))
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
            assert row["persistence_lift_low"] <= row["persistence_lift"]
            assert row["persistence_lift"] <= row["persistence_lift_high"]
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
    with pytest.raises(LogError, match="lifts need persistence, but rollout/"):
        rocktok.detect(rocktok.open(tmp_path / "rollouts"), lifts=True)
