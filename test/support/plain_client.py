"""A client of ComfyUI as people write it by hand: urllib and a websocket of the standard library, nothing else.

Uploads, runs, follows, fetches, provokes errors and interrupts; prints one JSON document of what happened.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
import sys
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

TIMEOUT_S = 20


class PlainSocket:
    """The receiving half of RFC 6455, and the handshake."""

    def __init__(self, host: str, client_id: str) -> None:
        name, port = host.split(":")
        self._socket = socket.create_connection((name, int(port)), timeout=TIMEOUT_S)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            f"GET /ws?clientId={client_id} HTTP/1.1",
            f"Host: {host}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
        ]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())
        self._reader = self._socket.makefile("rb")
        if b" 101 " not in self._reader.readline():
            raise ConnectionError("the server does not speak websocket")
        while self._reader.readline().strip():
            pass

    def events(self) -> Any:
        """Yields (type, data) of text frames."""
        while True:
            head, length = struct.unpack("!BB", self._reader.read(2))
            if length == 126:
                (length,) = struct.unpack("!H", self._reader.read(2))
            elif length == 127:
                (length,) = struct.unpack("!Q", self._reader.read(8))
            payload = self._reader.read(length)
            if head & 0x0F == 1:
                message = json.loads(payload)
                yield message["type"], message["data"]

    def close(self) -> None:
        self._reader.close()
        self._socket.close()


def call(host: str, path: str, body: bytes | None = None, content_type: str = "application/json") -> bytes:
    headers = {} if body is None else {"Content-Type": content_type}
    request = urllib.request.Request(f"http://{host}{path}", data=body, headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        return response.read()


def upload(host: str, name: str, data: bytes) -> dict[str, Any]:
    head = f'--plain\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'
    body = head.encode() + data + b"\r\n--plain--\r\n"
    return json.loads(call(host, "/upload/image", body, "multipart/form-data; boundary=plain"))


def submit(host: str, client_id: str, prompt: dict[str, Any]) -> str:
    body = json.dumps({"prompt": prompt, "client_id": client_id}).encode()
    return json.loads(call(host, "/prompt", body))["prompt_id"]


def main() -> None:
    host, picture, workflow, slow, broken = sys.argv[1], sys.argv[2], *map(json.loads, sys.argv[3:6])
    client_id = "plain-python"
    channel = PlainSocket(host, client_id)
    events = channel.events()

    def follow(prompt_id: str, last: str, react: str = "") -> list[str]:
        seen = []
        for kind, data in events:
            if data.get("prompt_id") != prompt_id:
                continue
            seen.append(kind)
            if kind == react:
                call(host, "/interrupt", b"")
                react = ""
            if kind == last:
                return seen
        return seen

    with open(picture, "rb") as file:
        uploaded = upload(host, "plain.png", file.read())
    prompt_id = submit(host, client_id, workflow)
    followed = follow(prompt_id, "execution_success")
    # As in ComfyUI, the entry may come a moment after the event.
    history: dict[str, Any] = {}
    while prompt_id not in history:
        history = json.loads(call(host, f"/history/{prompt_id}"))
    image = history[prompt_id]["outputs"]["5"]["images"][0]
    query = urllib.parse.urlencode(image)
    fetched = call(host, f"/view?{query}")
    failed = follow(submit(host, client_id, broken), "execution_error")
    interrupted = follow(submit(host, client_id, slow), "execution_interrupted", react="progress")
    try:
        submit(host, client_id, {"1": {"class_type": "NoSuchNode", "inputs": {}}})
        refusal = {}
    except urllib.error.HTTPError as error:
        refusal = {"status": error.code, "type": json.loads(error.read())["error"]["type"]}
    channel.close()
    result = {
        "uploaded": uploaded["name"],
        "followed": followed,
        "png": fetched[:8].hex(),
        "failed": failed[-1],
        "interrupted": interrupted[-1],
        "refusal": refusal,
    }
    print(json.dumps(result))


main()
