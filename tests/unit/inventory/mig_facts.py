"""GPU models with MIG, for tests of whatever places partitions."""

from pathlib import Path
from typing import Any

import yaml

from driver.hardware.model import Gpu, Inventory, MigMode, MigProfile

FACTS: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
MODELS = sorted(FACTS)


def gpu(model: str, number: int = 0, *, mode: MigMode = MigMode.DISABLED, switchable: bool = True) -> Gpu:
    facts = FACTS[model]
    return Gpu(
        name=f"gpu-{number}",
        uuid=f"GPU-{number}",
        index=number,
        minor=number,
        product_name=model,
        compute_capability=facts["compute_capability"],
        memory_bytes=facts["memory_mib"] << 20,
        multiprocessors=facts["multiprocessors"],
        pci_bus_id=f"0000:{number:02x}:00.0",
        pcie_root=f"pci0000:{number:02x}",
        numa_node=0,
        memory_slices=facts["slots"],
        mig_profiles=tuple(
            MigProfile(
                name=name,
                profile_id=number,
                compute_slices=compute,
                size=size,
                starts=tuple(starts),
                max_instances=most,
                memory_mib=memory,
                multiprocessors=multiprocessors,
                copy_engines=engines[0],
                decoders=engines[1],
                encoders=engines[2],
                jpeg_engines=engines[3],
                ofa_engines=engines[4],
            )
            for name, (number, compute, size, starts, most, memory, multiprocessors, engines) in facts[
                "profiles"
            ].items()
        ),
        mig_mode=mode,
        mig_switchable=switchable,
    )


def node(model: str, count: int = 1, **more: Any) -> Inventory:
    return Inventory(
        driver_version="570.124.06",
        cuda_version="12.8",
        gpus=tuple(gpu(model, number, **more) for number in range(count)),
    )
