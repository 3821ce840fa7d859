"""Which sequences were right, out of sequences/."""

from __future__ import annotations

import numpy as np

import rocktok.schema as schema
from rocktok.analyses.lenses.quantities import Correct
from rocktok.log.catalogue import Log
from rocktok.log.checks import Where
from rocktok.log.sequences import cast_sequences


def load_correct(log: Log) -> Correct:
    """Of every sequence of which it is known; 9 bytes each."""
    ids, correct = [np.zeros(0, np.int64)], [np.zeros(0, bool)]
    for shard in log.shards("sequences"):
        opened = log.open(shard, schema.required_names("sequences"))
        limit = log.limit_of(opened.attempt)
        if "correct" not in opened.columns:
            continue
        wanted = [*schema.required_names("sequences"), "correct"]
        for group, _ in opened.groups():
            rows = cast_sequences(opened.read_group(group, wanted), Where(opened.name, group))
            known = rows["correct"].is_valid().to_numpy()
            if limit is not None:
                known &= rows["step"].to_numpy() < limit
            ids.append(rows["sequence_id"].to_numpy()[known])
            correct.append(rows["correct"].fill_null(False).to_numpy()[known])
    sequence_S, correct_S = np.concatenate(ids), np.concatenate(correct)
    order = np.argsort(sequence_S, kind="stable")
    return Correct(sequence_S[order], correct_S[order])
