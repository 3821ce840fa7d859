"""`detect` on cases small enough to work out by hand, and what may not change its answer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rocktok
from rocktok.analyses.detect.context import Context
from rocktok.analyses.detect.ranking import TypeTable, candidates, context_scores, ranking, walk
from rocktok.analyses.detect.result import DetectParams
from rocktok.errors import UsageError
from rocktok.log import LogWriter
from tests.logs import RUN, rows, sequence_rows, write_by_hand, write_log


def by_hand(path: Path) -> Path:
    """Two sequences of two prompts, four tokens each: the numbers below are worked out on paper.

    Token 7 follows 1 and precedes 2 in both; its loss is 2 and 1 at both steps.
    """
    text = [1, 7, 2, 3, 1, 7, 2, 4]
    early = [0.0, 2.0, 0.1, 0.1, 0.0, 1.0, 0.1, 0.5]
    late = [0.0, 2.0, 0.1, 0.1, 0.0, 1.0, 0.1, 0.0]
    for step, losses, name in ((0, early, "a"), (5, late, "b")):
        frame = {
            "step": step,
            "sequence_id": [0] * 4 + [1] * 4,
            "position": [0, 1, 2, 3] * 2,
            "token_id": text,
            "loss": losses,
        }
        write_by_hand(path, frame, name)
    sequences = {"sequence_id": [0, 1], "step": 0, "num_tokens": 4, "prompt_id": ["p", "q"]}
    return write_by_hand(path, sequences, table="sequences")


def test_worked_out_by_hand(tmp_path: Path) -> None:
    log = rocktok.open(by_hand(tmp_path))
    options = {"eta": 0.5, "window": 1, "similarity": "bag", "tau_pre": 0.9, "tau_post": 0.9}
    result = rocktok.detect(log, **options)
    (row,) = result.tokens
    assert row["token_id"] == 7
    assert (row["frequency"], row["prompts"], row["persistent"], row["retained"]) == (2, 2, 2, 2)
    assert row["mean_loss"] == 1.5
    assert row["rock_score"] == row["context_rock_score"] == row["retained_loss"] == 3.0
    assert row["ccr"] == 1.0
    assert row["persistence_lift"] == 1.0  # both occurrences are hard at both steps
    assert row["flags"] == ["low_power"]
    assert row["loss_share"] == row["coverage"] == pytest.approx(3.0 / 3.3)
    assert result.totals["loss"] == pytest.approx(3.3)
    assert result.totals["persistent"] == result.totals["retained"] == 2
    assert result.density["type"] == {"median": 0.25, "p10": 0.25, "p90": 0.25}


def test_a_partner_of_the_same_prompt_does_not_count(tmp_path: Path) -> None:
    by_hand(tmp_path)
    frame = pd.DataFrame(
        {"sequence_id": [0, 1], "step": 0, "num_tokens": 4, "prompt_id": ["p", "p"]}
    )
    frame.to_parquet(tmp_path / "sequences" / "a.parquet")
    log = rocktok.open(tmp_path)
    options = {"eta": 0.5, "window": 1, "similarity": "bag", "tau_pre": 0.9, "tau_post": 0.9}
    assert rocktok.detect(log, **options).tokens == ()
    (row,) = rocktok.detect(log, partners="other-sequence", **options).tokens
    assert row["retained"] == 2


def test_rollouts_alone_give_the_rock_score(tmp_path: Path) -> None:
    with LogWriter(tmp_path, run=RUN) as writer:
        writer.write(sequence_rows(range(6)), table="sequences")
        for step in (0, 10):
            writer.write(rows(step, range(6)))
    result = rocktok.detect(rocktok.open(tmp_path))
    assert result.log["table"] == "rollout"
    assert result.log["post"] == 10
    assert result.log["pre"] is None
    assert all(row["ccr"] is None and row["persistent"] is None for row in result.tokens)
    assert any("no persistence and no context consistency" in note for note in result.notes)
    scores = [row["rock_score"] for row in result.tokens]
    assert scores == sorted(scores, reverse=True)
    assert result.tokens[-1]["coverage"] == pytest.approx(1.0)


def test_rollouts_stand_beside_fixed_text(tmp_path: Path) -> None:
    with LogWriter(tmp_path, run=RUN) as writer:
        writer.write(sequence_rows(range(9)), table="sequences")
        for step in (0, 10):
            writer.write(rows(step, range(6)), table="fixed")
        late = rows(8, range(6, 9))
        late["token_id"][:] = 3
        writer.write(late)
    result = rocktok.detect(rocktok.open(tmp_path), all_types=True)
    assert result.log["rollout_step"] == 8
    by_id = {row["token_id"]: row for row in result.tokens}
    assert by_id[3]["rollout_frequency"] == 36
    assert "not_in_rollouts" not in by_id[3]["flags"]
    assert all("not_in_rollouts" in r["flags"] for v, r in by_id.items() if v != 3)


def test_a_steep_fall_of_the_threshold_is_said(tmp_path: Path) -> None:
    early, late = rows(0, range(20)), rows(10, range(20))
    late["loss"] *= 0.2
    write_by_hand(tmp_path, early, "a")
    write_by_hand(tmp_path, late, "b")
    log = rocktok.open(tmp_path)
    result = rocktok.detect(log)
    assert result.thresholds["ratio"] < 0.5
    assert any("compare with --tau-post same" in note for note in result.notes)
    same = rocktok.detect(log, tau_post="same")
    assert same.thresholds["tau_pre"] == same.thresholds["tau_post"]


@pytest.mark.exhaustive
@pytest.mark.long
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 1000), shards=st.integers(1, 6), groups=st.integers(5, 200))
def test_the_cut_of_the_log_does_not_matter(
    seed: int, shards: int, groups: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    answers = []
    rng = np.random.default_rng(seed)
    for attempt in range(2):
        path = tmp_path_factory.mktemp("log")
        owner = rng.integers(0, shards if attempt else 1, 30)
        for step in (0, 10):
            batch = pd.DataFrame(rows(step, range(30), tokens=20, seed=seed))
            batch["token_id"] %= 7
            for shard in range(owner.max() + 1):
                part = batch[np.isin(batch["sequence_id"], np.flatnonzero(owner == shard))]
                if len(part):
                    target = path / "fixed" / f"{step}-{shard}.parquet"
                    target.parent.mkdir(exist_ok=True)
                    part.to_parquet(target, index=False, row_group_size=groups)
        found = rocktok.detect(rocktok.open(path), all_types=True, quantile_pre=0.5, window=2)
        answers.append(found)
    one, other = answers
    assert one.thresholds == other.thresholds
    assert one.totals["persistent"] == other.totals["persistent"]
    for a, b in zip(one.tokens, other.tokens, strict=True):
        for name, value in a.items():
            if isinstance(value, float):
                assert b[name] == pytest.approx(value, rel=1e-12)
            else:
                assert b[name] == value


def _types(losses: list[float], persistent: list[int], frequency: list[int]) -> TypeTable:
    return TypeTable(
        token_T=np.arange(len(losses)),
        frequency_T=np.array(frequency),
        loss_T=np.array(losses),
        persistent_T=np.array(persistent),
    )


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_the_walk_misses_no_rock(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 12))
    frequency = data.draw(st.lists(st.integers(1, 20), min_size=n, max_size=n))
    losses = data.draw(st.lists(st.floats(0, 8, width=16), min_size=n, max_size=n))
    persistent = [data.draw(st.integers(0, f)) for f in frequency]
    retained = [data.draw(st.integers(0, p)) for p in persistent]
    top_k = data.draw(st.integers(1, n))

    def judge(index: int) -> Context:
        return Context(persistent[index], persistent[index], 1, True, retained[index])

    def rocks(all_types: bool) -> tuple[list[int], int]:
        types = _types(losses, persistent, frequency)
        params = DetectParams(top_k=top_k, all_types=all_types)
        contexts = walk(types, params, map(judge, candidates(types, params)))
        types = replace(types, context=contexts)
        order, is_rock = ranking(types, params, context_scores(types))
        return order[is_rock].tolist(), len(types.context)

    early, judged = rocks(all_types=False)
    full, judged_all = rocks(all_types=True)
    # A type not judged has no score and cannot be ranked: the rocks must come out the same.
    assert early == full
    assert judged <= judged_all


@pytest.mark.parametrize(
    "options",
    [
        {"gamma": 0},
        {"top_k": 0},
        {"window": 0},
        {"quantile_pre": 1.0},
        {"tau_pre": -1},
        {"tau_pre": float("inf")},
        {"tau_r": float("nan")},
        {"eta": "sometimes"},
        {"similarity": "magic"},
        {"persistence": "recalcitrant", "tau_post": 0.5},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        DetectParams(**options)


def test_json_table_and_notebook(tmp_path: Path) -> None:
    result = rocktok.detect(rocktok.open(write_log(tmp_path)), all_types=True)
    content = json.loads(result.to_json())
    assert content["schema"] == "rocktok.detect/3"
    assert list(content) == [
        "schema",
        "log",
        "params",
        "thresholds",
        "totals",
        "density",
        "tokens",
        "notes",
    ]
    assert len(result.table) == len(content["tokens"])
    assert list(result.table["token"])[:2] == [row["token"] for row in content["tokens"][:2]]
    html = result._repr_html_()
    assert "<table" in html
    assert "<p><strong>No rock tokens: none of 0 tested types is persistently hard" in html
    assert "fixed/, step 0 to 10: 40 sequences" in repr(result).splitlines()[-2]


def test_token_text_is_escaped_in_a_notebook(tmp_path: Path) -> None:
    run = {**RUN, "vocab_size": 50}
    vocab = [(i, "<script>alert(1)</script>", b"<script>alert(1)</script>") for i in range(50)]
    with LogWriter(tmp_path, run=run, vocab=vocab) as writer:
        for step in (0, 10):
            writer.write(rows(step, range(20)), table="fixed")
    html = rocktok.detect(rocktok.open(tmp_path), all_types=True)._repr_html_()
    assert "<script>" not in html
