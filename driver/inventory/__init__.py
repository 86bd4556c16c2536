"""From the hardware to what the node publishes: the flow that reads, offers and publishes, and tries again."""

from driver.inventory.flow import Discovery
from driver.inventory.publication import Publication

__all__ = ["Discovery", "Publication"]
