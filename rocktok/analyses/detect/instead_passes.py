"""Which types' alternatives are read, and what a log lacks of them."""

from __future__ import annotations

from rocktok._types import Array
from rocktok.analyses.detect.instead import Alternatives, within
from rocktok.analyses.detect.persistence import Thresholds
from rocktok.analyses.detect.ranking import TypeTable
from rocktok.engine.source import Source
from rocktok.schema import MAX_VOCABULARY, TOP_K

#: Pairs of a type and another token that are summed at most: 24 bytes each.
MOST_PAIRS = 1 << 24

#: Tokens that both models' alternatives name at a position, as far as anyone records them.
_LISTED = 2 * TOP_K


def alternatives_of(
    source: Source, types: TypeTable, shown: Array, thresholds: Thresholds | None
) -> tuple[Alternatives | None, list[str]]:
    """What sums up the alternatives of some types (indices, best first), yet to be fed; and notes.

    None without persistence, where nothing is shown, and where the log has no alternatives.
    """
    if thresholds is None or types.persistent_T is None:
        return None, []
    shown = shown[types.persistent_T[shown] > 0]
    if len(shown) == 0:
        return None, []
    missing = source.lacks("alternatives")
    if missing is not None:
        return None, [f"what the teacher wrote instead is unknown: the log {missing}"]
    vocabulary = source.log.rules.vocab_size or MAX_VOCABULARY
    most = within(types.persistent_T[shown], vocabulary, _LISTED, MOST_PAIRS)
    notes = []
    if most < len(shown):
        notes.append(
            f"what the teacher wrote instead is given for the first {most:,} of {len(shown):,} "
            "types: sums of more do not fit into memory"
        )
    columns = set(source.log.columns(source.table))
    recorded = tuple(m for m in ("teacher", "student") if f"{m}_logprob" in columns)
    tokens = types.token_T[shown[:most]]
    return Alternatives(tokens, thresholds, recorded, compiled=source.large), notes


def alternatives_coverage(source: Source, alternatives: Alternatives) -> list[str]:
    """A note where some positions have no alternatives, of alternatives that have been read."""
    if alternatives.lacking == 0:
        return []
    return [
        f"{alternatives.lacking:,} of {alternatives.rows:,} positions have no alternatives at step "
        f"{source.post}: what the teacher wrote instead rests on the others"
    ]
