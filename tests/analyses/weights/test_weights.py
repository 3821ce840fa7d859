"""`weights`: selections against pandas, budgets, masks against brute force, and bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rocktok
from rocktok.analyses.detect.result import DetectResult
from rocktok.analyses.weights import retained_passes
from rocktok.analyses.weights.mask_passes import within
from rocktok.analyses.weights.retained_passes import Places
from rocktok.analyses.weights.selecting import MIN_OCCURRENCES, Types
from rocktok.engine.passes import Engine
from rocktok.errors import LogError, UsageError
from rocktok.hashing import hash_rows
from rocktok.log import tasks
from rocktok.weighting import Weights
from tests import gradient_logs, twin
from tests.analyses.lenses import lens_logs
from tests.analyses.occurrences.occurrence_logs import frame, write
from tests.logs import write_log
from tests.processes import run_command

OPTIONS: dict[str, Any] = {"window": 2, "gamma": 0.4, "eta": 0.02, "tau_pre": 0.4, "tau_post": 0.4}


def detected(log: Path | str, **options: Any) -> DetectResult:
    """Rocks of a small log: by the rule top-k, as none of chance's is."""
    return rocktok.detect(log, **{"top_k": 3, **options})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    """A folder with log/, rocks.json and occurrences.parquet, and the text."""
    folder, rows = tmp_path_factory.mktemp("weights"), frame(seed=3)
    log = write(folder / "log", rows)
    (folder / "rocks.json").write_text(detected(log, **OPTIONS).to_json())
    rocktok.occurrences(log, folder / "occurrences.parquet", top_k=3, **OPTIONS)
    return folder, rows


# --- selections --------------------------------------------------------------------------------


def test_rocks_need_no_log(made: tuple[Path, pd.DataFrame]) -> None:
    folder, rows = made
    found = detected(folder / "log", **OPTIONS)
    result = rocktok.weights(folder / "rocks.json", weight=0.5)
    weights = result.weights
    assert weights.token_ids == tuple(row["token_id"] for row in found.rocks)
    assert weights.token_texts == tuple(row["token"] for row in found.rocks)
    mine = rows["token_id"].isin(weights.token_ids)
    assert weights.budget.token_share == pytest.approx(mine.mean())
    assert weights.budget.loss_share == pytest.approx(rows["post"][mine].sum() / rows["post"].sum())
    assert weights.provenance.steps == {"pre": 0, "post": 10}
    assert weights.vocabulary.identity == found.log["vocab"]
    assert (weights.vocabulary.size, weights.weight, weights.contexts) == (50, 0.5, None)
    assert Weights.from_dict(json.loads(result.to_json())) == weights
    assert rocktok.weights(found, weight=0.5).weights.token_ids == weights.token_ids
    shares = weights.budget
    assert result.answer() == [
        f"3 token types get weight 0.5. The types carry {shares.loss_share:.1%} of the loss at "
        f"{shares.token_share:.1%} of the positions.",
        "Selected: the 3 rocks of the file.",
    ]


def _until(order: list[int], share: pd.Series, target: float) -> list[int]:
    taken: list[int] = []
    for v in order:
        taken.append(v)
        if sum(share[u] for u in taken) >= target - 1e-9:
            break
    return taken


@pytest.mark.parametrize(
    "select",
    [
        "frequency",
        "mean-loss",
        "random",
        "lens:forking",
        *(pytest.param(name, marks=pytest.mark.long) for name in ("grad-norm", "lens:position")),
    ],
)
def test_selections_against_pandas(select: str, tmp_path: Path) -> None:
    frames, listed = lens_logs.frames(seed=1)
    log = lens_logs.write(tmp_path / "log", frames, listed, flush=20)
    found = detected(log, window=2, gamma=0.2, eta=0.01)
    result = rocktok.weights(found, log=log, select=select, seed=3)
    rows = frames[10]
    types = rows.groupby("token_id")
    share = types["loss"].sum(numeric_only=True) / rows["loss"].sum()
    count = types.size()
    score: pd.Series = count.astype(float)
    if select == "random":
        score = pd.Series(-(hash_rows(3, count.index.to_numpy()) / 2**64), index=count.index)
    elif select in ("mean-loss", "grad-norm"):
        column = {"mean-loss": "loss", "grad-norm": "grad_norm"}[select]
        score = types[column].agg(lambda x: x.astype(float).mean())
    elif select.startswith("lens:"):
        length = rows.groupby("sequence_id")["position"].transform("max") + 1
        value = rows["student_entropy"]
        if select == "lens:position":
            value = (1 - rows["position"] / length).astype(np.float32)
        cut = twin.quantile(value.tolist(), 0.9)
        score = (value >= cut).groupby(rows["token_id"]).mean()
    if select not in ("frequency", "random"):
        score = score[count >= MIN_OCCURRENCES]
    order = sorted(score.index, key=lambda v: (-score[v], -count[v], v))
    target = sum(row["loss_share"] or 0 for row in found.rocks)
    wanted = _until(order, share, target)
    assert list(result.weights.token_ids) == wanted
    assert 1 < len(wanted) < len(order)
    assert result.weights.budget.loss_share == pytest.approx(share[wanted].sum())
    assert result.weights.budget.token_share == pytest.approx(count[wanted].sum() / len(rows))
    assert result.target.loss_share == pytest.approx(target)
    rocks = {row["token_id"] for row in found.rocks}
    assert [row["rock"] for row in result.tokens] == [v in rocks for v in wanted]
    parameters = result.weights.provenance.parameters
    assert parameters["rocks"]["loss_share"] == result.target.loss_share
    assert result.notes == ()
    over = result.weights.budget.loss_share - result.target.loss_share
    assert f"{over:.1%} more; {sum(v in rocks for v in wanted)} of" in result.answer()[1]


def test_aligned_types_are_those_whose_gradients_point_with_the_others(tmp_path: Path) -> None:
    """Of twelve types with sums the first six point one way."""
    rows = gradient_logs.frame(0)
    log = gradient_logs.write(tmp_path / "log", rows, gradients=gradient_logs.gradient_rows())
    found = detected(log)
    result = rocktok.weights(found, log=log, select="aligned")
    assert set(result.weights.token_ids[:6]) == set(range(6))
    assert set(result.weights.token_ids) <= set(range(12))


@pytest.mark.long
def test_controls_are_all_taken_where_they_do_not_reach_the_budget(tmp_path: Path) -> None:
    log = str(Path(__file__).parents[3] / "sample_data" / "opd")
    found = rocktok.detect(log, replication=False)
    result = rocktok.weights(found, log=log, select="control")
    rocks = tuple(row["token_id"] for row in found.rocks)
    pairs = rocktok.controls(log, rocks=rocks, kinds=("frequency",)).kinds["frequency"]["pairs"]
    assert set(result.weights.token_ids) == {other for _, other in pairs}
    assert not any(row["rock"] for row in result.tokens)
    assert result.notes[-1].endswith("of the rocks: the budgets differ")
    assert "less than the loss of the 30 rocks" in result.answer()[1]


shares = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 1000)), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(shares, st.floats(0, 1), st.integers(0, 5))
def test_the_budget_is_reached_by_the_shortest_beginning(
    numbers: list[tuple[int, int]], target: float, seed: int
) -> None:
    count_T, loss_T = np.array(numbers).T
    types = Types(np.arange(len(numbers)) * 3, count_T, loss_T.astype(float))
    order = types.at_random(seed)
    assert sorted(order) == list(types.token_T)
    taken = types.until(order, target)
    assert list(order[: len(taken)]) == list(taken)
    reached = types.budget(taken).loss_share
    assert reached is not None
    assert reached >= target - 1e-6 or len(taken) == len(order)
    before = types.budget(taken[:-1]).loss_share
    assert len(taken) == 1 or (before is not None and before < target)


def test_an_order_has_ties_by_frequency_and_id() -> None:
    types = Types(np.array([2, 5, 8, 9]), np.array([5, 6, 6, 4]), np.ones(4))
    assert types.by_score(np.array([1.0, 1.0, 1.0, 1.0])).tolist() == [5, 8, 2, 9]
    # A type with fewer than five occurrences has no mean.
    assert types.by_score(types.means(np.array([1.0, 6.0, 0.0, 99.0]))).tolist() == [5, 2, 8]
    loss_shares, token_shares = types.shares(np.array([9, 7]))
    assert loss_shares.tolist() == [0.25, 0.0]
    assert token_shares.tolist() == [4 / 21, 0.0]


# --- radius and mask ---------------------------------------------------------------------------


def test_windows_are_those_of_retained_occurrences(made: tuple[Path, pd.DataFrame]) -> None:
    folder, _ = made
    result = rocktok.weights(
        folder / "rocks.json", occurrences=folder / "occurrences.parquet", radius=1
    )
    contexts = result.weights.contexts
    assert contexts is not None
    rows = pq.read_table(folder / "occurrences.parquet").to_pylist()
    wanted = {
        (row["token_id"], tuple(row["context_left"]), tuple(row["context_right"]))
        for row in rows
        if row["retained"] and row["token_id"] in result.weights.token_ids
    }
    windows = [(w.token_id, w.left, w.right) for w in contexts.windows]
    assert windows == sorted(wanted)
    assert windows
    assert (contexts.before, contexts.after, contexts.min_similarity) == (2, 2, 0.4)
    assert result.answer()[0].startswith(
        "3 token types get weight 0, and so do positions within 1 of retained contexts. The types"
    )
    assert Weights.from_dict(json.loads(result.to_json())) == result.weights


def test_occurrences_by_other_options_are_said(
    made: tuple[Path, pd.DataFrame], tmp_path: Path
) -> None:
    folder, _ = made
    path = _described(folder / "occurrences.parquet", tmp_path / "o", {"seed": 3, "fdr": 0.1})
    given_: dict[str, Any] = {"occurrences": path, "radius": 1}
    assert rocktok.weights(folder / "rocks.json", **given_).notes == (
        "the occurrences were judged by other options: fdr 0.1 (rocks: 0.05), seed 3 (rocks: 0)",
    )
    given_["occurrences"] = folder / "occurrences.parquet"
    assert rocktok.weights(folder / "rocks.json", **given_).notes == ()


def test_of_too_many_windows_some_are_kept(
    made: tuple[Path, pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = made
    given_: dict[str, Any] = {"occurrences": folder / "occurrences.parquet", "radius": 1}
    whole = rocktok.weights(folder / "rocks.json", **given_).weights.contexts
    monkeypatch.setattr(retained_passes, "MOST_WINDOWS", 4)
    result = rocktok.weights(folder / "rocks.json", **given_)
    assert whole is not None
    assert result.weights.contexts is not None
    assert len(result.weights.contexts.windows) == 4
    assert set(result.weights.contexts.windows) < set(whole.windows)
    assert any("distinct windows" in note for note in result.notes)


@pytest.mark.parametrize("radius", [0, 2])
def test_a_mask_against_brute_force(
    radius: int,
    made: tuple[Path, pd.DataFrame],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, rows = made
    given_: dict[str, Any] = {"log": folder / "log", "weight": 0.25, "radius": radius}
    if radius:
        given_["occurrences"] = folder / "occurrences.parquet"
    path = tmp_path / "mask.parquet"
    result = rocktok.weights(folder / "rocks.json", mask=path, engine=Engine(1), **given_)
    retained = {
        (row["sequence_id"], row["position"])
        for row in pq.read_table(folder / "occurrences.parquet").to_pylist()
        if row["retained"] and row["token_id"] in result.weights.token_ids
    }
    mask = pq.read_table(path).to_pylist()
    places = [(row["sequence_id"], row["position"]) for row in mask]
    token = dict(zip(zip(rows["sequence_id"], rows["position"], strict=True), rows["token_id"],
                     strict=True))  # fmt: skip
    assert places == sorted(token)
    selected = set(result.weights.token_ids)
    near = (
        {(s, p + d) for s, p in retained for d in range(-radius, radius + 1)} if radius else set()
    )
    for row, place in zip(mask, places, strict=True):
        weighted = token[place] in selected or place in near
        assert row["weight"] == (0.25 if weighted else 1.0)
    assert result.mask == {
        "positions": len(rows),
        "weighted": sum(row["weight"] != 1 for row in mask),
        "by_radius": sum(place in near and token[place] not in selected for place in places),
        "unpaired_sequences": 0,
    }
    about = json.loads(pq.read_metadata(path).metadata[b"rocktok"])
    assert (about["schema"], about["radius"]) == ("rocktok.mask/1", radius)
    monkeypatch.setattr(tasks, "TASK_ROWS", 100)
    again = tmp_path / "again.parquet"
    rocktok.weights(folder / "rocks.json", mask=again, engine=Engine(3), **given_)
    assert again.read_bytes() == path.read_bytes()


places = st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 12)), unique=True)


@settings(max_examples=80, deadline=None)
@given(places, places, st.integers(0, 4))
def test_within_is_a_distance_in_one_sequence(
    text: list[tuple[int, int]], at: list[tuple[int, int]], radius: int
) -> None:
    (sequence, position), (of, where) = (
        np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2).T for pairs in (text, at)
    )
    near = within(sequence, position, Places(of, where), radius)
    wanted = [any(s == t and abs(p - q) <= radius for t, q in at) for s, p in sorted(text)]
    assert near.tolist() == wanted


# --- formats and the command -------------------------------------------------------------------


def test_on_the_command_line(made: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    folder, _ = made
    rocks, out = folder / "rocks.json", tmp_path / "weights.json"
    code, printed, error = run_command("weights", rocks, "-o", out)
    assert (code, error) == (0, "")
    result = rocktok.weights(rocks)
    assert printed == repr(result) + "\n"
    assert Weights.load(out) == result.weights
    assert out.read_text() == result.to_json()
    code, printed, error = run_command("weights", rocks, "-o", "-")
    assert (code, printed, error) == (0, result.to_json(), "")
    code, printed, _ = run_command("weights", rocks, "--format", "kdflow", "-o", "-")
    assert json.loads(printed) == sorted(result.weights.token_ids)
    words = ("--select", "frequency", "--log", folder / "log", "--jobs", 2)
    code, printed, error = run_command("weights", rocks, *words, "-o", tmp_path / "f.json")
    assert (code, error) == (0, "")
    assert "Selected by frequency until they reach the loss of the 3 rocks" in printed
    words = ("--format", "mask", "--log", folder / "log")
    code, printed, error = run_command("weights", rocks, *words, "-o", tmp_path / "m.parquet")
    assert (code, error) == (0, "")
    assert "\nmask: " in printed
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.json", "m.parquet", "weights.json"]


def _changed(source: Path, target: Path, **changes: Any) -> Path:
    content = json.loads(source.read_text())
    for key, value in changes.items():
        if key == "rocks":
            for row in content["tokens"]:
                row["is_rock"] = value
        elif key == "token_id":
            content["tokens"][0]["token_id"] = value
        else:
            content["log"][key] = value
    target.write_text(json.dumps(content))
    return target


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (("--weight", "-1"), 2, "--weight is -1; it must be 0 or more"),
        (("--weight", "nan"), 2, "--weight is nan"),
        (("--radius", "-1"), 2, "--radius is -1; it must be 0 or more"),
        (("--radius", "2"), 2, "--radius is 2, which needs the file of `rocktok occurrences`"),
        (("--occurrences", "OCC"), 2, "--occurrences are of use with a radius alone"),
        (("--select", "loudest"), 2, "--select is 'loudest'; it must be one of rocks, "),
        (("--select", "lens:nothing"), 2, "a lens 'nothing' does not exist; choose from tip, "),
        (("--select", "lens:scope"), 2, "a lens 'scope' ranks no positions"),
        (("--select", "random"), 2, "--select is 'random', which needs the log of the rocks"),
        (("--format", "mask"), 2, "a mask needs the log of the rocks; give --log"),
        (("--format", "kdflow", "--weight", "0.5"), 2, "--weight is 0.5, but a KDFlow list"),
        (("--select", "grad-norm", "--log", "LOG"), 1, "LOG: fixed/ has no column grad_norm; "),
        (("--select", "aligned", "--log", "LOG"), 1, "no gradient sums in this log; record them"),
        (("--select", "lens:tip", "--log", "LOG"), 1, "LOG: lens tip: fixed/ has no column"),
        (("--select", "frequency", "--log", "OTHER"), 1, "OTHER: is of another log than the rocks"),
        (("--radius", "1", "--occurrences", "ELSE"), 1, "ELSE: is of another log than the rocks"),
        (("--radius", "1", "--occurrences", "ROCKS"), 1, "ROCKS: cannot be read ("),
        (("--radius", "1", "--occurrences", "LATER"), 1, "LATER: its earlier step is 5, that of"),
        (("--radius", "1", "--occurrences", "HIDDEN"), 1, "HIDDEN: its contexts were compared by"),
    ],
)
def test_bad_input(
    words: tuple[str, ...],
    code: int,
    why: str,
    made: tuple[Path, pd.DataFrame],
    tmp_path: Path,
) -> None:
    folder, _ = made
    where = {"LOG": folder / "log", "OCC": folder / "occurrences.parquet",
             "ROCKS": folder / "rocks.json"}  # fmt: skip
    for name in ("OTHER", "ELSE"):
        if name in words:
            where["OTHER"] = write(tmp_path / "other", frame(seed=4))
        if name == "ELSE" and name in words:
            where["ELSE"] = tmp_path / "else.parquet"
            rocktok.occurrences(where["OTHER"], where["ELSE"], **OPTIONS)
    for name, change in (("LATER", {"pre": 5}), ("HIDDEN", {"similarity": "hidden"})):
        if name in words:
            where[name] = _described(folder / "occurrences.parquet", tmp_path / name, change)
    before = sorted(p.name for p in tmp_path.iterdir())
    given_ = [str(where.get(word, word)) for word in words]
    out = tmp_path / "out"
    got, printed, error = run_command("weights", folder / "rocks.json", *given_, "-o", out)
    assert (got, printed) == (code, "")
    for name, path in where.items():
        why = why.replace(f"{name}: ", f"{path}: ")
    assert why in error
    assert error.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def _described(source: Path, target: Path, change: dict[str, Any]) -> Path:
    """The file with other metadata."""
    table = pq.read_table(source)
    about = json.loads(table.schema.metadata[b"rocktok"])
    for key, value in change.items():
        about["log" if key in about["log"] else "parameters"][key] = value
    pq.write_table(table.replace_schema_metadata({"rocktok": json.dumps(about)}), target)
    return target


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"rocks": False}, "holds no rocks, so there is nothing to weight"),
        ({"token_id": 50}, "token id 50 is outside its vocabulary of 50 ids"),
        ({"token_id": -1}, "token id -1 is outside"),
        ({"token_id": "a"}, "is not a result of `rocktok detect`"),
        ({"table": "texts"}, "is not a result of `rocktok detect`"),
        ({"vocab": "other"}, "its vocabulary differs from that of"),
        ({"run_id": "other"}, "is of another log than the rocks of"),
        ({"post": 7}, "has no step 7"),
    ],
)
def test_bad_rocks(
    changes: dict[str, Any], why: str, made: tuple[Path, pd.DataFrame], tmp_path: Path
) -> None:
    folder, _ = made
    rocks = _changed(folder / "rocks.json", tmp_path / "rocks.json", **changes)
    words = ("--select", "frequency", "--log", folder / "log", "-o", tmp_path / "out")
    code, printed, error = run_command("weights", rocks, *words)
    assert (code, printed) == (1, "")
    assert why in error
    assert error.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["rocks.json"]


def test_masks_of_other_text_are_refused(tmp_path: Path, made: tuple[Path, pd.DataFrame]) -> None:
    folder, _ = made
    rocks = _changed(folder / "rocks.json", tmp_path / "rocks.json", table="rollout")
    with pytest.raises(LogError, match="a mask is for fixed text"):
        rocktok.weights(rocks, log=folder / "log", mask=tmp_path / "mask.parquet")
    with pytest.raises(UsageError, match="exists already"):
        rocktok.weights(folder / "rocks.json", log=folder / "log", mask=rocks)
    # A log on which nothing is a rock.
    none = rocktok.detect(write_log(tmp_path / "log"), replication=False)
    with pytest.raises(LogError, match="holds no rocks"):
        rocktok.weights(none)


def test_a_log_that_has_changed_is_refused(made: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    folder, _ = made
    content = json.loads((folder / "rocks.json").read_text())
    content["totals"]["positions"] += 1
    (tmp_path / "rocks.json").write_text(json.dumps(content))
    with pytest.raises(LogError, match="positions at these steps, but the rocks of"):
        rocktok.weights(tmp_path / "rocks.json", log=folder / "log", select="frequency")
