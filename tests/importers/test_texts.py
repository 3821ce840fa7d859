"""Files without losses: sequences for `rescore`, by ids or by text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

import rocktok
from rocktok.errors import LogError, RocktokError, UsageError
from rocktok.hooks.rollouts import prompt_identity
from rocktok.replay.texts import load_texts
from tests.importers.files import damage, write_lines
from tests.processes import run_command

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.trl_models import make_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    made = make_tokenizer()
    made.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}>"
    made.save_pretrained(folder)
    return folder


def prime_line(step: int = 2) -> dict[str, Any]:
    return {
        "schema_version": 1, "step": step, "rank": 0, "env_name": "math",
        "token_ids": [1, 2, 3, 4, 5, 6, 7, 8], "position_ids": list(range(8)),
        "loss_mask": [False, False, True, True, False, False, True, True],
        "trainer_logprobs": [0.0, 0, -1, -2, 0, 0, -3, -4], "entropy": [0.0, 0, 1, 2, 0, 0, 3, 4],
        "inference_logprobs": [0.0] * 8, "advantages": [0.0] * 8,
    }  # fmt: skip


def test_prime_rl(tmp_path: Path) -> None:
    for step in (10, 2):
        write_lines(tmp_path / f"token_exports/step_{step}/rank_0.jsonl", [prime_line(step)])
    output = tmp_path / "texts.parquet"
    done = rocktok.import_log("prime-rl", tmp_path / "token_exports", output)
    assert (done.exactness, done.sequences, done.rows, done.steps) == (None, 4, 8, (2, 10))
    found = pq.read_table(output).to_pylist()
    # What a tool has written in between is in the prompt of the second stretch.
    assert [row["prompt_token_ids"] for row in found[:2]] == [[1, 2], [1, 2, 3, 4, 5, 6]]
    assert [row["token_ids"] for row in found[:2]] == [[3, 4], [7, 8]]
    assert [row["student_logprob"] for row in found[:2]] == [[-1, -2], [-3, -4]]
    assert [row["student_entropy"] for row in found[:2]] == [[1, 2], [3, 4]]
    assert {row["prompt_id"] for row in found} == {prompt_identity([1, 2])}
    assert [row["step"] for row in found] == [2, 2, 10, 10]
    texts = load_texts(str(output))
    assert texts.rows == 8


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"step": 3}, "is of step 3, in the folder of step 2: files of two runs"),
        ({"entropy": [0.0]}, "entropy has 1 value"),
        ({"schema_version": 2}, "schema_version is 2; this rocktok reads 1"),
        ({"loss_mask": [True] * 8}, "its first token is scored, which nothing predicts"),
        ({"token_ids": ["a"] * 8}, "'a' is no token id; it must be a number from 0 on"),
        ({"trainer_logprobs": [None] * 8}, "student_logprob of a scored token is None; it must be"),
        ({"trainer_logprobs": [1.5] * 8}, "student_logprob of a scored token is 1.5; it must be"),
        ({"entropy": [-0.5] * 8}, "student_entropy of a scored token is -0.5; it must be"),
        ({"step": 1 << 40}, "step 1099511627776; it must be 0 or more"),
        ({"loss_mask": [0, 0, 0.5, 1, 0, 0, 1, 1]}, "the mask has 0.5; it must be of true and"),
        ({"loss_mask": [False] * 7 + [[True]]}, "the mask has [True]; it must be of true and"),
        ({"token_ids": 5}, "token_ids is 5; it must be a list"),
    ],
)
def test_prime_rl_refuses(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    path = write_lines(tmp_path / "step_2/rank_0.jsonl", [{**prime_line(), **changes}])
    with pytest.raises(LogError) as error:
        rocktok.import_log("prime-rl", path, tmp_path / "texts.parquet")
    assert said in str(error.value)
    assert str(error.value).startswith(f"{path}: line 1: ")
    assert list(tmp_path.glob("*texts*")) == []


def verl_files(folder: Path) -> Path:
    for step in (2, 10):
        write_lines(folder / f"{step}.jsonl", [
            {"input": "What is 3 plus 4?\n", "output": " 7", "gts": "7", "score": 1.0,
             "step": step},
            {"input": "What is 3 plus 2?\n", "output": " five", "gts": "5", "score": 0.0,
             "step": step},
        ])  # fmt: skip
    return folder


def test_verl(tmp_path: Path, tokenizer: Path) -> None:
    output = tmp_path / "texts.parquet"
    done = rocktok.import_log("verl", verl_files(tmp_path / "d"), output, tokenizer=tokenizer,
                              append_eos=True)  # fmt: skip
    assert done.summary == (
        "Token ids are guessed from text: 0 of 4 completions do not read the same when decoded "
        "(column round_trip). End tokens were appended."
    )
    from tests.trl_models import make_tokenizer

    found = pq.read_table(output).to_pylist()
    own = make_tokenizer()
    assert own.decode(found[0]["token_ids"]) == " 7<|end|>"
    assert own.decode(found[0]["prompt_token_ids"]) == "What is 3 plus 4?\n"
    assert [row["step"] for row in found] == [2, 2, 10, 10]
    assert [row["correct"] for row in found] == [True, False] * 2
    assert all(row["round_trip"] for row in found)
    assert len(load_texts(str(output))) == 4


def test_cut_completions_get_no_end_token(tmp_path: Path, tokenizer: Path) -> None:
    output = tmp_path / "texts.parquet"
    rocktok.import_log("verl", verl_files(tmp_path / "d"), output, tokenizer=tokenizer,
                       append_eos=True, max_completion_length=4)  # fmt: skip
    found = pq.read_table(output).to_pylist()
    assert [row["finish_reason"] for row in found[:2]] == ["stop", "length"]
    assert found[0]["token_ids"][-1] == 0 and found[1]["token_ids"][-1] != 0


def test_texts_that_do_not_come_back_are_counted(tmp_path: Path, tmp_path_factory: Any) -> None:
    """A tokenizer that writes everything in small letters."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    own = Tokenizer(models.WordLevel({"a": 0, "b": 1, "<unk>": 2}, unk_token="<unk>"))
    own.normalizer = normalizers.Lowercase()
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path / "tokenizer"
    PreTrainedTokenizerFast(tokenizer_object=own, unk_token="<unk>").save_pretrained(folder)
    lines = [{"input": "a", "output": text, "score": 0.5, "step": 1} for text in ("a b", "A b")]
    write_lines(tmp_path / "d/1.jsonl", lines)
    output = tmp_path / "texts.parquet"
    done = rocktok.import_log("verl", tmp_path / "d", output, tokenizer=folder, append_eos=False)
    assert "1 of 2 completions do not read the same" in done.summary
    assert [row["round_trip"] for row in pq.read_table(output).to_pylist()] == [True, False]
    with pytest.raises(LogError, match="has no end token"):
        rocktok.import_log("verl", tmp_path / "d", tmp_path / "o", tokenizer=folder,
                           append_eos=True)  # fmt: skip


def trl_files(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for step in (5, 20):
        pd.DataFrame({
            "step": [str(step)] * 2, "prompt": ["What is 3 plus 4?\n"] * 2,
            "completion": [" 7", " 8"], "advantage": [0.1, 0.2],
        }).to_parquet(folder / f"completions_{step:05d}.parquet")  # fmt: skip
    return folder


def test_trl(tmp_path: Path, tokenizer: Path) -> None:
    output = tmp_path / "texts.parquet"
    done = rocktok.import_log("trl", trl_files(tmp_path / "completions"), output,
                              tokenizer=tokenizer, append_eos=False)  # fmt: skip
    assert (done.steps, done.sequences) == ((5, 20), 4)
    assert "No end tokens were appended" in done.summary


def test_trl_with_messages(tmp_path: Path, tokenizer: Path) -> None:
    path = tmp_path / "completions_00001.parquet"
    pd.DataFrame({
        "step": [1], "prompt": [[{"role": "user", "content": "Hi"}]],
        "completion": [[{"role": "assistant", "content": " 7"}]],
    }).to_parquet(path)  # fmt: skip
    output = tmp_path / "texts.parquet"
    rocktok.import_log("trl", path, output, tokenizer=tokenizer, append_eos=False)
    from tests.trl_models import make_tokenizer

    (row,) = pq.read_table(output).to_pylist()
    assert make_tokenizer().decode(row["prompt_token_ids"]) == "[user] Hi>"


def test_trl_last_file_cut(tmp_path: Path, tokenizer: Path) -> None:
    folder = trl_files(tmp_path / "completions")
    path = damage(folder / "completions_00020.parquet")
    options: dict[str, Any] = {"tokenizer": tokenizer, "append_eos": False}
    done = rocktok.import_log("trl", folder, tmp_path / "texts.parquet", **options)
    assert done.steps == (5,)
    assert any(str(path) in note for note in done.notes)
    pd.DataFrame({"step": [1]}).to_parquet(folder / "completions_00005.parquet")
    with pytest.raises(LogError, match="has no column prompt, completion; it is no file of TRL's"):
        rocktok.import_log("trl", folder, tmp_path / "other.parquet", **options)


def swift_line(*steps: int) -> dict[str, Any]:
    n = len(steps)
    return {"step": list(steps), "prompt": ["What is 3 plus 4?\n"] * n, "completion": [" 7"] * n}


def test_ms_swift(tmp_path: Path, tokenizer: Path) -> None:
    path = write_lines(tmp_path / "completions.jsonl", [swift_line(1, 1), swift_line(2)])
    options: dict[str, Any] = {"tokenizer": tokenizer, "append_eos": True}
    done = rocktok.import_log("ms-swift", tmp_path, tmp_path / "texts.parquet", **options)
    assert (done.steps, done.sequences) == ((1, 2), 3)
    for lines, said in (
        ([swift_line(3), swift_line(1)], "step 1 comes after step 3: the file holds two runs"),
        ([{**swift_line(1), "prompt": []}], "prompt has 0 values"),
        ([{"step": [1]}], "has no prompt; it is not a file of this kind"),
        ([{**swift_line(1), "prompt": [5]}], "the prompt is neither text nor a list of messages"),
        ([{**swift_line(1), "completion": [""]}], "has an empty completion"),
        ([swift_line(1 << 40)], f"{path}: line 1: step 1099511627776; it must be 0 or more"),
        ([{**swift_line(1), "step": ["²"]}], "step is '²'; it must be a number"),
    ):
        write_lines(path, lines)
        with pytest.raises(LogError) as error:
            rocktok.import_log("ms-swift", path, tmp_path / "other.parquet",
                               tokenizer=tokenizer, append_eos=False)  # fmt: skip
        assert said in str(error.value)
        assert not (tmp_path / "other.parquet").exists()
    path.write_text(json.dumps(swift_line(1)) + "\n" + json.dumps(swift_line(2))[:30])
    done = rocktok.import_log("ms-swift", path, tmp_path / "cut.parquet", **options)
    assert done.sequences == 1
    assert any("line 2: the last line is cut" in note for note in done.notes)


def test_what_must_be_said(tmp_path: Path, tokenizer: Path) -> None:
    folder = verl_files(tmp_path / "d")
    code, _, said = run_command("import", "verl", folder, "-o", tmp_path / "t.parquet")
    assert (code, "--tokenizer is not given" in said) == (2, True)
    code, _, said = run_command("import", "verl", folder, "-o", tmp_path / "t.parquet",
                                "--tokenizer", tokenizer)  # fmt: skip
    assert code == 2
    assert "give --append-eos" in said
    with pytest.raises(UsageError, match="files of verl hold no losses"):
        rocktok.import_log("verl", folder, tmp_path, tokenizer=tokenizer, append_eos=True)
    with pytest.raises(RocktokError, match="nowhere: no such directory; give a dir"):
        rocktok.import_log("verl", folder, tmp_path / "o", tokenizer=tmp_path / "nowhere",
                           append_eos=True)  # fmt: skip
    with pytest.raises(RocktokError, match="d: no tokenizer can be loaded"):
        rocktok.import_log("verl", folder, tmp_path / "o", tokenizer=folder, append_eos=True)
    write_lines(folder / "3.jsonl", [{"input": "a", "output": "b", "step": 2}])
    with pytest.raises(LogError, match="files of two runs"):
        rocktok.import_log("verl", folder, tmp_path / "o", tokenizer=tokenizer, append_eos=True)


def test_an_output_that_exists_stays(tmp_path: Path, tokenizer: Path) -> None:
    output = tmp_path / "texts.parquet"
    output.write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        rocktok.import_log("verl", verl_files(tmp_path / "d"), output, tokenizer=tokenizer,
                           append_eos=True)  # fmt: skip
    assert output.read_text() == "mine"


def test_rescore_scores_what_was_imported(tmp_path: Path, tokenizer: Path) -> None:
    """Text → ids → losses of real models at two steps."""
    from tests.trl_models import make_model, make_tokenizer

    for name, seed in (("checkpoint-10", 1), ("checkpoint-20", 3), ("teacher", 2)):
        make_model(seed).save_pretrained(tmp_path / name)
        make_tokenizer().save_pretrained(tmp_path / name)
    output = tmp_path / "texts.parquet"
    done = rocktok.import_log("verl", verl_files(tmp_path / "d"), output, tokenizer=tokenizer,
                              append_eos=True)  # fmt: skip
    students = tuple(str(tmp_path / name) for name in ("checkpoint-10", "checkpoint-20"))
    scored = rocktok.rescore(str(output), students, str(tmp_path / "teacher"),
                             str(tmp_path / "log"), device="cpu")  # fmt: skip
    assert (scored.sequences, scored.rows) == (done.sequences, done.rows)
    assert rocktok.open(tmp_path / "log").complete_steps("fixed") == [10, 20]
