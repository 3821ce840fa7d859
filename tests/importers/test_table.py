"""Tables with one row per token."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rocktok
from rocktok.errors import LogError, UsageError
from rocktok.importers import table_files as tables
from tests.importers.files import damage
from tests.importers.reading import close, rows, sequences
from tests.processes import run_command

MAP = {"loss": "kl", "token_id": "tok", "sequence_id": "seq", "position": "pos"}


def frame(n: int = 60, steps: tuple[int, ...] = (0, 5), seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    size = n * len(steps)
    return pd.DataFrame({
        "step": np.repeat(steps, n), "seq": np.tile(np.arange(n) // 7, len(steps)),
        "pos": np.tile(np.arange(n) % 7, len(steps)), "tok": rng.integers(0, 30, size),
        "kl": rng.exponential(1, size), "prompt_id": np.tile(np.arange(n) // 14, len(steps)),
    })  # fmt: skip


def save(table: pd.DataFrame, path: Path) -> Path:
    match path.suffix:
        case ".csv":
            table.to_csv(path, index=False)
        case ".parquet":
            table.to_parquet(path, index=False)
        case _:
            table.to_json(path, orient="records", lines=True, double_precision=15)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
@pytest.mark.parametrize("batch", [1 << 16, 13])
def test_every_row_arrives(
    tmp_path: Path, suffix: str, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "BATCH_ROWS", batch)
    theirs = frame()
    path = save(theirs, tmp_path / f"t{suffix}")
    done = rocktok.import_log("table", path, tmp_path / "log", columns=MAP, exactness="exact")
    assert (done.rows, done.sequences, done.steps) == (120, 18, (0, 5))
    found = rows(tmp_path / "log")
    close(found["loss"], theirs["kl"])
    assert (found["sequence_id"] % 2**32).tolist() == theirs["seq"].tolist()
    for ours, own in (("step", "step"), ("position", "pos"), ("token_id", "tok")):
        assert found[ours].tolist() == theirs[own].tolist()
    # One row for each sequence, with the tokens it has.
    listed = sequences(tmp_path / "log")
    assert listed["num_tokens"].tolist() == [*([7] * 8), 4] * 2


def test_positions_are_counted_where_there_are_none(tmp_path: Path) -> None:
    path = save(frame(steps=(0,)).drop(columns=["pos", "step"]), tmp_path / "t.csv")
    own = {name: column for name, column in MAP.items() if name != "position"}
    rocktok.import_log("table", path, tmp_path / "log", columns=own, exactness="truncated",
                       steps=[7])  # fmt: skip
    found = rows(tmp_path / "log")
    assert found["step"].unique().tolist() == [7]
    assert found["position"].tolist() == frame(steps=(0,))["pos"].tolist()


def test_log_probabilities_alone_give_a_sampled_loss(tmp_path: Path) -> None:
    table = frame(steps=(0,)).drop(columns=["kl"])
    rng = np.random.default_rng(1)
    table["p"], table["q"] = -rng.exponential(1, 60), -rng.exponential(1, 60)
    own = {**MAP, "student_logprob": "p", "teacher_logprob": "q"}
    del own["loss"]
    done = rocktok.import_log("table", save(table, tmp_path / "t.parquet"), tmp_path / "log",
                              columns=own)  # fmt: skip
    assert done.exactness == "sampled"
    close(rows(tmp_path / "log")["loss"], table["p"] - table["q"])


def test_fixed_text_has_two_steps(tmp_path: Path) -> None:
    theirs = frame()
    theirs["tok"] = np.tile(theirs["tok"][:60], 2)
    path = save(theirs, tmp_path / "t.parquet")
    rocktok.import_log("table", path, tmp_path / "log", columns=MAP, exactness="exact",
                       table="fixed", vocab_size=30)  # fmt: skip
    found = rows(tmp_path / "log", "fixed")
    assert found["sequence_id"].tolist() == theirs["seq"].tolist()
    code, printed, _ = run_command("info", tmp_path / "log", "--verify")
    assert code == 0
    assert "fixed" in printed


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(1, 119), max_size=4), seed=st.integers(0, 99))
def test_files_cut_anywhere_between_sequences_give_the_same_rows(
    cuts: list[int], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    theirs = frame(seed=seed)
    starts = theirs.index[theirs["pos"] == 0].to_numpy()
    edges = sorted({0, 120, *(int(starts[np.searchsorted(starts, c, "right") - 1]) for c in cuts)})
    files = [
        save(theirs[begin:end], folder / f"t{number}.csv")
        for number, (begin, end) in enumerate(pairwise(edges))
    ]
    rocktok.import_log("table", files, folder / "log", columns=MAP, exactness="exact")
    close(rows(folder / "log")["loss"], theirs["kl"])


def _refused(tmp_path: Path, path: Path, **options: Any) -> str:
    with pytest.raises((LogError, UsageError)) as error:
        rocktok.import_log("table", path, tmp_path / "log",
                           **{"columns": MAP, "exactness": "exact", **options})  # fmt: skip
    assert not (tmp_path / "log").exists()
    return str(error.value)


def test_maps_that_lack_a_column(tmp_path: Path) -> None:
    path = save(frame(), tmp_path / "t.csv")
    message = _refused(tmp_path, path, columns={"loss": "kl", "token_id": "tok"})
    assert message == (
        f"{path}: has no column sequence_id, only kl, pos, prompt_id, seq, step, tok; name the "
        "columns with --map sequence_id=NAME"
    )
    assert "has no column nll (loss)" in _refused(tmp_path, path, columns={**MAP, "loss": "nll"})
    assert "columns has lss" in _refused(tmp_path, path, columns={**MAP, "lss": "kl"})
    assert "exactness is not given" in _refused(tmp_path, path, exactness=None)
    assert "steps is given" in _refused(tmp_path, path, steps=[1])


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("value", [np.nan, None])
def test_nan_is_named_with_its_row(tmp_path: Path, suffix: str, value: float | None) -> None:
    theirs = frame()
    theirs.loc[17, "kl"] = value
    message = _refused(tmp_path, save(theirs, tmp_path / f"t{suffix}"))
    assert message.startswith(f"{tmp_path / f't{suffix}'}: row 18: loss is ")


def test_thousands_separators(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('step,seq,pos,tok,kl\n0,0,0,"1,234",0.5\n')
    assert _refused(tmp_path, path) == (
        f"{path}: '1,234' has thousands separators; write numbers without them"
    )


def test_values_that_cannot_be(tmp_path: Path) -> None:
    for column, value, said in (
        ("tok", -1, "row 4: token_id is -1; it must be 0 or more"),
        ("kl", np.inf, "row 4: loss is inf; it must be a finite number"),
        ("kl", -0.5, "loss is -0.5, which an exact reverse KL never is"),
        ("pos", 2, "position 2 twice"),
    ):
        theirs = frame()
        theirs.loc[3, column] = value
        message = _refused(tmp_path, save(theirs, tmp_path / "t.parquet"))
        assert said in message
        assert message.startswith(f"{tmp_path / 't.parquet'}: ")
    path = save(frame(), tmp_path / "t.parquet")
    assert "outside the vocabulary of 5" in _refused(tmp_path, path, vocab_size=5)


def test_steps_out_of_order(tmp_path: Path) -> None:
    path = save(frame(steps=(5, 0)), tmp_path / "t.csv")
    assert "step 0 comes after step 5; sort the rows" in _refused(tmp_path, path)


def test_sequences_that_come_back(tmp_path: Path) -> None:
    theirs = frame()
    theirs.loc[30:36, "seq"] = 1
    theirs.loc[30:36, "pos"] += 20
    path = save(theirs, tmp_path / "t.csv")
    assert "sequence 1 of step 0 comes back after others; sort the rows" in _refused(tmp_path, path)


def test_other_files(tmp_path: Path) -> None:
    path = tmp_path / "t.xlsx"
    path.write_text("")
    assert "is no .csv, .parquet" in _refused(tmp_path, path)
    path = tmp_path / "t.parquet"
    path.write_bytes(b"PAR1 nothing")
    assert f"{path}: cannot be read" in _refused(tmp_path, path)
    path = tmp_path / "t.jsonl"
    path.write_text("")
    assert f"{path}: is empty" in _refused(tmp_path, path)
    path.write_text('{"step": 0, "seq": 0, "pos": 0, "tok": "x", "kl": 1}\n')
    assert f"{path}: line 1: tok is 'x'; it must be int64" in _refused(tmp_path, path)


def test_a_last_line_that_is_cut_is_noted(tmp_path: Path) -> None:
    path = save(frame(), tmp_path / "t.jsonl")
    path.write_bytes(path.read_bytes()[:-20])
    done = rocktok.import_log("table", path, tmp_path / "log", columns=MAP, exactness="exact")
    assert done.rows == 119
    assert any(f"{path}: line 120: the last line is cut" in note for note in done.notes)


@pytest.mark.parametrize("cut", [25, 4])
def test_a_csv_that_is_cut(tmp_path: Path, cut: int) -> None:
    """A line that lacks values is left out; one whose last value may be cut is named."""
    theirs = frame()[["step", "seq", "pos", "tok", "prompt_id", "kl"]]
    path = save(theirs, tmp_path / "t.csv")
    path.write_bytes(path.read_bytes()[:-cut])
    done = rocktok.import_log("table", path, tmp_path / "log", columns=MAP, exactness="exact")
    assert done.rows == (119 if cut == 25 else 120)
    assert any(f"{path}: the last line has no end" in note for note in done.notes)
    path.write_text("step,seq,pos,tok,kl\n0,0,0,1,0.5\n0,0\n0,0,2,1,0.5\n")
    assert "cannot be read" in _refused(tmp_path / "other", path)


def test_a_last_table_that_is_cut_is_left_out(tmp_path: Path) -> None:
    theirs = frame()
    files = [save(theirs[theirs["step"] == step], tmp_path / f"{step}.parquet") for step in (0, 5)]
    damage(files[1])
    done = rocktok.import_log("table", files, tmp_path / "log", columns=MAP, exactness="exact")
    assert done.steps == (0,)
    assert any(str(files[1]) in note for note in done.notes)
    with pytest.raises(LogError, match="cannot be read"):
        rocktok.import_log("table", files[::-1], tmp_path / "other", columns=MAP,
                           exactness="exact")  # fmt: skip


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    """One line each, and nothing of what Arrow prints by itself."""
    for content, said in (
        (b"", "is empty; give a table with rows"),
        (bytes(range(256)) * 3, "cannot be read"),
        (b"seq;tok;kl\n1;2;0.5\n", "its columns are separated by semicolons; write it with commas"),
        (b"seq\ttok\tkl\n1\t2\t0.5\n", "its columns are separated by tabs; write it with commas"),
    ):
        path = tmp_path / "t.csv"
        path.write_bytes(content)
        named = ("--map", "loss=kl,token_id=tok,sequence_id=seq", "--exactness", "exact")
        code, printed, error = run_command("import", "table", path, *named, "-o", tmp_path / "log")
        assert (code, printed) == (1, "")
        assert error.startswith(f"rocktok: {path}: {said}")
        assert error.count("\n") == 1
        assert not (tmp_path / "log").exists()
