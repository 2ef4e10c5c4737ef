"""A CLIP_VISION whose weights are in the bridge.

Stands wherever a ComfyUI CLIP_VISION stands. It holds a handle and nothing else: no weights, no VRAM, no connection.
Copies are the same encoder; a restart of the bridge costs time only.

Pictures are prepared here, by ComfyUI's own `clip_preprocess`: its numbers to the last bit, and a fifth of the bytes to
send. Source of what has to be there: ComfyUI, comfy/clip_vision.py, and what its nodes and IPAdapter_plus ask of it.
"""

from __future__ import annotations

from typing import Any, Union

import comfy.clip_vision
import comfy.model_management
import comfy.model_patcher
import comfy.utils
import folder_paths
import torch

from ..bridge import client
from ..bridge_client import BridgeError
from ..http_exchange import Request
from ..safetensors_document import read_document, write_document
from .waiting import check_interrupted

# Images per request: progress and cancellation in between, and no request beyond the bridge's limit.
IMAGES_PER_REQUEST = 8
CPU = torch.device("cpu")

Handle = dict[str, Any]
# What `intermediate_output` takes: nothing, a layer counted from either end, or all layers.
Layer = Union[int, str, None]
Encoded = tuple[torch.Tensor, Union[torch.Tensor, None], Union[torch.Tensor, None], Union[torch.Tensor, None]]


class RemoteEncoder(torch.nn.Module):
    """Stands where the network of a CLIP_VISION stands."""

    def __init__(self, handle: Handle) -> None:
        super().__init__()
        self.handle = handle

    def forward(
        self,
        pixel_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,  # noqa: ARG002 - ComfyUI's encoders ignore it as well
        intermediate_output: Layer = None,
    ) -> Encoded:
        """Last hidden state, intermediate state, image embeds, projected tokens: f32, on the device of the input."""
        name, layer = self._intermediate(intermediate_output)
        wanted = [
            output
            for output in dict.fromkeys(["last_hidden_state", name, "image_embeds", "mm_projected"])
            if output in self.handle["outputs"]
        ]
        parts = [encode(self.handle, "pixel_values", part, wanted) for part in in_parts(pixel_values)]
        device = pixel_values.device
        joined = {output: one_batch([part[output] for part in parts]).to(device) for output in wanted}
        intermediate = joined[name] if name is not None else None
        if intermediate is not None and layer is not None:
            intermediate = intermediate[:, layer]
        return joined["last_hidden_state"], intermediate, joined.get("image_embeds"), joined.get("mm_projected")

    def _intermediate(self, wanted: Layer) -> tuple[str | None, int | None]:
        """The output that holds a state, and its place in it."""
        outputs, layers = self.handle["outputs"], self.handle["layers"]
        if wanted is None:
            return None, None
        if wanted == "all" and "all_hidden_states" in outputs:
            return "all_hidden_states", None
        if isinstance(wanted, int):
            layer = wanted + layers if wanted < 0 else wanted
            if layer == layers - 2:
                return "penultimate_hidden_states", None
            if 0 <= layer < layers and "all_hidden_states" in outputs:
                return "all_hidden_states", layer
            if layer == layers - 1 and self.handle["model_type"] == "clip_vision_model":
                return "last_hidden_state", None
        here = "any layer, or 'all'" if "all_hidden_states" in outputs else f"-2, which is layer {layers - 2}"
        raise BridgeError(
            "OUTPUT_UNAVAILABLE",
            f"{self.handle['family']} has no state intermediate_output={wanted!r} to give; it gives {here}.",
        )


class RemoteOutput(comfy.clip_vision.Output):
    """A CLIP_VISION_OUTPUT.

    All hidden states of a SigLIP are 90 MB per picture and rarely used: they come when they are asked for.
    """

    def __init__(self, handle: Handle, pixel_values: torch.Tensor) -> None:
        self._handle = handle
        self._pixel_values = pixel_values

    def __getattr__(self, name: str) -> torch.Tensor:
        fields = vars(self)
        handle = fields.get("_handle")
        if name != "all_hidden_states" or handle is None or not returns_all_states(handle):
            raise AttributeError(f"{type(self).__name__} has no {name}")
        parts = [encode(handle, "pixel_values", part, [name]) for part in in_parts(fields["_pixel_values"])]
        self.all_hidden_states = one_batch([part[name] for part in parts])
        return self.all_hidden_states


class RemoteClipVision:
    """The CLIP_VISION itself. A handle says by itself which encoder it is."""

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.image_size = handle["image_size"]
        self.image_mean = handle["image_mean"]
        self.image_std = handle["image_std"]
        self.return_all_hidden_states = returns_all_states(handle)
        self.dtype = torch.float32
        # Where ComfyUI moves pictures to before it calls `model`.
        self.load_device = CPU
        self.model = RemoteEncoder(handle).train(False)
        # Without weights: loading and unloading it moves nothing and frees nothing.
        self.patcher = comfy.model_patcher.ModelPatcher(self.model, load_device=CPU, offload_device=CPU)

    def __reduce__(self) -> tuple[type[RemoteClipVision], tuple[Handle]]:
        return RemoteClipVision, (dict(self.handle),)

    def __copy__(self) -> RemoteClipVision:
        return RemoteClipVision(dict(self.handle))

    def __deepcopy__(self, _memo: dict[int, Any]) -> RemoteClipVision:
        return RemoteClipVision(dict(self.handle))

    def encode_image(self, image: torch.Tensor, crop: bool = True) -> comfy.clip_vision.Output:
        """Features of images `[B, H, W, C]`: what ComfyUI's own encoder gives, on its intermediate device."""
        target = comfy.model_management.intermediate_device()
        if self.image_size == -1:
            return self._encode_any_ratio(image, target)
        pixel_values = comfy.clip_vision.clip_preprocess(
            image.to(self.load_device), size=self.image_size, mean=self.image_mean, std=self.image_std, crop=crop
        ).float()
        output = RemoteOutput(self.handle, pixel_values)
        bar = comfy.utils.ProgressBar(len(pixel_values)) if len(pixel_values) > 1 else None
        encoded: list[Encoded] = []
        done = 0
        for part in in_parts(pixel_values):
            encoded.append(self.model(pixel_values=part, intermediate_output=-2))
            done += len(part)
            if bar is not None:
                bar.update_absolute(done)
        last, penultimate, embeds, projected = (join(column) for column in zip(*encoded))
        output["last_hidden_state"] = on_device(last, target)
        output["image_embeds"] = on_device(embeds, target)
        output["penultimate_hidden_states"] = on_device(penultimate, target)
        output["mm_projected"] = projected
        return output

    def _encode_any_ratio(self, image: torch.Tensor, target: torch.device) -> comfy.clip_vision.Output:
        """Encoders that keep the ratio of a picture prepare it in the bridge."""
        wanted = [name for name in self.handle["outputs"] if name != "all_hidden_states"]
        parts = [encode(self.handle, "image", part, wanted) for part in in_parts(image.float())]
        output = comfy.clip_vision.Output()
        output["mm_projected"] = None
        for name in wanted:
            output[name] = one_batch([part[name] for part in parts]).to(target)
        return output

    def get_sd(self) -> dict[str, torch.Tensor]:
        """The weights, for nodes that save checkpoints: read from the file as ComfyUI's own loader reads them."""
        path = folder_paths.get_full_path_or_raise(self.handle["folder"], self.handle["name"])
        local = comfy.clip_vision.load(path)
        if local is None:
            raise BridgeError("MODEL_FORMAT_UNSUPPORTED", f"ComfyUI itself cannot load {self.handle['name']}.")
        return local.get_sd()


def returns_all_states(handle: Handle) -> bool:
    """Whether ComfyUI's own encoder of this family gives all hidden states."""
    return handle["model_type"] == "siglip_vision_model"


def in_parts(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """A batch in parts that are sent one by one."""
    return torch.split(images, IMAGES_PER_REQUEST)


def join(parts: tuple[torch.Tensor | None, ...]) -> torch.Tensor | None:
    """The batch again; None for an output that the encoder lacks."""
    present = [part for part in parts if part is not None]
    return one_batch(present) if present else None


def one_batch(parts: list[torch.Tensor]) -> torch.Tensor:
    """Parts as one tensor. A single part is it already: copying it would cost more than its way here."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def on_device(tensor: torch.Tensor | None, device: torch.device) -> torch.Tensor | None:
    """The tensor on a device; None stays None."""
    return tensor.to(device) if tensor is not None else None


def encode(handle: Handle, kind: str, images: torch.Tensor, outputs: list[str]) -> dict[str, torch.Tensor]:
    """Features of one request. Raises BridgeError, and ComfyUI's interrupt."""
    # Here, not at the top: values.py knows this file.
    from .values import to_buffer, to_tensor

    query = {"model": handle["name"], "outputs": ",".join(outputs), "precision": handle.get("precision", "comfy")}
    body = write_document({kind: to_buffer(images.float())}, {})
    check_interrupted()
    answer = client.send(Request("POST", "/bridge/v1/encode", query, body), check_interrupted)
    tensors, _metadata = read_document(answer.body)
    return {name: to_tensor(buffer) for name, buffer in tensors.items()}
