"""`attribute`: shares by hand and by a brute-force twin; groups; the bootstrap; the command."""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rocktok
from rocktok.analyses.attribute.expected import NormByLoss
from rocktok.analyses.attribute.passes import _Attribution
from rocktok.analyses.attribute.shares import contrasts
from rocktok.engine.passes import Engine
from rocktok.errors import DataError, LogError, UsageError
from rocktok.hashing import halves, hash_rows
from rocktok.log import LogWriter, tasks
from rocktok.stats.bootstrap import PromptBootstrap, holm, poisson_weights, two_sided_p
from rocktok.stats.groups import (
    CALIPER,
    Groups,
    HalfFacts,
    TypeFacts,
    choose_groups,
    match_frequency,
)
from rocktok.stats.prompts import PromptFloor
from tests.gradient_logs import frame, gradient_rows, write
from tests.learning_worlds import World, learning_log
from tests.logs import write_log
from tests.paths import SAMPLE
from tests.planted import PlantedLog
from tests.processes import run_command
from tests.stats.interval_twin import interval, same
from tests.stats.test_adjusted import twin_difference


def attribute(path: Path, **options: Any) -> Any:
    options = {"rocks": (0, 1), "replicates": 200, **options}
    return rocktok.attribute(rocktok.open(path), **options)


@pytest.mark.long
def test_halves_are_searched_as_the_whole_was() -> None:
    """With the options of `detected`, at its first two steps; without it, with the defaults."""
    log = rocktok.open(SAMPLE)
    options: dict[str, Any] = {"persistence": "recalcitrant", "top_k": 12}
    found = rocktok.detect(log, **options)
    given_ = rocktok.attribute(log, detected=found, replicates=100)
    half, most = (
        rocktok.detect(log, half=0, pre=8, post=100, **{**options, "top_k": k}) for k in (12, 24)
    )
    assert list(given_.members["rocks"]) == sorted(row["token_id"] for row in found.rocks)
    assert given_.log["chosen_at"] == [8, 100]
    assert [(row["cutoff"], row["types"]) for row in given_.adjusted["cutoffs"]] == [
        (12, len(half.rocks)), (6, 6), (24, len(most.rocks))
    ]  # fmt: skip
    later = rocktok.detect(log, pre=100, post=300)
    bounded = rocktok.attribute(log, detected=later, replicates=100)
    assert bounded.log["chosen_at"] == [100, 200]
    by_default = rocktok.attribute(log, replicates=100)
    for row in by_default.adjusted["cutoffs"]:
        rocks = rocktok.detect(log, half=0, pre=8, post=100, fdr=row["cutoff"]).rocks
        assert row["types"] == len(rocks) > 10


# The contrast with types of like loss.


@pytest.fixture(scope="module")
def planted_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[PlantedLog, Path]:
    """Rocks have 1.5 times the gradient of other types of like loss."""
    log = learning_log(0, World(gradient=1.5))
    return log, log.write(tmp_path_factory.mktemp("planted") / "log")


def test_a_gradient_that_is_large_for_its_loss_is_said_to_be(
    planted_run: tuple[PlantedLog, Path],
) -> None:
    log, path = planted_run
    result = rocktok.attribute(path, replicates=200)
    adjusted = result.adjusted
    assert (result.log["chosen_at"], result.log["step"]) == ([0, 100], 1000)
    assert (adjusted["first"], adjusted["verdict"]) == ("rocks", "larger")
    assert adjusted["difference"] == pytest.approx(np.log(1.5), abs=0.1)
    assert result.answer()[1] == (
        "Given the measured loss, the gradient of rocks is larger than that of other types of "
        "similar loss and frequency."
    )
    rocks = {row["token_id"] for row in rocktok.detect(path, half=0, pre=0, post=100).rocks}
    assert adjusted["cutoffs"][0]["types"] == len(rocks)
    # Not one more is found at the largest rate, so that these are left out of what is expected.
    assert [row["types"] for row in adjusted["cutoffs"]] == [len(rocks)] * 3
    last = log.rows[log.rows["step"] == 1000]
    assert adjusted["difference"] == pytest.approx(twin_of_rows(last, path, rocks), abs=1e-9)


def twin_of_rows(rows: pd.DataFrame, path: Path, rocks: set[int]) -> float:
    """The difference, from the rows of a step by the definition."""
    rows = rows.astype({"loss": float, "grad_norm": float})
    prompt = rows["sequence_id"].map(prompt_hashes(path)).to_numpy().astype(np.uint64)
    rows = rows.assign(prompt=prompt, half=halves(prompt, 0))
    fraction, exponent = np.frexp(rows["loss"])
    rows["bin"] = 4 * exponent + np.floor(8 * fraction)
    others = rows[(rows["half"] == 0) & ~rows["token_id"].isin(rocks)].groupby("bin")
    bins = others[["loss", "grad_norm"]].mean()[others.size() >= 20]
    rows["expected"] = np.interp(rows["loss"], bins["loss"], bins["grad_norm"])
    count, prompts, loss, norm, expected = (
        values.unstack()
        for values in (
            rows.groupby(["token_id", "half"])[name].agg(how)
            for name, how in (
                ("loss", "size"), ("prompt", "nunique"), ("loss", "mean"), ("grad_norm", "mean"),
                ("expected", "mean"),
            )
        )
    )  # fmt: skip
    often = ((count >= 20) & (prompts >= 5)).all(axis=1)
    y = np.log(norm[1] / expected[1])[often].tolist()
    x1, x2 = np.log(loss[0])[often].tolist(), np.log(count.sum(axis=1))[often].tolist()
    is_rock = np.isin(count.index[often], list(rocks))
    ours, theirs = np.flatnonzero(is_rock).tolist(), np.flatnonzero(~is_rock).tolist()
    backed = [i for i in ours if sum(abs(x1[i] - x1[j]) <= 0.5 for j in theirs) >= 5]
    return twin_difference(y, x1, x2, backed, theirs)


def test_rocks_of_one_half_are_the_same_whether_searched_beside_or_after(
    planted_run: tuple[PlantedLog, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, after = [], []
    for found in (beside, after):
        result = rocktok.attribute(planted_run[1], step=100, replicates=100)
        found += [result.log.pop("passes"), result.to_json()]
        monkeypatch.setattr(_Attribution, "_search_beside", lambda self, similarity: None)
    # Passes that both searches have in common were made once.
    assert beside[0] < after[0] and beside[1] == after[1]


@pytest.mark.long
def test_rocks_measured_where_they_were_chosen_are_said_to_be(
    planted_run: tuple[PlantedLog, Path],
) -> None:
    result = rocktok.attribute(planted_run[1], step=100, replicates=100)
    assert result.log["chosen_at"] == [0, 100]
    assert result.notes[0] == (
        "contrasts: rocks are chosen on half of the prompts at steps 0 and 100 and measured on the "
        "other half at one of these steps, 100; record later steps of fixed text to measure them "
        "after more training"
    )
    assert result.adjusted["verdict"] == "larger"


@pytest.mark.exhaustive
@pytest.mark.long
def test_a_gradient_that_is_that_of_its_loss_is_not_told_apart() -> None:
    """Rocks keep 1.5 times as much of their loss, so that their gradients are larger, too."""
    said = []
    for seed in range(200, 203):
        log = learning_log(seed, World(keeps=1.5))
        with tempfile.TemporaryDirectory() as root:
            result = rocktok.attribute(log.write(Path(root) / "log"), replicates=200)
        assert result.adjusted["comparable"]
        said.append(result.adjusted["verdict"])
    assert not {"larger", "smaller"} & set(said)


def test_norms_by_loss_are_means_of_bins_with_enough_rows() -> None:
    """Losses 1.0 and 1.2 are of a bin, 1.3 of the next; types left out and few rows are none."""
    norms, other = NormByLoss(np.array([7])), NormByLoss(np.array([7]))
    loss = np.array([1.0] * 10 + [1.2] * 10 + [1.3] * 19 + [0.0] * 20 + [1.0] * 9, np.float32)
    batch = {
        "token_id": np.array([3] * 59 + [7] * 9),
        "loss": loss,
        "grad_norm": np.where(loss == 1.0, 2.0, 4.0).astype(np.float32),
    }
    norms.update({name: values[:15] for name, values in batch.items()})
    other.update({name: values[15:] for name, values in batch.items()})
    norms.merge(other)
    losses, means = norms.curve()
    assert losses.tolist() == pytest.approx([0.0, 1.1])
    assert means.tolist() == pytest.approx([4.0, 3.0])


# Shares and their intervals, against a twin.


def prompt_hashes(path: Path) -> dict[int, int]:
    from rocktok.log.sequences import load_prompts

    prompts = load_prompts(rocktok.open(path))
    return dict(zip(prompts.sequence_S.tolist(), prompts.prompt_S.tolist(), strict=True))


def twin_weights(seed: int, replicates: int, prompts: list[int]) -> np.ndarray:
    """Poisson(1) by inversion, one draw at a time."""
    drawn = np.zeros((replicates, len(prompts)))
    for b in range(replicates):
        for p, prompt in enumerate(prompts):
            key = hash_rows(seed, np.array([b]), np.array([prompt], dtype=np.uint64))
            u = int(key[0] >> np.uint64(11)) / 2**53
            k, term, below = 0, float(np.exp(-1)), float(np.exp(-1))
            while u >= below:
                k += 1
                term /= k
                below += term
            drawn[b, p] = k
    return drawn


def ends_of(
    part: pd.Series, by: pd.DataFrame, largest: float, weights: np.ndarray
) -> tuple[float | None, float | None]:
    """Of a share, from sums by prompt and type."""
    part_P, all_P = part.to_numpy(), by.sum(axis=1).to_numpy()
    return interval(
        lambda weight_P: float(weight_P @ part_P / (weight_P @ all_P)),
        [(part_P, largest), (all_P, largest)],
        weights,
    )


def test_shares_and_intervals_are_the_twins(tmp_path: Path) -> None:
    rows = frame(1)
    rows["head_grad_norm"] = rows["grad_norm"] * np.float32(2.5) + np.float32(0.125)
    path = write(tmp_path, rows)
    result = attribute(path, seed=4, all_types=True)
    assert result.log["step"] == 10
    assert result.log["steps"] == [0, 10]
    last = rows[rows["step"] == 10].copy()
    last["prompt"] = last["sequence_id"].map(prompt_hashes(path))
    prompts = sorted(last["prompt"].unique().tolist())
    weights = twin_weights(4, 200, prompts)
    given_ = 0
    for column, name in (
        ("grad_norm", "grad_share"),
        ("head_grad_norm", "head_grad_share"),
        ("loss", "loss_share"),
    ):
        for power, suffix in ((1, name), (2, name.replace("_share", "_sq_share"))):
            if column == "loss" and power == 2:
                continue
            last["x"] = last[column].astype(float) ** power
            by = last.pivot_table("x", "prompt", "token_id", "sum", fill_value=0.0).loc[prompts]
            for row in result.tokens:
                part = by[row["token_id"]]
                assert row[suffix] == pytest.approx(part.sum() / by.to_numpy().sum(), rel=1e-9)
                found = row[f"{suffix}_low"], row[f"{suffix}_high"]
                assert same(found, ends_of(part, by, last["x"].max(), weights))
                given_ += found[0] is not None
            group = next(r for r in result.groups if r["step"] == 10 and r["group"] == "rocks")
            both = by[[0, 1]].sum(axis=1)
            assert group[suffix] == pytest.approx(both.sum() / by.to_numpy().sum(), rel=1e-9)
            found = group[f"{suffix}_low"], group[f"{suffix}_high"]
            assert same(found, ends_of(both, by, last["x"].max(), weights))
            given_ += found[0] is not None
    assert given_ >= 20
    order = [row["grad_share"] for row in result.tokens]
    assert order == sorted(order, reverse=True)
    assert sum(order) == pytest.approx(1)


@pytest.mark.parametrize("rocks", [(0, 1), None])
def test_intervals_do_not_depend_on_how_many_types_are_shown(
    tmp_path: Path, rocks: tuple[int, ...] | None
) -> None:
    """Types that are not shown are added up by group: those of several groups, too."""
    path = write(tmp_path, frame(1))
    every = attribute(path, rocks=rocks, all_types=True)
    for top in (1, 3):
        few = attribute(path, rocks=rocks, top=top)
        assert len(few.tokens) == top
        rows = [*zip(every.groups, few.groups, strict=True)]
        # Only types with much loss, or of a group, have intervals: with `top` fewer of them.
        rows += [
            pair for pair in zip(every.tokens, few.tokens, strict=False)
            if pair[1]["grad_share_low"] is not None
        ]  # fmt: skip
        for ours, theirs in rows:
            assert ours.keys() == theirs.keys()
            for name, value in ours.items():
                same_value = pytest.approx(value, rel=1e-12) if type(value) is float else value
                assert theirs[name] == same_value, name
        assert few.tests == every.tests
    assert any(row["grad_share_low"] is not None for row in every.groups) or rocks is None


def test_shares_by_hand(tmp_path: Path) -> None:
    rows = pd.DataFrame(
        {
            "step": 5,
            "sequence_id": [0, 0, 0, 0],
            "position": [0, 1, 2, 3],
            "token_id": [3, 3, 4, 4],
            "loss": [1.0, 2.0, 1.0, 0.0],
            "grad_norm": [1.0, 2.0, 1.0, 0.0],
        }
    )
    result = attribute(write(tmp_path, rows, "rollout", ranks=1), rocks=(3,))
    first, second = result.tokens
    assert (first["token"], first["grad_share"], first["grad_sq_share"]) == ("t3", 0.75, 5 / 6)
    assert (first["position_share"], first["concentration"]) == (0.5, 1.5)
    assert (first["groups"], second["groups"]) == (["rocks"], [])
    assert first["mean_grad_norm"] == 1.5
    # One prompt: no interval, and no test.
    assert first["grad_share_low"] is None
    assert all("at least 5 are needed" in row["skipped"] for row in result.tests)
    assert result.members["rocks_without_control"] == (3,)
    assert result.totals == {
        "positions": 4, "types": 2, "loss": 4.0, "grad_norm": 4.0, "grad_norm_sq": 6.0
    }  # fmt: skip
    assert result.geometry is None


def test_any_workers_and_any_cut_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = frame(3)
    path = write(tmp_path / "a", rows)
    monkeypatch.setattr(tasks, "TASK_ROWS", 300)

    def answer(log: Path, jobs: int) -> Any:
        with Engine(jobs) as engine:
            return rocktok.attribute(rocktok.open(log), engine=engine, replicates=100)

    assert answer(path, 1).to_json() == answer(path, 3).to_json()
    # Another cut: sums of floats may differ in the last bits.
    other = answer(write(tmp_path / "b", rows, ranks=1), 2)
    for ours, theirs in zip(answer(path, 1).groups, other.groups, strict=True):
        for name, value in ours.items():
            if isinstance(value, float):
                assert theirs[name] == pytest.approx(value, rel=1e-9)
            else:
                assert theirs[name] == value


def test_contrasts_are_measured_on_the_other_half(tmp_path: Path) -> None:
    rows = frame(5, prompts=120)
    path = write(tmp_path, rows)
    found = attribute(path, rocks=None, seed=2)
    assert {row["chosen_on"] for row in found.tests} == {"half 0"}
    hashes = prompt_hashes(path)
    half = {s: int(halves(np.array([p], np.uint64), 2)[0]) for s, p in hashes.items()}
    # What half 1 holds cannot change the groups, nor half 0 the contrasts beyond them.
    other = rows.copy()
    ours = other["sequence_id"].map(half) == 0
    other.loc[ours, "grad_norm"] *= 3
    changed = attribute(write(tmp_path / "other", other), rocks=None, seed=2)
    assert changed.tests == found.tests
    assert changed.groups != found.groups


@pytest.mark.parametrize(
    ("prompts", "reason"),
    [
        (1, "there is one prompt, so no other half of the prompts; record more prompts"),
        (2, "all 2 prompts fall into one half by --seed 0; give another --seed, or record more "
            "prompts"),
        (4, "all 4 prompts fall into one half by --seed 0; give another --seed, or record more "
            "prompts"),
    ],
)  # fmt: skip
def test_prompts_of_one_half_have_shares_but_no_contrasts(
    tmp_path: Path, prompts: int, reason: str
) -> None:
    path = write(tmp_path, frame(1, prompts=prompts), ranks=1)
    result = attribute(path, rocks=None)
    assert {row["skipped"] for row in result.tests} == {reason}
    assert len(result.tests) == 6
    assert f"no contrasts: {reason}" in result.notes
    assert sum(row["grad_share"] for row in result.tokens) == pytest.approx(1)
    answer, how_sure = result.answer()
    assert re.match(r"No rock types; 't\d+' has the largest share of the gradient norm, ", answer)
    assert how_sure == (
        "No interval: fewer than 20 effective prompts carry the share; no contrasts."
    )
    # Where rocks are given nothing is chosen here, so nothing needs a second half.
    by_hand = attribute(path, rocks=(0, 1))
    assert not any("half" in row["skipped"] for row in by_hand.tests)
    assert re.match(r"2 rock types carry \d+% of .* \(no interval\)\.", by_hand.answer()[0])


@pytest.mark.parametrize("error", [LogError, DataError])
def test_a_search_on_one_half_that_fails_is_told_where_there_are_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[LogError]
) -> None:
    def fails(*given: object) -> None:
        raise error("no rows to search")

    one, two = (write(tmp_path / str(n), frame(1, prompts=n), ranks=1) for n in (2, 40))
    monkeypatch.setattr("rocktok.analyses.attribute.passes.rocks_of_half", fails)
    with pytest.raises(error, match="no rows to search"):
        attribute(two, rocks=None)
    if error is LogError:
        reasons = {row["skipped"] for row in attribute(one, rocks=None).tests}
        assert len(reasons) == 1 and "fall into one half" in reasons.pop()
    else:
        with pytest.raises(error, match="no rows to search"):
            attribute(one, rocks=None)


def test_another_seed_parts_the_prompts(tmp_path: Path) -> None:
    """As the reason says; each half then has too few types."""
    path = write(tmp_path, frame(1, prompts=4), ranks=1)
    result = attribute(path, rocks=None, seed=1)
    assert all("at least 5 are needed" in row["skipped"] for row in result.tests)


def test_as_many_types_are_shown_as_asked_for(tmp_path: Path) -> None:
    result = attribute(write(tmp_path, frame(1)), top=3)
    assert len(result.tokens) == 3
    assert "\n… 11 more (--all)\n" in repr(result)
    assert "more (--all" not in repr(attribute(tmp_path, top=14))


def test_nothing_has_a_gradient(tmp_path: Path) -> None:
    rows = frame(1)
    rows["grad_norm"] = np.float32(0)
    result = attribute(write(tmp_path, rows))
    assert result.answer()[0] == "No position has a gradient, so there are no shares."


# Directions.


def test_directions_where_gradients_were_recorded(tmp_path: Path) -> None:
    path = write(tmp_path, frame(1), ranks=1, gradients=gradient_rows())
    result = attribute(path, rocks=tuple(range(6)), group_size=6)
    found = result.geometry
    assert (found["step"], found["exact"]) == (10, True)
    assert [row["token_id"] for row in found["tokens"]] == list(range(12))
    group = {row["group"]: row for row in found["groups"]}
    assert group["rocks"]["types"] == 6
    assert group["rocks"]["split_cos_global"] > 0.8 > 0.3 > group["high_kl"]["split_cos_global"]
    rows = {(row["measure"], row["second"]): row for row in found["comparisons"]}
    apart = rows["split_cos_global", "high_kl"]
    assert apart["difference"] > 0.4
    assert apart["bound"] == 0
    assert apart["p_types_naive"] < 0.01
    assert not any("no gradient sums" in note for note in result.notes)
    few = attribute(path, rocks=(0, 1, 2))
    skipped = few.geometry["comparisons"][0]["skipped"]
    assert skipped.startswith("rocks has 3 types with sums")
    assert "p_types_naive" not in few.geometry["comparisons"][0]


def test_sketches_refuse_what_they_cannot_tell(tmp_path: Path) -> None:
    rows = gradient_rows(width=1_000, dims=256)
    with LogWriter(tmp_path / "other", run={"vocab_size": 1_000}, columns=["grad_norm"]) as writer:
        held = frame(1)
        for step, part in held.groupby("step"):
            writer.write(part, table="fixed")
            writer.finish_step(int(step), "fixed")
        writer.write(rows, table="gradients")
        writer.finish_step(10, "gradients")
    found = attribute(tmp_path / "other", rocks=tuple(range(6)), group_size=6).geometry
    assert (found["exact"], found["sketch_dims"]) == (False, 256)
    refused = [row for row in found["comparisons"] if row.get("reason")]
    assert refused
    for row in refused:
        assert row["difference"] is None
        assert "not distinguishable" in row["reason"] or "null" in row["reason"]


def test_gradients_of_another_vocabulary(tmp_path: Path) -> None:
    path = write(tmp_path / "log", frame(1), ranks=1, gradients=gradient_rows(width=60))
    code, printed, said = run(path)
    assert (code, printed) == (1, "")
    assert "column vocab_size: 60 is not the log's 50 (run.json)" in said
    assert said.count("\n") == 1


# Groups.


def test_groups_keep_their_floors() -> None:
    facts = TypeFacts(
        token_T=np.arange(6),
        frequency_HT=np.array([[50, 50, 19, 50, 50, 50], [50, 50, 50, 50, 60, 50]]),
        prompts_HT=np.array([[5, 5, 5, 4, 5, 5], [5, 5, 5, 5, 5, 5]]),
        loss_HT=np.array([[9.0, 1, 99, 99, 5, 3], [9.0, 1, 99, 99, 5, 3]]),
    )
    groups = choose_groups(facts, np.array([0]), seed=1)
    # Types 2 and 3 are rare, or of few prompts: high_kl alone may hold these.
    assert groups.members["high_kl"] == (2,)
    assert set(groups.members["random"]) < {1, 4, 5}
    assert groups.members["control"][0] in (1, 5)
    assert groups.unmatched == ()
    assert choose_groups(facts, np.array([0, 7]), seed=1).unmatched == (7,)
    wide = choose_groups(facts, np.array([0]), seed=1, size=10)
    assert wide.members["random"] == (1, 4, 5)
    assert wide.members["high_kl"] == (1, 2, 3, 4, 5)
    rarest = replace(facts, frequency_HT=facts.frequency_HT.copy(), prompts_HT=facts.prompts_HT - 2)
    rarest.frequency_HT[0, 2] = 4
    assert choose_groups(rarest, np.array([0]), 1, 10).members["high_kl"] == (1, 4, 5)
    # On the second half alone, type 4 is too frequent to be a control of type 0.
    assert choose_groups(facts, np.array([0]), 1, half=1).members["control"][0] in (1, 5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 400), max_size=6), st.lists(st.integers(1, 400), max_size=7))
def test_controls_are_the_best_matching(rocks: list[int], others: list[int]) -> None:
    from itertools import permutations

    ids, other_ids = np.arange(len(rocks)), np.arange(len(others)) + 100
    pairs, unmatched = match_frequency(ids, np.array(rocks), other_ids, np.array(others))
    apart = {
        (i, j): abs(np.log10(rocks[i]) - np.log10(others[j]))
        for i in range(len(rocks))
        for j in range(len(others))
        if rocks[i] > 0
    }
    found = [apart[rock, control - 100] for rock, control in pairs]
    assert all(a <= CALIPER for a in found)
    assert len({rock for rock, _ in pairs}) == len({c for _, c in pairs}) == len(pairs)
    assert sorted([rock for rock, _ in pairs] + list(unmatched)) == ids.tolist()
    best = (0, 0.0)
    slots = list(range(len(others))) + [None] * len(rocks)
    for taken in set(permutations(slots, len(rocks))) if len(slots) <= 8 else ():
        held = [
            apart[i, j]
            for i, j in enumerate(taken)
            if j is not None and apart.get((i, j), 9.0) <= CALIPER
        ]
        best = max(best, (len(held), -sum(held)))
    if len(slots) <= 8:
        assert (len(found), -sum(found)) == pytest.approx(best)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 9_999), cut=st.integers(0, 20_000))
def test_prompts_are_counted_up_to_the_floor(seed: int, cut: int) -> None:
    rng = np.random.default_rng(seed)
    token = rng.zipf(1.4, 20_000) % 40
    prompt = rng.integers(0, 9, 20_000).astype(np.uint64) * np.uint64(2**60)
    floor, other = PromptFloor(5), PromptFloor(5)
    floor.update({"token_id": token[:cut], "prompt": prompt[:cut]})
    other.update({"token_id": token[cut:], "prompt": prompt[cut:]})
    floor.merge(other)
    expected = [min(5, len(set(prompt[token == v].tolist()))) for v in range(40)]
    assert floor.result(40).tolist() == expected


def test_facts_of_the_halves(tmp_path: Path) -> None:
    rows = frame(2, steps=(0,))
    rows["prompt"] = (rows["sequence_id"] // 3).astype(np.uint64)
    batch = {name: rows[name].to_numpy() for name in ("token_id", "prompt", "loss")}
    collect = HalfFacts(seed=7)
    collect.update(batch)
    facts = collect.result()
    half = halves(batch["prompt"], 7)
    for h in range(2):
        held = rows[half == h].groupby("token_id")
        assert facts.frequency_HT[h].tolist() == held.size().reindex(facts.token_T).tolist()
        sums = held["loss"].sum().reindex(facts.token_T)
        np.testing.assert_allclose(facts.loss_HT[h], sums, rtol=1e-5)
    assert facts.prompts_HT.max() == 5


# The bootstrap.


def test_weights_are_poisson_and_of_the_prompt_alone() -> None:
    prompts = np.arange(2_000, dtype=np.uint64) * np.uint64(977)
    weights = poisson_weights(3, 50, prompts)
    assert weights.shape == (2_000, 50)
    assert weights.mean() == pytest.approx(1, abs=0.015)
    assert weights.var() == pytest.approx(1, abs=0.03)
    shares = np.bincount(weights.astype(int).ravel(), minlength=4)[:4] / weights.size
    assert shares == pytest.approx(np.exp(-1) / np.array([1, 1, 2, 6]), abs=0.006)
    again = poisson_weights(3, 50, prompts[[5, 1_000]])
    np.testing.assert_array_equal(again, weights[[5, 1_000]])
    assert abs(np.corrcoef(weights[:, 0], weights[:, 1])[0, 1]) < 0.08


def test_small_tools() -> None:
    assert two_sided_p(np.arange(1.0, 100.0)) == 2 / 100
    assert two_sided_p(np.array([-1.0, 1.0])) == 1.0
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def bootstrap_of(rows: pd.DataFrame, types: range, seed: int) -> PromptBootstrap:
    made = PromptBootstrap(np.array(types), ("", "loss", "grad_norm"), seed, 400)
    batch = {n: rows[n].to_numpy() for n in ("token_id", "sequence_id", "loss", "grad_norm")}
    made.update({**batch, "prompt": rows["prompt"].to_numpy().astype(np.uint64)})
    return made


def null_rows(seed: int, prompts: int) -> pd.DataFrame:
    """24 types whose gradients have one distribution, drawn with an effect of each prompt."""
    rng = np.random.default_rng(seed)
    size = prompts * 40
    prompt = np.repeat(np.arange(prompts), 40)
    effect = rng.lognormal(0, 0.7, (prompts, 24))
    token = rng.integers(0, 24, size)
    grad = rng.exponential(1.0, size) * effect[prompt, token]
    return pd.DataFrame(
        {
            "token_id": token,
            "sequence_id": prompt,
            "prompt": hash_rows(seed, prompt),
            "loss": grad,
            "grad_norm": grad,
        }
    )


@pytest.mark.exhaustive
@pytest.mark.long
def test_contrasts_hold_their_level() -> None:
    """Under a null p is rarely small."""
    groups = Groups(
        {"rocks": tuple(range(8)), "high_kl": tuple(range(8, 16)),
         "random": tuple(range(16, 24)), "control": tuple(range(16, 24))}, (), ()
    )  # fmt: skip
    small, tries = 0, 0
    for seed in range(150):
        made = bootstrap_of(null_rows(seed, 200), range(24), seed)
        rows = contrasts(made, groups, "half 0", "half 1")
        for row in rows[:2]:
            small += row["p"] <= 0.05
            tries += 1
    assert small / tries <= 0.05 + 2 * (0.05 * 0.95 / tries) ** 0.5


# Bad input, and the command.


def run(*arguments: str | Path) -> tuple[int, str, str]:
    return run_command("attribute", *arguments)


def test_a_log_without_gradients(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log")
    said = (
        f"rocktok: {log}: fixed/ has no column grad_norm; record it with "
        "Recorder(columns=[…, 'grad_norm'])\n"
    )
    assert run(log) == (1, "", said)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read (No such file or directory)"),
        ("{", "is not JSON"),
        ("{}", "is not a result of `rocktok detect`"),
        ('{"schema": "rocktok.detect/1", "tokens": []}', "holds no rocks"),
    ],
)
def test_rocks_that_are_none(tmp_path: Path, content: str | None, message: str) -> None:
    path = write(tmp_path / "log", frame(1))
    rocks = tmp_path / "rocks.json"
    if content is not None:
        rocks.write_text(content)
    code, printed, said = run(path, "--rocks", rocks)
    assert (code, printed) == (1, "")
    assert said.startswith(f"rocktok: {rocks}: {message}")
    assert said.endswith("give what `rocktok detect LOG --format json -o FILE` writes\n")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--replicates", "5"], "--replicates is 5; it must be 100 or more"),
        (["--top", "0"], "--top is 0; it must be 1 or more"),
        (["--group-size", "0"], "--group-size is 0; it must be 1 or more"),
    ],
)
def test_wrong_options(tmp_path: Path, options: list[str], message: str) -> None:
    path = write(tmp_path / "log", frame(1))
    assert run(path, *options) == (2, "", f"rocktok: {message}\n")


def test_steps_that_are_not_there(tmp_path: Path) -> None:
    path = write(tmp_path, frame(1))
    with pytest.raises(LogError, match="fixed/ has no step 3; --step must be one of 0, 10"):
        attribute(path, step=3)
    assert attribute(path, step=0).log["step"] == 0
    with pytest.raises(UsageError, match="replicates is 1"):
        attribute(path, replicates=1)


def test_the_command_writes_every_format(tmp_path: Path) -> None:
    rocks = tmp_path / "rocks.json"
    assert run_command("detect", SAMPLE, "-q", "-o", rocks)[0] == 0
    options = [SAMPLE, "--rocks", rocks, "--replicates", "100", "-q"]
    code, printed, said = run(*options)
    assert (code, said) == (0, "")
    answer, how_sure, *rest = printed.splitlines()
    rocks = len(json.loads(rocks.read_text())["tokens"])
    assert re.fullmatch(
        rf"{rocks} rock types carry \d+% of the gradient norm at \d+% of the positions "
        r"\(95% interval \d+ to \d+%\)\.", answer
    )  # fmt: skip
    assert how_sure == (
        "Intervals are over prompts; contrasts: chosen on rocks given, measured on all prompts."
    )
    assert max(map(len, rest)) <= 80
    assert rest[-1] == str(SAMPLE)
    for suffix in ("json", "csv", "parquet"):
        assert run(*options, "-o", tmp_path / f"a.{suffix}")[0] == 0
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["schema"] == "rocktok.attribute/2"
    shares = [row["grad_share"] for row in content["tokens"]]
    assert shares == sorted(shares, reverse=True)
    assert {row["group"] for row in content["groups"]} == {"rocks", "high_kl", "random", "control"}
    rows = pd.read_csv(tmp_path / "a.csv", keep_default_na=False)
    same = pd.read_parquet(tmp_path / "a.parquet")
    assert rows["token_id"].tolist() == same["token_id"].tolist()
    assert rows["token_id"].tolist() == [row["token_id"] for row in content["tokens"]]
    about = json.loads(pq.read_schema(tmp_path / "a.parquet").metadata[b"rocktok"])
    assert about["schema"] == "rocktok.attribute/2"
    assert about["notes"] == content["notes"]
    assert about["params"]["replicates"] == 100


@pytest.mark.parametrize("option", ["--rocks", "--controls"])
def test_rocks_of_another_vocabulary(tmp_path: Path, option: str) -> None:
    log = write(tmp_path / "log", frame(1))
    vocab = rocktok.open(log).vocab.identity
    assert vocab is not None
    kinds = {"frequency": {"pairs": [[1, 4]]}}
    file = tmp_path / "given.json"

    def given(of_log: dict[str, Any]) -> tuple[int, str, str]:
        content = {"tokens": [{"token_id": v, "is_rock": True} for v in (1, 2, 3)], "kinds": kinds}
        command = "detect" if option == "--rocks" else "controls"
        content |= {"schema": f"rocktok.{command}/1", "log": {"rocks": [1, 2, 3], **of_log}}
        file.write_text(json.dumps(content))
        return run(log, option, file, "-q", "--replicates", "100")

    assert given({"vocab": "another"}) == (
        1,
        "",
        f"rocktok: {file}: its vocabulary differs from the log's, so ids have other texts; give "
        "a result of a log with the same tokenizer\n",
    )
    for known in ({"vocab": vocab}, {"vocab": None}, {}):
        code, printed, said = given(known)
        assert (code, said) == (0, "")
        assert printed
