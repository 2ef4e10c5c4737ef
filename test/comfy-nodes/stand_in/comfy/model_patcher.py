"""What nodes ask of a patcher: its model, its devices, its size, and replacements of attention."""

from __future__ import annotations

import copy
from typing import Any

import torch


class ModelPatcher:
    def __init__(self, model: torch.nn.Module, load_device: torch.device, offload_device: torch.device) -> None:
        self.model = model
        self.load_device = load_device
        self.offload_device = offload_device
        self.model_options: dict[str, Any] = {"transformer_options": {}}

    def clone(self) -> ModelPatcher:
        other = ModelPatcher(self.model, self.load_device, self.offload_device)
        other.model_options = {"transformer_options": copy.copy(self.model_options["transformer_options"])}
        return other

    def get_model_object(self, name: str) -> Any:
        return getattr(self.model, name)

    def set_model_attn2_replace(self, patch: Any, kind: str, number: int, index: int | None = None) -> None:
        options = copy.copy(self.model_options["transformer_options"])
        replaced = {name: dict(blocks) for name, blocks in options.get("patches_replace", {}).items()}
        replaced.setdefault("attn2", {})[(kind, number) if index is None else (kind, number, index)] = patch
        options["patches_replace"] = replaced
        self.model_options["transformer_options"] = options

    def model_size(self) -> int:
        return sum(tensor.nbytes for tensor in self.model.state_dict().values())
