"""`stability` as tables for people, CSV or Parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rocktok.analyses.stability.result import RankedType, StabilityResult
from rocktok.stats.intervals import WHY_NONE
from rocktok.tables.encode import Form, encode_table, kinds_of
from rocktok.tables.names import left_out
from rocktok.tables.text import Field, count, counted, number, percent, render_table, token

Row = Mapping[str, Any]

_TOKENS = (
    Field("rank"),
    Field("token", text=True),
    Field("freq"),
    Field("loss"),
    Field("cover"),
    Field("incl."),
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


def render(result: StabilityResult) -> str:
    """Answer, cutoffs, scores, rankings, tokens, provenance."""
    log, best = result.log, result.recommended
    k = best["k"] if best is not None else result.cutoffs[-1]["k"]
    sizes = [row["prompts"] for row in result.cutoffs[0]["nested"]]
    fields = (Field("K"), Field("cover"), Field("halves"), Field("least"), Field("rank r"),
              *(Field(f"n={size}") for size in sizes))  # fmt: skip
    parts = [
        _recommended(best, result.cutoffs, log["types"]),
        _how_sure(result.cutoffs, k, result.params["repeats"]),
        "",
        "Jaccard of the first K: disjoint halves (too low), nested subsamples (too high)",
        render_table(fields, map(_cutoff, result.cutoffs)),
        f"Scores, the first {k} by each: Jaccard of two halves, and with n·mean",
        f"min: the smaller of two {_two_logs(log['with'])}",
        render_table(_SCORES, map(_score, result.scores)),
        *_rankings(result.rankings),
        f"Tokens: share of replicates among the first {k}, and 95% of their ranks",
        render_table(_TOKENS, map(_token, result.tokens)).rstrip("\n"),
    ]
    if any(row["few_prompts_carry_it"] for row in result.tokens):
        parts.append(WHY_NONE)
    left = log["types"] - len(result.tokens)
    if left > 0:
        parts.append(f"… {count(left)} more (--top N)")
    parts += [
        "",
        f"{log['table']}/, step {log['step']}: {counted(log['prompts'], 'prompt')}, "
        f"{counted(log['positions'], 'position')}; {log['passes']} passes",
        "one log is one training run",
        *_beyond(result.cutoffs, log["types"]),
        *left_out(log),
        log["path"],
    ]
    return "\n".join(parts) + "\n"


def _recommended(best: Row | None, cutoffs: Sequence[Row], types: int) -> str:
    if best is not None:
        return (
            f"The first {counted(best['k'], 'type')} by Rock Score would be picked again: halves "
            f"of the prompts agree by {_two(best['jaccard'])} (Jaccard)."
        )
    able = [row for row in cutoffs if row["eligible"]]
    if not able:
        return f"No cutoff can be recommended: every K is above a third of the {types:,} types."
    grid = ", ".join(str(row["k"]) for row in able)
    return f"No cutoff can be recommended: halves of the prompts do not agree at K = {grid}."


def _how_sure(cutoffs: Sequence[Row], k: int, repeats: int) -> str:
    """Of one K: how far halves and subsamples agree."""
    row = next(row for row in cutoffs if row["k"] == k)
    halves, largest = row["halves"], row["nested"][-1]
    if halves["jaccard"] is None:
        agree = "no two halves"
    else:
        agree = (
            f"{_two(halves['jaccard'])} between halves (least {_two(halves['jaccard_least'])} of "
            f"{repeats})"
        )
    return (
        f"At K = {k}, {percent(row['coverage'])} of the loss: {agree}, "
        f"{_two(largest['jaccard'])} for {counted(largest['prompts'], 'prompt')}; ranked by "
        f"frequency alone, halves agree by {_two(row['by_frequency'])}."
    )


def _beyond(cutoffs: Sequence[Row], types: int) -> list[str]:
    """Which K could not be recommended."""
    beyond = ", ".join(str(row["k"]) for row in cutoffs if not row["eligible"])
    if not beyond:
        return []
    return [f"never recommended, above a third of the {counted(types, 'type')}: K = {beyond}"]


def _two_logs(other: Row | None) -> str:
    if other is None:
        return "halves of the prompts; --with LOG2 takes a second log"
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


def _rankings(found: Row | None) -> list[str]:
    if found is None:
        return []
    halves = found["rocks_of_halves"]
    lines = [f"Rankings of detect, Jaccard of the first {halves['k']}"]
    fields = (Field("", text=True), Field("", text=True), Field("Jaccard"))
    cells = ((_RANKINGS[row["first"]], _RANKINGS[row["second"]], _two(row["jaccard"]))
             for row in found["pairs"])  # fmt: skip
    lines.append(render_table(fields, cells).rstrip("\n"))
    sides = f"{halves['first']} and {halves['second']} rocks"
    lines.append(f"detect on each half of the prompts: {sides}, Jaccard {_two(halves['jaccard'])}")
    return [*lines, ""]


def _token(row: Row) -> Sequence[str]:
    low, high = row["rank_low"], row["rank_high"]
    return (
        str(row["rank"]),
        token(row["token"]),
        count(row["frequency"]),
        number(row["mean_loss"]),
        percent(row["coverage"]),
        _two(row["inclusion"]),
        "–" if low is None else f"{low} to {high}",
    )


def encode(result: StabilityResult, form: Form) -> bytes:
    """The tokens, with all columns."""
    kinds = kinds_of(RankedType, result.tokens[0])
    return encode_table(result.tokens, kinds, form, result.about("tokens"))
