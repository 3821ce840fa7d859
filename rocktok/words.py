"""Words that messages and tables share."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """A count and its noun: 1 shard, 2 shards, 3 passes."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{ending}"
