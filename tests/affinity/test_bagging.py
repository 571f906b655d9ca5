"""A store of many dimensions as several of fewer."""

import pytest
import torch

from taskloom.affinity import SubsetSurrogate
from taskloom.affinity.bagging import split_dimensions
from tests.affinity.support import DIMENSIONS, table


def test_members_share_the_dimensions_and_average_to_the_whole_inner_products():
    source = table()
    members = split_dimensions(source, 3)
    assert [member.dimensions for member in members] == [DIMENSIONS // 3] * 3
    whole = source.train("a").gradients
    parts = [member.train("a").gradients for member in members]
    torch.testing.assert_close(sum(part @ part.T for part in parts) / 3, whole @ whole.T)
    assert torch.equal(members[1].validation("r").labels, source.validation("r").labels)


def test_estimates_report_the_spread_over_members():
    estimates = SubsetSurrogate(split_dimensions(table(), 2)).estimate([["a", "b"]])
    assert estimates.spread is not None
    assert (estimates.spread > 0).all()


def test_members_must_divide_the_dimensions():
    with pytest.raises(ValueError, match="`members` must divide the 12 dimensions of the source, found 5"):
        split_dimensions(table(), 5)
