"""Opaque parameters of claims and classes: ``resource.nvidia.com/v1beta1``, as users of NVIDIA's driver write them.

Decoded strictly: a field that we do not know, or a value that we do not accept, is an error that names it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic.alias_generators import to_camel

from driver.base.quantity import QUANTITY, is_quantity, parse_quantity
from driver.claims.errors import ClaimError, Reason

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from driver.claims.allocation import Allocation

API_VERSION = "resource.nvidia.com/v1beta1"
MOST_SHOWN = 40
"""Characters of a known field's value."""
LONGEST_KEY = 63
"""Characters of the name of a field."""
MOST_PROBLEMS = 5
"""That are named in one answer."""
_LEAST, _MOST = "1Mi", "1Pi"
_EXPECTED = f"a quantity from {_LEAST} to {_MOST} is expected, for example 10Gi"


def _check_memory(value: str) -> str:
    if not (is_quantity(value) and parse_quantity(_LEAST) <= parse_quantity(value) <= parse_quantity(_MOST)):
        raise ValueError(_EXPECTED)
    return value


_QUANTITY_SCHEMA = {
    "type": "string",
    "description": _EXPECTED,
    "pattern": f"^({QUANTITY.pattern})$",
    "x-minimum-quantity": _LEAST,
    "x-maximum-quantity": _MOST,
}
Memory = Annotated[str, AfterValidator(_check_memory), WithJsonSchema(_QUANTITY_SCHEMA)]
_STRATEGY_OF = {"timeSlicingConfig": "TimeSlicing", "mpsConfig": "MPS"}
"""Of which strategy something is the setting."""


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
    """By device UUID, or by index among the devices that these parameters are for."""
    multi_user: bool | None = None
    """Whether clients of different Unix users are served at the same time; yes where claims share a device."""


def _add_strategies(schema: dict[str, Any]) -> None:
    """What the validator below says, for JSON Schema."""
    schema["allOf"] = [
        {
            "if": {"properties": {"strategy": {"not": {"const": strategy}}}},
            "then": {"properties": {name: {"type": "null"}}},
        }
        for name, strategy in _STRATEGY_OF.items()
        if name in schema["properties"]
    ]


class _Sharing(_Strict):
    model_config = ConfigDict(json_schema_extra=_add_strategies)

    strategy: Literal["TimeSlicing", "MPS"]

    @model_validator(mode="after")
    def _check_strategy(self) -> Self:
        for name, field in type(self).model_fields.items():
            wanted = _STRATEGY_OF.get(field.alias or "", self.strategy)
            if wanted != self.strategy and getattr(self, name) is not None:
                raise ValueError(f"{field.alias} does not go with the strategy {self.strategy!r}")
        return self


class GpuSharing(_Sharing):
    """How processes share a whole GPU."""

    time_slicing_config: TimeSlicingConfig | None = None
    mps_config: MpsConfig | None = None


class MigDeviceSharing(_Sharing):
    """How processes share a partition; time slicing has no setting there."""

    mps_config: MpsConfig | None = None


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
_KINDS_OF_JSON = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    type(None): "nothing",
}
_DEVICE_TYPE = {"GpuConfig": "gpu", "MigDeviceConfig": "mig", "VfioDeviceConfig": "vfio"}


def decode(parameters: Mapping[str, Any]) -> DeviceConfig:
    """Decode one set of parameters. Raises ValueError: which field, what was given, what is accepted."""
    kind = parameters.get("kind")
    model = KINDS.get(kind) if isinstance(kind, str) else None
    if model is None or parameters.get("apiVersion") != API_VERSION:
        raise ValueError(
            f"apiVersion {_shown(parameters.get('apiVersion'))} and kind {_shown(kind)} are not known: "
            f"{API_VERSION} with {', '.join(KINDS)} is accepted"
        )
    try:
        return model.model_validate(dict(parameters))
    except ValidationError as error:
        problems = error.errors()
        more = [f"and {len(problems) - MOST_PROBLEMS} more"] if len(problems) > MOST_PROBLEMS else []
        raise ValueError("; ".join([_explain(model, one) for one in problems[:MOST_PROBLEMS]] + more)) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """The parameters of one allocated device: the last of its class, and the last of its claim."""

    by_class: DeviceConfig | None = None
    by_claim: DeviceConfig | None = None

    @property
    def config(self) -> DeviceConfig | None:
        """What applies to a device that no other claim has: the claim's word counts more than the class's."""
        return self.by_claim if self.by_claim is not None else self.by_class

    @property
    def sharing(self) -> GpuSharing | MigDeviceSharing | None:
        """How that says the device is to be shared."""
        return _sharing(self.config)

    @property
    def class_sharing(self) -> GpuSharing | MigDeviceSharing | None:
        """How the class says so."""
        return _sharing(self.by_class)

    @property
    def claim_sharing(self) -> GpuSharing | MigDeviceSharing | None:
        """How the claim says so."""
        return _sharing(self.by_claim)


NOTHING = Applied()


def resolve(allocation: Allocation, types: Mapping[str, str], *, driver: str) -> tuple[Applied, ...]:
    """The parameters that apply to each result of an allocation, in its order; of several the last wins.

    ``types`` has the type of each allocated device by name. A config whose kind does not fit a device is passed over,
    unless it names the device's request.

    Raises ClaimError for parameters that cannot be decoded or applied.
    """
    applied = [NOTHING] * len(allocation.results)
    for config in allocation.configs:
        source = "its DeviceClass" if config.from_class else "the claim"
        try:
            decoded = decode(config.parameters)
        except ValueError as error:
            raise ClaimError(
                Reason.CONFIG, f"parameters for driver {driver} in {source} of {allocation.claim}: {error}"
            ) from None
        for number, result in enumerate(allocation.results):
            if config.requests and not {result.request, result.base_request} & set(config.requests):
                continue
            if _DEVICE_TYPE[decoded.kind] == types[result.device]:
                known = applied[number]
                applied[number] = (
                    replace(known, by_class=decoded) if config.from_class else replace(known, by_claim=decoded)
                )
            elif config.requests:
                parent = result.base_request
                only = result.request not in config.requests and parent in config.requests
                advice = f"; {parent}/<name> in 'requests' is one of its alternatives" if only else ""
                raise ClaimError(
                    Reason.CONFIG,
                    f"{source} of {allocation.claim} gives a {decoded.kind} to request "
                    f"{parent if only else result.request}, but its device {result.device} is of type "
                    f"{types[result.device]!r}{advice}",
                )
    return tuple(applied)


def json_schemas() -> dict[str, Any]:
    """JSON Schema of each kind, for editors and admission policies."""
    return {kind: TypeAdapter(model).json_schema(by_alias=True) for kind, model in KINDS.items()}


def _sharing(config: DeviceConfig | None) -> GpuSharing | MigDeviceSharing | None:
    return config.sharing if isinstance(config, GpuConfig | MigDeviceConfig) else None


def _explain(model: type[BaseModel], problem: Any) -> str:
    *parents, name = problem["loc"]
    where = ".".join([model.__name__, *(f"{part!s:.{LONGEST_KEY}}" for part in problem["loc"])])
    value = problem["input"]
    match problem["type"]:
        case "extra_forbidden":
            accepted = ", ".join(_fields(_nested(model, parents)))
            return f"{where} was given {_kind(value)}, but is not a known field; accepted: {accepted}"
        case "missing":
            words = get_args(_fields(_nested(model, parents))[str(name)])
            return f"{where} is missing; accepted: {' or '.join(map(repr, words))}"
        case "model_type":
            accepted = ", ".join(_fields(_nested(model, problem["loc"])))
            return f"{where} was given {_kind(value)}: an object with {accepted} is expected"
        case "dict_type":
            return f"{where} was given {_kind(value)}: an object is expected"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{where} was given {_shown(value)}: {message[0].lower()}{message[1:]}"


def _kind(value: object) -> str:
    """What sort of value it is, where what it says is nobody's business: somebody may have put a password there."""
    return _KINDS_OF_JSON.get(type(value), type(value).__name__)


def _shown(value: object) -> str:
    """A value of a known field as it is, if it is short; what it is, if not."""
    short = isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= MOST_SHOWN)
    return f"{value!r:.{MOST_SHOWN + 2}}" if short else _kind(value)


def _nested(model: type[BaseModel], path: Sequence[str | int]) -> type[BaseModel]:
    """The model of the object at a path."""
    for part in path:
        kinds = get_args(_fields(model)[str(part)])
        model = next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))
    return model


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    """The type of each field of an object, by the name that users write."""
    return {str(field.alias): field.annotation for field in model.model_fields.values()}
