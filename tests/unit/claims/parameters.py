"""Opaque parameters for the tests of those who look at them: the node, and the API server's policy."""

from __future__ import annotations

from typing import Any

GPU = {"apiVersion": "resource.nvidia.com/v1beta1", "kind": "GpuConfig"}
MIG = {"apiVersion": "resource.nvidia.com/v1beta1", "kind": "MigDeviceConfig"}
SECRET = "hunter2"

ACCEPTED: list[dict[str, Any]] = [
    GPU,
    {**GPU, "sharing": {"strategy": "TimeSlicing"}},
    {**GPU, "sharing": {"strategy": "TimeSlicing", "timeSlicingConfig": {}}},
    {**GPU, "sharing": {"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": "Long"}}},
    {
        **GPU,
        "sharing": {
            "strategy": "MPS",
            "mpsConfig": {
                "defaultActiveThreadPercentage": 50,
                "defaultPinnedDeviceMemoryLimit": "10Gi",
                "defaultPerDevicePinnedMemoryLimit": {"0": "5Gi"},
                "multiUser": True,
            },
        },
    },
    {**GPU, "sharing": {"strategy": "MPS", "mpsConfig": {"defaultPinnedDeviceMemoryLimit": "1.5Gi"}}},
    MIG,
    {**MIG, "sharing": {"strategy": "TimeSlicing"}},
    {**GPU, "kind": "VfioDeviceConfig", "iommu": {"backendPolicy": "PreferIommuFD", "enableAPIDevice": True}},
]
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "GpuConfig, MigDeviceConfig, VfioDeviceConfig is accepted"),
    ({**GPU, "kind": "Toaster"}, "'Toaster'"),
    ({**GPU, "apiVersion": "resource.nvidia.com/v9"}, "resource.nvidia.com/v9"),
    (
        {**GPU, "sharin": {}},
        "GpuConfig.sharin was given an object, but is not a known field; accepted: apiVersion, kind, sharing",
    ),
    (
        {**GPU, "sharing": {"strategy": "TimeSlicing", "timeSlicingConfig": {"intervall": "Long"}}},
        "timeSlicingConfig.intervall was given a string, but is not a known field; accepted: interval",
    ),
    ({**GPU, "sharing": {}}, "GpuConfig.sharing.strategy is missing; accepted: 'TimeSlicing' or 'MPS'"),
    (
        {**GPU, "sharing": "MPS"},
        "GpuConfig.sharing was given a string: an object with strategy, timeSlicingConfig, mpsConfig is expected",
    ),
    (
        {**GPU, "sharing": {"strategy": "MPS", "mpsConfig": {"defaultPerDevicePinnedMemoryLimit": "1Gi"}}},
        "defaultPerDevicePinnedMemoryLimit was given a string: an object is expected",
    ),
    ({**GPU, "sharing": {"strategy": "Roulette"}}, "GpuConfig.sharing.strategy was given 'Roulette'"),
    (
        {**GPU, "sharing": {"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": "Eternal"}}},
        "'Default', 'Short', 'Medium' or 'Long'",
    ),
    (
        {**GPU, "sharing": {"strategy": "MPS", "mpsConfig": {"defaultActiveThreadPercentage": 101}}},
        "defaultActiveThreadPercentage was given 101",
    ),
    (
        {**GPU, "sharing": {"strategy": "MPS", "mpsConfig": {"defaultActiveThreadPercentage": "50"}}},
        "defaultActiveThreadPercentage was given '50'",
    ),
    (
        {**GPU, "sharing": {"strategy": "MPS", "mpsConfig": {"defaultPinnedDeviceMemoryLimit": "1Ki"}}},
        "from 1Mi to 1Pi",
    ),
    (
        {**GPU, "sharing": {"strategy": "MPS", "mpsConfig": {"defaultPinnedDeviceMemoryLimit": "1e99"}}},
        "from 1Mi to 1Pi",
    ),
    ({**GPU, "sharing": {"strategy": "TimeSlicing", "mpsConfig": {}}}, "mpsConfig does not go with"),
    ({**GPU, "sharing": {"strategy": "MPS", "timeSlicingConfig": {}}}, "timeSlicingConfig does not go with"),
    ({**MIG, "sharing": {"strategy": "TimeSlicing", "timeSlicingConfig": {}}}, "is not a known field"),
]
"""With words of the refusal."""
WITH_SECRETS: list[dict[str, Any]] = [
    {**GPU, "password": SECRET},
    {**GPU, "password": {"value": SECRET}},
    {**GPU, "password": [SECRET]},
    {**GPU, "sharing": SECRET},
    {**GPU, "sharing": [SECRET]},
    {**GPU, "sharing": {"strategy": {"password": SECRET}}},
    {**GPU, "sharing": {"strategy": "TimeSlicing", "mpsConfig": {}, "password": SECRET}},
    {**GPU, "sharing": {"strategy": "MPS", "timeSlicingConfig": {"password": SECRET}}},
    {**GPU, "sharing": {"strategy": "MPS", "mpsConfig": {"defaultPinnedDeviceMemoryLimit": [SECRET]}}},
    {**GPU, "sharing": {"strategy": "MPS", "mpsConfig": {"defaultPinnedDeviceMemoryLimit": "x" * 99 + SECRET}}},
    {**GPU, "kind": {"password": SECRET}},
    {**GPU, "apiVersion": [SECRET]},
    {"password": SECRET},
]
"""Refused, without a word of what somebody put there."""
