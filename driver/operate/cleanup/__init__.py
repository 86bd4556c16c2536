"""``gpu-dra cleanup``: after an uninstall nothing of the driver is left on the node."""
