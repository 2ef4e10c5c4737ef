"""One node call: inputs to a document, the document to the bridge, the answer to outputs."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from ..bridge import client, events
from ..bridge_client import BridgeError
from ..http_exchange import Answer, Request
from ..safetensors_document import BadDocumentError, Buffer, read_document, write_document
from .values import from_wire, to_wire
from .waiting import make_on_wait


@dataclass(frozen=True)
class NodeAnswer:
    """Outputs by slot, and what the node shows."""

    outputs: list[Any]
    ui: dict[str, Any] | None


async def call_node(
    class_type: str, types: Mapping[str, str], inputs: Mapping[str, Any], *, may_repeat: bool
) -> NodeAnswer:
    """Runs a node in the bridge. `types` gives the type of every input. Raises BridgeError, and ComfyUI's interrupt."""
    body = _request_body(types, inputs)
    call_id = uuid.uuid4().hex
    request = Request(
        "POST",
        f"/bridge/v1/nodes/{quote(class_type, safe='')}",
        {"call_id": call_id, "client_id": events.client_id},
        body,
        may_repeat=may_repeat,
    )
    with events.listening(call_id) as queue:
        on_wait = make_on_wait(queue)
        answer = await client.send_async(request, on_wait)
        on_wait()
    return _read_answer(answer, inputs)


def _request_body(types: Mapping[str, str], inputs: Mapping[str, Any]) -> list[bytes | memoryview]:
    values: dict[str, Any] = {}
    tensors: dict[str, Buffer] = {}
    for name, value in inputs.items():
        if value is None:
            continue
        values[name], own = to_wire(name, types[name], value)
        tensors.update({f"input.{name}.{field}": buffer for field, buffer in own.items()})
    return write_document(tensors, {"inputs": json.dumps(values)})


def _read_answer(answer: Answer, inputs: Mapping[str, Any]) -> NodeAnswer:
    try:
        tensors, metadata = read_document(answer.body)
        values = json.loads(metadata["outputs"])
        ui = json.loads(metadata["ui"]) if "ui" in metadata else None
    except (BadDocumentError, KeyError, ValueError) as error:
        raise BridgeError("INTERNAL", f"the answer of the bridge cannot be read: {error}.") from error
    outputs = []
    for slot, value in enumerate(values):
        prefix = f"output.{slot}."
        own = {name[len(prefix) :]: buffer for name, buffer in tensors.items() if name.startswith(prefix)}
        outputs.append(from_wire(value, own, inputs))
    return NodeAnswer(outputs, ui)
