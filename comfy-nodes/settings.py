"""Settings of the pack, as the ComfyUI front end keeps them.

They are edited in ComfyUI's settings dialog and stored by it; here they are only read. With several users the default
user's apply, since there is one bridge for all.
"""

from __future__ import annotations

import json
import os
from typing import Any
from urllib.parse import urlsplit

import folder_paths

from .http_exchange import Address

DEFAULT_URL = "http://127.0.0.1:8189"

ADDRESS = "VisionBridge.Address"
TOKEN = "VisionBridge.Token"  # noqa: S105 - the name of a setting
START = "VisionBridge.Start"

_known: tuple[float, dict[str, Any]] | None = None


def read_settings() -> dict[str, Any]:
    """All settings of the default user; empty where there are none yet, or the file is broken."""
    global _known
    path = os.path.join(folder_paths.get_user_directory(), "default", "comfy.settings.json")
    try:
        changed = os.stat(path).st_mtime
        if _known is None or _known[0] != changed:
            with open(path, encoding="utf-8") as file:
                settings = json.load(file)
            _known = (changed, settings if isinstance(settings, dict) else {})
        return _known[1]
    except (OSError, ValueError):
        return {}


def bridge_address() -> Address:
    """Where the bridge is said to be; the default where nothing usable is said."""
    settings = read_settings()
    text, token = settings.get(ADDRESS), settings.get(TOKEN)
    url = text.strip().rstrip("/") if isinstance(text, str) and text.strip() else DEFAULT_URL
    if "://" not in url:
        url = f"http://{url}"
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    return Address(url if is_usable else DEFAULT_URL, token if isinstance(token, str) and token else None)


def may_start_bridge() -> bool:
    """Whether the pack may start an installed `vision-bridge`."""
    return read_settings().get(START) is True
