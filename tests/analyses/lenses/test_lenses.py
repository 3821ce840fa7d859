"""`lenses`: right by a twin in plain Python, quiet on noise, clear where a lens is the rocks."""

from __future__ import annotations

import ast
import csv
import io
import json
import shutil
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rocktok
from rocktok.analyses.lenses.lens import LENSES
from rocktok.analyses.lenses.result import LensesResult
from rocktok.analyses.lenses.shares import expected_jaccard
from rocktok.analyses.lenses.table import encode, render
from rocktok.engine.passes import Engine
from rocktok.engine.source import Source
from rocktok.errors import LogError, UsageError
from rocktok.hashing import hash_rows
from rocktok.log import tasks
from rocktok.stats.bootstrap import poisson_weights
from rocktok.stats.intervals import Estimate, ends
from rocktok.tables.terminal import View
from tests.analyses.lenses import twin
from tests.analyses.lenses.lens_logs import COLUMNS, frames, planted, write
from tests.logs import write_by_hand
from tests.paths import SAMPLE
from tests.processes import run_command

ROCKS = tuple(range(0, 50, 3))


def looked(path: Path, **options: Any) -> LensesResult:
    return rocktok.lenses(rocktok.open(path), **{"rocks": ROCKS, "replicates": 100, **options})


def facts(listed: pd.DataFrame) -> dict[int, bool | None]:
    known = zip(listed["sequence_id"], listed["correct"], strict=True)
    return {int(key): None if pd.isna(value) else bool(value) for key, value in known}


def dealt_out(rows: dict[int, pd.DataFrame], seed: int) -> dict[int, pd.DataFrame]:
    """Rows with the losses of each sequence in the order of a hash of their place."""
    made = {}
    for step, frame in rows.items():
        frame = frame.copy()
        for _, part in frame.groupby("sequence_id"):
            ids = (part["sequence_id"].to_numpy(), part["position"].to_numpy())
            order = np.argsort(hash_rows(seed, *ids))
            frame.loc[part.index, "loss"] = part["loss"].to_numpy()[order]
        made[step] = frame
    return made


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("lenses") / "log", *frames())


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.long)])
def test_every_lens_is_its_definition(tmp_path: Path, seed: int) -> None:
    rows, listed = frames(seed)
    result = looked(write(tmp_path / "log", rows, listed))
    assert [row["name"] for row in result.lenses] == [lens.name for lens in LENSES]
    assert result.missing == ()
    early, late = (twin.measure(rows[step], facts(listed)) for step in (0, 10))
    classes, before, top = twin.classify(late), twin.classify(early), twin.top(late)
    tau = [twin.quantile([row["loss"] for row in part], 0.8) for part in (early, late)]
    hard = [a["loss"] >= tau[0] and b["loss"] >= tau[1]
            for a, b in zip(early, late, strict=True)]  # fmt: skip
    of_type = [row["token_id"] in ROCKS for row in late]
    rock = [a and b for a, b in zip(hard, of_type, strict=True)]
    dealt = dealt_out(rows, seed=0)
    dealt_late = twin.measure(dealt[10], facts(listed))
    dealt_top = twin.top(dealt_late)
    dealt_rock = [
        a["loss"] >= tau[0] and b["loss"] >= tau[1] and b["token_id"] in ROCKS
        for a, b in zip(twin.measure(dealt[0], facts(listed)), dealt_late, strict=True)
    ]
    assert result.log["rock_occurrences"] == sum(rock) > 20
    assert result.log["hard"] == sum(hard)
    for row in result.lenses:
        name = row["name"]
        shares = {
            "share": twin.shares(late, classes[name], None, None),
            "loss_share": twin.shares(late, classes[name], None, "loss"),
            "grad_share": twin.shares(late, classes[name], None, "grad_norm"),
            "rocks_share": twin.shares(late, classes[name], rock, None),
        }
        for share, expected in shares.items():
            found = {each["name"]: each[share] for each in row["classes"]}  # type: ignore[literal-required]
            assert found == pytest.approx({**dict.fromkeys(found, 0.0), **expected}, rel=1e-12)
        if name in ("position", "teacher"):
            assert row["persistence"] == []
        for moved in row["persistence"]:
            held = [at for at, each in enumerate(before[name]) if each == moved["name"]]
            stays = [classes[name][at] == moved["name"] for at in held]
            assert moved["stays"] == pytest.approx(np.mean(stays) if held else None)
            assert moved["pre"] == pytest.approx(len(held) / len(late))
            assert moved["post"] == pytest.approx(shares["share"].get(moved["name"], 0.0))
        if name == "scope":
            assert (row["top_share"], row["jaccard_top10"], row["singles_out"]) == (None,) * 3
            continue
        inside = {
            "rocks_share": rock,
            "hard_share": [a and not b for a, b in zip(hard, of_type, strict=True)],
            "type_share": [b and not a for a, b in zip(hard, of_type, strict=True)],
            "top_share": [True] * len(late),
        }
        for share, kind in inside.items():
            expected_share = sum(a and b for a, b in zip(kind, top[name], strict=True)) / sum(kind)
            assert row[share] == pytest.approx(expected_share), (name, share)  # type: ignore[literal-required]
        assert row["jaccard_top10"] == pytest.approx(twin.jaccard(rock, top[name]))
        again = sum(a and b for a, b in zip(dealt_rock, dealt_top[name], strict=True))
        assert row["shuffled_share"] == pytest.approx(again / sum(dealt_rock)), name
        for over, share in (("chance", "top"), ("hard", "hard"), ("type", "type"),
                            ("shuffled", "shuffled")):  # fmt: skip
            under = row[f"{share}_share"]  # type: ignore[literal-required]
            ratio = row["rocks_share"] / under if under else None  # type: ignore[operator]
            assert row[f"over_{over}"] == pytest.approx(ratio)  # type: ignore[literal-required]


def test_intervals_are_the_house_rule(tmp_path: Path) -> None:
    """Of one number, from sums over prompts under the weights of each replicate."""
    rows, listed = frames(5, sequences=240, prompts=120)
    result = looked(write(tmp_path / "log", rows, listed), replicates=200, seed=3)
    late = twin.measure(rows[10], facts(listed))
    classes = np.array(twin.classify(late)["forking"]) == "forking"
    prompts = rocktok.log.sequences.load_prompts(rocktok.open(tmp_path / "log"))
    prompt_N = prompts.of(np.array([row["sequence_id"] for row in late]))
    prompt_P, place_N = np.unique(prompt_N, return_inverse=True)
    loss_N = np.array([row["loss"] for row in late], dtype=np.float64)
    weight_PB = poisson_weights(3, 200, prompt_P)
    parts = []
    for values_N in (loss_N * classes, loss_N):
        sum_P = np.bincount(place_N, values_N)
        total = sum_P.sum()
        parts.append(Estimate.total(total, sum_P @ weight_PB - total, loss_N.max()))
    low, high = ends((parts[0] / parts[1]).interval(most=1.0))
    (lens,) = (row for row in result.lenses if row["name"] == "forking")
    assert low is not None
    assert lens["classes"][0]["loss_share_low"] == pytest.approx(low, rel=1e-9)
    assert lens["classes"][0]["loss_share_high"] == pytest.approx(high, rel=1e-9)


def test_the_same_bytes_however_it_is_cut_and_run(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Engine(1) as engine:
        whole = json.loads(looked(log, engine=engine).to_json())
    monkeypatch.setattr(tasks, "TASK_ROWS", 100)
    rows, listed = frames()
    for step, frame in rows.items():
        for number, part in frame.groupby(frame["sequence_id"] // (5 if step else 10)):
            write_by_hand(tmp_path, part, f"{step:02}-{number:02}")
    write_by_hand(tmp_path, listed, table="sequences")
    shutil.copy(log / "run.json", tmp_path)
    assert len(tasks.joined_tasks(rocktok.open(tmp_path), "fixed", 0, 10)) > 2
    with Engine(4) as engine:
        cut = json.loads(looked(tmp_path, engine=engine).to_json())
    for content in (whole, cut):
        for key in ("path", "shards"):
            del content["log"][key]
        content["notes"] = []
    assert cut == whole


def test_one_lens_is_the_rocks(tmp_path: Path) -> None:
    """The student's entropy alone tells hard occurrences of planted rocks from all others."""
    path, rocks = planted(tmp_path / "log")
    result = rocktok.lenses(path, replicates=200)
    found = set(result.log["rocks"])
    assert len(found & set(rocks)) >= 0.9 * len(rocks)
    by_name = {row["name"]: row for row in result.lenses}
    told = {name for name, row in by_name.items() if row["singles_out"]}
    # All that see the entropy, and none that does not.
    assert told == {"forking", "sead", "entropy_gap", "tip"}
    assert by_name["forking"]["rocks_share"] > 0.9
    best = max(by_name.values(), key=lambda row: row["jaccard_top10"] or 0.0)
    # The loss adds nothing here, so that the score with it is further from the rocks.
    assert best["name"] != "tip"
    assert render(result).startswith(f"Of 8 lenses, the top 10% of {best['name']} overlaps most")
    for name in ("teacher", "position", "iw_opd", "near_future"):
        assert 0.5 < by_name[name]["over_hard"] < 1.5


@pytest.mark.parametrize(
    "rule", ["tested", "random", pytest.param("top-k", marks=pytest.mark.long)]
)
def test_no_lens_singles_out_noise(tmp_path: Path, rule: str) -> None:
    """The sample with its losses shuffled over all positions: rocks there are by name alone."""
    told, compared = 0, 0
    for seed in range(3 if rule == "top-k" else 1):
        path = _shuffled(tmp_path / f"{rule}{seed}", seed)
        rocks = None
        if rule == "top-k":
            found = rocktok.detect(path, rule="top-k", replication=False)
            rocks = tuple(row["token_id"] for row in found.rocks)
            assert len(rocks) > 50
        elif rule == "random":
            rng = np.random.default_rng(seed)
            rocks = tuple(rng.choice(1000, 100, replace=False).tolist())
        result = rocktok.lenses(path, rocks=rocks, replicates=100)
        told += sum(bool(row["singles_out"]) for row in result.lenses)
        compared += sum(row["singles_out"] is not None for row in result.lenses)
        if rule == "tested" and not result.log["rocks"]:
            assert render(result).startswith(
                "No rock occurrences to compare with the lenses: `detect` finds no rocks."
            )
    assert told == 0
    assert compared > 0 or rule == "tested"


def _shuffled(path: Path, seed: int) -> Path:
    log, rng = rocktok.open(SAMPLE), np.random.default_rng(seed)
    parts = [pq.read_table(SAMPLE / shard.path) for shard in log.shards("fixed")]
    frame = pd.concat([part.to_pandas() for part in parts], ignore_index=True)
    both = [frame[frame["step"] == step].reset_index(drop=True) for step in (8, 500)]
    order = rng.permutation(len(both[0]))
    (path / "fixed").mkdir(parents=True)
    for part in both:
        part["loss"] = part["loss"].to_numpy()[order]
        part.to_parquet(path / "fixed" / f"{part['step'][0]}.parquet", index=False)
    parts = [pq.read_table(SAMPLE / shard.path) for shard in log.shards("sequences")]
    frame = pd.concat([part.to_pandas() for part in parts], ignore_index=True)
    (path / "sequences").mkdir()
    frame.to_parquet(path / "sequences" / "all.parquet", index=False)
    return path


# -- logs that lack something ------------------------------------------------------------------


def test_missing_columns_name_the_lens_and_the_remedy(tmp_path: Path) -> None:
    rows, listed = frames()
    columns = ("student_logprob", "teacher_logprob", "student_entropy")
    result = looked(write(tmp_path / "log", rows, listed.drop(columns="correct"), columns))
    there = {row["name"] for row in result.lenses}
    assert there == {"tip", "position", "iw_opd", "near_future", "forking"}
    assert [(row["lens"], row["column"], row["remedy"]) for row in result.missing] == [
        ("tip_weight", "jsd", "record it with Recorder(columns='lenses')"),
        ("teacher", "teacher_entropy", "record it with Recorder(columns=[…, 'teacher_entropy'])"),
        ("sead", "teacher_entropy", "record it with Recorder(columns=[…, 'teacher_entropy'])"),
        ("entropy_gap", "teacher_entropy",
         "record it with Recorder(columns=[…, 'teacher_entropy'])"),
        ("scope", "correct",
         "write correct (whether the answer was right) into sequences/"),
        ("overlap", "overlap", "record it with Recorder(columns='lenses')"),
        ("teachability", "teachability", "record it with Recorder(columns='lenses')"),
        ("ending", "student_end", "record it with Recorder(columns='lenses')"),
        ("ending", "teacher_end", "record it with Recorder(columns='lenses')"),
    ]  # fmt: skip
    assert all(each["grad_share"] is None for row in result.lenses for each in row["classes"])
    text = render(result)
    assert "overlap: fixed/ has no column overlap; record it with Recorder(col" in text


def test_the_log_ratio_stands_for_both_logprobs(tmp_path: Path) -> None:
    rows, listed = frames()
    for frame in rows.values():
        difference = frame["student_logprob"].astype("f8") - frame["teacher_logprob"].astype("f8")
        frame["log_ratio"] = difference.astype("f4")
    full = looked(write(tmp_path / "full", rows, listed))
    result = looked(write(tmp_path / "log", rows, listed, ("log_ratio",)))
    assert [row["name"] for row in result.lenses] == ["position", "iw_opd", "near_future"]
    for row in result.lenses:
        (other,) = (each for each in full.lenses if each["name"] == row["name"])
        for ours, theirs in zip(row["classes"], other["classes"], strict=True):
            assert ours["share"] == pytest.approx(theirs["share"], abs=2e-3)


@pytest.mark.parametrize(
    "exactness",
    ["sampled", *(pytest.param(word, marks=pytest.mark.long) for word in ("topk", "truncated"))],
)
def test_a_log_of_estimates_has_no_lens_of_distributions(tmp_path: Path, exactness: str) -> None:
    result = looked(write(tmp_path / "log", *frames(), exactness=exactness))
    assert [row["name"] for row in result.lenses] == ["scope", "position", "iw_opd"]
    assert {row["lens"] for row in result.missing} == {lens.name for lens in LENSES if lens.exact}
    why = f"losses are {exactness!r}, and the lens needs whole distributions"
    assert {row["why"] for row in result.missing} == {why}


def test_one_step_has_classes_and_no_rocks(tmp_path: Path) -> None:
    rows, listed = frames()
    path = write(tmp_path / "log", {10: rows[10]}, listed)
    result = looked(path)
    assert (result.log["pre"], result.log["post"], result.log["hard"]) == (None, 10, None)
    assert result.log["no_rocks"] == "fixed/ has no complete step before step 10"
    assert len(result.lenses) == len(LENSES)
    assert all(row["persistence"] == [] for row in result.lenses)
    assert all(row["jaccard_top10"] is None for row in result.lenses)
    both = looked(write(tmp_path / "both", rows, listed))
    for one, other in zip(result.lenses, both.lenses, strict=True):
        names = ("positions", "share", "loss_share", "grad_share_low")
        for ours, theirs in zip(one["classes"], other["classes"], strict=True):
            assert [ours[n] for n in names] == [theirs[n] for n in names]  # type: ignore[literal-required]


@pytest.mark.parametrize("rocks", [None, ROCKS])
def test_no_text_at_both_steps(tmp_path: Path, rocks: tuple[int, ...] | None) -> None:
    rows, _ = frames()
    rows[10]["sequence_id"] += 1000
    with pytest.raises(
        LogError, match="no sequence of fixed/ is scored at both step 0 and step 10"
    ):
        looked(write(tmp_path / "log", rows, None), rocks=rocks)


def test_rollouts_alone(tmp_path: Path) -> None:
    rows, listed = frames()
    result = looked(write(tmp_path / "log", {10: rows[10]}, listed, table="rollout"))
    assert result.log["table"] == "rollout"
    assert result.log["no_rocks"].startswith("rollout/, where every step has its own text")


def test_without_sequences_each_is_a_prompt(tmp_path: Path) -> None:
    rows, _ = frames()
    result = looked(write(tmp_path / "log", rows, None))
    assert any("no sequences/ table" in note for note in result.notes)
    assert ("scope", "correct") in {(row["lens"], row["column"]) for row in result.missing}


def test_no_rocks_and_empty_classes(tmp_path: Path) -> None:
    rows, listed = frames()
    for frame in rows.values():
        frame["student_end"] = frame["teacher_end"]
        frame["overlap"] = np.float32(1)
    path = write(tmp_path / "log", rows, listed.assign(correct=True))
    result = rocktok.lenses(path, replicates=100)
    assert (result.log["rocks"], result.log["no_rocks"]) == ([], "`detect` finds no rocks")
    by_name = {row["name"]: row for row in result.lenses}
    shares = {row["name"]: row["share"] for row in by_name["ending"]["classes"]}
    assert shares == {"teacher_ends": 0.0, "student_ends": 0.0, "rest": 1.0}
    assert by_name["ending"]["persistence"][0]["stays"] is None
    # All are tied, so all are among the top 10%.
    assert by_name["overlap"]["top_share"] == 1.0
    assert {row["name"] for row in by_name["scope"]["classes"] if row["positions"]} == {
        "correct_student_unsure", "correct_student_sure"}  # fmt: skip
    assert json.loads(result.to_json())["lenses"][0]["rocks_share"] is None


def test_rocks_that_are_nowhere_hard(log: Path) -> None:
    result = looked(log, rocks=(49_999,))
    assert result.log["no_rocks"] == "no occurrence of the rocks is persistent here"
    assert (result.log["rock_occurrences"], result.log["rocks"]) == (0, [49_999])


def test_losses_that_are_zero(tmp_path: Path) -> None:
    rows, listed = frames()
    for frame in rows.values():
        frame["loss"] = np.float32(0)
    path = write(tmp_path / "log", rows, listed)
    for options in ({}, {"rocks": None}):
        result = looked(path, **options)
        assert result.log["no_rocks"].startswith("a share of 0.8 of the losses at step 0 is zero")
        assert all(c["loss_share"] is None for row in result.lenses for c in row["classes"])


def test_what_detect_found_is_not_looked_for_again(tmp_path: Path) -> None:
    path, _ = planted(tmp_path / "log")
    log = rocktok.open(path)
    found = rocktok.detect(log, fdr=0.2, quantile_pre=0.7, replication=False)
    with Engine() as engine:
        result = rocktok.lenses(log, detected=found, replicates=100, engine=engine)
    assert result.log["passes"] == engine.passes == 5
    assert result.log["rocks"] == sorted(row["token_id"] for row in found.rocks)
    assert result.log["hard"] == found.totals["persistent"]
    off = rocktok.detect(log, context="off")
    result = rocktok.lenses(log, detected=off, replicates=100)
    assert (result.log["pre"], result.log["no_rocks"]) == (None, "it was switched off")


def test_options_out_of_range(log: Path) -> None:
    with pytest.raises(UsageError, match="replicates is 5; it must be 100 or more"):
        looked(log, replicates=5)
    with pytest.raises(LogError, match="fixed/ has no step 3; --post must be one of 0, 10"):
        looked(log, post=3)


# -- output ------------------------------------------------------------------------------------


def test_csv_and_parquet_are_the_rows(log: Path) -> None:
    result = looked(log)
    rows = list(result.rows())
    assert len(rows) == sum(len(lens.classes) for lens in LENSES)
    table = pq.read_table(io.BytesIO(encode(result, "parquet")))
    assert table.to_pylist() == rows
    about = json.loads(table.schema.metadata[b"rocktok"])
    assert about["schema"] == "rocktok.lenses/1"
    assert "lenses" not in about
    read = list(csv.DictReader(io.StringIO(encode(result, "csv").decode())))
    assert [row["name"] for row in read] == [row["name"] for row in rows]
    assert [float(row["share"]) for row in read] == [row["share"] for row in rows]
    assert len(result.table) == len(rows)


def test_the_command(log: Path, tmp_path: Path) -> None:
    rocks = tmp_path / "rocks.json"
    found = rocktok.detect(log, rule="top-k", top_k=5)
    rocks.write_text(found.to_json())
    code, printed, error = run_command("lenses", log, "--rocks", rocks, "--replicates", "100")
    assert code == 0
    assert printed.startswith("Of 12 lenses, the top 10% of ")
    assert "note: the rocks were given" in error
    assert "… 20 more classes (--all)" in printed
    assert printed.splitlines()[-1] == str(log)
    _, wide, _ = run_command("lenses", log, "--rocks", rocks, "--wide", "--all", "-q")
    assert "ranked by" in wide
    assert "more classes" not in wide
    code, printed, _ = run_command("lenses", log, "--format", "json", "-q")
    assert json.loads(printed)["schema"] == "rocktok.lenses/1"
    code, printed, error = run_command("lenses", tmp_path / "none")
    assert (code, printed) == (1, "")
    assert "no such directory" in error


def test_printed_lines_fit(log: Path) -> None:
    text = render(looked(log), View(width=80, wraps=True))
    assert max(map(len, text.splitlines())) <= 80
    assert ast.literal_eval(repr(text)) == text


# -- arithmetic --------------------------------------------------------------------------------


@given(st.integers(1, 7), st.data())
def test_expected_jaccard_is_the_mean_over_all_sets(positions: int, data: st.DataObject) -> None:
    one, other = (data.draw(st.integers(0, positions)) for _ in range(2))
    fixed = set(range(one))
    drawn = {frozenset(order[:other]) for order in permutations(range(positions))}
    values = [len(fixed & each) / len(fixed | each) for each in drawn if fixed | each]
    expected = float(np.mean(values)) if values else None
    assert expected_jaccard(positions, one, other) == pytest.approx(expected)


def test_expected_jaccard_of_many() -> None:
    # Far from the edges it is that of the mean overlap, nearly.
    mean = 10**7 * 10**6 / 10**8
    assert expected_jaccard(10**8, 10**7, 10**6) == pytest.approx(
        mean / (10**7 + 10**6 - mean), rel=1e-5
    )


def test_columns_of_the_lenses_are_those_of_the_format() -> None:
    from rocktok import schema

    known = {*schema.OPTIONAL_STATISTICS, "loss"}
    for lens in LENSES:
        assert {column for way in lens.columns for column in way} <= known
        assert len(set(lens.classes)) == len(lens.classes) <= 5
    assert set(COLUMNS) <= known


@pytest.mark.parametrize("log", ["opd", "smol"])
def test_large_logs_have_the_same_bits(log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled loops and arrays give one result."""
    path = SAMPLE.parent / log
    expected = looked(path).to_dict()
    assert expected["lenses"][0]["shuffled_share"] is not None
    monkeypatch.setattr(Source, "large", True)
    assert looked(path).to_dict() == expected
