"""What run.json and the manifests say, as `check` takes it."""

from __future__ import annotations

from collections.abc import Mapping

from rocktok.analyses.check.said import Said
from rocktok.errors import LogError
from rocktok.log.catalogue import Log


def said_of(log: Log) -> Said:
    """What is said of the run. Raises `LogError` for a value of another kind."""
    facts, run = log.facts, log.run or {}
    loss, sampling, extra = (_object(log, key) for key in ("loss", "sampling", "extra"))
    temperature = loss.get("student_temperature")
    return Said(
        terminal={"student": facts.terminal_student, "teacher": facts.terminal_teacher},
        special=facts.special,
        tokenizers=facts.tokenizers,
        max_completion_length=facts.max_completion_length,
        sampling=sampling,
        temperature=temperature if isinstance(temperature, int | float) else None,
        trained=loss.get("trained") is True,
        compares=str(extra.get("trainer", "")).startswith("trl."),
        mismatches=_mismatches(log) if run else None,
        vocab_size=log.rules.vocab_size,
    )


def _mismatches(log: Log) -> int | None:
    """Calls whose recorded loss was not the trainer's, at steps that count; None: not known."""
    if not log.manifests:
        return None
    found = 0
    for manifest in log.manifests:
        limit = log.limit_of(manifest.attempt)
        counts = (n for step, n in manifest.mismatches.items() if limit is None or step < limit)
        found += sum(counts)
    return found


def _object(log: Log, key: str) -> Mapping[str, object]:
    value = (log.run or {}).get(key)
    if value is not None and not isinstance(value, dict):
        raise LogError(
            f"{log.name}: run.json: {key} is {value!r}; it must be an object, as in "
            "docs/log-format.md"
        )
    return value or {}
