"""Loads the pack as ComfyUI does, and runs real bridges for the tests."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(os.environ["PACK_TEST_ROOT"])
SERVE = json.loads(os.environ["PACK_TEST_SERVE"])
PACK_FOLDER = Path(os.environ["PACK_TEST_PACK"])
START_WAIT_S = 30

sys.path.insert(0, os.environ.get("COMFYUI_CHECKOUT") or str(Path(__file__).parent / "stand_in"))
if "COMFYUI_CHECKOUT" in os.environ:
    own_arguments = sys.argv
    sys.argv = [sys.argv[0], "--cpu", "--base-directory", str(ROOT)]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.cli_args

    sys.argv = own_arguments
    import comfy_execution.progress as real_progress

    # ComfyUI's progress belongs to a running prompt; the tests run nodes without one.
    real_progress.reset_progress_state("prompt", None)


def load_pack(name: str = "/a folder/of-any name_x_1") -> ModuleType:
    """Imports the pack under a name that is no identifier, as ComfyUI does."""
    spec = importlib.util.spec_from_file_location(
        name, PACK_FOLDER / "__init__.py", submodule_search_locations=[str(PACK_FOLDER)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


pack = load_pack()


def part(name: str) -> ModuleType:
    """A module of the pack."""
    return importlib.import_module(f"{pack.__name__}.{name}")


def write_settings(**settings: Any) -> None:
    """Stores settings as ComfyUI's front end does."""
    folder = ROOT / "user" / "default"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "comfy.settings.json"
    path.write_text(json.dumps({f"VisionBridge.{key}": value for key, value in settings.items()}))
    # Two writes within the clock's resolution must differ.
    write_settings.count += 1
    os.utime(path, (write_settings.count, write_settings.count))


write_settings.count = 1


class Bridge:
    """A real `vision-bridge serve`, which can be killed and started again on its port."""

    def __init__(self, *flags: str) -> None:
        self.flags = flags
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Bridge:
        self.start()
        write_settings(Address=self.url)
        return self

    def __exit__(self, *_error: object) -> None:
        self.kill()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Waits until it answers."""
        command = [*SERVE, "--port", str(self.port), "--json", *self.flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
        text = b""
        while not text.rstrip().endswith(b"}"):
            line = self.process.stdout.readline()
            if line == b"":
                raise RuntimeError("the bridge did not start")
            text += line
        self.port = json.loads(text)["port"]

    def kill(self) -> None:
        """Ends it and its inference process without a goodbye."""
        if self.process is None:
            return
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()
        self.process = None

    def health(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/bridge/v1/health") as answer:
            return json.load(answer)

    def wait_idle(self, seconds: float = 5) -> float:
        """Seconds until no encode is under way."""
        begun = time.monotonic()
        while self.health()["inference"]["pending"] > 0:
            if time.monotonic() - begun > seconds:
                raise AssertionError("the bridge goes on working")
            time.sleep(0.02)
        return time.monotonic() - begun
