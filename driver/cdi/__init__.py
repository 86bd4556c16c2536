"""CDI specs: the hand-over to the container runtime."""

from driver.cdi.directory import SpecDirectory
from driver.cdi.spec import (
    ADMIN,
    SpecError,
    cdi_device_name,
    cdi_kind,
    qualified_name,
    render_spec,
    spec_file_name,
    unqualified_name,
)

__all__ = [
    "ADMIN",
    "SpecDirectory",
    "SpecError",
    "cdi_device_name",
    "cdi_kind",
    "qualified_name",
    "render_spec",
    "spec_file_name",
    "unqualified_name",
]
