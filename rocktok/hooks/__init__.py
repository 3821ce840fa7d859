"""Hooks that run inside the training process and write the log. The home of torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rocktok.hooks.gradients import GradientSums as GradientSums
    from rocktok.hooks.live_weights import LiveWeights as LiveWeights
    from rocktok.hooks.recorder import Recorder as Recorder
    from rocktok.hooks.statistics import token_statistics as token_statistics
    from rocktok.hooks.token_weights import TokenWeights as TokenWeights

__all__ = ["GradientSums", "LiveWeights", "Recorder", "TokenWeights", "token_statistics"]


def __getattr__(name: str) -> Any:
    # The recorder alone needs no torch: importing it must not cost a second of start-up.
    if name == "Recorder":
        from rocktok.hooks.recorder import Recorder

        return Recorder
    if name == "GradientSums":
        from rocktok.hooks.gradients import GradientSums

        return GradientSums
    if name == "token_statistics":
        from rocktok.hooks.statistics import token_statistics

        return token_statistics
    if name == "LiveWeights":
        from rocktok.hooks.live_weights import LiveWeights

        return LiveWeights
    if name == "TokenWeights":
        from rocktok.hooks.token_weights import TokenWeights

        return TokenWeights
    raise AttributeError(f"module 'rocktok.hooks' has no attribute {name!r}")
