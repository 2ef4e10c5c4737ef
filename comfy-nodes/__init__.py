"""Vision Bridge for ComfyUI: vision encoders outside the GPU, and nodes on their features.

Everything heavy happens in the `vision-bridge` program; these nodes carry values to it and back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .routes import register_routes

if TYPE_CHECKING:
    from comfy_api.latest import ComfyExtension

WEB_DIRECTORY = "./web"

register_routes()


async def comfy_entrypoint() -> ComfyExtension:
    """What ComfyUI calls for the nodes of a V3 pack."""
    from .nodes import VisionBridgeExtension

    return VisionBridgeExtension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
