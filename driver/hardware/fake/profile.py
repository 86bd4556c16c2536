"""Descriptions of fake nodes: YAML files, those that we ship and those that users write."""

from __future__ import annotations

import importlib.resources
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from driver.base import files, strict_yaml
from driver.hardware.backend import BackendError
from driver.hardware.model import Gpu, Inventory, MigMode, MigProfile, switches_without_reset

if TYPE_CHECKING:
    from collections.abc import Iterator
    from importlib.resources.abc import Traversable

HEX = "[0-9a-f]"
DOMAIN = f"({HEX}{{4}}|[1-9a-f]{HEX}{{4,7}})"
"""A PCI domain as the kernel spells it: four digits, more only where it needs them."""
MAX_FILE_BYTES = 1 << 20
MAX_SLICES = 25
"""What the API can count, not what any GPU has: 32 counters to a set, seven of which are for engines and memory."""


class ProfileError(BackendError):
    """A profile that does not exist or is not right; one line that says where and what."""


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Engines(_Part):
    """Engines of a MIG profile, under the short names that ``nvidia-smi mig -lgip`` prints."""

    ce: int = Field(ge=0)
    dec: int = Field(ge=0)
    enc: int = Field(ge=0)
    jpg: int = Field(ge=0)
    ofa: int = Field(ge=0)


class MigFacts(_Part):
    """One MIG profile of a GPU model; see driver.hardware.model.MigProfile."""

    name: str = Field(pattern=r"^[1-9][0-9]?g\.[0-9]+gb([+-][a-z]+(\.[a-z]+)?)?$")
    id: int = Field(ge=0)
    compute_slices: int = Field(ge=1, le=99)
    size: int = Field(ge=1, le=MAX_SLICES)
    starts: list[int] = Field(min_length=1, max_length=MAX_SLICES)
    max_instances: int = Field(ge=1, le=MAX_SLICES)
    memory_mib: int = Field(ge=0)
    multiprocessors: int = Field(ge=1)
    engines: Engines


class ModelFacts(_Part):
    """What all GPUs of the node have in common."""

    product: str
    brand: str | None = None
    architecture: str | None = None
    compute_capability: str | None = Field(default=None, pattern=r"^[0-9]+\.[0-9]+$")
    memory_mib: int | None = Field(default=None, ge=0, le=1 << 33)
    multiprocessors: int | None = Field(default=None, ge=1)
    addressing_mode: str | None = None
    nvlink: bool = False
    """Whether each GPU reaches all others of the node over NVLink."""
    memory_slices: int = Field(default=0, ge=0, le=MAX_SLICES)
    mig_profiles: list[MigFacts] = []


class PartitionFacts(_Part):
    """A MIG device that an administrator has made."""

    profile: str
    start: int = Field(ge=0)


class GpuFacts(_Part):
    """What one GPU has for itself."""

    minor: int = Field(ge=0, le=255)
    uuid: str = Field(pattern=rf"^GPU-{HEX}{{8}}-{HEX}{{4}}-{HEX}{{4}}-{HEX}{{4}}-{HEX}{{12}}$")
    pci: str = Field(pattern=rf"^{DOMAIN}:{HEX}{{2}}:{HEX}{{2}}\.[0-7]$")
    root: str | None = Field(default=None, pattern=rf"^pci{DOMAIN}:{HEX}{{2}}$")
    numa: int | None = Field(default=None, ge=0)
    near: list[int] = Field(default=[], max_length=16)
    """Other NUMA nodes of its socket that are as near as any."""
    nvlink: int | None = None
    """A number that it shares with the GPUs that it reaches over NVLink bridges."""
    mig: bool = False
    """Whether MIG mode is on when the node boots."""
    partitions: list[PartitionFacts] = []
    fabric_clique: str | None = Field(
        default=None, pattern=rf"^{HEX}{{8}}-{HEX}{{4}}-{HEX}{{4}}-{HEX}{{4}}-{HEX}{{12}}\.[0-9]{{1,10}}$"
    )


class Profile(_Part):
    """A fake node: driver, CUDA, one GPU model, and the GPUs."""

    driver_version: str
    cuda_version: str = Field(pattern=r"^[0-9]+\.[0-9]+$")
    model: ModelFacts
    gpus: list[GpuFacts] = Field(max_length=256)

    def inventory(self) -> Inventory:
        """The node as a backend reports it: GPUs in order of their PCI address, which is also the index' order."""
        ordered = sorted(self.gpus, key=lambda gpu: gpu.pci)

        def peers(gpu: GpuFacts) -> tuple[str, ...]:
            bridged = [other for other in ordered if gpu.nvlink is not None and other.nvlink == gpu.nvlink]
            return tuple(other.uuid for other in (ordered if self.model.nvlink else bridged) if other is not gpu)

        return Inventory(
            driver_version=self.driver_version,
            cuda_version=self.cuda_version,
            gpus=tuple(_gpu(self.model, facts, index, peers(facts)) for index, facts in enumerate(ordered)),
        )

    def instances(self, gpu_uuid: str) -> tuple[tuple[str, int], ...]:
        """Partitions that the node boots with, as profile name and start."""
        facts = next((gpu for gpu in self.gpus if gpu.uuid == gpu_uuid), None)
        return tuple((partition.profile, partition.start) for partition in facts.partitions) if facts else ()


def known() -> tuple[str, ...]:
    """Names of the shipped profiles."""
    return tuple(
        sorted(path.name.removesuffix(".yaml") for path in _shipped().iterdir() if path.name.endswith(".yaml"))
    )


def load_profile(source: str) -> Profile:
    """Read a shipped profile by name, or any by its path (which has a ``/`` or ends in ``.yaml`` or ``.yml``).

    Raises:
        ProfileError: there is no such profile, or it is not right.
    """
    if "/" in source or source.endswith((".yaml", ".yml")):
        path = Path(source)
        try:
            data = files.read(str(path), largest=MAX_FILE_BYTES)
        except OSError as error:
            raise ProfileError(f"{source}: cannot be read: {error.strerror or error}") from None
        return parse(data, source)
    if source not in known():
        raise ProfileError(
            f"no profile is called {source!r}; known are {', '.join(known())}, or give a path to a YAML file"
        )
    return parse((_shipped() / f"{source}.yaml").read_bytes(), f"profiles/{source}.yaml")


def parse(text: str | bytes, name: str) -> Profile:
    """Read a profile's text; ``name`` is what errors call the file."""
    try:
        return strict_yaml.load(Profile, text, name, check=_contradictions)
    except strict_yaml.StrictYamlError as error:
        raise ProfileError(str(error)) from None


def _shipped() -> Traversable:
    return importlib.resources.files(__package__) / "profiles"


def _contradictions(profile: Profile) -> Iterator[tuple[strict_yaml.Location, str]]:
    for key in ("minor", "uuid", "pci"):
        seen: dict[object, int] = {}
        for position, gpu in enumerate(profile.gpus):
            value = getattr(gpu, key)
            if value in seen:
                yield ("gpus", position, key), f"{value!r} is taken by gpus[{seen[value]}]"
            seen.setdefault(value, position)
    for position, gpu in enumerate(profile.gpus):
        if gpu.nvlink is not None and profile.model.nvlink:
            yield ("gpus", position, "nvlink"), "all GPUs reach each other already, as model.nvlink says"
        yield from _cut(profile, gpu, ("gpus", position))
    slices = profile.model.memory_slices
    names: set[str] = set()
    for position, mig in enumerate(profile.model.mig_profiles):
        at = ("model", "mig_profiles", position)
        if mig.name in names:
            yield (*at, "name"), f"{mig.name!r} is there twice"
        names.add(mig.name)
        for start in mig.starts:
            if start < 0 or start + mig.size > slices:
                problem = f"an instance of {mig.size} at {start} does not fit into model.memory_slices = {slices}"
                yield (*at, "starts"), problem


def _cut(profile: Profile, gpu: GpuFacts, at: strict_yaml.Location) -> Iterator[tuple[strict_yaml.Location, str]]:
    if gpu.mig and not profile.model.mig_profiles:
        yield (*at, "mig"), "the model has no MIG profiles"
    if gpu.partitions and not gpu.mig:
        yield (*at, "partitions"), "there are partitions only where mig is true"
    known = {mig.name: mig for mig in profile.model.mig_profiles}
    taken: set[int] = set()
    for position, partition in enumerate(gpu.partitions):
        where = (*at, "partitions", position)
        mig = known.get(partition.profile)
        if mig is None:
            yield (*where, "profile"), f"{partition.profile!r} is none of {', '.join(known)}"
            continue
        slots = set(range(partition.start, partition.start + mig.size))
        if partition.start not in mig.starts or slots & taken:
            yield (*where, "start"), f"{partition.profile} cannot be at {partition.start}"
        taken |= slots


def _gpu(model: ModelFacts, facts: GpuFacts, index: int, peers: tuple[str, ...]) -> Gpu:
    return Gpu(
        name=f"gpu-{facts.minor}",
        uuid=facts.uuid,
        index=index,
        minor=facts.minor,
        product_name=model.product,
        brand=model.brand,
        architecture=model.architecture,
        compute_capability=model.compute_capability,
        memory_bytes=None if model.memory_mib is None else model.memory_mib << 20,
        multiprocessors=model.multiprocessors,
        pci_bus_id=facts.pci,
        pcie_root=facts.root,
        numa_node=facts.numa,
        near_nodes=tuple(facts.near),
        addressing_mode=model.addressing_mode,
        memory_slices=model.memory_slices,
        mig_mode=(MigMode.ENABLED if facts.mig else MigMode.DISABLED) if model.mig_profiles else MigMode.UNSUPPORTED,
        mig_switchable=bool(model.mig_profiles) and switches_without_reset(model.compute_capability),
        nvlink_peers=peers,
        fabric_clique=facts.fabric_clique,
        mig_profiles=tuple(
            MigProfile(
                name=mig.name,
                profile_id=mig.id,
                compute_slices=mig.compute_slices,
                size=mig.size,
                starts=tuple(mig.starts),
                max_instances=mig.max_instances,
                memory_mib=mig.memory_mib,
                multiprocessors=mig.multiprocessors,
                copy_engines=mig.engines.ce,
                decoders=mig.engines.dec,
                encoders=mig.engines.enc,
                jpeg_engines=mig.engines.jpg,
                ofa_engines=mig.engines.ofa,
            )
            for mig in model.mig_profiles
        ),
    )
