"""What `rescore` is given: texts of both kinds, and one clear line for each that will not do."""

from __future__ import annotations

import json
import shutil
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rocktok.cli import main
from rocktok.errors import DataError, LogError
from rocktok.log import LogWriter
from rocktok.replay import rescore as replay
from rocktok.replay.ragged import Ragged
from rocktok.replay.scoring import batches
from rocktok.replay.texts import load_texts
from tests.trl_models import VOCAB_SIZE, make_model, make_tokenizer

RUN = {"vocab_size": VOCAB_SIZE, "loss": {"exactness": "exact", "student_temperature": 0.7}}
ROWS = [
    {"sequence_id": 9, "prompt_id": "p", "prompt_token_ids": [5, 6], "token_ids": [7, 8, 9]},
    {"sequence_id": 3, "prompt_id": "r", "prompt_token_ids": [5], "token_ids": [7]},
    {"sequence_id": 4, "prompt_id": "q", "prompt_token_ids": [4, 4], "token_ids": None},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name, seed in (("checkpoint-1", 1), ("checkpoint-2", 3), ("teacher", 2)):
        make_model(seed).save_pretrained(folder / name)
        make_tokenizer().save_pretrained(folder / name)
    return folder


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def shown(texts: Any) -> list[tuple[Any, ...]]:
    return [
        (int(texts.sequence_S[i]), texts.prompt_id_S[i].as_py(), texts.prompts[i].tolist(),
         texts.completions[i].tolist())
        for i in range(len(texts))
    ]  # fmt: skip


# -- texts -----------------------------------------------------------------------------------


def test_texts_of_a_file(tmp_path: Path) -> None:
    texts = load_texts(str(write(tmp_path / "x.parquet", ROWS)))
    assert shown(texts) == [(3, "r", [5], [7]), (9, "p", [5, 6], [7, 8, 9])]
    assert (texts.rows, texts.length_S.tolist()) == (4, [2, 5])
    assert shown(load_texts(str(tmp_path / "x.parquet"), 1)) == shown(texts)[:1]
    # Any order, any type of list and integer: the same text.
    other = pa.Table.from_pylist(ROWS[::-1])
    for name in ("prompt_token_ids", "token_ids"):
        at = other.schema.get_field_index(name)
        other = other.set_column(at, name, other[name].cast(pa.large_list(pa.int16())))
    pq.write_table(other.drop_columns("prompt_id"), tmp_path / "y.parquet", row_group_size=1)
    again = load_texts(str(tmp_path / "y.parquet"))
    assert again.digest == texts.digest
    assert [row[1] for row in shown(again)] == ["sequence-3", "sequence-9"]
    changed = [*ROWS[:1], {**ROWS[1], "token_ids": [8]}]
    assert load_texts(str(write(tmp_path / "z.parquet", changed))).digest != texts.digest


def test_prompts_of_a_file_are_named_whatever_their_type(tmp_path: Path) -> None:
    numbers = [
        {**row, "prompt_id": prompt} for row, prompt in zip(ROWS, (7.0, 8.0, 9.0), strict=True)
    ]
    texts = load_texts(str(write(tmp_path / "x.parquet", numbers)))
    assert [row[1] for row in shown(texts)] == ["8", "7"]
    for wrong, message in ((float("nan"), "nan is not a whole number"), (None, "null or NaN")):
        path = write(tmp_path / f"{wrong}.parquet", [{**ROWS[0], "prompt_id": 1.0},
                                                     {**ROWS[1], "prompt_id": wrong}])  # fmt: skip
        with pytest.raises(DataError, match=f"row 1, column prompt_id: {message}"):
            load_texts(str(path))


def test_texts_of_a_log(tmp_path: Path) -> None:
    """Whole sequences with a prompt, of the last complete step; superseded rows left out."""

    def add(writer: LogWriter, step: int, first: int, prompts: list[Any], gap: bool) -> None:
        n = len(prompts)
        writer.write(
            {"sequence_id": np.arange(first, first + n), "step": step, "num_tokens": 3,
             "prompt_id": [f"p{first + i}" for i in range(n)],
             "prompt_token_ids": pa.array(prompts, pa.list_(pa.int32()))}, table="sequences",
        )  # fmt: skip
        for i in range(n):
            at = [0, 2] if gap and i == 0 else [0, 1, 2]
            token_ids = [first + i + t for t in at]
            writer.write({"step": step, "sequence_id": first + i, "position": at,
                          "token_id": token_ids, "loss": [1.0] * len(at)})  # fmt: skip

    with LogWriter(tmp_path, run=RUN) as writer:
        add(writer, 0, 0, [[1], [2, 3]], gap=False)
        add(writer, 5, 2, [[9, 9]], gap=False)  # a later attempt does this step again
    with LogWriter(tmp_path, run=RUN, resume_step=5) as writer:
        add(writer, 5, 10, [[4, 5], [6], None, []], gap=True)
    texts = load_texts(str(tmp_path))
    assert shown(texts) == [(11, "p11", [6], [11, 12, 13])]
    assert texts.temperature == 0.7
    assert texts.notes == (
        "1 sequences with tokens that are not in the log and 2 without a prompt are left out",
    )


def test_batches_are_of_like_length_within_shards_of_like_ids() -> None:
    rng = np.random.default_rng(0)
    rows = [{"sequence_id": i, "prompt_token_ids": [1], "token_ids": [1] * int(n)}
            for i, n in enumerate(rng.integers(1, 60, 500))]  # fmt: skip
    lengths = [1 + len(row["token_ids"]) for row in rows]
    texts = _texts(rows)
    for tokens, shard_rows in ((200, 1_000), (1, 10), (10**6, 10**6), (64, 3)):
        made = list(batches(texts, tokens, shard_rows))
        assert sorted(i for batch, _ in made for i in batch.tolist()) == list(range(500))
        assert made[-1][1]
        shard: list[int] = []
        for batch, ends in made:
            longest = max(lengths[i] for i in batch)
            assert len(batch) == 1 or longest * len(batch) <= tokens
            shard += batch.tolist()
            if ends:
                assert sorted(shard) == list(range(min(shard), max(shard) + 1))
                assert [lengths[i] for i in shard] == sorted(lengths[i] for i in shard)
                assert sum(lengths[i] - 1 for i in shard) < shard_rows + 2 * 60
                shard = []


def _texts(rows: list[dict[str, Any]]) -> Any:
    from rocktok.replay.texts import Texts

    prompts, completions = (
        Ragged.of_lists(pa.array([row[n] for row in rows]))
        for n in ("prompt_token_ids", "token_ids")
    )
    ids = np.array([row["sequence_id"] for row in rows])
    facts = pa.table({"step": [0] * len(rows)})
    return Texts("x", ids, pa.array(["p"] * len(rows)), prompts, completions, facts)


@pytest.mark.long
def test_two_models_at_most_are_loaded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[Any] = []
    most, load = [], replay.load_model

    def load_model(name: str, *rest: str) -> Any:
        most.append(sum(one() is not None for one in alive))
        model = load(name, *rest)
        # Real models hold cycles.
        model.itself = [model]
        alive.append(weakref.ref(model))
        return model

    monkeypatch.setattr(replay, "load_model", load_model)
    students = tuple(str(folder / f"checkpoint-{n}") for n in (1, 2, 1))
    path = write(tmp_path / "x.parquet", ROWS[:2])
    replay.rescore(str(path), students, str(folder / "teacher"), str(tmp_path / "log"),
                   steps=(1, 2, 3), device="cpu")  # fmt: skip
    assert most == [0, 1, 1, 1]


# -- messages --------------------------------------------------------------------------------


def changed(folder: Path, to: Path, name: str, **config: Any) -> Path:
    """A copy of a checkpoint whose configuration is changed."""
    shutil.copytree(folder / name, to)
    path = to / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return to


def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: Any
) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["rocktok", "rescore", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    out, error = capsys.readouterr()
    assert out == ""
    code = stop.value.code
    assert isinstance(code, int)
    return code, error


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*ROWS, ROWS[0]], "sequence 9 is listed twice; keep one row per sequence"),
        ([{**ROWS[0], "prompt_token_ids": []}],
         "sequence 9 has no prompt; its first token needs one: leave the sequence out"),
        ([{**ROWS[0], "token_ids": [7, 700]}],
         "sequence 9 has token 700, {1}/checkpoint-1 has 320 logits; give text and models of one "
         "tokenizer"),
        ([{**ROWS[0], "prompt_token_ids": [-1]}],
         "sequence 9 has token -1, {1}/checkpoint-1 has 320 logits; give text and models of one "
         "tokenizer"),
        ([{**ROWS[0], "token_ids": [7] * 200}],
         "sequence 9 has 202 tokens, {1}/checkpoint-1 takes 128; leave the sequence out"),
        ([{**ROWS[2], "token_ids": []}],
         "has no whole sequence with its prompt; nothing can be scored"),
        ([{**ROWS[0], "sequence_id": None}, ROWS[1]],
         "cannot be read as Parquet (a sequence_id is null); give a file of sequences"),
        ([{**ROWS[0], "token_ids": [7, None]}],
         "cannot be read as Parquet (a token id is null); give a file of sequences"),
        ([{**ROWS[0], "token_ids": 7}],
         "cannot be read as Parquet (int64 where lists of token ids should be); give a file of "
         "sequences"),
        ([{"sequence_id": 1}],
         "lacks prompt_token_ids, token_ids; sequences need sequence_id, prompt_token_ids, "
         "token_ids"),
    ],
)  # fmt: skip
def test_texts_that_will_not_do(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], rows: list[dict[str, Any]], message: str,
) -> None:  # fmt: skip
    path = write(tmp_path / "x.parquet", rows)
    code, error = call(
        monkeypatch, capsys, "--text", path, "--student", folder / "checkpoint-1",
        "--teacher", folder / "teacher", "-o", tmp_path / "log",
    )  # fmt: skip
    assert (code, error) == (1, f"rocktok: {path}: {message.format(tmp_path, folder)}\n")
    assert not (tmp_path / "log").exists()


def _other_tokens(folder: Path, to: Path) -> Path:
    changed(folder, to, "checkpoint-1")
    path = to / "tokenizer.json"
    content = json.loads(path.read_text())
    content["added_tokens"][1]["content"] = "<|other|>"
    content["model"]["vocab"]["<|other|>"] = content["model"]["vocab"].pop("<|pad|>")
    path.write_text(json.dumps(content))
    config = to / "tokenizer_config.json"
    config.write_text(config.read_text().replace("<|pad|>", "<|other|>"))
    return to


def _narrow(folder: Path, to: Path) -> Path:
    return changed(folder, to, "checkpoint-1", vocab_size=300)


def _broken(folder: Path, to: Path) -> Path:
    path = changed(folder, to, "checkpoint-1") / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5_000])
    return to


def _partly(folder: Path, to: Path) -> Path:
    from safetensors.torch import load_file, save_file

    path = changed(folder, to, "checkpoint-1") / "model.safetensors"
    kept = {name: values for name, values in load_file(path).items() if "layers.1" not in name}
    save_file(kept, path, metadata={"format": "pt"})
    return to


def _adapter(folder: Path, to: Path) -> Path:
    to.mkdir()
    (to / "adapter_config.json").write_text("{}")
    return to


def _bare(folder: Path, to: Path) -> Path:
    (changed(folder, to, "checkpoint-1") / "model.safetensors").unlink()
    return to


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_bare, "has no weights (*.safetensors or pytorch_model*.bin); give what save_pretrained "
                "writes"),
        (_adapter, "its adapter_config.json has no base model (base_model_name_or_path); add"),
        (_broken, "cannot be loaded ("),
        (_partly, "has no weights for model.layers.1."),
        (_narrow, "cannot be loaded (You set `ignore_mismatched_sizes` to `False`"),
        (_other_tokens, "has 279 tokens, {1}/teacher has 279; the first that differs is 1: "
                        "'<|other|>' against '<|pad|>'; give text and models of one tokenizer"),
        (lambda folder, to: changed(folder, to, "checkpoint-1", model_type="nobody"),
         "cannot be loaded ("),
    ],
)  # fmt: skip
def test_checkpoints_that_will_not_do(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], make: Callable[[Path, Path], Path], message: str,
) -> None:  # fmt: skip
    bad = make(folder, tmp_path / "checkpoint-7")
    code, error = call(
        monkeypatch, capsys, "--text", write(tmp_path / "x.parquet", ROWS),
        "--student", bad, "--teacher", folder / "teacher", "-o", tmp_path / "log",
    )  # fmt: skip
    assert code == 1 and error.count("\n") == 1
    colon = " " if make is _other_tokens else ": "
    assert error.startswith(f"rocktok: {bad}{colon}{message.replace('{1}', str(folder))}")
    assert not (tmp_path / "log").exists()


def test_options_that_will_not_do(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = write(tmp_path / "x.parquet", ROWS)
    student, teacher = folder / "checkpoint-1", folder / "teacher"
    usual = ("--text", path, "--student", student, "--teacher", teacher, "-o", tmp_path / "log")
    for options, code, line in (
        (("--batch-tokens", 0), 2, "--batch-tokens is 0; it must be 1 or more"),
        (("--shard-rows", -1), 2, "--shard-rows is -1; it must be 1 or more"),
        (("--sequences", 0), 2, "--sequences is 0; it must be 1 or more"),
        (("--sequences", 5), 1, f"{path}: has 2 whole sequences, 5 were asked for; ask for fewer"),
        (("--steps", "-3"), 2, "--steps has -3; steps are 0 or more, and below 2147483648"),
        (
            ("--student", tmp_path / "step-2"),
            1,
            f"{tmp_path / 'step-2'}: is neither a directory nor the name of an available model; "
            "give a directory that save_pretrained wrote",
        ),
        (
            ("--student", tmp_path / "final"),
            2,
            f"--steps is not given, and the name {tmp_path / 'final'} has no step, as "
            "checkpoint-500 has; give one for each student\n",
        ),
        (("--student", student), 2, "--steps has 1 twice; give each student its own step\n"),
        (("--device", "warp"), 2, "--device is warp, which cannot be used ("),
        (("--text", tmp_path / "gone"), 1, f"{tmp_path / 'gone'}: no such directory; give the "),
    ):
        found = call(monkeypatch, capsys, *usual, *options)
        assert found[0] == code and found[1].startswith(f"rocktok: {line}"), found
        assert found[1].count("\n") == 1
        assert not (tmp_path / "log").exists()


def test_a_model_without_tokenizer_is_noted(folder: Path, tmp_path: Path) -> None:
    make_model(1).save_pretrained(tmp_path / "checkpoint-1")
    path = write(tmp_path / "x.parquet", ROWS)
    done = replay.rescore(str(path), (str(tmp_path / "checkpoint-1"),), str(folder / "teacher"),
                          str(tmp_path / "log"), device="cpu")  # fmt: skip
    assert done.notes == (
        f"{tmp_path / 'checkpoint-1'}: has no tokenizer; its tokens are not checked",
    )


def test_output_that_cannot_be_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rocktok.files import Place

    def full(self: Any, path: str, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Place, "create", full)
    path = write(tmp_path / "x.parquet", ROWS)
    with pytest.raises(LogError, match=r"log: the storage failed \(.*No space left on device\)"):
        replay.rescore(str(path), (str(folder / "checkpoint-1"),), str(folder / "teacher"),
                       str(tmp_path / "log"), device="cpu")  # fmt: skip
