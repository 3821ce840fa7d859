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
from tests.evaluation import Evaluation, batch_of, evaluate
from tests.paths import SAMPLE
from tests.processes import run_command as run


def test_the_sample() -> None:
    code, table, _ = run("detect", SAMPLE)
    assert code == 0
    first, how_sure = table.splitlines()[:2]
    assert first == "30 rock tokens carry 49.1% of the loss at 16.2% of the positions."
    assert how_sure.startswith("FDR 5%: 64 of the 147 types in enough prompts")
    assert "replicate in the other half" in how_sure
    result = rocktok.detect(SAMPLE)
    again = result.totals["replication"]
    assert again is not None
    assert again["share"] is not None
    assert again["share"] >= 0.9


def by_plain_loops(
    batch: dict[str, Any], memory: Evaluation, groups: int | None = None
) -> tuple[dict[int, dict[str, Any]], tested_twin.Corpus]:
    """The second implementation, with the contexts that were judged in memory."""
    hard_N = memory.thresholds.chosen(batch)
    columns = (*(batch[n] for n in ("sequence_id", "position", "token_id", "prompt")), hard_N)
    rows = zip(*(c.tolist() for c in (*columns, batch["loss_post"])), strict=True)
    corpus = tested_twin.Corpus([tested_twin.Row(*row) for row in rows], groups=groups)
    judged = {
        v: None if pair is None else list(zip(*(x.tolist() for x in pair), strict=True))
        for v, pair in memory.judged.items()
    }
    return tested_twin.tested(corpus, judged), corpus


def assert_same(tokens: list[dict[str, Any]], expected: dict[int, dict[str, Any]]) -> None:
    """Every number of every type, and who is a rock."""
    assert {row["token_id"] for row in tokens} == set(expected)
    for row in tokens:
        theirs = expected[row["token_id"]]
        for name in ("prompts_held", "tested", "is_rock"):
            assert row[name] == theirs[name], (row["token_id"], name)
        for name in ("hardness", "p_context", "p_value", "q_value"):
            if row[name] is not None:
                assert row[name] == pytest.approx(theirs[name], rel=1e-9, abs=1e-12), name
        if theirs["is_rock"]:
            assert row["p_hard"] == pytest.approx(theirs["p_hard"], rel=1e-9, abs=1e-300)


def test_a_log_on_disk_agrees_with_plain_loops(tmp_path: Path) -> None:
    log = worlds.planted_rocks(500_003, 40, 12)
    path = log.write(tmp_path / "log")
    results = [
        rocktok.detect(str(path), all_types=True, replication=True, engine=Engine(jobs))
        for jobs in (1, 3)
    ]
    assert results[0].to_json() == results[1].to_json()
    batch = batch_of(log)
    expected, corpus = by_plain_loops(batch, evaluate(batch, all_types=True))
    content: dict[str, Any] = json.loads(results[0].to_json())
    assert_same(content["tokens"], expected)
    rocks = [v for v in corpus.types if expected[v]["is_rock"]]
    assert len(rocks) >= 10
    flags = tested_twin.flags(corpus, rocks)
    for row in content["tokens"]:
        if row["is_rock"]:
            assert row["shadowed_by"] == flags[row["token_id"]]["shadowed_by"]
            assert ("stretch" in row["flags"]) == flags[row["token_id"]]["stretch"]
    some = rocktok.detect(str(path), replication=True).tokens
    assert list(some) == [row for row in results[0].tokens if row["is_rock"]]


def test_hashed_groups_of_prompts_agree_with_plain_loops(tmp_path: Path) -> None:
    """The whole command, on more prompts than are told apart."""
    log = worlds.many_short_prompts(500_000)
    path = log.write(tmp_path / "log")
    result = rocktok.detect(str(path), all_types=True)
    batch = batch_of(log)
    expected, corpus = by_plain_loops(batch, evaluate(batch, all_types=True), groups=4096)
    assert_same(json.loads(result.to_json())["tokens"], expected)
    rocks = {row["token_id"] for row in result.rocks}
    assert rocks == set(log.kinds["rocks"])
    # Some groups hold several prompts, which would have one vote each by themselves.
    prompts = sum(len({row.prompt for row in corpus.of_type[v]}) for v in corpus.types)
    assert prompts > sum(one["prompts_held"] for one in expected.values()) + 100
    # Half-samples are of the groups then.
    sure = rocktok.stability(str(path), repeats=2, k=(5,)).rocks
    assert sure is not None
    assert (sure["grouped"], sure["prompts"], sure["rocks"]) == (True, 2048, len(rocks))
    assert sure["stable"] >= len(rocks) - 1


def test_rocks_are_one_set_in_every_command(tmp_path: Path) -> None:
    """Of `controls` and `compare`, by their defaults and with a seed."""
    path = str(worlds.planted_rocks(500_003, 60, 17).write(tmp_path / "log"))
    for log, seed in ((SAMPLE, 3), (path, 0)):
        found = rocktok.detect(log, seed=seed, replication=False)
        rocks = {row["token_id"] for row in found.rocks}
        assert len(rocks) >= 10
        assert set(rocktok.controls(log, seed=seed, kinds=("frequency",)).log["rocks"]) == rocks
        file = tmp_path / f"{seed}.json"
        file.write_text(found.to_json())
        lists = rocktok.compare(log, str(file), seed=seed)
        assert {row["token_id"] for row in lists.tokens} == rocks
        assert {row["ranked_by"] for row in lists.log} == {"score"}
        assert lists.pairs[0]["jaccard"] == 1


def test_noise_has_no_rocks(tmp_path: Path) -> None:
    world = worlds.NULL_WORLDS["topics, phrases, shared rollouts"]
    path = world.make(500_000).write(tmp_path / "log")
    code, table, _ = run("detect", path)
    assert code == 0
    assert table.startswith("No rock tokens: none of ")


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
    assert table.startswith(
        "Persistence is unknown, so there are no rock tokens; these types have the"
    )
    assert rocktok.detect(SAMPLE, context="off").rocks == ()
    assert len(rocktok.detect(SAMPLE, context="off", rule="top-k").rocks) == 100
