"""safetensors documents in memory, as the bridge sends and takes them: names, dtypes, shapes and buffers.

The pack needs the data as buffers that are sent and received without a copy, which the safetensors library does not
offer; the format is eight bytes of length, a JSON header, and the data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1}
ALIGNMENT = 8
MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class Buffer:
    """A tensor as bytes, little-endian, rows first."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview


class BadDocumentError(ValueError):
    """The bytes are no safetensors document."""


def write_document(tensors: Mapping[str, Buffer], metadata: Mapping[str, str]) -> list[bytes | memoryview]:
    """The document as parts to be sent one after the other; the data is not copied."""
    ordered = sorted(tensors.items(), key=lambda item: (-DTYPE_BYTES[item[1].dtype], item[0]))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, buffer in ordered:
        begin, end = end, end + buffer.data.nbytes
        header[name] = {"dtype": buffer.dtype, "shape": list(buffer.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return [len(text).to_bytes(8, "little") + text, *(buffer.data for _name, buffer in ordered)]


def read_document(body: bytearray) -> tuple[dict[str, Buffer], dict[str, str]]:
    """Views into the body, and the metadata. Raises BadDocumentError."""
    length = int.from_bytes(body[:8], "little")
    if len(body) < 8 or length > min(MAX_HEADER_BYTES, len(body) - 8):
        raise BadDocumentError("the header does not fit the document")
    try:
        header = json.loads(bytes(body[8 : 8 + length]))
    except ValueError as error:
        raise BadDocumentError("the header is not JSON") from error
    data = memoryview(body)[8 + length :]
    metadata = {str(key): str(value) for key, value in header.pop("__metadata__", {}).items()}
    return {name: _read_entry(name, entry, data) for name, entry in header.items()}, metadata


def _read_entry(name: str, entry: dict, data: memoryview) -> Buffer:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise BadDocumentError(f"the entry of {name} is incomplete") from error
    if not (0 <= begin <= end <= data.nbytes) or end - begin != prod(shape) * DTYPE_BYTES.get(dtype, 0):
        raise BadDocumentError(f"the entry of {name} does not fit its data")
    return Buffer(dtype, shape, data[begin:end])
