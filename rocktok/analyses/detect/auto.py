"""What similarity "auto" stands for on a log: hidden states where it has them, else windows.

Where words recur both find the same, where only meanings do windows find next to nothing
(docs/statistics.md, "The default similarity").
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from rocktok.analyses.detect.params import DetectParams
from rocktok.analyses.detect.windows import SketchCount

#: Share of the positions with a row in contexts/ from which hidden states are compared. Contexts
#: of other positions are then not judged, and so recur less often.
MIN_SKETCHED = 0.5


@dataclass(frozen=True)
class Chosen:
    """The options with a similarity that says what is compared, and what to note of it."""

    params: DetectParams
    notes: tuple[str, ...] = ()


def choose(params: DetectParams, sketches: SketchCount | None, *, has_contexts: bool) -> Chosen:
    """What is compared where `similarity` leaves it open.

    Args:
        params: options.
        sketches: how many positions have a sketch; None: that was not counted.
        has_contexts: whether the log has sketches of these rows' text.
    """
    if params.similarity != "auto":
        return Chosen(params)
    windows = replace(params, similarity="surprisal")
    if params.of_windows and has_contexts:
        return Chosen(windows, (_implied(params.of_windows),))
    if sketches is None:
        return Chosen(windows)
    there = sketches.rows - sketches.missing
    if there < MIN_SKETCHED * sketches.rows:
        return Chosen(windows, (_few(there, sketches.rows),))
    return Chosen(replace(params, similarity="hidden"))


def note_differences(similarities: Iterable[tuple[str, str | None]]) -> list[str]:
    """A note where logs whose rocks stand side by side had their contexts compared in other ways.

    Args:
        similarities: (name of a log, how its contexts were compared; None: they were not).
    """
    names: dict[str, list[str]] = {}
    for name, similarity in similarities:
        if similarity is not None:
            names.setdefault(similarity, []).append(name)
    if len(names) < 2:
        return []
    which = "; ".join(f"{kind}: {', '.join(of_kind)}" for kind, of_kind in names.items())
    return [
        f"contexts were compared in different ways, so rocks may differ for that alone ({which}); "
        "give each log to `rocktok detect` with the same --similarity"
    ]


def _implied(names: tuple[str, ...]) -> str:
    options = {"window": "--window", "gamma": "--min-similarity"}
    given = " and ".join(options[name] for name in names)
    return (
        f"contexts are windows of tokens because of {given}, although contexts/ has hidden states; "
        "leave it out, or give --similarity hidden, to compare these"
    )


def _few(there: int, rows: int) -> str:
    return (
        f"contexts are windows of tokens, as contexts/ has hidden states for {there:,} of {rows:,} "
        "positions, fewer than half; --similarity hidden judges only those"
    )
