"""Files that a user gives: results of other commands, rules of one's own, embeddings."""

from __future__ import annotations

import json
import os
from typing import Any

from rocktok.errors import LogError, UsageError
from rocktok.files import local_path

_WANTED = "give what `rocktok detect LOG --format json -o FILE` writes"


def load_detect(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a JSON file of `rocktok detect`; only its schema is checked.

    Raises `LogError` for a file that cannot be read, or is none of `detect`'s.
    """
    content = _load_json(path, _WANTED)
    schema = content.get("schema") if isinstance(content, dict) else None
    if not str(schema).startswith("rocktok.detect/"):
        raise not_of_detect(path)
    return dict(content)


def not_of_detect(path: str | os.PathLike[str]) -> LogError:
    """The error for a file that is not what `rocktok detect` writes."""
    return LogError(f"{path}: is not a result of `rocktok detect`; {_WANTED}")


def load_rocks(path: str | os.PathLike[str], vocab: str | None = None) -> tuple[int, ...]:
    """Token ids of the rocks in a JSON file of `rocktok detect`, ascending.

    `vocab`: identity of the vocabulary whose ids they must be; None: not known.

    Raises `LogError` as `load_detect`, for a file without rocks, and for one of another vocabulary.
    """
    content = load_detect(path)
    _check_vocab(path, content, vocab)
    try:
        rocks = {_token_id(row["token_id"]) for row in content["tokens"] if row["is_rock"]}
    except (KeyError, TypeError, ValueError) as error:
        raise not_of_detect(path) from error
    if not rocks:
        raise LogError(f"{path}: holds no rocks; {_WANTED}")
    return tuple(sorted(rocks))


def load_controls(
    path: str | os.PathLike[str], kind: str, vocab: str | None = None
) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
    """(rocks, pairs of a rock and its control) of a JSON file of `rocktok controls`.

    `vocab`: as in `load_rocks`.

    Raises `LogError` for a file that cannot be read, is none of its, lacks the kind, or is of
    another vocabulary.
    """
    wanted = "give what `rocktok controls LOG --format json -o FILE` writes"
    content = _load_json(path, wanted)
    try:
        rocks, pairs = _controls(content, kind)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LogError(f"{path}: is not a result of `rocktok controls`; {wanted}") from error
    _check_vocab(path, content, vocab)
    if not pairs:
        raise LogError(
            f"{path}: contains no pairs by {kind}; choose another kind, or write it again"
        )
    return rocks, pairs


def _check_vocab(path: str | os.PathLike[str], content: Any, vocab: str | None) -> None:
    """Raise `LogError` where a result's token ids are known to be another vocabulary's."""
    log = content.get("log")
    theirs = log.get("vocab") if isinstance(log, dict) else None
    if None not in (vocab, theirs) and vocab != theirs:
        raise LogError(
            f"{path}: its vocabulary differs from the log's, so ids have other texts; give a "
            "result of a log with the same tokenizer"
        )


def _controls(content: Any, kind: str) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
    """Rocks and pairs; raises for a content that `rocktok controls` would not have written."""
    if not str(content["schema"]).startswith("rocktok.controls/"):
        raise ValueError("another schema")
    rocks = tuple(_token_id(v) for v in content["log"]["rocks"])
    matched = content["kinds"].get(kind)
    pairs = tuple((_token_id(a), _token_id(b)) for a, b in (matched["pairs"] if matched else ()))
    ours, others = ([pair[side] for pair in pairs] for side in (0, 1))
    one_to_one = len(set(ours)) == len(set(others)) == len(pairs)
    if not one_to_one or set(ours) - set(rocks) or set(others) & set(rocks):
        raise ValueError("no pairs of a rock and another type")
    return rocks, pairs


def _token_id(value: Any) -> int:
    """A token id of a JSON file; `ValueError` for what cannot be one."""
    if type(value) is not int or not 0 <= value < 2**31:
        raise ValueError(f"{value!r} is no token id")
    return value


#: Columns of the published lists of rocks and controls, the first of which must be there.
_LISTED = ("rock_id", "rock_token", "rock_freq_mean", "ctrl_id")
_ID_LIST_WANTED = "give a JSON list of token ids, the best first, or what `rocktok detect` writes"
_LIST_WANTED = "give a CSV file with a column rock_id, the best first"


def load_rock_list(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Rows of a CSV file of rocks, best first, as the published scripts write it.

    Of each: `rock_id`; and, None where the file lacks it, `rock_token`, `rock_freq_mean` (frequency
    times mean loss) and `ctrl_id`, a control.

    Raises `LogError` for a file that cannot be read or has no column rock_id, and for a row whose
    ids are no token ids or stand twice.
    """
    import csv

    try:
        with local_path(path).open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = reader.fieldnames or []
            if "rock_id" not in columns:
                shown = ", ".join(columns) or "none"
                raise LogError(f"{path}: has no column rock_id (its columns: {shown}); "
                               f"{_LIST_WANTED}")  # fmt: skip
            rows = [_listed(row, f"{path}: row {number}") for number, row in enumerate(reader, 1)]
    except OSError as error:
        raise LogError(f"{path}: cannot be read ({error.strerror}); {_LIST_WANTED}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise LogError(f"{path}: is not a CSV file ({error}); {_LIST_WANTED}") from error
    seen: dict[int, int] = {}
    for number, row in enumerate(rows, 1):
        if (first := seen.setdefault(row["rock_id"], number)) != number:
            raise LogError(
                f"{path}: row {number}: rock_id {row['rock_id']} stands in row {first}, too; "
                "leave one out"
            )
    if not rows:
        raise LogError(f"{path}: holds no rows; {_LIST_WANTED}")
    return rows


def load_id_list(path: str | os.PathLike[str]) -> list[dict[str, Any]] | None:
    """Rows as `load_rock_list` of a JSON file that is a list of token ids, the best first.

    So the published scripts write rocks and controls for training. None: the file holds no list.

    Raises `LogError` for a file that cannot be read, and for a list of anything else.
    """
    content = _load_json(path, _WANTED)
    if not isinstance(content, list):
        return None
    try:
        ids = [_token_id(value) for value in content]
    except ValueError as error:
        raise LogError(f"{path}: {error}; {_ID_LIST_WANTED}") from error
    if len(set(ids)) < len(ids) or not ids:
        what = "holds an id twice" if ids else "holds no ids"
        raise LogError(f"{path}: {what}; {_ID_LIST_WANTED}")
    return [{**dict.fromkeys(_LISTED), "rock_id": value} for value in ids]


def _listed(row: dict[str, Any], where: str) -> dict[str, Any]:
    """A row with its numbers. Raises `LogError` for one that holds none."""
    found = {name: row.get(name) or None for name in _LISTED}
    for name in ("rock_id", "ctrl_id"):
        text = found[name]
        if text is None and name != "rock_id":
            continue
        plain = "" if text is None else str(text).strip().removesuffix(".0")
        # Not what int() takes beside: "1_000", " 7", digits of other scripts.
        if not (plain.isascii() and plain.isdigit() and int(plain) < 2**31):
            raise LogError(f"{where}: {name} is {text or ''!r}, which is no token id; correct it")
        found[name] = int(plain)
    if found["rock_freq_mean"] is not None:
        try:
            found["rock_freq_mean"] = float(found["rock_freq_mean"])
        except ValueError as error:
            text = found["rock_freq_mean"]
            raise LogError(f"{where}: rock_freq_mean is {text!r}, not a number; correct it") from (
                error
            )
    return found


def load_patterns(path: str | os.PathLike[str]) -> dict[str, list[str]]:
    """Cluster → patterns, from a JSON file. Raises `LogError` for a file that is none."""
    wanted = 'give JSON such as {"names": [" ?(Anna|Omar)"]}'
    content = _load_json(path, wanted)
    good = isinstance(content, dict) and all(
        isinstance(patterns, list) and all(isinstance(p, str) for p in patterns)
        for patterns in content.values()
    )
    if not good:
        raise LogError(f"{path}: does not list the patterns of each cluster; {wanted}")
    return dict(content)


def load_embeddings(path: str | os.PathLike[str]) -> Any:
    """(token ids, D) float64, of a NumPy .npy file. Raises `UsageError` for one that is none."""
    import numpy as np

    try:
        matrix = np.load(local_path(path), allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not a NumPy .npy matrix ({error})") from error
    if matrix.ndim != 2 or not np.issubdtype(matrix.dtype, np.number):
        raise UsageError(f"{path}: shape {matrix.shape}; it must have a row for each token id")
    return matrix.astype(np.float64)


def _load_json(path: str | os.PathLike[str], wanted: str) -> Any:
    """A file's content. Raises `LogError`, which says what is `wanted`."""
    try:
        return json.loads(local_path(path).read_bytes())
    except OSError as error:
        raise LogError(f"{path}: cannot be read ({error.strerror}); {wanted}") from error
    except RecursionError as error:
        raise LogError(f"{path}: is not JSON (nested too deeply); {wanted}") from error
    except (ValueError, MemoryError) as error:
        raise LogError(f"{path}: is not JSON ({error}); {wanted}") from error
