"""Finding the bridge: absent, refused, of another version, something else, slow to come back."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import stat
import sys
import threading
import time
import unittest
from collections.abc import Iterator
from contextlib import contextmanager

from pack_support import ROOT, SERVE, Bridge, part, write_settings

client_module = part("bridge_client")
settings = part("settings")
launcher = part("launcher")
BridgeError, Request = client_module.BridgeError, part("http_exchange").Request
HEALTH = Request("GET", "/bridge/v1/health")


def new_client(**options: object) -> object:
    """A client that knows nothing yet."""
    return client_module.BridgeClient(settings.bridge_address, pack_version="1.2.3", **options)


@contextmanager
def other_server(status: int, answer: object) -> Iterator[None]:
    """Something that is no bridge of ours."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        write_settings(Address=f"127.0.0.1:{server.server_port}")
        yield
    finally:
        server.shutdown()
        server.server_close()


class Finding(unittest.TestCase):
    def test_the_address_is_the_default_or_the_setting(self) -> None:
        for given, expected in (
            (None, "http://127.0.0.1:8189"),
            ("", "http://127.0.0.1:8189"),
            (" 192.0.2.7:9000/ ", "http://192.0.2.7:9000"),
            ("https://gpu.example", "https://gpu.example"),
            ("file:///etc/passwd", "http://127.0.0.1:8189"),
            ("http://:1", "http://127.0.0.1:8189"),
            ("http://host:port", "http://127.0.0.1:8189"),
            (7, "http://127.0.0.1:8189"),
        ):
            write_settings(Address=given)
            self.assertEqual(settings.bridge_address().url, expected, given)

    def test_a_bridge_that_is_not_there_is_told_at_once_with_how_to_start_it(self) -> None:
        write_settings(Address="http://127.0.0.1:9")
        begun = time.monotonic()
        with self.assertRaisesRegex(BridgeError, r"\[BRIDGE_UNAVAILABLE\].*127.0.0.1:9.*vision-bridge serve"):
            new_client().send(HEALTH)
        with self.assertRaisesRegex(BridgeError, "BRIDGE_UNAVAILABLE"):
            asyncio.run(new_client().send_async(HEALTH))
        self.assertLess(time.monotonic() - begun, 1)

    def test_something_else_at_the_address_is_named_as_such(self) -> None:
        for status, answer in ((200, {"system": {}}), (404, {}), (200, [1]), (500, "x")):
            with other_server(status, answer), self.assertRaisesRegex(BridgeError, r"\[NO_BRIDGE\]"):
                new_client().send(HEALTH)

    def test_another_version_says_which_side_to_update(self) -> None:
        with other_server(200, {"version": "9.0.0", "node_protocol": 99}):
            with self.assertRaisesRegex(BridgeError, r"pack 1\.2\.3 .*9\.0\.0.*Update the node pack"):
                new_client().send(HEALTH)
        with other_server(200, {"version": "0.0.1"}):
            with self.assertRaisesRegex(BridgeError, r"0\.0\.1.*Update vision-bridge"):
                new_client().send(HEALTH)

    def test_a_token_is_sent_and_a_missing_one_is_told(self) -> None:
        with Bridge("--token", "secret-of-tests") as bridge:
            with self.assertRaisesRegex(BridgeError, r"\[BRIDGE_REFUSES\].*token"):
                new_client().send(HEALTH)
            write_settings(Address=bridge.url, Token="secret-of-tests")  # noqa: S106 - of this test's own bridge
            self.assertEqual(new_client().send(HEALTH).status, 200)

    def test_connections_are_kept_and_requests_run_side_by_side(self) -> None:
        with Bridge():
            client = new_client()
            client.send(HEALTH)
            begun = time.monotonic()
            for _ in range(50):
                client.send(HEALTH)
            self.assertLess((time.monotonic() - begun) / 50, 0.02)
            self.assertEqual(len(client._connections._idle), 1)
            threads = [threading.Thread(target=client.send, args=(HEALTH,)) for _ in range(40)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.assertLessEqual(len(client._connections._idle), 8)

    def test_what_writes_is_never_sent_twice(self) -> None:
        with Bridge() as bridge:
            client = new_client()
            client.send(HEALTH)

            def break_it() -> None:
                bridge.kill()

            request = Request("GET", "/bridge/v1/health", may_repeat=False)
            original = client.new_exchange

            def exchange_that_breaks(address: object, sent: object) -> object:
                exchange = original(address, sent)
                talk = exchange._talk

                def talk_and_break(connection: object) -> object:
                    break_it()
                    return talk(connection)

                exchange._talk = talk_and_break
                return exchange

            client.new_exchange = exchange_that_breaks
            with self.assertRaisesRegex(BridgeError, r"\[CONNECTION_LOST\].*not sent again"):
                client.send(request)

    def test_the_wait_for_a_bridge_can_be_interrupted(self) -> None:
        with Bridge() as bridge:
            client = new_client()
            client.send(HEALTH)
            bridge.kill()

            def interrupted() -> None:
                raise KeyboardInterrupt

            with self.assertRaises(KeyboardInterrupt):
                client.send(HEALTH, interrupted)


class Starting(unittest.TestCase):
    """A `vision-bridge` on the path, which is the real one."""

    def setUp(self) -> None:
        folder = ROOT / "bin"
        folder.mkdir(exist_ok=True)
        script = folder / "vision-bridge"
        # The last flags win: the folders of the test's own tree.
        words = " ".join(f"'{word}'" for word in SERVE[: SERVE.index("serve")])
        extra = " ".join(f"'{word}'" for word in SERVE[SERVE.index("serve") + 1 :])
        script.write_text(f'#!/bin/sh\nexec {words} "$@" {extra}\n')
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        self.path = os.environ["PATH"]
        os.environ["PATH"] = f"{folder}{os.pathsep}{self.path}"
        self.addCleanup(os.environ.__setitem__, "PATH", self.path)
        self.addCleanup(launcher.stop_bridge)

    @unittest.skipIf(sys.platform == "win32", "the command is a shell script")
    def test_an_installed_command_is_started_when_the_setting_allows_it_and_only_then(self) -> None:
        with Bridge() as bridge:
            url = bridge.url  # a port that is free in a moment
        write_settings(Address=url)
        with self.assertRaisesRegex(BridgeError, "BRIDGE_UNAVAILABLE"):
            new_client(on_absent=launcher.start_bridge).send(HEALTH)
        write_settings(Address=url, Start=True)
        answer = new_client(on_absent=launcher.start_bridge).send(HEALTH)
        self.assertEqual(answer.json()["status"], "ok")
        launcher.stop_bridge()
        with self.assertRaisesRegex(BridgeError, "BRIDGE_UNAVAILABLE"):
            new_client().send(HEALTH)

    def test_a_bridge_on_another_machine_is_never_started(self) -> None:
        write_settings(Address="http://192.0.2.1:8189", Start=True)
        self.assertFalse(launcher.start_bridge(settings.bridge_address()))


if __name__ == "__main__":
    unittest.main()
