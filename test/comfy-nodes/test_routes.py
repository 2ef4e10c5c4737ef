"""The routes that the browser may use: what the panel needs from a real bridge, and nothing else."""

from __future__ import annotations

import json
import sys
import unittest
from collections.abc import AsyncIterator
from types import SimpleNamespace
from unittest import mock

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer
from pack_support import Bridge, part, write_settings
from yarl import URL

routes = part("routes")
GUARD = {"X-Vision-Bridge": "1"}
CLOSED = "http://127.0.0.1:1"


def new_app() -> web.Application:
    """What ComfyUI makes of the routes that a pack adds."""
    table = web.RouteTableDef()
    running = SimpleNamespace(PromptServer=SimpleNamespace(instance=SimpleNamespace(routes=table)))
    with mock.patch.dict(sys.modules, server=running):
        routes.register_routes()
    app = web.Application(client_max_size=200 * 1024 * 1024)
    app.add_routes(table)
    # ComfyUI serves every route below /api as well.
    api = web.RouteTableDef()
    for route in table:
        api.route(route.method, f"/api{route.path}")(route.handler)
    app.add_routes(api)
    return app


class Routes(unittest.IsolatedAsyncioTestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.bridge = Bridge().__enter__()
        cls.addClassCleanup(cls.bridge.__exit__)

    async def asyncSetUp(self) -> None:
        self.server = TestServer(new_app())
        await self.server.start_server()
        self.addAsyncCleanup(self.server.close)
        self.session = aiohttp.ClientSession()
        self.addAsyncCleanup(self.session.close)

    async def ask(self, method: str, path: str, **options: object) -> tuple[int, object]:
        url = f"http://{self.server.host}:{self.server.port}{path}"
        async with self.session.request(method, URL(url, encoded=True), **options) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if answer.content_type == "application/json" else text

    async def test_the_panel_gets_what_it_asks_for(self) -> None:
        status, state = await self.ask("GET", "/vision_bridge/state")
        self.assertEqual((status, state["health"]["status"], state["problem"]), (200, "ok", None))
        for path, key in (
            ("stats?by=kind", "groups"),
            ("models?sort=size&descending=true&limit=3", "models"),
            ("doctor", "issues"),
        ):
            status, body = await self.ask("GET", f"/api/vision_bridge/{path}")
            self.assertEqual(status, 200, body)
            self.assertIsInstance(body[key], list)
        for path, sent, key in (
            ("duplicates", {}, "groups"),
            ("missing-models", {"nodes": [{"id": 1, "type": "X", "widgets_values": ["a.safetensors"]}]}, "references"),
        ):
            status, body = await self.ask("POST", f"/vision_bridge/{path}", json=sent, headers=GUARD)
            self.assertEqual(status, 200, body)
            self.assertIsInstance(body[key], list)
        status, _body = await self.ask("POST", "/vision_bridge/free", json={"unload_models": True}, headers=GUARD)
        self.assertEqual(status, 200)

    async def test_other_paths_and_methods_lead_nowhere(self) -> None:
        for path in (
            "/vision_bridge/",
            "/vision_bridge/queue",
            "/vision_bridge/prompt",
            "/vision_bridge/models/clip_vision/a.safetensors",
            "/vision_bridge/models/..%2f..%2f..%2fprompt",
            "/vision_bridge/..%2f..%2fhistory",
            "/vision_bridge/%2e%2e/bridge/v1/encode",
            "/vision_bridge/stats%00",
            "/vision_bridge/http://127.0.0.1:1/",
        ):
            status, _body = await self.ask("GET", path)
            self.assertEqual(status, 404, path)
        for method, path in (
            ("POST", "stats"),
            ("PUT", "free"),
            ("DELETE", "models"),
            ("GET", "free"),
            ("GET", "start"),
            ("PATCH", "doctor"),
            ("GET", "duplicates"),
        ):
            status, _body = await self.ask(method, f"/vision_bridge/{path}", headers=GUARD)
            self.assertEqual(status, 405, (method, path))

    async def test_what_changes_something_needs_the_header_that_no_foreign_page_can_send(self) -> None:
        for path in ("free", "duplicates", "missing-models", "start"):
            status, body = await self.ask("POST", f"/vision_bridge/{path}", json={})
            self.assertEqual((status, body["error"]["code"]), (403, "FORBIDDEN"), path)

    async def test_only_the_panels_parameters_reach_the_bridge_and_only_short_ones(self) -> None:
        smuggled = "by=kind&token=x&wait=true&by%26wait=1&host=elsewhere&url=http://127.0.0.1:1"
        status, body = await self.ask("GET", f"/vision_bridge/stats?{smuggled}")
        self.assertEqual((status, body["by"]), (200, "kind"))
        status, body = await self.ask("GET", "/vision_bridge/stats?by=kind%26by%3Dfolder%23")
        self.assertEqual((status, body["error"]["code"]), (502, "INVALID_REQUEST"))
        status, body = await self.ask("GET", f"/vision_bridge/stats?by={'k' * 101}")
        self.assertEqual((status, body["error"]["code"]), (400, "INVALID_REQUEST"))

    async def test_bodies_are_json_and_bounded_whatever_length_they_claim(self) -> None:
        for text in (b"", b"no json", b'{"a":', b"[" * 100_000):
            status, body = await self.ask("POST", "/vision_bridge/missing-models", data=text, headers=GUARD)
            self.assertEqual((status, body["error"]["code"]), (400, "INVALID_REQUEST"), text[:10])

        async def endless() -> AsyncIterator[bytes]:
            for _chunk in range(routes.MAX_BODY_BYTES // 2**20 + 2):
                yield b" " * 2**20

        status, body = await self.ask("POST", "/vision_bridge/missing-models", data=endless(), headers=GUARD)
        self.assertEqual((status, body["error"]["code"]), (413, "INVALID_REQUEST"))

    async def test_without_a_bridge_the_state_says_how_to_start_it_and_the_rest_fails_plainly(self) -> None:
        write_settings(Address=CLOSED)
        try:
            status, state = await self.ask("GET", "/vision_bridge/state")
            self.assertEqual((status, state["health"]), (200, None))
            self.assertEqual(state["problem"]["code"], "BRIDGE_UNAVAILABLE")
            self.assertIn("vision-bridge serve", state["problem"]["message"])
            status, body = await self.ask("GET", "/vision_bridge/doctor")
            self.assertEqual((status, body["error"]["code"]), (503, "BRIDGE_UNAVAILABLE"))
        finally:
            write_settings(Address=self.bridge.url)

    async def test_nothing_is_started_without_the_setting(self) -> None:
        status, body = await self.ask("POST", "/vision_bridge/start", json={}, headers=GUARD)
        self.assertEqual((status, body), (200, {"started": False}))


if __name__ == "__main__":
    unittest.main()
