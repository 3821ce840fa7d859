"""The rules of a table of outcomes, and its rows as dense arrays.

Array suffixes: N rows; A arms; P problems; D draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rocktok._types import Array
from rocktok.errors import LogError
from rocktok.outcomes.schema import (
    BASELINE,
    COLUMNS,
    GROUPS,
    LATER,
    MODES,
    OF_AN_ARM,
    REMEDY,
    About,
    Arm,
    Outcomes,
    outcomes_schema,
)

if TYPE_CHECKING:
    import pyarrow as pa


def checked_outcomes(table: pa.Table, about: About, name: str) -> Outcomes:
    """Rows as dense arrays.

    Args:
        table: with all of `COLUMNS`, maybe but for `LATER`; others are left alone.
        about: the metadata.
        name: what messages call the table.

    Raises `LogError` for rows that break a rule of the format.
    """
    import numpy as np

    values = {
        column: _column(table, column, kind, absent, name)
        for column, kind, absent in COLUMNS
        if column not in LATER or column in table.column_names
    }
    if not table.num_rows:
        raise LogError(f"{name}: holds no rows; {REMEDY}")
    _check_values(values, name)
    names, arm_N = _codes(values["arm"])
    problems, problem_N = _codes(values["problem_id"])
    arms = _arms(names, arm_N, values, name)
    _check_controls(arms, about, name)
    # Baselines first, otherwise as in the file.
    place_A = np.array(
        sorted(range(len(arms)), key=lambda a: (arms[a].group != "baseline", names[a] != BASELINE))
    )
    rank_A = np.argsort(place_A)
    order_N = np.lexsort((values["rollout"], values["seed"], problem_N, rank_A[arm_N]))
    arms = [arms[a] for a in place_A]
    draws = _draws(rank_A[arm_N][order_N], problem_N[order_N], arms, problems, name)
    shape = len(arms), len(problems), draws
    dense = {
        column: values[column][order_N].reshape(shape)
        for column in values
        if column not in ("arm", "problem_id", *OF_AN_ARM)
    }
    _check_draws(dense, arms, problems, name)
    return Outcomes(name, about, tuple(arms), tuple(problems), draws, dense)


def _column(table: pa.Table, column: str, kind: str, absent: bool, name: str) -> Array:
    """Values of a column in its type; absent ones −1 or NaN."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if column not in table.column_names:
        raise LogError(f"{name}: has no column {column}; {REMEDY}")
    values = table.column(column).combine_chunks()
    if values.null_count and not absent:
        row = pc.index(values.is_null(), True).as_py()
        raise LogError(f"{name}: {column} is missing in row {row:,}; {REMEDY}")
    try:
        if kind == "bool" and not pa.types.is_boolean(values.type):
            values = pc.cast(values, pa.float64())
            # Not NaN either, of which no comparison is true.
            odd = pc.invert(pc.is_in(values, pa.array([0.0, 1.0])))
            if (row := pc.index(odd, True).as_py()) >= 0:
                shown = f"{values[row].as_py():g}"
                raise LogError(
                    f"{name}: {column} is {shown} in row {row:,}; it must be true or false"
                )
        values = values.cast(outcomes_schema().field(column).type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise LogError(f"{name}: {column} holds {values.type}, not {kind}; {REMEDY}") from error
    if kind == "string":
        return values.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]
    if kind == "float32":
        floats: Array = values.to_numpy(zero_copy_only=False).astype(np.float32)
        present = ~values.is_null().to_numpy(zero_copy_only=False)
        if not np.isfinite(floats[present]).all():
            row = int(np.flatnonzero(present & ~np.isfinite(floats))[0])
            raise LogError(f"{name}: {column} is {floats[row]} in row {row:,}; leave it empty")
        return floats
    if values.null_count:
        values = values.fill_null(-1)
    return values.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


def _check_values(values: Mapping[str, Array], name: str) -> None:
    """Raise `LogError` for a value outside its range."""
    import numpy as np

    baseline_N = values["group"] == "baseline"
    rules = (
        ("mode", ~np.isin(values["mode"], MODES), f"choose from {', '.join(MODES)}"),
        ("group", ~np.isin(values["group"], GROUPS), f"choose from {', '.join(GROUPS)}"),
        ("mode", (values["mode"] == "baseline") != baseline_N, "baselines have it, and no others"),
        ("token_id", (values["token_id"] == -1) != baseline_N, "baselines have −1, others an id"),
        ("token_id", values["token_id"] < -1, "it must be an id"),
        ("num_tokens", values["num_tokens"] < 0, "it must be 0 or more"),
        ("rollout", values["rollout"] < 0, "it must be 0 or more"),
        ("first_position", values["first_position"] < -1, "it must be 0 or more"),
        ("first_position", (values["first_position"] >= 0) & ~values["fired"],
         "the arm did not fire there"),
        ("edit_after", (values["edit_after"] < 0) | (values["edit_after"] > 1),
         "it must be from 0 to 1"),
    )  # fmt: skip
    for column, broken_N, words in rules:
        if broken_N.any():
            row = int(np.flatnonzero(broken_N)[0])
            raise LogError(f"{name}: {column} is {values[column][row]} in row {row:,}; {words}")


def _codes(text_N: Array) -> tuple[list[str], Array]:
    """Distinct texts in the order in which they first appear, and the number of each row's."""
    import pyarrow as pa

    encoded = pa.array(text_N, pa.string()).dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False)


def _arms(names: list[str], arm_N: Array, values: Mapping[str, Array], name: str) -> list[Arm]:
    """The arms. Raises `LogError` for one whose rows differ in what they say of it."""
    import numpy as np

    first_A = np.unique(arm_N, return_index=True)[1]
    for column in OF_AN_ARM:
        unlike_N = values[column] != values[column][first_A][arm_N]
        if unlike_N.any():
            row = int(np.flatnonzero(unlike_N)[0])
            raise LogError(
                f"{name}: rows of arm {names[arm_N[row]]} differ in {column} (row {row:,}); give "
                "each arm a name of its own"
            )
    arms = []
    for arm, row in zip(names, first_A, strict=True):
        control_of = int(values["control_of"][row])
        token_id, mode, group = (values[column][row] for column in OF_AN_ARM[:3])
        arms.append(
            Arm(arm, int(token_id), str(mode), str(group), control_of if control_of >= 0 else None)
        )
    if BASELINE not in names or arms[names.index(BASELINE)].group != "baseline":
        raise LogError(f"{name}: has no arm {BASELINE!r}, which others are compared with")
    return arms


def _check_controls(arms: Sequence[Arm], about: About, name: str) -> None:
    """Raise `LogError` for a control of a rock that has no arm of the same mode."""
    rocks = {(arm.mode, arm.token_id) for arm in arms if arm.group == "rock"}
    rocks |= {
        (row["mode"], row["token_id"])
        for row in about.get("never_fired") or ()
        if row["group"] == "rock"
    }
    for arm in arms:
        if arm.control_of is not None and (arm.mode, arm.control_of) not in rocks:
            raise LogError(
                f"{name}: arm {arm.name} is a control of token {arm.control_of}, which has no arm "
                f"with mode {arm.mode} and group rock"
            )


def _draws(
    arm_N: Array, problem_N: Array, arms: Sequence[Arm], problems: Sequence[str], name: str
) -> int:
    """Rows of each problem in each arm. Raises `LogError` where they are not as many in all."""
    import numpy as np

    count_AP = np.bincount(
        arm_N.astype(np.int64) * len(problems) + problem_N, minlength=len(arms) * len(problems)
    ).reshape(len(arms), len(problems))
    draws = int(count_AP[0].max())
    if (count_AP != draws).any():
        a, p = (int(at[0]) for at in np.nonzero(count_AP != draws))
        raise LogError(
            f"{name}: arm {arms[a].name} has {count_AP[a, p]:,} rows of problem {problems[p]}, "
            f"the most of {BASELINE} are {draws:,}; arms need the same problems, each with the "
            "same number of rows"
        )
    return draws


def _check_draws(
    dense: Mapping[str, Array], arms: Sequence[Arm], problems: Sequence[str], name: str
) -> None:
    """Raise `LogError` for a draw that stands twice, or that an arm has and its baseline lacks."""
    import numpy as np

    seed_APD, rollout_APD = dense["seed"], dense["rollout"]
    twice = (seed_APD[..., 1:] == seed_APD[..., :-1]) & (
        rollout_APD[..., 1:] == rollout_APD[..., :-1]
    )
    if twice.any():
        a, p, d = (int(at[0]) for at in np.nonzero(twice))
        raise LogError(
            f"{name}: arm {arms[a].name} has problem {problems[p]} twice with seed "
            f"{seed_APD[a, p, d]} and rollout {rollout_APD[a, p, d]}; leave one out"
        )
    # Other baselines are drawn by seeds of their own.
    paired = np.array([arm.group != "baseline" for arm in arms])
    unlike = (seed_APD != seed_APD[:1]) | (rollout_APD != rollout_APD[:1])
    unlike &= paired[:, None, None]
    if unlike.any():
        a, p, d = (int(at[0]) for at in np.nonzero(unlike))
        raise LogError(
            f"{name}: arm {arms[a].name} has seed {seed_APD[a, p, d]}, rollout "
            f"{rollout_APD[a, p, d]} of problem {problems[p]}, which {BASELINE} lacks; arms need "
            "the seeds and rollouts of their baseline"
        )
