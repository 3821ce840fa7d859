"""SGLang's responses with `input_token_logprobs`: whole texts, scored by both models.

Each entry is [logprob, token_id, text]; the first logprob is null. The student's line may be its
own generation, with `output_token_logprobs`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rocktok.errors import LogError
from rocktok.importers.responses import PATTERNS as PATTERNS
from rocktok.importers.responses import (
    Likeliest,
    Scored,
    facts_of,
    floats,
    ints,
    number,
    prompt_tokens_of,
    read_pairs,
    token_count,
)
from rocktok.importers.source import Options, Source, check_ids


def read(paths: tuple[Path, ...], options: Options) -> Source:
    """A log of responses of both models. Raises as `read_pairs`."""
    return read_pairs(paths, options, parse)


def parse(where: str, line: dict[str, Any], is_student: bool) -> Scored:
    """What a response says of its text."""
    said = prompt_tokens_of(line, where)
    meta = line.get("meta_info")
    if not isinstance(meta, dict):
        raise LogError(f"{where}: has no meta_info; it is no response of SGLang")
    inputs, outputs = meta.get("input_token_logprobs"), meta.get("output_token_logprobs")
    finish = meta.get("finish_reason")
    facts = facts_of(line, finish.get("type") if isinstance(finish, dict) else finish)
    prompt = line.get("input_ids")
    prompt = None if prompt is None else ints(prompt, where, "input_ids").tolist()
    total = meta.get("prompt_tokens")
    if total is not None:
        total = token_count(total, where, "meta_info.prompt_tokens")
    if is_student and said is None and outputs:
        if total is None:
            raise LogError(f"{where}: has no meta_info.prompt_tokens; it is no response of SGLang")
        ids, values = _entries(outputs, where, "output_token_logprobs")
        likely = _likeliest(meta.get("output_top_logprobs"), ids, values, where)
        if prompt is None and inputs:
            prompt = _entries(inputs, where, "input_token_logprobs")[0]
        token_T = np.array(ids, dtype=np.int64)
        return Scored(where, token_T, floats(values, where), total, total, likely, prompt, facts)
    if not inputs:
        raise LogError(
            f"{where}: has no input_token_logprobs; score the text with return_logprob and "
            "logprob_start_len=0"
        )
    ids, values = _entries(inputs, where, "input_token_logprobs")
    likely = _likeliest(meta.get("input_top_logprobs"), ids, values, where)
    # A request may ask for a part of the text alone.
    first = total - len(ids) if total is not None and total > len(ids) else 0
    return Scored(
        where,
        np.array(ids, dtype=np.int64),
        floats(values, where),
        first,
        said,
        likely,
        ids if first == 0 else prompt,
        facts,
    )


def _entries(entries: Any, where: str, key: str) -> tuple[list[int], list[float | None]]:
    if not isinstance(entries, list) or not all(
        isinstance(one, list) and len(one) >= 2 and type(one[1]) is int for one in entries
    ):
        raise LogError(f"{where}: {key} holds no [logprob, token_id, text]")
    ids = [one[1] for one in entries]
    check_ids(ids, f"{where}: {key}")
    return ids, [number(one[0], f"{where}: {key}") for one in entries]


def _likeliest(
    tops: Any, ids: list[int], values: list[float | None], where: str
) -> list[Likeliest] | None:
    if not isinstance(tops, list) or not any(tops):
        return None
    if len(tops) != len(ids):
        raise LogError(
            f"{where}: lists likeliest tokens of {len(tops)} places, {len(ids)} are there"
        )
    found: list[Likeliest] = []
    for token, value, top in zip(ids, values, tops, strict=True):
        own, logprobs = _entries(top or [], where, "top_logprobs")
        likely = {i: p for i, p in zip(own, logprobs, strict=True) if p is not None}
        if value is not None:
            likely[token] = float(value)
        found.append(likely)
    return found
