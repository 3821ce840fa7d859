"""The vocabulary of groups: what analyses call their groups, figures and tables can say."""

from __future__ import annotations

import pytest

import rocktok
from rocktok.report.page.figures.style import group_style
from rocktok.stats import group_names, groups
from tests.paths import SAMPLE


def test_letters_and_labels_tell_groups_apart() -> None:
    for words in (group_names.NAMES, group_names.LABELS.values(), group_names.LETTERS.values()):
        assert len(set(words)) == len(words)
    assert set(groups.NAMES) <= set(group_names.NAMES)
    colours = {group_style(name)["color"] for name in group_names.LABELS}
    assert len(colours) == len(group_names.LABELS)


@pytest.mark.long
def test_analyses_name_their_groups_so_and_in_this_order() -> None:
    log = rocktok.open(SAMPLE)
    learning = rocktok.stagnation(log, replicates=100)
    assert [row["group"] for row in learning.groups] == list(group_names.NAMES)
    assert [row["second"] for row in learning.tests] == list(group_names.AGAINST)
    gradient = rocktok.attribute(log, replicates=100)
    names = [row["group"] for row in gradient.groups if row["step"] == gradient.log["step"]]
    assert names == list(groups.NAMES)
