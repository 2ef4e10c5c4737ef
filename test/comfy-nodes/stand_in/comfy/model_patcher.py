"""What nodes ask of a patcher: its model, its devices, its size."""

from __future__ import annotations

import torch


class ModelPatcher:
    def __init__(self, model: torch.nn.Module, load_device: torch.device, offload_device: torch.device) -> None:
        self.model = model
        self.load_device = load_device
        self.offload_device = offload_device

    def model_size(self) -> int:
        return sum(tensor.nbytes for tensor in self.model.state_dict().values())
