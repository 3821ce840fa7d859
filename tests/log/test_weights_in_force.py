"""Weights of the trained loss, as the manifests of a log say them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import rocktok
from rocktok.errors import DamagedError, LogError
from rocktok.log import LogWriter
from rocktok.log.compact import compact
from rocktok.log.manifest import WeightsInForce, dump_json
from rocktok.log.run import run_facts
from tests.logs import RUN, rows

GIVEN = WeightsInForce(0, None, "a" * 64, "rocks", 0.0, 2, 5, (7, 3))
FOUND = WeightsInForce(6, 4, "b" * 64, "live", 0.5, 0, 0, (1, 2))


def write(log: Path, weights: WeightsInForce | None, resume: int = 0) -> None:
    with LogWriter(log, run=RUN, resume_step=resume) as writer:
        if weights is not None:
            writer.note_weights(weights)
        ids = range(resume * 10, resume * 10 + 3)
        columns = {"sequence_id": [*ids], "step": resume, "num_tokens": 12, "prompt_id": "p"}
        writer.write(columns, table="sequences")
        writer.write(rows(resume, ids))


def test_each_attempt_has_its_own(tmp_path: Path) -> None:
    write(tmp_path / "log", GIVEN)
    write(tmp_path / "log", None, resume=1)
    write(tmp_path / "log", FOUND, resume=2)
    log = rocktok.open(tmp_path / "log")
    assert log.weights == ((0, GIVEN), (2, FOUND))
    assert rocktok.open(tmp_path / "log", attempt=1).weights == ((0, GIVEN),)
    info = rocktok.info(log)
    assert info.weights == ({"attempt": 0, **asdict(GIVEN)}, {"attempt": 2, **asdict(FOUND)})
    assert json.loads(info.to_json())["weights"][0]["token_ids"] == [7, 3]
    lines = [line.partition("weights")[2].strip() for line in repr(info).splitlines()]
    assert (
        "2 token types (rocks) weighted 0 in the trained loss from step 0 on, with 2 positions "
        "around contexts"
    ) in lines
    assert (
        "2 token types (live, found at step 4) weighted 0.5 in the trained loss from step 6 on"
    ) in lines
    compact(log, tmp_path / "small")
    assert rocktok.open(tmp_path / "small").weights == ((0, FOUND),)


def test_most_logs_have_none(tmp_path: Path) -> None:
    write(tmp_path, None)
    assert rocktok.open(tmp_path).weights == ()
    assert rocktok.info(tmp_path).weights == ()


@pytest.mark.parametrize(
    "changes", [{"token_ids": [-1]}, {"token_ids": None}, {"loud": 1}, {"token_ids": ["7"]}]
)
def test_what_is_no_description_of_weights_is_damage(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    write(tmp_path, GIVEN)
    path = tmp_path / "manifest/rank-00000-00.json"
    content = json.loads(path.read_text())
    content["weights"].update(changes)
    path.write_bytes(dump_json({k: v for k, v in content.items() if k != "crc32"}))
    with pytest.raises(DamagedError, match=r"rank-00000-00\.json: not a manifest"):
        rocktok.open(tmp_path)


def test_run_json_names_them() -> None:
    weights = {"sha256": "a", "select": "rocks", "weight": 0.0}
    assert run_facts({"weights": weights}, "run.json").weights == weights
    with pytest.raises(LogError, match=r"run\.json: weights is 3; it must be an object"):
        run_facts({"weights": 3}, "run.json")
