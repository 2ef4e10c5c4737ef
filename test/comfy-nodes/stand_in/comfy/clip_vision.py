"""The result of an encoder, and the preparation of pictures: resize, crop, round to 8 bits, normalize."""

from __future__ import annotations

from typing import Any

import torch


class Output:
    def __getitem__(self, key: str) -> Any:
        return getattr(self, key)

    def __setitem__(self, key: str, value: Any) -> None:
        setattr(self, key, value)


def clip_preprocess(
    image: torch.Tensor, size: int, mean: list[float], std: list[float], crop: bool = True
) -> torch.Tensor:
    pixels = image[..., :3].permute(0, 3, 1, 2)
    height, width = pixels.shape[2:]
    if (height, width) != (size, size):
        factor = size / min(height, width)
        target = (round(factor * height), round(factor * width)) if crop else (size, size)
        pixels = torch.nn.functional.interpolate(pixels, target, mode="bicubic", antialias=True)
        top, left = (pixels.shape[2] - size) // 2, (pixels.shape[3] - size) // 2
        pixels = pixels[:, :, top : top + size, left : left + size]
    levels = (pixels * 255.0).clamp(0, 255).round() / 255.0
    return (levels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def load(path: str) -> None:
    """The stand-in holds no encoders."""
    return
