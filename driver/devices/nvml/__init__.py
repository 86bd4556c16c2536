"""Real GPUs, through NVIDIA's management library."""

from driver.devices.nvml.backend import NvmlBackend

__all__ = ["NvmlBackend"]
