"""The rocks of a log alone are those of `detect`, in fewer passes."""

from __future__ import annotations

from dataclasses import replace

import pytest

import rocktok
from rocktok.analyses.detect.passes import run_detect
from rocktok.analyses.detect.result import DetectParams
from rocktok.analyses.detect.rock_passes import Rocks, find_rocks
from rocktok.analyses.run import Run
from tests.paths import SAMPLE


@pytest.mark.parametrize(
    "params",
    [
        DetectParams(),
        DetectParams(top_k=7),
        DetectParams(context="off"),
        DetectParams(context="off", top_k=5),
        DetectParams(similarity="positional", seed=3),
    ],
    ids=["tested", "top-k", "off", "off-top-k", "positional"],
)
def test_rocks_alone_are_those_of_detect(params: DetectParams) -> None:
    log = rocktok.open(SAMPLE)
    params = replace(params, table="fixed")
    whole = Rocks.of(run_detect(log, params).result)
    run = Run.begin(log, None, "fixed", params.seed)
    found = find_rocks(run, params)
    assert found.ids.tolist() == whole.ids.tolist()
    assert found.similarity == whole.similarity
    if params.tests and params.context == "auto":
        assert len(found.ids)
        assert run.passes < run_detect(log, params).result.log["passes"]
