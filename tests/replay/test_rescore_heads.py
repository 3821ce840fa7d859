"""The heads that `rescore` finds and applies itself: scales, soft caps, norms, and memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from transformers import Qwen3Config, Qwen3ForCausalLM

from rocktok.errors import DataError, LogError
from rocktok.replay import rescore as replay
from rocktok.replay import scoring
from rocktok.replay.texts import load_texts
from tests.trl_models import VOCAB_SIZE, make_model, read_table

SMALL: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 128,
    "initializer_range": 0.4,
}  # fmt: skip

#: Model, what is particular about it, and the scale and soft cap that it must be found to have.
KINDS: dict[str, tuple[str, dict[str, Any], float, float | None]] = {
    "gemma2": ("Gemma2", {"head_dim": 16, "final_logit_softcapping": 5.0}, 1.0, 5.0),
    "cohere": ("Cohere", {"logit_scale": 0.25, "pad_token_id": 0, "bos_token_id": 1,
                          "eos_token_id": 2}, 0.25, None),
    "granite": ("Granite", {"logits_scaling": 4.0}, 0.25, None),
    "nanochat": ("NanoChat", {"final_logit_softcapping": 7.0}, 1.0, 7.0),
    "phi": ("Phi", {}, 1.0, None),
    "gpt2": ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 2}, 1.0, None),
}  # fmt: skip


def make(kind: str, seed: int = 0, **more: Any) -> Any:
    torch.manual_seed(seed)
    name, particular, _, _ = KINDS[kind]
    config = getattr(transformers, f"{name}Config")(**{**SMALL, **particular, **more})
    model_name = f"{name}LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM"
    model = getattr(transformers, model_name)(config).eval()
    if kind == "phi":
        torch.nn.init.normal_(model.lm_head.bias)
    return model


@pytest.fixture
def text(tmp_path: Path) -> Path:
    rng = np.random.default_rng(2)
    rows = [
        {"sequence_id": i, "prompt_token_ids": rng.integers(2, 200, 3 + i).tolist(),
         "token_ids": rng.integers(2, 200, 4 + 2 * i).tolist()} for i in range(4)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "text.parquet")
    return tmp_path / "text.parquet"


def score(folder: Path, text: Path, *students: str, **options: Any) -> Any:
    return replay.rescore(str(text), tuple(str(folder / s) for s in students),
                          str(folder / "teacher"), str(folder / "log"), device="cpu",
                          **options)  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_a_head_is_found_with_what_follows_it(kind: str, dtype: torch.dtype) -> None:
    head = scoring.find_head(make(kind).to(dtype), torch.arange(2, 20)[None])
    assert head is not None
    assert (head.scale, head.softcap) == KINDS[kind][2:]
    assert (head.bias_V is not None) == (kind == "phi")


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_norms_are_those_of_autograd(kind: str, text: Path, tmp_path: Path) -> None:
    """By automatic differentiation in float64, through the raw output of the head."""
    student, teacher = make(kind), make("gemma2", seed=1)
    student.save_pretrained(tmp_path / "checkpoint-1")
    teacher.save_pretrained(tmp_path / "teacher")
    names = ("loss", "grad_norm", "head_grad_norm")
    score(tmp_path, text, "checkpoint-1", batch_tokens=30, columns=names[1:])
    rows = read_table(tmp_path / "log", "fixed", names)
    student, teacher, texts, at = student.double(), teacher.double(), load_texts(str(text)), 0
    states: list[torch.Tensor] = []
    head = student.get_output_embeddings()
    head.register_forward_hook(lambda _, a, z: (states.append(a[0][0]), raw.append(z), z)[-1])
    for number in range(len(texts)):
        states.clear()
        raw: list[torch.Tensor] = []
        prompt, completion = texts.prompts[number], texts.completions[number]
        ids = torch.tensor([[*prompt, *completion]], dtype=torch.long)
        p = student(input_ids=ids).logits[0].log_softmax(-1)
        q = teacher(input_ids=ids).logits[0].log_softmax(-1)
        loss_T = (p.exp() * (p - q)).sum(-1)
        for t in range(len(completion)):
            place = len(prompt) - 1 + t
            (grad,) = torch.autograd.grad(loss_T[place], raw[0], retain_graph=True)
            norm = float(grad[0, place].norm())
            wanted = (
                float(loss_T[place].detach()),
                norm,
                norm * float(states[0][place].detach().norm()),
            )
            found = [rows[name][at] for name in names]
            np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-5)
            at += 1
    assert at == len(rows["loss"])


class Apart(Qwen3ForCausalLM):
    """Its logits are not those of its head."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out = super().forward(*args, **kwargs)
        return SimpleNamespace(logits=out.logits + 0.1 * out.logits.roll(1, -1))


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints of three layers are of that kind."""
    load = replay.load_model

    def load_model(name: str, *rest: str) -> Any:
        model = load(name, *rest)
        if model.config.num_hidden_layers == 3:
            model.__class__ = Apart
        return model

    monkeypatch.setattr(replay, "load_model", load_model)


def save(folder: Path, name: str, layers: int, seed: int = 0) -> None:
    torch.manual_seed(seed)
    config = Qwen3Config(**{**SMALL, "head_dim": 16, "num_hidden_layers": layers})
    Qwen3ForCausalLM(config).save_pretrained(folder / name)


@pytest.mark.long
@pytest.mark.usefixtures("apart")
def test_a_head_that_is_not_plain(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, layers, seed in (("checkpoint-1", 3, 1), ("checkpoint-2", 2, 2), ("teacher", 3, 3)):
        save(tmp_path, name, layers, seed)
    # Their logits are made whole: fewer tokens go into a batch.
    monkeypatch.setattr(scoring, "MOST_LOGITS", 40 * VOCAB_SIZE)
    sizes, original = [], scoring._padded
    monkeypatch.setattr(
        scoring, "_padded", lambda *a: (sizes.append(original(*a)[0].numel()), original(*a))[-1]
    )
    done = score(tmp_path, text, "checkpoint-1", "checkpoint-2",
                 columns=("student_logprob", *scoring.NORMS))  # fmt: skip
    assert max(sizes) <= 40
    assert done.notes[-2:] == (
        "contexts are left out: the input of the teacher's output head is unknown, since the "
        "head is not plain",
        "grad_norm and head_grad_norm are left out: the output head is not plain "
        "(docs/definitions.md, rescore)",
    )
    assert not (tmp_path / "log/contexts").exists()
    columns = pq.read_schema(next((tmp_path / "log/fixed").rglob("*.parquet"))).names
    assert "loss" in columns and not set(scoring.NORMS) & set(columns)
    # Those of the whole forward pass, all the same.
    rows = read_table(tmp_path / "log", "fixed", ["student_logprob"])
    model = Apart.from_pretrained(tmp_path / "checkpoint-1").eval()
    texts = load_texts(str(text))
    ids = torch.tensor([[*texts.prompts[0], *texts.completions[0]]], dtype=torch.long)
    with torch.no_grad():
        p = model(input_ids=ids).logits[0].log_softmax(-1)
    first = len(texts.prompts[0])
    wanted = [float(p[first - 1 + t, v]) for t, v in enumerate(texts.completions[0])]
    np.testing.assert_allclose(rows["student_logprob"][: len(wanted)], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("apart")
def test_heads_of_two_kinds_are_two_logs(text: Path, tmp_path: Path) -> None:
    for name, layers in (("checkpoint-1", 2), ("checkpoint-2", 3), ("teacher", 2)):
        save(tmp_path, name, layers)
    message = "checkpoint-2: has no plain output head, as the students before it; the log records g"
    with pytest.raises(LogError, match=message):
        score(tmp_path, text, "checkpoint-1", "checkpoint-2")


def test_values_that_are_not_finite(text: Path, tmp_path: Path) -> None:
    for name in ("checkpoint-1", "teacher"):
        model = make_model(1)
        if name == "teacher":
            model.lm_head.weight.data[:] *= 1e6
        model.save_pretrained(tmp_path / name)
    message = (
        r"checkpoint-1: loss is (inf|nan) at sequence \d, position \d; give --dtype float32 or "
        "bfloat16, or leave the sequence out"
    )
    with pytest.raises(DataError, match=message):
        score(tmp_path, text, "checkpoint-1", dtype="float16")


_PEAK = """
import resource, sys
import torch
from rocktok.replay import rescore as replay
torch.set_num_threads(1)
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
original, seen = replay.score, []
def score(*args):
    before = peak()
    found = original(*args)
    seen.append(peak() - before)
    return found
replay.score = score
replay.rescore(*sys.argv[1:2], (sys.argv[2],), *sys.argv[3:5], device="cpu")
print(max(seen))
"""


@pytest.mark.long
@pytest.mark.exhaustive
def test_memory_is_a_few_tiles_not_the_batch(tmp_path: Path) -> None:
    vocabulary, tokens = 60_000, 4_000
    rng = np.random.default_rng(0)
    rows = [
        {"sequence_id": i, "prompt_token_ids": [1], "token_ids": rng.integers(2, 200, 99).tolist()}
        for i in range(tokens // 100)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "text.parquet")
    for name in ("checkpoint-1", "teacher"):
        config = Qwen3Config(**{**SMALL, "vocab_size": vocabulary, "head_dim": 16})
        Qwen3ForCausalLM(config).save_pretrained(tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, tmp_path / "text.parquet", tmp_path / "checkpoint-1",
         tmp_path / "teacher", tmp_path / "log"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    # The logits of both models, had they been made whole, would be 1.9 GB.
    assert int(done.stdout) < 2 * 512 * vocabulary * 4 + (100 << 20)
