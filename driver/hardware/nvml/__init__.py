"""Real GPUs, through NVIDIA's management library."""

from driver.hardware.nvml.backend import NvmlBackend

__all__ = ["NvmlBackend"]
