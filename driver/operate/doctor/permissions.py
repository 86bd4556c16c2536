"""What the driver does at the API server with given settings: pure. deploy/chart grants it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from driver.operate.doctor.state import Permission

if TYPE_CHECKING:
    from driver.node import Settings


def needed(settings: Settings, *, node_name: str) -> tuple[Permission, ...]:
    """Every permission that these settings need on a node; with an empty name, on every node."""
    found = [
        Permission(verb="get", resource="resourceclaims", why="every prepare reads its claim"),
        Permission(verb="get", group="", resource="nodes", name=node_name, why="the Node owns the ResourceSlices"),
        *(
            Permission(verb=verb, resource="resourceslices", why="GPUs are published as ResourceSlices")
            for verb in ("list", "watch", "create", "update", "delete")
        ),
        Permission(
            verb="list",
            resource="devicetaintrules",
            why="gpu-dra explain and doctor name an administrator's rule that is in the way",
            vital=False,
        ),
        Permission(
            verb="create",
            group="",
            resource="events",
            namespace="default",
            why="what an operator should know is written as an Event on the Node",
            vital=False,
        ),
    ]
    if settings.device_status:
        found += [
            Permission(
                verb="patch", resource="resourceclaims/status", why="--device-status writes status.devices", vital=False
            ),
            Permission(
                verb="associated-node:patch",
                resource="resourceclaims/driver",
                name=settings.driver_name,
                why="--device-status writes status.devices",
                vital=False,
            ),
        ]
    return tuple(found)
