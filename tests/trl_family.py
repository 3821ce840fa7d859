"""Tiny trainers of TRL's distillation family, for the tests of their hooks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from tests.trl_models import make_model, make_tokenizer

CHAT = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
QUESTIONS = [f"What is {a} plus {b}?{' Think.' * (b % 3)}\n" for a in range(3, 7) for b in (2, 3, 4)]


def chat_tokenizer() -> Any:
    """The tiny tokenizer with a chat template that writes contents one after another."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT
    return tokenizer


def settings_of(folder: Path, **options: Any) -> dict[str, Any]:
    """Arguments that all trainers share."""
    return {
        "output_dir": str(folder / "trainer"),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "max_steps": 3,
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 4,
        "seed": 7,
        "dataloader_pin_memory": False,
        **options,
    }


def messages() -> Any:
    """Questions with answers of unlike lengths."""
    rows = [
        [
            {"role": "user", "content": question},
            {"role": "assistant", "content": "It is 9." * (1 + i % 3) + "<|end|>"},
        ]
        for i, question in enumerate(QUESTIONS)
    ]
    return Dataset.from_dict({"messages": rows})


def make_gkd(folder: Path, *, kind: Any = None, **options: Any) -> Any:
    """A `GKDTrainer`, on policy unless `lmbda` is given."""
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    torch.set_num_threads(1)
    defaults = {"max_new_tokens": 8, "lmbda": 1.0, "beta": 1.0}
    return (kind or GKDTrainer)(
        model=make_model(1),
        teacher_model=make_model(2, hidden=48),
        args=GKDConfig(**settings_of(folder, **{**defaults, **options})),
        train_dataset=messages(),
        eval_dataset=messages().select(range(4)),
        processing_class=chat_tokenizer(),
    )


def make_gold(folder: Path, *, kind: Any = None, **options: Any) -> Any:
    """A `GOLDTrainer` of models with the same tokens."""
    from trl.experimental.gold import GOLDConfig, GOLDTrainer

    torch.set_num_threads(1)
    defaults = {"max_completion_length": 8, "max_length": 64, "lmbda": 1.0, "beta": 1.0}
    return (kind or GOLDTrainer)(
        model=make_model(1),
        teacher_model=make_model(2, hidden=48),
        args=GOLDConfig(**settings_of(folder, **{**defaults, **options})),
        train_dataset=messages(),
        eval_dataset=messages().select(range(4)),
        processing_class=chat_tokenizer(),
    )
