"""Intermediate results of a report: the analyses beside `detect`, and its own pass."""

from __future__ import annotations

from dataclasses import dataclass, field

from rocktok._types import Array
from rocktok.analyses.attribute.result import AttributeResult
from rocktok.analyses.detect.instead import Instead
from rocktok.analyses.stability.result import StabilityResult
from rocktok.analyses.stagnation.result import StagnationResult
from rocktok.report.grid import TypeShares
from rocktok.report.positions import LossByPosition
from rocktok.report.sensitivity import RockContexts, SensitivityRow
from rocktok.report.sequences import DrawnSequences
from rocktok.report.text_view import StepLoss, Texts
from rocktok.stats.sums import TypeSums


@dataclass(frozen=True)
class OtherParts:
    """The analyses beside `detect`; None where the log lacks what they need."""

    attribute: AttributeResult | None
    stagnation: StagnationResult | None
    stability: StabilityResult | None

    def done(self) -> list[tuple[str, AttributeResult | StagnationResult | StabilityResult]]:
        """Names and results of the analyses that were made."""
        named = (
            ("attribute", self.attribute),
            ("stagnation", self.stagnation),
            ("stability", self.stability),
        )
        return [(name, result) for name, result in named if result is not None]


@dataclass(frozen=True)
class Look:
    """Results of the report's own pass. `windows`: of occurrences of the candidate rocks.

    `instead`: token id → what the teacher held likely in the place of the hardest types.
    """

    sums: TypeSums
    positions: LossByPosition
    windows: dict[str, Array]
    drawn: DrawnSequences
    instead: dict[int, Instead]


@dataclass(frozen=True)
class PageContent:
    """What the page shows beside the analyses.

    Attributes:
        look: of the report's own pass.
        shares: types judged anew, by place; None where no null can be drawn for any.
        sensitivity: of the report.
        contexts, in_text: as `contexts` and `contexts_in_text` of the report.
        texts, curves: of the report.
        passes: of its own pass, and of the text.
    """

    look: Look
    shares: dict[int, TypeShares] | None
    sensitivity: tuple[SensitivityRow, ...] | None
    contexts: dict[int, RockContexts]
    passes: dict[str, int]
    in_text: dict[int, RockContexts] | None = None
    texts: Texts | None = None
    curves: dict[int, list[StepLoss]] = field(default_factory=dict)
