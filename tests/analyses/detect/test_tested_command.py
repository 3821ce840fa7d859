"""`detect` by its default rule, through the whole command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import rocktok
from rocktok.engine.passes import Engine
from rocktok.errors import UsageError
from tests import tested_twin, worlds
from tests.evaluation import batch_of, evaluate
from tests.paths import SAMPLE
from tests.processes import run_command as run


def test_the_sample() -> None:
    code, table, _ = run("detect", SAMPLE)
    assert code == 0
    first = table.splitlines()[0]
    assert first.startswith(
        "30 rock tokens carry 49.1% of the loss at 16.2% of the positions (FDR 5%;"
    )
    assert "replicate in the other half of the prompts" in first
    result = rocktok.detect(SAMPLE)
    again = result.totals["replication"]
    assert again is not None
    assert again["share"] is not None
    assert again["share"] >= 0.9


def test_a_log_on_disk_agrees_with_plain_loops(tmp_path: Path) -> None:
    log = worlds.planted_rocks(500_003, 40, 12)
    path = log.write(tmp_path / "log")
    results = [
        rocktok.detect(str(path), all_types=True, replication=True, engine=Engine(jobs))
        for jobs in (1, 3)
    ]
    assert results[0].to_json() == results[1].to_json()
    batch = batch_of(log)
    memory = evaluate(batch, all_types=True)
    hard_N = memory.thresholds.chosen(batch)
    columns = (*(batch[n] for n in ("sequence_id", "position", "token_id", "prompt")), hard_N)
    rows = zip(*(c.tolist() for c in (*columns, batch["loss_post"])), strict=True)
    corpus = tested_twin.Corpus([tested_twin.Row(*row) for row in rows])
    judged = {
        v: None if pair is None else list(zip(*(x.tolist() for x in pair), strict=True))
        for v, pair in memory.judged.items()
    }
    expected = tested_twin.tested(corpus, judged)
    content: dict[str, Any] = json.loads(results[0].to_json())
    assert {row["token_id"] for row in content["tokens"]} == set(expected)
    rocks = [v for v in corpus.types if expected[v]["is_rock"]]
    assert len(rocks) >= 10
    flags = tested_twin.flags(corpus, rocks)
    for row in content["tokens"]:
        theirs = expected[row["token_id"]]
        for name in ("prompts_held", "tested", "is_rock"):
            assert row[name] == theirs[name], (row["token_id"], name)
        for name in ("hardness", "p_context", "p_value", "q_value"):
            if row[name] is not None:
                assert row[name] == pytest.approx(theirs[name], rel=1e-9, abs=1e-12), name
        if theirs["is_rock"]:
            assert row["p_hard"] == pytest.approx(theirs["p_hard"], rel=1e-9, abs=1e-300)
            assert row["shadowed_by"] == flags[row["token_id"]]["shadowed_by"]
            assert ("stretch" in row["flags"]) == flags[row["token_id"]]["stretch"]
    some = rocktok.detect(str(path), replication=True).tokens
    assert list(some) == [row for row in results[0].tokens if row["is_rock"]]


def test_noise_has_no_rocks(tmp_path: Path) -> None:
    world = worlds.NULL_WORLDS["topics, phrases, shared rollouts"]
    path = world.make(500_000).write(tmp_path / "log")
    code, table, _ = run("detect", path)
    assert code == 0
    assert table.startswith("no rock tokens: of ")


def test_totals_do_not_hang_on_which_types_are_shown(tmp_path: Path) -> None:
    log = worlds.planted_rocks(500_003, 40, 12)
    rows = log.rows.copy()
    # Near every position: there is no null for it, whether its contexts are asked for or not.
    rows.loc[rows["position"] % 2 == 0, "token_id"] = 0
    log.rows = rows
    path = str(log.write(tmp_path / "log"))
    some, everything = (rocktok.detect(path, all_types=shown) for shown in (False, True))
    (scarce,) = (row for row in everything.tokens if row["token_id"] == 0)
    assert "null_scarce" in scarce["flags"]
    assert scarce["persistent"] > 100
    assert not scarce["tested"]
    assert some.rocks
    assert dict(some.totals) == dict(everything.totals)


def test_the_rule_follows_the_options() -> None:
    for option in ("--top-k=5", "--tau-r=100", "--eta=0.1"):
        code, table, notes = run("detect", SAMPLE, option)
        assert code == 0
        assert "by context Rock Score" in table.splitlines()[0]
        assert f"because of {option.partition('=')[0]}" in notes
    assert "because of" not in run("detect", SAMPLE, "--rule", "top-k", "--top-k", 5)[2]
    with pytest.raises(UsageError, match="top_k has no meaning with rule 'tested'"):
        rocktok.detect(SAMPLE, rule="tested", top_k=5)
    code, table, _ = run("detect", SAMPLE, "--context", "off")
    assert code == 0
    assert table.startswith("persistence cannot be told; the types with the largest loss are:")
    assert rocktok.detect(SAMPLE, context="off").rocks == ()
    assert len(rocktok.detect(SAMPLE, context="off", rule="top-k").rocks) == 100
