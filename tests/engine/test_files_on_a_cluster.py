"""Occurrences, weights, masks: the same bytes on one, two, eight threads, and on a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import rocktok
from rocktok.analyses.occurrences import round_passes
from rocktok.engine.passes import Engine
from rocktok.log import tasks
from tests.analyses.occurrences.occurrence_logs import frame, write
from tests.engine.test_engine import Cluster

OPTIONS: dict[str, Any] = {
    "window": 2, "gamma": 0.4, "eta": 0.01, "tau_pre": 0.3, "tau_post": 0.3, "top_k": 3,
}  # fmt: skip
SELECTIONS = ("frequency", "mean-loss", "random", "control")


def files_of(log: Path, folder: Path, engine: Engine) -> dict[str, bytes]:
    """Everything that the commands write of a log; named by what it is."""
    folder.mkdir()
    found = rocktok.detect(log, engine=engine, **OPTIONS)
    occurrences = folder / "occurrences.parquet"
    listed = rocktok.occurrences(log, occurrences, engine=engine, **OPTIONS)
    mask = folder / "mask.parquet"
    weighted = rocktok.weights(
        found, occurrences=occurrences, radius=1, log=log, mask=mask, engine=engine
    )
    made = {
        "occurrences": occurrences.read_bytes(),
        "counts": repr(listed.tokens).encode(),
        "mask": mask.read_bytes(),
        "rocks": weighted.to_json().encode(),
    }
    for name in SELECTIONS:
        chosen = rocktok.weights(found, log=log, select=name, engine=engine)
        made[name] = chosen.to_json().encode()
    # Paths of outputs stand in some of them.
    return {name: data.replace(str(folder).encode(), b"FOLDER") for name, data in made.items()}


def test_threads_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "TASK_ROWS", 60)
    monkeypatch.setattr(round_passes, "ROUND_WINDOWS", 60)
    log = write(tmp_path / "log", frame(seed=3))
    one, two, eight = (files_of(log, tmp_path / f"{n}", Engine(n)) for n in (1, 2, 8))
    assert one == two == eight
    assert all(one.values())


@pytest.mark.long
def test_a_cluster_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "TASK_ROWS", 60)
    monkeypatch.setattr(round_passes, "ROUND_WINDOWS", 60)
    log = write(tmp_path / "log", frame(seed=3))
    alone = files_of(log, tmp_path / "alone", Engine(1))
    cluster = Cluster(tmp_path)
    try:
        with Engine(dask=str(cluster.file)) as engine:
            assert files_of(log, tmp_path / "both", engine) == alone
    finally:
        cluster.stop()
