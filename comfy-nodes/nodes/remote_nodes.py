"""Node classes from nodes.json: what the bridge serves, shown and called.

The file is exported by the bridge (`vision-bridge nodes --json`); a node that is added there appears here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from comfy_api.latest import io

from ..bridge import PACK_FOLDER
from ..bridge_client import NODE_PROTOCOL
from .file_choices import file_identity, list_files
from .node_call import call_node

Description = dict[str, Any]


def read_descriptions() -> list[Description]:
    """The nodes of nodes.json."""
    document = json.loads((PACK_FOLDER / "nodes.json").read_text(encoding="utf-8"))
    if document["node_protocol"] != NODE_PROTOCOL:
        raise RuntimeError("nodes.json is of another version than this pack: install the pack again.")
    return document["nodes"]


def precisions() -> list[str]:
    """What the bridge can compute with, as its own encode node offers it."""
    encode = next(node for node in read_descriptions() if node["class_type"] == "VisionBridgeEncode")
    return next(entry["choices"] for entry in encode["inputs"] if entry["name"] == "precision")


def build_remote_nodes() -> list[type[io.ComfyNode]]:
    """One class per node."""
    return [build_remote_node(description) for description in read_descriptions()]


def build_remote_node(description: Description) -> type[io.ComfyNode]:
    """The class of a node."""
    types = {entry["name"]: entry["type"] for entry in description["inputs"]}
    # Output nodes write files: sent twice, they would write twice.
    may_repeat = not description["is_output_node"]
    file_inputs = [entry for entry in description["inputs"] if "choices_from" in entry]

    class RemoteNode(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> io.Schema:
            return build_schema(description)

        @classmethod
        async def execute(cls, **inputs: Any) -> io.NodeOutput:
            answer = await call_node(description["class_type"], types, inputs, may_repeat=may_repeat)
            return io.NodeOutput(*answer.outputs, ui=answer.ui)

    members: dict[str, Any] = {"__doc__": description["description"], "__module__": __name__}
    if file_inputs:
        members["fingerprint_inputs"] = classmethod(_fingerprint_of(file_inputs))
    return type(description["class_type"], (RemoteNode,), members)


def build_schema(description: Description) -> io.Schema:
    """The schema, with choices of files as they are now."""
    return io.Schema(
        node_id=description["class_type"],
        display_name=description["display_name"],
        category=description["category"],
        description=description["description"],
        inputs=[build_input(entry) for entry in description["inputs"]],
        outputs=[
            io.Custom(entry["type"]).Output(f"out_{slot}", display_name=entry["name"], tooltip=entry["tooltip"])
            for slot, entry in enumerate(description["outputs"])
        ],
        is_output_node=description["is_output_node"],
        not_idempotent=description["not_idempotent"],
        is_experimental=description["is_experimental"],
        is_deprecated=description["is_deprecated"],
    )


WIDGETS = {"INT": io.Int, "FLOAT": io.Float, "STRING": io.String, "BOOLEAN": io.Boolean}


def build_input(entry: Description) -> io.Input:
    """An input with its widget; a socket for every type without one."""
    options = dict(entry["options"])
    if entry["type"] == "COMBO":
        choices = list_files(entry["choices_from"]) if "choices_from" in entry else entry["choices"]
        return io.Combo.Input(entry["name"], options=choices, optional=entry["optional"], **options)
    kind = WIDGETS.get(entry["type"]) or io.Custom(entry["type"])
    return kind.Input(entry["name"], optional=entry["optional"], **options)


def _fingerprint_of(file_inputs: list[Description]) -> Callable[..., list[str]]:
    def fingerprint_inputs(_cls: type, **inputs: Any) -> list[str]:
        return [
            file_identity(entry["choices_from"], inputs[entry["name"]])
            for entry in file_inputs
            if isinstance(inputs.get(entry["name"]), str)
        ]

    return fingerprint_inputs
