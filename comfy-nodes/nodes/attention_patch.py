"""Image prompts in a cross-attention: what is put in the place of a block's own computation.

    out = attention(q, k, v) + weight * attention(q, keys, values)

with the same queries, a softmax of its own, and keys and values of the image prompt tokens. Formulas restated from
ComfyUI_IPAdapter_plus; the tests compare with tensors that it computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Union

import torch
from comfy.ldm.modules.attention import optimized_attention

EMBEDS_SCALING = ("V only", "K+V", "K+V w/ C penalty", "K+mean(V) w/ C penalty")
# Width whose keys the penalty leaves as they are.
FULL_WIDTH = 1280
# Of a model that names no sigma: the beginning.
FIRST_SIGMA = 999999999.9
CONDITIONAL = 0

Options = Mapping[str, Any]
Patch = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Options], torch.Tensor]
Block = Union[tuple[str, int], tuple[str, int, int]]


@dataclass(frozen=True)
class Application:
    """How an adapter is applied, the same in all blocks. mask: `[M, H, W]`."""

    sigma_start: float
    sigma_end: float
    embeds_scaling: str = "V only"
    mask: torch.Tensor | None = None
    unfold_batch: bool = False


@dataclass(frozen=True)
class LayerTokens:
    """Keys and values of one block, `[pictures, tokens, width]`, on the conditional and the other side."""

    cond_keys: torch.Tensor
    cond_values: torch.Tensor
    uncond_keys: torch.Tensor
    uncond_values: torch.Tensor

    def turned(self) -> LayerTokens:
        """The other side gets the pictures, the conditional one nothing. Tokens of zero have keys of zero."""
        zeros = torch.zeros_like(self.cond_keys)
        return LayerTokens(zeros, torch.zeros_like(self.cond_values), self.cond_keys, self.cond_values)

    def to(self, like: torch.Tensor) -> LayerTokens:
        """On the device and in the type of another tensor."""
        sides = (self.cond_keys, self.cond_values, self.uncond_keys, self.uncond_values)
        return LayerTokens(*(side.to(like) for side in sides))


class ImageAttention:
    """A replacement of one cross-attention; `below` is the replacement that was there before, or nothing."""

    def __init__(self, tokens: LayerTokens, weight: float, application: Application, below: Patch | None) -> None:
        self._weight = weight
        self._application = application
        self._below = below
        self._tokens = _scaled(tokens, weight, application.embeds_scaling)
        self._moved: LayerTokens | None = None

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: Options) -> torch.Tensor:
        """`[rows, queries, width]`; rows are latents, once for every entry of `cond_or_uncond`."""
        out = (self._below or _attention)(q, k, v, options)
        application = self._application
        if not application.sigma_end <= _sigma(options) <= application.sigma_start:
            return out
        sides = options["cond_or_uncond"]
        count = q.shape[0] // len(sides)
        keys, values = self._rows(q, sides, count, options)
        image = _attention(q, keys, values, options)
        if application.embeds_scaling == "V only":
            image = image * self._weight
        if application.mask is not None:
            mask = _frames(application.mask, count, options)
            height, width = options["original_shape"][2:4]
            seen = mask_tokens(mask, height, width, q.shape[1]).to(image)
            image = image * seen.repeat(len(sides), 1).unsqueeze(-1)
        return out + image

    def _rows(
        self, q: torch.Tensor, sides: list[int], count: int, options: Options
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self._moved is None or self._moved.cond_keys.device != q.device or self._moved.cond_keys.dtype != q.dtype:
            self._moved = self._tokens.to(q)
        moved = self._moved
        keys, values = [], []
        for side in sides:
            is_cond = side == CONDITIONAL
            keys.append(self._fitted(moved.cond_keys if is_cond else moved.uncond_keys, count, options))
            values.append(self._fitted(moved.cond_values if is_cond else moved.uncond_values, count, options))
        return torch.cat(keys), torch.cat(values)

    def _fitted(self, tokens: torch.Tensor, count: int, options: Options) -> torch.Tensor:
        """One row per latent: a picture each, or the tokens of all pictures for every latent."""
        if self._application.unfold_batch:
            return _frames(tokens, count, options)
        return tokens.reshape(1, -1, tokens.shape[-1]).expand(count, -1, -1)


def add_image_attention(
    model: Any,
    block: Block,
    tokens: LayerTokens,
    weight: float,
    application: Application,
) -> None:
    """Adds to what is there in a block of a cloned model, through ComfyUI's own patches. A weight of 0 adds nothing."""
    if weight == 0:
        return
    there = model.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {})
    kind, number, *index = block
    # ComfyUI asks for (kind, number, index) first: a patch without the index would lie under one with it.
    exact = (kind, number, *(index or [0]))
    if exact in there:
        index = [exact[2]]
    below = there.get(exact, there.get((kind, number)))
    model.set_model_attn2_replace(ImageAttention(tokens, weight, application, below), kind, number, *index)


def mask_tokens(mask: torch.Tensor, height: int, width: int, queries: int) -> torch.Tensor:
    """A mask `[M, H, W]` as the queries of a block see it, `[M, queries]`; height and width are the latent's."""
    rows = max(1, math.trunc(height / math.sqrt(height * width / queries)))
    rows += 1 if queries % rows != 0 else 0
    columns = queries // rows
    resized = torch.nn.functional.interpolate(
        mask.float().unsqueeze(1), size=(rows, columns), mode="bilinear", align_corners=False
    )
    seen = resized.reshape(mask.shape[0], -1)
    lacking = queries - seen.shape[1]
    if lacking >= 0:
        return torch.nn.functional.pad(seen, (lacking // 2, lacking - lacking // 2))
    begin = -lacking // 2
    return seen[:, begin : begin + queries]


def _scaled(tokens: LayerTokens, weight: float, mode: str) -> LayerTokens:
    if mode == "V only":
        return tokens
    factor = weight if mode == "K+V" else weight * tokens.cond_keys.shape[-1] / FULL_WIDTH

    def scale(values: torch.Tensor) -> torch.Tensor:
        if mode != "K+mean(V) w/ C penalty":
            return values * factor
        mean = values.mean(dim=1, keepdim=True)
        return values - mean + mean * factor

    return LayerTokens(
        tokens.cond_keys * factor,
        scale(tokens.cond_values),
        tokens.uncond_keys * factor,
        scale(tokens.uncond_values),
    )


def _frames(tensor: torch.Tensor, count: int, options: Options) -> torch.Tensor:
    """A row for each latent of this run, those of AnimateDiff's window where there is one; the last row repeats."""
    window = (options.get("ad_params") or {}).get("sub_idxs")
    wanted = torch.arange(count) if window is None else torch.as_tensor(window)
    return tensor[wanted.clamp(max=tensor.shape[0] - 1).to(tensor.device)]


def _sigma(options: Options) -> float:
    sigmas = options.get("sigmas")
    return FIRST_SIGMA if sigmas is None else sigmas.detach().flatten()[0].item()


def _attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: Options) -> torch.Tensor:
    return optimized_attention(
        q, k, v, options["n_heads"], attn_precision=options.get("attn_precision"), transformer_options=options
    )
