"""`stability`: samples by a twin, the twelve scores by hand, its messages."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

import rocktok
from rocktok.analyses.stability import subsamples
from rocktok.analyses.stability.overlap import (
    Samples,
    ablation,
    cutoff_rows,
    in_first_k,
    jaccard,
    overlap,
    recommend,
    short_rankings,
)
from rocktok.analyses.stability.scores import Moments, least_of_two, scores
from rocktok.analyses.stability.subsamples import Subsamples, limits, shuffled
from rocktok.analyses.stability.table import render
from rocktok.engine.passes import Engine
from rocktok.errors import LogError, UsageError
from rocktok.hashing import halves, hash_rows
from rocktok.log import LogWriter
from rocktok.stats.bootstrap import PromptBootstrap
from tests import gradient_logs, worlds
from tests.analyses.attribute.test_attribute import prompt_hashes
from tests.analyses.stagnation.test_stagnation import course, two_ranks, write
from tests.logs import RUN, write_log
from tests.paths import SAMPLE
from tests.processes import run_command

VOCAB = [(i, f"t{i}", b"t%d" % i) for i in range(50)]


def stability(path: Path, **options: Any) -> Any:
    options = {"replicates": 100, "repeats": 4, "context": "off", **options}
    return rocktok.stability(rocktok.open(path), **options)


def frame_of(path: Path, frame: pd.DataFrame) -> pd.DataFrame:
    """The last step's rows with prompt hashes."""
    last = frame[frame["step"] == frame["step"].max()].copy()
    last["prompt"] = last["sequence_id"].map(prompt_hashes(path))
    last["loss"] = last["loss"].astype(float)
    return last


def first(rows: pd.DataFrame, k: int) -> list[int]:
    """Types by Rock Score, ties by frequency and id, in plain pandas."""
    by = rows.groupby("token_id")["loss"].agg(["sum", "size"]).reset_index()
    by = by.sort_values(["sum", "size", "token_id"], ascending=[False, False, True])
    return by["token_id"].tolist()[:k]


def test_samples_are_the_twins(tmp_path: Path) -> None:
    frame = course((0, 10), seed=4)
    path = write(tmp_path, frame)
    result = stability(path, sizes=(20, 45), k=(2, 4), seed=9)
    last = frame_of(path, frame)
    prompts = np.array(sorted(set(last["prompt"])), dtype=np.uint64)
    assert result.log["prompts"] == len(prompts)
    for row in result.cutoffs:
        k = row["k"]
        found, nested = [], {20: [], 45: []}
        for repeat in range(4):
            half = halves(prompts, int(hash_rows(9, np.array([repeat]))[0]))
            sides = [last[last["prompt"].isin(prompts[half == h].tolist())] for h in (0, 1)]
            a, b = (set(first(side, k)) for side in sides)
            found.append(len(a & b) / len(a | b))
            order = prompts[np.argsort(shuffled(9, repeat, prompts))]
            for size, values in nested.items():
                some = last[last["prompt"].isin(order[:size].tolist())]
                a, b = set(first(some, k)), set(first(last, k))
                values.append(len(a & b) / len(a | b))
        assert row["halves"]["jaccard"] == pytest.approx(np.mean(found))
        assert row["halves"]["jaccard_least"] == pytest.approx(min(found))
        for part in row["nested"]:
            assert part["jaccard"] == pytest.approx(np.mean(nested[part["prompts"]]))
        top = last[last["token_id"].isin(first(last, k))]
        assert row["coverage"] == pytest.approx(top["loss"].sum() / last["loss"].sum())
        assert row["certain"] == 1.0
    assert [row["token_id"] for row in result.tokens] == first(last, 10)


def test_sums_do_not_depend_on_the_cut() -> None:
    rng = np.random.default_rng(0)
    sequence = np.repeat(np.arange(60), 10)
    rows = {
        "sequence_id": sequence,
        "prompt": hash_rows(1, sequence // 2),
        "token_id": rng.integers(0, 12, 600),
        "loss": rng.exponential(1.0, 600).astype(np.float32),
    }
    limit = limits(3, 5, [4, 11, 30], np.unique(rows["prompt"]))
    whole = Subsamples(np.arange(3, 9), 3, limit)
    whole.update(rows)
    parts = [Subsamples(np.arange(3, 9), 3, limit) for _ in range(3)]
    for i, part in enumerate(parts):
        part.update({name: values[i * 200 : i * 200 + 200] for name, values in rows.items()})
    parts[1].merge(parts[2])
    parts[0].merge(parts[1])
    for one, other in zip(whole.result(), parts[0].result(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    halved, nested = whole.result()
    # All prompts of the largest size: the whole; and the halves add up to it.
    np.testing.assert_allclose(nested[..., 2], halved.sum(axis=-1), rtol=1e-12)
    assert nested[0, :, 0, 0].sum() < nested[0, :, 0, 1].sum()


def sampled_rows(rows: int = 3000) -> dict[str, np.ndarray]:
    """Prompts in no order, of unlike size."""
    rng = np.random.default_rng(8)
    sequence = np.sort(rng.integers(0, 90, rows))
    return {
        "sequence_id": sequence,
        "prompt": hash_rows(2, sequence % 37),
        "token_id": rng.integers(0, 40, rows).astype(np.int32),
        "loss": rng.exponential(1.0, rows).astype(np.float32),
    }


def test_compiled_sums_have_the_bits_of_their_twins(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = sampled_rows()
    limit = limits(3, 4, [5, 20], np.unique(rows["prompt"]))
    for held in (1 << 21, 20):
        # 20: a few prompts at a time.
        monkeypatch.setattr(subsamples, "_HELD", held)
        made = [Subsamples(np.arange(2, 30, 3), 3, limit, 7, compiled=c) for c in (False, True)]
        for one in made:
            one.update(rows)
            one.update({name: values[:0] for name, values in rows.items()})
        np.testing.assert_array_equal(made[0].sum_TW, made[1].sum_TW)
        if held > 20:
            whole = made[0].sum_TW
        np.testing.assert_allclose(made[0].sum_TW, whole, rtol=1e-12)
        np.testing.assert_array_equal(made[0].sum_TW[0], whole[0])


def test_replicates_are_those_of_the_bootstrap() -> None:
    rows = sampled_rows()
    types = np.arange(2, 30, 3)
    drawn = Subsamples(types, 3, limits(3, 2, [5], np.unique(rows["prompt"])), 120)
    drawn.update(rows)
    bootstrap = PromptBootstrap(types, ("", "loss"), 3, 120)
    bootstrap.update(rows)
    expected = bootstrap.sum_BTM[:, :-1].transpose(2, 1, 0)
    np.testing.assert_allclose(drawn.replicated(), expected, rtol=1e-12)
    np.testing.assert_array_equal(drawn.replicated()[0], expected[0])


def test_agreement_by_frequency_alone() -> None:
    """Halves by hand: two of the three most frequent types are shared, and losses do not matter."""
    types = np.array([3, 5, 7, 9])
    sums_QT = np.array([[[9, 8, 7, 1], [9, 0, 8, 7]], [[0, 0, 0, 5], [0, 0, 0, 5.0]]])
    # (Q, T, R, H): one repeat, two halves.
    halves_QTRH = sums_QT.transpose(0, 2, 1)[:, :, None, :].astype(float)
    samples = Samples(types, None)
    orders = [samples.by_frequency(sums_QT[:, half]).tolist() for half in (0, 1)]
    assert orders == [[0, 1, 2, 3], [0, 2, 3]]
    (row,) = cutoff_rows(
        samples, halves_QTRH, halves_QTRH[..., :0], [], [3], np.ones(4), np.arange(4)
    )
    assert row["by_frequency"] == 2 / 4


def test_scores_by_hand() -> None:
    # Three types: losses 1, 3; 2 alone; twelve of 1 and 2 by turns.
    moments = Moments(np.array([2, 1, 12]), np.array([4.0, 2.0, 18.0]), np.array([10.0, 4.0, 30.0]))
    found = {name: values.tolist() for name, values in scores(moments).items()}
    none = -np.inf
    assert found["mean"] == [2.0, 2.0, 1.5]
    assert found["mean, n ≥ 5"] == [none, none, 1.5]
    assert found["mean, n ≥ 10"] == [none, none, 1.5]
    assert found["n·mean"] == [4.0, 2.0, 18.0]
    # t(.95, 1) = 6.3138, s = √2; t(.95, 11) = 1.7959, s = √(3/11).
    lower = [2 - 6.313752 * 2**0.5 / 2**0.5, 1.5 - 1.795885 * (3 / 11) ** 0.5 / 12**0.5]
    assert found["LCB"] == pytest.approx([lower[0], none, lower[1]], rel=1e-6)
    assert found["n·max(0, LCB)"] == pytest.approx([0.0, none, 12 * lower[1]], rel=1e-6)
    # σ² = (2 + 0 + 3) / 12; means 2, 2, 1.5: variance 1/18 < σ²/5, so that τ² = 0: all draw to μ0.
    assert found["EB mean"] == pytest.approx([24 / 15] * 3)
    assert found["EB bound"] == pytest.approx([24 / 15] * 3)


def test_empirical_bayes_by_hand() -> None:
    moments = Moments(np.array([4, 4]), np.array([4.0, 20.0]), np.array([5.0, 101.0]))
    found = scores(moments)
    # σ² = (1 + 1)/6; means 1 and 5: Var 4, τ² = 4 − σ²/4; μ0 = 3.
    sigma, tau = 1 / 3, 4 - 1 / 12
    weight = (4 / sigma) / (4 / sigma + 1 / tau)
    mean = np.array([weight * 1 + (1 - weight) * 3, weight * 5 + (1 - weight) * 3])
    np.testing.assert_allclose(found["EB mean"], mean)
    bound = mean - 1.645 / (4 / sigma + 1 / tau) ** 0.5
    np.testing.assert_allclose(found["EB bound"], bound)
    least = least_of_two(found, {name: values + 1 for name, values in found.items()})
    assert sorted(least) == ["min EB bound", "min LCB", "min n·LCB", "min n·mean"]
    np.testing.assert_allclose(least["min EB bound"], bound)


def test_overlap_by_hand() -> None:
    a, b = np.array([5, 1, 2]), np.array([1, 5, 7])
    found = overlap([(a, b)], 3)
    assert found["jaccard"] == 0.5
    # Union 1, 2, 5, 7: ranks 2, 3, 1, 4 and 1, 4, 2, 3 (the fourth place is the missing one's).
    expected = spearmanr([2, 3, 1, 4], [1, 4, 2, 3]).statistic
    assert found["spearman"] == pytest.approx(expected)
    assert jaccard(np.zeros(0), np.zeros(0)) is None


def test_a_cutoff_near_all_types_is_not_recommended() -> None:
    found = ((5, 0.3, 0.9), (10, 0.5, 0.72), (20, 0.6, 0.4), (90, 0.9, 0.95))
    rows = [
        {"k": k, "coverage": c, "halves": {"jaccard": j}, "eligible": k <= 33} for k, c, j in found
    ]
    assert recommend(rows) == {"k": 10, "coverage": 0.5, "jaccard": 0.72}
    assert recommend(rows[2:]) is None


def test_what_cannot_be_recommended_is_said(tmp_path: Path) -> None:
    # Ten types: a third are three.
    path = write(tmp_path, course((0, 10)))
    result = stability(path, k=(2, 3, 4, 10, 11, 500))
    assert [(row["k"], row["eligible"]) for row in result.cutoffs] == [
        (2, True), (3, True), (4, False), (10, False)
    ]  # fmt: skip
    assert "K = 11, 500: left out, since there are only 10 types" in result.notes
    assert (
        "K = 4, 10: never recommended, since two random picks of more than a third of the 10 types "
        "overlap strongly" in result.notes
    )
    assert "never recommended, above a third of the 10 types: K = 4, 10\n" in render(result)
    assert (
        "\nNo cutoff of the Rock Score can be recommended: every K is above a third of the 10 "
        "types.\n" in render(stability(path, k=(4, 10)))
    )
    rows = [{**row, "eligible": row["k"] < 4} for row in result.cutoffs]
    none = render(replace(result, recommended=None, cutoffs=tuple(rows)))
    assert (
        "\nNo cutoff of the Rock Score can be recommended: halves of the prompts do not agree at "
        "K = 2, 3.\n" in none
    )
    one = {"k": 3, "coverage": 0.5, "jaccard": 0.8}
    assert (
        "\nThe first 3 types by Rock Score are stable: Jaccard 0.80 between halves of the "
        "prompts.\n" in render(replace(result, recommended=one))
    )


def test_certain_by_hand() -> None:
    # Three candidates in two samples; the third stands in neither.
    first = np.array([[2, 1, 0], [5.0, 3.0, 0.0]]), np.array([0, 1])
    second = np.array([[1, 1, 0], [4.0, 2.0, 0.0]]), np.array([0, 1])
    for limit, expected in ((2.5, [1.0, 0.5, 0.0]), (0.0, [1.0, 1.0, 0.0]),
                            (-np.inf, [1.0, 1.0, 1.0]), (None, [None] * 3)):  # fmt: skip
        samples = Samples(np.arange(3), limit)
        assert [samples.certain([first, second], k) for k in (1, 2, 3)] == expected
    # No loss in a sample: a type that was not drawn again might have as much.
    nothing = np.array([[1, 1, 1], [0.0, 0.0, 0.0]]), np.arange(3)
    assert Samples(np.arange(3), 0.0).certain([nothing], 1) == 0.0


def many_types(path: Path, exactness: str) -> Path:
    """1,200 types of little loss; in every second prompt one more has +50, in the others −51."""
    rows: dict[str, list[Any]] = {"sequence_id": [], "position": [], "token_id": [], "loss": []}
    for s in range(40):
        held = [(v, 0.1 + v * 1e-5) for v in range(1200) if v % 40 == s]
        if exactness == "sampled":
            held.append((1300 + s // 2, 50.0 if s % 2 == 0 else -51.0))
        for position, (v, loss) in enumerate(held):
            for name, value in zip(rows, (s, position, v, loss), strict=True):
                rows[name].append(value)
    run = {**RUN, "vocab_size": 2000, "loss": {**RUN["loss"], "exactness": exactness}}
    with LogWriter(path, run=run) as writer:
        writer.write({"step": 0, **rows}, table="rollout")
        writer.finish_step(0, "rollout")
    return path


def test_losses_of_either_sign_have_no_bound(tmp_path: Path) -> None:
    note = (
        "losses may be negative, so the types that were not resampled have no bound: `certain` is "
        "null"
    )
    sampled = stability(many_types(tmp_path / "sampled", "sampled"), k=(5, 10))
    assert sampled.log["types"] > sampled.log["candidates"]
    assert [row["certain"] for row in sampled.cutoffs] == [None, None]
    assert note in sampled.notes
    exact = stability(many_types(tmp_path / "exact", "exact"), k=(5, 10))
    assert all(0 <= row["certain"] <= 1 for row in exact.cutoffs)
    assert note not in exact.notes
    # All types are drawn again.
    whole = stability(tmp_path / "sampled", k=(400,))
    assert whole.log["types"] == whole.log["candidates"]
    assert whole.cutoffs[0]["certain"] == 1.0


def test_a_type_that_a_replicate_lacks_ranks_below_all() -> None:
    # Types 7 and 9 in four replicates; 9 stands in two, in one of them first.
    count = [[1, 1, 1, 1], [1, 0, 1, 0]]
    loss = [[2.0, 2.0, 2.0, 2.0], [1.0, 0.0, 3.0, 0.0]]
    few = np.array([False, True])
    found = in_first_k(np.array([7, 9]), np.array([count, loss]), np.array([False, False]), 2)
    known = {"few_prompts_carry_it": False}
    assert found[7] == {"in_first_k": 1.0, "rank_low": 1, "rank_high": 2, **known}
    assert found[9] == {"in_first_k": 0.5, "rank_low": 1, "rank_high": 3, **known}
    none = {"rank_low": None, "rank_high": None, "few_prompts_carry_it": True}
    assert in_first_k(np.array([7, 9]), np.array([count, loss]), few, 2)[9] == {
        "in_first_k": 0.5, **none
    }  # fmt: skip
    # Even where those that it does hold are negative.
    below = np.array([[[1], [0]], [[-1.0], [0.0]]])
    assert in_first_k(np.array([7, 9]), below, few, 1)[9]["in_first_k"] == 0.0


def test_rankings_of_few_types_are_told() -> None:
    columns = ("rock_score", "mean_loss", "persistent", "context_rock_score", "retained_loss")
    one, two, three = (
        dict(zip(columns, values, strict=True))
        for values in ((3.0, 1.0, 2, 0.5, 0.0), (2.0, 1.0, 2, 0.0, 0.0), (1.0, 1.0, 0, None, 0.0))
    )
    assert short_rankings([one, two, three], 3) == {"context_rock_score": 1}
    assert short_rankings([one, two, three], 2) == {}
    assert short_rankings([one, two, three], 5) == {"persistent_loss": 2, "context_rock_score": 1}


def test_an_empty_ranking_has_no_jaccard() -> None:
    names = ("mean_loss", "persistent", "rock_score", "retained_loss", "frequency")
    rows = [dict(zip(names, (1.0, 2, 3.0, 0.0, 3), strict=True), token_id=v) for v in (1, 2)]
    rows = [{**row, "context_rock_score": None} for row in rows]
    found = {(row["first"], row["second"]): row["jaccard"] for row in ablation(tuple(rows), 2)}
    assert found.pop(("rock_score", "persistent_loss")) == 1.0
    assert list(found.values()) == [None] * 5


def test_what_detect_refuses_does_not_lose_the_rest(tmp_path: Path) -> None:
    frame = course((0, 10))
    frame.loc[frame.index % 10 != 0, "loss"] = 0.0
    path = write(tmp_path, frame)
    result = stability(path, context="auto")
    assert result.rankings is None and result.rocks is None
    why = (
        "`detect` with its default options: "
        f"{path}: a share of 0.8 of the losses at step 0 is zero or less, and so is the "
        "threshold; raise --quantile-pre or give --tau-pre"
    )
    assert f"no rocks, and no rankings by context: {why}" in result.notes
    assert result.answer() == [f"The stability of rocks is unknown: {why}."]
    first = stability(path, context="auto", step=0)
    said = "no rocks, and no rankings by context: fixed/ has no complete step before step 0"
    assert said in first.notes


def test_any_workers_give_the_same(tmp_path: Path) -> None:
    path = write(tmp_path, course((0, 10), prompts=120), cut=3)
    one, three = (stability(path, engine=Engine(jobs=jobs)).to_json() for jobs in (1, 3))
    assert one == three


def test_halves_bracket_from_below_and_nested_from_above() -> None:
    result = stability(SAMPLE, repeats=20)
    for row in result.cutoffs:
        if row["k"] <= 100:
            assert row["halves"]["jaccard"] <= row["nested"][-1]["jaccard"]
            sizes = [part["jaccard"] for part in row["nested"]]
            assert sizes == sorted(sizes)


def test_rankings_of_detect(tmp_path: Path) -> None:
    result = stability(SAMPLE, context="auto")
    pairs = result.rankings
    assert len(pairs) == 6
    k = pairs[0]["k"]
    table = rocktok.detect(rocktok.open(SAMPLE), all_types=True, top_k=k).tokens
    best = {
        name: {r["token_id"] for r in sorted(table, key=lambda r: -(r[name] or 0))[:k]}
        for name in ("rock_score", "context_rock_score")
    }
    a, b = best.values()
    row = next(r for r in pairs if (r["first"], r["second"]) == tuple(best))
    assert row["jaccard"] == pytest.approx(len(a & b) / len(a | b))
    rollout = stability(SAMPLE, context="auto", table="rollout")
    assert rollout.rankings is None
    assert any("every step has its own text" in note for note in rollout.notes)


def test_the_rocks_of_the_sample() -> None:
    how: dict[str, Any] = {"context": "auto", "replicates": 200, "repeats": 2}
    results = [stability(SAMPLE, engine=Engine(jobs), **how) for jobs in (1, 3)]
    result = results[0]
    assert result.to_json() == results[1].to_json()
    found, rocks = result.rocks, rocktok.detect(SAMPLE)
    tested = {row["token_id"] for row in rocks.rocks}
    assert tested == {row["token_id"] for row in result.tokens if row["is_rock"]}
    assert (found["rocks"], found["samples"], found["grouped"]) == (len(tested), 200, False)
    assert found["prompts"] == result.log["prompts"] // 2
    assert (found["tests"], found["halves"]) == (
        rocks.totals["tests"],
        rocks.totals["replication"],
    )
    by_id = {row["token_id"]: row for row in result.tokens}
    assert found["stable"] == sum(by_id[v]["inclusion"] >= 0.8 for v in tested)
    assert found["rare"] == sum(
        by_id[v]["inclusion"] < 0.8 and by_id[v]["testable"] < 0.8 for v in tested
    )
    assert found["others"] == 0
    assert all(0 <= row["inclusion"] <= row["testable"] <= 1 for row in result.tokens)
    # Rocks of half of the prompts hold in the other half, whichever halves these are.
    again = found["replication"]
    assert again["share"] == again["hard"] / again["held"] >= 0.9
    assert again["rocks"] == pytest.approx(found["mean_rocks"] * 200)
    assert result.answer()[0] == (
        "15 of 30 rock tokens are named again in at least 80% of 200 half-samples of the prompts "
        "(12 of the others are too rare to be tested in that many); 96% of the rocks of one half "
        "replicate in the other half."
    )
    # Rocks are shown whatever their Rock Score.
    few = stability(SAMPLE, context="auto", top=3)
    assert {row["token_id"] for row in few.tokens} >= tested
    assert [row["rank"] for row in few.tokens][:3] == [1, 2, 3]
    # What is named often, and is no rock with all prompts, is marked.
    tokens = [{**row, "is_rock": row["is_rock"] and row["rank"] > 1} for row in few.tokens]
    table = render(replace(few, tokens=tuple(tokens)))
    assert table.count("+\n") == 1
    assert "\n+  not a rock on all prompts\n" in table


def test_noise_has_no_rocks_to_be_stable(tmp_path: Path) -> None:
    world = worlds.NULL_WORLDS["topics, phrases, shared rollouts"]
    path = world.make(500_000).write(tmp_path / "log")
    code, table, _ = run(path)
    assert code == 0
    lines = table.splitlines()
    assert re.match(r"No rock tokens: none of [\d,]+ types is a rock on all prompts\.", lines[0])
    assert lines[1] == (
        "A half-sample names 0 rocks on average; no type is in 50% of them (200 "
        "half-samples, 50 prompts each)."
    )
    assert "Tested rocks:" not in table


def test_a_log_without_persistence_has_no_rocks(tmp_path: Path) -> None:
    result = stability(SAMPLE, context="auto", table="rollout")
    assert result.rocks is None
    assert "every step has its own text" in result.no_rocks
    assert {(row["is_rock"], row["inclusion"], row["testable"]) for row in result.tokens} == {
        (None, None, None)
    }


def by_type(rows: pd.DataFrame, like: pd.DataFrame) -> dict[str, np.ndarray]:
    """Scores of the types of `like`, ascending; −inf for those that the rows lack."""
    rows = rows.assign(square=rows["loss"] ** 2)
    sums = rows.groupby("token_id").agg(n=("loss", "size"), x=("loss", "sum"), xx=("square", "sum"))
    found = scores(Moments(*(sums[name].to_numpy() for name in ("n", "x", "xx"))))
    types = sorted(like["token_id"].unique())
    return {
        name: pd.Series(values, index=sums.index).reindex(types, fill_value=-np.inf).to_numpy()
        for name, values in found.items()
    }


def best(score: np.ndarray, rows: pd.DataFrame, types: list[int], k: int) -> set[int]:
    count = rows.groupby("token_id").size().reindex(types, fill_value=0).to_numpy()
    order = np.lexsort((types, -count, -score))[:k]
    return {types[t] for t in order if np.isfinite(score[t])}


def test_two_logs_are_those_of_the_twin(tmp_path: Path) -> None:
    frames = [course((0, 10), seed=seed) for seed in (4, 5)]
    # Either log has a type that the other lacks.
    for frame, v in zip(frames, (3, 6), strict=True):
        frame.loc[frame["token_id"] == v, "token_id"] = 20 + v
    paths = [write(tmp_path / str(i), frame) for i, frame in enumerate(frames)]
    other = rocktok.open(paths[1])
    result = stability(paths[0], other=other, k=(3,), seed=9)
    one, two = (frame_of(path, frame) for path, frame in zip(paths, frames, strict=True))
    assert (result.log["with"]["path"], result.log["with"]["step"]) == (str(paths[1]), 10)
    assert result.log["with"]["prompts"] == two["prompt"].nunique()
    types = sorted(one["token_id"].unique())
    rows = {row["score"]: row for row in result.scores}
    assert len(rows) == 12
    least = least_of_two(by_type(one, one), by_type(two, one))
    sides = []
    for half in (0, 1):
        parts = [f[halves(f["prompt"].to_numpy(np.uint64), 9) == half] for f in (one, two)]
        sides.append((parts[0], least_of_two(*(by_type(part, one) for part in parts))))
    for name, values in least.items():
        top = best(values, one, types, 3)
        assert 23 not in top
        loss = one[one["token_id"].isin(top)]["loss"].sum()
        assert rows[name]["coverage"] == pytest.approx(loss / one["loss"].sum())
        a, b = (best(found[name], part, types, 3) for part, found in sides)
        assert rows[name]["jaccard_halves"] == pytest.approx(len(a & b) / len(a | b))
    alone = stability(paths[0], k=(3,), seed=9)
    assert alone.log["with"] is None
    assert alone.cutoffs == result.cutoffs
    for row in alone.scores:
        if row["score"].startswith("min"):
            assert row["jaccard_halves"] is None
        else:
            assert row == rows[row["score"]]


def test_a_second_log_that_cannot_be_compared(tmp_path: Path) -> None:
    frame = course((0, 10))
    path = write(tmp_path / "a", frame)
    names = [(i, f"u{i}", b"u%d" % i) for i in range(50)]
    for name, change, vocab, said in (
        ("names", {}, names, "its vocabulary differs from that of"),
        ("none", {}, None, "its vocabulary differs from that of"),
        ("sampled", {"loss": {**RUN["loss"], "exactness": "sampled"}}, None, "its vocabulary"),
    ):
        with LogWriter(tmp_path / name, run={**RUN, **change}, vocab=vocab) as writer:
            writer.write(frame[frame["step"] == 0], table="fixed")
            writer.finish_step(0, "fixed")
        with pytest.raises(LogError, match=f"{name}: {said}"):
            stability(path, other=rocktok.open(tmp_path / name))
    with pytest.raises(
        LogError, match=r"sampled: its losses are 'sampled', those of .*none 'exact'"
    ):
        stability(tmp_path / "none", other=rocktok.open(tmp_path / "sampled"))
    wide = {**RUN, "vocab_size": 60}
    with LogWriter(tmp_path / "wide", run=wide) as writer:
        writer.write(frame[frame["step"] == 0], table="fixed")
        writer.finish_step(0, "fixed")
    with pytest.raises(LogError, match="wide: its vocabulary differs from that of"):
        stability(tmp_path / "none", other=rocktok.open(tmp_path / "wide"))
    code, out, said = run(path, "--with", path)
    assert (code, out) == (1, "")
    assert said == f"rocktok: {path}: is given twice; give the log of a second run\n"
    code, _, said = run(path, "--with", tmp_path / "nothing")
    assert code == 1
    assert said.count("\n") == 1 and "nothing" in said
    rollout = write(tmp_path / "b", frame, table="rollout")
    with pytest.raises(LogError, match="log-rollout-1: has no fixed/ table; it has"):
        stability(path, other=rocktok.open(rollout))
    with LogWriter(tmp_path / "open", world_size=2, run=RUN, vocab=VOCAB) as writer:
        writer.write(frame[frame["step"] == 0], table="fixed")
    with pytest.raises(
        LogError, match="open: no step of fixed/ is complete on every rank; give an"
    ):
        stability(path, other=rocktok.open(tmp_path / "open"))


def test_the_command_with_two_logs(tmp_path: Path) -> None:
    paths = [write(tmp_path / str(seed), course((0, 10), seed=seed)) for seed in (1, 2)]
    code, table, _ = run(paths[0], "--with", paths[1], "--context", "off")
    assert code == 0
    assert f"min: the smaller of two logs, this and {paths[1]} (fixed/, step 10)" in table
    code, table, _ = run(paths[0], "--context", "off")
    assert "min: the smaller of two halves of the prompts; --with LOG2 reads a second log" in table


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--table", "both"), "'both' is not one of 'auto', 'fixed', 'rollout'"),
        (("--step", "7"), "fixed/ has no step 7; --step must be one of 0, 10"),
        (("--step", "x"), "'x' is not a valid integer"),
        (("--sizes", "0,5"), "--sizes is [0, 5]; give one number or more, each 1 or more"),
        (("--sizes", "5,"), "'5,' is not a list of numbers such as 50,100,200"),
        (("--repeats", "1"), "--repeats is 1; it must be 2 or more"),
        (("--k", "0"), "--k is [0]; give one number or more, each 1 or more"),
        (("--context", "on"), "'on' is not one of 'auto', 'off'"),
        (("--top", "0"), "--top is 0; it must be 1 or more"),
        (("--replicates", "99"), "--replicates is 99; it must be 100 or more"),
    ],
)
def test_wrong_values_of_every_option(tmp_path: Path, given: tuple[str, str], said: str) -> None:
    code, out, error = run(write_log(tmp_path / "log"), *given)
    assert (code, out) == (1 if given == ("--step", "7") else 2, "")
    assert said in error
    assert "Traceback" not in error


def test_options_do_what_they_say(tmp_path: Path) -> None:
    path = write(tmp_path, course((0, 10)))
    first = stability(path, step=0, top=3, k=(4, 2, 4, 5000), sizes=(60, 7), repeats=2)
    assert first.log["step"] == 0
    assert [row["rank"] for row in first.tokens] == [1, 2, 3]
    # Larger than the number of types: nothing to cut there.
    assert [row["k"] for row in first.cutoffs] == [2, 4]
    assert [part["prompts"] for part in first.cutoffs[0]["nested"]] == [7, 60]
    # All prompts are the whole.
    assert first.cutoffs[0]["nested"][1]["jaccard"] == 1.0
    only = stability(path, k=(5000,))
    assert [row["k"] for row in only.cutoffs] == [10]
    again = stability(path, step=0, top=3, k=(4, 2), sizes=(60, 7), repeats=2, seed=1)
    assert again.cutoffs != first.cutoffs


def run(*arguments: str | Path) -> tuple[int, str, str]:
    return run_command("stability", *arguments)


def test_more_prompts_than_there_are(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log")
    code, out, said = run(log, "--sizes", "10,500")
    assert (code, out) == (2, "")
    assert "--sizes asks for 500 prompts; step 10 of fixed/ has 14; ask for fewer" in said


def test_bad_input(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log")
    with pytest.raises(LogError, match="fixed/ has no step 7"):
        stability(log, step=7)
    with pytest.raises(UsageError, match=r"k is \[0, 5\]; give one number or more, each 1 or more"):
        stability(log, k=(0, 5))
    with pytest.raises(UsageError, match="repeats is 1; it must be 2 or more"):
        stability(log, repeats=1)
    one = write_log(tmp_path / "one", sequences=3)
    with pytest.raises(LogError, match="has one prompt; samples of prompts need two or more"):
        stability(one)
    assert "'a,b' is not a list of numbers" in run(log, "--k", "a,b")[2]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("prompts", [2, 4])
def test_prompts_of_one_half(tmp_path: Path, prompts: int) -> None:
    """Said as such, and nothing that needs a second half has a number."""
    log = gradient_logs.write(tmp_path, gradient_logs.frame(1, prompts=prompts), ranks=1)
    result = stability(log, context="auto")
    reason = (
        f"all {prompts} prompts fall into one half by --seed 0; give another --seed, or record "
        "more prompts"
    )
    assert f"no scores by halves: {reason}" in result.notes
    assert not any("replication" in note for note in result.notes)
    assert result.rocks is not None and result.rocks["halves"] is None
    assert result.answer() == [
        "No rock tokens: no type occurs in 5 prompts or more, so none is tested."
    ]
    assert {row["jaccard_halves"] for row in result.scores} == {None}
    # Other halvings, with other seeds, part the prompts.
    assert result.cutoffs[-1]["halves"]["jaccard"] is not None
    assert "between halves" in render(result)


def test_as_many_types_are_shown_as_asked_for(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", steps=(7,))
    for top in (3, 40):
        table = repr(stability(log, top=top, context="off"))
        shown = table[table.index("By Rock Score: ") :]
        assert len(re.findall(r"^'t\d+' +\d+  ", shown, re.MULTILINE)) == top
        assert f"\n… {50 - top} more (--all)\n" in shown
    assert "more (--all" not in repr(stability(log, top=50, context="off"))
    whole = stability(log, all_types=True, context="off")
    assert len(whole.tokens) == 50
    assert "more (--all" not in repr(whole)


def test_one_step_only(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", steps=(7,))
    code, table, said = run(log, "--replicates", 100, "--repeats", 4)
    assert code == 0
    assert "\nfixed/, step 7: 14 prompts, 480 positions; " in table
    assert "rocktok: note: no rocks, and no rankings by context: fixed/ has no complete step " \
        "before step 7\n" in said  # fmt: skip


def test_a_step_missing_on_one_rank(tmp_path: Path) -> None:
    log = two_ranks(tmp_path / "log", missing=(10,))
    left_out = "1 step of fixed/ dropped or unfinished on some rank, and not used by default: 10"
    result = stability(log)
    assert result.log["step"] == 5
    assert left_out in result.notes
    asked = stability(log, step=10)
    assert asked.log["step"] == 10
    assert "--step 10 is incomplete: some ranks are missing" in asked.notes
    none = two_ranks(tmp_path / "none", missing=(0, 5, 10))
    assert run(none) == (
        1,
        "",
        f"rocktok: {none}: no step of fixed/ is complete on every rank; give --step to use one as "
        "it is: 0, 5, 10\n",
    )


def test_the_command(tmp_path: Path) -> None:
    code, table, _ = run(SAMPLE, "--context", "off", "-q", "--sizes", "5,8,10,15,20,25,30,40")
    assert code == 0
    assert all(f"n={size}" in table for size in (5, 8, 10, 15, 20, 25, 30, 40))
    assert "one log is one training run" in table
    lines = table.splitlines()
    assert lines[0] == ("The stability of rocks is unknown: `detect` was skipped by --context off.")
    assert re.match(r"The first 5 types by Rock Score are stable: Jaccard 0\.95 between ", lines[2])
    assert re.match(r"At K = 5, 34\.1% of the loss: Jaccard 0\.95 between halves \(min", lines[3])
    assert lines[-1] == str(SAMPLE)
    assert max(map(len, lines[5:])) <= 80
    target = tmp_path / "s.json"
    assert run(SAMPLE, "--context", "off", "-o", target)[0] == 0
    found = json.loads(target.read_text())
    assert found["schema"] == "rocktok.stability/2"
    assert found["log"]["passes"] == 2
