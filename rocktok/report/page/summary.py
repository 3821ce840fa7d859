"""A report in plain words: are there rocks, which, where, do they learn, what do they cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rocktok.analyses.attribute.table import verdict
from rocktok.analyses.detect.table import opening
from rocktok.analyses.stability.result import StabilityResult
from rocktok.analyses.stability.table import rock_answer
from rocktok.analyses.stagnation.table import answer
from rocktok.report.clusters import OTHER
from rocktok.report.page.page_data import Fact, Point
from rocktok.report.result import NO_NULL, PERSISTENCE, ReportResult
from rocktok.stats.group_names import LABELS, ROCKS
from rocktok.tables.text import count, counted, number, percent


def summary(result: ReportResult) -> list[Point]:
    """Sentences in the order of the questions, each with the numbers that carry it."""
    parts = (_are_there, _which, _where, _learn, _cost, _stable)
    return [point for part in parts if (point := part(result)) is not None]


def _fact(label: str, value: str) -> Fact:
    return {"label": label, "value": value}


def _between(row: Mapping[str, Any], name: str, of: Callable[[float], str] = percent) -> str:
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return "" if low is None or high is None else f" ({of(low)} to {of(high)})"


def _are_there(result: ReportResult) -> Point:
    detected, log = result.detect, result.log
    rocks = detected.rocks
    share = sum(row["loss_share"] or 0.0 for row in rocks)
    positions = sum(row["frequency"] for row in rocks) / detected.totals["positions"]
    numbers = [
        _fact("rock types", count(len(rocks))),
        _fact("of the positions", percent(positions)),
        _fact("of the loss", percent(share)),
    ]
    if not rocks:
        return {"text": _none(result), "numbers": numbers[:1]}
    if log["pre"] is None:
        text = (
            f"The {counted(len(rocks), 'token type')} with the largest Rock Scores, of "
            f"{count(len(result.types['token_id']))}, stand at {percent(positions)} of the "
            f"positions of step {log['post']} and carry {percent(share)} of its loss. Whether they "
            f"persist cannot be told: {log_reason(result)}."
        )
        return {"text": text, "numbers": numbers}
    if detected.params["rule"] == "tested":
        found = " ".join(map(_sentence, opening(detected)))
        return {"text": found + _singled_out(rocks), "numbers": numbers}
    text = (
        f"{_how_many(result)} {_stay_hard(result, len(rocks) == 1)} in recurring contexts. "
        f"{_those(result)} {percent(positions)} of the "
        f"positions and {'carries' if len(rocks) == 1 else 'carry'} {percent(share)} of the loss."
    )
    permuted = detected.permuted
    if permuted is not None:
        text += _against_chance(permuted) + _singled_out(rocks)
        reach = permuted["reach_lowest"]
        numbers.append(_fact("reach their scores if labels are permuted", count(reach)))
    return {"text": text, "numbers": numbers}


def _none(result: ReportResult) -> str:
    log = result.log
    types = count(len(result.types["token_id"]))
    if not result.detect.totals["loss"]:
        return f"No position of step {log['post']} has any loss: there is nothing to find."
    if log["pre"] is None:
        return f"No rocks can be named, as persistence cannot be told: {log_reason(result)}."
    no_null = next((row for row in result.missing if row["what"] == NO_NULL), None)
    if no_null is not None:
        return f"Whether any token type is a rock cannot be told: {no_null['why']}."
    if result.detect.params["rule"] == "tested":
        return " ".join(map(_sentence, opening(result.detect)))
    return (
        f"No token type is a rock: of {types}, none {_stay_hard(result, True)} in contexts that "
        "recur more than chance has it."
    )


def _how_many(result: ReportResult) -> str:
    """The list may be cut at --top-k: then there are more than it holds."""
    params, rocks = result.detect.params, len(result.rocks)
    cut = params["tau_r"] is None and rocks == params["top_k"]
    types = counted(len(result.types["token_id"]), "token type")
    return f"{count(rocks)} or more of {types}" if cut else f"{count(rocks)} of {types}"


def _those(result: ReportResult) -> str:
    params, rocks = result.detect.params, len(result.rocks)
    if params["tau_r"] is None and rocks == params["top_k"]:
        return f"The first {count(rocks)} by context Rock Score stand at"
    return "It stands at" if rocks == 1 else "They stand at"


def _stay_hard(result: ReportResult, one: bool) -> str:
    log = result.log
    if result.detect.params["persistence"] == "recalcitrant":
        are = "is" if one else "are"
        return f"{are} hard at step {log['pre']} and hardly better at step {log['post']}"
    return f"{'stays' if one else 'stay'} hard from step {log['pre']} to {log['post']}"


def _against_chance(permuted: Mapping[str, Any]) -> str:
    """By types that reach the lowest score listed: the length of a list is capped either way."""
    real, drawn = permuted["rocks"], permuted["reach_lowest"]
    text = (
        " Were it drawn by lot which occurrences of a type are hard, "
        f"{counted(drawn, 'type')} would reach the lowest of their scores"
    )
    if drawn >= 0.8 * real:
        return f"{text}: the list names tokens that are hard and recur, hardly contexts that are."
    if drawn <= 0.2 * real:
        return f"{text}: the loss singles contexts out."
    return f"{text}: in part the list names tokens that are hard and recur, whatever the context."


def _singled_out(rocks: Sequence[Mapping[str, Any]]) -> str:
    """With lifts, and else nothing."""
    if not any("singled_out" in row for row in rocks):
        return ""
    answers = [row.get("singled_out") for row in rocks]
    yes, no, open_ = (sum(answer is value for answer in answers) for value in (True, False, None))
    return (
        f" Taken one by one, the loss singles out the contexts of {count(yes)} of them, not those "
        f"of {count(no)}; for {count(open_)} it cannot be told."
    )


def log_reason(result: ReportResult) -> str:
    """Why there is no context."""
    why = next((row["why"] for row in result.missing if row["what"] == PERSISTENCE), None)
    return why or str(result.detect.log.get("no_context"))


def _which(result: ReportResult) -> Point | None:
    rocks = result.detect.rocks
    if not rocks:
        return None
    first = ", ".join(repr(row["token"]) for row in rocks[:6])
    by: dict[str, float] = {}
    for row in rocks:
        name = result.clusters[row["token_id"]]
        by[name] = by.get(name, 0.0) + (row["loss_share"] or 0.0)
    top = sorted(by, key=lambda name: -by[name])[:2]
    text = f"The first are {first}." if len(rocks) > 1 else f"It is {first}."
    numbers: list[Fact] = []
    if any(by.values()) and top != [OTHER.name]:
        total = sum(by.values())
        text += " By the look of their text, most of the rocks' loss lies on " + (
            " and ".join(top) + "."
        )
        numbers = [_fact(f"of the rocks' loss: {name}", percent(by[name] / total)) for name in top]
    low = sum("low_power" in row["flags"] for row in rocks)
    if low:
        few = "have" if low > 1 else "has"
        text += f" {count(low)} of them {few} too few hard occurrences to be sure of (low_power)."
    return {"text": text, "numbers": numbers}


def _where(result: ReportResult) -> Point | None:
    density = result.detect.density
    by_type, retained = density["type"]["median"], density["retained"]["median"]
    if by_type is None or not result.detect.rocks:
        return None
    text = f"In the median sequence {percent(by_type)} of the positions are of a rock type"
    numbers = [_fact("of a rock type, median sequence", percent(by_type))]
    if retained is not None:
        text += f", and {percent(retained)} are occurrences retained in recurring contexts"
        numbers.append(_fact("retained, median sequence", percent(retained)))
    rows = [
        row for row in result.positions if row["group"] == ROCKS.name and row["positions"] >= 20
    ]
    if rows:
        worst = max(rows, key=lambda row: row["loss_post"] or 0.0)
        text += (
            f". Rocks are hardest between {percent(worst['low'], 0)} and "
            f"{percent(worst['high'], 0)} of a completion ({number(worst['loss_post'])} nats)"
        )
    return {"text": f"{text}.", "numbers": numbers}


def _learn(result: ReportResult) -> Point | None:
    learning = result.stagnation
    if learning is None:
        return None
    change, compared = answer(learning)
    no_rocks, group = learning.log["no_rocks"], learning.log["first"]
    said = "" if no_rocks is None else f"{no_rocks[0].upper()}{no_rocks[1:]}. "
    first = next(row for row in learning.groups if row["group"] == group)
    if "skipped" in first or first["stagnation"] is None:
        return {"text": said + change, "numbers": []}
    text = f"{said}{change} {compared}".rstrip()
    if learning.log["table"] == "rollout":
        text += " These are each step's own rollouts, so learning and drift of the text are mixed."
    return {
        "text": text,
        "numbers": [
            _fact(f"of the loss left, {LABELS[group]}", percent(first["stagnation"], 0)),
            _fact("of the loss left, all positions", percent(learning.corpus["stagnation"], 0)),
        ],
    }


def _cost(result: ReportResult) -> Point | None:
    gradient = result.attribute
    if gradient is None or not result.detect.rocks:
        return None
    step = gradient.log["step"]
    rows = [row for row in gradient.groups if row["group"] == ROCKS.name and row["step"] == step]
    if not rows or not rows[0]["types"]:
        return None
    row = rows[0]
    text = (
        f"Rocks take {percent(row['grad_share'])}{_between(row, 'grad_share')} of the summed "
        f"gradient norms at step {step}, with {percent(row['loss_share'])} of the loss"
    )
    text = " ".join((f"{text}.", *verdict(gradient.adjusted)))
    numbers = [
        _fact("of the gradient norm", percent(row["grad_share"])),
        _fact("gradient share over position share", number(row["concentration"])),
    ]
    return {"text": text, "numbers": numbers}


def _stable(result: ReportResult) -> Point | None:
    found = result.stability
    if found is None:
        return None
    if found.rocks is None:
        return {"text": _first_by_score(found), "numbers": []}
    numbers = []
    if found.rocks["rocks"]:
        share = found.rocks["replication"]["share"]
        numbers = [
            _fact("rocks that half-samples name again", count(found.rocks["stable"])),
            _fact("of a half's rocks replicate in the other", percent(share, 0)),
        ]
    return {"text": " ".join(_sentence(line) for line in rock_answer(found)), "numbers": numbers}


def _sentence(line: str) -> str:
    return f"{line[0].upper()}{line[1:].rstrip('.')}."


def _first_by_score(found: StabilityResult) -> str:
    best, cutoffs = found.recommended, found.cutoffs
    if best is None:
        return (
            "Two halves of the prompts do not agree on the first types by Rock Score at any "
            "cutoff: more prompts would tell."
        )
    frequent = next(row["by_frequency"] for row in cutoffs if row["k"] == best["k"])
    return (
        f"Two halves of the prompts agree on the first {best['k']} types by Rock Score "
        f"(Jaccard {number(best['jaccard'], 2)}; ranked by frequency alone {number(frequent, 2)}), "
        f"which carry {percent(best['coverage'])} of the loss; beyond that, another sample would "
        "pick others."
    )
