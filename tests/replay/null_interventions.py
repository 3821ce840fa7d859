"""Random types in the place of rocks, beside placebos as `intervene` draws them: the null.

`python -m tests.replay.null_interventions OUTCOMES` prints the table of docs/statistics.md. The
file is what `rocktok intervene` writes with every type of the vocabulary as a "rock", modes ban and
replace, without placebos, sampled: of each world some types are called rocks anew.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

import numpy as np
from scipy.special import stdtrit

from rocktok._types import Array
from rocktok.analyses.pillars.paired import paired_difference
from rocktok.analyses.pillars.places import ProblemEstimate
from rocktok.outcomes import Outcomes, load_outcomes
from rocktok.replay.intervene.arms import Candidate, placebos

LEVEL = 0.05


@dataclass
class Rates:
    """Share of worlds that reject at 5%: with pairs and with problems as the unit.

    `apart`: mean log ratio of completions in which a rock and its placebo act, of each world.
    """

    pairs: list[bool] = field(default_factory=list)
    problems: list[bool] = field(default_factory=list)
    apart: list[float] = field(default_factory=list)


def null_rates(
    outcomes: Outcomes, mode: str, *, worlds: int, problems: int, rocks: int, least: int = 3
) -> dict[str, Rates]:
    """Rates of the change of the loss and of the edits, rocks minus placebos.

    Args:
        outcomes: with every type as a rock.
        mode: ban or replace.
        worlds: draws of some problems and of some rocks among the types that `least` of their
            completions hold.
        problems, rocks: numbers of them.
        least: completions that hold a type.
    """
    columns = outcomes.columns
    at = {a.token_id: i for i, a in enumerate(outcomes.arms) if a.mode == mode}
    bans = {a.token_id: i for i, a in enumerate(outcomes.arms) if a.mode == "ban"}
    change = columns["loss_after"].astype(float) - columns["baseline_loss_after"]
    values = {"loss": change[..., 0], "edits": columns["edit_after"][..., 0].astype(float)}
    found = {name: Rates() for name in values}
    generator = np.random.default_rng(1)
    for world in range(worlds):
        some = generator.choice(len(outcomes.problems), problems, replace=False)
        held = {v: int(columns["fired"][i][some].sum()) for v, i in bans.items()}
        held = {v: count for v, count in held.items() if count}
        often = [v for v, count in held.items() if count >= least]
        chosen = [int(v) for v in generator.choice(often, rocks, replace=False)]
        drawn = placebos(chosen, held, set(chosen), seed=world)
        apart = [np.log(held[one.control_of or 0] / held[one.token_id]) for one in drawn]
        for name, whole in values.items():
            rows = {v: whole[i][some] for v, i in at.items()}
            rates = found[name]
            rates.pairs.append(_rejects_by_pairs(rows, chosen, drawn))
            rates.problems.append(
                _rejects_by_problems(rows, chosen, [one.token_id for one in drawn])
            )
            rates.apart.append(float(np.mean(apart)))
    return found


def _rejects_by_pairs(rows: dict[int, Array], rocks: list[int], drawn: list[Candidate]) -> bool:
    means = {v: float(np.nanmean(row)) for v, row in rows.items() if np.isfinite(row).any()}
    of_rocks = {v: means[v] for v in rocks if v in means}
    controls = [(one.control_of, means[one.token_id]) for one in drawn if one.token_id in means]
    found = paired_difference(of_rocks, controls, LEVEL)
    return found.low is not None and found.high is not None and (found.low > 0 or found.high < 0)


def _rejects_by_problems(rows: dict[int, Array], rocks: list[int], controls: list[int]) -> bool:
    """As it was: means over rows, with the problem as the unit."""
    means = []
    for types in (rocks, controls):
        row_AP = np.stack([rows[v] for v in types if v in rows])
        there_AP = np.isfinite(row_AP)
        whole = ProblemEstimate.of(there_AP.sum(axis=0).astype(float), 1)
        sums = ProblemEstimate.of(np.where(there_AP, row_AP, 0).sum(axis=0), 1)
        means.append(sums / whole)
    difference = means[0] - means[1]
    error = float(np.sqrt((difference.effect**2).sum()))
    reach = stdtrit(len(difference.effect) - 1, 1 - LEVEL / 2) * error
    return bool(abs(float(difference.value)) > reach)


def main() -> None:
    """Print the table."""
    outcomes = load_outcomes(sys.argv[1])
    for mode in ("ban", "replace"):
        for name, rates in null_rates(outcomes, mode, worlds=400, problems=150, rocks=30).items():
            print(
                f"{mode} {name}: pairs {np.mean(rates.pairs):.3f}, problems "
                f"{np.mean(rates.problems):.3f}, log ratio {np.mean(rates.apart):.3f}"
            )


if __name__ == "__main__":
    main()
