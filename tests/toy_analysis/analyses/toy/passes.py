"""`toy` over a log: one pass over the last step."""

from __future__ import annotations

import numpy as np

from rocktok.analyses.run import LogOrPath, Run
from rocktok.analyses.toy.result import ToyResult, TypeLoss
from rocktok.engine.passes import Engine
from rocktok.stats.sums import TypeSums


def toy(
    log: LogOrPath,
    *,
    table: str = "auto",
    top: int = 5,
    seed: int = 0,
    engine: Engine | None = None,
) -> ToyResult:
    """Token types by mean loss at the last step."""
    run = Run.begin(log, engine, table, seed)
    step, _, notes = run.view.reference(None)
    sums = TypeSums(("loss",))
    run.engine.run(run.source(step), sums)
    token_T = np.flatnonzero(sums.count_V)
    count_T, loss_T = sums.count_V[token_T], sums.sum_V["loss"][token_T]
    mean = loss_T.sum() / count_T.sum()
    order = np.lexsort((token_T, -loss_T / count_T))[:top]
    tokens = tuple(
        TypeLoss(
            token_id=int(token_T[i]),
            token=run.log.vocab.text(int(token_T[i])),
            frequency=int(count_T[i]),
            mean_loss=float(loss_T[i] / count_T[i]),
            above_mean=bool(loss_T[i] / count_T[i] > mean),
        )
        for i in order
    )
    return ToyResult({**run.log.identity(), "step": step}, tokens, (*notes, "<b> a toy"))
