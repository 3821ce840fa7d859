"""How hard types are, from the sums of one pass or two.

Array suffixes: T types.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rocktok._types import Array
from rocktok.analyses.detect.hard_sums import HardSums
from rocktok.analyses.detect.tested import HardTests, hard_tests
from rocktok.analyses.detect.votes import Expected, OccurrenceSums, TwoPassExpected


@dataclass(frozen=True)
class Hardness:
    """How hard types are: `expected` of an occurrence, and the `tests` of all."""

    expected: Expected
    tests: HardTests

    def where(self, judgeable_T: Array) -> Hardness:
        """The same where types can be tested only if their contexts can be judged (T, bool)."""
        testable_T = self.tests.testable & judgeable_T
        return replace(self, tests=replace(self.tests, testable=testable_T))


def votes_of(sums: HardSums) -> OccurrenceSums | None:
    """What a second pass must count before types can be tested; None: one pass is all."""
    if sums.clusters.one_pass:
        return None
    return OccurrenceSums(sums.choice, sums.expected(), compiled=sums.compiled)


def hardness_of(sums: HardSums, votes: OccurrenceSums | None) -> Hardness:
    """The tests of all types, from sums that all rows were added to."""
    if sums.clusters.one_pass:
        expected: Expected
        expected, all_votes = sums.one_pass()
    else:
        two_pass = sums.expected()
        assert isinstance(two_pass, TwoPassExpected)
        assert votes is not None
        expected = two_pass.with_all(votes)
        all_votes = expected.all_votes()
    return Hardness(expected, hard_tests(all_votes, compiled=sums.compiled))
