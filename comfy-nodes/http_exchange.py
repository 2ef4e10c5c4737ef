"""One HTTP request and its answer, over connections that are kept and may be cancelled from any thread.

Knows nothing of the bridge but where it is. Who sends what, and how often, is bridge_client.py.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import select
import socket
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

CONNECT_TIMEOUT_S = 2.0
# Node's server closes connections that were idle for five seconds; those near that are not used again.
MAX_IDLE_S = 4.0
MAX_IDLE_CONNECTIONS = 8
# Far above any answer, and below what would take the machine down.
MAX_ANSWER_BYTES = 8 * 1024**3
MAX_ERROR_BYTES = 1024 * 1024


class RefusedError(Exception):
    """No connection came about: nothing was sent."""


class LostError(Exception):
    """The connection ended before the answer was complete."""


@dataclass(frozen=True)
class Address:
    """Where the bridge is, and the secret that it asks for, if any."""

    url: str
    token: str | None = None

    @property
    def host(self) -> str:
        """Name or number of the machine, in lower case."""
        return urlsplit(self.url).hostname or "127.0.0.1"

    @property
    def port(self) -> int:
        """The port, or the one that the scheme implies."""
        parts = urlsplit(self.url)
        return parts.port or (443 if parts.scheme == "https" else 80)

    @property
    def is_loopback(self) -> bool:
        """Whether the bridge is on this machine."""
        return self.host in {"127.0.0.1", "localhost", "::1"}

    def connect(self) -> http.client.HTTPConnection:
        """A connection of this address, not yet open."""
        is_tls = urlsplit(self.url).scheme == "https"
        kind = http.client.HTTPSConnection if is_tls else http.client.HTTPConnection
        return kind(self.host, self.port, timeout=CONNECT_TIMEOUT_S)


@dataclass(frozen=True)
class Answer:
    """What came back: the status, the type of the body, and the body."""

    status: int
    content_type: str
    body: bytearray

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Request:
    """What is sent. `body` is a list of buffers, which are not copied."""

    method: str
    path: str
    query: Mapping[str, str] | None = None
    body: Sequence[bytes | bytearray | memoryview] = ()
    content_type: str = "application/vnd.safetensors"
    # Sent again after the connection was lost: true for all that changes nothing in the bridge.
    may_repeat: bool = True

    @property
    def target(self) -> str:
        """Path and query as the request line has them."""
        return self.path + (f"?{urlencode(self.query)}" if self.query else "")


class Exchange:
    """One request on one connection. `cancel` may be called from any thread, at any time."""

    def __init__(self, connections: Connections, address: Address, request: Request) -> None:
        self._connections = connections
        self._address = address
        self._request = request
        self._lock = threading.Lock()
        self._connection: http.client.HTTPConnection | None = None
        self._cancelled = False

    def run(self) -> Answer:
        """Sends the request and reads the answer. Raises RefusedError, LostError."""
        connection = self._connections.take(self._address)
        with self._lock:
            if self._cancelled:
                connection.close()
                raise LostError("cancelled")
            self._connection = connection
        try:
            answer, is_reusable = self._talk(connection)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise LostError(str(error) or type(error).__name__) from error
        except BaseException:
            connection.close()
            raise
        finally:
            with self._lock:
                self._connection = None
        if is_reusable:
            self._connections.give_back(self._address, connection)
        else:
            connection.close()
        return answer

    def cancel(self) -> None:
        """Ends it, whatever it is at."""
        with self._lock:
            self._cancelled = True
            sock = self._connection.sock if self._connection is not None else None
            if sock is not None:
                # The bridge notices and stops the work; the thread that reads wakes up.
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _talk(self, connection: http.client.HTTPConnection) -> tuple[Answer, bool]:
        request = self._request
        headers = {"Accept-Encoding": "identity"}
        if self._address.token:
            headers["Authorization"] = f"Bearer {self._address.token}"
        parts = [memoryview(part).cast("B") for part in request.body]
        if request.method != "GET":
            headers["Content-Type"] = request.content_type
            headers["Content-Length"] = str(sum(part.nbytes for part in parts))
        connection.request(request.method, request.target, body=_chunks(parts), headers=headers)
        response = connection.getresponse()
        body = _read_body(response)
        answer = Answer(response.status, response.getheader("Content-Type", ""), body)
        return answer, not response.will_close


def _chunks(parts: Iterable[memoryview]) -> Iterable[memoryview] | None:
    kept = [part for part in parts if part.nbytes > 0]
    return kept or None


def _read_body(response: http.client.HTTPResponse) -> bytearray:
    length = response.length
    if length is None:
        limit = MAX_ERROR_BYTES
        body = bytearray(response.read(limit + 1))
        if len(body) > limit:
            raise http.client.HTTPException("an answer without a length is too long")
        return body
    if length > MAX_ANSWER_BYTES:
        raise http.client.HTTPException(f"an answer of {length} bytes is too long")
    body = bytearray(length)
    view = memoryview(body)
    done = 0
    while done < length:
        count = response.readinto(view[done:])
        if count == 0:
            raise http.client.IncompleteRead(b"", length - done)
        done += count
    response.read()
    return body


class Connections:
    """Open connections that wait for their next request."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[tuple[Address, http.client.HTTPConnection, float]] = []

    def take(self, address: Address) -> http.client.HTTPConnection:
        """An open connection. Raises RefusedError."""
        while True:
            with self._lock:
                found = next((entry for entry in reversed(self._idle) if entry[0] == address), None)
                if found is None:
                    break
                self._idle.remove(found)
            _address, connection, since = found
            if time.monotonic() - since < MAX_IDLE_S and not _is_readable(connection.sock):
                return connection
            connection.close()
        connection = address.connect()
        try:
            connection.connect()
        except OSError as error:
            raise RefusedError(str(error)) from error
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sock.settimeout(None)
        return connection

    def give_back(self, address: Address, connection: http.client.HTTPConnection) -> None:
        """Keeps a connection that can take another request."""
        with self._lock:
            self._idle.append((address, connection, time.monotonic()))
            surplus = self._idle[:-MAX_IDLE_CONNECTIONS]
            self._idle = self._idle[-MAX_IDLE_CONNECTIONS:]
        for _address, old, _since in surplus:
            old.close()

    def close(self) -> None:
        """Closes those that wait."""
        with self._lock:
            idle, self._idle = self._idle, []
        for _address, connection, _since in idle:
            connection.close()


def _is_readable(sock: socket.socket | None) -> bool:
    """Whether an idle connection has something to say, which can only be its end."""
    if sock is None:
        return True
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        return bool(poll.poll(0))
    return bool(select.select([sock], [], [], 0)[0])
