"""What run.json and the manifests say, as `check` takes it."""

from __future__ import annotations

from collections.abc import Mapping

from rocktok.analyses.check.said import Said
from rocktok.errors import LogError
from rocktok.log.catalogue import Log

_FORMAT = "as in docs/log-format.md"


def said_of(log: Log) -> Said:
    """What is said of the run. Raises `LogError` for a value of another kind."""
    run = log.run or {}
    loss, sampling, extra = (
        _object(log, run.get(key), key) for key in ("loss", "sampling", "extra")
    )
    terminal = _object(log, run.get("terminal_ids"), "terminal_ids")
    return Said(
        terminal={
            model: _ids(log, terminal.get(model), f"terminal_ids.{model}")
            for model in ("student", "teacher")
        },
        special=_ids(log, run.get("special_ids"), "special_ids"),
        tokenizers=_object(log, run.get("tokenizers"), "tokenizers") or None,
        max_completion_length=_whole(log, run.get("max_completion_length")),
        sampling=sampling,
        temperature=_number(loss.get("student_temperature")),
        trained=loss.get("trained") is True,
        compares=str(extra.get("trainer", "")).startswith("trl."),
        mismatches=_mismatches(log),
        vocab_size=log.rules.vocab_size,
    )


def _mismatches(log: Log) -> int | None:
    """Calls whose recorded loss was not the trainer's, at steps that count."""
    if not log.manifests:
        return None
    found = 0
    for manifest in log.manifests:
        limit = log.limit_of(manifest.attempt)
        found += sum(
            calls
            for step, calls in manifest.mismatches.items()
            if limit is None or step < limit
        )  # fmt: skip
    return found


def _object(log: Log, value: object, key: str) -> Mapping[str, object]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise LogError(f"{log.name}: run.json: {key} is {value!r}; it must be an object, {_FORMAT}")
    return value


def _ids(log: Log, value: object, key: str) -> tuple[int, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(type(one) is int and one >= 0 for one in value):
        raise LogError(
            f"{log.name}: run.json: {key} is {value!r}; it must be a list of token ids, {_FORMAT}"
        )
    return tuple(sorted(set(value)))


def _whole(log: Log, value: object) -> int | None:
    if value is None:
        return None
    if type(value) is not int or value < 1:
        raise LogError(
            f"{log.name}: run.json: max_completion_length is {value!r}; it must be a positive "
            f"integer, {_FORMAT}"
        )
    return value


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
