"""Problems that a student is asked to solve: one JSON object a line."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rocktok.errors import DataError, LogError
from rocktok.files import local_path

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

_WANTED = 'a line is a JSON object such as {"id": "7", "prompt": "What is 3 plus 4?", "answer": 7}'


@dataclass(frozen=True)
class Problem:
    """One problem.

    Attributes:
        id: no other problem of the file has it.
        prompt: text, or the messages of a chat (mappings with `role` and `content`).
        answer: what a checker compares with.
        content: the whole line.
    """

    id: str
    prompt: str | list[dict[str, Any]]
    answer: Any
    content: dict[str, Any]


def load_problems(path: str | os.PathLike[str]) -> tuple[Problem, ...]:
    """The problems of a JSONL file, in its order; blank lines are skipped.

    Raises `LogError` for a file that cannot be read or holds no problem, `DataError` for a line
    that is none, and for an id that stands twice.
    """
    try:
        lines = local_path(path).read_bytes().splitlines()
    except OSError as error:
        raise LogError(f"{path}: cannot be read ({error.strerror}); {_WANTED}") from error
    problems = [_problem(line, f"{path}: line {number}") for number, line in enumerate(lines, 1)
                if line.strip()]  # fmt: skip
    if not problems:
        raise LogError(f"{path}: holds no problems; {_WANTED}")
    seen: set[str] = set()
    for problem in problems:
        if problem.id in seen:
            raise DataError(f"{path}: two problems have id {problem.id!r}; give each its own")
        seen.add(problem.id)
    return tuple(problems)


def _problem(line: bytes, where: str) -> Problem:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: is not JSON ({error}); {_WANTED}") from error
    if not isinstance(content, dict):
        raise DataError(f"{where}: is not an object; {_WANTED}")
    missing = [name for name in ("id", "prompt", "answer") if content.get(name) is None]
    if missing:
        raise DataError(f"{where}: has no {' and no '.join(missing)}; {_WANTED}")
    number, prompt = content["id"], content["prompt"]
    if isinstance(number, bool) or not isinstance(number, str | int):
        raise DataError(f"{where}: its id is neither a text nor a whole number; {_WANTED}")
    if not (isinstance(prompt, str) and prompt) and not _is_chat(prompt):
        raise DataError(
            f"{where}: its prompt is neither a text nor a list of messages with role and content; "
            f"{_WANTED}"
        )
    return Problem(str(number), prompt, content["answer"], content)


def _is_chat(prompt: Any) -> bool:
    return (
        isinstance(prompt, list)
        and bool(prompt)
        and all(isinstance(turn, dict) and {"role", "content"} <= turn.keys() for turn in prompt)
    )


def digest(problems: Sequence[Problem]) -> str:
    """The same for the same lines in the same order."""
    hashed = hashlib.blake2b(digest_size=16)
    for problem in problems:
        hashed.update(json.dumps(problem.content, sort_keys=True).encode() + b"\n")
    return hashed.hexdigest()
