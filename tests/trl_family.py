"""Tiny trainers of TRL's distillation family, for the tests of their hooks."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from tests.trl_models import make_model, make_tokenizer

CHAT = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
QUESTIONS = [
    f"What is {a} plus {b}?{' Think.' * (b % 3)}\n" for a in range(3, 7) for b in range(2, 6)
]


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


def prompts_with_context(count: int = 16) -> Any:
    """Questions, and what the teacher alone reads."""
    return Dataset.from_dict(
        {
            "prompt": QUESTIONS[:count],
            "privileged_context": [f"It is {i}." * (1 + i % 2) for i in range(count)],
            "domain": ["small" if i % 2 else "large" for i in range(count)],
        }
    )


def saved(folder: Path) -> Any:
    """The student, from a directory: SDFT builds its teacher from the same one."""
    path = folder / "student"
    if not path.exists():
        make_model(1).save_pretrained(path)
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path)


def make_sdft(folder: Path, *, kind: Any = None, **options: Any) -> Any:
    """An `SDFTTrainer`, of the whole vocabulary unless `distillation_mode` is given."""
    from trl.experimental.sdft import SDFTConfig, SDFTTrainer

    torch.set_num_threads(1)
    defaults = {
        "max_completion_length": 8,
        "num_generations": 1,
        "distillation_mode": "full_logits",
        "distillation_alpha": 1.0,
    }
    return (kind or SDFTTrainer)(
        model=saved(folder),
        args=SDFTConfig(**settings_of(folder, **{**defaults, **options})),
        train_dataset=prompts_with_context(),
        eval_dataset=prompts_with_context(4),
        processing_class=make_tokenizer(),
    )


def make_sdpo(folder: Path, *, kind: Any = None, **options: Any) -> Any:
    """An `SDPOTrainer` that rewards texts of odd length, of the whole vocabulary unless told."""
    from trl.experimental.sdpo import SDPOConfig, SDPOTrainer

    torch.set_num_threads(1)
    defaults = {
        "max_completion_length": 8,
        "num_generations": 2,
        "distillation_mode": "full_logits",
        "distillation_alpha": 1.0,
    }

    def reward(completions: Any, **kwargs: Any) -> list[float]:
        return [float(len(text) % 2) for text in completions]

    return (kind or SDPOTrainer)(
        model=saved(folder),
        reward_funcs=reward,
        args=SDPOConfig(**settings_of(folder, **{**defaults, **options})),
        train_dataset=prompts_with_context(),
        eval_dataset=prompts_with_context(4),
        processing_class=make_tokenizer(),
    )


def make_iw_opd(folder: Path, *, kind: Any = None, **options: Any) -> Any:
    """An `IWOPDTrainer` with a local teacher of the same tokens."""
    from trl.experimental.iw_opd import IWOPDConfig, IWOPDTrainer

    torch.set_num_threads(1)
    defaults = {"max_completion_length": 8, "max_length": 64, "lmbda": 1.0}
    # The trainer reads the teacher's tokenizer from where the teacher was loaded.
    path, tokenizer = folder / "teacher", chat_tokenizer()
    tokenizer.save_pretrained(path)
    teacher = make_model(2, hidden=48)
    teacher.config._name_or_path = str(path)
    return (kind or IWOPDTrainer)(
        model=make_model(1),
        teacher_model=teacher,
        args=IWOPDConfig(**settings_of(folder, **{**defaults, **options})),
        train_dataset=messages(),
        eval_dataset=messages().select(range(4)),
        processing_class=tokenizer,
    )


class TeacherServer:
    """As TRL's client of a vLLM server: log-probabilities of a model that runs here instead."""

    def __init__(self, model: Any) -> None:
        self.model, self.calls = model.eval(), 0

    def get_sequence_logprobs(
        self,
        sequences: list[list[int]],
        prompt_lengths: list[int],
        top_logprobs: int,
        temperature: float,
    ) -> dict[str, Any]:
        """Of each completion token: its own log-probability, and the likeliest tokens'."""
        self.calls += 1
        answer: dict[str, Any] = {"actual_logprobs": [], "logprobs": [], "logprob_token_ids": []}
        for ids, start in zip(sequences, prompt_lengths, strict=True):
            with torch.no_grad():
                logits = self.model(torch.tensor([ids])).logits[0, start - 1 : -1]
            logprobs = (logits / temperature).log_softmax(-1)
            best = logprobs.topk(top_logprobs, dim=-1)
            own = logprobs.gather(1, torch.tensor(ids[start:])[:, None])
            answer["actual_logprobs"].append(own.tolist())
            answer["logprobs"].append(best.values.tolist())
            answer["logprob_token_ids"].append(best.indices.tolist())
        return answer


def make_server(folder: Path, monkeypatch: Any, *, kind: Any = None, **options: Any) -> Any:
    """A `ServerDistillationTrainer` whose server is a stub around a tiny model."""
    from trl.experimental.server_distillation import (
        ServerDistillationConfig,
        ServerDistillationTrainer,
    )
    from trl.generation import vllm_client

    from tests.trl_models import PROMPTS

    torch.set_num_threads(1)
    server = TeacherServer(make_model(2, hidden=48))
    monkeypatch.setattr(vllm_client, "VLLMClient", lambda **kwargs: server)
    defaults = {
        "max_completion_length": 8,
        "beta": 1.0,
        "teacher_model_server_url": "http://localhost:1",
    }
    return (kind or ServerDistillationTrainer)(
        model=make_model(1),
        args=ServerDistillationConfig(**settings_of(folder, **{**defaults, **options})),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS}),
        eval_dataset=Dataset.from_dict({"prompt": PROMPTS[:8]}),
        processing_class=make_tokenizer(),
    )


class Worker:
    """As the async trainer's worker of rollouts: all texts are there from the start."""

    def __init__(self, samples: list[Any]) -> None:
        self.rollout_buffer: Any = queue.Queue()
        self.metrics_queue: Any = queue.Queue()
        for sample in samples:
            self.rollout_buffer.put(sample)

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def update_model_version(self, model_version: int) -> None: ...
    def check_health(self, stale_after_s: float) -> None: ...


class NoTransfer:
    """As what sends the student's weights to its server."""

    def init_weight_transfer(self) -> None: ...
    def pause(self) -> None: ...
    def send_weights(self, iterator: Any) -> None:
        for _ in iterator:
            pass

    def resume(self) -> None: ...
    def destroy(self) -> None: ...


def served_samples(
    count: int, likeliest: int, seed: int = 0, teachers: Sequence[str] = ("default",)
) -> list[Any]:
    """Texts as the worker gives them, scored by a tiny teacher; some tokens it did not score.

    `teachers`: names, one after another.
    """
    from trl.experimental.async_distillation.async_rollout_worker import RolloutSample

    draw, teacher = np.random.default_rng(seed), make_model(2, hidden=48).eval()
    made = []
    for number in range(count):
        prompt, length = int(draw.integers(3, 7)), int(draw.integers(4, 9))
        ids = draw.integers(2, 300, prompt + length)
        with torch.no_grad():
            logits = teacher(torch.tensor(ids[None])).logits[0, :-1]
        logprobs = logits.log_softmax(-1).numpy()
        top_ids = np.full((len(ids), likeliest + 1), -1, np.int64)
        top = np.full((len(ids), likeliest + 1), -np.inf, np.float32)
        for at in range(prompt, len(ids)):
            if number % 3 == 1 and at == prompt + 1:
                continue
            best = np.argsort(-logprobs[at - 1])[:likeliest].tolist()
            best += [] if ids[at] in best else [int(ids[at])]
            top_ids[at, : len(best)], top[at, : len(best)] = best, logprobs[at - 1, best]
        made.append(
            RolloutSample(
                prompt=[],
                completion=[],
                input_ids=ids,
                completion_mask=(np.arange(len(ids)) >= prompt).astype(np.int64),
                teacher_topk_ids=top_ids,
                teacher_topk_logprobs=top,
                model_version=0,
                metrics={},
                teacher_id=teachers[number % len(teachers)],
                prompt_id=number,
            )
        )
    return made


def make_async(folder: Path, monkeypatch: Any, *, kind: Any = None, **options: Any) -> Any:
    """An `AsyncDistillationTrainer` whose worker and servers are stubs."""
    from trl.experimental.async_distillation import (
        AsyncDistillationConfig,
        AsyncDistillationTrainer,
        async_distillation_trainer,
    )

    # It asks the graphics card how fast it is.
    name = "get_peak_flops_per_device"
    monkeypatch.setattr(async_distillation_trainer, name, lambda *args: 1.0)
    torch.set_num_threads(1)
    path = folder / "student"
    make_model(1).save_pretrained(path)
    defaults = {
        "max_completion_length": 8,
        "beta": 1.0,
        "teacher_top_k": 4,
        "token_budget": -1,
        "model_init_kwargs": {"attn_implementation": "sdpa", "dtype": "float32"},
    }
    settings = settings_of(folder, **{**defaults, **options})
    teachers = list(settings.get("teacher_server_urls") or ["default"])
    samples = served_samples(200, settings["teacher_top_k"], teachers=teachers)
    return (kind or AsyncDistillationTrainer)(
        model=str(path),
        args=AsyncDistillationConfig(**settings),
        train_dataset=Dataset.from_dict({"prompt": QUESTIONS}),
        processing_class=make_tokenizer(),
        rollout_worker=Worker(samples),
        weight_transfer=NoTransfer(),
    )
