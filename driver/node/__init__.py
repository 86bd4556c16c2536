"""The node agent: one instance of the driver on one node.

Every command of the command line imports this for its options, so what is heavy is imported by whoever needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from driver.node.settings import NodeConfigError, Settings

if TYPE_CHECKING:
    from driver.node.config_file import NodeConfig

__all__ = [
    "NodeConfig",
    "NodeConfigError",
    "Settings",
    "read_node_config",
    "run_node",
]


def run_node(settings: Settings) -> int:
    """Run until SIGTERM or Ctrl-C and return the exit status: 0 stopped, 1 failed, 2 a setting cannot work."""
    from driver.node import agent

    return agent.run_node(settings)


def read_node_config(settings: Settings) -> NodeConfig:
    """The file that the settings name; where they name none, one that changes nothing. Raises NodeConfigError."""
    from driver.node import config_file

    return config_file.read_node_config(settings)
