"""Starts an installed `vision-bridge` where the user allowed it. Nothing is ever fetched or installed.

The command is looked up by name; neither it nor its arguments can be set from outside. The process ends with ComfyUI.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import subprocess
import threading

import folder_paths

from .http_exchange import Address
from .settings import may_start_bridge

COMMAND = "vision-bridge"
STOP_WAIT_S = 5.0

log = logging.getLogger("vision_bridge")
_lock = threading.Lock()
_process: subprocess.Popen[bytes] | None = None


def is_installed() -> bool:
    """Whether there is a command to start."""
    return shutil.which(COMMAND) is not None


def start_bridge(address: Address) -> bool:
    """Starts the command for this ComfyUI, if it may, can and does not run yet. True when one runs that we started."""
    global _process
    if not may_start_bridge() or not address.is_loopback or not address.url.startswith("http://"):
        return False
    command = shutil.which(COMMAND)
    if command is None:
        return False
    with _lock:
        if _process is not None and _process.poll() is None:
            return True
        arguments = [command, "serve", "--port", str(address.port), "--comfyui", folder_paths.base_path]
        for flag, folder in (
            ("--input-directory", folder_paths.get_input_directory()),
            ("--output-directory", folder_paths.get_output_directory()),
        ):
            arguments += [flag, folder]
        if address.token:
            arguments += ["--token", address.token]
        log.info("Vision Bridge: starting %s", command)
        try:
            _process = subprocess.Popen(  # noqa: S603 - a fixed command without a shell
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=os.path.expanduser("~"),
            )
        except OSError as error:
            log.warning("Vision Bridge: %s does not start: %s", command, error)
            return False
        atexit.register(stop_bridge)
        return True


def stop_bridge() -> None:
    """Ends the bridge that we started, and no other."""
    global _process
    with _lock:
        process, _process = _process, None
    if process is None or process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(STOP_WAIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
