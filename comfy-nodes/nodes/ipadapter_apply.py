"""VisionBridgeIPAdapterApply: image prompts in the cross-attentions of a MODEL.

The bridge projects the embeds and gives the keys and values of every block; no weights of the adapter come to ComfyUI,
and none take VRAM. What is added to the model goes through ComfyUI's public patches.
"""

from __future__ import annotations

import json
from collections import deque
from typing import Any

import torch
from comfy_api.latest import io

from ..bridge import client
from ..bridge_client import BridgeError
from ..http_exchange import Request
from ..safetensors_document import read_document, write_document
from .attention_patch import EMBEDS_SCALING, Application, Block, LayerTokens, add_image_attention
from .remote_nodes import precisions
from .values import BridgeValue, to_tensor
from .waiting import make_on_wait

WEIGHT_TYPES = [
    "linear",
    "ease in",
    "ease out",
    "ease in-out",
    "reverse in-out",
    "weak input",
    "weak output",
    "weak middle",
    "strong middle",
    "style transfer",
    "composition",
    "strong style transfer",
    "style and composition",
    "strong style and composition",
    "style transfer precise",
    "composition precise",
]
# Only files for SDXL have it.
SDXL_LAYER = 101


class VisionBridgeIPAdapterApply(io.ComfyNode):
    """Applies an IP-Adapter of the bridge."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        strength = {"min": -1.0, "max": 5.0, "step": 0.05}
        share = {"min": 0.0, "max": 1.0, "step": 0.001}
        return io.Schema(
            node_id="VisionBridgeIPAdapterApply",
            display_name="Apply IP-Adapter (Vision Bridge)",
            category="vision bridge/ipadapter",
            description="Lets a model follow reference pictures: their keys and values are added to its attention.",
            inputs=[
                io.Custom("MODEL").Input("model"),
                io.Custom("VISION_BRIDGE_IPADAPTER").Input("ipadapter"),
                io.Custom("VISION_BRIDGE_EMBEDS").Input("embeds"),
                io.Float.Input("weight", default=1.0, **strength),
                io.Combo.Input("weight_type", options=WEIGHT_TYPES, default="linear"),
                io.Float.Input("start_at", default=0.0, **share),
                io.Float.Input("end_at", default=1.0, **share),
                io.Combo.Input("embeds_scaling", options=list(EMBEDS_SCALING), default="V only"),
                io.Custom("MASK").Input("attn_mask", optional=True, tooltip="The region in which the pictures count."),
                io.Boolean.Input(
                    "unfold_batch", default=False, optional=True, tooltip="One reference picture per latent."
                ),
                io.Boolean.Input(
                    "middle_block",
                    default=False,
                    optional=True,
                    tooltip="Reach the middle block as well, which IPAdapter_plus never does.",
                ),
                io.Float.Input("composition_weight", default=1.0, optional=True, **strength),
                io.Float.Input("faceid_v2_scale", default=1.0, optional=True, **strength),
                io.String.Input(
                    "layer_weights",
                    default="",
                    optional=True,
                    tooltip='A factor per transformer, such as "0:0.5, 3:1.5"; others are left out.',
                ),
                io.Combo.Input(
                    "precision",
                    options=precisions(),
                    default="comfy",
                    optional=True,
                    tooltip="int8 projects faster where that is measured to be good enough.",
                ),
            ],
            outputs=[io.Custom("MODEL").Output("out_0", display_name="model")],
        )

    @classmethod
    async def execute(
        cls,
        model: Any,
        ipadapter: BridgeValue,
        embeds: BridgeValue,
        weight: float,
        weight_type: str,
        start_at: float,
        end_at: float,
        embeds_scaling: str,
        attn_mask: torch.Tensor | None = None,
        unfold_batch: bool = False,
        middle_block: bool = False,
        composition_weight: float = 1.0,
        faceid_v2_scale: float = 1.0,
        layer_weights: str = "",
        precision: str = "comfy",
    ) -> io.NodeOutput:
        """The model with what the pictures add."""
        handle = _descriptor("ipadapter", ipadapter, "ipadapter")
        _descriptor("embeds", embeds, "ipadapter_embeds")
        _require_fit(model, handle)
        family = "sdxl" if SDXL_LAYER in handle["layers"] else "sd15"
        query = {
            "model": family,
            "type": weight_type,
            "weight": weight,
            "composition_weight": composition_weight,
            "layer_weights": layer_weights,
        }
        transformers = (await _send(Request("GET", "/bridge/v1/ipadapter/weights", query))).json()["transformers"]
        wanted = {
            layer: (block, transformers[place])
            for layer, block, place in layer_places(family)
            if layer in handle["layers"]
            and (middle_block or block[0] != "middle")
            # Neither left out nor 0.
            and transformers[place]["weight"]
        }
        patched = model.clone()
        if not wanted:
            return io.NodeOutput(patched)
        sampling = model.get_model_object("model_sampling")
        application = Application(
            sampling.percent_to_sigma(start_at),
            sampling.percent_to_sigma(end_at),
            embeds_scaling,
            None if attn_mask is None else attn_mask.reshape(-1, *attn_mask.shape[-2:]).cpu(),
            unfold_batch,
        )
        settings = {"faceid_v2_scale": faceid_v2_scale, "precision": precision}
        found = await _project(handle, embeds, list(wanted), settings)
        for layer, (block, transformer) in wanted.items():
            tokens = LayerTokens(*(found[f"{part}.{layer}"] for part in ("k_cond", "v_cond", "k_uncond", "v_uncond")))
            if transformer["turned"]:
                tokens = tokens.turned()
            add_image_attention(patched, block, tokens, transformer["weight"], application)
        return io.NodeOutput(patched)


def layer_places(family: str) -> list[tuple[int, Block, int]]:
    """Number of the layer in a file, block of the model, and which transformer that is in the order of running.

    Files count the blocks of the input, then those of the output, then the middle.
    """
    if family == "sd15":
        depths = {("input", number): 1 for number in (1, 2, 4, 5, 7, 8)}
        depths.update({("output", number): 1 for number in range(3, 12)})
        depths[("middle", 0)] = 1
    else:
        depths = {("input", 4): 2, ("input", 5): 2, ("input", 7): 10, ("input", 8): 10}
        depths.update({("output", number): 10 if number < 3 else 2 for number in range(6)})
        depths[("middle", 0)] = 10
    # It runs between the two others.
    middle = sum(kind == "input" for kind, _number in depths)
    places: list[tuple[int, Block, int]] = []
    for order, ((kind, number), depth) in enumerate(depths.items()):
        place = {"input": order, "middle": middle, "output": order + 1}[kind]
        for index in range(depth):
            block: Block = (kind, number) if family == "sd15" else (kind, number, index)
            places.append((2 * len(places) + 1, block, place))
    return places


def _descriptor(name: str, value: Any, kind: str) -> dict[str, Any]:
    if not isinstance(value, BridgeValue) or value.descriptor.get("kind") != kind:
        raise BridgeError("INVALID_REQUEST", f"{name}: connect a node of Vision Bridge that gives it.")
    return dict(value.descriptor)


def _require_fit(model: Any, handle: dict[str, Any]) -> None:
    """Tells a model of another base before anything is computed. Raises BridgeError."""
    width = model.get_model_object("model_config").unet_config.get("context_dim")
    if width != handle["context_width"]:
        given = "is no model with a text context" if width is None else f"has a text context {width} wide"
        raise BridgeError(
            "PAIR_MISMATCH",
            f"{handle['name']} ({handle['label']}) is for models whose text context is {handle['context_width']} wide; "
            f"this one {given}. Choose an adapter that was made for it.",
        )


async def _send(request: Request) -> Any:
    return await client.send_async(request, make_on_wait(deque()))


async def _project(
    handle: dict[str, Any], embeds: BridgeValue, layers: list[int], settings: dict[str, Any]
) -> dict[str, torch.Tensor]:
    """Keys and values `[pictures, tokens, width]` of every layer N: `k_cond.N`, `v_cond.N`, `k_uncond.N`, …"""
    query = {
        "adapter": handle["name"],
        "clip_vision": handle["encoder_name"],
        "face_pack": handle["face_pack"],
        "layers": ",".join(map(str, layers)),
        **settings,
    }
    metadata = {
        "format": "vision-bridge-ipadapter-embeds",
        "version": "1",
        "provenance": json.dumps(embeds.descriptor["provenance"]),
    }
    request = Request(
        "POST",
        "/bridge/v1/ipadapter/project",
        {key: value for key, value in query.items() if value is not None},
        write_document(embeds.tensors, metadata),
        may_repeat=True,
    )
    tensors, _metadata = read_document((await _send(request)).body)
    return {name: to_tensor(buffer) for name, buffer in tensors.items()}
