"""Events of the bridge while a node call runs: progress, previews, texts.

One websocket for all calls, opened with the first and opened anew when it ends. Events wait in a queue per call; who
waits for the call takes them out, in the node's own thread. A missing event is no error: features do not depend on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Union

from .http_exchange import Address

CONNECT_WAIT_S = 1.0
RETRY_S = 1.0
# How soon a changed setting is noticed while nothing arrives.
LOOK_UP_S = 5.0
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
# Events that nobody took out yet; older ones are of no interest.
MAX_WAITING = 64

TEXT_FRAME = 3
PREVIEW_WITH_METADATA_FRAME = 4

log = logging.getLogger("vision_bridge")


@dataclass(frozen=True)
class Progress:
    """`value` of `max` steps are done."""

    value: float
    max: float


@dataclass(frozen=True)
class Preview:
    """An encoded picture, of the type that its metadata tells."""

    image: bytes


@dataclass(frozen=True)
class Text:
    """What the node says to the user."""

    text: str


Event = Union[Progress, Preview, Text]


class EventChannel:
    """The websocket, and who listens on it."""

    def __init__(self, address: Callable[[], Address]) -> None:
        self.client_id = f"vision-bridge-pack-{uuid.uuid4().hex}"
        self._address = address
        self._queues: dict[str, deque[Event]] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._connected = threading.Event()

    @contextlib.contextmanager
    def listening(self, call_id: str) -> Iterator[deque[Event]]:
        """The queue of a call, for as long as the block lasts."""
        queue: deque[Event] = deque(maxlen=MAX_WAITING)
        self._queues[call_id] = queue
        try:
            self._start()
            yield queue
        finally:
            self._queues.pop(call_id, None)

    def wait_connected(self) -> None:
        """Waits a moment for the websocket, so that the first events are not missed."""
        self._connected.wait(CONNECT_WAIT_S)

    @property
    def is_connected(self) -> bool:
        """Whether events arrive."""
        return self._connected.is_set()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="vision-bridge-events", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        asyncio.run(self._listen())

    async def _listen(self) -> None:
        """Listens while there are calls."""
        import aiohttp

        async with aiohttp.ClientSession() as session:
            while self._queues:
                address = self._address()
                headers = {"Authorization": f"Bearer {address.token}"} if address.token else {}
                try:
                    async with session.ws_connect(
                        f"{address.url.replace('http', 'ws', 1)}/ws?clientId={self.client_id}",
                        headers=headers,
                        max_msg_size=MAX_MESSAGE_BYTES,
                    ) as socket:
                        await socket.send_json({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
                        self._connected.set()
                        while address == self._address():
                            with contextlib.suppress(asyncio.TimeoutError):
                                message = await socket.receive(timeout=LOOK_UP_S)
                                if message.type not in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                                    break
                                self._take(message.data)
                except (OSError, aiohttp.ClientError) as error:
                    log.debug("Vision Bridge: no events (%s)", error)
                finally:
                    self._connected.clear()
                await asyncio.sleep(RETRY_S)

    def _take(self, data: str | bytes) -> None:
        try:
            call_id, event = _read_text(data) if isinstance(data, str) else _read_frame(data)
        except (ValueError, KeyError, TypeError, IndexError):
            return  # an event that this version does not know
        queue = self._queues.get(call_id)
        if queue is not None:
            queue.append(event)


def _read_text(data: str) -> tuple[str, Event]:
    message = json.loads(data)
    if message["type"] != "progress":
        raise ValueError(message["type"])
    fields = message["data"]
    return fields["prompt_id"], Progress(float(fields["value"]), float(fields["max"]))


def _read_frame(data: bytes) -> tuple[str, Event]:
    kind = int.from_bytes(data[:4], "big")
    length = int.from_bytes(data[4:8], "big")
    head, rest = data[8 : 8 + length], data[8 + length :]
    if kind == PREVIEW_WITH_METADATA_FRAME:
        return json.loads(head)["prompt_id"], Preview(rest)
    if kind == TEXT_FRAME:
        return head.decode(), Text(rest.decode())
    raise ValueError(kind)
