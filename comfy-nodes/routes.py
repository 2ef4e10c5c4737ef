"""Same-origin routes for the panel: `/vision_bridge/...`.

The browser talks to ComfyUI only; these routes pass on what the panel needs and nothing else. Paths are fixed, answers
are JSON of bounded size, and what changes something needs a header that no foreign page can send.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from .bridge_client import BridgeError
from .http_exchange import Answer, Request

# Panel route: method, route of the bridge, query parameters that are passed on.
PASSED_ON: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "/vision_bridge/stats": ("GET", "/bridge/v1/stats", ("by",)),
    "/vision_bridge/models": ("GET", "/bridge/v1/models", ("sort", "descending", "limit")),
    "/vision_bridge/doctor": ("GET", "/bridge/v1/doctor", ()),
    "/vision_bridge/duplicates": ("POST", "/bridge/v1/duplicates", ()),
    "/vision_bridge/missing-models": ("POST", "/bridge/v1/missing-models", ()),
    "/vision_bridge/free": ("POST", "/free", ()),
}
GUARD_HEADER = "X-Vision-Bridge"
MAX_BODY_BYTES = 16 * 1024 * 1024
MAX_PARAMETER_LENGTH = 100
MAX_ANSWER_BYTES = 64 * 1024 * 1024


def register_routes() -> None:
    """Adds the routes to ComfyUI's server; does nothing where there is none."""
    try:
        from server import PromptServer
    except ImportError:
        return
    server = getattr(PromptServer, "instance", None)
    if server is None:
        return
    for path, (method, target, parameters) in PASSED_ON.items():
        handler = _pass_on(method, target, parameters)
        if method == "GET":
            server.routes.get(path)(handler)
        else:
            server.routes.post(path)(handler)
    server.routes.get("/vision_bridge/state")(_state)
    server.routes.post("/vision_bridge/start")(_start)


def _pass_on(method: str, target: str, parameters: tuple[str, ...]) -> Callable[[Any], Awaitable[Any]]:
    async def handler(request: Any) -> Any:
        body: list[bytes] = []
        if method != "GET":
            if GUARD_HEADER not in request.headers:
                return _problem(403, "FORBIDDEN", f"The header {GUARD_HEADER} is missing.")
            text = await _read_body(request)
            if text is None:
                return _problem(413, "INVALID_REQUEST", "The request is too large.")
            try:
                body = [json.dumps(json.loads(text)).encode()]
            except (ValueError, RecursionError):
                return _problem(400, "INVALID_REQUEST", "The body is not JSON.")
        query = {name: request.query[name] for name in parameters if name in request.query}
        if any(len(value) > MAX_PARAMETER_LENGTH for value in query.values()):
            return _problem(400, "INVALID_REQUEST", "A parameter is too long.")
        return await _ask(Request(method, target, query, body, "application/json"))

    return handler


async def _read_body(request: Any) -> bytes | None:
    """The body, whatever length it claims; None for one that is too large."""
    text = bytearray()
    async for chunk in request.content.iter_any():
        text += chunk
        if len(text) > MAX_BODY_BYTES:
            return None
    return bytes(text)


async def _ask(request: Request) -> Any:
    from aiohttp import web

    from .bridge import client

    try:
        answer = await asyncio.to_thread(client.send, request)
    except BridgeError as error:
        # What the bridge has not got is for the panel to leave out.
        status = 404 if error.code in ("BRIDGE_REFUSES", "NOT_FOUND") else 503 if _is_absence(error) else 502
        return _problem(status, error.code, error.message)
    if not _is_json(answer):
        return _problem(502, "INTERNAL", "The bridge did not answer with JSON.")
    return web.Response(body=bytes(answer.body), content_type="application/json")


def _is_json(answer: Answer) -> bool:
    if len(answer.body) == 0:
        answer.body.extend(b"{}")
        return True
    return answer.content_type.startswith("application/json") and len(answer.body) <= MAX_ANSWER_BYTES


async def _state(_request: Any) -> Any:
    """What the panel shows first; always answers."""
    from aiohttp import web

    from .bridge import PACK_VERSION, client
    from .launcher import is_installed
    from .settings import may_start_bridge

    state: dict[str, Any] = {
        "address": client.address.url,
        "pack_version": PACK_VERSION,
        "is_installed": is_installed(),
        "may_start": may_start_bridge(),
        "health": None,
        "problem": None,
    }
    try:
        answer = await asyncio.to_thread(client.send, Request("GET", "/bridge/v1/health"))
        state["health"] = answer.json()
    except BridgeError as error:
        state["problem"] = {"code": error.code, "message": error.message}
    return web.json_response(state)


async def _start(request: Any) -> Any:
    """Starts the installed command, if the settings allow it."""
    from aiohttp import web

    from .bridge import client
    from .launcher import start_bridge

    if GUARD_HEADER not in request.headers:
        return _problem(403, "FORBIDDEN", f"The header {GUARD_HEADER} is missing.")
    return web.json_response({"started": await asyncio.to_thread(start_bridge, client.address)})


def _is_absence(error: BridgeError) -> bool:
    return error.code in ("BRIDGE_UNAVAILABLE", "NO_BRIDGE")


def _problem(status: int, code: str, message: str) -> Any:
    from aiohttp import web

    return web.json_response({"error": {"code": code, "message": message, "details": {}}}, status=status)
