"""Contexts by the teacher's hidden state: `detect` on logs with contexts/, against its twin."""

from __future__ import annotations

import json
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import rocktok
from rocktok.analyses.detect import context_passes, gamma, windows
from rocktok.engine.passes import Engine
from rocktok.errors import LogError, UsageError
from rocktok.pairs.sketches import SIMILARITY
from rocktok.report.passes import report
from rocktok.tables.text import number
from tests import hidden_worlds, twin
from tests.analyses.detect.test_detect_twin import LAYOUTS, PARTNERS, RandomLog, assert_same
from tests.evaluation import batch_of, evaluate
from tests.processes import run_command

Sketches = dict[tuple[int, int], int]


def sketches_of(log: RandomLog, missing: float = 0.1) -> Sketches:
    """Near one sketch of what comes next, mostly; a share of the rows lacks one."""
    rng = random.Random(1)
    centres = [rng.getrandbits(256) for _ in range(60)]
    sketches: Sketches = {}
    keys = {(row.sequence_id, row.position): row.token_id for row in log.tables["fixed"]}
    for key in sorted(keys):
        following = keys.get((key[0], key[1] + 1), 0)
        if rng.random() >= missing:
            flips = sum(1 << rng.randrange(256) for _ in range(rng.randrange(60)))
            sketches[key] = centres[following if rng.random() < 0.8 else rng.randrange(60)] ^ (
                flips % 2**256
            )
    return sketches


def write_contexts(path: Path, log: RandomLog, sketches: Sketches) -> Path:
    """Once for each text, at the first step at which it was scored; dealt out to two shards."""
    first: dict[tuple[int, int], int] = {}
    for row in sorted(log.tables["fixed"]):
        first.setdefault((row.sequence_id, row.position), row.step)
    keys = [(first[key], *key) for key in sketches]
    (path / "contexts").mkdir()
    for name in "ab":
        part = sorted(key for key in keys if (key[1] % 2 == 0) == (name == "a"))
        rows = pa.table(
            {
                "step": pa.array([step for step, _, _ in part], pa.int32()),
                "sequence_id": pa.array([sequence for _, sequence, _ in part], pa.int64()),
                "position": pa.array([position for _, _, position in part], pa.int32()),
                "context": pa.array(
                    [sketches[s, p].to_bytes(32, "little") for _, s, p in part], pa.binary(32)
                ),
            }
        )
        pq.write_table(rows, path / "contexts" / f"{name}.parquet")
    return path


def run(path: Path, **options: Any) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"rule": "top-k", "similarity": "hidden", "all_types": True, **options}
        return json.loads(rocktok.detect(rocktok.open(str(path)), **options).to_json())


@pytest.mark.parametrize(
    ("partners", "options"),
    [
        (PARTNERS[0], {"eta": 0.1}),
        (PARTNERS[0], {"eta": "auto"}),
        *(
            pytest.param(partners, {"eta": eta, **given}, marks=pytest.mark.long)
            for partners in PARTNERS
            for eta in ("auto", 0.2)
            for given in ({"gamma": 0.3}, {"seed": 3, "persistence": "recalcitrant"})
        ),
    ],
)
def test_detect_agrees_with_its_twin(
    tmp_path: Path, partners: str, options: dict[str, Any]
) -> None:
    seed = sum(map(ord, f"{partners}{options}"))
    log = RandomLog(seed, positions=420, tokens=40)
    sketches = sketches_of(log)
    path = write_contexts(log.write(tmp_path / "log", LAYOUTS[seed % 4]), log, sketches)
    options = {"partners": partners, "quantile_pre": 0.5, "quantile_post": 0.5, **options}
    if options.get("persistence") == "recalcitrant":
        del options["quantile_post"]
    given = {"similarity": "hidden", "all_types": True, **options}
    expected = twin.detect(log.tables, log.prompts, log.exactness, sketches=sketches, **given)
    found = run(path, **options)
    assert_same(found, expected, "result")
    assert sum(token["retained"] or 0 for token in found["tokens"]) > 0
    assert found["params"]["gamma"] == options.get("gamma", "auto")
    assert any(
        "have no row in contexts/: their contexts are not judged" in n for n in found["notes"]
    )


def test_jobs_rounds_and_samples_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RandomLog(5, positions=700, tokens=12)
    path = write_contexts(log.write(tmp_path / "log"), log, sketches_of(log))

    def answer(jobs: int, **options: Any) -> Any:
        with Engine(jobs) as engine:
            found = run(path, engine=engine, quantile_pre=0.4, quantile_post=0.4, **options)
        del found["log"]["passes"]
        return found

    whole = answer(1)
    monkeypatch.setattr("rocktok.log.tasks.TASK_ROWS", 150)
    monkeypatch.setattr(context_passes, "ROUND_WINDOWS", 60)
    monkeypatch.setattr("rocktok.analyses.detect.similarity.MANY", 0)
    monkeypatch.setattr("rocktok.analyses.detect.judging.compiled_pays", lambda _: True)
    assert answer(3) == answer(1) == whole
    monkeypatch.setattr(context_passes.contexts, "SAMPLE", 20)
    monkeypatch.setattr("rocktok.analyses.detect.params.MIN_CAP", 10)
    sampled = answer(2, cap=25)
    assert sampled == answer(1, cap=25)
    rows = {row["token_id"]: row for row in whole["tokens"]}
    several = [row for row in sampled["tokens"] if "sampled" in row["flags"]]
    assert len(several) >= 2
    for row in several:
        # Each is compared with all partners, so that the null's thresholds are the same.
        assert (row["eta"], row["eta_count"]) == (
            rows[row["token_id"]]["eta"],
            rows[row["token_id"]]["eta_count"],
        )


def test_gamma_is_a_quantile_of_random_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gamma.gamma_of(np.arange(1, 101)) == pytest.approx(SIMILARITY[6])
    assert gamma.gamma_of(np.arange(1, 101), 0.9) == pytest.approx(SIMILARITY[11])
    assert gamma.gamma_of(np.full(10, 200)) == pytest.approx(SIMILARITY[127])
    assert gamma.gamma_of(np.zeros(0, np.int64)) == 1.0
    rng = np.random.default_rng(0)
    pool = {
        "sketch": rng.integers(0, 2**64, (9, 4), dtype=np.uint64),
        "prompt": np.array([0, 0, 0, 1, 1, 2, 2, 2, 2], dtype=np.uint64),
    }
    bits = [int.from_bytes(row.tobytes(), "little") for row in pool["sketch"]]
    prompts = pool["prompt"].tolist()
    every = [
        (bits[i] ^ bits[j]).bit_count()
        for i in range(9)
        for j in range(i)
        if prompts[i] != prompts[j]
    ]
    assert sorted(gamma.random_pairs(pool, "other-prompt").tolist()) == sorted(every)
    monkeypatch.setattr(gamma, "PAIRS", 5)
    next_to = [(bits[i] ^ bits[(i + 1) % 9]).bit_count() for i in (2, 4, 8)]
    assert gamma.random_pairs(pool, "other-prompt").tolist()[:3] == next_to
    one = {**pool, "prompt": np.zeros(9, np.uint64)}
    assert len(gamma.random_pairs(one, "other-prompt")) == 0


def test_the_sketch_is_that_of_the_place_before() -> None:
    batch = {
        "sequence_id": np.array([4, 4, 4, 4, 9, 9]),
        "position": np.array([0, 1, 3, 4, 0, 1], dtype=np.int32),
        "context": np.arange(6 * 32, dtype=np.uint8).reshape(6, 32),
        "has_context": np.array([True, False, True, True, True, True]),
    }
    # The first of a sequence, one after a gap, and one after a place without a sketch have none.
    assert windows.sketched(batch).tolist() == [False, True, False, True, False, True]
    found = windows.sketches(batch, np.array([1, 3, 5]))
    assert found.dtype == np.uint64
    assert found.tobytes() == batch["context"][[0, 2, 4]].tobytes()


def test_a_log_without_contexts(tmp_path: Path) -> None:
    log = RandomLog(8, positions=80)
    path = log.write(tmp_path / "log")
    with pytest.raises(LogError, match=r"log: has no contexts/ table; record with Recorder\(cont"):
        run(path)
    code, printed, said = run_command("detect", path, "--similarity", "hidden")
    assert (code, printed, said.count("\n")) == (1, "", 1)
    assert "or choose another similarity than 'hidden'" in said
    # Without an earlier step nothing is compared.
    assert run(path, context="off")["thresholds"]["gamma"] is None
    log.tables["fixed"].append(twin.Row(log.steps[0], 77, 0, 1, 1.0))
    write_contexts(path, log, {(77, 0): 1})
    with pytest.raises(LogError, match="contexts/ has no rows for the positions in fixed/"):
        run(path)


def test_a_window_is_none_of_its_options() -> None:
    with pytest.raises(UsageError, match="window has no meaning with similarity 'hidden'"):
        rocktok.detect("nowhere", similarity="hidden", window=4)


def test_what_is_said_of_a_planted_log(tmp_path: Path) -> None:
    """From the files to the terminal: rocks whose contexts recur in meaning, not in tokens."""
    log = hidden_worlds.recurring_meanings(500_000, 40, 12)
    path = log.write(tmp_path / "log")
    found = rocktok.detect(path, similarity="hidden", replication=False)
    real = {*log.kinds["common"], *log.kinds["rare"]}
    rocks = {row["token_id"] for row in found.rocks}
    assert len(rocks & real) >= 0.9 * len(real)
    assert not rocks - real
    assert rocks == set(evaluate(batch_of(log), similarity="hidden").rocks)
    assert rocktok.detect(path, replication=False).tokens == found.tokens
    assert not rocktok.detect(path, similarity="surprisal", replication=False).rocks
    gamma_used = found.thresholds["gamma"]
    assert gamma_used is not None
    assert 0.1 < gamma_used < 0.5
    code, printed, _ = run_command("detect", path, "--similarity", "hidden", "--no-replication")
    assert code == 0
    line = f"contexts: hidden states of the teacher, similar if cosine ≥ {number(gamma_used)} (95%"
    assert line in printed
    given = rocktok.detect(path, similarity="hidden", gamma=gamma_used, replication=False)
    assert (given.tokens, given.thresholds) == (found.tokens, found.thresholds)
    assert (found.params["gamma"], given.params["gamma"]) == ("auto", gamma_used)
    arguments = ["--similarity", "hidden", "--min-similarity", "0.9", "--format", "json"]
    code, printed, _ = run_command("detect", path, "--no-replication", *arguments)
    assert (code, json.loads(printed)["thresholds"]["gamma"]) == (0, 0.9)


@pytest.mark.long
def test_a_report_by_hidden_states(tmp_path: Path) -> None:
    log = RandomLog(9, positions=600, tokens=40)
    path = write_contexts(log.write(tmp_path / "log"), log, sketches_of(log))
    result = report(
        path, similarity="hidden", rule="top-k", quantile_pre=0.4, quantile_post=0.4, sequences=2,
        replicates=100, lifts=True,
    )  # fmt: skip
    assert result.sensitivity is not None
    used = result.detect.thresholds["gamma"]
    cells = [cell for cell in result.sensitivity if cell["gamma"] == used]
    at_use = next(c for c in cells if (c["eta"], c["null_distance"]) == ("auto", 16))
    assert at_use["rocks"] == at_use["shared"] == len(result.rocks) > 0
    assert len({cell["gamma"] for cell in result.sensitivity}) >= 4
    assert any(each["examples"] for each in result.contexts.values())
    assert result.detect.permuted is not None
