"""`stagnation`: by hand, by a brute-force twin, its choice of groups, its messages."""

from __future__ import annotations

import io
import itertools
import json
import math
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import rocktok
from rocktok.analyses.controls.table import render as render_controls
from rocktok.analyses.stagnation.same_text import SequenceTexts, TextHash, hash_text
from rocktok.analyses.stagnation.table import answer, encode, render
from rocktok.engine.passes import Engine
from rocktok.errors import LogError, UsageError
from rocktok.hashing import halves
from rocktok.inputs import load_controls
from rocktok.log import LogWriter
from rocktok.log.sequences import load_prompts
from rocktok.stats.matching import match
from tests.analyses.attribute.test_attribute import prompt_hashes, twin_weights
from tests.learning_worlds import World, learning_log, shuffled_log
from tests.logs import RUN, rows, sequence_rows, write_by_hand, write_log
from tests.paths import SAMPLE
from tests.planted import PlantedLog
from tests.processes import run_command
from tests.stats.interval_twin import interval, same
from tests.stats.test_adjusted import twin_difference


def stagnation(path: Path, **options: Any) -> Any:
    options = {"rocks": (0, 1), "replicates": 200, **options}
    return rocktok.stagnation(rocktok.open(path), **options)


def token(result: Any, token_id: int) -> dict[str, Any]:
    return next(row for row in result.tokens if row["token_id"] == token_id)


# Curves and their intervals.


def course(steps: tuple[int, ...], seed: int = 0, prompts: int = 60) -> pd.DataFrame:
    """Types 0 … 9: even ones learn, odd ones stay; type 9 is missing at the second step."""
    rng = np.random.default_rng(seed)
    shape = prompts * 2, 14
    text = rng.integers(0, 10, shape)
    level = (
        rng.exponential(1.0, shape)
        * (1 + text / 4)
        * rng.uniform(0.5, 2, (prompts, 1)).repeat(2, axis=0)
    )
    parts = []
    for i, step in enumerate(steps):
        learned = np.where(text % 2 == 0, 0.5**i, 1.0)
        noise = rng.uniform(0.8, 1.2, shape)
        parts.append(
            pd.DataFrame(
                {
                    "step": step,
                    "sequence_id": np.repeat(np.arange(shape[0]), shape[1]),
                    "position": np.tile(np.arange(shape[1]), shape[0]),
                    "token_id": text.ravel(),
                    "loss": (level * learned * noise).ravel().astype(np.float32),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def write(
    tmp_path: Path, frame: pd.DataFrame, table: str = "fixed", cut: int = 1, types: int = 50
) -> Path:
    path = tmp_path / f"log-{table}-{cut}"
    listed = pd.DataFrame({"sequence_id": sorted(frame["sequence_id"].unique())})
    listed["step"], listed["num_tokens"] = 0, 14
    listed["prompt_id"] = [f"p{s // 2}" for s in listed["sequence_id"]]
    vocab = [(i, f"t{i}", b"t%d" % i) for i in range(types)]
    with LogWriter(path, run={**RUN, "vocab_size": types}, vocab=vocab) as writer:
        writer.write(listed, table="sequences")
        for step, part in frame.groupby("step"):
            for piece in range(cut):
                some = part[part["sequence_id"] % cut == piece]
                writer.write(some.sort_values(["sequence_id", "position"]), table=table)
                writer.flush()
            writer.finish_step(int(step), table)
    return path


def test_means_ratios_and_intervals_are_the_twins(tmp_path: Path) -> None:
    steps = (1, 10, 100)
    frame = course(steps)
    path = write(tmp_path, frame)
    result = stagnation(path, seed=3)
    frame["prompt"] = frame["sequence_id"].map(prompt_hashes(path))
    frame["loss"] = frame["loss"].astype(float)
    prompts = sorted(frame["prompt"].unique().tolist())
    weights = twin_weights(3, 200, prompts)
    sums: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
    largest = frame.groupby("step")["loss"].max()
    for (step, v), part in frame.groupby(["step", "token_id"]):
        by = part.groupby("prompt")["loss"].agg(["sum", "size"]).reindex(prompts, fill_value=0)
        sums[int(step), int(v)] = by["sum"].to_numpy(), by["size"].to_numpy()

    def mean(weight_P: np.ndarray, step: int, v: int) -> float:
        loss_P, count_P = sums[step, v]
        return float(weight_P @ loss_P / (weight_P @ count_P))

    def parts(v: int, *some: int) -> list[tuple[np.ndarray, float]]:
        both = [(sums[step, v], (largest[step], 1.0)) for step in some]
        return [(pair[i], most[i]) for pair, most in both for i in range(2)]

    given = 0
    x = np.log(steps)
    for v in range(10):
        row = token(result, v)
        for at, step in enumerate(steps):
            assert row["curve"][at] == pytest.approx(mean(np.ones(len(prompts)), step, v))
            ends = interval(lambda w, s=step, v=v: mean(w, s, v), parts(v, step), weights)
            assert same((row["curve_low"][at], row["curve_high"][at]), ends)
        fit = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
        for name, values, some in (
            ("stagnation", lambda w, v=v: mean(w, 100, v) / mean(w, 1, v), (1, 100)),
            ("delta_kl", lambda w, v=v: mean(w, 100, v) - mean(w, 1, v), (1, 100)),
            ("slope", lambda w, v=v, fit=fit: fit @ np.log([mean(w, s, v) for s in steps]), steps),
        ):
            ends = interval(values, parts(v, *some), weights, positive=name == "stagnation")
            assert same((row[f"{name}_low"], row[f"{name}_high"]), ends)
            given += ends[0] is not None
        assert row["few_prompts_carry_it"] == (row["slope_low"] is None)
        assert row["slope"] == pytest.approx(np.polyfit(x, np.log(row["curve"]), 1)[0], rel=1e-7)
    group = next(row for row in result.groups if row["group"] == "rocks")
    firsts = [token(result, v)["loss_pre"] for v in (0, 1)]
    lasts = [token(result, v)["loss_post"] for v in (0, 1)]
    assert group["stagnation"] == pytest.approx(sum(lasts) / sum(firsts))
    assert given >= 15
    both = []
    for step in (1, 100):
        # A further occurrence would be of one of the types, of each with the same chance.
        count = [sums[step, v][1].sum() for v in (0, 1)]
        loss_P = sum(sums[step, v][0] / count[v] / 2 for v in (0, 1))
        both.append((loss_P, largest[step] * np.mean([1 / (2 * n) ** 2 for n in count]) ** 0.5))
    ends = interval(
        lambda w: (mean(w, 100, 0) + mean(w, 100, 1)) / (mean(w, 1, 0) + mean(w, 1, 1)),
        both, weights, level=0.9,
    )  # fmt: skip
    assert ends[0] is not None
    assert same((group["stagnation_low90"], group["stagnation_high90"]), ends)
    means = frame.groupby("step")["loss"].mean()
    assert result.corpus["stagnation"] == pytest.approx(means[100] / means[1], rel=1e-9)


def test_a_type_that_is_absent_leaves_a_gap(tmp_path: Path) -> None:
    frame = course((0, 5, 10))
    absent = (frame["step"] == 5) & (frame["token_id"] == 9)
    lost = (frame["step"] == 10) & (frame["token_id"] == 8)
    # Other text at a step: rollouts.
    path = write(tmp_path, frame[~(absent | lost)], "rollout")
    result = stagnation(path, rocks=(8, 9))
    nine, eight = token(result, 9), token(result, 8)
    assert nine["curve"][1] is None
    assert nine["curve_low"][1] is None
    assert nine["stagnation"] is not None
    assert (eight["loss_post"], eight["stagnation"], eight["delta_kl"]) == (None, None, None)
    rocks = [row for row in result.curves if row["group"] == "rocks"]
    assert [row["types_seen"] for row in rocks] == [2, 1, 1]
    assert result.groups[0]["types_at_both_ends"] == 1
    # Step 0 has no logarithm, and two steps are left: no slope.
    assert nine["slope"] is None
    assert result.log["text"] == "each step's own rollouts"
    assert any("drift of the contexts" in note for note in result.notes)


def test_a_type_without_loss_at_first_counts_in_its_group(tmp_path: Path) -> None:
    frame = course((0, 10))
    frame.loc[(frame["step"] == 0) & frame["token_id"].isin((1, 9)), "loss"] = 0
    result = stagnation(write(tmp_path, frame), rocks=(0, 1))
    zero, one = token(result, 0), token(result, 1)
    assert (one["loss_pre"], one["stagnation"], one["stagnation_low"]) == (0, None, None)
    rocks = result.groups[0]
    assert rocks["types_at_both_ends"] == 2
    expected = (zero["loss_post"] + one["loss_post"]) / zero["loss_pre"]
    assert rocks["stagnation"] == pytest.approx(expected)
    alone = stagnation(write(tmp_path / "b", frame), rocks=(1, 9))
    rocks = alone.groups[0]
    assert "skipped" not in rocks
    assert (rocks["loss_pre"], rocks["stagnation"], rocks["stagnation_low"]) == (0, None, None)
    assert rocks["delta_kl"] == pytest.approx(rocks["loss_post"])
    assert rocks["does_not_learn"] is None
    # Half of the rocks of the contrasts have no ratio.
    many = stagnation(write(tmp_path / "c", frame), rocks=(0, 1, 2, 9, 4))
    test = next(row for row in many.tests if row["second"] == "random")
    assert test["skipped"] == (
        "3 rocks against 5 types have a loss above 0 at the pre step; at least 5 of each are needed"
    )


def test_a_group_that_ends_without_loss_has_no_ratio(tmp_path: Path) -> None:
    frame = course((0, 10))
    frame.loc[(frame["step"] == 10) & (frame["token_id"] > 4), "loss"] = 0
    path = write(tmp_path, frame)
    result = stagnation(path, rocks=(0, 1, 2, 3, 4))
    assert result.groups[2]["group"] == "high_kl"
    assert (result.groups[2]["stagnation"], result.groups[2]["stagnation_high"]) == (0, None)
    assert result.groups[2]["few_prompts_carry_it"]
    test = next(row for row in result.tests if row["second"] == "high_kl")
    assert (test["types_first"], test["types_second"]) == (5, 5)
    assert (test["ratio"], test["ratio_low"], test["ratio_high"]) == (None, None, None)
    # The medians can be told apart all the same.
    assert test["difference_of_medians"] > 0
    assert test["rank_biserial"] == 1
    assert "high_kl" in render(result)
    json.loads(result.to_json())


def test_no_interval_of_a_curve_below_20_prompts(tmp_path: Path) -> None:
    frame = course((0, 10), prompts=200)
    few = stagnation(write(tmp_path / "a", frame[frame["sequence_id"] < 38]))
    enough = stagnation(write(tmp_path / "b", frame))
    for result, known in ((few, False), (enough, True)):
        curves = [*result.corpus["curve"], *result.curves]
        rows_ = [row for row in curves if row["loss"] is not None]
        assert len(rows_) >= 2 + 2 * 3
        for row in rows_:
            assert (row["loss_low"] is not None, row["loss_high"] is not None) == (known, known)
        assert (token(result, 0)["curve_low"][0] is not None) == known


def test_fixed_text_that_differs_is_cut_to_what_all_steps_have(tmp_path: Path) -> None:
    frame = course((0, 5, 10))
    shorter = frame[~((frame["step"] == 5) & (frame["sequence_id"] >= 100))]
    result = stagnation(write(tmp_path, shorter))
    only = frame[frame["sequence_id"] < 100]
    expected = only[only["step"] == 10].groupby("token_id")["loss"].size()
    assert token(result, 0)["frequency_post"] == expected[0]
    assert any("100 of up to 120 sequences of fixed/" in note for note in result.notes)


def test_other_sequences_at_a_step_of_the_same_length_are_noticed(tmp_path: Path) -> None:
    frame = course((0, 5, 10))
    apart = frame.copy()
    apart.loc[(apart["step"] == 10) & (apart["sequence_id"] >= 100), "sequence_id"] += 1000
    only = frame[frame["sequence_id"] < 100]
    found = stagnation(write(tmp_path / "a", apart), rocks=None, top_k=2).to_dict()
    expected = stagnation(write(tmp_path / "b", only), rocks=None, top_k=2).to_dict()
    assert (
        "100 of up to 120 sequences of fixed/ are scored at every step; only these are used"
        in (found["notes"])
    )
    for part in ("tokens", "groups", "members", "corpus"):
        assert found[part] == expected[part]
    # Facts, the search, a course that ended at the third step, the sequences of 3 steps, and all
    # over again.
    search = expected["log"]["passes"] - 4
    assert search > 0
    assert found["log"]["passes"] == 2 * (4 + search) + 3
    apart.loc[apart["step"] == 10, "sequence_id"] += 5000
    with pytest.raises(
        LogError, match=r"no sequence of fixed/ is scored at every step from 0 to 10"
    ):
        stagnation(write(tmp_path / "c", apart))


@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("column", ["token_id", "position"])
def test_other_text_under_an_id_is_an_error(tmp_path: Path, half: int, column: str) -> None:
    frame = course((0, 5, 10))
    prompts = load_prompts(rocktok.open(write(tmp_path / "good", frame)))
    ids = np.arange(120)
    wrong = int(ids[halves(prompts.of(ids), 0) == half][3])
    where = (frame["step"] == 5) & (frame["sequence_id"] == wrong)
    frame.loc[where, column] = frame.loc[where, column].to_numpy() + 1
    # In whichever half: also in the one that groups are not measured on.
    message = (
        rf"sequence {wrong} at step 5 has another text than at step 0; a sequence_id in "
        "fixed/ must mean the same text at every step"
    )
    with pytest.raises(LogError, match=message):
        stagnation(write(tmp_path / "bad", frame), rocks=None, top_k=2)


def test_hashes_of_text_add_up_in_any_order() -> None:
    batch = {
        "sequence_id": np.repeat([3, 1, 2**40], [2, 1, 2]).astype(np.int64),
        "position": np.array([0, 1, 0, 0, 1], np.int32),
        "token_id": np.array([7, 8, 7, 8, 7], np.int32),
    }
    whole, parts, texts = TextHash(), TextHash(), SequenceTexts()
    whole.update(batch)
    texts.update(batch)
    for rows_ in ([3, 4], [0, 1, 2]):
        other = TextHash()
        other.update({name: values[rows_] for name, values in batch.items()})
        parts.merge(other)
    assert whole.value == parts.value == int(hash_text(batch).sum())
    assert len(set(hash_text(batch).tolist())) == 5
    ids, hashes = texts.result()
    assert ids.tolist() == [1, 3, 2**40]
    assert hashes[0] == hash_text(batch)[2]
    swapped = {**batch, "token_id": batch["token_id"][[1, 0, 2, 3, 4]]}
    assert hash_text(swapped).sum() != hash_text(batch).sum()


def test_sequences_that_do_not_stand_at_every_step_choose_no_groups(tmp_path: Path) -> None:
    frame = course((0, 10), prompts=200)
    # At the first step alone: 60 sequences of types 7 and 8 with losses like no others.
    extra = frame[(frame["step"] == 0) & (frame["sequence_id"] < 60)].copy()
    extra["sequence_id"] += 1000
    extra["token_id"], extra["loss"] = 7 + extra["position"] % 2, np.float32(90)
    both = pd.concat((frame, extra), ignore_index=True)
    found = stagnation(write(tmp_path / "a", both), rocks=None, top_k=2, seed=4).to_dict()
    expected = stagnation(write(tmp_path / "b", frame), rocks=None, top_k=2, seed=4).to_dict()
    for part in ("members", "tokens", "tests"):
        assert found[part] == expected[part]
    assert any("400 of up to 460 sequences" in note for note in found["notes"])


def test_any_workers_and_any_cut_give_the_same(tmp_path: Path) -> None:
    frame = course((0, 5, 10), prompts=100)
    results = []
    for cut, jobs in ((1, 1), (1, 3), (4, 2)):
        result = stagnation(write(tmp_path / str(jobs), frame, cut=cut), rocks=None,
                            engine=Engine(jobs=jobs))  # fmt: skip
        found = result.to_dict()
        found["log"] = {k: v for k, v in found["log"].items() if k in ("steps", "passes", "text")}
        results.append(found)
    assert results[0] == results[1]
    assert results[0]["members"] == results[2]["members"]
    for one, other in zip(results[0]["tokens"], results[2]["tokens"], strict=True):
        assert one["stagnation"] == pytest.approx(other["stagnation"], rel=1e-12)


# The choice of groups.


def test_groups_are_chosen_on_one_half_and_measured_on_the_other(tmp_path: Path) -> None:
    frame = course((0, 5, 10), prompts=200)
    path = write(tmp_path / "a", frame)
    result = stagnation(path, rocks=None, top_k=3, seed=1)
    assert (result.members["rocks"], len(result.members["high_loss"])) == ((), 3)
    assert (result.log["first"], result.log["selected_at"]) == ("high_loss", [5])
    assert (result.log["pre"], result.log["post"], result.log["steps"]) == (5, 10, [0, 5, 10])
    assert (result.log["chosen_on"], result.log["measured_on"]) == (
        "half 0 of the prompts", "half 1 of the prompts"
    )  # fmt: skip
    assert result.log["descriptive"] is None
    prompts = load_prompts(rocktok.open(path))
    half = halves(prompts.of(frame["sequence_id"].to_numpy()), 1)
    changed = frame.copy()
    changed.loc[half == 1, "loss"] *= np.where(changed[half == 1]["token_id"] < 3, 9, 0.5).astype(
        np.float32
    )
    other = stagnation(write(tmp_path / "b", changed), rocks=None, top_k=3, seed=1)
    for name in ("high_loss", "high_kl", "random", "control", "loss_control"):
        assert other.members[name] == result.members[name]
    # Only the first two steps choose: what comes later in the half that chooses changes nothing.
    later = frame.copy()
    later.loc[(half == 0) & (later["step"] > 5), "loss"] *= 7
    third = stagnation(write(tmp_path / "c", later), rocks=None, top_k=3, seed=1)
    assert third.to_dict()["tokens"] == result.to_dict()["tokens"]
    assert third.to_dict()["tests"] == result.to_dict()["tests"]
    measured = frame[(half == 1) & (frame["step"] == 10)]
    sizes = measured.groupby("token_id").size()
    assert all(row["frequency_post"] == sizes[row["token_id"]] for row in result.tokens)


def test_groups_of_the_last_step_are_descriptive(tmp_path: Path) -> None:
    frame = course((0, 5, 10), prompts=200)
    result = stagnation(write(tmp_path, frame), rocks=None, top_k=3, select_at="last")
    assert result.log["measured_on"] == "all prompts"
    assert result.log["descriptive"] == "descriptive: conditioned on the outcome"
    last = frame[frame["step"] == 10].groupby("token_id")["loss"].sum()
    assert set(result.members["high_loss"]) == set(last.nlargest(3).index)
    assert (result.log["pre"], result.log["selected_at"]) == (0, [10])
    assert result.log["no_rocks"].startswith(
        "no rocks to follow: --select-at last chooses types by their"
    )
    assert "the types with the most loss at step 10 have" in answer(result)[0].lower()


@pytest.mark.parametrize("at_once", [1, 9, 1 << 16])
def test_matching_is_the_best_there_is(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rocktok.stats.matching._AT_ONCE", at_once)
    rng = np.random.default_rng(5)
    for _ in range(30):
        ours, theirs = rng.normal(size=(3, 2)), rng.normal(size=(4, 2))
        caliper = np.array([0.9, 1.2])
        pairs, left = match(ours, theirs, caliper)
        best = (0, 0.0)
        for chosen in itertools.permutations(range(4), 3):
            apart = [np.abs(ours[i] - theirs[j]) / caliper for i, j in enumerate(chosen)]
            within = [steps.sum() for steps in apart if (steps <= 1).all()]
            best = max(best, (len(within), -sum(within)))
        found = [(np.abs(ours[i] - theirs[j]) / caliper) for i, j in pairs]
        assert all((steps <= 1).all() for steps in found)
        assert len(found) == best[0]
        assert sum(float(steps.sum()) for steps in found) == pytest.approx(-best[1])
        assert sorted([*pairs[:, 0].tolist(), *left.tolist()]) == [0, 1, 2]
        assert len(set(pairs[:, 1].tolist())) == len(pairs)


def test_logarithms_of_losses_of_0_match_nothing_and_warn_of_nothing() -> None:
    lost = np.array([[-np.inf, 0.0], [1.0, 0.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pairs, left = match(lost, lost, np.array([0.1, 0.1]))
    assert (pairs.tolist(), left.tolist()) == ([[1, 1]], [0])


def test_controls_are_like_their_rocks(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    count, tokens = 400, 20
    text = rng.integers(0, 40, (count, tokens))
    loss = rng.exponential(1.0, text.shape) * (1 + text // 4 / 10)
    frame = pd.concat(
        pd.DataFrame(
            {
                "step": step,
                "sequence_id": np.repeat(np.arange(count), tokens),
                "position": np.tile(np.arange(tokens), count),
                "token_id": text.ravel(),
                "loss": (loss * scale).ravel().astype(np.float32),
            }
        )
        for step, scale in ((1, 1.0), (9, 0.5))
    )
    result = stagnation(write(tmp_path, frame), rocks=None, top_k=8)
    assert len(result.members["pairs"]["control"]) >= 5
    for name in ("control", "loss_control"):
        pairs = result.members["pairs"][name]
        matched = {first for first, _ in pairs}
        assert matched | set(result.members["without_control"][name]) == set(
            result.members["high_loss"]
        )
        assert not {other for _, other in pairs} & set(result.members["high_loss"])
    test = next(row for row in result.tests if row["second"] == "control")
    assert test["first"] == "high_loss"
    assert test["ratio"] == pytest.approx(1, abs=1e-6)
    assert test["ratio_low"] == pytest.approx(1, abs=1e-6)
    assert test["ratio_high"] == pytest.approx(1, abs=1e-6)
    assert result.adjusted["verdict"] == "not comparable"
    assert {row["covariate"] for row in result.members["balance"]} == {
        "log10 frequency", "log10 mean loss", "mean position"
    }  # fmt: skip


def test_too_few_types_are_said_to_be_so(tmp_path: Path) -> None:
    frame = course((0, 10))
    few = stagnation(write(tmp_path / "a", frame[frame["sequence_id"] < 16]), rocks=None)
    assert few.members["rocks"] == few.members["high_loss"] == ()
    floors = "20 times and in 5 prompts in each half of the prompts"
    assert few.notes[1:] == (
        f"no groups: no type occurs {floors} in fixed/ at step 0; record more prompts",
    )
    assert {row["skipped"] for row in few.groups} == {"the group is empty"}
    render(few)
    # Types without loss have none to be large, and three of ten would have been taken.
    two = frame.copy()
    two.loc[(two["step"] == 0) & (two["token_id"] > 1), "loss"] = 0
    assert stagnation(write(tmp_path / "b", two), rocks=None).members["high_loss"] == (0, 1)
    two["loss"] *= two["step"] > 0
    lost = stagnation(write(tmp_path / "c", two), rocks=None)
    assert lost.members["high_loss"] == ()
    assert lost.notes[1:] == (
        f"no groups: no type that occurs {floors} has a loss in fixed/ at step 0",
    )
    every = stagnation(write(tmp_path / "d", frame), rocks=tuple(range(10)))
    assert every.notes[1:] == (
        f"random and the matched groups are empty: no type except the rocks occurs {floors} in "
        "fixed/ at step 0",
    )


def test_groups_that_are_one_are_said_to_be(tmp_path: Path) -> None:
    path = write(tmp_path, course((0, 10)))
    same = "only 7 types occur in enough prompts beside the rocks, so high_kl and random are"
    cut = "high_kl and random have 7 types, not 8: there are no more"
    for size, said in ((6, []), (7, [same]), (8, [same, cut])):
        result = stagnation(path, rocks=None, top_k=3, group_size=size)
        assert len(result.members["high_kl"]) == len(result.members["random"]) == min(size, 7)
        found = [note.removesuffix(" the same; give a smaller --group-size")
                 for note in result.notes if note.startswith(("only", "high_kl"))]  # fmt: skip
        assert found == said


# Rocks and controls from `rocktok controls`.


def test_controls_that_are_given_are_contrasted(tmp_path: Path) -> None:
    frame = course((0, 5, 10), prompts=200)
    path = write(tmp_path, frame)
    log = rocktok.open(path)
    pairs = ((0, 3), (1, 2), (4, 7), (6, 5), (40, 8), (8, 41))
    result = rocktok.stagnation(log, rocks=(0, 1, 4, 6, 8, 40), pairs=pairs, replicates=200)
    # Types 40 and 41 do not stand in the log.
    kept = [[a, b] for a, b in pairs[:4]]
    assert [list(pair) for pair in result.members["pairs"]["control"]] == kept
    assert result.members["control"] == (2, 3, 5, 7)
    assert result.members["without_control"]["control"] == (8,)
    assert result.members["control_source"] == "given"
    assert result.log["descriptive"].startswith("rocks given: descriptive, unless")
    assert any("(2 left out: not in fixed/ at step 0)" in note for note in result.notes)
    counts = frame[frame["step"] == 0].groupby("token_id").size()
    logs = np.log10(counts)
    rocks, others = ([pair[side] for pair in kept] for side in (0, 1))
    spread = ((logs[[0, 1, 4, 6, 8]].var(ddof=0) + logs[[2, 3, 5, 7, 9]].var(ddof=0)) / 2) ** 0.5
    row = next(r for r in result.members["balance"] if r["covariate"] == "log10 frequency")
    assert row["smd_after"] == pytest.approx((logs[rocks].mean() - logs[others].mean()) / spread)
    test = next(row for row in result.tests if row["second"] == "control")
    assert test["skipped"] == "4 rocks against 4 types; at least 5 of each are needed"
    with pytest.raises(LogError, match=r"none of the 2 rocks occurs in fixed/ at step 0; give ro"):
        rocktok.stagnation(log, rocks=(40, 41))
    with pytest.raises(LogError, match=r"none of the 1 pairs of a rock and its control occurs in"):
        rocktok.stagnation(log, rocks=(0,), pairs=((0, 41),))


def test_a_pair_is_compared_where_both_of_it_are_seen_at_both_ends(tmp_path: Path) -> None:
    pairs = ((0, 3), (1, 2), (4, 7), (6, 5), (8, 9))
    frame = course((0, 10), prompts=100)
    whole = stagnation(write(tmp_path / "a", frame, "rollout"), rocks=(0, 1, 4, 6, 8), pairs=pairs)
    test = next(row for row in whole.tests if row["second"] == "control")
    assert (test["types_first"], test["types_second"]) == (5, 5)
    # A control has gone at the last step, and its rock goes with it.
    gone = frame[~((frame["step"] == 10) & (frame["token_id"] == 3))]
    found = stagnation(write(tmp_path / "b", gone, "rollout"), rocks=(0, 1, 4, 6, 8), pairs=pairs)
    test = next(row for row in found.tests if row["second"] == "control")
    assert test["skipped"] == "4 rocks against 4 types; at least 5 of each are needed"
    assert found.groups[0]["types_at_both_ends"] == 5


def test_the_command_takes_controls(tmp_path: Path) -> None:
    file = tmp_path / "controls.json"
    made = rocktok.controls(rocktok.open(SAMPLE), kinds=("frequency", "loss"))
    file.write_text(made.to_json())
    code, text, said = run(SAMPLE, "--controls", file, "--control-kind", "loss", "--replicates",
                           100, "--format", "json")  # fmt: skip
    assert code == 0
    found = json.loads(text)
    assert found["members"]["pairs"]["control"] == made.kinds["loss"]["pairs"]
    assert found["members"]["rocks"] == made.log["rocks"]
    assert "control: the pairs were given; the balance shows how similar they are here" in said
    names = ("rocks", "controls", "rocks_file", "controls_file", "control_kind")
    assert [found["params"][name] for name in names] == [
        "given", "given", None, "controls.json", "loss"
    ]  # fmt: skip
    code, table, _ = run(SAMPLE, "--controls", file, "--replicates", 100)
    assert "rocks and control given, others chosen at step 8, measured on all prompts" in table
    assert run(SAMPLE, "--controls", file, "--rocks", file) == (
        2, "", "rocktok: --controls names its own rocks; leave out --rocks\n"
    )  # fmt: skip


def test_options_that_would_do_nothing(tmp_path: Path) -> None:
    file = tmp_path / "any.json"
    assert run(SAMPLE, "--control-kind", "loss") == (
        2,
        "",
        "rocktok: --control-kind needs a file of controls; give --controls too\n",
    )
    for by in ("--rocks", "--controls"):
        assert run(SAMPLE, by, file, "--top-k", "5") == (
            2,
            "",
            f"rocktok: --top-k applies only without rocks, and {by} names some; leave out one\n",
        )


WRITES = "; give what `rocktok controls LOG --format json -o FILE` writes\n"


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "rocktok.detect/1"},
        {"log": {}},
        {"log": {"rocks": [-1, 13]}},
        {"log": {"rocks": ["13"]}},
        {"kinds": []},
        {"kinds": {"loss": {"pairs": [[13]]}}},
        {"kinds": {"loss": {"pairs": [[13, 13]]}}},
        {"kinds": {"loss": {"pairs": [[13, 5], [14, 5]]}}},
        {"kinds": {"loss": {"pairs": [[99, 5]]}}},
    ],
    ids=str,
)
def test_files_that_are_no_controls(tmp_path: Path, change: dict[str, Any]) -> None:
    file = tmp_path / "controls.json"
    good = {"schema": "rocktok.controls/1", "log": {"rocks": [13, 14]},
            "kinds": {"loss": {"pairs": [[13, 5]]}}}  # fmt: skip
    file.write_text(json.dumps({**good, **change}))
    with pytest.raises(LogError) as caught:
        load_controls(file, "loss")
    assert f"{caught.value}\n" == f"{file}: is not a result of `rocktok controls`{WRITES}"


def test_controls_that_cannot_be_read(tmp_path: Path) -> None:
    file = tmp_path / "controls.json"
    said = "rocktok: {}: cannot be read (No such file or directory)" + WRITES
    assert run(SAMPLE, "--controls", file) == (1, "", said.format(file))
    file.write_text('{"schema": "rocktok.con')
    code, _, said = run(SAMPLE, "--controls", file)
    assert code == 1
    assert said.startswith(f"rocktok: {file}: is not JSON (Unterminated string starting at: line 1")
    assert said.endswith(WRITES)
    assert said.count("\n") == 1


# Bad input, and the command.


def run(*arguments: str | Path) -> tuple[int, str, str]:
    return run_command("stagnation", *arguments)


def test_one_step_only(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", steps=(7,))
    assert run(log) == (
        1,
        "",
        f"rocktok: {log}: fixed/ has one complete step, 7; learning needs two or more: record "
        "with fixed_sequences, or score saved checkpoints with `rocktok rescore`\n",
    )


def two_ranks(path: Path, missing: tuple[int, ...]) -> Path:
    """Steps 0, 5, 10; rank 1 lacks some."""
    with LogWriter(path, run=RUN, rank=0, world_size=2) as first:
        attempt, run_id = first.attempt, first.run_id
        second = LogWriter(path, run=RUN, rank=1, world_size=2, attempt=attempt, run_id=run_id)
        for rank, writer in enumerate((first, second)):
            ids = range(rank * 40, rank * 40 + 40)
            writer.write(sequence_rows(ids), table="sequences")
            for step in (0, 5, 10):
                if rank == 1 and step in missing:
                    continue
                writer.write(rows(step, ids), table="fixed")
                writer.finish_step(step, "fixed")
        second.close()
    return path


def test_a_step_missing_on_one_rank(tmp_path: Path) -> None:
    path = two_ranks(tmp_path / "log", missing=(5,))
    left_out = "1 step of fixed/ dropped or unfinished on some rank, and not used by default: 5"
    result = stagnation(path)
    assert result.log["steps"] == [0, 10]
    assert left_out in result.notes
    asked = stagnation(path, pre=5)
    assert asked.log["steps"] == [5, 10]
    assert left_out in asked.notes
    assert "step 5 is incomplete: some ranks are missing" in asked.notes
    assert "40 of up to 80 sequences of fixed/ are scored at every step; only these are used" in (
        asked.notes
    )


@pytest.mark.parametrize(
    ("missing", "options", "message"),
    [
        ((10,), {"pre": 10}, "pre is step 10, post is step 5 (the last complete one); it must "
                               "be the earlier one"),
        ((0,), {"post": 0}, "post is step 0, pre is step 5 (the first complete one); it must be "
                            "the later one"),
        ((), {"pre": 10}, "pre is step 10, post is step 10 (the last complete one); it must "
                            "be the earlier one"),
        ((), {"post": 0}, "post is step 0, pre is step 0 (the first complete one); it must be "
                          "the later one"),
        ((), {"pre": 5, "post": 5}, "post is step 5, pre is step 5; it must be the later one"),
    ],
)  # fmt: skip
def test_the_last_step_must_be_the_later_one(
    tmp_path: Path, missing: tuple[int, ...], options: dict[str, int], message: str
) -> None:
    path = two_ranks(tmp_path / "log", missing)
    with pytest.raises(UsageError) as caught:
        stagnation(path, **options)
    assert str(caught.value) == message
    asked = [word for name, step in options.items() for word in (f"--{name}", str(step))]
    assert run(path, *asked) == (2, "", f"rocktok: --{message}\n")


def test_one_step_is_whole_or_none(tmp_path: Path) -> None:
    one = two_ranks(tmp_path / "one", missing=(0, 5))
    assert run(one) == (
        1,
        "",
        f"rocktok: {one}: fixed/ has one complete step, 10; learning needs two or more: record "
        "with fixed_sequences, or score saved checkpoints with `rocktok rescore`\n",
    )
    none = two_ranks(tmp_path / "none", missing=(0, 5, 10))
    assert run(none) == (
        1,
        "",
        f"rocktok: {none}: no step of fixed/ is complete on every rank; give --pre and --post "
        "to use two as they are: 0, 5, 10\n",
    )
    assert stagnation(none, pre=0, post=10).log["steps"] == [0, 10]


def test_a_group_that_is_absent_at_an_end_is_skipped(tmp_path: Path) -> None:
    frame = course((0, 5, 10))
    gone = (frame["step"] == 10) & frame["token_id"].isin((8, 9))
    path = write(tmp_path, frame[~gone], "rollout")
    result = stagnation(path, rocks=(8, 9))
    rocks = result.groups[0]
    assert rocks["skipped"] == "no type of the group occurs at both steps"
    assert "stagnation" not in rocks
    last = next(r for r in result.curves if (r["group"], r["step"]) == ("rocks", 10))
    assert (last["types_seen"], last["loss"], last["loss_low"]) == (0, None, None)
    skipped = {row["second"]: row["skipped"] for row in result.tests}
    assert skipped["high_kl"].startswith("0 rocks against ")
    file = tmp_path / "rocks.csv"
    detected = tmp_path / "detect.json"
    row = {"token_id": 8, "is_rock": True}
    detected.write_text(json.dumps({"schema": "rocktok.detect/1", "tokens": [row]}))
    assert run(path, "--rocks", detected, "--replicates", 100, "-o", file)[0] == 0
    table = pd.read_csv(file).query("token_id == 8").set_index("step")
    # An empty cell, not a zero.
    assert table["loss"].isna().tolist() == [False, False, True]
    assert table["loss_post"].isna().all()
    code, text, _ = run(path, "--rocks", detected, "--replicates", 100)
    assert code == 0
    assert re.search(r"^'t8' +\d+ +\d\S+ +– +– +– +–", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"pre": 3}, LogError, "fixed/ has no step 3; --pre must be one of 0, 10"),
        ({"pre": 10, "post": 0}, UsageError, "post is step 0, pre is step 10; it must be"),
        ({"top_k": 0}, UsageError, "top_k is 0; it must be 1 or more"),
        ({"select_at": "middle"}, UsageError, "select_at is 'middle'; it must be first or last"),
    ],
)  # fmt: skip
def test_options_out_of_range(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        stagnation(write_log(tmp_path / "log"), **options)


def test_no_sequence_stands_at_all_steps(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write_by_hand(path, rows(0, range(6)), name="a")
    write_by_hand(path, rows(5, range(6, 10)), name="b")
    (path / "run.json").write_text(json.dumps({"schema_version": 1, **RUN}))
    with pytest.raises(
        LogError, match=r"no sequence of fixed/ is scored at every step from 0 to 5"
    ):
        stagnation(path)


def test_a_table_of_no_types_has_its_columns(tmp_path: Path) -> None:
    frame = course((0, 10))
    few = frame[frame["sequence_id"] < 16]
    empty = stagnation(write(tmp_path / "a", few), rocks=None, top=0)
    assert empty.tokens == ()
    assert "Tokens" not in render(empty)
    some = stagnation(write(tmp_path / "b", few), rocks=None, select_at="last")
    assert some.params["rocks_file"] is None
    tables = [pd.read_csv(io.BytesIO(encode(result, "csv"))) for result in (empty, some)]
    assert len(tables[0]) == 0
    assert tables[0].columns.tolist() == tables[1].columns.tolist()
    assert set(tables[1]["table"]) == {"fixed"}
    assert set(tables[1]["descriptive"]) == {"descriptive: conditioned on the outcome"}
    assert len(tables[1]) == 10 * 2
    whole = {name for name in some.tokens[0] if not name.startswith("curve")}
    added = {"step", "loss", "loss_low", "loss_high", "table", "descriptive"}
    assert set(tables[1].columns) == whole | added
    bare = pq.read_table(io.BytesIO(encode(empty, "parquet")))
    full = pq.read_table(io.BytesIO(encode(some, "parquet")))
    assert bare.schema.equals(full.schema)


def test_shards_left_out_are_said_to_be(tmp_path: Path) -> None:
    path = write(tmp_path, course((0, 5, 10)))
    shard = next((path / "fixed" / "step-00000005").glob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:100])
    log = rocktok.open(path, allow_missing=True)
    for text in (
        render(rocktok.stagnation(log, replicates=100)),
        render_controls(rocktok.controls(log, rocks=(0, 1))),
    ):
        assert "\n1 damaged or missing shards left out\n" in text


def test_the_command_says_what_it_rests_on(tmp_path: Path) -> None:
    code, table, notes = run(SAMPLE, "--replicates", 200)
    assert code == 0
    assert "rocks chosen at steps 8 and 100 on half 0, measured on half 1 of the prompts" in table
    assert "\nchanges from step 100 to 500\nfixed/, 6 steps: the same text at every" in table
    verdict, change, *lines, path = table.splitlines()
    assert verdict.startswith("The rocks are not comparable with other types: ")
    assert re.match(r"At step 500 the rocks have \d\d% \(.* of their loss at step 100, on", change)
    assert path == str(SAMPLE)
    assert max(map(len, lines)) <= 80
    assert "control: no rock has a match within the calipers" in notes
    # No p value is cut off, or shown as 0.
    medians = re.findall(r"^(?:high_kl|random) .* (<?0\.\d\d+|1\.00) +(<?0\.\d\d+|1\.00)$",
                         table, re.MULTILINE)  # fmt: skip
    assert len(medians) == 2
    target = tmp_path / "out.parquet"
    code, _, _ = run(SAMPLE, "--replicates", 200, "-o", target)
    assert code == 0
    table = pq.read_table(target).to_pandas()
    assert sorted(table["step"].unique()) == [8, 100, 200, 300, 400, 500]
    code, text, _ = run(SAMPLE, "--replicates", 200, "--format", "json")
    found = json.loads(text)
    assert found["schema"] == "rocktok.stagnation/3"
    first = found["tokens"][0]
    assert table[table["token_id"] == first["token_id"]]["loss"].tolist() == first["curve"]


def test_the_adjusted_contrast_is_that_of_the_rows(tmp_path: Path) -> None:
    """Of 120 types, 40 have a larger loss at first, and learn less."""
    rng = np.random.default_rng(4)
    text = rng.integers(0, 120, (200, 60))
    level = np.exp(rng.normal(0, 0.02, 120) + np.where(np.arange(120) < 40, 0.4, 0.0))[text]
    loss = level * rng.gamma(20, 0.05, text.shape)
    kept = np.where(text < 40, 0.9, 0.5) * rng.gamma(20, 0.05, text.shape)
    frame = pd.DataFrame(
        {
            "step": np.repeat([0, 10], text.size),
            "sequence_id": np.tile(np.repeat(np.arange(200), 60), 2),
            "position": np.tile(np.arange(60), 400),
            "token_id": np.tile(text.ravel(), 2),
            "loss": np.concatenate([loss.ravel(), (loss * kept).ravel()]).astype(np.float32),
        }
    )
    path = write(tmp_path, frame, types=120)
    result = stagnation(path, rocks=None, top_k=20)
    adjusted = result.adjusted
    assert (adjusted["first"], adjusted["verdict"]) == ("high_loss", "improve less")
    assert [row["types"] for row in adjusted["cutoffs"]] == [20, 10, 40]
    assert all(row["supported"] == row["types"] for row in adjusted["cutoffs"])
    heading = "Types with the most loss against others of similar loss and frequency: improve less"
    assert heading in render(result)
    difference, others = twin_of_rows(frame, path, set(result.members["high_loss"]), (0, 0, 10))
    assert adjusted["difference"] == pytest.approx(difference, abs=1e-9)
    assert adjusted["loss_second"] == pytest.approx(others, abs=1e-9)


def twin_of_rows(
    frame: pd.DataFrame, path: Path, ours: set[int], steps: tuple[int, int, int]
) -> tuple[float, float]:
    """From the rows, by the definition: (difference, mean over other types of the loss at pre).

    `steps`: of the losses that are adjusted for, of pre and of post.
    """
    prompt = frame["sequence_id"].map(prompt_hashes(path)).to_numpy().astype(np.uint64)
    half = halves(prompt, 0)
    mean, count = {}, {}
    for (step, side), part in frame.groupby(["step", half]):
        by_type = part["loss"].astype(float).groupby(part["token_id"])
        mean[step, side], count[step, side] = by_type.mean(), by_type.size()
    level, pre, post = steps
    enough = (count[pre, 0] >= 20) & (count[pre, 1] >= 20).reindex(count[pre, 0].index)
    for side in range(2):
        here = (frame["step"] == pre) & (half == side)
        prompts = frame[here].assign(prompt=prompt[here]).groupby("token_id")["prompt"].nunique()
        enough &= (prompts >= 5).reindex(enough.index, fill_value=False)
    ids = enough.index[enough].tolist()
    change = np.log(mean[post, 1] / mean[pre, 1])[ids].tolist()
    first = np.log(mean[level, 0])[ids].tolist()
    often = np.log(count[pre, 0] + count[pre, 1])[ids].tolist()
    rocks = [i for i, v in enumerate(ids) if v in ours]
    others = [i for i, v in enumerate(ids) if v not in ours]
    backed = [i for i in rocks if sum(abs(first[i] - first[j]) <= 0.5 for j in others) >= 5]
    difference = twin_difference(change, first, often, backed, others)
    return difference, float(np.exp([first[j] for j in others]).mean())


def test_rocks_that_start_where_no_other_type_does_are_not_comparable() -> None:
    result = rocktok.stagnation(SAMPLE, replicates=100)
    assert (result.adjusted["first"], result.adjusted["verdict"]) == ("rocks", "not comparable")
    assert not any(row["comparable"] for row in result.adjusted["cutoffs"])
    assert result.adjusted["loss_first"] > 5 * result.adjusted["loss_second"]


def test_rocks_that_were_given_or_chosen_at_the_last_step_have_no_adjusted_contrast(
    tmp_path: Path,
) -> None:
    path = write(tmp_path, course((0, 5)))
    assert stagnation(path).adjusted is None
    assert stagnation(path, rocks=None, select_at="last").adjusted is None


# One meaning of rocks.


@pytest.fixture(scope="module")
def planted_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[PlantedLog, Path, Any]:
    """Rocks keep 1.5 times as much of their loss: the log, where it is, and what is said of it."""
    log = learning_log(0, World(keeps=1.5))
    path = log.write(tmp_path_factory.mktemp("planted") / "log")
    return log, path, rocktok.stagnation(path, replicates=200)


def test_rocks_are_those_of_detect_on_half_of_the_prompts_at_the_first_two_steps(
    planted_run: tuple[PlantedLog, Path, Any],
) -> None:
    log, path, result = planted_run
    assert (result.log["first"], result.log["no_rocks"]) == ("rocks", None)
    assert (result.log["selected_at"], result.log["pre"], result.log["post"]) == (
        [0, 100], 100, 1000
    )  # fmt: skip
    assert [row["cutoff"] for row in result.adjusted["cutoffs"]] == [0.05, 0.01, 0.2]
    found = rocktok.detect(path, half=0, pre=0, post=100)
    ids = {token["token_id"] for token in found.rocks}
    assert set(result.members["rocks"]) == ids
    assert len(ids & set(log.kinds["rocks"])) >= 0.9 * len(log.kinds["rocks"])
    # The types with the most loss are as many, and another set.
    assert len(result.members["high_loss"]) == len(result.members["rocks"])
    assert set(result.members["high_loss"]) != set(result.members["rocks"])
    assert {row["first"] for row in result.tests} == {"rocks"}


def test_rocks_that_keep_more_of_their_loss_improve_less(
    planted_run: tuple[PlantedLog, Path, Any],
) -> None:
    log, path, result = planted_run
    assert result.adjusted["verdict"] == "improve less"
    assert abs(result.adjusted["difference"] - math.log(1.5)) < 0.1
    ours = set(result.members["rocks"])
    difference, _ = twin_of_rows(log.rows, path, ours, (100, 100, 1000))
    assert result.adjusted["difference"] == pytest.approx(difference, abs=1e-9)
    curve = next(row for row in result.tokens if row["token_id"] in ours)
    assert curve["loss_pre"] == curve["curve"][1]
    verdict, change = render(result).splitlines()[:2]
    assert verdict == (
        "Given the measured loss at step 100, the rocks improve less than other types of similar "
        "loss and frequency."
    )
    assert change.startswith("At step 1000 the rocks have ")


def test_two_steps_have_no_rocks_and_say_what_would_give_some(
    planted_run: tuple[PlantedLog, Path, Any],
) -> None:
    result = rocktok.stagnation(planted_run[1], post=100, replicates=100)
    assert (result.members["rocks"], result.log["first"], result.log["pre"]) == ((), "high_loss", 0)
    assert result.log["no_rocks"] == (
        "no rocks to follow: there are two steps; rocks are chosen at two steps of fixed text and "
        "followed from the second to a later one: record with fixed_sequences, or score saved "
        "checkpoints with `rocktok rescore`"
    )
    text = " ".join(render(result).split())
    assert (
        "no rocks to follow: there are two steps; rocks are chosen at two steps of fixed text"
        in text
    )
    assert not re.search(r"(the|of) rocks\b", text.split("no rocks to follow:")[0])
    assert all(row["first"] == "high_loss" for row in result.tests)


@pytest.mark.long
def test_one_search_gives_the_rocks_of_every_rate() -> None:
    """Of the sample, where rates differ in how many they let pass."""
    cutoffs = rocktok.stagnation(SAMPLE, replicates=100).adjusted["cutoffs"]
    for row in cutoffs:
        found = rocktok.detect(SAMPLE, half=0, pre=8, post=100, fdr=row["cutoff"])
        assert row["types"] == len(found.rocks)
    assert len({row["types"] for row in cutoffs}) == 3


@pytest.mark.parametrize("persistent", [True, pytest.param(False, marks=pytest.mark.long)])
def test_losses_dealt_out_anew_have_no_rocks_and_no_verdict(
    tmp_path: Path, persistent: bool
) -> None:
    path = shuffled_log(3, persistent=persistent).write(tmp_path / "log")
    result = rocktok.stagnation(path, replicates=200)
    assert (result.members["rocks"], result.log["first"]) == ((), "high_loss")
    assert re.match(
        r"no rocks to follow: none of the \d+ types tested on half of the prompts at steps 0 and "
        r"100 is persistently hard in recurring contexts beyond chance$", result.notes[0]
    )  # fmt: skip
    assert result.adjusted["verdict"] in ("inconclusive", "no difference")
    gradient = rocktok.attribute(path, replicates=200)
    assert gradient.adjusted is None
    assert "no rocks for the contrasts on half of the prompts at steps 0 and 100" in gradient.notes


@pytest.mark.parametrize("prompts", [1, 2])
@pytest.mark.parametrize("steps", [(0, 10), (0, 5, 10)])
def test_prompts_of_one_half_have_no_groups(
    tmp_path: Path, prompts: int, steps: tuple[int, ...]
) -> None:
    frame = course(steps, prompts=10)
    path = write(tmp_path, frame[frame["sequence_id"] < 2 * prompts])
    (ids,) = {tuple(sorted(set(prompt_hashes(path).values())))}
    seed = next(s for s in range(50) if len(set(halves(np.array(ids, np.uint64), s))) == 1)
    why = (
        "there is one prompt, so no other half of the prompts; record more prompts"
        if prompts == 1
        else f"all 2 prompts fall into one half by --seed {seed}; give another --seed, or record "
        "more prompts"
    )
    assert run(path, "--seed", str(seed)) == (
        1,
        "",
        f"rocktok: {path}: groups are chosen on one half of the prompts and measured on the other, "
        f"but {why}\n",
    )
    # Rocks that are given choose nothing here.
    assert stagnation(path, rocks=(0, 1), seed=seed).groups[0]["types"] == 2
