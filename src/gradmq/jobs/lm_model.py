"""A small GPT over bytes, made to learn fast under plain SGD with stale gradients.

Three choices matter for that, and each was measured:

- a causal convolution over the last bytes gives the first layer its n-grams at once, where
  attention alone needs thousands of updates to find them;
- norms have no learned gain: under stale gradients the gain of the last one is the first
  parameter to run away;
- attention learns at a ninth of the rate of the rest, because its output, an average over many
  positions, is nearly the same for all, and so by far the steepest direction of the loss.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VOCABULARY = 256
CONTEXT_BYTES = 128
_WIDTH = 96
_HEADS = 3
_LAYERS = 2
#: Bytes before the present one that the convolution sees.
_TAPS = 4
#: Weights kept this many times larger than they act: the learning rate acts 1/9 as strongly.
_ATTENTION_SCALE = 3.0


class ByteGPT(nn.Module):
    """Maps bytes (B, T) int64, T <= 128, to logits (B, T, 256) of each next byte.

    The embedding weight is the head weight. 0.26 million parameters, 8 bits per byte at the start.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, _WIDTH)
        self.position = nn.Parameter(0.5 * torch.randn(CONTEXT_BYTES, _WIDTH))
        self.taps = nn.Parameter(0.5 * torch.randn(_TAPS, _WIDTH))
        self.blocks = nn.ModuleList(_Block() for _ in range(_LAYERS))

    def forward(self, tokens: Tensor) -> Tensor:
        x = present = self.embedding(tokens) + self.position[: tokens.shape[1]]
        earlier = F.pad(present, (0, 0, _TAPS, 0))
        for start, tap in enumerate(self.taps):
            x = x + tap * earlier[:, start : start + tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.linear(_norm(x) / math.sqrt(_WIDTH), self.embedding.weight)


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        to_residual = 1 / math.sqrt(2 * _LAYERS)
        self.qkv = _linear(_WIDTH, 3 * _WIDTH, _ATTENTION_SCALE)
        self.out = _linear(_WIDTH, _WIDTH, _ATTENTION_SCALE * to_residual)
        self.up = _linear(_WIDTH, 4 * _WIDTH, 1.0)
        self.down = _linear(4 * _WIDTH, _WIDTH, to_residual)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._attention(_norm(x))
        hidden = F.gelu(self.up(_norm(x)), approximate="tanh")
        out: Tensor = x + self.down(hidden)
        return out

    def _attention(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        heads = (self.qkv(x) / _ATTENTION_SCALE).view(batch, time, 3, _HEADS, width // _HEADS)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        joined = mixed.transpose(1, 2).reshape(batch, time, width)
        out: Tensor = self.out(joined) / _ATTENTION_SCALE
        return out


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, (_WIDTH,))


def _linear(inputs: int, outputs: int, gain: float) -> nn.Linear:
    linear = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(linear.weight, std=gain / math.sqrt(inputs))
    return linear
