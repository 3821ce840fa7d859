"""The files of the paper's own scripts: occurrences, and losses of the same text at two steps."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import rocktok.schema as schema
from rocktok._types import Array
from rocktok.errors import LogError, UsageError
from rocktok.importers.source import PART_ROWS, Options, Part, Source, loss_of, run_of
from rocktok.importers.torch_files import load_with_list
from rocktok.importers.words import files_of, steps_for, whole_or_last
from rocktok.words import counted

#: Names of its files in a folder.
PATTERNS = ("rock_token_occurrences_*.pt", "phase2_losses*.pt")

_FIELDS = ("sample_idx", "token_id", "kl", "abs_position")
_NOT_THEIRS = "is no file of the paper's scripts (rock_token_occurrences_*.pt, phase2_losses.pt)"
_TWO_STEPS = ("loss_before", "loss_after", "token_ids", "sequence_indices")
#: Sequence ids of a file: its number times this, and the number of the sequence within it.
_PER_FILE = 1 << 32
_ROUNDED = (
    "the paper's scripts take log-probabilities in the precision of the logits, bfloat16 as "
    "published: losses near 0 are rounding"
)
_LIST = (
    "is a list of token types, without losses; import the .pt file that it was made from, or give "
    "the list to `rocktok compare`"
)
_GRADIENTS = (
    "holds sums of gradients without norms and without halves, of which a log needs both; import "
    "the occurrences (rock_token_occurrences_*.pt)"
)


def read(paths: tuple[Path, ...], options: Options) -> Source:
    """A log of `rock_token_occurrences_*.pt`, a step each, or of one `phase2_losses.pt`.

    Raises `LogError` for other files, for files of two runs, for records that cannot be.
    """
    files = files_of(paths, *PATTERNS)
    for path in files:
        if path.suffix in (".csv", ".json"):
            raise LogError(f"{path}: {_LIST}")
    notes: list[str] = []
    first, records = load_with_list(files[0], "occurrences")
    if all(key in first for key in _TWO_STEPS):
        if len(files) > 1:
            raise UsageError(f"{files[0]}: holds both steps; import it alone")
        return _two_steps(files[0], first, options, notes)
    steps = steps_for(files, options.steps)
    order = sorted(range(len(files)), key=lambda number: steps[number])
    _check(files[0], first, records)
    loaded = {files[0]: (first, records)}
    exactness = _exactness(options, _column(files[0], records, "kl"), notes)

    def parts() -> Iterator[Part]:
        def load(path: Path) -> tuple[dict[str, Any], list[Any]]:
            return loaded.pop(path) if path in loaded else load_with_list(path, "occurrences")

        in_order = [files[number] for number in order]
        for path, (head, items) in whole_or_last(in_order, load, notes):
            _check(path, head, items)
            _same_run(files[0], first, path, head)
            number = files.index(path)
            yield from _parts(path, steps[number], number, head, items)

    run = run_of(
        options,
        exactness,
        student=_text(first.get("student_id")),
        teacher=_text(first.get("teacher_id")),
        vocab_size=_size(first),
    )
    run["loss"] = loss_of(exactness, student_temperature=1.0, teacher_temperature=1.0)
    return Source(run, (), parts, extra={"samples": first.get("samples_processed")}, notes=notes)


def _exactness(options: Options, loss_N: Array, notes: list[str]) -> str:
    """What the losses are: what the user says, else exact if none is below 0."""
    notes.append(_ROUNDED)
    least = float(loss_N.min()) if len(loss_N) else 0.0
    if options.exactness is not None:
        return options.exactness
    if least >= schema.EXACT_LOSS_FLOOR:
        return "exact"
    notes.append(
        f"losses go down to {least:.2g}, which a reverse KL never is: taken as truncated sums"
    )
    return "truncated"


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _size(head: dict[str, Any]) -> int | None:
    size = head.get("vocab_size")
    return size if isinstance(size, int) and size > 0 else None


def _check(path: Path, head: dict[str, Any], items: list[Any]) -> None:
    if "gradient_sum" in head:
        raise LogError(f"{path}: {_GRADIENTS}")
    if not items or not isinstance(items[0], dict):
        raise LogError(f"{path}: {_NOT_THEIRS}; give one that they wrote")
    missing = [name for name in _FIELDS if name not in items[0]]
    if missing:
        raise LogError(f"{path}: its occurrences have no {', '.join(missing)}; {_NOT_THEIRS}")


def _same_run(first: Path, one: dict[str, Any], path: Path, other: dict[str, Any]) -> None:
    for key in ("teacher_id", "vocab_size"):
        if one.get(key) != other.get(key):
            raise LogError(
                f"{path}: {key} is {other.get(key)}, in {first} it is {one.get(key)}: these are "
                "files of two runs; import each into its own log"
            )


def _column(path: Path, items: list[Any], name: str) -> Array:
    """A field of all records. Raises `LogError` for one that lacks it, or that is no number."""
    import pyarrow as pa

    kind = pa.float64() if name == "kl" else pa.int64()
    try:
        values = pa.array(list(map(operator.itemgetter(name), items)), kind)
        if values.null_count:
            raise TypeError
    except (KeyError, TypeError, OverflowError, pa.ArrowException):
        raise LogError(_first_wrong(path, items, name)) from None
    column: Array = values.to_numpy()
    return column


def _first_wrong(path: Path, items: list[Any], name: str) -> str:
    wanted = int | float if name == "kl" else int
    for number, item in enumerate(items):
        value = item.get(name) if isinstance(item, dict) else None
        if not isinstance(value, wanted) or isinstance(value, bool):
            return f"{path}: occurrence {number}: {name} is {value!r}; it must be a number"
    return f"{path}: an occurrence has a {name} that does not fit; it must be a number"


def _parts(
    path: Path, step: int, number: int, head: dict[str, Any], items: list[Any]
) -> Iterator[Part]:
    sample_N, token_N, loss_N, position_N = (_column(path, items, name) for name in _FIELDS)
    if not np.isfinite(loss_N).all():
        at = int(np.argmin(np.isfinite(loss_N)))
        raise LogError(f"{path}: occurrence {at}: kl is {loss_N[at]}; it must be finite")
    _check_frequencies(path, head, token_N)
    order = np.lexsort((position_N, sample_N))
    sample_N, token_N, loss_N, position_N = (
        values[order] for values in (sample_N, token_N, loss_N, position_N)
    )
    start_S = np.flatnonzero(np.diff(sample_N, prepend=sample_N[0] - 1))
    twice = np.flatnonzero((np.diff(sample_N) == 0) & (np.diff(position_N) == 0))
    if len(twice):
        at = int(twice[0])
        raise LogError(
            f"{path}: sample {sample_N[at]} has position {position_N[at]} twice: these are records "
            "of two runs, or of one that was appended to; give each its own file"
        )
    tokens_S = np.maximum.reduceat(position_N, start_S) + 1
    bounds = np.append(start_S, len(sample_N))
    begin = 0
    while begin < len(start_S):
        end = max(begin + 1, int(np.searchsorted(bounds, bounds[begin] + PART_ROWS, "right")) - 1)
        rows = slice(bounds[begin], bounds[end])
        sample_S = sample_N[start_S[begin:end]]
        yield Part(
            str(path),
            step,
            {
                "sequence_id": number * _PER_FILE + sample_S,
                "num_tokens": tokens_S[begin:end],
                # One rollout of each problem, which has the same number in every file.
                "prompt_id": sample_S,
            },
            {
                "sequence_id": number * _PER_FILE + sample_N[rows],
                "position": position_N[rows],
                "token_id": token_N[rows],
                "loss": loss_N[rows],
            },
        )
        begin = end


def _check_frequencies(path: Path, head: dict[str, Any], token_N: Array) -> None:
    """Raise `LogError` where the file's own counts are not those of its records."""
    size, counts = _size(head), head.get("frequencies")
    if len(token_N) and (token_N.min() < 0 or (size is not None and token_N.max() >= size)):
        worst = int(token_N.min() if token_N.min() < 0 else token_N.max())
        raise LogError(
            f"{path}: token_id {worst} is outside the vocabulary of {size}: ids of another "
            "tokenizer"
        )
    if counts is None or not hasattr(counts, "numpy"):
        return
    known_V = np.asarray(counts.numpy(), dtype=np.int64)
    mine_V = np.bincount(token_N, minlength=len(known_V))
    if len(mine_V) != len(known_V) or (mine_V != known_V).any():
        apart = int(np.argmax(mine_V[: len(known_V)] != known_V))
        raise LogError(
            f"{path}: token {apart} occurs {counted(int(mine_V[apart]), 'time')}, its frequencies "
            f"say {int(known_V[apart]):,}: the records are not all there; copy the file again"
        )


# -- phase2_losses.pt ------------------------------------------------------------------------


def _two_steps(path: Path, head: dict[str, Any], options: Options, notes: list[str]) -> Source:
    """`fixed/` at two steps: losses of the same tokens before and after training."""
    before, after = options.steps if options.steps and len(options.steps) == 2 else (0, 1)
    if options.steps is not None and (len(options.steps) != 2 or before >= after):
        raise UsageError("steps must be two ascending numbers: before and after", "steps")
    token_N = _array(path, head, "token_ids", np.int64)
    length = len(token_N)
    losses = {
        before: _array(path, head, "loss_before", np.float64, length),
        after: _array(path, head, "loss_after", np.float64, length),
    }
    sequence_N = _array(path, head, "sequence_indices", np.int64, length)
    entropies = [name for name in ("teacher_entropy", "student_entropy_before",
                                   "student_entropy_after") if name in head]  # fmt: skip
    with_entropies = len(entropies) == 3
    exactness = _exactness(options, np.concatenate(list(losses.values())), notes)
    changes = np.flatnonzero(np.diff(sequence_N)) + 1
    start_S = np.concatenate(([0], changes)).astype(np.int64)
    if len(np.unique(sequence_N[start_S])) < len(start_S):
        raise LogError(f"{path}: sequence_indices come back to an earlier sequence; sort them")
    length_S = np.diff(np.append(start_S, length))
    domains = head.get("source_datasets")
    with_domains = isinstance(domains, list) and len(domains) == length
    sequences = {
        "sequence_id": sequence_N[start_S],
        "num_tokens": length_S,
        "prompt_id": sequence_N[start_S],
        **({"domain": [str(domains[i]) for i in start_S]} if with_domains else {}),  # type: ignore[index]
    }
    position_N = np.arange(length) - np.repeat(start_S, length_S)

    def parts() -> Iterator[Part]:
        for step, loss_N in losses.items():
            rows = {"sequence_id": sequence_N, "position": position_N, "token_id": token_N,
                    "loss": loss_N}  # fmt: skip
            if with_entropies:
                own = "student_entropy_before" if step == before else "student_entropy_after"
                rows["student_entropy"] = _array(path, head, own, np.float64, length)
                rows["teacher_entropy"] = _array(path, head, entropies[0], np.float64, length)
            yield Part(str(path), step, sequences, rows)

    columns = ("student_entropy", "teacher_entropy") if with_entropies else ()
    return Source(run_of(options, exactness), columns, parts, "fixed", notes=notes)


def _array(
    path: Path, head: dict[str, Any], name: str, kind: Any, length: int | None = None
) -> Array:
    values = head[name]
    try:
        array = np.asarray(values.numpy() if hasattr(values, "numpy") else values, dtype=kind)
    except (TypeError, ValueError):
        raise LogError(f"{path}: {name} holds more than numbers; {_NOT_THEIRS}") from None
    if array.ndim != 1 or (length is not None and len(array) != length):
        raise LogError(f"{path}: {name} has {array.shape} values where token_ids has {length}")
    return array
