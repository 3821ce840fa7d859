"""`stability` as tables for people, CSV or Parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rocktok.analyses.stability.result import StabilityResult
from rocktok.tables.encode import Form, encode_rows
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

#: Types in the table; the other forms have all.
_SHOWN = 30

_RANKINGS = {
    "rock_score": "R",
    "persistent_loss": "mean·persistent",
    "context_rock_score": "R_ctx",
    "retained_loss": "retained loss",
}


def render(result: StabilityResult) -> str:
    """Summary, cutoffs, tokens, scores, rankings."""
    log, best = result.log, result.recommended
    k = best["k"] if best is not None else result.cutoffs[-1]["k"]
    sizes = [row["prompts"] for row in result.cutoffs[0]["nested"]]
    fields = (Field("K"), Field("cover"), Field("halves"), Field("least"), Field("rank r"),
              *(Field(f"n={size}") for size in sizes))  # fmt: skip
    parts = [
        f"Rock Scores in {log['table']}/, step {log['step']} ({log['path']})",
        f"{counted(log['prompts'], 'prompt')}, {counted(log['positions'], 'position')}; "
        f"{log['passes']} passes; one log is one training run",
        _recommended(best, result.cutoffs),
        *_beyond(result.cutoffs, log["types"]),
        "",
        "Jaccard of the first K: disjoint halves (too low), nested subsamples (too high)",
        render_table(fields, map(_cutoff, result.cutoffs)),
        f"Scores, the first {k} by each: Jaccard of two halves, and with n·mean",
        f"min: the smaller of two {_two_logs(log['with'])}",
        render_table(_SCORES, map(_score, result.scores)),
        *_rankings(result.rankings),
        f"Tokens: share of replicates among the first {k}, and 95% of their ranks",
        render_table(_TOKENS, map(_token, result.tokens[:_SHOWN])).rstrip("\n"),
    ]
    if len(result.tokens) > _SHOWN:
        parts.append(f"{count(len(result.tokens) - _SHOWN)} more: --format json")
    return "\n".join(parts) + "\n"


def _recommended(best: Row | None, cutoffs: Sequence[Row]) -> str:
    if best is not None:
        agreed = f"halves agree by {best['jaccard']:.2f}"
        return f"recommended K: {best['k']} ({agreed}), {percent(best['coverage'])} of the loss"
    able = ", ".join(str(row["k"]) for row in cutoffs if row["eligible"])
    if not able:
        return "recommended K: none; every K is above a third of the types"
    return f"recommended K: none; halves of the prompts do not agree at {able}"


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
    about = result.about("tokens")
    integers = {"rank", "token_id", "frequency", "k", "rank_low", "rank_high"}
    return encode_rows(result.tokens, list(result.tokens[0]), integers, form, about)
