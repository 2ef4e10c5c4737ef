"""HTTP client of Vision Bridge: kept-alive connections, cancellation, and waiting through a restart.

Knows bytes only, no tensors: safetensors documents go in and out as buffers (safetensors_document.py). ComfyUI runs
every prompt in an event loop of its own, so connections that shall outlive a prompt cannot belong to a loop; requests
run in threads, and those who wait look up often enough to notice an interrupt.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

# Raised when node calls change in a way that an older side does not understand; the server tells its own.
NODE_PROTOCOL = 1

CONNECT_TIMEOUT_S = 2.0
# How often someone who waits looks for an interrupt.
POLL_S = 0.02
# A bridge that answered a moment ago and is gone is given this long to come back.
RESTART_WAIT_S = 10.0
RECENTLY_S = 60.0
# Node's server closes connections that were idle for five seconds; those near that are not used again.
MAX_IDLE_S = 4.0
MAX_IDLE_CONNECTIONS = 8
MAX_THREADS = 16
# Far above any answer, and below what would take the machine down.
MAX_ANSWER_BYTES = 8 * 1024**3
MAX_ERROR_BYTES = 1024 * 1024

HOW_TO_START = (
    "Start it with `vision-bridge serve`. "
    "If it runs elsewhere, set its address in Settings > Vision Bridge."
)

# What to do about an error, where the message of the bridge alone does not say it.
ADVICE = {
    "BUSY": "Queue it again in a moment.",
    "RUNTIME_UNAVAILABLE": "The bridge starts a new inference process by itself; queue again. "
    "If it keeps ending, the machine is short of memory.",
    "NOT_FOUND": "The bridge may be older than this node pack: update vision-bridge.",
    "MODEL_NOT_FOUND": "The bridge may read other model folders than this ComfyUI: "
    "compare with `vision-bridge paths`, or start it with --comfyui-url.",
    "INTERNAL": "Please report it with the log of vision-bridge.",
}


class BridgeError(Exception):
    """A failure that the bridge, or the way to it, explains."""

    def __init__(self, code: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        advice = ADVICE.get(code)
        super().__init__(f"Vision Bridge [{code}]: {message}" + (f"\n{advice}" if advice else ""))
        self.code = code
        self.message = message
        self.details = dict(details or {})


class BridgeUnavailableError(BridgeError):
    """Nothing answers at the address."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__("BRIDGE_UNAVAILABLE", f"no bridge answers at {address} ({reason}). {HOW_TO_START}")


class _RefusedError(Exception):
    """No connection came about: nothing was sent."""


class _LostError(Exception):
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


class _Exchange:
    """One request on one connection. `cancel` may be called from any thread, at any time."""

    def __init__(self, connections: _Connections, address: Address, request: Request) -> None:
        self._connections = connections
        self._address = address
        self._request = request
        self._lock = threading.Lock()
        self._connection: http.client.HTTPConnection | None = None
        self._cancelled = False

    def run(self) -> Answer:
        connection = self._connections.take(self._address)
        with self._lock:
            if self._cancelled:
                connection.close()
                raise _LostError("cancelled")
            self._connection = connection
        try:
            answer, is_reusable = self._talk(connection)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise _LostError(str(error) or type(error).__name__) from error
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


class _Connections:
    """Open connections that wait for their next request."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[tuple[Address, http.client.HTTPConnection, float]] = []

    def take(self, address: Address) -> http.client.HTTPConnection:
        """An open connection. Raises _RefusedError."""
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
            raise _RefusedError(str(error)) from error
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sock.settimeout(None)
        return connection

    def give_back(self, address: Address, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            self._idle.append((address, connection, time.monotonic()))
            surplus = self._idle[:-MAX_IDLE_CONNECTIONS]
            self._idle = self._idle[-MAX_IDLE_CONNECTIONS:]
        for _address, old, _since in surplus:
            old.close()

    def close(self) -> None:
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


class BridgeClient:
    """Requests to the bridge that the settings name, checked once per connection to a bridge.

    address: asked before every request, so that a changed setting needs no restart.
    on_absent: called when nothing answers; may start a bridge and then returns true.
    """

    def __init__(
        self,
        address: Callable[[], Address],
        on_absent: Callable[[Address], bool] = lambda _address: False,
        pack_version: str = "",
    ) -> None:
        self._address = address
        self._on_absent = on_absent
        self._pack_version = pack_version
        self._connections = _Connections()
        self._threads = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="vision-bridge")
        self._checked: Address | None = None
        self._last_seen: tuple[Address, float] | None = None

    @property
    def address(self) -> Address:
        """The address that the next request goes to."""
        return self._address()

    def send(self, request: Request, on_wait: Callable[[], None] = lambda: None) -> Answer:
        """Sends a request and waits for its answer.

        on_wait is called every few milliseconds in the caller's own thread; what it raises cancels the request.
        Raises BridgeError, BridgeUnavailableError.
        """
        attempts = _Attempts(self, request)
        while True:
            try:
                answer = attempts.accept(self._run(attempts.exchange(), on_wait))
            except (_RefusedError, _LostError) as error:
                _wait(attempts.pause_after(error), on_wait)
                continue
            if answer is not None:
                return answer

    async def send_async(self, request: Request, on_wait: Callable[[], None] = lambda: None) -> Answer:
        """As `send`, for coroutines; cancelling the task cancels the request."""
        attempts = _Attempts(self, request)
        while True:
            try:
                answer = attempts.accept(await self._run_async(attempts.exchange(), on_wait))
            except (_RefusedError, _LostError) as error:
                end = time.monotonic() + await asyncio.to_thread(attempts.pause_after, error)
                while time.monotonic() < end:
                    on_wait()
                    await asyncio.sleep(POLL_S)
                continue
            if answer is not None:
                return answer

    def _run(self, exchange: _Exchange, on_wait: Callable[[], None]) -> Answer:
        future: Future[Answer] = self._threads.submit(exchange.run)
        try:
            while True:
                try:
                    return future.result(timeout=POLL_S)
                except FutureTimeout:
                    if future.done():
                        return future.result()
                    on_wait()
        except BaseException:
            exchange.cancel()
            raise

    async def _run_async(self, exchange: _Exchange, on_wait: Callable[[], None]) -> Answer:
        future = asyncio.wrap_future(self._threads.submit(exchange.run))
        try:
            while True:
                done, _pending = await asyncio.wait([future], timeout=POLL_S)
                if done:
                    return future.result()
                on_wait()
        except BaseException:
            exchange.cancel()
            if future.done():
                future.exception()
            else:
                future.cancel()
            raise

    def close(self) -> None:
        """Closes kept connections. Requests may follow; they open new ones."""
        self._connections.close()

    def seen(self, address: Address) -> None:
        """Notes that a bridge answered."""
        self._last_seen = (address, time.monotonic())

    def was_seen(self, address: Address) -> bool:
        """Whether a bridge answered at this address not long ago."""
        return (
            self._last_seen is not None
            and self._last_seen[0] == address
            and time.monotonic() - self._last_seen[1] < RECENTLY_S
        )

    def is_checked(self, address: Address) -> bool:
        """Whether the bridge at this address is known to understand this pack."""
        return self._checked == address

    def check(self, address: Address, health: Answer) -> None:
        """The handshake. Raises BridgeError that says which side to update."""
        self._checked = None
        try:
            state = health.json() if health.status == 200 else None
            protocol = state["node_protocol"] if isinstance(state, dict) and "version" in state else None
        except ValueError:
            state, protocol = None, None
        except KeyError:
            protocol = 0
        if not isinstance(state, dict) or protocol is None:
            if health.status in (401, 403):
                raise BridgeError(
                    "BRIDGE_REFUSES",
                    f"the bridge at {address.url} refuses this ComfyUI (HTTP {health.status}). "
                    "If it was started with --token, put the same token into Settings > Vision Bridge.",
                )
            raise BridgeError(
                "NO_BRIDGE",
                f"something answers at {address.url} (HTTP {health.status}), but it is no Vision Bridge of today. "
                + HOW_TO_START,
            )
        if protocol != NODE_PROTOCOL:
            side = "the node pack" if protocol > NODE_PROTOCOL else "vision-bridge"
            raise BridgeError(
                "VERSION_MISMATCH",
                f"the node pack {self._pack_version} speaks version {NODE_PROTOCOL} of the node calls, "
                f"vision-bridge {state['version']} version {protocol}. Update {side}.",
            )
        self._checked = address

    def forget(self) -> None:
        """The next request checks the bridge anew: it may be another one."""
        self._checked = None

    def may_start(self, address: Address) -> bool:
        """Lets the owner start a bridge; true when one is on its way."""
        return self._on_absent(address)

    def new_exchange(self, address: Address, request: Request) -> _Exchange:
        """One request on a connection of its own or a kept one."""
        return _Exchange(self._connections, address, request)


class _Attempts:
    """How often a request is tried: the handshake first where it is due, again after a restart."""

    def __init__(self, client: BridgeClient, request: Request) -> None:
        self._client = client
        self._request = request
        self._address = client.address
        self._deadline: float | None = None
        self._sent = request

    def exchange(self) -> _Exchange:
        """The next exchange: the request itself, or the handshake before it."""
        is_checked = self._client.is_checked(self._address)
        self._sent = self._request if is_checked else Request("GET", "/bridge/v1/health")
        return self._client.new_exchange(self._address, self._sent)

    def accept(self, answer: Answer) -> Answer | None:
        """The answer of the request; None after a handshake that went well. Raises BridgeError."""
        self._client.seen(self._address)
        if self._sent is not self._request:
            self._client.check(self._address, answer)
            return None
        if answer.status >= 400:
            raise error_of(answer, self._address)
        return answer

    def pause_after(self, error: _RefusedError | _LostError) -> float:
        """Seconds until the next try. Raises BridgeUnavailableError when there is none."""
        self._client.forget()
        if isinstance(error, _LostError) and self._sent is self._request and not self._request.may_repeat:
            raise BridgeError(
                "CONNECTION_LOST",
                f"the connection to {self._address.url} ended before the answer came; "
                "it is not known whether the work was done, so it was not sent again.",
            ) from error
        if self._deadline is None:
            is_hopeful = isinstance(error, _LostError) or self._client.was_seen(self._address)
            if not self._client.may_start(self._address) and not is_hopeful:
                raise BridgeUnavailableError(self._address.url, str(error)) from error
            self._deadline = time.monotonic() + RESTART_WAIT_S
        if time.monotonic() > self._deadline:
            raise BridgeUnavailableError(self._address.url, str(error)) from error
        return 0.1


def error_of(answer: Answer, address: Address) -> BridgeError:
    """The error that an answer tells, in the form of the bridge's catalogue."""
    try:
        error = answer.json()["error"]
        return BridgeError(str(error["code"]), str(error["message"]), error.get("details"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return BridgeError("BRIDGE_REFUSES", f"{address.url} answered HTTP {answer.status} without an explanation.")


def _wait(seconds: float, on_wait: Callable[[], None]) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        on_wait()
        time.sleep(POLL_S)
