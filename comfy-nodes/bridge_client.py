"""HTTP client of Vision Bridge: the handshake, cancellation, and waiting through a restart.

Knows bytes only, no tensors: safetensors documents go in and out as buffers (safetensors_document.py). ComfyUI runs
every prompt in an event loop of its own, so connections that shall outlive a prompt cannot belong to a loop; requests
run in threads, and those who wait look up often enough to notice an interrupt.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

from .http_exchange import Address, Answer, Connections, Exchange, LostError, RefusedError, Request

# Raised when node calls change in a way that an older side does not understand; the server tells its own.
NODE_PROTOCOL = 1

# How often someone who waits looks for an interrupt.
POLL_S = 0.02
# A bridge that answered a moment ago and is gone is given this long to come back.
RESTART_WAIT_S = 10.0
RECENTLY_S = 60.0
MAX_THREADS = 16

HOW_TO_START = "Start it with `vision-bridge serve`. If it runs elsewhere, set its address in Settings > Vision Bridge."

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
        self._connections = Connections()
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
            except (RefusedError, LostError) as error:
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
            except (RefusedError, LostError) as error:
                end = time.monotonic() + await asyncio.to_thread(attempts.pause_after, error)
                while time.monotonic() < end:
                    on_wait()
                    await asyncio.sleep(POLL_S)
                continue
            if answer is not None:
                return answer

    def _run(self, exchange: Exchange, on_wait: Callable[[], None]) -> Answer:
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

    async def _run_async(self, exchange: Exchange, on_wait: Callable[[], None]) -> Answer:
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

    def new_exchange(self, address: Address, request: Request) -> Exchange:
        """One request on a connection of its own or a kept one."""
        return Exchange(self._connections, address, request)


class _Attempts:
    """How often a request is tried: the handshake first where it is due, again after a restart."""

    def __init__(self, client: BridgeClient, request: Request) -> None:
        self._client = client
        self._request = request
        self._address = client.address
        self._deadline: float | None = None
        self._sent = request

    def exchange(self) -> Exchange:
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

    def pause_after(self, error: RefusedError | LostError) -> float:
        """Seconds until the next try. Raises BridgeUnavailableError when there is none."""
        self._client.forget()
        if isinstance(error, LostError) and self._sent is self._request and not self._request.may_repeat:
            raise BridgeError(
                "CONNECTION_LOST",
                f"the connection to {self._address.url} ended before the answer came; "
                "it is not known whether the work was done, so it was not sent again.",
            ) from error
        if self._deadline is None:
            is_hopeful = isinstance(error, LostError) or self._client.was_seen(self._address)
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
