"""What people and machines can see of the driver: metrics, logs, health pages."""

from driver.observe.logs import configure_logging
from driver.observe.metrics import Metrics
from driver.observe.pages import serve_pages

__all__ = [
    "Metrics",
    "configure_logging",
    "serve_pages",
]
