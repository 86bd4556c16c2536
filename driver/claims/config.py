"""Opaque parameters of claims and classes: ``resource.nvidia.com/v1beta1``, as users of NVIDIA's driver write them.

Decoded strictly: a field that we do not know, or a value that we do not accept, is an error that names it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from driver.claims.errors import ClaimError, Reason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from driver.claims.allocation import Allocation

API_VERSION = "resource.nvidia.com/v1beta1"
_MEMORY = re.compile(r"([0-9]{1,18})(Ki|Mi|Gi|Ti|k|M|G|T)?")
_UNITS = {
    None: 1,
    "Ki": 1 << 10,
    "Mi": 1 << 20,
    "Gi": 1 << 30,
    "Ti": 1 << 40,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
}


def _check_memory(value: str) -> str:
    match = _MEMORY.fullmatch(value)
    if match is None or int(match[1]) * _UNITS[match[2]] < 1 << 20:
        raise ValueError("a quantity of at least 1Mi is expected, for example 10Gi")
    return value


Memory = Annotated[str, AfterValidator(_check_memory)]


class _Strict(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        alias_generator=to_camel,
        validate_by_name=False,
        validate_by_alias=True,
    )


class TimeSlicingConfig(_Strict):
    """How long a process computes before the GPU turns to the next one."""

    interval: Literal["Default", "Short", "Medium", "Long"] = "Default"


class MpsConfig(_Strict):
    """Limits of the processes that share a GPU through NVIDIA's Multi-Process Service."""

    default_active_thread_percentage: int | None = Field(default=None, ge=0, le=100)
    default_pinned_device_memory_limit: Memory | None = None
    default_per_device_pinned_memory_limit: dict[str, Memory] | None = None
    """By device UUID or index."""
    multi_user: bool | None = None


class GpuSharing(_Strict):
    """How processes share a whole GPU."""

    strategy: Literal["TimeSlicing", "MPS"]
    time_slicing_config: TimeSlicingConfig | None = None
    mps_config: MpsConfig | None = None

    @model_validator(mode="after")
    def _check_strategy(self) -> GpuSharing:
        if self.strategy == "TimeSlicing" and self.mps_config is not None:
            raise ValueError("mpsConfig does not go with the strategy 'TimeSlicing'")
        if self.strategy == "MPS" and self.time_slicing_config is not None:
            raise ValueError("timeSlicingConfig does not go with the strategy 'MPS'")
        return self


class MigDeviceSharing(_Strict):
    """How processes share a partition; time slicing has no setting there."""

    strategy: Literal["TimeSlicing", "MPS"]
    mps_config: MpsConfig | None = None

    @model_validator(mode="after")
    def _check_strategy(self) -> MigDeviceSharing:
        if self.strategy == "TimeSlicing" and self.mps_config is not None:
            raise ValueError("mpsConfig does not go with the strategy 'TimeSlicing'")
        return self


class Iommu(_Strict):
    """How a GPU is handed to a virtual machine."""

    backend_policy: Literal["LegacyOnly", "PreferIommuFD"] = "LegacyOnly"
    enable_api_device: bool = Field(default=False, alias="enableAPIDevice")


class GpuConfig(_Strict):
    """Parameters of whole GPUs."""

    api_version: Literal["resource.nvidia.com/v1beta1"]
    kind: Literal["GpuConfig"]
    sharing: GpuSharing | None = None


class MigDeviceConfig(_Strict):
    """Parameters of partitions."""

    api_version: Literal["resource.nvidia.com/v1beta1"]
    kind: Literal["MigDeviceConfig"]
    sharing: MigDeviceSharing | None = None


class VfioDeviceConfig(_Strict):
    """Parameters of GPUs for virtual machines."""

    api_version: Literal["resource.nvidia.com/v1beta1"]
    kind: Literal["VfioDeviceConfig"]
    iommu: Iommu | None = None


DeviceConfig = GpuConfig | MigDeviceConfig | VfioDeviceConfig
KINDS: Mapping[str, type[DeviceConfig]] = {
    "GpuConfig": GpuConfig,
    "MigDeviceConfig": MigDeviceConfig,
    "VfioDeviceConfig": VfioDeviceConfig,
}
_DEVICE_TYPE = {"GpuConfig": "gpu", "MigDeviceConfig": "mig", "VfioDeviceConfig": "vfio"}


def decode(parameters: Mapping[str, Any]) -> DeviceConfig:
    """Decode one set of parameters. Raises ValueError: which field, what was given, what is accepted."""
    kind = parameters.get("kind")
    model = KINDS.get(kind) if isinstance(kind, str) else None
    if model is None or parameters.get("apiVersion") != API_VERSION:
        raise ValueError(
            f"apiVersion {parameters.get('apiVersion')!r} and kind {kind!r} are not known: "
            f"{API_VERSION} with {', '.join(KINDS)} is accepted"
        )
    try:
        return model.model_validate(dict(parameters))
    except ValidationError as error:
        raise ValueError("; ".join(_explain(str(kind), problem) for problem in error.errors())) from None


def resolve(allocation: Allocation, types: Mapping[str, str], *, driver: str) -> dict[str, DeviceConfig]:
    """The config that applies to each device, where there is one; of several the last wins, a claim's over its class's.

    ``types`` has the type of each allocated device by name. A config whose kind does not fit a device is passed over,
    unless it names the device's request.

    Raises ClaimError for parameters that cannot be decoded or applied.
    """
    applied: dict[str, DeviceConfig] = {}
    for config in allocation.configs:
        source = "its DeviceClass" if config.from_class else "the claim"
        try:
            decoded = decode(config.parameters)
        except ValueError as error:
            raise ClaimError(
                Reason.CONFIG, f"parameters for driver {driver} in {source} of {allocation.claim}: {error}"
            ) from None
        for result in allocation.results:
            if config.requests and not {result.request, result.base_request} & set(config.requests):
                continue
            if _DEVICE_TYPE[decoded.kind] == types[result.device]:
                applied[result.device] = decoded
            elif config.requests:
                raise ClaimError(
                    Reason.CONFIG,
                    f"{source} of {allocation.claim} gives a {decoded.kind} to request {result.request}, but its "
                    f"device {result.device} is of type {types[result.device]!r}",
                )
    for device, decoded in applied.items():
        if problem := _not_supported(decoded):
            raise ClaimError(Reason.CONFIG, f"claim {allocation.claim}, device {device}: {problem}")
    return applied


def json_schemas() -> dict[str, Any]:
    """JSON Schema of each kind, for editors and admission policies."""
    return {kind: TypeAdapter(model).json_schema(by_alias=True) for kind, model in KINDS.items()}


def _not_supported(config: DeviceConfig) -> str:
    """Sharing that changes the hardware needs a backend that can do it; a promise that nobody keeps is refused."""
    if isinstance(config, VfioDeviceConfig) or config.sharing is None:
        return ""
    sharing = config.sharing
    if sharing.strategy == "MPS":
        return "sharing.strategy 'MPS' is not available in this version; without it processes take turns (TimeSlicing)"
    slicing = sharing.time_slicing_config if isinstance(sharing, GpuSharing) else None
    if slicing is not None and slicing.interval != "Default":
        return f"timeSlicingConfig.interval {slicing.interval!r} is not available in this version; 'Default' is"
    return ""


def _explain(kind: str, problem: Any) -> str:
    where = ".".join([kind, *(str(part) for part in problem["loc"])])
    if problem["type"] == "extra_forbidden":
        return f"{where} is not a known field"
    if problem["type"] == "missing":
        return f"{where} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{where} was given {problem['input']!r:.120}: {message[0].lower()}{message[1:]}"
