"""Releases of Kubernetes, as far as the server differs by them: version, schema, what is served."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A release that the server says it is, and whose API it has."""

    version: str
    """As ``/version`` spells it."""
    schema: str
    """The release whose OpenAPI document says which fields there are."""
    taint_rules: str
    """The one API version in which DeviceTaintRules are served: beta APIs are off unless a cluster asks for them."""

    @property
    def minor(self) -> str:
        """For example ``36``."""
        return self.schema.split(".")[1]


V1_36 = Release(version="v1.36.2", schema="1.36.0", taint_rules="resource.k8s.io/v1beta2")
V1_37 = Release(version="v1.37.0", schema="1.37.0", taint_rules="resource.k8s.io/v1")
"""Behaves as 1.36.2 does, with the API of 1.37."""
