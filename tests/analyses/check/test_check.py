"""`check` on runs that are known in full: every number by plain loops, every disease found."""

from __future__ import annotations

import json
import re
import shutil
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import rocktok
from rocktok.analyses.check.judged import cheaper, saturation
from rocktok.analyses.check.measures import BEGINNING, REST, SPECIAL, loss_places
from rocktok.analyses.check.result import NAMES, CheckResult
from rocktok.engine.passes import Engine
from rocktok.errors import LogError, UsageError
from rocktok.log import tasks
from rocktok.log.compact import compact
from rocktok.stats.intervals import Estimate
from tests.check_worlds import END, OTHER_END, World
from tests.processes import run_command as run

SMALL = World(prompts=60, rollouts=2, steps=(0, 10, 20, 30), length=120)
LAST = SMALL.steps[-1]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SMALL.write(tmp_path_factory.mktemp("healthy") / "log")


@pytest.fixture(scope="module")
def found(healthy: Path) -> CheckResult:
    return check(healthy)


def check(log: Path, **options: Any) -> CheckResult:
    return rocktok.check(log, **{"replicates": 200, "rocks": (), **options})


def severities(result: CheckResult, *besides: str) -> dict[str, str]:
    """Those that are not fine."""
    fine = ("ok", *besides)
    return {f["name"]: f["severity"] for f in result.findings if f["severity"] not in fine}


Rows = list[dict[str, Any]]


def rows_of(log: Path, table: str, step: int) -> dict[int, Rows]:
    """Rows by sequence, in order."""
    opened = rocktok.open(log)
    columns = ["token_id", "loss", *SMALL.columns]
    texts: dict[int, Rows] = defaultdict(list)
    for part in opened.scan(table, columns, [step]):
        names = list(part.columns)
        for values in zip(*(part.columns[n].tolist() for n in names), strict=True):
            row = dict(zip(names, values, strict=True))
            texts[row["sequence_id"]].append(row)
    return texts


def sequences_of(log: Path) -> list[dict[str, Any]]:
    shards = sorted((log / "sequences").glob("*.parquet"))
    return [row for shard in shards for row in pq.read_table(shard).to_pylist()]


# --- every number ------------------------------------------------------------------------------


def test_a_healthy_run_is_fine(found: CheckResult) -> None:
    assert severities(found) == {}
    assert sorted(f["name"] for f in found.findings) == sorted(NAMES)
    assert found.worst == "ok"
    assert all(f["remedy"] is None for f in found.findings)
    assert str(found).startswith("No findings.\n17 of 17 checks are ok.\n\nok  terminal_ids")


def test_shares_of_the_loss(healthy: Path, found: CheckResult) -> None:
    texts = rows_of(healthy, "fixed", LAST)
    rows = [row for text in texts.values() for row in text]
    special = [row["token_id"] in (0, END, OTHER_END) for row in rows]
    loss, position = (np.array([row[n] for row in rows]) for n in ("loss", "position"))
    one = found["special_tokens"]
    assert one["value"] == pytest.approx(loss[special].sum() / loss.sum())
    assert one["details"]["position_share"] == pytest.approx(np.mean(special))
    early, late = loss[position < 5], loss[position >= 5]
    one = found["opening"]
    assert one["value"] == pytest.approx(early.mean() / late.mean())
    assert one["details"]["loss_share"] == pytest.approx(early.sum() / loss.sum())
    means = [loss[position == at].mean() for at in range(5)]
    assert one["details"]["mean_losses"] == pytest.approx(means)
    assert one["low"] < one["value"] < one["high"]


def test_means_of_the_loss(healthy: Path, found: CheckResult) -> None:
    losses = [[row["loss"] for row in text] for text in rows_of(healthy, "fixed", LAST).values()]
    by_token = np.mean(np.concatenate(losses))
    by_sequence = np.mean([np.mean(one) for one in losses])
    one = found["normalisation"]
    assert one["value"] == pytest.approx(by_sequence / by_token - 1, rel=1e-6)
    assert one["details"]["by_token"] == pytest.approx(by_token, rel=1e-6)
    micro = [one["details"][f"micro_batch_{size}"] for size in (2, 4, 8, 16)]
    # The larger they are, the nearer to the mean by token, but for chance.
    apart = [abs(mean - by_token) for mean in (by_sequence, micro[0], micro[3])]
    assert apart == sorted(apart, reverse=True)


def test_ends_of_texts(healthy: Path, found: CheckResult) -> None:
    stopped = {s["sequence_id"] for s in sequences_of(healthy) if s["finish_reason"] == "stop"}

    def ends(step: int) -> Rows:
        texts = rows_of(healthy, "rollout", step)
        return [text[-1] for number, text in texts.items() if number in stopped]

    last = ends(LAST)
    mass = [row["teacher_end"] for row in last]
    assert found["teacher_end"]["value"] == pytest.approx(np.mean(mass), rel=1e-6)
    assert found["teacher_end"]["details"]["texts"] == len(last)
    own = [np.exp(row["teacher_logprob"]) for row in last]
    other = np.maximum(0, np.array(mass) - own).sum() / sum(mass)
    assert found["end_token"]["value"] == pytest.approx(other, abs=1e-6)
    before, after = (np.mean([row["student_end"] for row in rows]) for rows in (ends(0), last))
    assert found["student_end"]["value"] == pytest.approx(after / before, rel=1e-6)
    assert (found["student_end"]["details"]["before"]) == pytest.approx(before, rel=1e-6)


def test_cut_and_looping_texts(tmp_path: Path) -> None:
    log = replace(SMALL, loops=0.2, length=100, seed=5).write(tmp_path / "log")
    result = check(log)
    cut: dict[int, list[bool]] = defaultdict(list)
    for row in sequences_of(log):
        cut[row["step"]].append(row["finish_reason"] == "length")
    one = result["truncated"]
    # Thirds of four steps: two, one, one.
    assert one["value"] == pytest.approx(np.mean(cut[30]))
    overall = [x for step in cut.values() for x in step]
    assert one["details"]["overall"] == pytest.approx(np.mean(overall))
    rise = np.mean(cut[30]) - np.mean(cut[0] + cut[10])
    assert one["details"]["rise"] == pytest.approx(rise)
    texts = [[r["token_id"] for r in text] for text in rows_of(log, "rollout", LAST).values()]
    looping = [_loops(text) for text in texts]
    assert 0 < sum(looping) < len(looping)
    assert result["loops"]["value"] == pytest.approx(np.mean(looping))
    assert result["loops"]["details"]["long_enough"] == sum(len(text) >= 64 for text in texts)


def _loops(text: list[int]) -> bool:
    for window in (text[-64:], text[-65:-1]):
        for block in range(1, 17):
            whole = len(window) == 64
            if whole and all(window[i] == window[i - block] for i in range(block, 64)):
                return True
    return False


def test_the_course_of_the_loss(healthy: Path, found: CheckResult) -> None:
    means = []
    for step in (20, 30):
        rows = [r for text in rows_of(healthy, "fixed", step).values() for r in text]
        means.append(np.mean([row["loss"] for row in rows]))
    one = found["saturation"]
    assert one["value"] == pytest.approx((means[1] - means[0]) / np.mean(means), rel=1e-5)
    assert one["details"]["slope"] == pytest.approx((means[1] - means[0]) / 10, rel=1e-5)
    assert one["high"] < 0
    assert one["text"].endswith("it is still falling.")


def test_a_slope_is_that_of_least_squares(tmp_path: Path) -> None:
    steps = (0, 5, 10, 20, 25, 30, 60)
    world = replace(SMALL, steps=steps, prompts=24, length=30, alternatives=0)
    one = check(world.write(tmp_path / "log"))["saturation"]
    assert one["details"]["steps"] == 3
    means = []
    for step in steps[-3:]:
        rows = [r for text in rows_of(tmp_path / "log", "fixed", step).values() for r in text]
        means.append(np.mean([row["loss"] for row in rows]))
    slope = np.polyfit(steps[-3:], means, 1)[0]
    assert one["details"]["slope"] == pytest.approx(slope, rel=1e-4)
    assert one["value"] == pytest.approx(slope * 35 / np.mean(means), rel=1e-4)


@pytest.mark.parametrize(
    ("losses", "severity", "verdict"),
    [
        ([3.0, 2.0, 1.5], "ok", "it is still falling"),
        ([3.0, 1.51, 1.5], "note", "it has stopped falling"),
        ([3.0, 1.5, 1.8], "warning", "it rises"),
        # Two steps of a long run: little has changed, and nothing has stopped.
        ([1.55, 1.525, 1.5], "ok", "it is still falling"),
        ([1.5, 1.5, 1.5], "ok", "this may be chance"),
    ],
)
def test_what_is_said_of_a_course(losses: list[float], severity: str, verdict: str) -> None:
    rng = np.random.default_rng(0)
    means = {
        10 * at: Estimate(np.array(loss), 1e-3 * rng.standard_normal(500), np.array(60.0))
        for at, loss in enumerate(losses)
    }
    found = saturation(means, 0)
    assert found["severity"] == severity
    assert found["text"].endswith(f": {verdict}.")


def test_whether_texts_are_the_students_own(healthy: Path, found: CheckResult) -> None:
    rows = [r for text in rows_of(healthy, "rollout", LAST).values() for r in text]
    drawn = np.mean([-row["student_logprob"] for row in rows])
    entropy = np.mean([row["student_entropy"] for row in rows])
    one = found["on_policy"]
    assert one["value"] == pytest.approx(drawn / entropy - 1, abs=1e-6)
    assert (one["details"]["by"], one["level"]) == ("entropy", 0.99)
    assert one["low"] < 0 < one["high"]


def test_estimates_against_the_exact_loss(healthy: Path, found: CheckResult) -> None:
    rows = [r for text in rows_of(healthy, "fixed", LAST).values() for r in text]
    loss = np.array([row["loss"] for row in rows])
    ratio = np.array([row["student_logprob"] - row["teacher_logprob"] for row in rows])
    estimates = {"k1": ratio, "k3": np.exp(-ratio) - 1 + ratio}
    tables = {(r["table"], r["estimator"], r["k"]): r for r in found.estimators}
    assert {key[0] for key in tables} == {"fixed", "rollout"}
    for name, values in estimates.items():
        row = tables["fixed", name, None]
        assert row["mean"] == pytest.approx(values.mean(), rel=1e-5)
        assert row["mean_most"] == row["mean"]
        assert row["exact_mean"] == pytest.approx(loss.mean(), rel=1e-5)
        assert row["error_sd"] == pytest.approx(np.sqrt(np.mean((values - loss) ** 2)), rel=1e-4)
        assert row["known"] == 1
        assert row["bias_low"] < row["mean"] - row["exact_mean"] < row["bias_high"]
        assert -1 <= row["rank_correlation"] <= 1
    # On its own text k1 is unbiased.
    own = tables["rollout", "k1", None]
    assert own["bias_low"] < 0 < own["bias_high"]
    tail = [tables["fixed", "tail", k] for k in (1, 3, 5)]
    assert [row["mean"] for row in tail] == sorted(row["mean"] for row in tail)
    assert all(row["mean"] <= row["mean_most"] <= row["exact_mean"] for row in tail)
    assert all(row["error_sd"] <= row["error_sd_most"] for row in tail)


def test_top_k_is_within_what_both_matrices_say(healthy: Path, found: CheckResult) -> None:
    """The true top-K estimate, from the distributions themselves, lies between both ends."""
    student, teacher = SMALL.student(LAST), SMALL.teacher()
    texts = rows_of(healthy, "fixed", LAST)
    for k in (1, 3, 5):
        true = []
        for number, text in texts.items():
            before = [int(SMALL.before(number)), *(row["token_id"] for row in text[:-1])]
            for p, q in zip(student[before], teacher[before], strict=True):
                top = np.argsort(-p)[:k]
                a, b = p[top] / p[top].sum(), q[top] / q[top].sum()
                true.append((a * np.log(a / b)).sum())
        row = next(r for r in found.estimators if (r["estimator"], r["k"]) == ("renormalised", k))
        assert row["mean"] <= np.mean(true) + 1e-9
        assert np.mean(true) <= row["mean_most"] + 1e-9
        assert row["occurrences"] == len(true)


# --- diseases ----------------------------------------------------------------------------------

DISEASES: dict[str, tuple[World, dict[str, str]]] = {
    "another end token": (
        replace(SMALL, teacher_ends_with=OTHER_END),
        {"terminal_ids": "problem", "end_token": "problem", "special_tokens": "problem"},
    ),
    "a teacher that goes on": (
        replace(SMALL, end_loss=9.0),
        {"teacher_end": "problem", "special_tokens": "warning"},
    ),
    "a student that unlearns to end": (
        replace(SMALL, student_unlearns=0.7),
        {"student_end": "warning"},
    ),
    "an opening that the teacher knows otherwise": (
        replace(SMALL, opening=8.0),
        {"opening": "problem"},
    ),
    "texts that are cut": (replace(SMALL, length=25), {"truncated": "warning"}),
    "texts that loop": (
        replace(SMALL, loops=0.5),
        {"loops": "problem", "truncated": "warning", "on_policy": "warning"},
    ),
    "ids that are no token": (replace(SMALL, padding=True), {"vocabulary": "warning"}),
    "texts drawn otherwise": (replace(SMALL, drawn_at=1.6), {"on_policy": "warning"}),
}


#: Of those with a number that the others do not have.
QUICK = ("another end token", "a student that unlearns to end", "texts that loop")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.long) for n in DISEASES]
)
def test_each_disease_is_found(name: str, tmp_path: Path) -> None:
    world, expected = DISEASES[name]
    result = check(world.write(tmp_path / "log"))
    bad = severities(result, "note")
    assert {n: bad.get(n) for n in expected} == expected
    # What follows from it may be said, too, but nothing that has nothing to do with it.
    follows = {"normalisation", "saturation", "special_tokens", "teacher_end", "truncated"}
    assert set(bad) <= {*expected, *follows}
    assert result.findings[0]["severity"] in ("warning", "problem")
    assert all(f["remedy"] for f in result.findings if f["name"] in expected)


def test_what_the_settings_explain_is_a_note(tmp_path: Path) -> None:
    class Tempered(World):
        def said(self) -> dict[str, Any]:
            said = super().said()
            return {**said, "sampling": {"temperature": 1.6, "top_p": 1.0, "top_k": 0}}

    world = Tempered(**{**SMALL.__dict__, "drawn_at": 1.6})
    one = check(world.write(tmp_path / "log"))["on_policy"]
    assert one["severity"] == "note"
    assert "(temperature=1.6, the loss's 1.0)" in one["text"]


def test_losses_that_are_not_the_trainers(healthy: Path, tmp_path: Path) -> None:
    from rocktok.log.manifest import dump_json

    log = tmp_path / "log"
    SMALL_LOG = replace(SMALL, prompts=24, steps=(0, 10), length=20)
    SMALL_LOG.write(log)
    (path,) = (log / "manifest").glob("*.json")
    content = {k: v for k, v in json.loads(path.read_text()).items() if k != "crc32"}
    path.write_bytes(dump_json({**content, "mismatches": {"0": 2, "10": 1}}))
    one = check(log)["loss_mismatch"]
    assert (one["severity"], one["value"]) == ("problem", 3)
    assert one["text"] == "In 3 calls the recorded losses do not sum to the trainer's own loss."


# --- what is not there -------------------------------------------------------------------------

TINY = replace(SMALL, prompts=24, length=40, steps=(0, 10, 20))


def test_a_log_without_run_json(tmp_path: Path) -> None:
    log = replace(TINY, run=False).write(tmp_path / "log")
    for path in ("run.json", "vocab.parquet"):
        (log / path).unlink()
    for folder in ("manifest", "attempts", "sequences", "alternatives"):
        shutil.rmtree(log / folder)
    result = check(log)
    unknown = {f["name"] for f in result.findings if f["severity"] == "unknown"}
    assert unknown == {
        "terminal_ids", "tokenizer", "template", "vocabulary", "loss_mismatch", "end_token",
        "teacher_end", "student_end", "truncated", "special_tokens", "top_k",
    }  # fmt: skip
    assert all(f["remedy"] for f in result.findings if f["severity"] == "unknown")
    assert "11 could not be made" in str(result)


def test_a_log_of_an_older_version(tmp_path: Path) -> None:
    """Without what version 3 added: its columns, its tables, its keys of run.json."""
    columns = ("student_logprob", "teacher_logprob", "student_entropy")

    class Old(World):
        def said(self) -> dict[str, Any]:
            return {n: v for n, v in super().said().items() if n in ("vocab_size", "loss", "extra")}

    world = Old(**{**TINY.__dict__, "columns": columns, "alternatives": 0})
    result = check(world.write(tmp_path / "log"))
    assert {f["name"] for f in result.findings if f["severity"] == "unknown"} == {
        "terminal_ids", "tokenizer", "template", "end_token", "special_tokens", "top_k",
    }  # fmt: skip
    # The probability of the token that ended a text is a lower bound of the end mass.
    assert result["teacher_end"]["details"]["known"] == "token"
    assert "at least" in result["teacher_end"]["text"]


def test_alternatives_bound_the_end_mass(tmp_path: Path) -> None:
    columns = ("student_logprob", "teacher_logprob")
    exact, bounded = (
        check(replace(SMALL, columns=c).write(tmp_path / str(len(c))))
        for c in (SMALL.columns, columns)
    )
    assert bounded["teacher_end"]["details"]["known"] == "bounds"
    # Alternatives are of the kept text.
    of_fixed = check(tmp_path / "5", table="fixed")
    assert of_fixed["teacher_end"]["severity"] == bounded["teacher_end"]["severity"] == "ok"
    low, most = bounded["teacher_end"]["value"], bounded["teacher_end"]["details"]["most"]
    assert low <= most
    assert abs(low - exact["teacher_end"]["value"]) < 0.05
    ill = replace(SMALL, columns=columns, teacher_ends_with=OTHER_END)
    assert check(ill.write(tmp_path / "ill"))["end_token"]["severity"] == "problem"


@pytest.mark.parametrize("exactness", ["sampled", "topk"])
def test_losses_that_are_not_exact(exactness: str, tmp_path: Path) -> None:
    result = check(replace(TINY, exactness=exactness).write(tmp_path / "log"))
    for name in ("one_sample", "top_k", "on_policy"):
        assert result[name]["severity"] == "unknown"
        assert exactness in result[name]["text"]
        assert "rescore" in str(result[name]["remedy"])
    assert result.estimators == ()


def _signed(path: Path, mean: float, special: float, exactness: str = "sampled") -> CheckResult:
    """A log of one-sample estimates with a mean, and one of special tokens (id 0)."""
    rng = np.random.default_rng(3)
    sequences, length = 60, 40
    token_N = np.tile(np.arange(length) % 20, sequences)
    loss_N = rng.normal(0, 1, len(token_N)) + np.where(token_N == 0, special, mean)
    run = {
        "vocab_size": 20, "special_ids": [0],
        "loss": {"divergence": "reverse_kl", "trained": False, "exactness": exactness},
    }  # fmt: skip
    with rocktok.LogWriter(path, columns=(), run=run) as writer:
        for step in (0, 1, 2):
            ids = np.arange(sequences)
            if step == 0:
                writer.write({"step": 0, "sequence_id": ids, "prompt_id": ids,
                              "num_tokens": np.full(sequences, length)},
                             table="sequences")  # fmt: skip
            writer.write({"step": step, "sequence_id": np.repeat(ids, length),
                          "position": np.tile(np.arange(length), sequences), "token_id": token_N,
                          "loss": loss_N}, table="fixed")  # fmt: skip
    return check(path)


SHARES = ("special_tokens", "opening", "normalisation", "saturation")


def test_estimates_that_cancel_have_no_shares(tmp_path: Path) -> None:
    """Their sum is nothing but chance: what is divided by it is neither fine nor wrong."""
    for number, (mean, special) in enumerate([(0.0, 0.0), (-1.0, -1.0), (0.001, 0.0)]):
        found = _signed(tmp_path / str(number), mean, special)
        severity = {f["name"]: f["severity"] for f in found.findings}
        assert {name: severity[name] for name in SHARES} == dict.fromkeys(SHARES, "unknown")
        for one in found.findings:
            if one["name"] in SHARES:
                assert one["value"] is None
                assert one["remedy"] is not None


def test_estimates_that_do_not_cancel_have(tmp_path: Path) -> None:
    found = {f["name"]: f for f in _signed(tmp_path / "log", 1.0, 1.0).findings}
    assert {found[name]["severity"] for name in SHARES} <= {"ok", "note"}
    assert found["special_tokens"]["value"] == pytest.approx(0.05, abs=0.01)
    # The special tokens' own sum is negative: what they carry is no share.
    found = {f["name"]: f for f in _signed(tmp_path / "other", 1.0, -2.0).findings}
    assert found["special_tokens"]["severity"] == "unknown"
    assert found["normalisation"]["severity"] == "ok"


def test_one_step_and_rollouts_alone(tmp_path: Path) -> None:
    result = check(replace(TINY, steps=(4,), fixed=False).write(tmp_path / "log"))
    assert {f["name"] for f in result.findings if f["severity"] == "unknown"} == {
        "student_end", "saturation", "top_k",
    }  # fmt: skip
    assert result.log["table"] == "rollout"
    assert result["top_k"]["text"] == "The log has no alternatives/ table."
    with pytest.raises(LogError, match="rollout/ has no step 5; --step must be one of 4"):
        check(tmp_path / "log", step=5)


def test_columns_that_are_missing(tmp_path: Path) -> None:
    log = replace(TINY, columns=(), alternatives=0).write(tmp_path / "log")
    result = check(log)
    unknown = {f["name"] for f in result.findings if f["severity"] == "unknown"}
    assert unknown == {
        "on_policy", "end_token", "teacher_end", "student_end", "one_sample", "top_k",
    }  # fmt: skip
    assert "student_logprob and teacher_logprob" in str(result["one_sample"]["remedy"])
    # With log_ratio alone the loss tells whether the text is the student's own.
    log = replace(SMALL, columns=("log_ratio",), alternatives=0).write(tmp_path / "ratio")
    one = check(log)["on_policy"]
    assert (one["severity"], one["details"]["by"]) == ("ok", "loss")


def test_no_loss_and_no_ends(tmp_path: Path) -> None:
    class Same(World):
        def teacher(self) -> Any:
            return self.student(self.steps[0])

    world = Same(**{**TINY.__dict__, "learning": 0.0, "finish": False})
    result = check(world.write(tmp_path / "log"))
    unknown = {f["name"] for f in result.findings if f["severity"] == "unknown"}
    assert unknown >= {"truncated", "teacher_end", "end_token", "student_end"}
    assert unknown >= {"special_tokens", "opening", "normalisation"}
    assert severities(result, "unknown") == {}


def test_a_table_without_rows(tmp_path: Path) -> None:
    from rocktok.log import LogWriter

    with LogWriter(tmp_path / "log", run={"vocab_size": 8}) as writer:
        writer.finish_step(0, "fixed")
    with pytest.raises(LogError, match="no shards in rollout/ or fixed/"):
        check(tmp_path / "log")


def test_wrong_values_in_run_json(tmp_path: Path) -> None:
    log = TINY.write(tmp_path / "log")
    path = log / "run.json"
    content = json.loads(path.read_text())
    for key, value in (("special_ids", "all"), ("sampling", 3), ("terminal_ids", [1])):
        path.write_text(json.dumps({**content, key: value, "crc32": None}))
        with pytest.raises(LogError, match=key):
            check(log)


# --- the same on any number of threads, and as a command -----------------------------------------


def test_the_same_bytes_on_any_number_of_threads(healthy: Path, found: CheckResult) -> None:
    with Engine(jobs=4) as engine:
        assert check(healthy, engine=engine).to_json() == found.to_json()


def test_the_same_numbers_however_the_log_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    TINY.write(tmp_path / "whole")
    whole = check(tmp_path / "whole").to_dict()
    monkeypatch.setattr(tasks, "TASK_ROWS", 100)
    replace(TINY, pieces=3).write(tmp_path / "cut")
    compact(tmp_path / "cut", tmp_path / "compact")
    for name in ("cut", "compact"):
        other = check(tmp_path / name).to_dict()
        assert whole["findings"] == other["findings"]
        assert whole["estimators"] == other["estimators"]


def test_rocks_are_held_against_estimates(healthy: Path) -> None:
    result = check(healthy, rocks=None)
    detected = rocktok.detect(healthy)
    rocks = {row["token_id"] for row in detected.rocks}
    assert result.log["rocks"] == (sorted(rocks) or None)
    assert check(healthy, rocks=None, detected=detected).findings == result.findings
    one = check(healthy, rocks=(3, 4, 5)).estimators[0]
    assert (one["rocks"], one["rocks_in_top_exact"] in range(4)) == (3, True)
    for row in result.estimators:
        assert row["rocks"] is None if not rocks else 0 <= row["rocks"] <= len(rocks)
        if row["rocks"] is not None:
            assert 0 <= row["rocks_in_top"] <= row["rocks"]


def test_in_python(found: CheckResult) -> None:
    assert list(found.table["name"]) == [f["name"] for f in found.findings]
    assert list(found.table.columns)[:3] == ["name", "severity", "value"]
    html = found._repr_html_()
    assert "<p><strong>No findings.</strong><br>17 of 17 checks are ok.</p>" in html
    assert re.search(r"<th[^>]*>finding</th>", html)


def test_as_a_command(healthy: Path, tmp_path: Path, found: CheckResult) -> None:
    code, printed, said = run("check", healthy, "--no-rocks", "--replicates", "200")
    assert (code, said) == (0, "")
    assert printed == f"{found}\n"
    code, printed, _ = run(
        "check", healthy, "--no-rocks", "--replicates", "200", "--format", "json"
    )
    content = json.loads(printed)
    assert content["schema"] == "rocktok.check/1"
    assert content == json.loads(found.to_json())
    output = tmp_path / "found.csv"
    assert run("check", healthy, "--no-rocks", "-o", output)[0] == 0
    lines = output.read_text().splitlines()
    assert lines[0] == '"name","severity","value","low","high","level","measure","text","remedy"'
    assert len(lines) == 1 + len(NAMES)


FAIL: list[tuple[list[str], int, str]] = [
    (["note"], 0, ""),
    (["truncated.value > 0.5", "opening.value>=100"], 0, ""),
    (["opening.value > 0.1"], 3, "rocktok: --fail-if 'opening.value > 0.1': opening.value is "),
    (["problem", "loops.long_enough != -1"], 3, "rocktok: --fail-if 'loops.long_enough != -1'"),
    (["bad"], 2, "rocktok: --fail-if 'bad': must be note, warning, problem, or NAME.KEY > NUMBER"),
    (["loops.value > x"], 2, "rocktok: --fail-if 'loops.value > x': 'x' is not a number; write "),
    (["loop.value > 1"], 2, "rocktok: --fail-if 'loop.value > 1': there is no 'loop'; choose "),
    (["loops.share > 1"], 2, "rocktok: --fail-if 'loops.share > 1': loops has no 'share'; it has "),
    (["teacher_end.known > 1"], 2, "rocktok: --fail-if 'teacher_end.known > 1': teacher_end.known"),
    (["template.first_difference > 1"], 1, "rocktok: --fail-if 'template.first_difference > 1': "),
]


@pytest.mark.parametrize(("limits", "code", "message"), FAIL, ids=[f[0][0] for f in FAIL])
def test_limits(healthy: Path, limits: list[str], code: int, message: str) -> None:
    options = [word for limit in limits for word in ("--fail-if", limit)]
    found = run("check", healthy, "--no-rocks", "--replicates", "100", *options)
    assert found[0] == code
    assert found[2].startswith(message)
    assert found[2].count("\n") == bool(message)
    # The result is there, whatever a limit says of it; what no result can have comes before.
    told_before = any(word in message for word in ("must be", "is not a number", "there is no"))
    assert bool(found[1]) != told_before


def test_a_finding_is_a_reason_to_fail(tmp_path: Path) -> None:
    log = replace(TINY, padding=True).write(tmp_path / "log")
    code, _, said = run("check", log, "--no-rocks", "--fail-if", "warning")
    assert (code, said) == (3, "rocktok: --fail-if warning: vocabulary, truncated\n")
    assert run("check", log, "--no-rocks", "--fail-if", "problem")[0] == 0


def test_options_out_of_range(healthy: Path) -> None:
    with pytest.raises(UsageError, match="replicates is 3; it must be 100 or more"):
        check(healthy, replicates=3)
    with pytest.raises(KeyError, match="no finding 'loop'; they are terminal_ids, "):
        check(healthy)["loop"]


def estimate(**changes: Any) -> Any:
    """A row of estimators."""
    row = {
        "table": "fixed", "step": 9, "estimator": "tail", "k": 5, "types": 40, "exact_mean": 0.5,
        "error_sd": 0.02, "error_sd_most": 0.3, "rank_correlation": 0.6,
        "rank_correlation_most": 0.9, "rocks": 0,
    }  # fmt: skip
    return row | changes


def test_an_estimate_is_said_with_both_ends() -> None:
    found = cheaper("top_k", [estimate()], "", "")
    assert (found["severity"], found["value"]) == ("ok", 0.6)
    assert "a rank correlation of 0.6 to 0.9 with the exact loss over 40 types" in found["text"]
    assert "its error per token is 0.02 to 0.3 nats (rms)" in found["text"]
    alike = cheaper("top_k", [estimate(rank_correlation_most=0.6, error_sd_most=0.02)], "", "")
    assert "a rank correlation of 0.6 with" in alike["text"]
    assert "is 0.02 nats (rms)" in alike["text"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        # Two types have a rank correlation of 1 or −1 by chance alone.
        (estimate(types=2, rank_correlation=1.0, rank_correlation_most=1.0), "Only 2 types occur"),
        (estimate(rank_correlation=-0.07), "a rank correlation of -0.07 to 0.9 with"),
    ],
)
def test_an_estimate_of_which_the_log_says_nothing(row: Any, said: str) -> None:
    found = cheaper("top_k", [row], "", "")
    assert (found["severity"], found["value"]) == ("unknown", None)
    assert said in found["text"]


def test_few_types_are_not_the_best_estimate() -> None:
    few = estimate(estimator="k1", k=None, types=2, rank_correlation=1.0)
    found = cheaper("one_sample", [few, estimate(estimator="k3", k=None)], "", "")
    assert found["text"].startswith("k3, the best estimate, has a rank correlation of 0.6 to 0.9")


def test_losses_by_place_are_the_same_bits_compiled() -> None:
    """Of batches of whole sequences, longer and shorter than the opening."""
    rng = np.random.default_rng(0)
    made = {
        compiled: loss_places(np.array([3, 7]), 5, 20, compiled=compiled)
        for compiled in (False, True)
    }
    for lengths in ([3, 200, 1], [90]):
        batch = {
            "sequence_id": np.repeat(np.arange(len(lengths)), lengths),
            "prompt": np.repeat(rng.integers(0, 4, len(lengths)).astype(np.uint64), lengths),
            "position": np.concatenate([np.arange(n, dtype=np.int32) for n in lengths]),
            "token_id": rng.integers(0, 9, sum(lengths)).astype(np.int32),
            "loss": rng.exponential(1.0, sum(lengths)).astype(np.float32),
        }
        for derived, _ in made.values():
            derived.update(batch)
    (_, plain), (derived, compiled) = made.values()
    derived.close()
    for name in ("", "loss"):
        for places in (None, SPECIAL, BEGINNING, REST):
            found, expected = compiled.of(name, places), plain.of(name, places)
            assert float(found.value) == float(expected.value)
            assert found.effect.tolist() == expected.effect.tolist()
            assert float(found.prompts) == float(expected.prompts)
