"""Who uses which GPU, for how long, and how much of it."""

from driver.usage.telling import Usage

__all__ = ["Usage"]
