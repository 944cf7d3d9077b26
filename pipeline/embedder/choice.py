"""Which library computes a model, and in which numbers. Decided by what is installed and by the processor, nothing is loaded.

Every process of a machine comes to the same answer, because the answer is part of the recipe. Machines that share an
index and differ in their processors need the precision written down, or each would build an index of its own.
"""

from __future__ import annotations

from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal, NamedTuple

from pipeline.base.errors import ConfigurationError

Backend = Literal["auto", "torch", "openvino"]
Precision = Literal["auto", "fp32", "bf16", "int8"]

_BF16_FLAGS: Final = {"avx512_bf16", "amx_bf16"}
"""What Linux calls the instructions that multiply bfloat16; without them it is slower than float32."""


class Machine(NamedTuple):
    """What the choice depends on."""

    openvino: bool
    bf16: bool
    gpu: bool


class Choice(NamedTuple):
    backend: Literal["torch", "openvino"]
    precision: Literal["fp32", "bf16", "int8"]


def choose(backend: str, precision: str, machine: Machine | None = None) -> Choice:
    """The backend and precision that are asked for, `auto` resolved. Raises ConfigurationError for what does not exist."""
    machine = machine or this_machine()
    match backend, precision:
        case "auto" | "openvino" | "torch", "auto" | "fp32" | "bf16" | "int8":
            pass
        case _:
            raise ConfigurationError(
                f"there is no backend {backend} with precision {precision}",
                hint="DROPDEX_BACKEND is auto, torch or openvino, DROPDEX_PRECISION is auto, fp32, bf16 or int8",
            )
    if backend == "auto":
        backend = "openvino" if machine.openvino and (precision == "int8" or not machine.gpu) else "torch"
    if backend == "openvino":
        if not machine.openvino:
            raise ConfigurationError("the backend openvino is not installed", hint="pip install openvino, or set DROPDEX_BACKEND=torch")
        return Choice("openvino", precision if precision != "auto" else "bf16" if machine.bf16 else "fp32")
    if precision == "int8":
        raise ConfigurationError("torch computes no int8", hint="pip install openvino and set DROPDEX_BACKEND=openvino")
    return Choice("torch", "bf16" if precision == "bf16" else "fp32")  # bf16 in torch falls to a cosine of 0.997


@cache
def this_machine() -> Machine:
    """What is installed and what the processor can do."""
    return Machine(openvino=find_spec("openvino") is not None, bf16=bool(_BF16_FLAGS & _processor_flags()), gpu=_usable_gpu())


def _processor_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return set()
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())


def _usable_gpu() -> bool:
    """A driver, and a torch that was built for it."""
    try:
        return Path("/dev/nvidiactl").exists() and "+cpu" not in metadata.version("torch")
    except metadata.PackageNotFoundError:
        return False
