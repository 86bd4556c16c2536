"""From the hardware to what the node publishes: the flow that reads, offers and publishes, and tries again."""

from driver.inventory.defects import Defects
from driver.inventory.flow import Discovery, Patience
from driver.inventory.places import watch_specs
from driver.inventory.publication import Publication

__all__ = ["Defects", "Discovery", "Patience", "Publication", "watch_specs"]
