"""`export`: the rows of a log, to the bit, in files that other tools read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import rocktok
from rocktok.errors import LogError, UsageError
from rocktok.exporting import sinks
from rocktok.exporting.sinks import evenly
from rocktok.log import LogWriter, compact, tasks
from tests.cli.test_bad_input import run_on_full_disk
from tests.gradient_logs import frame, gradient_rows
from tests.gradient_logs import write as write_gradients
from tests.log.test_compact import many_shards, table_of
from tests.logs import (
    RUN,
    alternatives_rows,
    context_rows,
    rows,
    sequence_rows,
    write_by_hand,
    write_log,
)
from tests.processes import run_command

KEYS = ["step", "sequence_id", "position"]


def files(path: Path) -> dict[str, bytes]:
    return {f.relative_to(path).as_posix(): f.read_bytes() for f in path.rglob("*") if f.is_file()}


def read(path: Path, to: str, table: str) -> pd.DataFrame:
    """An exported table, by a reader that knows nothing of us."""
    if to == "datasets":
        parts = [pd.read_parquet(part) for part in sorted((path / table).iterdir())]
        return pd.concat(parts, ignore_index=True)
    if to == "csv":
        return pd.read_csv(path / f"{table}.csv")
    if to == "jsonl":
        lines = (path / f"{table}.jsonl").read_text().split("\n")
        assert lines.pop() == ""
        return pd.DataFrame([json.loads(line) for line in lines])
    return pa.ipc.open_file(path / f"{table}.arrow").read_all().to_pandas()


@pytest.mark.parametrize("to", ["datasets", "csv", "jsonl", "arrow"])
def test_every_current_row_to_the_bit(
    to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ranks, two attempts, superseded rows; batches, parts and tasks end anywhere."""
    monkeypatch.setattr(tasks, "TASK_ROWS", 100)
    monkeypatch.setattr(sinks, "BATCH_ROWS", 77)
    monkeypatch.setattr(sinks, "PART_ROWS", 500)
    source = many_shards(tmp_path / "log")
    before = files(source)
    done = rocktok.export(source, tmp_path / "out", to=to)
    wanted = table_of(source, "fixed")
    found = read(tmp_path / "out", to, "fixed")
    assert list(found) == list(wanted)
    assert (found[KEYS] == wanted[KEYS]).all(axis=None)  # sorted
    for column in wanted:
        values = found[column].to_numpy().astype(wanted[column].dtype)
        np.testing.assert_array_equal(values, wanted[column], strict=True)
    (fixed,) = (one for one in done.tables if one.name == "fixed")
    assert fixed.rows == len(wanted)
    assert len(fixed.files) == (4 if to == "datasets" else 1)
    assert len(read(tmp_path / "out", to, "sequences")) == 30
    assert files(source) == before


@pytest.mark.parametrize("to", ["datasets", "csv", "jsonl", "arrow"])
def test_the_same_rows_are_the_same_bytes(to: str, tmp_path: Path) -> None:
    """However they are spread over shards."""
    source = many_shards(tmp_path / "log")
    compact.compact(source, tmp_path / "compact")
    for name in ("log", "compact"):
        rocktok.export(tmp_path / name, tmp_path / f"of-{name}", to=to)
    one, other = (files(tmp_path / f"of-{name}") for name in ("log", "compact"))
    told = [json.loads(part.pop("export.json")) for part in (one, other)]
    assert one == other and one
    assert told[0]["tables"] == told[1]["tables"]


def write_beside(path: Path) -> Path:
    """A log with alternatives/ and contexts/ beside fixed/."""
    with LogWriter(path, run=RUN) as writer:
        writer.write(sequence_rows(range(9)), table="sequences")
        for step in (0, 10):
            writer.write(rows(step, range(9)), table="fixed")
            writer.write(alternatives_rows(step, range(9)), table="alternatives")
            if step == 0:
                writer.write(context_rows(step, range(9)), table="contexts")
                writer.finish_step(step, "contexts")
            writer.finish_step(step, "fixed")
            writer.finish_step(step, "alternatives")
            writer.flush()
    return path


def test_lists_and_bytes(tmp_path: Path) -> None:
    source = write_beside(tmp_path / "log")
    wanted = [pq.read_table(p) for p in sorted((source / "alternatives").rglob("*.parquet"))]
    wanted_rows = sorted(pa.concat_tables(wanted).to_pylist(), key=lambda r: [r[k] for k in KEYS])
    for to in ("datasets", "csv", "jsonl", "arrow"):
        rocktok.export(source, tmp_path / to, to=to)
        found = read(tmp_path / to, to, "alternatives")
        for name in ("student_ids", "student_probs", "teacher_ids", "teacher_probs"):
            values = [json.loads(v) for v in found[name]] if to == "csv" else found[name]
            kind = np.float16 if "probs" in name else np.int32
            made = np.array([list(v) for v in values]).astype(kind)
            np.testing.assert_array_equal(made, np.array([r[name] for r in wanted_rows], kind))
    contexts = {to: read(tmp_path / to, to, "contexts")["context"] for to in ("csv", "arrow")}
    assert [bytes.fromhex(v) for v in contexts["csv"]] == list(contexts["arrow"])
    assert {len(v) for v in contexts["arrow"]} == {32}


TEXTS = [
    "plain",
    " the",
    "=1+1",
    "'",
    '"',
    "a,b",
    "\n",
    "\u2028x",
    "\x85",
    "é",
    "日",
    "\\",
    "",
    "-3",
]


def log_with_texts(path: Path) -> Path:
    """Tokens and prompts whose texts are trouble."""
    vocab = [(i, text, text.encode()) for i, text in enumerate(TEXTS)]
    with LogWriter(path, run=RUN, vocab=vocab) as writer:
        sequences = {**sequence_rows(range(len(TEXTS))), "prompt_id": TEXTS,
                     "domain": [None, *TEXTS[1:]]}  # fmt: skip
        writer.write(sequences, table="sequences")
        batch = rows(0, [0], tokens=len(TEXTS) + 1)
        batch["token_id"] = np.arange(len(TEXTS) + 1, dtype=np.int32)
        writer.write(batch, table="fixed")
        writer.finish_step(0, "fixed")
    return path


def test_texts_come_back_and_no_cell_is_a_formula(tmp_path: Path) -> None:
    import ast
    import csv

    log = log_with_texts(tmp_path / "log")
    shown = [*TEXTS, f"<id {len(TEXTS)}>"]
    for to in ("datasets", "jsonl", "arrow"):
        rocktok.export(log, tmp_path / to, to=to, text=True)
        assert list(read(tmp_path / to, to, "fixed")["token"]) == shown
        assert list(read(tmp_path / to, to, "vocab")["token"]) == TEXTS
        sequences = read(tmp_path / to, to, "sequences")
        assert list(sequences["prompt_id"]) == TEXTS
        assert list(sequences["domain"])[1:] == TEXTS[1:]
        assert sequences["domain"].isna().tolist() == [True] + [False] * (len(TEXTS) - 1)
    rocktok.export(log, tmp_path / "csv", to="csv", text=True)
    assert [ast.literal_eval(t) for t in read(tmp_path / "csv", "csv", "fixed")["token"]] == shown
    for path in (tmp_path / "csv").glob("*.csv"):
        for row in csv.reader(path.read_text().splitlines()):
            assert not any(
                cell.startswith(("=", "+", "@", "\t")) or cell == "-3" for cell in row
            ), row
    # One row is one line, for readers that know more ends of lines than one, too.
    text = (tmp_path / "jsonl" / "fixed.jsonl").read_text()
    assert len(text.splitlines()) == text.count("\n") == len(shown)


def test_columns_steps_and_tables(tmp_path: Path) -> None:
    source = many_shards(tmp_path / "log")
    done = rocktok.export(
        source, tmp_path / "out", to="csv", tables=["fixed", "sequences"], columns=["loss"],
        steps=[40, 0],
    )  # fmt: skip
    found = read(tmp_path / "out", "csv", "fixed")
    assert list(found) == [*KEYS, "token_id", "loss"]
    assert sorted(found["step"].unique()) == [0, 40]
    assert [one.name for one in done.tables] == ["fixed", "sequences"]
    assert sorted(files(tmp_path / "out")) == ["export.json", "fixed.csv", "sequences.csv"]
    told = json.loads((tmp_path / "out" / "export.json").read_text())
    assert (told["schema"], told["steps"], told["format"]) == ("rocktok.export/1", [0, 40], "csv")
    assert told["tables"][0]["rows"] == len(found)
    assert told["tables"][0]["columns"][-1]["unit"] == "nats"


def test_gradient_sums(tmp_path: Path) -> None:
    log = write_gradients(tmp_path / "log", frame(0, prompts=4), gradients=gradient_rows())
    for to in ("datasets", "csv", "jsonl", "arrow"):
        rocktok.export(log, tmp_path / to, to=to, tables=["gradients"])
    frames = {to: read(tmp_path / to, to, "gradients") for to in ("csv", "jsonl", "arrow")}
    wanted = read(tmp_path / "datasets", "datasets", "gradients")
    assert len(wanted) > 3
    for to, found in frames.items():
        vectors = [json.loads(v) if to == "csv" else v for v in found.pop("vector")]
        made = np.array([list(v) for v in vectors]).astype(np.float32)
        np.testing.assert_array_equal(made, np.stack(list(wanted["vector"])))
        for name in found:
            np.testing.assert_array_equal(found[name], wanted[name])


def test_evenly_cuts_anywhere_and_keeps_the_rows() -> None:
    pieces = [pa.table({"a": pa.array(range(start, stop), pa.int64())})
              for start, stop in ((0, 0), (0, 3), (3, 4), (4, 15), (15, 15), (15, 17))]  # fmt: skip
    for size in (1, 2, 4, 5, 17, 40):
        batches = [batch["a"].to_pylist() for batch in evenly(pieces, size)]
        assert [a for batch in batches for a in batch] == list(range(17))
        assert {len(batch) for batch in batches[:-1]} <= {size} and len(batches[-1]) <= size
    assert list(evenly([pa.table({"a": []})])) == []


def test_a_table_without_rows(tmp_path: Path) -> None:
    """Superseded to the last one: a file with a header, or an empty one."""
    log = tmp_path / "log"
    with LogWriter(log, run=RUN) as writer:
        writer.write(sequence_rows(range(3), step=5), table="sequences")
        writer.write(rows(0, range(3)), table="fixed")
        writer.finish_step(0, "fixed")
    with LogWriter(log, run=RUN, resume_step=1):
        pass
    for to in ("datasets", "csv", "jsonl", "arrow"):
        rocktok.export(log, tmp_path / to, to=to, tables=["sequences"])
    assert (tmp_path / "jsonl" / "sequences.jsonl").read_bytes() == b""
    assert len(read(tmp_path / "datasets", "datasets", "sequences")) == 0
    assert list(read(tmp_path / "csv", "csv", "sequences"))[:2] == ["sequence_id", "step"]
    assert len(read(tmp_path / "arrow", "arrow", "sequences")) == 0


def test_the_folder_is_replaced_with_force_and_nothing_else_is(tmp_path: Path) -> None:
    log, out = write_log(tmp_path / "log"), tmp_path / "out"
    assert run_command("export", log, "-o", out, "--to", "csv")[0] == 0
    code, printed, said = run_command("export", log, "-o", out)
    assert (code, printed) == (2, "")
    assert said == f"rocktok: {out}: exists already; give --force to replace it\n"
    assert run_command("export", log, "-o", out, "--force", "-q")[0] == 0
    assert "fixed.csv" not in files(out) and "fixed/00000.parquet" in files(out)
    (out / "mine.txt").write_text("mine")
    code, _, said = run_command("export", log, "-o", out, "--force")
    assert code == 2
    assert said == (
        f"rocktok: {out}: contains mine.txt, which is not part of an export; move it away, or "
        "give a new directory\n"
    )
    code, _, said = run_command("export", log, "-o", log, "--force")
    assert (code, said) == (2, f"rocktok: {log}: contains other files; give a new directory\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "out"]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--table", "rollout"], 1, "{log}: has no rollout; it has fixed, sequences, vocab"),
        (["--steps", "10,11"], 1, "{log}: fixed, sequences, vocab: nothing at step 11; there are "
         "0, 10"),
        (["--columns", "los"], 2, "--columns has 'los'; choose from loss, num_tokens, position, "
         "prompt_id, sequence_id, step, token_id"),
        (["--columns", "loss, jsd"], 1, "{log}: fixed, sequences, vocab have no column jsd; there "
         "are loss, num_tokens, position, prompt_id, sequence_id, step, token_id"),
    ],
)  # fmt: skip
def test_what_is_not_there(options: list[str], code: int, message: str, tmp_path: Path) -> None:
    log = write_log(tmp_path / "log")
    found = run_command("export", log, "-o", tmp_path / "out", *options)
    assert found == (code, "", f"rocktok: {message.format(log=log)}\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log"]


def test_wrong_words_of_the_function(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", vocab=False)
    for options, message in (
        ({"to": "xml"}, "to is 'xml'; choose from datasets, csv, jsonl, arrow"),
        ({"tables": ["fixes"]}, "table is 'fixes'; choose from"),
    ):
        with pytest.raises(UsageError, match=message):
            rocktok.export(log, tmp_path / "out", **options)  # type: ignore[arg-type]
    with pytest.raises(LogError, match=r"has no vocab.parquet, so that tokens have no texts"):
        rocktok.export(log, tmp_path / "out", text=True)
    assert not (tmp_path / "out").exists()


def test_a_sequence_that_is_listed_twice(tmp_path: Path) -> None:
    log = write_by_hand(tmp_path / "log", rows(0, range(3)))
    write_by_hand(log, sequence_rows([0, 1, 1]), table="sequences")
    code, _, said = run_command("export", log, "-o", tmp_path / "out")
    assert (code, said) == (1, f"rocktok: {log}/sequences: sequence 1 is listed twice; keep one "
                               "row per sequence\n")  # fmt: skip
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "to",
    ["datasets", *(pytest.param(t, marks=pytest.mark.long) for t in ("csv", "jsonl", "arrow"))],
)
def test_a_full_disk_leaves_nothing(to: str, tmp_path: Path) -> None:
    log, out = write_log(tmp_path / "log"), tmp_path / "out"
    said = "cannot be written (File too large); give another place, or free space there"
    assert run_on_full_disk("export", log, "-o", out, "--to", to) == (
        1,
        f"rocktok: {out}: {said}\n",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_an_answer_and_the_path(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log")
    code, printed, said = run_command("export", log, "-o", "out", "--to", "jsonl", cwd=tmp_path)
    assert (code, said) == (0, "")
    assert printed == (
        "Every current row was read, checked and written: fixed (960 rows), sequences (40 rows), "
        "vocab (50 rows) in 3 files.\n"
        'To read fixed in Python: pandas.read_json("out/fixed.jsonl", lines=True)\nout\n'
    )


def test_progress_ends_at_all_rows(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    rocktok.export(write_log(tmp_path / "log"), tmp_path / "out",
                   progress=lambda done, total: told.append((done, total)))  # fmt: skip
    assert told[-1] == (960, 960)
    assert repr(told) == repr(sorted(told))


def test_hugging_face_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the header of the README, and as plain Parquet; empty tables and all types, too."""
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    source = write_beside(tmp_path / "log")
    rocktok.export(source, tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    cache: dict[str, Any] = {"cache_dir": str(tmp_path / "cache"), "split": "train"}
    assert set(datasets.get_dataset_config_names("out")) == set(rocktok.open(source).tables())
    fixed = datasets.load_dataset("out", **cache)
    wanted = table_of(source, "fixed")
    assert fixed["loss"][:] == wanted["loss"].tolist()
    for name in ("alternatives", "contexts", "sequences"):
        found = datasets.load_dataset("out", name, **cache)
        assert len(found) == len(read(tmp_path / "out", "datasets", name))
    plain = datasets.load_dataset("parquet", data_files="out/fixed/*.parquet", **cache)
    assert plain["token_id"][:] == wanted["token_id"].tolist()
