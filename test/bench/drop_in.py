"""Times one picture through the drop-in, as ComfyUI calls it; prints every run as JSON.

What is no overhead is measured in the same run: the preparation of the picture here, the model's own time from the
bridge's Server-Timing header.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "comfy-nodes"))

from pack_support import Bridge, part

import comfy.clip_vision  # isort: skip - ComfyUI is on the path once pack_support is there
import torch  # isort: skip

WARM_UP = 5
PAUSE_S = 0.1
SIDE = 512
FEATURES = ("last_hidden_state", "penultimate_hidden_states", "image_embeds")
# What the loader sends for one picture of 224 pixels.
PIXELS = bytes(3 * 224 * 224 * 4)
_plain: list[http.client.HTTPConnection] = []


def exchange(answer_bytes: int) -> float:
    """Milliseconds of the same bytes to a server that only answers, and back."""
    if not _plain:
        _plain.append(http.client.HTTPConnection("127.0.0.1", int(os.environ["PLAIN_PORT"])))
    begun = time.perf_counter()
    _plain[0].request("POST", f"/?bytes={answer_bytes}", PIXELS)
    body = bytearray(answer_bytes)
    assert http.client.HTTPConnection.getresponse(_plain[0]).readinto(body) == answer_bytes
    return (time.perf_counter() - begun) * 1000


def main() -> None:
    """`drop_in.py RUNS MODEL…`."""
    runs, names = int(sys.argv[1]), sys.argv[2:]
    spent = {"prepare": 0.0, "run": 0.0}
    prepare, get_response = comfy.clip_vision.clip_preprocess, http.client.HTTPConnection.getresponse

    def timed_prepare(*args: object, **options: object) -> torch.Tensor:
        begun = time.perf_counter()
        pixels = prepare(*args, **options)
        spent["prepare"] = (time.perf_counter() - begun) * 1000
        return pixels

    def timed_response(connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
        response = get_response(connection)
        timing = response.getheader("Server-Timing")
        if timing is not None:
            spent["run"] = float(timing.split("dur=")[1])
        return response

    comfy.clip_vision.clip_preprocess = timed_prepare
    http.client.HTTPConnection.getresponse = timed_response
    loader = part("nodes.clip_vision_loader").VisionBridgeCLIPVisionLoader
    with Bridge():
        for name in names:
            encoder = asyncio.run(loader.execute(name)).args[0]
            for run in range(-WARM_UP, runs):
                # A new picture each time: none comes out of the feature store.
                image = torch.rand(1, SIDE, SIDE, 3)
                begun = time.perf_counter()
                output = encoder.encode_image(image)
                total = (time.perf_counter() - begun) * 1000
                answer = sum(getattr(output, name).nbytes for name in FEATURES)
                plain = {"answer_bytes": answer, "exchange": exchange(answer)}
                if run >= 0:
                    print(json.dumps({"model": name, "total": total, **spent, **plain}), flush=True)
                time.sleep(PAUSE_S)


main()
