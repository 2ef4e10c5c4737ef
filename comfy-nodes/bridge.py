"""The one client and event channel that all nodes and routes of the pack share."""

from __future__ import annotations

import atexit
import re
from pathlib import Path

from .bridge_client import BridgeClient
from .events import EventChannel
from .launcher import start_bridge
from .settings import bridge_address

PACK_FOLDER = Path(__file__).parent


def read_pack_version() -> str:
    """The version in pyproject.toml."""
    text = (PACK_FOLDER / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^version = "([^"]+)"$', text, re.MULTILINE)
    return found.group(1) if found else "of unknown version"


PACK_VERSION = read_pack_version()

client = BridgeClient(bridge_address, start_bridge, PACK_VERSION)
events = EventChannel(bridge_address)
atexit.register(client.close)
