"""The node config file: what flags cannot say, because it differs by GPU or by cause. Strict YAML with JSON Schema."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

from driver.base import files, strict_yaml
from driver.hardware import Cause
from driver.health import DEFAULT_EFFECTS, Effect, Effects, Severity, XidRules, parse_xids
from driver.inventory import (
    MAX_SHARES,
    DeviceOptions,
    HostNeeds,
    HostResources,
    Options,
    Override,
    Partitioning,
    Shares,
    parse_memory,
    parse_shares,
)
from driver.node.settings import NodeConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from driver.node.settings import Settings

MAX_FILE_BYTES = 1 << 20


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, alias_generator=to_camel)


def _check_shares(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("'disabled', 'memory', 'unlimited' or a number is expected")
    parse_shares(str(value))
    return str(value)


def _check_memory(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("an amount of memory is expected, for example 512Mi or 1Gi, or 0")
    parse_memory(str(value))
    return str(value)


def _parse_cpu(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,6})(m?)", text)
    if match is None:
        raise ValueError("a number of CPUs is expected, for example 2 or 500m")
    return int(match[1]) * (1 if match[2] else 1000)


def _check_cpu(value: Any) -> str:
    _parse_cpu("" if isinstance(value, bool) or not isinstance(value, int | str) else str(value))
    return str(value)


def _check_xids(value: Any) -> str:
    parse_xids("" if isinstance(value, bool) or not isinstance(value, int | str) else str(value))
    return str(value)


SharesText = Annotated[
    str,
    BeforeValidator(_check_shares),
    WithJsonSchema(
        {
            "oneOf": [
                {"enum": ["disabled", "memory", "unlimited"]},
                {"type": "integer", "minimum": 1, "maximum": MAX_SHARES},
            ]
        }
    ),
]
MemoryText = Annotated[
    str,
    BeforeValidator(_check_memory),
    WithJsonSchema({"type": ["string", "integer"], "pattern": "^[0-9]{1,9}(|k|M|G|T|Ki|Mi|Gi|Ti)$", "minimum": 0}),
]
CpuText = Annotated[
    str,
    BeforeValidator(_check_cpu),
    WithJsonSchema({"type": ["string", "integer"], "pattern": "^[0-9]{1,6}m?$", "minimum": 0, "maximum": 999999}),
]
XidsText = Annotated[
    str,
    BeforeValidator(_check_xids),
    WithJsonSchema({"type": ["string", "integer"], "pattern": "^[ ,0-9]*(|[aA][lL][lL]|[xX][iI][dD][sS])[ ,0-9]*$"}),
]
PartitioningText = Literal["none", "static", "dynamic"]
EffectText = Literal["None", "NoSchedule", "NoExecute"]


class _Offer(_Part):
    partitioning: PartitioningText | None = Field(
        default=None, description="Whole GPUs, the MIG devices that exist, or every partition that is possible."
    )
    shares: SharesText | None = Field(
        default=None, description="Whether claims share a device: by memory, so many of them, or any number."
    )
    shares_memory_reserve: MemoryText | None = Field(
        default=None, description="Memory of a shared device that no claim gets, for example 512Mi."
    )


class Match(_Part):
    """Which GPUs: all that is given has to fit."""

    name: str | None = Field(default=None, description="Device name of the GPU, for example gpu-3.")
    uuid: str | None = Field(default=None, description="UUID of the GPU, GPU-….")
    product: str | None = Field(default=None, description="Product name as the attribute productName has it.")


class GpuOffer(_Offer):
    """How some of the GPUs are offered, other than the rest."""

    match: Match


class XidEffects(_Part):
    """XID errors by how bad they are for the GPU."""

    information: EffectText | None = Field(
        default=None, description="Faults of a program; the GPU is as good as before."
    )
    degraded: EffectText | None = Field(default=None, description="What runs may go on, nothing new should start.")
    unusable: EffectText | None = Field(default=None, description="Nothing on this GPU can go on.")


class XidSeverities(_Part):
    """How bad XIDs are, whatever the GPU's account and our table say: numbers with commas, all or xids for the rest."""

    information: XidsText | None = Field(default=None, description="Those that leave the GPU as good as before.")
    degraded: XidsText | None = Field(default=None, description="Those after which nothing new should start.")
    unusable: XidsText | None = Field(default=None, description="Those after which nothing on the GPU can go on.")


class TaintEffects(_Part):
    """What a taint does to claims that do not tolerate it, by cause."""

    xid: XidEffects | None = None
    ecc: EffectText | None = Field(default=None, description="An uncorrectable memory error.")
    gpu_lost: EffectText | None = Field(default=None, description="The GPU does not answer any more.")
    unmonitored: EffectText | None = Field(default=None, description="Nobody can tell whether the GPU is well.")
    repair: EffectText | None = Field(default=None, description="The GPU asks to be reset, or cannot mend its memory.")
    incomplete: EffectText | None = Field(default=None, description="The GPU does not answer what it is asked.")


class HostAmounts(_Part):
    """What a pod needs of its node for one device."""

    memory: MemoryText | None = Field(default=None, description="Host memory, for example 4Gi.")
    cpu: CpuText | None = Field(default=None, description="CPUs, for example 2 or 500m.")

    def needs(self) -> HostNeeds:
        """In bytes and thousandths of a CPU."""
        return HostNeeds(memory=parse_memory(self.memory or "0"), cpu=_parse_cpu(self.cpu or "0"))


class HostParts(_Part):
    """What pods need of their node besides what they ask for, by the type of their device."""

    gpu: HostAmounts = Field(default=HostAmounts(), description="For each whole GPU.")
    partition: HostAmounts = Field(default=HostAmounts(), description="For each MIG partition.")
    share: HostAmounts = Field(default=HostAmounts(), description="For each share of a device that claims share.")


class NodeConfig(_Offer):
    """Settings of one node, or of all nodes that get this file. What is left out is as the flags say."""

    list_attributes: bool = Field(
        default=False,
        description="Publish lists as attributes: for Kubernetes from 1.37 on, with gate DRAListTypeAttributes.",
    )
    host_resources: HostParts = Field(
        default=HostParts(),
        description="Host memory and CPU that the scheduler counts for a pod with a device; the cluster needs the "
        "feature gate DRANodeAllocatableResources.",
    )
    gpus: list[GpuOffer] = Field(
        default=[], max_length=256, description="GPUs that differ; of several that match, the last one counts."
    )
    xids: XidSeverities = Field(default=XidSeverities(), description="How bad XID errors are where that differs.")
    taints: TaintEffects = Field(default=TaintEffects(), description="Effects of taints where they differ.")

    def device_options(self, settings: Settings) -> Options:
        """How the node's GPUs are offered: flags, the file's word for the node, its word for single GPUs."""
        mode, count = parse_shares(self.shares or settings.shares)
        reserve = parse_memory(self.shares_memory_reserve or settings.shares_memory_reserve)
        return Options(
            default=DeviceOptions(
                partitioning=Partitioning(self.partitioning or settings.partitioning),
                shares=Shares(mode=mode, count=count, memory_reserve=reserve),
            ),
            overrides=tuple(_override(gpu) for gpu in self.gpus),
            list_attributes=self.list_attributes,
        )

    def host_needs(self) -> HostResources:
        """What pods need of the node for their devices."""
        parts = self.host_resources
        return HostResources(gpu=parts.gpu.needs(), partition=parts.partition.needs(), share=parts.share.needs())

    def xid_rules(self) -> XidRules:
        """How bad XIDs are in the administrator's judgement."""
        severities: dict[int, Severity] = {}
        others: Severity | None = None
        for severity, numbers in _xids(self.xids):
            if numbers is None:
                others = severity
            else:
                severities |= dict.fromkeys(numbers, severity)
        return XidRules(severities=severities, others=others)

    def taint_effects(self) -> Effects:
        """The table by which conditions become taints."""
        given, xid = self.taints, self.taints.xid or XidEffects()
        changes = {
            (Cause.XID, Severity.INFORMATION): xid.information,
            (Cause.XID, Severity.DEGRADED): xid.degraded,
            (Cause.XID, Severity.UNUSABLE): xid.unusable,
            (Cause.ECC, Severity.DEGRADED): given.ecc,
            (Cause.GPU_LOST, Severity.UNUSABLE): given.gpu_lost,
            (Cause.UNMONITORED, Severity.INFORMATION): given.unmonitored,
            (Cause.REPAIR, Severity.DEGRADED): given.repair,
            (Cause.INCOMPLETE, Severity.DEGRADED): given.incomplete,
        }
        return {**DEFAULT_EFFECTS, **{key: Effect(value) for key, value in changes.items() if value is not None}}


def load(path: Path) -> NodeConfig:
    """Read a config file. Raises NodeConfigError."""
    try:
        data = files.read(str(path), largest=MAX_FILE_BYTES)
    except OSError as error:
        raise NodeConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    return parse(data, str(path))


def parse(text: str | bytes, name: str) -> NodeConfig:
    """Read a config file's text; ``name`` is what errors call the file. Raises NodeConfigError."""
    try:
        return strict_yaml.load(NodeConfig, text, name, check=_contradictions)
    except strict_yaml.StrictYamlError as error:
        raise NodeConfigError(str(error)) from None


def read_node_config(settings: Settings) -> NodeConfig:
    """The file that the settings name; where they name none, one that changes nothing. Raises NodeConfigError."""
    return load(settings.config) if settings.config else NodeConfig()


def json_schema() -> str:
    """The JSON Schema of the file, as it is shipped for editors and charts."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **NodeConfig.model_json_schema(by_alias=True)}
    return json.dumps(schema, indent=2) + "\n"


def _override(gpu: GpuOffer) -> Override:
    return Override(
        name=gpu.match.name,
        uuid=gpu.match.uuid,
        product=gpu.match.product,
        partitioning=Partitioning(gpu.partitioning) if gpu.partitioning else None,
        shares=parse_shares(gpu.shares) if gpu.shares else None,
        memory_reserve=parse_memory(gpu.shares_memory_reserve) if gpu.shares_memory_reserve else None,
    )


def _xids(given: XidSeverities) -> Iterator[tuple[Severity, frozenset[int] | None]]:
    for severity in Severity:
        text = getattr(given, severity.name.lower())
        if text is not None:
            yield severity, parse_xids(text)


def _contradictions(config: NodeConfig) -> Iterator[tuple[strict_yaml.Location, str]]:
    named: dict[int | None, Severity] = {}
    for severity, numbers in _xids(config.xids):
        for number in sorted(numbers) if numbers is not None else (None,):
            if number in named:
                what = "all" if number is None else number
                yield ("xids", severity.name.lower()), f"{what} is {named[number].name.lower()} already"
            named[number] = severity
    for position, gpu in enumerate(config.gpus):
        if gpu.match == Match():
            yield ("gpus", position, "match"), "at least one of name, uuid, product is expected"
        if gpu.partitioning is None and gpu.shares is None and gpu.shares_memory_reserve is None:
            yield ("gpus", position), "changes nothing: partitioning, shares or sharesMemoryReserve is expected"
