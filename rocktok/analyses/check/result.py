"""Options of `check`, and what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypedDict

from rocktok._types import LogIdentity
from rocktok.analyses.result import Result
from rocktok.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

Severity = Literal["ok", "note", "warning", "problem", "unknown"]

#: From least to worst; "unknown" is none of them.
SEVERITIES: tuple[Severity, ...] = ("ok", "note", "warning", "problem")

#: Every finding, in the order in which those of one severity are shown.
NAMES = (
    "terminal_ids",
    "tokenizer",
    "template",
    "vocabulary",
    "loss_mismatch",
    "on_policy",
    "end_token",
    "teacher_end",
    "student_end",
    "truncated",
    "loops",
    "special_tokens",
    "opening",
    "saturation",
    "normalisation",
    "one_sample",
    "top_k",
)


@dataclass(frozen=True)
class CheckParams:
    """Options of `check`."""

    table: str = "auto"
    step: int | None = None
    replicates: int = 1_000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.replicates < 100:
            message = f"replicates is {self.replicates}; it must be 100 or more"
            raise UsageError(message, parameter="replicates")


class CheckOptions(TypedDict):
    """Every option."""

    table: str
    step: int | None
    replicates: int
    seed: int


class CheckLog(LogIdentity):
    """What was read.

    `rollout_step`: None where no step of rollouts is complete. `rocks`: which estimates are held
    against; None: there are none, or they were not looked for.
    """

    table: str
    step: int
    rollout_step: int | None
    rocks: list[int] | None
    passes: int


class Finding(TypedDict):
    """One check.

    `value` is the number that `measure` names, where it is an estimate with an interval that covers
    it with a probability of `level`; None where it is not known. `details`: more numbers by name.
    """

    name: str
    severity: Severity
    value: float | None
    low: float | None
    high: float | None
    level: float | None
    measure: str
    text: str
    remedy: str | None
    details: dict[str, object]


class FindingRow(TypedDict):
    """A finding without its details: a row of a table."""

    name: str
    severity: str
    value: float | None
    low: float | None
    high: float | None
    level: float | None
    measure: str
    text: str
    remedy: str | None


class EstimatorRow(TypedDict):
    """An estimate of the loss at one step of a table, against the exact loss.

    Of top-K, whose value the log may bound alone, `…_most` are by the upper ends; of others they
    are the same. Lengths in nats.
    """

    table: str
    step: int
    estimator: str
    k: int | None
    occurrences: int
    known: float
    exact_mean: float
    mean: float
    mean_most: float
    bias_low: float | None
    bias_high: float | None
    error_sd: float
    error_sd_most: float
    types: int
    rank_correlation: float | None
    rank_correlation_most: float | None
    rocks: int | None
    rocks_in_top_exact: int | None
    rocks_in_top: int | None
    rocks_in_top_most: int | None


@dataclass(frozen=True)
class CheckResult(Result):
    """What was found.

    Attributes:
        log: identity of the log, table, steps, passes.
        params: every option.
        findings: the worst first, those that could not be made last.
        estimators: cheaper estimates of the loss against the exact one; none where the log lacks
            what they are made of.
        notes: what a reader of the numbers must know.
    """

    SCHEMA: ClassVar[str] = "rocktok.check/1"

    log: CheckLog
    params: CheckOptions
    findings: tuple[Finding, ...]
    estimators: tuple[EstimatorRow, ...]
    notes: tuple[str, ...]

    def __getitem__(self, name: str) -> Finding:
        """The finding of that name. Raises `KeyError`."""
        return next(one for one in self.findings if one["name"] == name) if name in NAMES else (
            _no_finding(name))  # fmt: skip

    @property
    def worst(self) -> Severity:
        """The worst severity of all findings; "ok" where nothing was found."""
        return max((one["severity"] for one in self.findings), key=rank_of, default="ok")

    def rows(self) -> list[FindingRow]:
        """One mapping per finding, without details."""
        return [
            {
                "name": one["name"],
                "severity": one["severity"],
                "value": one["value"],
                "low": one["low"],
                "high": one["high"],
                "level": one["level"],
                "measure": one["measure"],
                "text": one["text"],
                "remedy": one["remedy"],
            }
            for one in self.findings
        ]

    def limits(self) -> Mapping[str, Mapping[str, object]]:
        """What `--fail-if` may name: of each finding its value, its interval, its details."""
        return {
            one["name"]: {
                "value": one["value"], "low": one["low"], "high": one["high"], **one["details"]
            }
            for one in self.findings
        }  # fmt: skip

    @classmethod
    def limit_types(cls) -> dict[str, Any]:
        """Names of findings; each has details of its own."""
        return dict.fromkeys(NAMES, Any)

    @cached_property
    def table(self) -> pd.DataFrame:
        """The findings as a pandas DataFrame, without details."""
        import pandas as pd

        return pd.DataFrame(self.rows())

    def shown(self) -> tuple[str, list[dict[str, str]]]:
        """The findings in words."""
        return "", [
            {
                "severity": one["severity"],
                "check": one["name"],
                "finding": one["text"],
                "remedy": one["remedy"] or "",
            }
            for one in self.findings
        ]


def _no_finding(name: str) -> Finding:
    raise KeyError(f"no finding {name!r}; they are {', '.join(NAMES)}")


def rank_of(severity: str) -> int:
    """How bad: 0 for "ok"; −1 for "unknown"."""
    return SEVERITIES.index(severity) if severity in SEVERITIES else -1


def ordered(findings: list[Finding]) -> tuple[Finding, ...]:
    """The worst first; those that could not be made after all others."""
    return tuple(
        sorted(findings, key=lambda one: (-rank_of(one["severity"]), NAMES.index(one["name"])))
    )
