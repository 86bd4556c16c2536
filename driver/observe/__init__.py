"""What people and machines can see of the driver: metrics, logs, health pages."""

from driver.observe.logs import configure_logging
from driver.observe.metrics import Metrics
from driver.observe.pages import serve_pages
from driver.observe.stacks import log_stacks_on

__all__ = [
    "Metrics",
    "configure_logging",
    "log_stacks_on",
    "serve_pages",
]
