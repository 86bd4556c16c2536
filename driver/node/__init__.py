"""The node agent: one instance of the driver on one node."""

from driver.node.agent import run_node
from driver.node.config_file import NodeConfig, NodeConfigError, device_options, read_node_config, taint_effects
from driver.node.settings import Settings

__all__ = [
    "NodeConfig",
    "NodeConfigError",
    "Settings",
    "device_options",
    "read_node_config",
    "run_node",
    "taint_effects",
]
