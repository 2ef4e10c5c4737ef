"""VisionBridgeCLIPVisionLoader: Load CLIP Vision, with the encoder in the bridge."""

from __future__ import annotations

from typing import Any

import folder_paths
from comfy_api.latest import io

from .file_choices import file_identity, list_files
from .node_call import call_node
from .remote_clip_vision import RemoteClipVision
from .remote_nodes import precisions

MODELS = {"kind": "models", "folder": "clip_vision"}


class VisionBridgeCLIPVisionLoader(io.ComfyNode):
    """Takes the place of Load CLIP Vision in any workflow."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="VisionBridgeCLIPVisionLoader",
            display_name="Load CLIP Vision (Vision Bridge)",
            category="vision bridge",
            description="Takes the place of Load CLIP Vision: the encoder runs outside the GPU and takes no VRAM. "
            "Whatever takes a CLIP_VISION takes this one.",
            inputs=[
                io.Combo.Input("clip_name", options=list_files(MODELS), tooltip="A model of the clip_vision folder."),
                io.Combo.Input(
                    "precision",
                    options=precisions(),
                    default="comfy",
                    optional=True,
                    tooltip="comfy gives ComfyUI's numbers, fp32 uses the weights as stored.",
                ),
            ],
            outputs=[
                io.ClipVision.Output("clip_vision_out", display_name="CLIP_VISION"),
                io.Custom("IPADAPTER").Output(
                    "ipadapter_out",
                    display_name="ipadapter",
                    tooltip="For the ipadapter input of IPAdapter Unified Loader: it then loads no encoder of its own.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, clip_name: str, **_others: Any) -> str:
        """Loads anew when the file was replaced."""
        return file_identity(MODELS, clip_name)

    @classmethod
    async def execute(cls, clip_name: str, precision: str = "comfy") -> io.NodeOutput:
        """Asks the bridge which encoder the file is."""
        answer = await call_node("CLIPVisionLoader", {"clip_name": "COMBO"}, {"clip_name": clip_name}, may_repeat=True)
        encoder = RemoteClipVision({**answer.outputs[0].handle, "precision": precision})
        return io.NodeOutput(encoder, unified_pipeline(clip_name, encoder))


def unified_pipeline(clip_name: str, encoder: RemoteClipVision) -> dict[str, dict[str, Any]]:
    """What IPAdapter_plus passes between its unified loaders: the encoder under the path that it would load itself."""
    return {
        "clipvision": {"file": folder_paths.get_full_path("clip_vision", clip_name), "model": encoder},
        "ipadapter": {"file": None, "model": None},
        "insightface": {"provider": None, "model": None},
    }
