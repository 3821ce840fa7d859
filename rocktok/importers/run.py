"""`rocktok.import_log`: files of other trainers become a log."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rocktok.errors import LogError, UsageError
from rocktok.files import local_path
from rocktok.importers import Kind, kinds
from rocktok.importers.source import Options, Source
from rocktok.importers.tokens import vocabulary_of
from rocktok.importers.writing import Written, write_log, write_texts
from rocktok.schema import EXACTNESS, OCCURRENCE_TABLES

#: What is hashed of each end of a file, to tell whether it is the same one.
_END_BYTES = 1 << 20


@dataclass(frozen=True)
class Imported:
    """What was done.

    Attributes:
        kind, output: as given.
        files: number of files given or found.
        steps: of the log, ascending.
        sequences, rows: written now.
        kept_rows: rows that an earlier start had written.
        exactness: of the losses; None where the files hold none, and the output is for `rescore`.
        summary: one sentence on how exact the result is.
        notes: what a reader of any result must know.
    """

    kind: str
    output: str
    files: int
    steps: tuple[int, ...]
    sequences: int
    rows: int
    kept_rows: int
    exactness: str | None
    summary: str
    notes: tuple[str, ...]


#: Exactness → what the losses are.
_LOSSES = {
    "exact": "Losses are reverse KL over the whole vocabulary, as the files have them.",
    "topk": "Losses are lower bounds of the reverse KL: likeliest tokens, and the rest as one "
    "term.",
    "truncated": "Losses are partial sums of the reverse KL, neither lower nor upper bounds.",
    "sampled": "Losses are one-sample estimates, log p − log q of the token; single ones may be "
    "negative.",
}


def import_log(
    kind: str,
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    student: str | None = None,
    teacher: str | None = None,
    vocab_size: int | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    columns: Mapping[str, str] | None = None,
    exactness: str | None = None,
    steps: Iterable[int] | None = None,
    table: str | None = None,
    teacher_files: Sequence[str | os.PathLike[str]] | None = None,
    min_teacher_logprob: float | None = None,
    append_eos: bool | None = None,
    max_completion_length: int | None = None,
    progress: Callable[[int, None], None] | None = None,
) -> Imported:
    """Make a log of files that another trainer, or an inference server, has written.

    Where an import of the same files was killed, it goes on: what stands in a published shard is
    not written again. Bad input leaves nothing behind.

    Args:
        kind: origin of the files, a name in `rocktok.importers.kinds()`; docs/import.md has a
            section on each, with the options that have a meaning for it.
        paths: files, or folders with files of the names that the origin gives them.
        output: directory of the log; a Parquet file of sequences where the files hold no losses.
        student, teacher: names of the models, for run.json.
        vocab_size: width of the logits; ids outside are refused.
        tokenizer: Hugging Face tokenizer, a directory or a name: texts of the tokens.
        columns: name in the format → name in the files (`{"loss": "kl"}`).
        exactness: how the files' losses were computed: exact, topk, truncated or sampled.
        steps: optimizer steps of the files, in their order. None: from their names.
        table: rollout, or fixed where the same texts come at several steps.
        teacher_files: the teacher's responses, one file for each of `paths`.
        min_teacher_logprob: smallest log-probability that the teacher gives any token, in nats:
            an assumption, with which an upper bound of the loss exists.
        append_eos: whether a completion without its end token gets one.
        max_completion_length: tokens at which completions were cut; these get no end token.
        progress: called with the number of rows written so far, and None, as no one knows how
            many there will be.

    Raises:
        UsageError: an option that the kind does not have, or an output that exists.
        LogError: a file that is not of the kind, is damaged, or has a value that cannot be.
    """
    chosen = _kind(kind)
    options = _options(
        chosen,
        {
            "student": student,
            "teacher": teacher,
            "vocab_size": vocab_size,
            "tokenizer": None if tokenizer is None else os.fspath(tokenizer),
            "columns": dict(columns) if columns else None,
            "exactness": exactness,
            "steps": None if steps is None else tuple(steps),
            "table": table,
            "teacher_files": _paths(teacher_files or ()) or None,
            "min_teacher_logprob": min_teacher_logprob,
            "append_eos": append_eos,
            "max_completion_length": max_completion_length,
        },
    )
    single = isinstance(paths, str | os.PathLike)
    given = _paths([paths] if single else paths)  # type: ignore[list-item, arg-type]
    if not given:
        raise UsageError("paths is empty; give the files to import", parameter="paths")
    target = os.fspath(output)
    module = chosen.load()
    if not chosen.has_losses:
        _refuse_as_texts(chosen, target)
        texts = module.texts(given, options)
        done = write_texts(texts, target, progress)
        return _said(chosen, target, given, done, None, texts.summary(), texts.notes)
    source: Source = module.read(given, options)
    vocab, facts = vocabulary_of(options.tokenizer, source.run)
    source.run = {**source.run, **facts}
    identity = _identity(chosen, given, options)
    done = write_log(source, target, identity, vocab, progress)
    word = source.run["loss"]["exactness"]
    return _said(chosen, target, given, done, word, _LOSSES[word], source.notes)


def _said(
    kind: Kind,
    output: str,
    given: tuple[Path, ...],
    done: Written,
    exactness: str | None,
    summary: str,
    notes: list[str],
) -> Imported:
    return Imported(
        kind.name,
        output,
        len(_all_files(kind, given)),
        tuple(sorted(done.steps)),
        done.sequences,
        done.rows,
        done.kept_rows,
        exactness,
        summary,
        tuple(notes),
    )


def _kind(name: str) -> Kind:
    known = kinds()
    if name not in known:
        raise UsageError(f"kind is {name!r}; it must be one of {', '.join(known)}", "kind")
    return known[name]


def _options(kind: Kind, given: dict[str, Any]) -> Options:
    """The options that were given, checked. Raises `UsageError`."""
    said = {name: value for name, value in given.items() if value is not None}
    for name in said:
        if name not in kind.options:
            raise UsageError(f"{name} has no meaning for {kind.name}; leave it out", name)
    _one_of(said, "exactness", EXACTNESS)
    _one_of(said, "table", OCCURRENCE_TABLES)
    for name in ("vocab_size", "max_completion_length"):
        if said.get(name, 1) < 1:
            raise UsageError(f"{name} is {said[name]}; it must be 1 or more", name)
    for step in said.get("steps", ()):
        if not 0 <= step < 1 << 31:
            raise UsageError(f"steps has {step}; steps are 0 or more, and below {1 << 31}", "steps")
    least = said.get("min_teacher_logprob", -1.0)
    if not -1e4 < least < 0:
        message = f"min_teacher_logprob is {least:g}; it must be below 0, and above −10,000"
        raise UsageError(message, "min_teacher_logprob")
    return Options(**said)


def _one_of(said: dict[str, Any], name: str, allowed: tuple[str, ...]) -> None:
    if name in said and said[name] not in allowed:
        message = f"{name} is {said[name]!r}; it must be one of {', '.join(allowed)}"
        raise UsageError(message, name)


def _paths(names: Iterable[str | os.PathLike[str]]) -> tuple[Path, ...]:
    return tuple(local_path(name) for name in names)


def _refuse_as_texts(kind: Kind, output: str) -> None:
    path = local_path(output)
    if path.is_dir() or output.endswith("/"):
        raise UsageError(
            f"{output}: is a directory; files of {kind.name} hold no losses and become one file "
            "of sequences for `rocktok rescore`: give a name such as texts.parquet"
        )


def _all_files(kind: Kind, given: Iterable[Path]) -> list[Path]:
    """The files given, and those of the kind in folders."""
    patterns: tuple[str, ...] = kind.load().PATTERNS
    found: list[Path] = []
    for path in given:
        within = {one for pattern in patterns for one in path.glob(pattern) if one.is_file()}
        found += sorted(within) if path.is_dir() else [path]
    return found


def _identity(kind: Kind, given: tuple[Path, ...], options: Options) -> dict[str, Any]:
    """What must be the same for a stopped import to go on, as JSON has it."""
    said = {
        one.name: getattr(options, one.name)
        for one in fields(Options)
        if one.name not in ("teacher_files", "tokenizer")
    }
    return {
        "kind": kind.name,
        "files": [_file(path) for path in (*_all_files(kind, given), *options.teacher_files)],
        "options": {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in said.items()
            if value is not None
        },
    }


def _file(path: Path) -> list[Any]:
    """Name, size and a hash of both ends of a file."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            digest = hashlib.blake2b(file.read(_END_BYTES), digest_size=8)
            file.seek(max(0, size - _END_BYTES))
            digest.update(file.read(_END_BYTES))
    except OSError as error:
        raise LogError(f"{path}: cannot be read ({error.strerror or error})") from error
    return [path.name, size, digest.hexdigest()]
