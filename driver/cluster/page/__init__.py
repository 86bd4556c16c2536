"""The cluster as a page that updates itself."""

from driver.cluster.page.web_server import Page, serving

__all__ = ["Page", "serving"]
