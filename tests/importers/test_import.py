"""The frame of every import: outputs that exist, kills, options, the command."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import rocktok
from rocktok.errors import LogError, UsageError
from rocktok.importers import kinds, writing
from tests.importers.files import authors_file, authors_records, slime_rollout, slime_sample
from tests.importers.reading import rows, sequences
from tests.importers.test_table import MAP, frame, save
from tests.processes import run_command, start, wait_until


def test_kinds_have_what_the_registry_says() -> None:
    from dataclasses import fields

    from rocktok.importers.source import Options

    names = {one.name for one in fields(Options)}
    for kind in kinds().values():
        module = kind.load()
        assert hasattr(module, "read" if kind.has_losses else "texts")
        assert kind.options <= names
        assert kind.help.endswith(".")


def test_the_command_says_what_was_done(tmp_path: Path) -> None:
    path = save(frame(), tmp_path / "t.csv")
    code, printed, said = run_command(
        "import", "table", path, "-o", tmp_path / "log", "--exactness", "exact",
        "--map", "loss=kl,token_id=tok", "--map", "sequence_id=seq", "--map", "position=pos",
    )  # fmt: skip
    assert (code, said) == (0, "")
    assert printed == (
        "18 sequences, 120 positions at 2 steps (0 to 5) imported from 1 file of table.\n"
        "Losses are reverse KL over the whole vocabulary, as the files have them.\n"
        f"{tmp_path}/log\n"
    )
    assert run_command("info", tmp_path / "log", "--verify")[0] == 0


def test_other_files_in_a_folder_do_not_count(tmp_path: Path) -> None:
    """Neither in what is said, nor in what must be the same for an import to go on."""
    from rocktok.importers.run import _all_files

    folder = tmp_path / "theirs"
    folder.mkdir()
    for step in (0, 1):
        authors_file(folder / f"rock_token_occurrences_{step}.pt", authors_records(40))
    (folder / "notes.txt").write_text("x")
    (folder / "more").mkdir()
    done = rocktok.import_log("rock-token", folder, tmp_path / "log")
    assert done.files == 2
    run = rocktok.open(tmp_path / "log").run
    assert run is not None
    assert len(run["extra"]["import"]["files"]) == 2
    for kind in kinds().values():
        assert _all_files(kind, [folder / "notes.txt"]) == [folder / "notes.txt"]


def test_progress_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows so far, of a number that no one knows beforehand."""
    monkeypatch.setattr("rocktok.importers.source.PART_ROWS", 10)
    files = [authors_file(tmp_path / f"rock_token_occurrences_{s}.pt", authors_records(40 + s))
             for s in (0, 1)]  # fmt: skip
    told: list[tuple[int, None]] = []
    done = rocktok.import_log(
        "rock-token", files, tmp_path / "log", progress=lambda *two: told.append(two)
    )
    assert told == sorted(set(told))
    assert told[-1] == (done.rows, None)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["tabel", "t.csv", "-o", "log"], 2, "'tabel' is not one of"),
        (["table", "-o", "log"], 2, "Missing argument 'PATH...'"),
        (["table", "t.csv"], 2, "Missing option '-o'"),
        (["table", "t.csv", "-o", "-"], 2, "the output is a directory"),
        (["table", "t.csv", "-o", "log", "--map", "loss"], 2, "'loss' is not a pair such as"),
        (["table", "t.csv", "-o", "log", "--map", "loss=a,loss=b"], 2, "'loss' is given twice"),
        (["table", "t.csv", "-o", "log", "--map", "lss=a"], 2, "--map has lss, which the format"),
        (["table", "t.csv", "-o", "log", "--append-eos"], 2, "--append-eos has no meaning for"),
        (["table", "t.csv", "-o", "log", "--vocab-size", "0"], 2, "--vocab-size is 0; it must"),
        (["table", "t.csv", "-o", "log", "--steps", "-1"], 2, "--steps has -1"),
        (["vllm", "t.csv", "-o", "log"], 2, "--teacher-file has 0 files for 1 file"),
        (["table", "nowhere.csv", "-o", "log"], 1, "nowhere.csv: no such file or directory"),
        (["slime", "empty", "-o", "log"], 1, "empty: has no **/*.pt; give the files to import"),
        (["table", "t.csv", "t.csv", "-o", "log"], 2, "t.csv: is given twice"),
    ],
)
def test_wrong_arguments_are_one_line(
    tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    save(frame(), tmp_path / "t.csv")
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    found = run_command("import", *arguments, cwd=tmp_path)
    assert (found[0], found[1]) == (code, "")
    assert said in found[2]
    assert "Traceback" not in found[2]
    assert sorted(tmp_path.rglob("*")) == before


def table_import(path: Path, output: Path, **options: Any) -> Any:
    return rocktok.import_log("table", path, output, columns=MAP, exactness="exact", **options)


def test_outputs_that_exist(tmp_path: Path) -> None:
    path = save(frame(), tmp_path / "t.csv")
    log = tmp_path / "log"
    table_import(path, log)
    with pytest.raises(UsageError, match="log: exists already, and is complete"):
        table_import(path, log)
    with pytest.raises(UsageError, match="log: exists already, an import with other options"):
        table_import(path, log, vocab_size=99)
    other = save(frame(seed=1), tmp_path / "u.csv")
    with pytest.raises(UsageError, match="log: exists already, an import with other files"):
        table_import(other, log)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep")
    with pytest.raises(UsageError, match="mine: exists already, and is no import"):
        table_import(path, tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    with pytest.raises(UsageError, match=r"t\.csv: exists already"):
        table_import(other, path)
    (tmp_path / "empty").mkdir()
    assert table_import(path, tmp_path / "empty").rows == 120


def test_bad_input_at_the_end_leaves_nothing(tmp_path: Path) -> None:
    theirs = frame()
    theirs.loc[119, "tok"] = -4
    path = save(theirs, tmp_path / "t.parquet")
    (tmp_path / "empty").mkdir()
    for name in ("log", "empty"):
        with pytest.raises(LogError, match=r"t\.parquet: row 120"):
            table_import(path, tmp_path / name)
    assert not (tmp_path / "log").exists()
    assert list((tmp_path / "empty").iterdir()) == []


_KILLED = """
import os, signal, sys
from rocktok.importers import writing
from rocktok.log import LogWriter
from rocktok.importers.run import import_log
writing.SHARD_ROWS = 30
flush, calls = LogWriter.flush, []
def stop(self, **options):
    flush(self, **options)
    calls.append(1)
    if len(calls) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
LogWriter.flush = stop
import_log("table", sys.argv[1], sys.argv[2], exactness="exact",
           columns={"loss": "kl", "token_id": "tok", "sequence_id": "seq", "position": "pos"})
"""


@pytest.mark.parametrize("flushes", [1, 3])
def test_a_killed_import_goes_on(
    tmp_path: Path, flushes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rocktok.importers import table_files

    path = save(frame(steps=(0, 5, 9)), tmp_path / "t.jsonl")
    lines = _KILLED.replace("from rocktok.importers import writing", (
        "from rocktok.importers import writing, table_files; table_files.BATCH_ROWS = 14"
    ))  # fmt: skip
    process = start([sys.executable, "-c", lines, str(path), str(tmp_path / "log"), str(flushes)])
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    monkeypatch.setattr(writing, "SHARD_ROWS", 30)
    monkeypatch.setattr(table_files, "BATCH_ROWS", 14)
    done = table_import(path, tmp_path / "log")
    assert done.kept_rows > 0
    assert done.rows + done.kept_rows == 180
    assert done.steps == (0, 5, 9)
    table_import(path, tmp_path / "whole")
    one, other = rows(tmp_path / "log"), rows(tmp_path / "whole")
    assert one.equals(other)
    assert sequences(tmp_path / "log").equals(sequences(tmp_path / "whole"))
    assert run_command("info", tmp_path / "log", "--verify")[0] == 0


def test_two_at_once_are_kept_apart(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from rocktok.files import place\n"
        "from rocktok.log.resume import only_writer\n"
        "with only_writer(place(sys.argv[1])):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(600)\n"
    )
    process = start([sys.executable, "-c", code, str(tmp_path / "log")])
    try:
        wait_until(lambda: (tmp_path / "log/.writer.lock").exists(), process)
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises((LogError, UsageError)):
            table_import(save(frame(), tmp_path / "t.csv"), tmp_path / "log")
        assert (tmp_path / "log/.writer.lock").exists()
    finally:
        process.kill()
        process.communicate()


def test_a_tokenizer_gives_texts(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from tests.trl_models import make_tokenizer

    make_tokenizer().save_pretrained(tmp_path / "tokenizer")
    path = save(frame(), tmp_path / "t.csv")
    table_import(path, tmp_path / "log", tokenizer=tmp_path / "tokenizer")
    opened = rocktok.open(tmp_path / "log")
    assert opened.vocab.text(0) == "<|end|>"
    assert opened.facts.special == (0, 1)
    theirs = frame()
    theirs.loc[100, "tok"] = 301
    with pytest.raises(LogError, match="token_id 301 is unknown to the tokenizer: ids of another"):
        table_import(save(theirs, tmp_path / "u.csv"), tmp_path / "o",
                     tokenizer=tmp_path / "tokenizer")  # fmt: skip
    assert not (tmp_path / "o").exists()
    with pytest.raises(LogError, match="outside the vocabulary of 40; give the tokenizer of the"):
        table_import(path, tmp_path / "o", tokenizer=tmp_path / "tokenizer", vocab_size=40)


def test_every_analysis_reads_what_was_imported(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for step in range(3):
        made = [slime_sample(rng, [1, 2, p], 30) for p in range(12)]
        slime_rollout(tmp_path / f"d/{step}.pt", step, made)
    rocktok.import_log("slime", tmp_path / "d", tmp_path / "log")
    for command in ("info", "check", "detect", "stagnation"):
        code, printed, said = run_command(command, tmp_path / "log", "-q")
        assert (code, said) == (0, ""), command
        assert printed


def test_fixed_steps_from_the_papers_files_can_be_tested(tmp_path: Path) -> None:
    """Positions of `rock_server.py` are of each student's own text: no persistence is claimed."""
    for step in (0, 9):
        authors_file(tmp_path / f"rock_token_occurrences_{step}.pt", authors_records(800, step))
    rocktok.import_log("rock-token", tmp_path, tmp_path / "log")
    assert rocktok.open(tmp_path / "log").tables() == ("rollout", "sequences")
    assert pq.read_metadata(next((tmp_path / "log/rollout").rglob("*.parquet"))).num_rows > 0


def test_a_table_loads_neither_torch_nor_numba(tmp_path: Path) -> None:
    from tests.test_house import _loaded

    path = save(frame(), tmp_path / "t.csv")
    words = ["import", "table", str(path), "-o", str(tmp_path / "log"), "--exactness", "exact",
             "--map", ",".join(f"{name}={column}" for name, column in MAP.items())]  # fmt: skip
    loaded = _loaded(f"from rocktok.cli import cli\ncli.main({words!r}, standalone_mode=False)")
    assert not loaded & {"torch", "transformers", "numba", "matplotlib"}
