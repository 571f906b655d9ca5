"""Every token counts the same: standard fine-tuning, the first baseline of CaMeLS."""

from torch import Tensor, nn

__all__ = ["UniformWeighter"]


class UniformWeighter(nn.Module):
    """Give every token the same weight.

    Args:
        value: the weight.
    """

    def __init__(self, value: float = 1.0):
        super().__init__()
        self.value = value

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return weights[batch, tokens], 0 on padding."""
        return attention_mask.bool().float() * self.value

    def extra_repr(self) -> str:
        return f"value={self.value:g}"
