"""A list of rocks that is compared with others: of a log, of a file, or a published one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

#: What a list of a published file is ranked by: the order of its rows.
LISTED = "listed"

#: Prompts that must hold a type for its hardness to count.
LEAST_PROMPTS = 3

#: What `compare` gives of each log, where the log's own identity has it.
_ABOUT = (
    "path", "run_id", "exactness", "trained_loss", "vocab", "vocab_size", "shards",
    "skipped_shards", "versions", "table", "pre", "post",
)  # fmt: skip


@dataclass(frozen=True)
class Ranking:
    """The rocks of one log, best first.

    Attributes:
        name: of the log or file.
        vocab: what identifies its vocabulary; None where it has none.
        tokens: (token id, text, score).
        ranked_by: "score" where rocks were tested, else "context_rock_score"; without context,
            where they are the types with the largest loss, "rock_score"; of a published file
            "listed".
        about: what identifies the log, and table and steps.
        notes: what a reader of the list must know.
        whole: the list before it was cut to --top-k; empty: `tokens` is all.
        types: number of types that the list was drawn from; None: not known.
        controls: one for each token of `whole`, by the published files; empty: none.
        hardness: of every type that 3 prompts or more hold; None: not known of all.
    """

    name: str
    vocab: str | None
    tokens: tuple[tuple[int, str, float], ...]
    ranked_by: str
    about: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    whole: tuple[tuple[int, str, float], ...] = ()
    types: int | None = None
    controls: tuple[int | None, ...] = ()
    hardness: Mapping[int, float] | None = None

    @property
    def ranked(self) -> tuple[tuple[int, str, float], ...]:
        """All that is ranked, best first."""
        return self.whole or self.tokens

    def cut(self, most: int | None) -> Ranking:
        """The first tokens alone; `ranked` stays as it is."""
        return replace(self, tokens=self.tokens[:most], whole=self.ranked)

    @classmethod
    def of_list(cls, name: str, rows: Sequence[Mapping[str, Any]]) -> Ranking:
        """From what `load_rock_list` reads: the order of the file is the ranking."""
        scores = [row["rock_freq_mean"] for row in rows]
        known = [score for score in scores if score is not None]
        notes: tuple[str, ...] = ()
        if known != sorted(known, reverse=True):
            notes = ("its rows are not sorted by rock_freq_mean; they are ranked as they stand",)
        return cls(
            name,
            None,
            tuple(
                (row["rock_id"], row["rock_token"] or f"<id {row['rock_id']}>", score or 0.0)
                for row, score in zip(rows, scores, strict=True)
            ),
            LISTED,
            {"path": name},
            notes,
            controls=tuple(row["ctrl_id"] for row in rows),
        )

    @classmethod
    def of(cls, name: str, content: Mapping[str, Any]) -> Ranking:
        """From what `rocktok detect` writes as JSON."""
        log, params = content["log"], content.get("params", {})
        is_tested = params.get("rule") == "tested"
        by = "score" if is_tested else "context_rock_score"
        rows = [r for r in content["tokens"] if r["is_rock"]]
        if log["pre"] is None:
            by, rows = "rock_score", rows or content["tokens"]
        rocks = sorted(rows, key=lambda r: int(r["rank"]))
        tokens = tuple((int(r["token_id"]), str(r["token"]), float(r[by])) for r in rocks)
        about = {key: log.get(key) for key in _ABOUT}
        compared = content.get("thresholds", {}).get("gamma") is not None
        about["similarity"] = params.get("similarity") if compared else None
        return cls(
            name,
            log.get("vocab"),
            tokens,
            by,
            about,
            types=content.get("totals", {}).get("tests") or None,
            hardness=_hardness(content) if is_tested else None,
        )


def _hardness(content: Mapping[str, Any]) -> dict[int, float] | None:
    """Hardness by type, where the file holds every type: of some alone it would be of the best."""
    if not content["params"].get("all_types"):
        return None
    return {
        int(row["token_id"]): float(row["hardness"])
        for row in content["tokens"]
        if row.get("hardness") is not None and (row.get("prompts_held") or 0) >= LEAST_PROMPTS
    }
