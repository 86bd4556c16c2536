"""Real GPUs, through NVIDIA's management library."""

from driver.hardware.nvml.nvml_backend import NvmlBackend

__all__ = ["NvmlBackend"]
