"""Tokenizer, teacher and student of the sample run: made from nothing, seeded, offline."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import problems
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

PAD, EOS = "<|pad|>", "<|eos|>"

# Words with the space before them, single digits (so that sums can be learned digit by digit),
# runs of punctuation with the line breaks after them, and white space.
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True)
class Recipe:
    """Size of a model, and how it is trained."""

    habit: problems.Habit
    width: int
    layers: int
    heads: int
    steps: int
    learning_rate: float
    seed: int
    batch: int = 32


RECIPES = {
    "teacher": Recipe(problems.TEACHER, 160, 4, 4, 2000, 2e-3, seed=1),
    "student": Recipe(problems.STUDENT, 96, 3, 3, 1300, 2e-3, seed=2),
}


def make_tokenizer(path: Path) -> None:
    """Train a byte-level BPE tokenizer on both corpora: 1,280 types, or all that occur."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1280,
        special_tokens=[PAD, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (
        prompt + solution
        for habit in (problems.TEACHER, problems.STUDENT)
        for prompt, solution in problems.write_corpus(habit, 5000, seed=7)
    )
    tokenizer.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=EOS, pad_token=PAD, padding_side="left"
    ).save_pretrained(path)


def load_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """The tokenizer that `make_tokenizer` saved."""
    return PreTrainedTokenizerFast.from_pretrained(path)


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A model with random weights."""
    torch.manual_seed(recipe.seed)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=recipe.width,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.heads,
            head_dim=recipe.width // recipe.heads,
            intermediate_size=3 * recipe.width,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
        )
    )


#: Batches whose problems are drawn at once.
POOL = 50


def corpora(recipe: Recipe, avoid: frozenset[str]) -> Iterator[list[tuple[str, str]]]:
    """All (prompt, solution) that a model is trained on, pool after pool."""
    for pool in range(-(-recipe.steps // POOL)):
        size, seed = POOL * recipe.batch, recipe.seed * 1000 + pool
        yield list(problems.write_corpus(recipe.habit, size, seed, avoid))


def batches(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, avoid: frozenset[str]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(input ids, labels) of fresh problems, of like length within a batch; prompts unlabelled."""
    rng = random.Random(recipe.seed)
    for corpus in corpora(recipe, avoid):
        prompts = tokenizer([prompt for prompt, _ in corpus])["input_ids"]
        solutions = tokenizer([solution for _, solution in corpus])["input_ids"]
        texts = sorted(zip(prompts, solutions, strict=True), key=lambda t: len(t[0]) + len(t[1]))
        starts = list(range(0, len(texts), recipe.batch))
        rng.shuffle(starts)
        for start in starts:
            yield collate(texts[start : start + recipe.batch], tokenizer)


def collate(
    texts: list[tuple[list[int], list[int]]], tokenizer: PreTrainedTokenizerFast
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad on the right; the loss is taken on the solution and its end token."""
    longest = max(len(p) + len(s) + 1 for p, s in texts)
    ids = torch.full((len(texts), longest), tokenizer.pad_token_id)
    labels = torch.full_like(ids, -100)
    for row, (prompt, solution) in enumerate(texts):
        whole = [*prompt, *solution, tokenizer.eos_token_id]
        ids[row, : len(whole)] = torch.tensor(whole)
        labels[row, len(prompt) : len(whole)] = ids[row, len(prompt) : len(whole)]
    return ids, labels


def train_model(
    name: str,
    tokenizer: PreTrainedTokenizerFast,
    path: Path,
    avoid: frozenset[str],
    recipe: Recipe | None = None,
) -> None:
    """Train a model from scratch with cross-entropy on its own corpus; `recipe`: another one."""
    recipe = recipe or RECIPES[name]
    model = new_model(recipe, tokenizer)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.05
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.steps, pct_start=0.05
    )
    began = time.monotonic()
    for step, (ids, labels) in enumerate(batches(recipe, tokenizer, avoid), start=1):
        # Project the labelled positions alone: prompts are a third of the text.
        targets = labels[:, 1:]
        labelled = targets != -100
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        logits = model.lm_head(hidden[labelled])
        loss = torch.nn.functional.cross_entropy(logits, targets[labelled])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            elapsed = time.monotonic() - began
            print(f"{name}: step {step}, loss {loss.item():.4f}, {elapsed:.0f} s", flush=True)
        if step == recipe.steps:
            break
    model.save_pretrained(path)


def accuracy(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    held_out: list[problems.Problem],
    sampled: bool,
) -> int:
    """How many of the problems end with the right number, whatever the formatting."""
    prompts, answers = ([getattr(p, name) for p in held_out] for name in ("prompt", "answer"))
    return sum(solved(model, tokenizer, prompts, answers, sampled=sampled))


def solved(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: list[str],
    answers: list[int],
    sampled: bool,
    batch: int = 100,
    longest: int = 192,
) -> list[bool]:
    """Whether the completion of each prompt ends, and its last number is the answer.

    ``sampled``: one draw at temperature 1, as in distillation; otherwise greedy decoding.
    ``longest``: tokens of a completion.
    """
    right: list[bool] = []
    drawing = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    how = drawing if sampled else {"do_sample": False}
    torch.manual_seed(0)
    model.eval()
    for start in range(0, len(prompts), batch):
        inputs = tokenizer(prompts[start : start + batch], return_tensors="pt", padding=True)
        with torch.no_grad():
            output = model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=longest,
                **how,
            )
        completions = output[:, inputs["input_ids"].shape[1] :]
        for answer, ids in zip(answers[start : start + batch], completions, strict=True):
            ended = bool((ids == tokenizer.eos_token_id).any())
            text = tokenizer.decode(ids, skip_special_tokens=True)
            right.append(ended and problems.read_answer(text) == answer)
    return right
