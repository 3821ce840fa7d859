"""Types at every γ, η and distance of the null: as if each setting were judged by itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rocktok._types import Array
from rocktok.analyses.detect import null
from rocktok.analyses.detect.compared import Windows, partner_counts
from rocktok.analyses.detect.context import Partners, retention
from rocktok.analyses.detect.detection import Detection
from rocktok.analyses.detect.null import Null
from rocktok.analyses.detect.passes import run_detect
from rocktok.analyses.detect.persistence import of_type
from rocktok.analyses.detect.result import DetectParams
from rocktok.analyses.detect.tested import Recurrence, context_counts
from rocktok.engine.passes import Engine
from rocktok.report import grid, grid_draws
from rocktok.report.grid import Setting, TypeShares, judge_types, setting_of
from rocktok.report.grid_draws import Draws
from rocktok.report.grid_votes import Counted
from rocktok.report.sensitivity import likely_rocks, windows_of
from tests.paths import SAMPLE

OPTIONS = {
    "tested": DetectParams(),
    "top-k": DetectParams(top_k=10, eta=0.03, gamma=0.45),
    "hard to draw": DetectParams(window=3, similarity="jaccard", partners="all"),
}


@pytest.fixture(scope="module", params=OPTIONS)
def judged(request: pytest.FixtureRequest) -> tuple[Detection, list[int], dict[str, Array]]:
    """A detection, the types of its grid, and their windows."""
    detection = run_detect(SAMPLE, OPTIONS[request.param], engine=Engine(jobs=1), null=True)
    likely = likely_rocks(detection)
    windows = windows_of(detection, likely)
    detection.run.engine.run(detection.source, windows)
    assert len(likely) > 10
    return detection, likely, windows.result()


def test_each_setting_is_judged_as_if_alone(
    judged: tuple[Detection, list[int], dict[str, Array]],
) -> None:
    detection, likely, windows = judged
    shares = judge_types(detection, likely, windows)
    assert list(shares) == likely
    retained = set()
    for index, found in list(shares.items())[::3]:
        rows = of_type(windows, int(detection.types.token_T[index]), grid.MOST)
        for setting in found.place:
            recurrence = found.recurrence(setting)
            counts, kept_M, rate_M = alone(detection, index, rows, setting)
            assert recurrence == counts
            retained.add(recurrence.hits)
            if setting == setting_of(detection.params):
                assert found.retained_M.tolist() == kept_M.tolist()
                assert found.rate_M.tolist() == rate_M.tolist()
    assert len(retained) > 10


def test_cuts_and_loops_do_not_show(
    judged: tuple[Detection, list[int], dict[str, Array]], monkeypatch: pytest.MonkeyPatch
) -> None:
    detection, likely, windows = judged
    expected = judge_types(detection, likely, windows)
    monkeypatch.setattr(grid, "TOGETHER", 1)
    same(judge_types(detection, likely, windows), expected)
    large = replace(detection.source)
    large.__dict__["rows"] = 10_000_000
    run = replace(detection.run, engine=Engine(jobs=2))
    same(judge_types(replace(detection, source=large, run=run), likely, windows), expected)


def test_a_type_may_have_no_windows(
    judged: tuple[Detection, list[int], dict[str, Array]],
) -> None:
    """As with hidden states, where no position of a type has a sketch."""
    detection, likely, windows = judged
    left = windows["token"] != detection.types.token_T[likely[1]]
    rest = {name: values[left] for name, values in windows.items()}
    shares = judge_types(detection, likely[:3], rest)
    empty = shares.pop(likely[1])
    recurrences = [empty.recurrence(setting) for setting in empty.place]
    assert {(r.judged, r.hits, r.voters, r.votes) for r in recurrences} == {(0, 0, 0, 0.0)}
    assert len(empty.rate_M) == len(empty.retained_M) == 0
    same(shares, judge_types(detection, [likely[0], likely[2]], windows))


@pytest.mark.parametrize("seed", range(6))
def test_compiled_draws_and_votes_are_those_of_arrays(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of types that are rare and frequent, in pools that hold enough draws at some distances."""
    monkeypatch.setattr(grid_draws, "DRAWS", most := 12)
    monkeypatch.setattr(null, "DRAWS", most)
    for module in (null, grid_draws):
        monkeypatch.setattr(module, "MIN_DRAWS", 5)
    rng = np.random.default_rng(seed)
    rows, window, gammas = int(rng.integers(30, 120)), 2, 3
    around = np.minimum(rng.geometric(0.3, (rows, 4 * window + 1)) - 1, 9).astype(np.int32)
    label_P = rng.integers(0, 9, rows).astype(np.uint64)
    made = Null({"around": around, "prompt": label_P}, None, window, "other-prompt")
    sizes = [int(n) for n in rng.integers(0, 40, 11)]
    ours = [
        Windows(np.zeros((n, 4), np.int32), rng.integers(3, 14, n).astype(np.uint64)) for n in sizes
    ]
    near, none = null.distances(window), ours[0].rows(slice(0, 0))
    draws, twin = (
        Draws.of(made, range(11), near, none, compiled=compiled) for compiled in (True, False)
    )
    for name in ("pick_E", "pick_ptr_T", "near_EK", "far_TK"):
        assert getattr(draws, name).tolist() == getattr(twin, name).tolist()
    assert draws.windows.label_M.tolist() == twin.windows.label_M.tolist()
    assert len({*draws.far_TK.ravel().tolist()}) > 2
    similar_NG, similar_EG = (
        np.where(rng.random((n, gammas)) < 0.5, 0, rng.integers(0, 9, (n, gammas)))
        for n in (sum(sizes), len(draws.pick_E))
    )
    cluster_N = None if seed == 0 else rng.integers(0, 7, sum(sizes))
    counted = Counted(ours, draws, similar_NG, similar_EG, cluster_N)
    eta_H = np.array([0.05, 0.2])
    for own in range(gammas * (len(near) + len(eta_H))):
        found, expected = counted.votes_compiled(eta_H, own), counted.votes(eta_H, own)
        for name, values in vars(expected).items():
            assert getattr(found, name).tolist() == values.tolist()


def same(found: dict[int, TypeShares], expected: dict[int, TypeShares]) -> None:
    assert list(found) == list(expected)
    for one, other in zip(found.values(), expected.values(), strict=True):
        assert one.place == other.place
        for setting in one.place:
            assert one.recurrence(setting) == other.recurrence(setting)
        assert one.rate_M.tolist() == other.rate_M.tolist()
        assert one.retained_M.tolist() == other.retained_M.tolist()


def alone(
    detection: Detection, index: int, rows: dict[str, Array], setting: Setting
) -> tuple[Recurrence, Array, Array]:
    """A type under one setting: its recurrence, and what is retained with which rates."""
    contexts = detection.contexts
    assert contexts is not None
    assert contexts.null is not None
    rule = contexts.rule
    similarity, ours = rule.similarity.at(setting.gamma), rule.windows(rows)

    def count(windows: Windows) -> Partners:
        similar_M = similarity.count_similar_scipy(windows, ours)
        return Partners(similar_M, partner_counts(windows, ours))

    own, drawn_null = count(ours), None
    if setting.distance is not None:
        near = [d for d in null.distances(detection.params.window_size) if d <= setting.distance]
        v = int(detection.types.token_T[index])
        drawn = [w for w in (contexts.null.at(v, d) for d in near) if w is not None]
        drawn_null = count(drawn[0]) if drawn else None
    found, none = retention(own, drawn_null, setting.eta), np.zeros(len(ours), dtype=bool)
    if found is None:
        counts = Recurrence(len(ours), 0, 0, 0.0, judgeable=False, retained=0.0)
        return counts, none, np.zeros(len(ours))
    hits, voters, votes = int(found.retained_M.sum()), 0, 0.0
    if rule.clusters is not None:
        by_cluster = context_counts(rule.clusters.of(rows["prompt"]), found.retained_M)
        voters, votes = len(by_cluster.cluster_C), by_cluster.votes
    counts = Recurrence(len(ours), hits, voters, votes, judgeable=True, retained=float(hits))
    return counts, found.retained_M, own.rate_M
