"""Completions that were saved as text: back into token ids, as far as that is possible.

A tokenizer need not give back the ids that were generated, and what decoding dropped (end tokens,
the chat template) is gone. How many texts survive the round trip is counted and said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from rocktok.errors import LogError, UsageError
from rocktok.hooks.rollouts import prompt_identity
from rocktok.importers.source import Options, Text, TextSource, check_step
from rocktok.importers.tokens import load
from rocktok.words import counted


@dataclass(frozen=True)
class Completion:
    """One completion as text. `prompt`: text, or a list of messages."""

    where: str
    step: int
    prompt: str | list[dict[str, Any]]
    text: str
    facts: dict[str, Any] = field(default_factory=dict)


def tokenised(
    options: Options,
    completions: Callable[[list[str]], Iterator[Completion]],
    extra: dict[str, str] | None = None,
) -> TextSource:
    """Sequences of completions, re-tokenised.

    Args:
        completions: given a list for notes, yields what the files hold.
        extra: further columns of each completion's facts → type.

    Raises `UsageError` where it is not said what became of the end tokens.
    """
    if options.tokenizer is None:
        raise UsageError(
            "tokenizer is not given; the files hold text, whose token ids only the student's "
            "tokenizer knows",
            "tokenizer",
        )
    if options.append_eos is None:
        raise UsageError(
            "append_eos is not given, and the files have lost the end tokens: give --append-eos "
            "(with --max-completion-length N, so that cut completions get none), or "
            "--no-append-eos",
            "append_eos",
        )
    tokenizer = load(options.tokenizer)
    eos = tokenizer.eos_token_id
    if options.append_eos and not isinstance(eos, int):
        raise LogError(f"{options.tokenizer}: has no end token; give --no-append-eos")
    notes: list[str] = []
    total = differ = 0

    def texts() -> Iterator[Text]:
        nonlocal total, differ
        for one in completions(notes):
            check_step(one.step, one.where)
            prompt = _prompt_ids(tokenizer, one)
            ids = list(tokenizer(one.text, add_special_tokens=False)["input_ids"])
            same = tokenizer.decode(ids, clean_up_tokenization_spaces=False) == one.text
            total, differ = total + 1, differ + (not same)
            longest = options.max_completion_length
            cut = longest is not None and len(ids) >= longest
            if options.append_eos and not cut:
                ids.append(eos)
            if not ids or not prompt:
                what = "completion" if not ids else "prompt"
                raise LogError(f"{one.where}: has an empty {what}; leave it out")
            facts = {**one.facts, "round_trip": same}
            if longest is not None:
                facts["finish_reason"] = "length" if cut else "stop"
            yield Text(one.step, prompt_identity(prompt), prompt, ids, facts)

    def summary() -> str:
        how = "" if options.append_eos is None else (
            " End tokens were appended." if options.append_eos else " No end tokens were appended."
        )  # fmt: skip
        return (
            f"Token ids are guessed from text: {differ:,} of {counted(total, 'completion')} do not "
            f"read the same when decoded (column round_trip).{how}"
        )

    types = {**(extra or {}), "round_trip": "bool"}
    if options.max_completion_length is not None:
        types["finish_reason"] = "string"
    return TextSource(texts, types, notes, summary)


def _prompt_ids(tokenizer: Any, one: Completion) -> list[int]:
    if isinstance(one.prompt, str):
        return list(tokenizer(one.prompt, add_special_tokens=False)["input_ids"])
    try:
        text = tokenizer.apply_chat_template(one.prompt, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # templates are programs of their own: any may fail, in any way
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LogError(
            f"{one.where}: the tokenizer's chat template does not take the prompt ({line})"
        ) from error
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def prompt_of(value: Any, where: str) -> str | list[dict[str, Any]]:
    """A prompt: text, or a list of messages. Raises `LogError` for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(
        isinstance(one, dict) and isinstance(one.get("content"), str) for one in value
    ):  # fmt: skip
        return value
    raise LogError(f"{where}: the prompt is neither text nor a list of messages")


def completion_of(value: Any, where: str) -> str:
    """A completion's text; of a list of messages, that of its only one."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        content = value[0].get("content")
        if isinstance(content, str):
            return content
    raise LogError(f"{where}: the completion is neither text nor one message")
