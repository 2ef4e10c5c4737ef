"""The nodes: those of nodes.json, built from their descriptions, and those that touch ComfyUI's own objects."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .clip_vision_loader import VisionBridgeCLIPVisionLoader
from .ipadapter_apply import VisionBridgeIPAdapterApply
from .remote_nodes import build_remote_nodes


class VisionBridgeExtension(ComfyExtension):
    """What ComfyUI asks for the nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes of the pack."""
        return [VisionBridgeCLIPVisionLoader, VisionBridgeIPAdapterApply, *build_remote_nodes()]
