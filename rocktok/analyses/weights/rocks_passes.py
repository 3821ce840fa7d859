"""The rocks of a `detect`, with what a budget of loss needs of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rocktok.analyses.detect.result import DetectResult
from rocktok.errors import LogError
from rocktok.inputs import load_detect, not_of_detect
from rocktok.weighting import Budget, outside_vocabulary

#: What `weights` takes as rocks: a result, or the path of its JSON.
RocksOrPath = DetectResult | str | os.PathLike[str]


@dataclass(frozen=True)
class Rocks:
    """Rocks in their order, and where they were found.

    Attributes:
        name: of the file, for messages.
        log: identity of the log, with table and steps. params: options of `detect`.
        token_ids: of the rocks. texts, loss_shares, frequencies: of these, one each.
        positions: of the log, in all.
    """

    name: str
    log: Mapping[str, Any]
    params: Mapping[str, Any]
    token_ids: tuple[int, ...]
    texts: tuple[str, ...]
    loss_shares: tuple[float, ...]
    frequencies: tuple[int, ...]
    positions: int

    @property
    def budget(self) -> Budget:
        """What the rocks carry of the loss and of the positions."""
        return Budget(sum(self.loss_shares), sum(self.frequencies) / self.positions)

    @property
    def steps(self) -> dict[str, int | None]:
        """Earlier and later step."""
        return {"pre": self.log["pre"], "post": self.log["post"]}

    def check_log(self, name: str, log: Mapping[str, Any]) -> None:
        """Raise `LogError` where a log (its identity) is known to be another one.

        `name`: of the log or file that has this identity.
        """
        if None not in (self.log["vocab"], log.get("vocab")) and log["vocab"] != self.log["vocab"]:
            raise LogError(
                f"{name}: its vocabulary differs from that of {self.name}, so ids have other "
                "texts; give what belongs to one log"
            )
        both = (self.log["run_id"], log.get("run_id"))
        key = "shards" if None in both else "run_id"
        if self.log[key] != log.get(key):
            raise LogError(
                f"{name}: is of another log than the rocks of {self.name}; give what belongs to "
                "one log"
            )


def rocks_of(found: RocksOrPath) -> Rocks:
    """The rocks of a result of `detect`.

    Raises `LogError` for a file that cannot be read or is none of `detect`'s, for one without
    rocks, and for ids outside its vocabulary.
    """
    if isinstance(found, DetectResult):
        name, content = found.log["path"], dict(found.to_dict())
    else:
        name, content = os.fspath(found), load_detect(found)
    try:
        rocks = _parsed(name, content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise not_of_detect(name) from error
    if not rocks.token_ids:
        raise LogError(
            f"{name}: holds no rocks, so there is nothing to weight, and no loss for other "
            "selections to match; run `rocktok detect` on more text, with a larger --fdr, or with "
            "--rule top-k"
        )
    outside = outside_vocabulary(rocks.token_ids, rocks.log["vocab_size"])
    if outside is not None:
        raise LogError(
            f"{name}: token id {outside} is outside its vocabulary of {rocks.log['vocab_size']} "
            "ids; write the file again with `rocktok detect`"
        )
    return rocks


def _parsed(name: str, content: Mapping[str, Any]) -> Rocks:
    """Raises for a content that `rocktok detect` would not have written."""
    rows = [row for row in content["tokens"] if row["is_rock"]]
    log = dict(content["log"])
    needed = ("vocab", "vocab_size", "run_id", "shards", "table", "pre", "post")
    if [key for key in needed if key not in log] or log["table"] not in ("fixed", "rollout"):
        raise ValueError("no identity of a log")
    ids = [row["token_id"] for row in rows]
    if any(type(v) is not int for v in ids) or len(set(ids)) < len(ids):
        raise ValueError("ids that are none, or twice")
    return Rocks(
        name,
        log,
        dict(content["params"]),
        tuple(ids),
        tuple(str(row["token"]) for row in rows),
        tuple(float(row["loss_share"] or 0.0) for row in rows),
        tuple(int(row["frequency"]) for row in rows),
        int(content["totals"]["positions"]) or 1,
    )
