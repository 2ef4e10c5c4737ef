"""What a node does while it waits for the bridge: notice an interrupt, and show progress."""

from __future__ import annotations

import io as byte_io
from collections import deque
from collections.abc import Callable

import comfy.model_management
from comfy_execution.utils import get_executing_context

from ..events import Event, Preview, Progress


def check_interrupted() -> None:
    """Raises ComfyUI's own exception once the user pressed Cancel."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def make_on_wait(queue: deque[Event]) -> Callable[[], None]:
    """A function for those who wait: interrupts raise, progress goes to the node that runs now."""
    context = get_executing_context()
    node_id = context.node_id if context is not None else None
    last = Progress(0, 1)

    def on_wait() -> None:
        nonlocal last
        check_interrupted()
        while queue:
            event = queue.popleft()
            if node_id is None:
                continue
            if isinstance(event, Progress):
                last = event
                _show_progress(node_id, last, None)
            elif isinstance(event, Preview):
                _show_progress(node_id, last, event.image)
            else:
                _show_text(node_id, event.text)

    return on_wait


def _show_progress(node_id: str, progress: Progress, picture: bytes | None) -> None:
    from comfy_execution.progress import get_progress_state

    preview = None
    if picture is not None:
        from PIL import Image

        image = Image.open(byte_io.BytesIO(picture))
        # Already of the size that it shall be shown in.
        preview = (image.format or "JPEG", image, None)
    get_progress_state().update_progress(node_id, progress.value, progress.max, preview)


def _show_text(node_id: str, text: str) -> None:
    from server import PromptServer

    if hasattr(PromptServer.instance, "send_progress_text"):
        PromptServer.instance.send_progress_text(text, node_id)
