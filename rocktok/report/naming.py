"""The rocks of a report in words: their number and the rule that chose them."""

from __future__ import annotations

from typing import TypedDict

from rocktok.analyses.detect.result import DetectResult
from rocktok.tables.text import counted

#: Begins the name of rocks where there are none.
NO_ROCKS = "no tested rock tokens"


class RockNames(TypedDict):
    """`rocks`: for a legend or an axis. `rule`: a sentence for a caption, without their number."""

    rocks: str
    rule: str


def rock_names(detected: DetectResult) -> RockNames:
    """Names for the rocks of a result of `detect`."""
    params, rocks = detected.params, len(detected.rocks)
    if params["rule"] == "tested":
        fdr = f"FDR {100 * params['fdr']:g}%"
        if not rocks:
            return {
                "rocks": f"{NO_ROCKS} ({fdr})",
                "rule": f"No type is a rock: hard in recurring contexts beyond chance, {fdr}.",
            }
        return {
            "rocks": f"{counted(rocks, 'tested rock token')} ({fdr})",
            "rule": f"Rocks are tested: hard in recurring contexts beyond chance, {fdr}.",
        }
    score = "Rock Score" if detected.log["pre"] is None else "context Rock Score"
    if params["tau_r"] is not None:
        least = f"{params['tau_r']:g} nats or more"
        return {
            "rocks": f"{counted(rocks, 'type')} with a {score} of {least}",
            "rule": f"Rocks are types with a {score} of {least}, untested.",
        }
    return {
        "rocks": f"first {rocks:,} by {score}",
        "rule": f"Rocks are the first types by {score}, untested.",
    }
