"""Nodes of the third form: a schema, and an execute."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


class ComfyExtension:
    async def get_node_list(self) -> list[type]:
        raise NotImplementedError


@dataclass
class Input:
    io_type: str
    id: str
    options: dict[str, Any]


@dataclass
class Output:
    io_type: str
    id: str
    display_name: str | None
    tooltip: str | None


def custom(io_type: str, known: set[str] | None = None) -> type:
    allowed = {"optional", "tooltip", "default"} | (known or set())

    def make_input(id: str, **options: Any) -> Input:  # noqa: A002 - ComfyUI's name
        unknown = set(options) - allowed
        if unknown:
            raise TypeError(f"{io_type} takes no {', '.join(sorted(unknown))}")
        return Input(io_type, id, options)

    def make_output(id: str, display_name: str | None = None, tooltip: str | None = None) -> Output:  # noqa: A002
        return Output(io_type, id, display_name, tooltip)

    return type(io_type, (), {"Input": staticmethod(make_input), "Output": staticmethod(make_output)})


class NodeOutput:
    def __init__(self, *args: Any, ui: dict[str, Any] | None = None) -> None:
        self.args = args
        self.ui = ui


@dataclass
class Schema:
    node_id: str
    display_name: str
    category: str
    description: str
    inputs: list[Input]
    outputs: list[Output]
    is_output_node: bool = False
    not_idempotent: bool = False
    is_experimental: bool = False
    is_deprecated: bool = False
    hidden: list[str] = field(default_factory=list)


class ComfyNode:
    @classmethod
    def define_schema(cls) -> Schema:
        raise NotImplementedError


class io:  # noqa: N801 - ComfyUI's name
    ComfyNode = ComfyNode
    NodeOutput = NodeOutput
    Schema = Schema
    Input = Input
    Custom = staticmethod(custom)
    Combo = custom("COMBO", {"options"})
    Int = custom("INT", {"min", "max", "step"})
    Float = custom("FLOAT", {"min", "max", "step", "round"})
    String = custom("STRING", {"multiline", "placeholder"})
    Boolean = custom("BOOLEAN", {"label_on", "label_off"})
    ClipVision = custom("CLIP_VISION")
