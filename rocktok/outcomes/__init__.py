"""Outcomes of interventions: one row per arm, problem, seed and rollout, in one Parquet file.

`rocktok intervene` writes the file and `rocktok pillars` reads it. What both must agree on, that is
columns, metadata and the rules of a file, stands here and nowhere else. An arm is one way to
generate: the student as it is (a baseline), or with one token banned or replaced.

Array suffixes: A arms; P problems; D draws, the pairs of a seed and a rollout of one problem.
"""

from __future__ import annotations

from rocktok.outcomes.file import encode_outcomes as encode_outcomes
from rocktok.outcomes.file import load_outcomes as load_outcomes
from rocktok.outcomes.schema import BASELINE as BASELINE
from rocktok.outcomes.schema import GROUPS as GROUPS
from rocktok.outcomes.schema import MODES as MODES
from rocktok.outcomes.schema import SCHEMA as SCHEMA
from rocktok.outcomes.schema import About as About
from rocktok.outcomes.schema import Arm as Arm
from rocktok.outcomes.schema import NeverFired as NeverFired
from rocktok.outcomes.schema import Outcomes as Outcomes
from rocktok.outcomes.schema import outcomes_schema as outcomes_schema
