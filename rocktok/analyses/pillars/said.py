"""Notes on the effects of arms: what a reader of the numbers must know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rocktok.analyses.pillars.asymmetry import BASELINES
from rocktok.analyses.pillars.result import GlobalRow, PillarsParams, SourceRow


def notes_of(
    sources: Sequence[SourceRow],
    overall: Sequence[GlobalRow],
    params: PillarsParams,
    *,
    unknown: Sequence[str],
    identical: Sequence[str],
) -> Iterator[str]:
    """One sentence each.

    Args:
        sources: benchmarks that were read.
        overall: groups of arms.
        params: options.
        unknown: benchmarks whose files do not say whether an arm ever acted.
        identical: benchmarks with several baselines that are all the same.
    """
    for source in sources:
        name = source["benchmark"]
        if name in unknown:
            yield (
                f"{name}: the folder does not say whether a token was ever generated; arms that "
                "never acted count as arms without an effect"
            )
        elif source["never_fired"]:
            count = source["never_fired"]
            arms = "1 arm" if count == 1 else f"{count:,} arms"
            yield f"{name}: {arms} never acted, as the token never occurs; left out"
        if name in identical:
            yield (
                f"{name}: its baselines are identical, as greedy decoding makes them; they count "
                "as one"
            )
        elif source["shared_draws"] and len(source["baseline_accuracies"]) > 1:
            yield (
                f"{name}: arms share the random numbers of the first baseline, so the sign test "
                "compares them with that one alone"
            )
    for source in sources:
        if source["truncated"]:
            yield (
                f"{source['benchmark']}: {100 * source['truncated']:.1f}% of the baseline's texts "
                "were cut at the limit of tokens, so that effects on their length count as effects "
                "on the accuracy; raise --max-new-tokens of `rocktok intervene`"
            )
    few = sorted({row["baselines"] for row in overall if row["baselines"] < BASELINES})
    if few and not all(source["shared_draws"] for source in sources):
        yield (
            f"the sign test compares all arms with {few[0]} shared "
            f"{'baseline' if few[0] == 1 else 'baselines'}; {BASELINES} or more are needed for it "
            "to tell an effect from a lucky baseline"
        )
    if params.p_value == "percentile":
        yield (
            "p-values are 2·min of percentile shares: they may exceed 1, and are not centred at "
            "the null hypothesis; corrected ones are cut at 1"
        )
