"""Progress bars, remembered."""

from __future__ import annotations

shown: list[tuple[int, int]] = []


class ProgressBar:
    def __init__(self, total: int) -> None:
        self.total = total

    def update_absolute(self, value: int) -> None:
        shown.append((value, self.total))
