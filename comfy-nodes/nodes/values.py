"""Values of links to and from what a node call carries.

Literals are JSON. Every other value is an object with a "kind", and its tensors are named `<input or slot>.<field>`. A
kind that this file does not know is kept as it came and sent back as it is: new types of the bridge need no new pack.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import comfy.clip_vision
import torch
from comfy_execution.graph_utils import ExecutionBlocker

from ..bridge_client import BridgeError
from ..safetensors_document import Buffer
from .remote_clip_vision import RemoteClipVision

LITERAL_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
TENSOR_TYPES = {"IMAGE": "image", "MASK": "mask"}
FEATURES = (
    "last_hidden_state",
    "image_embeds",
    "penultimate_hidden_states",
    "mm_projected",
    "all_hidden_states",
)
TORCH_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
}
# What the bridge computes in; the sending side knows no other order of bytes.
if sys.byteorder != "little":
    raise ImportError("Vision Bridge runs on little-endian machines only")


@dataclass(frozen=True)
class BridgeValue:
    """A value of the bridge's own, such as an adapter: carried, never looked into."""

    descriptor: Mapping[str, Any]
    tensors: Mapping[str, Buffer] = field(default_factory=dict)


Wire = tuple[Any, dict[str, Buffer]]


def to_wire(name: str, type_name: str, value: Any) -> Wire:
    """A value of ComfyUI's for an input of the bridge: JSON and tensors. Raises BridgeError."""
    if type_name in LITERAL_TYPES:
        return value, {}
    if type_name == "*":
        return {"kind": "opaque"}, {}
    if isinstance(value, BridgeValue):
        return dict(value.descriptor), dict(value.tensors)
    if type_name in TENSOR_TYPES and isinstance(value, torch.Tensor):
        return {"kind": TENSOR_TYPES[type_name]}, {"tensor": to_buffer(value.float())}
    if type_name == "CLIP_VISION_OUTPUT":
        return {"kind": "features"}, _features_of(name, value)
    if type_name == "CLIP_VISION" and isinstance(value, RemoteClipVision):
        return value.handle, {}
    hint = " Connect Vision Bridge's own loader." if type_name == "CLIP_VISION" else ""
    raise BridgeError("INVALID_REQUEST", f"{name}: a {type(value).__name__} is no {type_name} for the bridge.{hint}")


def from_wire(value: Any, tensors: Mapping[str, Buffer], inputs: Mapping[str, Any]) -> Any:
    """An output of the bridge as ComfyUI passes it on. `inputs` are the node's own, for values that pass through."""
    if not isinstance(value, Mapping) or "kind" not in value:
        return value
    kind = value["kind"]
    if kind in TENSOR_TYPES.values():
        return to_tensor(tensors["tensor"])
    if kind == "features":
        output = comfy.clip_vision.Output()
        output["mm_projected"] = None
        for name, buffer in tensors.items():
            output[name] = to_tensor(buffer)
        return output
    if kind == "clip_vision":
        return RemoteClipVision(dict(value))
    if kind == "passed":
        return inputs[value["input"]]
    if kind == "blocked":
        return ExecutionBlocker(value.get("message"))
    return BridgeValue(dict(value), dict(tensors))


def to_buffer(tensor: torch.Tensor) -> Buffer:
    """The bytes of a tensor, without a copy where it lies in one piece on the CPU."""
    tensor = tensor.detach().cpu().contiguous()
    dtype = next(name for name, known in TORCH_DTYPES.items() if known == tensor.dtype)
    data = memoryview(tensor.flatten().view(torch.uint8).numpy()) if tensor.numel() > 0 else memoryview(b"")
    return Buffer(dtype, tuple(tensor.shape), data)


def to_tensor(buffer: Buffer) -> torch.Tensor:
    """A tensor over the bytes of an answer, which it keeps alive; no copy."""
    dtype = TORCH_DTYPES[buffer.dtype]
    if prod(buffer.shape) == 0:
        return torch.empty(buffer.shape, dtype=dtype)
    return torch.frombuffer(buffer.data, dtype=dtype).reshape(buffer.shape)


def _features_of(name: str, value: Any) -> dict[str, Buffer]:
    # Only what is there already: asking for an attribute could make the encoder run.
    there = vars(value) if hasattr(value, "__dict__") else {}
    found = {key: there[key] for key in FEATURES if isinstance(there.get(key), torch.Tensor)}
    if not found:
        raise BridgeError("INVALID_REQUEST", f"{name}: a {type(value).__name__} holds no features.")
    return {key: to_buffer(tensor.float()) for key, tensor in found.items()}
