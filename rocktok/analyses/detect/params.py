"""Options of `detect`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from rocktok.analyses.detect.compared import PARTNERS
from rocktok.analyses.detect.similarity import SIMILARITIES
from rocktok.errors import UsageError

#: Tokens on each side of a window, unless told; and, whatever is compared, half as far as the null
#: keeps from a type.
WINDOW = 8

#: Minimum similarity of windows, unless told. Of hidden states it is taken from the log.
MIN_SIMILARITY = 0.5

#: The smallest sample of persistent occurrences.
MIN_CAP = 100

CONTEXTS = ("auto", "required", "off")
TABLES = ("auto", "fixed", "rollout")
CRITERIA = ("high", "recalcitrant")
RULES = ("tested", "top-k")

#: Rocks at most, by the rule "top-k"; types shown where nothing can be tested.
MOST_ROCKS = 100


@dataclass(frozen=True)
class DetectParams:
    """Options of `detect`; docs/definitions.md explains each.

    `quantile_post` None: 0.8 for persistence "high"; 0.2, of the change, for "recalcitrant".
    `window` None: 8. `similarity` "auto": `passes` learns from the log what it stands for.
    `rule` None: "top-k" where an option that only it has is given, else "tested". `top_k` None:
    100.
    """

    pre: int | None = None
    post: int | None = None
    table: str = "auto"
    context: str = "auto"
    quantile_pre: float = 0.8
    quantile_post: float | None = None
    tau_pre: float | None = None
    tau_post: float | Literal["same"] | None = None
    persistence: str = "high"
    window: int | None = None
    similarity: str = "auto"
    partners: str = "other-prompt"
    gamma: float | Literal["auto"] = "auto"
    eta: float | Literal["auto"] = "auto"
    rule: str | None = None
    fdr: float = 0.05
    min_hardness: float = 1.5
    top_k: int | None = None
    tau_r: float | None = None
    min_frequency: int = 1
    exclude_most_frequent: int = 0
    cap: int = 50_000
    exact: bool = False
    seed: int = 0
    all_types: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (
            ("table", TABLES),
            ("context", CONTEXTS),
            ("persistence", CRITERIA),
            ("similarity", ("auto", *SIMILARITIES)),
            ("partners", PARTNERS),
        ):
            _demand(getattr(self, name) in allowed, name, f"one of {', '.join(allowed)}", self)
        _demand(0 < self.quantile_pre < 1, "quantile_pre", "between 0 and 1", self)
        post = self.quantile_post
        _demand(post is None or 0 < post < 1, "quantile_post", "between 0 and 1", self)
        _demand(_positive(self.tau_pre), "tau_pre", "above 0, and finite", self)
        tau = self.tau_post
        good = tau == "same" or (not isinstance(tau, str) and _positive(tau))
        _demand(good, "tau_post", "above 0, and finite, or 'same'", self)
        _demand(self.window is None or self.window >= 1, "window", "1 or more", self)
        gamma = self.gamma
        good = gamma == "auto" or (not isinstance(gamma, str) and 0 < gamma <= 1)
        _demand(good, "gamma", "'auto', or above 0 and at most 1", self)
        if self.similarity == "hidden" and self.window not in (None, WINDOW):
            raise UsageError(
                "window has no meaning with similarity 'hidden', which compares hidden states; "
                "leave it out",
                parameter="window",
            )
        eta = self.eta
        good = eta == "auto" or (not isinstance(eta, str) and 0 <= eta <= 1)
        _demand(good, "eta", "'auto', or from 0 to 1", self)
        _demand(self.rule in (None, *RULES), "rule", f"one of {', '.join(RULES)}", self)
        _demand(0 < self.fdr < 1, "fdr", "between 0 and 1", self)
        _demand(_positive(self.min_hardness), "min_hardness", "above 0, and finite", self)
        _demand(self.top_k is None or self.top_k >= 1, "top_k", "1 or more", self)
        _demand(_positive(self.tau_r), "tau_r", "above 0, and finite", self)
        _demand(self.cap >= MIN_CAP, "cap", f"{MIN_CAP} or more", self)
        _demand(self.min_frequency >= 1, "min_frequency", "1 or more", self)
        _demand(self.exclude_most_frequent >= 0, "exclude_most_frequent", "0 or more", self)
        if self.persistence == "recalcitrant" and self.tau_post is not None:
            raise UsageError(
                "tau_post has no meaning with persistence 'recalcitrant'; leave it out",
                parameter="tau_post",
            )
        if self.rule == "tested" and self.of_top_k:
            name = self.of_top_k[0]
            raise UsageError(
                f"{name} has no meaning with rule 'tested'; leave it out, or take rule 'top-k'",
                parameter=name,
            )

    @property
    def of_top_k(self) -> tuple[str, ...]:
        """Options given that have a meaning for the rule "top-k" alone."""
        given = {
            "top_k": self.top_k is not None,
            "tau_r": self.tau_r is not None,
            # 0.05 of the occurrences are retained by chance where η is "auto", and only there.
            "eta": self.eta != "auto",
        }
        return tuple(name for name, is_given in given.items() if is_given)

    @property
    def of_windows(self) -> tuple[str, ...]:
        """Options given that say that windows are compared, where `similarity` leaves it open."""
        given = {
            "window": self.window is not None,
            # A number is of a scale: 0.5 of windows is not 0.5 of hidden states.
            "gamma": self.gamma != "auto",
        }
        return tuple(name for name, is_given in given.items() if is_given)

    @property
    def tests(self) -> bool:
        """Whether rocks are tested; else they are the first by their scores."""
        return self.rule == "tested" or (self.rule is None and not self.of_top_k)

    @property
    def most_rocks(self) -> int:
        """`top_k` with its default filled in."""
        return MOST_ROCKS if self.top_k is None else self.top_k

    @property
    def window_size(self) -> int:
        """`window` with its default filled in."""
        return WINDOW if self.window is None else self.window

    @property
    def min_similarity(self) -> float | None:
        """`gamma` with its default filled in; None: the log gives it."""
        if self.gamma != "auto":
            return self.gamma
        return None if self.similarity in ("auto", "hidden") else MIN_SIMILARITY

    @property
    def filled(self) -> DetectParams:
        """The same with all defaults filled in, as the params of a result have them."""
        return replace(
            self,
            quantile_post=self.second_quantile,
            window=self.window_size,
            gamma="auto" if self.min_similarity is None else self.min_similarity,
            rule="tested" if self.tests else "top-k",
            top_k=None if self.tests else self.most_rocks,
        )

    @property
    def second_quantile(self) -> float:
        """`quantile_post` with its default filled in."""
        if self.quantile_post is not None:
            return self.quantile_post
        return 0.8 if self.persistence == "high" else 0.2


def _positive(value: float | None) -> bool:
    return value is None or (0 < value < float("inf"))


def _demand(good: bool, name: str, allowed: str, params: DetectParams) -> None:
    if not good:
        message = f"{name} is {getattr(params, name)!r}; it must be {allowed}"
        raise UsageError(message, parameter=name)
