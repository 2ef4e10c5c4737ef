"""The value that stops what follows."""

from __future__ import annotations


class ExecutionBlocker:
    def __init__(self, message: str | None) -> None:
        self.message = message
