"""Scores kept text with saved checkpoints, teacher-forced, into the `fixed/` table of a log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rocktok.errors import LogError, UsageError
from rocktok.files import place
from rocktok.hooks.statistics import token_statistics
from rocktok.hooks.vocabulary import vocabulary
from rocktok.log import LogWriter, open_log
from rocktok.log.run import load_run
from rocktok.replay.models import (
    check_checkpoint,
    check_tokens,
    check_widths,
    load_model,
    load_tokenizer,
    steps_of,
    token_texts,
    width,
)
from rocktok.replay.texts import Text, Texts, load_texts

if TYPE_CHECKING:
    from torch import Tensor

COLUMNS = ("log_ratio", "student_logprob", "teacher_logprob", "student_entropy", "teacher_entropy",
           "grad_norm")  # fmt: skip


@dataclass(frozen=True)
class Rescored:
    """What was done: steps scored now, steps that stood already, sequences and rows of a step."""

    steps: tuple[int, ...]
    kept: tuple[int, ...]
    sequences: int
    rows: int
    notes: tuple[str, ...]


def rescore(
    text: str,
    students: tuple[str, ...],
    teacher: str,
    output: str,
    *,
    steps: tuple[int, ...] | None = None,
    sequences: int | None = None,
    device: str | None = None,
    dtype: str = "auto",
    batch_tokens: int = 16_384,
    progress: Callable[[int, int], None] | None = None,
) -> Rescored:
    """Score text with each student against the teacher, one student at a time.

    A run that was stopped goes on at the first step that is not complete in `output`.

    Args:
        text: a log, or a Parquet file of sequences (see `load_texts`).
        students, teacher: Hugging Face checkpoints, local paths or names.
        steps: of the students; None: from their names.
        sequences: how many of the texts; None: all.
        dtype: of the weights: auto, float32, bfloat16, float16. Logits are taken to float32.
        batch_tokens: padded tokens in a batch.

    Raises:
        UsageError: no step, or one twice; options out of range.
        LogError: text or checkpoints lack something, tokens differ, `output` holds another run.
    """
    import torch

    if batch_tokens < 1:
        message = f"batch_tokens is {batch_tokens}; it must be 1 or more"
        raise UsageError(message, parameter="batch_tokens")
    found_steps = steps_of(students, steps)
    order = sorted(range(len(students)), key=lambda i: found_steps[i])
    for name in (*students, teacher):
        check_checkpoint(name)
    texts = load_texts(text, sequences)
    empty = [one.sequence_id for one in texts.texts if not one.prompt_ids]
    if empty:
        raise LogError(f"{text}: sequence {empty[0]} has no prompt; its first token needs one")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    vocab = _vocab(texts, (*students, teacher))
    identity = {
        "text": texts.digest,
        "students": {str(found_steps[i]): students[i] for i in order},
        "teacher": teacher,
        "dtype": dtype,
        "temperature": texts.temperature,
    }
    kept = _kept(output, identity, [found_steps[i] for i in order])
    todo = [i for i in order if found_steps[i] not in kept]
    rows = sum(len(one.token_ids) for one in texts.texts)
    if todo:
        teacher_model = load_model(teacher, dtype, device)
        run = _run(identity, width(teacher_model), texts)
        resume = found_steps[todo[0]] if kept else 0
        total = rows * len(todo)
        with LogWriter(output, columns=COLUMNS, run=run, vocab=vocab, resume_step=resume) as writer:
            if not kept:
                _write_sequences(writer, texts)
            for turn, i in enumerate(todo):
                student = load_model(students[i], dtype, device)
                check_widths((students[i], width(student)), (teacher, width(teacher_model)))
                done = turn * rows
                for batch in batches(texts.texts, batch_tokens):
                    scored = score(batch, student, teacher_model, texts.temperature, device)
                    writer.write({"step": found_steps[i], **scored}, table="fixed")
                    done += len(scored["loss"])
                    if progress is not None:
                        progress(done, total)
                writer.finish_step(found_steps[i], "fixed")
                writer.flush()
                # The next student takes the place of this one.
                del student
    return Rescored(
        tuple(found_steps[i] for i in todo), tuple(kept), len(texts.texts), rows, texts.notes
    )


def batches(texts: tuple[Text, ...], batch_tokens: int) -> Iterator[list[Text]]:
    """Texts of like length, padded to the longest within `batch_tokens`; one at least."""
    batch: list[Text] = []
    for one in sorted(texts, key=lambda one: (len(one), one.sequence_id)):
        if batch and len(one) * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch


def score(
    batch: list[Text], student: Any, teacher: Any, temperature: float, device: str
) -> dict[str, Any]:
    """Rows of the completions of some texts, without their step."""
    import torch

    longest = max(len(one) for one in batch)
    ids = torch.zeros((len(batch), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, one in enumerate(batch):
        ids[row, : len(one)] = torch.tensor([*one.prompt_ids, *one.token_ids])
        mask[row, : len(one)] = 1
    logits = [_completions(model, ids.to(device), mask.to(device), batch)
              for model in (student, teacher)]  # fmt: skip
    token_ids = torch.tensor([v for one in batch for v in one.token_ids], device=device)
    found = token_statistics(
        token_ids=token_ids,
        student_logits=logits[0],
        teacher_logits=logits[1],
        temperature=temperature,
        columns=COLUMNS,
    )
    lengths = [len(one.token_ids) for one in batch]
    return {
        "sequence_id": np.repeat([one.sequence_id for one in batch], lengths),
        "position": np.concatenate([np.arange(n) for n in lengths]),
        "token_id": token_ids.cpu().numpy(),
        **{name: values.float().cpu().numpy() for name, values in found.items()},
    }


def _completions(model: Any, ids: Tensor, mask: Tensor, batch: list[Text]) -> Tensor:
    """(N, V) float32 logits that predicted each completion token."""
    import torch

    with torch.inference_mode():
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return torch.cat(
            [
                logits[row, len(one.prompt_ids) - 1 : len(one) - 1].float()
                for row, one in enumerate(batch)
            ]
        )


def _vocab(texts: Texts, models: tuple[str, ...]) -> list[tuple[int, str, bytes]] | None:
    """The tokens, the same in the text and in all models that bring a tokenizer."""
    first: tuple[str, dict[int, str]] | None = None
    if texts.vocab is not None:
        first = texts.name, texts.vocab
    found = None
    for name in models:
        tokenizer = load_tokenizer(name)
        if tokenizer is None:
            continue
        mine = name, token_texts(tokenizer)
        if first is not None:
            check_tokens(first, mine)
        first = first or mine
        found = found or list(vocabulary(tokenizer))
    return found


def _kept(output: str, identity: dict[str, Any], steps: list[int]) -> list[int]:
    """Steps that a stopped run has finished. Raises `LogError` where another run stands there."""
    where = place(output)
    existing = load_run(where) if where.exists() else None
    if existing is None:
        return []
    extra = existing.get("extra") or {}
    if extra.get("rescore") != identity:
        raise LogError(
            f"{output}: holds a log of other text, models or options; give another -o, or go on "
            "with the same"
        )
    log = open_log(output)
    kept = log.complete_steps("fixed") if log.shards("fixed") else []
    if kept != steps[: len(kept)]:
        raise LogError(f"{output}: steps {kept} are complete, but not the first of {steps}")
    if not kept:
        raise LogError(f"{output}: no step is finished; remove it and start again")
    return kept


def _run(identity: dict[str, Any], vocab_size: int, texts: Texts) -> dict[str, Any]:
    loss = {"divergence": "reverse_kl", "trained": False, "exactness": "exact"}
    both = dict.fromkeys(("student_temperature", "teacher_temperature"), texts.temperature)
    last = list(identity["students"].values())[-1]
    return {
        "student": last,
        "teacher": identity["teacher"],
        "vocab_size": vocab_size,
        "loss": {**loss, **both},
        "extra": {"rescore": identity, "text": texts.name},
    }


def _write_sequences(writer: LogWriter, texts: Texts) -> None:
    import pyarrow as pa

    writer.write(
        {
            "sequence_id": [one.sequence_id for one in texts.texts],
            "step": 0,
            "num_tokens": [len(one.token_ids) for one in texts.texts],
            "prompt_id": [one.prompt_id for one in texts.texts],
            "prompt_token_ids": pa.array([list(one.prompt_ids) for one in texts.texts]),
        },
        table="sequences",
    )
    writer.flush()
