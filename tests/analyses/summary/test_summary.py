"""`summary`: each row is what the analyses say of that run, and a bad run spoils no other."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

import rocktok
from rocktok.analyses.summary.table import encode, opening, render
from tests.logs import rows, sequence_rows
from tests.paths import ROOT
from tests.processes import run_command

SAMPLE = ROOT / "sample_data" / "opd"


def rollouts_only(path: Path) -> Path:
    with rocktok.LogWriter(path, run={"vocab_size": 64}) as writer:
        writer.write(sequence_rows(range(3)), table="sequences")
        writer.write(rows(0, range(3)), table="rollout")
    return path


def test_a_row_is_what_the_analyses_say() -> None:
    (row,) = rocktok.summary(SAMPLE).runs
    found, learned = rocktok.detect(SAMPLE), rocktok.stagnation(SAMPLE)
    assert row["rocks"] == len(found.rocks)
    assert row["rocks_loss_share"] == sum(rock["loss_share"] or 0 for rock in found.rocks)
    assert row["tested"] == found.totals["tested"]
    assert row["loss_post"] == found.totals["loss"] / found.totals["positions"]
    assert row["loss_pre"] == learned.corpus["curve"][0]["loss"]
    assert learned.corpus["curve"][0]["step"] == row["pre"]
    assert learned.adjusted is not None
    assert row["verdict"] == learned.adjusted["verdict"]
    replication = found.totals["replication"]
    assert replication is not None
    assert row["replication"] == replication["share"]
    assert row["steps"] == 6
    healthy = rocktok.check(SAMPLE, rocks=())
    assert row["check"] == healthy.worst
    assert row["findings"] == [
        f"{one['severity']}: {one['name']}"
        for one in healthy.findings
        if one["severity"] in ("note", "warning", "problem")
    ]
    assert row["findings"]


def test_the_false_discovery_rate_is_that_of_detect() -> None:
    (row,) = rocktok.summary(SAMPLE, fdr=0.01).runs
    assert row["rocks"] == len(rocktok.detect(SAMPLE, fdr=0.01).rocks)


def test_a_run_without_persistence_has_no_rocks_to_count(tmp_path: Path) -> None:
    result = rocktok.summary(rollouts_only(tmp_path / "log"))
    (row,) = result.runs
    assert (row["rocks"], row["rocks_loss_share"], row["verdict"], row["pre"]) == (None,) * 4
    assert row["loss_post"] is not None
    assert opening(result)[0] == "None of 1 run has the same text at two steps, so no rocks."


def test_a_run_that_cannot_be_read_spoils_no_other(tmp_path: Path) -> None:
    log = rollouts_only(tmp_path / "good")
    (tmp_path / "empty").mkdir()
    code, out, err = run_command("summary", log, tmp_path / "gone", tmp_path / "empty")
    assert code == 1
    assert "good" in out
    assert "Not read" in out
    assert out.count("no such directory") == 1
    last = err.splitlines()[-1]
    assert last.startswith("rocktok: 2 of 3 runs could not be read: ")


def test_files_hold_every_run(tmp_path: Path) -> None:
    log = rollouts_only(tmp_path / "log")
    result = rocktok.summary(*[log] * 25, tmp_path / "gone")
    table = list(csv.DictReader(io.StringIO(encode(result, "csv").decode())))
    assert len(table) == 26
    assert table[0]["rocks"] == ""
    assert table[25]["error"]
    assert json.loads(result.to_json())["schema"] == "rocktok.summary/1"
    text = render(result)
    assert "… 5 more runs (--all)" in text


@pytest.mark.parametrize(("arguments", "code"), [((), 2), (("--fdr", "7", "x"), 2)])
def test_wrong_options(arguments: tuple[str, ...], code: int, tmp_path: Path) -> None:
    got, out, _ = run_command("summary", *arguments, cwd=tmp_path)
    assert (got, out) == (code, "")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((["a", "b"],), "summary() takes logs one by one, not a list; give summary(*logs)"),
        ((("a", "b"),), "summary() takes logs one by one, not a tuple; give summary(*logs)"),
        (("a", 3), "a log is a path or what rocktok.open() returns, not a int"),
    ],
)
def test_what_is_no_log(given: tuple[Any, ...], message: str) -> None:
    with pytest.raises(TypeError) as raised:
        rocktok.summary(*given)
    assert str(raised.value) == message
