"""`stability` as tables for people, CSV or Parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rocktok.analyses.result import MOST_TYPES
from rocktok.analyses.stability.result import OFTEN, STABLE, RankedType, StabilityResult
from rocktok.stats.intervals import WHY_NONE
from rocktok.tables.encode import Form, encode_table, kinds_of
from rocktok.tables.names import contexts_of_rocks, left_out
from rocktok.tables.terminal import View
from rocktok.tables.text import Field, count, counted, number, percent, render_table, token

Row = Mapping[str, Any]

_ROCKS = (
    Field("token", text=True),
    Field("freq"),
    Field("loss"),
    Field("incl."),
    Field("testable"),
    Field("", text=True),
)
_TOKENS = (
    Field("token", text=True),
    Field("rank"),
    Field("freq"),
    Field("loss"),
    Field("cover"),
    Field("first K"),
    Field("ranks"),
)
_SCORES = (
    Field("score", text=True),
    Field("halves"),
    Field("with n·mean"),
    Field("cover"),
    Field("median n"),
)

_RANKINGS = {
    "rock_score": "R",
    "persistent_loss": "mean·persistent",
    "context_rock_score": "R_ctx",
    "retained_loss": "retained loss",
}


def opening(result: StabilityResult) -> list[str]:
    """The share of rocks that half-samples of the prompts name again."""
    return rock_answer(result)


def _cutoff_of(result: StabilityResult) -> int:
    """The recommended K, or the largest."""
    best = result.recommended
    return best["k"] if best is not None else result.cutoffs[-1]["k"]


def render(result: StabilityResult, view: View | None = None) -> str:
    """Answer, rocks, cutoffs, scores, rankings, tokens, provenance."""
    view = view or View.plain()
    log, k = result.log, _cutoff_of(result)
    everything = result.params["all_types"]
    sizes = [row["prompts"] for row in result.cutoffs[0]["nested"]]
    fields = (Field("K"), Field("cover"), Field("halves"), Field("min"), Field("rank r"),
              *(Field(f"n={size}") for size in sizes))  # fmt: skip
    most = log["types"] if everything else result.params["top"] or MOST_TYPES
    ranked = [row for row in result.tokens if row["rank"] <= most]
    shown = view.first(ranked, result.params["top"], everything=everything)
    parts = [
        *view.answer(opening(result)),
        "",
        *_rocks(result, view),
        view.prose(_recommended(result.recommended, result.cutoffs, log["types"])),
        view.prose(_how_sure(result.cutoffs, k, result.params["repeats"])),
        view.heading(
            "Jaccard of the first K by Rock Score: disjoint halves (biased low), nested "
            "subsamples (biased high)"
        ),
        render_table(fields, map(_cutoff, result.cutoffs), view),
        view.heading(f"Scores, the first {k} by each: Jaccard of two halves, and with n·mean"),
        view.prose(f"min: the smaller of two {_two_logs(log['with'])}"),
        render_table(_SCORES, map(_score, result.scores), view),
        *_rankings(result.rankings, k, view),
        view.heading(
            f"By Rock Score: share of replicates with rank ≤ {k}, and 95% interval of ranks"
        ),
        render_table(_TOKENS, map(_token, shown), view).rstrip("\n"),
        *view.more(log["types"] - len(shown), "--all"),
        "",
    ]
    if any(row["few_prompts_carry_it"] for row in shown):
        parts.insert(-1, view.aside(WHY_NONE))
    provenance = [
        f"{log['table']}/, step {log['step']}: {counted(log['prompts'], 'prompt')}, "
        f"{counted(log['positions'], 'position')}; {counted(log['passes'], 'pass')}",
        *contexts_of_rocks(log),
        "one log is one training run",
        *_beyond(result.cutoffs, log["types"]),
        *left_out(log),
        log["path"],
    ]
    parts += map(view.aside, provenance)
    return "\n".join(parts) + "\n"


def rock_answer(result: StabilityResult) -> list[str]:
    """Stability of the tested rocks, in one line or two."""
    rocks = result.rocks
    if rocks is None:
        return [f"The stability of rocks is unknown: {result.no_rocks}."]
    if not rocks["tests"]:
        return ["No rock tokens: no type occurs in 5 prompts or more, so none is tested."]
    held = "hashed groups of prompts" if rocks["grouped"] else "prompts"
    each = f"{count(rocks['prompts'])} {held} each"
    other = "other type" if rocks["rocks"] else "type"
    others = (
        f"at least {percent(OFTEN, 0)} of them name {counted(rocks['others'], other)}"
        if rocks["others"]
        else f"no {other} is in {percent(OFTEN, 0)} of them"
    )
    names = f"A half-sample names {number(rocks['mean_rocks'])} rocks on average; {others}"
    if not rocks["rocks"]:
        return [
            f"No rock tokens: none of {count(rocks['tests'])} types is a rock on all prompts.",
            f"{names} ({count(rocks['samples'])} half-samples, {each}).",
        ]
    share = rocks["replication"]["share"]
    again = "" if share is None else (
        f"; {percent(share, 0)} of the rocks of one half replicate in the other half"
    )  # fmt: skip
    one, rare = rocks["rocks"] == 1, rocks["rare"]
    too_rare = "" if not rare else (
        f" ({count(rare)} of the others {'is' if rare == 1 else 'are'} too rare to be tested in "
        "that many)"
    )  # fmt: skip
    return [
        f"{count(rocks['stable'])} of {counted(rocks['rocks'], 'rock token')} "
        f"{'is' if one else 'are'} named again in at least {percent(STABLE, 0)} of "
        f"{count(rocks['samples'])} half-samples of the prompts{too_rare}{again}.",
        f"{names} ({each}).",
    ]


def _rocks(result: StabilityResult, view: View) -> list[str]:
    """Rocks, and other types that half-samples often name, by the share of half-samples."""
    rows = [
        row
        for row in result.tokens
        if row["is_rock"] or (row["inclusion"] is not None and row["inclusion"] >= OFTEN)
    ]
    if not rows:
        return []
    rows.sort(key=lambda row: (-(row["inclusion"] or 0.0), row["rank"]))
    params = result.params
    shown = view.first(rows, params["top"], everything=params["all_types"])
    lines = [
        view.heading(
            "Tested rocks: share of the half-samples that name them, and that can test them"
        ),
        render_table(_ROCKS, map(_rock, shown), view).rstrip("\n"),
        *view.more(len(rows) - len(shown), "--all"),
    ]
    if not all(row["is_rock"] for row in shown):
        lines.append(view.aside("+  not a rock on all prompts"))
    return [*lines, ""]


def _rock(row: Row) -> Sequence[str]:
    return (
        token(row["token"]),
        count(row["frequency"]),
        number(row["mean_loss"]),
        _two(row["inclusion"]),
        _two(row["testable"]),
        "" if row["is_rock"] else "+",
    )


def _recommended(best: Row | None, cutoffs: Sequence[Row], types: int) -> str:
    if best is not None:
        return (
            f"The first {counted(best['k'], 'type')} by Rock Score are stable: Jaccard "
            f"{_two(best['jaccard'])} between halves of the prompts."
        )
    able = [row for row in cutoffs if row["eligible"]]
    if not able:
        return (
            "No cutoff of the Rock Score can be recommended: every K is above a third of the "
            f"{types:,} types."
        )
    grid = ", ".join(str(row["k"]) for row in able)
    return (
        "No cutoff of the Rock Score can be recommended: halves of the prompts do not agree at K = "
        f"{grid}."
    )


def _how_sure(cutoffs: Sequence[Row], k: int, repeats: int) -> str:
    """Of one K: how far halves and subsamples agree."""
    row = next(row for row in cutoffs if row["k"] == k)
    halves, largest = row["halves"], row["nested"][-1]
    if halves["jaccard"] is None:
        agree = "no two halves"
    else:
        agree = (
            f"{_two(halves['jaccard'])} between halves (minimum of {repeats}: "
            f"{_two(halves['jaccard_least'])})"
        )
    return (
        f"At K = {k}, {percent(row['coverage'])} of the loss: Jaccard {agree}, "
        f"{_two(largest['jaccard'])} with {counted(largest['prompts'], 'prompt')}; ranked by "
        f"frequency only, {_two(row['by_frequency'])} between halves."
    )


def _beyond(cutoffs: Sequence[Row], types: int) -> list[str]:
    """Which K could not be recommended."""
    beyond = ", ".join(str(row["k"]) for row in cutoffs if not row["eligible"])
    if not beyond:
        return []
    return [f"never recommended, above a third of the {counted(types, 'type')}: K = {beyond}"]


def _two_logs(other: Row | None) -> str:
    if other is None:
        return "halves of the prompts; --with LOG2 reads a second log"
    return f"logs, this and {other['path']} ({other['table']}/, step {other['step']})"


def _two(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _cutoff(row: Row) -> Sequence[str]:
    halves = row["halves"]
    return (
        str(row["k"]),
        percent(row["coverage"]),
        *(_two(halves[name]) for name in ("jaccard", "jaccard_least", "spearman")),
        *(_two(nested["jaccard"]) for nested in row["nested"]),
    )


def _score(row: Row) -> Sequence[str]:
    return (
        row["score"],
        _two(row["jaccard_halves"]),
        _two(row["jaccard_with_rock_score"]),
        percent(row["coverage"]),
        number(row["median_frequency"]),
    )


def _rankings(pairs: Sequence[Row] | None, k: int, view: View) -> list[str]:
    if pairs is None:
        return []
    fields = (Field("", text=True), Field("", text=True), Field("Jaccard"))
    cells = ((_RANKINGS[row["first"]], _RANKINGS[row["second"]], _two(row["jaccard"]))
             for row in pairs)  # fmt: skip
    heading = view.heading(f"Rankings of detect, Jaccard of the first {k}")
    return [heading, render_table(fields, cells, view)]


def _token(row: Row) -> Sequence[str]:
    low, high = row["rank_low"], row["rank_high"]
    return (
        token(row["token"]),
        str(row["rank"]),
        count(row["frequency"]),
        number(row["mean_loss"]),
        percent(row["coverage"]),
        _two(row["in_first_k"]),
        "–" if low is None else f"{low} to {high}",
    )


def encode(result: StabilityResult, form: Form) -> bytes:
    """The tokens, with all columns."""
    kinds = kinds_of(RankedType, result.tokens[0])
    return encode_table(result.tokens, kinds, form, result.about("tokens"))
