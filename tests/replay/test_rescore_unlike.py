"""Adapters as checkpoints, heads of unlike width: the same numbers as from whole, equal models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rocktok import schema
from rocktok.errors import LogError, RocktokError
from rocktok.hooks.vocabulary import vocabulary
from rocktok.replay import rescore as replay
from rocktok.replay.models import fingerprint
from tests.trl_models import VOCAB_SIZE, make_model, make_tokenizer, read_table

COLUMNS = schema.OPTIONAL_STATISTICS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student, a teacher, one with a wider head, and a text."""
    folder = tmp_path_factory.mktemp("unlike")
    wide = make_model(2)
    torch.manual_seed(9)
    wide.resize_token_embeddings(VOCAB_SIZE + 24, mean_resizing=False)
    save(folder / "wide", wide)
    wide.resize_token_embeddings(VOCAB_SIZE)
    save(folder / "teacher", wide)
    save(folder / "checkpoint-10", make_model(1))
    rng = np.random.default_rng(1)
    rows = [
        {
            "sequence_id": i,
            "prompt_token_ids": rng.integers(2, 200, 3 + i % 4).tolist(),
            "token_ids": rng.integers(2, 200, 4 + 3 * (i % 5)).tolist(),
        }
        for i in range(12)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "text.parquet")
    return folder


def save(path: Path, model: Any) -> None:
    model.save_pretrained(path)
    make_tokenizer().save_pretrained(path)


def score(folder: Path, output: Path, student: str, teacher: str) -> Any:
    torch.set_num_threads(1)
    return replay.rescore(str(folder / "text.parquet"), (str(folder / student),),
                          str(folder / teacher), str(output), device="cpu",
                          columns="all")  # fmt: skip


def same(one: Path, other: Path, **tolerance: float) -> None:
    a, b = read_table(one, "fixed", COLUMNS), read_table(other, "fixed", COLUMNS)
    assert len(a["loss"]) > 100
    for name, values in a.items():
        np.testing.assert_allclose(values, b[name], **(tolerance or {"rtol": 1e-6, "atol": 1e-6}))


def test_the_ids_that_both_have_are_compared(folder: Path, tmp_path: Path) -> None:
    done = score(folder, tmp_path / "unlike", "checkpoint-10", "wide")
    score(folder, tmp_path / "alike", "checkpoint-10", "teacher")
    same(tmp_path / "unlike", tmp_path / "alike")
    assert json.loads((tmp_path / "unlike" / "run.json").read_text())["vocab_size"] == VOCAB_SIZE

    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "wide").eval()
    mass: list[float] = []
    for row in pq.read_table(folder / "text.parquet").to_pylist():
        ids = torch.tensor([row["prompt_token_ids"] + row["token_ids"]])
        with torch.no_grad():
            probabilities = model(input_ids=ids).logits[0].double().softmax(dim=-1)
        outside = probabilities[:, VOCAB_SIZE:].sum(dim=-1)
        mass += outside[len(row["prompt_token_ids"]) - 1 : -1].tolist()
    assert done.notes == (
        "heads are of unlike width, and compared over the 320 ids that all have; the others took "
        f"{np.mean(mass):.2g} of the wider model's probability in the mean, {max(mass):.2g} at "
        "most",
    )  # fmt: skip
    assert 0 < np.mean(mass) < max(mass) < 1


def test_a_wider_student_too(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "wide", tmp_path / "checkpoint-10")
    shutil.copytree(folder / "teacher", tmp_path / "whole" / "checkpoint-10")
    students = tmp_path / "checkpoint-10", tmp_path / "whole" / "checkpoint-10"
    for number, student in enumerate(students):
        score(folder, tmp_path / f"log{number}", str(student), "checkpoint-10")
    same(tmp_path / "log0", tmp_path / "log1")


def test_unlike_heads_need_tokenizers_that_agree(folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in ("config.json", "model.safetensors"):
        shutil.copy(folder / "wide" / file, bare)
    with pytest.raises(LogError, match=r"has 320 logits, .*bare has 344; the first that differs"):
        score(folder, tmp_path / "log", "checkpoint-10", str(bare))
    other = tmp_path / "other"
    shutil.copytree(folder / "wide", other)
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<|more|>"])
    tokenizer.save_pretrained(other)
    with pytest.raises(LogError, match="the first that differs is 279: None against"):
        score(folder, tmp_path / "log", "checkpoint-10", str(other))
    assert not (tmp_path / "log").exists()


# -- adapters --------------------------------------------------------------------------------


def adapter(folder: Path, to: Path, **options: Any) -> tuple[Path, Any]:
    """(an adapter upon the student, saved; the whole model that it makes)."""
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder / "checkpoint-10")
    torch.manual_seed(4)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM",
                             init_lora_weights=False, **options)  # fmt: skip
    model = peft.get_peft_model(base, config)
    model.save_pretrained(to)
    return to, model


@pytest.mark.parametrize("options", [{}, {"modules_to_save": ["lm_head"]}], ids=["lora", "head"])
def test_an_adapter_is_the_model_that_it_makes(
    options: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    path, model = adapter(folder, tmp_path / "lora" / "checkpoint-20", **options)
    save(tmp_path / "whole" / "checkpoint-20", model.merge_and_unload())
    done = score(folder, tmp_path / "adapter", str(path), "teacher")
    assert done.steps == (20,)
    assert done.notes == ()
    score(folder, tmp_path / "merged", str(tmp_path / "whole" / "checkpoint-20"), "teacher")
    same(tmp_path / "adapter", tmp_path / "merged", rtol=1e-3, atol=1e-4)
    plain = read_table(tmp_path / "adapter", "fixed")["loss"]
    score(folder, tmp_path / "base", "checkpoint-10", "teacher")
    assert not np.allclose(plain, read_table(tmp_path / "base", "fixed")["loss"], rtol=1e-2)


def test_an_adapter_that_will_not_do(folder: Path, tmp_path: Path) -> None:
    path, _ = adapter(folder, tmp_path / "checkpoint-20")
    before = fingerprint(str(path))
    (path / "adapter_model.safetensors").rename(path / "aside")
    with pytest.raises(LogError, match=r"has no weights \(adapter_model.safetensors or adapter_mo"):
        score(folder, tmp_path / "log", str(path), "teacher")
    (path / "adapter_model.safetensors").write_bytes(b"garbage")
    assert fingerprint(str(path)) != before
    with pytest.raises(RocktokError, match=r"checkpoint-20: the adapter cannot be put up"):
        score(folder, tmp_path / "log", str(path), "teacher")
    for content in ("{}", "[]", "{", '{"base_model_name_or_path": 3}'):
        (path / "adapter_config.json").write_text(content)
        with pytest.raises(LogError, match=r"its adapter_config.json names no base model"):
            score(folder, tmp_path / "log", str(path), "teacher")


# -- vocabularies ----------------------------------------------------------------------------


class Odd:
    """A tokenizer of one's own, with ids that fail."""

    added_tokens_decoder = {5: "▁▁▁▁", 6: "<▁>", 7: "\ud800"}  # noqa: RUF012

    def get_vocab(self) -> dict[Any, Any]:
        return {"▁a": 1, None: 2, "<0x0A>": 3, "b": None, "▁▁▁▁": 5, "<▁>": 6, "\ud800": 7, b"x": 8}


def test_ids_without_text_leave_the_others() -> None:
    assert [(i, raw) for i, _, raw in vocabulary(Odd())] == [
        (1, b" a"), (3, b"\n"), (5, b"    "), (6, "<▁>".encode()), (7, b"\xed\xa0\x80"),
    ]  # fmt: skip
