"""`info`: its answer, what it says can be asked, and the next command, on logs that differ."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import rocktok
from rocktok.analyses.detect import enough_passes
from rocktok.analyses.info.table import render
from rocktok.log import LogWriter
from tests.gradient_logs import frame, write
from tests.logs import RUN, rows, shards, write_by_hand, write_log
from tests.paths import SAMPLE
from tests.processes import run_command


def unable(info: rocktok.analyses.info.result.LogInfo) -> dict[str, str | None]:
    """Commands without an answer, or with less of one, and why."""
    return {row["command"]: row["why"] for row in info.questions if row["why"]}


def test_the_sample() -> None:
    code, printed, said = run_command("info", SAMPLE)
    assert (code, said) == (0, "")
    lines = printed.splitlines()
    assert lines[0] == (
        "6 steps of the same text (18,685 positions), 50 steps of rollouts; no damage was found."
    )
    assert lines[1] == "Checked: footers only; --verify reads every row."
    assert f"next        rocktok detect {SAMPLE}" in lines
    assert "analyses    detect, stagnation, attribute, stability, controls" in lines
    content = json.loads(run_command("info", SAMPLE, "--format", "json")[1])
    assert content["schema"] == "rocktok.info/2"
    assert (content["answer"], content["next"]) == (lines[0], f"rocktok detect {SAMPLE}")
    assert {row["command"]: row["able"] for row in content["questions"]} == dict.fromkeys(
        ("detect", "stagnation", "attribute", "stability", "controls"), True
    )


def test_one_step_and_no_gradients(tmp_path: Path) -> None:
    info = rocktok.info(write_log(tmp_path / "a log", steps=(7,)))
    assert info.sentence == "1 step of the same text (480 positions); no damage was found."
    assert info.next == f"rocktok detect '{tmp_path / 'a log'}'"
    scored = "no fixed text at two steps; record fixed_sequences, or run `rocktok rescore`"
    assert unable(info) == {
        "detect": scored,
        "stagnation": "fixed/ has one complete step; two or more are needed",
        "attribute": "fixed/ has no column grad_norm",
        "stability": scored,
        "controls": scored,
    }
    able = {row["command"] for row in info.questions if row["able"]}
    assert able == {"detect", "stability"}
    assert f"detect *       {scored}\n" in render(info)
    assert f"no controls    {scored}\n" in render(info)


def test_rollouts_alone(tmp_path: Path) -> None:
    info = rocktok.info(write(tmp_path, frame(1), table="rollout"))
    assert info.sentence == "2 steps of rollouts; no damage was found."
    assert set(unable(info)) == {"detect", "stagnation", "stability", "controls"}
    few = "only types with the most loss: rocks need three steps of fixed text"
    assert unable(info)["stagnation"] == few


def test_one_prompt(tmp_path: Path) -> None:
    info = rocktok.info(write(tmp_path, frame(1, prompts=1), ranks=1))
    assert unable(info) == {
        "stagnation": "the log has one prompt; groups are chosen on half of the prompts",
        "stability": "the log has one prompt; samples of prompts need two or more",
    }
    # As the commands themselves answer.
    assert run_command("stability", tmp_path)[0] == 1
    assert run_command("stagnation", tmp_path)[0] == 1
    assert run_command("attribute", tmp_path, "--replicates", 100)[0] == 0


def test_no_complete_step(tmp_path: Path) -> None:
    log = rocktok.LogWriter(tmp_path, world_size=2, rank=0)
    with log as writer:
        writer.write(rows(3, range(5)), table="fixed")
        writer.finish_step(3, "fixed")
    info = rocktok.info(tmp_path)
    assert info.sentence == "No step is complete on every rank; no damage was found."
    assert info.next == f"rocktok detect --post 3 {tmp_path}"
    assert not any(row["able"] for row in info.questions)


def test_what_was_not_read_is_not_called_whole(tmp_path: Path) -> None:
    """A flipped bit in a page is seen by --verify alone; without it nothing is vouched for."""
    path = write_log(tmp_path / "log")
    assert rocktok.info(path, verify=True).sentence.endswith("; nothing is damaged.")
    shard = shards(path)[0]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 8
    shard.write_bytes(content)
    assert rocktok.info(path).sentence.endswith("; no damage was found.")
    found = rocktok.info(path, verify=True)
    assert found.sentence.startswith("The log is damaged: ")
    assert str(shard) in found.sentence


@pytest.mark.parametrize("verify", [False, True])
def test_damage(tmp_path: Path, verify: bool) -> None:
    path = write_by_hand(tmp_path, rows(0, range(5)))
    write_by_hand(path, rows(1, range(5)), "b")
    first, second = shards(path)
    second.write_bytes(b"none")
    if verify:
        loss = pd.read_parquet(first)
        loss.loc[3, "loss"] = float("nan")
        loss.to_parquet(first, index=False)
    info = rocktok.info(path, verify=verify)
    assert len(info.damage) == 1 + verify
    assert info.sentence.startswith(f"The log is damaged: {info.damage[0]}")
    assert info.sentence.endswith(", and 1 more.") == verify
    assert info.questions == ()
    remedy = "detect --allow-missing" if verify else "info --verify"
    assert info.next == f"rocktok {remedy} {path}"
    assert render(info).startswith(info.sentence)
    assert info.answer()[0] == info.sentence


def test_how_many_types_can_be_tested_is_what_detect_says(monkeypatch: pytest.MonkeyPatch) -> None:
    found, totals = rocktok.info(SAMPLE), rocktok.detect(SAMPLE, replication=False).totals
    assert found.enough is not None
    assert found.enough["positions"] == totals["positions"]
    assert (found.enough["tests"], found.enough["testable"]) == (totals["tests"], totals["tested"])
    for name in ("untested_loss_share", "text_wanted"):
        assert found.enough[name] == pytest.approx(totals[name])
    lines = render(found).splitlines()
    (testable,) = [line for line in lines if line.startswith("testable")]
    assert testable.split(maxsplit=1)[1] == (
        "64 of 147 types in enough prompts; the others carry 14.1% of the loss"
    )
    (little,) = [line for line in lines if line.startswith("text ")]
    assert "18,685 positions" in little and "40,000" in little
    monkeypatch.setattr(enough_passes, "MOST_COUNTED", 18_684)
    assert rocktok.info(SAMPLE).enough is None


def test_more_text_is_asked_for_where_half_of_the_loss_cannot_be_tested() -> None:
    found = rocktok.info(SAMPLE)
    assert found.enough is not None
    more = replace(found, enough={**found.enough, "positions": 40_000, "text_wanted": 3.04})
    shown = render(more)
    assert "; testing half of the loss takes about 3 times as much text\n" in shown
    assert "\ntext " not in shown
    endless = replace(found, enough={**found.enough, "text_wanted": 1e9})
    assert "takes more than 100 times as much text" in render(endless)


def test_losses_without_a_threshold_are_said(tmp_path: Path) -> None:
    with LogWriter(tmp_path / "log", run=RUN) as writer:
        for step in (0, 10):
            batch = rows(step, range(6))
            batch["loss"][:] = 0
            writer.write(batch, table="fixed")
            writer.finish_step(step, "fixed")
    found = rocktok.info(tmp_path / "log")
    assert found.enough is None and found.damage == ()
    assert found.enough_unknown is not None and "zero or less" in found.enough_unknown
    (line,) = [line for line in render(found).splitlines() if line.startswith("testable")]
    assert line.split(maxsplit=1)[1] == f"unknown: {found.enough_unknown}"
