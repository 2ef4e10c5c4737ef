"""Attention of many heads, as ComfyUI's nodes call it."""

from __future__ import annotations

from typing import Any

import torch


def optimized_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, mask: torch.Tensor | None = None, **_options: Any
) -> torch.Tensor:
    rows, queries, width = q.shape
    split = [part.reshape(rows, -1, heads, width // heads).transpose(1, 2) for part in (q, k, v)]
    out = torch.nn.functional.scaled_dot_product_attention(*split, attn_mask=mask)
    return out.transpose(1, 2).reshape(rows, queries, width)
