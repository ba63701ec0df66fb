"""Owns reading what accelerators use: NVIDIA's management library, where it and its Python binding are there."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final

from penstock.runtime.telemetry import logger
from services.inference.events import Event

_log = logger("energy")


class NvmlCounter:
    """The energy counters of some accelerators, added up; they count since the driver was loaded (Volta and later)."""

    def __init__(self, nvml: Any, handles: Sequence[Any]) -> None:
        self._nvml: Final = nvml
        self._handles: Final = tuple(handles)
        self._last = 0

    def millijoules(self) -> int:
        """What they have used. A counter that cannot be read just now stands still, and catches up."""
        try:
            self._last = sum(self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in self._handles)
        except self._nvml.NVMLError as error:
            _log.debug(Event.ENERGY_UNREADABLE, error=str(error))
        return self._last


def counter(devices: Sequence[str], binding: str = "pynvml") -> NvmlCounter | None:
    """The counters of the devices, by index, UUID or PCI bus id; None where none is named or they cannot be read."""
    if not devices:
        return None
    try:
        nvml: Any = import_module(binding)
        nvml.nvmlInit()
        found = NvmlCounter(nvml, [_handle(nvml, device) for device in devices])
        nvml.nvmlDeviceGetTotalEnergyConsumption(_handle(nvml, devices[0]))
    except Exception as error:  # noqa: BLE001 - whatever the driver says, calls are served without their energy
        _log.warning(Event.ENERGY_UNREADABLE, devices=list(devices), error=repr(error))
        return None
    return found


def _handle(nvml: Any, device: str) -> Any:
    if device.isdigit():
        return nvml.nvmlDeviceGetHandleByIndex(int(device))
    if device.startswith(("GPU-", "MIG-")):
        return nvml.nvmlDeviceGetHandleByUUID(device)
    return nvml.nvmlDeviceGetHandleByPciBusId(device)
