"""`weights`: from rocks, with a log where a selection or a mask needs one."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from rocktok._types import Array
from rocktok._version import __version__
from rocktok.analyses.occurrences.file_passes import OccurrencesFile, open_occurrences
from rocktok.analyses.run import LogOrPath, Run, opened, public
from rocktok.analyses.weights.mask_passes import write_mask
from rocktok.analyses.weights.order_passes import Ordering, check_lens
from rocktok.analyses.weights.result import MaskCounts, WeightRow, WeightsResult
from rocktok.analyses.weights.retained_passes import (
    MOST_WINDOWS,
    RetainedPlaces,
    check_occurrences,
    other_options,
    retained_windows,
)
from rocktok.analyses.weights.rocks_passes import Rocks, RocksOrPath, rocks_of
from rocktok.analyses.weights.selecting import MIN_OCCURRENCES
from rocktok.engine.passes import Engine
from rocktok.engine.source import Source
from rocktok.errors import LogError, UsageError
from rocktok.files import open_output, refuse_output
from rocktok.weighting import (
    Budget,
    Provenance,
    VocabularyOf,
    Weights,
    WindowContexts,
    check_radius,
    check_select,
    check_weight,
)


@public
def weights(
    rocks: RocksOrPath,
    *,
    occurrences: str | os.PathLike[str] | None = None,
    log: LogOrPath | None = None,
    select: str = "rocks",
    weight: float = 0.0,
    radius: int = 0,
    mask: str | os.PathLike[str] | None = None,
    force: bool = False,
    seed: int = 0,
    engine: Engine | None = None,
) -> WeightsResult:
    """Weights of target tokens for training, of rocks or of types that carry as much of the loss.

    A selection takes types in its order until their share of the loss at the later step reaches
    that of the rocks; the type that reaches it is included.

    Args:
        rocks: a result of `detect`, or the path of its JSON.
        occurrences: file of `rocktok.occurrences` on the same log; a radius needs it.
        log: the log of the rocks; every selection but "rocks" needs it, and a mask does.
        select: "rocks"; or types by "frequency", "mean-loss", "grad-norm" (mean), "aligned"
            (gradient with that of the other tokens), "random", "control" (matched with rocks), or
            "lens:NAME" (share of occurrences in the top 10% of a lens).
        weight: of the selected tokens, 0 or more; 0 skips them.
        radius: positions on each side of retained occurrences of the selected types that get the
            weight, too.
        mask: Parquet file to write with the weight of every position of the fixed text.
        force: replace the mask if it exists.
        seed: random seed of "random" and "control".
        engine: runs the passes; default: threads on the available cores.

    Raises:
        UsageError: an option is out of range, lacks another, or the mask exists.
        LogError: a file cannot be read, is of another log, or lacks what was asked for.
    """
    check_weight(weight)
    check_radius(radius)
    check_select(select)
    check_lens(select)
    _check_given(occurrences, log, select, radius, mask)
    if mask is not None:
        refuse_output(mask, force=force)
    found = rocks_of(rocks)
    if mask is not None and found.log["table"] != "fixed":
        raise LogError(
            f"{found.name}: its rocks are of {found.log['table']}/, whose text is not generated "
            "again; a mask is for fixed text: leave it out, or detect on --table fixed"
        )
    with ExitStack() as stack:
        file = None
        if occurrences is not None:
            file = stack.enter_context(open_occurrences(occurrences))
            check_occurrences(file, found)
        made = _Making(found, file, None if log is None else _Text.of(log, found, engine, seed))
        result = made.selected(select, weight, radius, seed, masked=mask is not None)
        if mask is None:
            return result
        output = stack.enter_context(open_output(mask, force=force))
        return made.with_mask(result, output)


def _check_given(occurrences: object, log: object, select: str, radius: int, mask: object) -> None:
    if radius and occurrences is None:
        raise UsageError(
            f"radius is {radius}, which needs the file of `rocktok occurrences`; give "
            "--occurrences",
            parameter="radius",
        )
    if occurrences is not None and not radius:
        raise UsageError(
            "occurrences are of use with a radius alone; give --radius, or leave them out",
            parameter="occurrences",
        )
    if select != "rocks" and log is None:
        raise UsageError(
            f"select is {select!r}, which needs the log of the rocks; give --log",
            parameter="select",
        )
    if mask is not None and log is None:
        raise UsageError("a mask needs the log of the rocks; give --log")


@dataclass(frozen=True)
class _Text:
    """The log of the rocks, at their steps."""

    run: Run
    source: Source
    notes: tuple[str, ...]

    @classmethod
    def of(cls, log: LogOrPath, rocks: Rocks, engine: Engine | None, seed: int) -> _Text:
        """Raises `LogError` for a log that is not that of the rocks, or lacks their steps."""
        log = opened(log)
        rocks.check_log(log.name, dict(log.identity()))
        run = Run.begin(log, engine, rocks.log["table"], seed)
        pre, post = rocks.log["pre"], rocks.log["post"]
        steps = run.view.pre_post(pre, post, "off" if pre is None else "required")
        return cls(run, run.source(steps.post, steps.pre), steps.notes)


@dataclass(frozen=True)
class _Making:
    """Rocks, and what else was given."""

    rocks: Rocks
    occurrences: OccurrencesFile | None
    text: _Text | None

    def selected(
        self, select: str, weight: float, radius: int, seed: int, *, masked: bool
    ) -> WeightsResult:
        """The weights, without a mask. `masked`: whether one follows, which holds the places."""
        notes = [] if self.text is None else list(self.text.notes)
        notes += [] if self.occurrences is None else other_options(self.occurrences, self.rocks)
        token_ids, loss_shares, token_shares, budget = self._types(select, notes)
        rows = self._rows(token_ids, loss_shares, token_shares)
        contexts = None
        if radius:
            contexts = self._contexts(tuple(token_ids), notes, masked=masked)
        log = self.rocks.log
        made = Weights(
            select=select,
            weight=float(weight),
            radius=radius,
            token_ids=tuple(token_ids),
            token_texts=tuple(row["token"] for row in rows),
            contexts=contexts,
            budget=budget,
            vocabulary=VocabularyOf(log["vocab_size"], log["vocab"]),
            provenance=Provenance(dict(log), self.rocks.steps, self._parameters(seed), __version__),
        )
        return WeightsResult(
            weights=made,
            rocks=len(self.rocks.token_ids),
            target=self.rocks.budget,
            tokens=tuple(rows),
            mask=None,
            notes=tuple(notes),
        )

    def with_mask(self, result: WeightsResult, output: Any) -> WeightsResult:
        """The result with what a mask came to, which is written."""
        assert self.text is not None
        retained = None
        if self.occurrences is not None:
            retained = RetainedPlaces(self.occurrences, result.weights.token_ids)
        counts: MaskCounts = write_mask(
            output, self.text.run.engine, self.text.source, result.weights, retained
        )
        alone = counts["unpaired_sequences"]
        notes = [f"{alone} sequences of only one of the two steps are not in the mask"]
        return replace(result, mask=counts, notes=(*result.notes, *(notes if alone else [])))

    def _types(
        self, select: str, notes: list[str]
    ) -> tuple[list[int], list[float], list[float], Budget]:
        """(ids, loss share and position share of each, and of all together)."""
        rocks = self.rocks
        if select == "rocks":
            shares = [count / rocks.positions for count in rocks.frequencies]
            return list(rocks.token_ids), list(rocks.loss_shares), shares, rocks.budget
        assert self.text is not None
        types, order = Ordering(self.text.run, self.text.source, rocks, select).result()
        target = rocks.budget.loss_share
        assert target is not None
        ids: Array = types.until(order, target)
        budget = types.budget(ids)
        assert budget.loss_share is not None
        if not len(ids):
            raise LogError(
                f"{self.text.run.log.name}: no type has {MIN_OCCURRENCES} occurrences, so none can "
                f"be selected by {select}; select otherwise"
            )
        if budget.loss_share < target - 1e-9:
            notes.append(
                f"all {len(ids)} types that {select} can select carry {budget.loss_share:.1%} of "
                f"the loss, less than the {target:.1%} of the rocks: the budgets differ"
            )
        loss_shares, token_shares = types.shares(ids)
        return ids.tolist(), loss_shares.tolist(), token_shares.tolist(), budget

    def _rows(
        self, token_ids: list[int], loss_shares: list[float], token_shares: list[float]
    ) -> list[WeightRow]:
        texts = dict(zip(self.rocks.token_ids, self.rocks.texts, strict=True))
        of: Callable[[int], str] = texts.__getitem__
        if self.text is not None:
            of = self.text.run.log.vocab.text
        return [
            {
                "token_id": v,
                "token": of(v),
                "rock": v in texts,
                "loss_share": loss,
                "token_share": share,
            }
            for v, loss, share in zip(token_ids, loss_shares, token_shares, strict=True)
        ]

    def _contexts(
        self, token_ids: tuple[int, ...], notes: list[str], *, masked: bool
    ) -> WindowContexts:
        file = self.occurrences
        assert file is not None
        if masked:
            window = int(file.about["parameters"]["window"])
            return WindowContexts(window, window, float(file.about["parameters"]["gamma"]), ())
        contexts, left = retained_windows(file, token_ids)
        if left:
            notes.append(
                f"only {MOST_WINDOWS:,} of the distinct windows of retained occurrences are kept; "
                "the others match nothing"
            )
        if not contexts.windows:
            notes.append(
                "no occurrence of the selected types is retained, so the radius weights nothing"
            )
        return contexts

    def _parameters(self, seed: int) -> dict[str, Any]:
        """What the weights rest on beside the log."""
        target = self.rocks.budget
        return {
            "seed": seed,
            "min_occurrences": MIN_OCCURRENCES,
            "rocks": {
                "types": len(self.rocks.token_ids),
                "loss_share": target.loss_share,
                "token_share": target.token_share,
            },
            "detect": dict(self.rocks.params),
            "occurrences": None
            if self.occurrences is None
            else self.occurrences.about["parameters"],
        }
