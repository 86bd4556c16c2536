"""The command ``gpu-dra``."""

from driver.cli.main import main

__all__ = [
    "main",
]
