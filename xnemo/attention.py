"""Multi-head attention whose keys and values are values: they can be computed once and passed in.

Parameter names are those of the released checkpoints (`to_q`, `to_k`, `to_v`, `to_out.0`, ...).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from xnemo.linear import FeedForward, Linear, inference_on_cpu

KeysValues = tuple[Tensor, Tensor]  # each [..., L, C], heads not yet split
SHORT = 32  # tokens; on a CPU the fused kernel costs more than it saves below (many pixels, a window of frames each)


class Attention(nn.Module):
    """Queries of width C over any source of keys and values; `source` is the width of that source."""

    def __init__(self, width: int, heads: int, source: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = Linear(width, width, bias=False)
        self.to_k = Linear(source or width, width, bias=False)
        self.to_v = Linear(source or width, width, bias=False)
        self.to_out = nn.Sequential(Linear(width, width))

    def keys_values(self, source: Tensor) -> KeysValues:
        """[..., L, source width] -> keys and values [..., L, C]."""
        return self.to_k(source), self.to_v(source)

    def forward(self, x: Tensor, keys_values: KeysValues) -> Tensor:
        """x [N, Q, C], keys and values [N, L, C] -> [N, Q, C]."""
        keys, values = keys_values
        heads = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (self.to_q(x), keys, values))
        return self.to_out(dot_product_attention(*heads).transpose(1, 2).flatten(2))


def dot_product_attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """softmax(Q Kᵀ / √d) V over [N, heads, L, d]."""
    if inference_on_cpu(queries) and max(queries.shape[2], keys.shape[2]) <= SHORT:
        weights = (queries * queries.shape[3] ** -0.5) @ keys.transpose(2, 3)
        return weights.softmax(dim=3) @ values
    return F.scaled_dot_product_attention(queries, keys, values)


class InsertedBlock(nn.Module):
    """x + attend(LN x) for each attention, then x + GEGLU(LN x)."""

    def __init__(self, width: int, attentions: Iterable[nn.Module]) -> None:
        super().__init__()
        self.attention_blocks = nn.ModuleList(attentions)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in self.attention_blocks)
        self.ff = FeedForward(width)
        self.ff_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, attend: Callable[[int, Tensor], Tensor]) -> Tensor:
        for i, norm in enumerate(self.norms):
            x = x + attend(i, norm(x))
        return x + self.ff(self.ff_norm(x))


class InsertedTransformer(nn.Module):
    """The frame that motion and temporal modules share; its zero output layer makes it change nothing at init.

    The caller normalises with `norm` (per frame), arranges tokens [N, L, C], and adds the result to its input.
    """

    def __init__(self, width: int, groups: int, attentions: Iterable[nn.Module]) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)
        self.proj_in = Linear(width, width)
        self.transformer_blocks = nn.ModuleList([InsertedBlock(width, attentions)])
        self.proj_out = Linear(width, width)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    @property
    def attentions(self) -> list[Any]:
        return list(cast(InsertedBlock, self.transformer_blocks[0]).attention_blocks)

    def forward(self, tokens: Tensor, attend: Callable[[int, Tensor], Tensor]) -> Tensor:
        """tokens [N, L, C]; `attend(i, x)` is the i-th attention's answer to x."""
        return self.proj_out(self.transformer_blocks[0](self.proj_in(tokens), attend))
