"""Interrupts, devices, and loading, which for a CPU is bookkeeping."""

from __future__ import annotations

import torch

interrupt = False
loaded: list[object] = []


class InterruptProcessingException(Exception):  # noqa: N818 - ComfyUI's name
    """The user pressed Cancel."""


def interrupt_current_processing(value: bool = True) -> None:
    global interrupt
    interrupt = value


def throw_exception_if_processing_interrupted() -> None:
    global interrupt
    if interrupt:
        interrupt = False
        raise InterruptProcessingException


def intermediate_device() -> torch.device:
    return torch.device("cpu")


def load_model_gpu(patcher: object) -> None:
    loaded.append(patcher)


def unload_all_models() -> None:
    loaded.clear()
