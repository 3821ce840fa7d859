"""Whether a log has enough text to tell anything: how many types can be tested, without testing."""

from __future__ import annotations

from rocktok.analyses.detect.enough import EnoughText
from rocktok.analyses.detect.hard_sums import HardSums
from rocktok.analyses.detect.hardness import hardness_of, votes_of
from rocktok.analyses.detect.log_passes import LogPasses
from rocktok.analyses.detect.params import DetectParams
from rocktok.analyses.detect.tested import text_wanted
from rocktok.analyses.run import Run
from rocktok.engine.passes import Engine
from rocktok.log.catalogue import Log

#: Positions up to which types are counted unasked: above them, text is not what a log lacks.
MOST_COUNTED = 1_000_000


def enough_text(log: Log, engine: Engine) -> EnoughText | None:
    """Counts of the types that can be tested; None without the same text at two steps, or too long.

    Three passes over two columns of two steps. Raises `LogError` where rows cannot be read, and
    where losses allow no threshold.
    """
    complete = log.complete_steps("fixed")
    rows = {step.step: step.rows for step in log.steps("fixed")}
    if len(complete) < 2 or rows[complete[-1]] > MOST_COUNTED:
        return None
    params = DetectParams()
    run = Run.begin(log, engine, "fixed", params.seed)
    steps = run.view.pre_post(None, None, params.context)
    passes = LogPasses(run, params, steps, run.source(steps.post, steps.pre))
    counts = passes.count()
    if counts.clusters is None:
        return None
    thresholds = passes.thresholds(counts)
    sums = HardSums(thresholds, counts.clusters, compiled=passes.source.large)
    run.engine.run(passes.source, sums)
    votes = votes_of(sums)
    if votes is not None:
        run.engine.run(passes.source, votes)
    hard, loss_T = hardness_of(sums, votes).tests, counts.types.loss_T
    total = float(loss_T.sum())
    return {
        "positions": counts.sizes.rows,
        "tests": int(hard.among.sum()),
        "testable": int(hard.testable.sum()),
        "untested_loss_share": float(loss_T[~hard.testable].sum()) / total if total else None,
        "text_wanted": text_wanted(hard, loss_T),
    }
