"""The drop-in against ComfyUI's own loader, through ComfyUI's own nodes and an unmodified IPAdapter_plus.

Run by drop-in-agreement.ts. Prints, for every use of a CLIP_VISION, the largest difference of all tensors that come out.
"""

from __future__ import annotations

import asyncio
import copy
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "comfy-nodes"))

from pack_support import Bridge, part

import comfy.model_management  # isort: skip - ComfyUI is on the path once pack_support is there
import folder_paths  # isort: skip
import nodes  # isort: skip
import torch  # isort: skip

NAME = "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors"


class Vae:
    """Gives what a node asks of a VAE; latents are none of the drop-in's business."""

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.zeros(pixels.shape[0], 4, pixels.shape[1] // 8, pixels.shape[2] // 8)


class StyleModel:
    """A style model that passes its input on."""

    def get_cond(self, output: Any) -> torch.Tensor:
        return output.last_hidden_state


class Sampling:
    def percent_to_sigma(self, percent: float) -> float:
        return 1 - percent


class Model:
    """What IPAdapter_plus asks of a MODEL: options that it puts its patches into."""

    def __init__(self) -> None:
        self.model_options: dict[str, Any] = {"transformer_options": {}}
        self.model = torch.nn.Module()

    def clone(self) -> Model:
        made = Model()
        made.model_options = copy.copy(self.model_options)
        return made

    def get_model_object(self, _name: str) -> Sampling:
        return Sampling()


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """All floating tensors of a value, in a fixed order."""
    if isinstance(value, torch.Tensor):
        if value.is_floating_point():
            yield value.float()
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            yield from tensors_in(value[key])
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from tensors_in(entry)
    elif isinstance(value, Model):
        for _key, patch in sorted(value.model_options["transformer_options"]["patches_replace"]["attn2"].items()):
            yield from tensors_in([{k: kwargs[k] for k in ("cond", "uncond")} for kwargs in patch.kwargs])
    elif hasattr(value, "image_embeds"):
        yield from (value.last_hidden_state, value.penultimate_hidden_states, value.image_embeds)
    elif hasattr(value, "args"):
        yield from tensors_in(value.args)


def import_folder(path: str) -> Any:
    """A pack of nodes, as ComfyUI imports it."""
    spec = importlib.util.spec_from_file_location("plus", Path(path, "__init__.py"), submodule_search_locations=[path])
    module = importlib.util.module_from_spec(spec)
    sys.modules["plus"] = module
    spec.loader.exec_module(module)
    return module


def core_uses(image: torch.Tensor) -> dict[str, Callable[[Any], Any]]:
    """ComfyUI's own nodes that take a CLIP_VISION or its output."""
    from comfy_extras import nodes_hunyuan3d, nodes_stable3d, nodes_video_model, nodes_wan

    one = image[:1]
    text = [[torch.ones(1, 77, 768), {}]]
    sides = {"width": 64, "height": 64}

    def encode(vision: Any, crop: str = "center") -> Any:
        return nodes.CLIPVisionEncode().encode(vision, image, crop)[0]

    def call(node: type, **inputs: Any) -> Any:
        return getattr(node, "execute", None)(**inputs) if hasattr(node, "execute") else node().encode(**inputs)

    def wan(vision: Any) -> Any:
        output = encode(vision)
        inputs = {"positive": text, "negative": text, "vae": Vae(), "length": 5, "batch_size": 1, **sides}
        return [
            entry[1]["clip_vision_output"]
            for entry in call(nodes_wan.WanImageToVideo, clip_vision_output=output, **inputs).args[0]
        ]

    return {
        "CLIPVisionEncode center": encode,
        "CLIPVisionEncode none": lambda vision: encode(vision, "none"),
        "unCLIPConditioning": lambda vision: [
            entry["clip_vision_output"]
            for entry in nodes.unCLIPConditioning().apply_adm(text, encode(vision), 1.0, 0.1)[0][0][1][
                "unclip_conditioning"
            ]
        ],
        "StyleModelApply": lambda vision: nodes.StyleModelApply().apply_stylemodel(
            [[torch.ones(1, 7, 1024), {}]], StyleModel(), encode(vision), 1.0, "multiply"
        ),
        "SVD_img2vid_Conditioning": lambda vision: call(
            nodes_video_model.SVD_img2vid_Conditioning,
            clip_vision=vision,
            init_image=one,
            vae=Vae(),
            video_frames=2,
            motion_bucket_id=127,
            fps=6,
            augmentation_level=0.0,
            **sides,
        ),
        "StableZero123_Conditioning": lambda vision: call(
            nodes_stable3d.StableZero123_Conditioning,
            clip_vision=vision,
            init_image=one,
            vae=Vae(),
            batch_size=1,
            elevation=0.0,
            azimuth=10.0,
            **sides,
        ),
        "WanImageToVideo": wan,
        "Hunyuan3Dv2Conditioning": lambda vision: call(
            nodes_hunyuan3d.Hunyuan3Dv2Conditioning, clip_vision_output=encode(vision)
        ),
    }


def ipadapter_uses(image: torch.Tensor, folder: str) -> dict[str, Callable[[Any, Any], Any]]:
    """Nodes of IPAdapter_plus. Each gets the encoder, and what its unified loader passes on."""
    folder_paths.folder_names_and_paths["ipadapter"] = (
        [os.path.join(folder_paths.models_dir, "ipadapter")],
        {".safetensors"},
    )
    plus = import_folder(folder).NODE_CLASS_MAPPINGS
    files = {"base": "ip-adapter_sd15.safetensors", "plus": "ip-adapter-plus_sd15.safetensors"}
    adapters = {kind: plus["IPAdapterModelLoader"]().load_ipadapter_model(file)[0] for kind, file in files.items()}

    def apply(node: str, kind: str, **options: Any) -> Callable[[Any, Any], Any]:
        options = {"weight": 0.8, "weight_type": "linear", "start_at": 0.0, "end_at": 1.0, **options}
        return lambda vision, _pipeline: getattr(plus[node](), plus[node].FUNCTION)(
            Model(), adapters[kind], image=image, clip_vision=vision, **options
        )[0]

    def unified(_vision: Any, pipeline: Any) -> Any:
        model, loaded = plus["IPAdapterUnifiedLoader"]().load_models(
            Model(), "PLUS (high strength)", ipadapter=pipeline
        )
        return plus["IPAdapterEncoder"]().encode(loaded, image, 1.0), model and None

    return {
        "IPAdapterEncoder base": lambda vision, _p: plus["IPAdapterEncoder"]().encode(
            adapters["base"], image, 1.0, clip_vision=vision
        ),
        "IPAdapterEncoder plus": lambda vision, _p: plus["IPAdapterEncoder"]().encode(
            adapters["plus"], image, 1.0, clip_vision=vision
        ),
        "IPAdapterAdvanced base": apply("IPAdapterAdvanced", "base", combine_embeds="concat"),
        "IPAdapterAdvanced plus": apply("IPAdapterAdvanced", "plus", combine_embeds="average"),
        "IPAdapterBatch plus": apply("IPAdapterBatch", "plus"),
        "IPAdapterTiled plus": apply("IPAdapterTiled", "plus", combine_embeds="concat", sharpening=0.0),
        "IPAdapterUnifiedLoader plus": unified,
    }


def main() -> None:
    """Prints one line of JSON for every use."""
    torch.manual_seed(3)
    image = torch.nn.functional.interpolate(torch.rand(2, 3, 20, 30), (320, 480), mode="bilinear").movedim(1, -1)
    loader = part("nodes.clip_vision_loader").VisionBridgeCLIPVisionLoader
    with Bridge():
        ours, pipeline = asyncio.run(loader.execute(NAME)).args
        own = nodes.CLIPVisionLoader().load_clip(NAME)[0]
        uses: dict[str, Callable[[Any, Any], Any]] = {
            name: lambda vision, _pipeline, use=use: use(vision) for name, use in core_uses(image).items()
        }
        if len(sys.argv) > 1:
            uses.update(ipadapter_uses(image, sys.argv[1]))
        for name, use in uses.items():
            with torch.inference_mode():
                try:
                    expected = list(tensors_in(use(own, None)))
                    given = list(tensors_in(use(copy.copy(ours), copy.copy(pipeline))))
                except Exception as error:
                    print(json.dumps({"use": name, "error": repr(error)[:300]}), flush=True)
                    raise
            same = [a.shape for a in expected] == [b.shape for b in given] and len(given) > 0
            far = max((a - b).abs().max().item() for a, b in zip(expected, given)) if same else None
            near = (
                min(
                    torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0).item()
                    for a, b in zip(expected, given)
                    if a.norm() > 0
                )
                if same
                else None
            )
            print(json.dumps({"use": name, "tensors": len(given), "max_abs": far, "cosine": near}), flush=True)
        comfy.model_management.unload_all_models()
        print(
            json.dumps(
                {"use": "after unloading all models", "works": ours.encode_image(image).image_embeds.shape[0] == 2}
            )
        )


main()
