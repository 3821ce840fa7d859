"""A training of the real ms-swift, on the CPU, with tiny models made here; what it recorded is held
against the models themselves.

Run by tests/external/run.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "USE_HF": "1"}
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

from stand_ins import allow, named

# Declared by ms-swift, and not needed by what is run here.
allow(
    "addict", "aiohttp", "attrdict", "binpacking", "cpm_kernels", "dacite", "einops", "fastapi",
    "json_repair", "modelscope", "msgspec", "nltk", "openai", "oss2", "rouge", "sentencepiece",
    "simplejson", "tiktoken", "transformers_stream_generator", "zstandard",
)  # fmt: skip

import numpy as np
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import rocktok

PROMPTS = [f"What is {a} plus {b}?" for a in range(3, 9) for b in range(2, 6)]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]


def make_models(folder: Path, teacher_width: int) -> None:
    """A student and a teacher whose head is padded further, with one tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=310, special_tokens=SPECIAL, initial_alphabet=alphabet,
                                  show_progress=False)  # fmt: skip
    tokenizer.train_from_iterator(PROMPTS, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>",
                                   pad_token="<|endoftext|>")  # fmt: skip
    for seed, (name, width, hidden) in enumerate(
        [("student", 320, 32), ("teacher", teacher_width, 48)]
    ):
        torch.manual_seed(seed)
        config = Qwen3Config(
            vocab_size=width, hidden_size=hidden, intermediate_size=2 * hidden,
            num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
            max_position_embeddings=256, initializer_range=0.3, eos_token_id=2, bos_token_id=None,
            pad_token_id=0, tie_word_embeddings=False,
        )  # fmt: skip
        Qwen3ForCausalLM(config).float().save_pretrained(folder / name)
        fast.save_pretrained(folder / name)


def train(folder: Path, log: Path, *more: str) -> Any:
    """One training by ms-swift's own command."""
    data = folder / "data.jsonl"
    rows = [{"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "9"}]}
            for text in PROMPTS]  # fmt: skip
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    plugin = folder / "plugin.py"
    plugin.write_text(
        f"from rocktok.hooks.ms_swift import record\n\nrecord({str(log)!r}, every=1)\n"
    )
    from swift import rlhf_main

    return rlhf_main([
        "--rlhf_type", "gkd", "--model", str(folder / "student"),
        "--teacher_model", str(folder / "teacher"), "--model_type", "qwen3", "--template", "qwen3",
        "--teacher_model_type", "qwen3", "--dataset", str(data), "--torch_dtype", "float32",
        "--tuner_type", "full", "--lmbda", "1", "--beta", "1", "--max_steps", "3",
        "--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2",
        "--max_completion_length", "8", "--learning_rate", "1e-3", "--logging_steps", "1",
        "--save_strategy", "no", "--output_dir", str(folder / "out"), "--use_cpu", "true",
        "--external_plugins", str(plugin), "--report_to", "none", "--split_dataset_ratio", "0",
        "--gradient_checkpointing", "false", "--add_version", "false", *more,
    ])  # fmt: skip


def check(folder: Path, log: Path) -> str:
    """Hold the first step's rows against forward passes of the models as they were saved."""
    opened = rocktok.open(log)
    steps = [step.step for step in opened.steps("rollout")]
    assert steps == [0, 1, 2], steps
    for path in (log / "manifest").glob("*.json"):
        manifest = json.loads(path.read_text())
        assert not manifest["mismatches"] and not manifest["dropped"], manifest
    sequences = {row["sequence_id"]: row for shard in (log / "sequences").glob("*.parquet")
                 for row in pq.read_table(shard).to_pylist()}  # fmt: skip
    models = [AutoModelForCausalLM.from_pretrained(folder / name, dtype=torch.float32).eval()
              for name in ("student", "teacher")]  # fmt: skip
    batch = _first(opened)
    temperature = json.loads((log / "run.json").read_text())["loss"]["student_temperature"]
    worst = 0.0
    for number in np.unique(batch["sequence_id"]):
        mine = batch["sequence_id"] == number
        order = np.argsort(batch["position"][mine])
        tokens = batch["token_id"][mine][order]
        assert batch["position"][mine][order].tolist() == list(range(len(tokens)))
        prompt = sequences[number]["prompt_token_ids"]
        ids = torch.tensor([[*prompt, *tokens.tolist()]])
        with torch.no_grad():
            z, y = (
                model(ids).logits[0, len(prompt) - 1 : -1].double() / temperature
                for model in models
            )
        z, y = (torch.cat([one, other[:, one.shape[1] :]], 1) for one, other in ((z, y), (y, z)))
        log_p, log_q = z.log_softmax(-1), y.log_softmax(-1)
        loss = (log_p.exp() * (log_p - log_q)).sum(-1).numpy()
        worst = max(worst, float(np.abs(batch["loss"][mine][order] / loss - 1).max()))
        logprob = log_p[range(len(tokens)), tokens.tolist()].numpy()
        np.testing.assert_allclose(batch["student_logprob"][mine][order], logprob, rtol=1e-3)
    assert worst < 1e-3, worst
    rows = len(batch["loss"])
    return f"{len(steps)} steps, {rows} tokens of the first within {worst:.1e} of the models' own"


def _first(opened: Any) -> dict[str, Any]:
    batches = list(opened.scan("rollout", ["token_id", "loss", "student_logprob"]))
    columns = {n: np.concatenate([b.columns[n] for b in batches]) for n in batches[0].columns}
    return {name: values[columns["step"] == 0] for name, values in columns.items()}


#: Name → width of the teacher's head (the student's: 320), what is added to the command. (Where a
#: wider teacher's likeliest tokens are trained, ms-swift itself ends with an index out of bounds.)
CASES = {"local teacher": (336, ()), "top 5 trained": (320, ("--gkd_logits_topk", "5"))}


def main(folder: Path, name: str) -> None:
    width, more = CASES[name]
    make_models(folder, width)
    log = folder / "log"
    train(folder, log, *more)
    run = json.loads((log / "run.json").read_text())
    assert run["loss"]["exactness"] == "exact" and run["vocab_size"] == width, run
    print(f"ms-swift {run['extra']['ms-swift']}, {name}: {check(folder, log)}{named()}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
