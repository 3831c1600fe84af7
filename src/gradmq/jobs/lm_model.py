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


class Cache:
    """What the bytes of one text, at most 128, leave behind for those that come after them.

    It belongs to one text and one ``ByteGPT``; float32, on the CPU.
    """

    def __init__(self) -> None:
        self.length = 0
        """Bytes in it."""
        #: Before the first byte there are zeros, as in a forward pass without a cache.
        self._present = torch.zeros(1, _TAPS + CONTEXT_BYTES, _WIDTH)
        self._past = torch.empty(_LAYERS, 2, 1, _HEADS, CONTEXT_BYTES, _WIDTH // _HEADS)

    def earlier(self, present: Tensor) -> Tensor:
        """Add (1, T, W) of new bytes; returns it with the rows before it, (1, taps + T, W)."""
        end = self.length + _TAPS + present.shape[1]
        self._present[:, self.length + _TAPS : end] = present
        return self._present[:, self.length : end]

    def attended(self, layer: int, key_value: Tensor) -> Tensor:
        """Add keys and values (2, 1, H, T, D) of new bytes; returns those of all bytes."""
        past, end = self._past[layer], self.length + key_value.shape[3]
        past[..., self.length : end, :] = key_value
        return past[..., :end, :]


class ByteGPT(nn.Module):
    """Maps bytes (B, T) int64, T <= 128, to logits (B, T, 256) of each next byte.

    With a ``Cache``, bytes (1, T) go on from those that are in it, and are added to it. The
    embedding weight is the head weight. 0.26 million parameters, 8 bits per byte at the start.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, _WIDTH)
        self.position = nn.Parameter(0.5 * torch.randn(CONTEXT_BYTES, _WIDTH))
        self.taps = nn.Parameter(0.5 * torch.randn(_TAPS, _WIDTH))
        self.blocks = nn.ModuleList(_Block(layer) for layer in range(_LAYERS))

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        time = tokens.shape[1]
        first = 0 if cache is None else cache.length
        x = present = self.embedding(tokens) + self.position[first : first + time]
        earlier = F.pad(present, (0, 0, _TAPS, 0)) if cache is None else cache.earlier(present)
        for start, tap in enumerate(self.taps):
            x = x + tap * earlier[:, start : start + time]
        for block in self.blocks:
            x = block(x, cache)
        if cache is not None:
            cache.length += time
        return F.linear(_norm(x) / math.sqrt(_WIDTH), self.embedding.weight)


class _Block(nn.Module):
    def __init__(self, layer: int) -> None:
        super().__init__()
        self.layer = layer
        to_residual = 1 / math.sqrt(2 * _LAYERS)
        self.qkv = _linear(_WIDTH, 3 * _WIDTH, _ATTENTION_SCALE)
        self.out = _linear(_WIDTH, _WIDTH, _ATTENTION_SCALE * to_residual)
        self.up = _linear(_WIDTH, 4 * _WIDTH, 1.0)
        self.down = _linear(4 * _WIDTH, _WIDTH, to_residual)

    def forward(self, x: Tensor, cache: Cache | None) -> Tensor:
        x = x + self._attention(_norm(x), cache)
        hidden = F.gelu(self.up(_norm(x)), approximate="tanh")
        out: Tensor = x + self.down(hidden)
        return out

    def _attention(self, x: Tensor, cache: Cache | None) -> Tensor:
        batch, time, width = x.shape
        heads = (self.qkv(x) / _ATTENTION_SCALE).view(batch, time, 3, _HEADS, width // _HEADS)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        mask = None
        if cache is not None:
            key, value = cache.attended(self.layer, heads.permute(2, 0, 3, 1, 4)[1:])
            if time > 1:
                mask = torch.ones(time, key.shape[2], dtype=torch.bool).tril(cache.length)
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=cache is None
        )
        joined = mixed.transpose(1, 2).reshape(batch, time, width)
        out: Tensor = self.out(joined) / _ATTENTION_SCALE
        return out


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, (_WIDTH,))


def _linear(inputs: int, outputs: int, gain: float) -> nn.Linear:
    linear = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(linear.weight, std=gain / math.sqrt(inputs))
    return linear
