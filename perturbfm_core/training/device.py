"""Choice of the training device and of the numerical precision that it supports."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch

from perturbfm_core.errors import ModelError
from perturbfm_core.training.options import Precision


def resolve_device(name: str = "auto") -> torch.device:
    """Return the device called `name`; ``auto`` is CUDA if available, else the CPU.

    Raises
    ------
    ModelError
        If the device is unknown, or CUDA is requested but not available.
    """
    found = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if found else "cpu")
    if name not in ("cpu", "cuda"):
        msg = f"unknown device {name!r}; known: auto, cpu, cuda"
        raise ModelError(msg)
    if name == "cuda" and not found:
        built = "finds no CUDA device" if torch.version.cuda else "is built for the CPU only"
        msg = f"device 'cuda' was asked for, but torch {torch.__version__} {built}; use --device auto or cpu"
        raise ModelError(msg)
    return torch.device(name)


def precision_on(device: torch.device, precision: Precision) -> Literal["fp32", "bf16"]:
    """Return the precision in effect on a device: bf16 on CUDA if supported and allowed, else fp32."""
    if device.type == "cuda" and precision != "fp32" and torch.cuda.is_bf16_supported():
        return "bf16"
    return "fp32"


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Return the context for the forward pass: mixed precision on CUDA if configured, else a null context."""
    if precision_on(device, precision) == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def compiled(module: torch.nn.Module, device: torch.device, wanted: bool) -> Any:
    """Return the compiled module if that is wanted and the device is CUDA, else the module itself.

    Parameters
    ----------
    module
        The network; the compiled module shares its parameters.
    device
        Device on which it is trained.
    wanted
        Whether the configuration requests compilation.
    """
    return torch.compile(module) if wanted and device.type == "cuda" else module
