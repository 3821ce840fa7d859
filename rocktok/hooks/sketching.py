"""When the contexts of kept text are made: once, at the first scoring that no rank fails at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rocktok.hooks.background import describe
from rocktok.hooks.contexts import MOST_POSITIONS, Projections, mean_projection

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rocktok.hooks.fixed_set import FixedSet


@dataclass
class Sketching:
    """What is still to be sketched of a kept text; every rank comes to the same answers.

    Attributes:
        fixed: the kept text.
        world_size: ranks that share it.
        wanted: whether contexts are still to be made.
    """

    fixed: FixedSet
    world_size: int = 1
    wanted: bool = False

    def begin(self, tell: Callable[[str, str], None]) -> Projections | None:
        """What takes the projections of a scoring; None where none are needed, or too many.

        `tell` is given a key and words where memory does not do.
        """
        if not self.wanted:
            return None
        if self.fixed.sketched >= {rollout.sequence_id for rollout in self.fixed.kept}:
            self.wanted = False
            return None
        positions = self.fixed.most_positions(self.world_size)
        if positions > MOST_POSITIONS:
            self.wanted = False
            tell(
                "contexts",
                f"contexts are left out: kept text has {positions:,} positions on a rank, and more "
                f"than {MOST_POSITIONS:,} would take more than 1 GiB of memory; keep fewer texts, "
                "or set contexts=False",
            )
            return None
        return Projections(self.fixed.sketched)

    def finish(
        self,
        projections: Projections,
        obstacle: str | None,
        all_gather: Callable[[Any], Sequence[Any]],
    ) -> dict[str, Any] | None:
        """This rank's rows of contexts/; None where a rank has an obstacle: then the next scoring
        tries again. Every rank calls this at the same time.
        """
        sums = None
        if obstacle is None:
            try:
                sums = projections.sums()
            except Exception as error:
                obstacle = describe(error)
        gathered = all_gather((sums, obstacle))
        if any(theirs is not None for _, theirs in gathered):
            return None
        self.wanted = False
        return projections.rows(mean_projection([part for part, _ in gathered]))
