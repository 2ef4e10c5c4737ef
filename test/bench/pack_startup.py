"""What the pack adds to ComfyUI's start: loading it as ComfyUI does, once everything of ComfyUI itself is loaded.

python test/bench/pack_startup.py COMFYUI_CHECKOUT [RUNS]

Each run is a process of its own, and none finds a bridge. Prints milliseconds, and with -v the slowest imports.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

PACK = Path(__file__).parents[2] / "comfy-nodes"

ONE_RUN = """
import asyncio, logging, sys, time
pack, base = sys.argv[1:3]
sys.argv = ["main.py", "--cpu", "--disable-api-nodes", "--base-directory", base, "--front-end-root", base]
import comfy.options
comfy.options.enable_args_parsing()
import main, nodes, server
async def load():
    server.PromptServer.instance = server.PromptServer(asyncio.get_running_loop())
    # Everything of ComfyUI itself: what both share is not the pack's.
    await nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False)
    begun = time.perf_counter()
    assert await nodes.load_custom_node(pack, module_parent="custom_nodes")
    print("LOADED", (time.perf_counter() - begun) * 1000)
asyncio.run(load())
"""


def main() -> None:
    """Loads the pack RUNS times."""
    checkout, runs = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5
    times = []
    for _run in range(runs):
        with tempfile.TemporaryDirectory() as base:
            Path(base, "custom_nodes").mkdir()
            done = subprocess.run(
                [sys.executable, "-c", ONE_RUN, str(PACK), base],
                cwd=checkout,
                capture_output=True,
                text=True,
                check=False,
            )
        line = next((line for line in done.stdout.splitlines() if line.startswith("LOADED")), None)
        if line is None:
            sys.exit(done.stderr[-3000:])
        times.append(float(line.split()[1]))
    times.sort()
    print(
        f"the pack loads in {times[len(times) // 2]:.0f} ms (median of {runs}: {', '.join(f'{t:.0f}' for t in times)})"
    )


main()
