"""The same numbers however a log is cut into shards and row groups."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import rocktok
from rocktok.log import tasks
from tests.logs import bare_copy
from tests.paths import SAMPLE

#: Of a log, not of its numbers.
_PLACES = ("path", "name", "first", "second", "shards", "run_id", "notes")

#: Shards of a step, and rows of a row group; None: a row group for every `TOGETHER` sequences.
CUTS = {"one": (1, 1 << 20), "many": (7, 400), "sequences": (3, None)}
TOGETHER = 4

#: Analyses whose sums do not depend on the tasks either: these are of so few rows.
TASK_ROWS = {"attribute": 4000, "compare": 4000, "lenses": 4000}


def cut(target: Path, shards: int, group: int | None) -> Path:
    """The sample's fixed text at three steps, losses and norms over fourteen orders of magnitude.

    Three are what `stagnation` needs; each further one would be read by every pass, and show no
    more.
    """
    log = rocktok.open(SAMPLE)
    complete = log.complete_steps("fixed")
    steps = [complete[0], complete[len(complete) // 2], complete[-1]]
    bare_copy(SAMPLE, target, ("sequences",))
    (target / "fixed").mkdir()
    table = pa.concat_tables(pq.read_table(SAMPLE / s.path) for s in log.shards("fixed"))
    frame = table.to_pandas().sort_values(["step", "sequence_id", "position"])
    frame = frame[frame["step"].isin(steps)].copy()
    spread = 10.0 ** ((frame["sequence_id"] * 7919 + frame["position"] * 104729) % 10007 / 715 - 12)
    for column in ("loss", "grad_norm"):
        frame[column] = (frame[column] * spread).astype(np.float32)
    for step, rows in frame.groupby("step"):
        parts = np.array_split(rows["sequence_id"].unique(), shards)
        for number, ids in enumerate(parts):
            part = rows[rows["sequence_id"].isin(ids)]
            bunch = np.searchsorted(np.sort(ids), part["sequence_id"]) // TOGETHER
            groups = [one for _, one in part.groupby(bunch)] if group is None else [part]
            schema = pa.Schema.from_pandas(part, preserve_index=False).remove_metadata()
            with pq.ParquetWriter(target / "fixed" / f"{step}-{number}.parquet", schema) as file:
                for one in groups:
                    file.write_table(pa.Table.from_pandas(one, schema), group)
    return target


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("cuts")
    return {name: cut(folder / name, *how) for name, how in CUTS.items()}


def numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: numbers(v) for key, v in value.items() if key not in _PLACES}
    return [numbers(v) for v in value] if isinstance(value, list) else value


ANALYSES: dict[str, Callable[[Path], Any]] = {
    "attribute": lambda log: rocktok.attribute(log, replicates=100, all_types=True),
    "detect": lambda log: rocktok.detect(log, rule="top-k", all_types=True, lifts=True),
    "controls": lambda log: rocktok.controls(log, rocks=(13, 25)),
    "stagnation": lambda log: rocktok.stagnation(log, replicates=100, all_types=True),
    "stability": lambda log: rocktok.stability(log, replicates=100, context="off"),
    "compare": lambda log: rocktok.compare(log, log, top_k=10),
    "lenses": lambda log: rocktok.lenses(log, rocks=(13, 25), replicates=100),
}


@pytest.mark.parametrize(
    "name", ["attribute", pytest.param("detect", marks=pytest.mark.long),
             *(pytest.param(n, marks=[pytest.mark.long, pytest.mark.exhaustive])
               for n in ANALYSES if n not in ("attribute", "detect"))]
)  # fmt: skip
def test_numbers_do_not_depend_on_the_cut(
    name: str, logs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "TASK_ROWS", TASK_ROWS.get(name, tasks.TASK_ROWS))
    opened = [rocktok.open(log) for log in logs.values()]
    step = opened[0].complete_steps("fixed")[-1]
    made = [len(tasks.step_tasks(log, "fixed", step)) for log in opened]
    assert name not in TASK_ROWS or len(set(made)) == len(CUTS)
    found = {cut: numbers(json.loads(ANALYSES[name](log).to_json())) for cut, log in logs.items()}
    assert found["many"] == found["one"]
    assert found["sequences"] == found["one"]
