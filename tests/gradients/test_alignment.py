"""Inner products and cosines of gradients in each of their forms."""

import pytest
import torch

from taskloom.gradients import cosine, inner

A, B = (
    {"w": torch.tensor([[1.0, 2.0], [0.0, 1.0]]), "b": torch.tensor([2.0])},
    {"w": torch.ones(2, 2), "b": torch.tensor([-1.0])},
)


def test_dictionaries_and_lists_by_hand() -> None:
    assert inner(A, B).item() == 2.0
    assert cosine(A, B).item() == pytest.approx(2 / (10 * 5) ** 0.5)
    assert inner([A["w"], None, A["b"]], [B["w"], torch.ones(3), B["b"]]).item() == 2.0
    assert cosine(list(A.values()), list(A.values())).item() == pytest.approx(1)


def test_rows() -> None:
    x, y = torch.randn(3, 8), torch.randn(4, 8)
    torch.testing.assert_close(inner(x, y), x @ y.T)
    torch.testing.assert_close(cosine(x, y)[1, 2], torch.nn.functional.cosine_similarity(x[1], y[2], dim=0))
    torch.testing.assert_close(cosine(x[1], y), cosine(x, y)[1])
    torch.testing.assert_close(cosine(x, y[2]), cosine(x, y)[:, 2])
    assert cosine(x[0], x[0]).item() == pytest.approx(1)
    torch.testing.assert_close(cosine(7 * x, 0.1 * y), cosine(x, y))


def test_a_zero_gradient_agrees_with_nothing() -> None:
    x = torch.randn(3, 8)
    assert not cosine(x, torch.zeros(2, 8)).any()
    assert cosine({"w": torch.zeros(3)}, {"w": torch.ones(3)}).item() == 0


def test_half_precision_is_summed_in_more() -> None:
    ones = torch.ones(5000, dtype=torch.bfloat16)
    assert inner([ones], [ones]).item() == inner(ones, ones).item() == 5000


def test_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"differ in .'b'"):
        inner(A, {"w": A["w"]})
    with pytest.raises(ValueError, match="not 1 and 2"):
        inner([A["w"]], [A["w"], A["b"]])
    with pytest.raises(ValueError, match="same shapes"):
        inner([A["w"]], [A["b"]])
    with pytest.raises(ValueError, match=r"\[3, 8\] and \[3, 7\]"):
        cosine(torch.ones(3, 8), torch.ones(3, 7))
    with pytest.raises(ValueError, match="not dict and list"):
        inner(A, list(A.values()))
