"""`stability` as tables for people, CSV or Parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rocktok.analyses.stability.result import RankedType, StabilityResult
from rocktok.tables.encode import Form, encode_table, kinds_of
from rocktok.tables.names import left_out
from rocktok.tables.terminal import View
from rocktok.tables.text import Field, count, counted, number, percent, render_table, token

Row = Mapping[str, Any]

_TOKENS = (
    Field("token", text=True),
    Field("rank"),
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


def opening(result: StabilityResult) -> list[str]:
    """How many types would be picked again, and how far samples agree on them."""
    return [
        _recommended(result.recommended, result.cutoffs, result.log["types"]),
        _how_sure(result.cutoffs, _cutoff_of(result), result.params["repeats"]),
    ]


def _cutoff_of(result: StabilityResult) -> int:
    """The recommended K, or the largest."""
    best = result.recommended
    return best["k"] if best is not None else result.cutoffs[-1]["k"]


def render(result: StabilityResult, view: View | None = None) -> str:
    """Answer, cutoffs, scores, rankings, tokens, provenance."""
    view = view or View.plain()
    log, k = result.log, _cutoff_of(result)
    top, everything = result.params["top"], result.params["all_types"]
    shown = view.first(result.tokens, top, everything=everything)
    sizes = [row["prompts"] for row in result.cutoffs[0]["nested"]]
    fields = (Field("K"), Field("cover"), Field("halves"), Field("least"), Field("rank r"),
              *(Field(f"n={size}") for size in sizes))  # fmt: skip
    parts = [
        *view.answer(opening(result)),
        "",
        view.heading(
            "Jaccard of the first K: disjoint halves (too low), nested subsamples (too high)"
        ),
        render_table(fields, map(_cutoff, result.cutoffs), view),
        view.heading(f"Scores, the first {k} by each: Jaccard of two halves, and with n·mean"),
        view.prose(f"min: the smaller of two {_two_logs(log['with'])}"),
        render_table(_SCORES, map(_score, result.scores), view),
        *_rankings(result.rankings, view),
        view.heading(f"Tokens: share of replicates among the first {k}, and 95% of their ranks"),
        render_table(_TOKENS, map(_token, shown), view).rstrip("\n"),
        *view.more(log["types"] - len(shown), "--all"),
        "",
    ]
    provenance = [
        f"{log['table']}/, step {log['step']}: {counted(log['prompts'], 'prompt')}, "
        f"{counted(log['positions'], 'position')}; {log['passes']} passes",
        "one log is one training run",
        *_beyond(result.cutoffs, log["types"]),
        *left_out(log),
        log["path"],
    ]
    parts += map(view.aside, provenance)
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


def _rankings(found: Row | None, view: View) -> list[str]:
    if found is None:
        return []
    halves = found["rocks_of_halves"]
    lines = [view.heading(f"Rankings of detect, Jaccard of the first {halves['k']}")]
    fields = (Field("", text=True), Field("", text=True), Field("Jaccard"))
    cells = ((_RANKINGS[row["first"]], _RANKINGS[row["second"]], _two(row["jaccard"]))
             for row in found["pairs"])  # fmt: skip
    lines.append(render_table(fields, cells, view).rstrip("\n"))
    sides = f"{halves['first']} and {halves['second']} rocks"
    jaccard = _two(halves["jaccard"])
    lines.append(view.prose(f"detect on each half of the prompts: {sides}, Jaccard {jaccard}"))
    return [*lines, ""]


def _token(row: Row) -> Sequence[str]:
    low, high = row["rank_low"], row["rank_high"]
    return (
        token(row["token"]),
        str(row["rank"]),
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
