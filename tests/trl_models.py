"""Tiny local models, tokenizer and trainer for the tests of the TRL hook: no network, seconds."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import pyarrow.parquet as pq
import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from trl import DistillationConfig, DistillationTrainer

import rocktok

END = "<|end|>"
PAD = "<|pad|>"
#: Wider than the tokenizer: real models pad their heads, too.
VOCAB_SIZE = 320

#: Of different lengths, so that there is padding on the left.
PROMPTS = [
    f"What is {a} plus {b}?{' Think.' * (b % 3)}\n" for a in range(3, 9) for b in range(2, 6)
]


@cache
def _tokenizer_json() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(PROMPTS, trainer)
    return str(tokenizer.to_str())


def make_tokenizer(pad_is_eos: bool = False) -> Any:
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_tokenizer_json()),
        eos_token=END,
        pad_token=END if pad_is_eos else PAD,
        padding_side="left",
    )


def make_model(seed: int, hidden: int = 32, **config: Any) -> Any:
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCAB_SIZE,
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            max_position_embeddings=128,
            # Large enough that predictions are peaked: losses of several nats, early ends.
            initializer_range=0.3,
            eos_token_id=0,
            bos_token_id=None,
            **config,
        )
    )


def make_trainer(
    folder: Path,
    *,
    prompts: list[str] | None = None,
    pad_is_eos: bool = False,
    callbacks: list[Any] | None = None,
    trainer_class: type = DistillationTrainer,
    domain: bool = False,
    student: Any = None,
    teacher: Any = None,
    tokenizer: Any = None,
    dataset: Any = None,
    **options: Any,
) -> Any:
    """A trainer of a tiny student and a wider teacher; `options` go to `DistillationConfig`."""
    torch.set_num_threads(1)
    prompts = PROMPTS if prompts is None else prompts
    columns: dict[str, list[str]] = {"prompt": prompts}
    if domain:
        columns["domain"] = ["small" if i % 2 else "large" for i in range(len(prompts))]
    settings: dict[str, Any] = {
        "output_dir": str(folder / "trainer"),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": 1000,
        "save_strategy": "no",
        "beta": 1.0,
        "learning_rate": 1e-3,
        "max_steps": 6,
        "per_device_train_batch_size": 4,
        "max_completion_length": 12,
        "seed": 7,
        "dataloader_pin_memory": False,
    }
    return trainer_class(
        model=make_model(1) if student is None else student,
        teacher_model=make_model(2, hidden=48) if teacher is None else teacher,
        args=DistillationConfig(**{**settings, **options}),
        train_dataset=Dataset.from_dict(columns) if dataset is None else dataset,
        eval_dataset=Dataset.from_dict({"prompt": PROMPTS[:8]}),
        processing_class=make_tokenizer(pad_is_eos) if tokenizer is None else tokenizer,
        callbacks=callbacks,
    )


def read_table(log: Path, table: str = "rollout", columns: Sequence[str] = ()) -> dict[str, Any]:
    """All valid rows as arrays, in the order (step, sequence_id, position)."""
    batches = list(rocktok.open(log).scan(table, ["token_id", "loss", *columns]))
    rows = {n: np.concatenate([b.columns[n] for b in batches]) for n in batches[0].columns}
    order = np.lexsort((rows["position"], rows["sequence_id"], rows["step"]))
    return {name: values[order] for name, values in rows.items()}


def read_sequences(log: Path) -> list[dict[str, Any]]:
    """Rows of the sequences table (superseded ones, too)."""
    shards = sorted((log / "sequences").glob("*.parquet"))
    return [row for shard in shards for row in pq.read_table(shard).to_pylist()]


def manifest(log: Path, attempt: int = 0, rank: int = 0) -> dict[str, Any]:
    content = json.loads((log / f"manifest/rank-{rank:05d}-{attempt:02d}.json").read_text())
    assert isinstance(content, dict)
    return content
