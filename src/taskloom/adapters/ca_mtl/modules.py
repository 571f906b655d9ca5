"""The equations of CA-MTL (Pilault et al., "Conditionally Adaptive Multi-Task Learning", ICLR 2021, section 2).

Throughout, `condition` is FloatTensor[batch, hidden], one row an example: the paper's task embedding z_i, or its linear
transform. Nothing here knows about tasks, loops over them, or knows the encoder that the parts are put into.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "ConditionalAttentionBias",
    "ConditionalBottleneck",
    "ConditionalLayerNorm",
    "FiLM",
    "NormedBottleneck",
    "ResidualBottleneck",
]


class FiLM(nn.Linear):
    """Feature-wise linear modulation, FiLM(x) = (1 + γ(z)) ⊙ x + β(z) with γ and β linear in z."""

    def __init__(self, condition_size: int, size: int) -> None:
        super().__init__(condition_size, 2 * size)

    def scale_and_shift(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Return 1 + γ(z) and β(z), FloatTensor[batch, size] each."""
        gamma, beta = self(condition).chunk(2, dim=-1)
        return 1 + gamma, beta

    def modulate(self, x: Tensor, condition: Tensor) -> Tensor:
        """Apply the modulation to x, FloatTensor[batch, tokens, size]: the paper's Conditional Alignment."""
        scale, shift = self.scale_and_shift(condition)
        return torch.addcmul(shift.to(x.dtype).unsqueeze(1), scale.to(x.dtype).unsqueeze(1), x)


class ConditionalAttentionBias(nn.Module):
    """The task-conditioned term M(z) of the paper's Conditional Attention, softmax(M(z) + Q Kᵀ / √d) V.

    M(z) is block-diagonal: N blocks of size s = ⌈max_length / N⌉, cut from one learned matrix of max_length × s that
    FiLM modulates. One bias serves all heads. Positions from max_length on have none, so any input length works.
    """

    def __init__(self, condition_size: int, max_length: int, num_blocks: int) -> None:
        super().__init__()
        self.max_length = max_length
        self.block_size = -(-max_length // num_blocks)
        self.matrix = nn.Parameter(torch.zeros(max_length, self.block_size))
        self.film = FiLM(condition_size, self.block_size)

    def forward(self, condition: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        """Return the bias between positions, FloatTensor[batch, 1, queries, keys].

        Args:
            condition: FloatTensor[batch, condition_size].
            queries: LongTensor[queries], the queries' positions in the sequence.
            keys: LongTensor[keys], the keys' positions.
        """
        scale, shift = self.film.scale_and_shift(condition)
        column = keys % self.block_size
        in_block = (queries // self.block_size).unsqueeze(1) == keys // self.block_size
        in_block &= (queries < self.max_length).unsqueeze(1) & (keys < self.max_length)
        rows = self.matrix.index_select(0, queries.clamp(max=self.max_length - 1))
        matrix = rows.index_select(1, column) * in_block
        scale, shift = (part.index_select(1, column).unsqueeze(1) for part in (scale, shift))
        return torch.addcmul(shift * in_block, scale, matrix).unsqueeze(1)


class ConditionalLayerNorm(nn.Module):
    """The paper's Conditional Layer Normalization: a norm with its weight γ replaced by FiLM(γ).

    It has no parameters of its own, but is a module, so that per-example gradients can be taken of those it is given.
    """

    def forward(self, x: Tensor, norm: nn.LayerNorm, film: FiLM, condition: Tensor) -> Tensor:
        """Normalise x, FloatTensor[batch, tokens, size], each example with the weight of its own task."""
        scale, shift = film.scale_and_shift(condition)
        weight = torch.addcmul(shift, scale, norm.weight.to(shift.dtype)).unsqueeze(1)
        normalised = F.layer_norm(x, norm.normalized_shape, eps=norm.eps)
        weight = weight.to(normalised.dtype)
        if norm.bias is None:
            return normalised * weight
        return torch.addcmul(norm.bias.to(normalised.dtype), normalised, weight)


class ConditionalBottleneck(nn.Module):
    """The paper's Conditional Bottleneck: up(down(FiLM(h))), modulated through a linear layer of its own."""

    def __init__(self, condition_size: int, size: int, width: int) -> None:
        super().__init__()
        self.transform = nn.Linear(condition_size, condition_size)
        self.film = FiLM(condition_size, size)
        self.down = nn.Linear(size, width)
        self.up = nn.Linear(width, size)

    def forward(self, hidden: Tensor, condition: Tensor) -> Tensor:
        # In the bottleneck's own precision, which PEFT keeps at float32 when the encoder has less.
        modulated = self.film.modulate(hidden.to(self.down.weight.dtype), self.transform(condition))
        return self.up(self.down(modulated)).to(hidden.dtype)


class NormedBottleneck(nn.Module):
    """How the published base model joins it to the top layer: a conditional norm of bottleneck + attention output."""

    def __init__(self, bottleneck: ConditionalBottleneck, size: int, eps: float) -> None:
        super().__init__()
        self.bottleneck = bottleneck
        self.norm = nn.LayerNorm(size, eps=eps)
        self.norm_film = FiLM(bottleneck.film.in_features, size)
        self.conditional_norm = ConditionalLayerNorm()

    def forward(self, layer_output: Tensor, attention_output: Tensor, condition: Tensor) -> Tensor:
        joined = self.bottleneck(layer_output, condition) + attention_output
        return self.conditional_norm(joined, self.norm, self.norm_film, condition).to(layer_output.dtype)


class ResidualBottleneck(nn.Module):
    """Ours: the layer's output plus its bottleneck, which is zero at the start."""

    def __init__(self, bottleneck: ConditionalBottleneck) -> None:
        super().__init__()
        self.bottleneck = bottleneck

    def forward(self, layer_output: Tensor, condition: Tensor) -> Tensor:
        return layer_output + self.bottleneck(layer_output, condition)
