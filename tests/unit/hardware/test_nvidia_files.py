"""What is found in driver roots of all kinds, and the specs that come of it."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from driver.cdi import spec
from driver.hardware.host import nvidia
from driver.hardware.host.root import DriverRoot
from driver.sim.kubelet import cdispec
from tests.unit.hardware import roots
from tests.unit.hardware.roots import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable

    from driver.hardware.host.nvidia import DriverFiles

GOLDEN = Path(__file__).with_name("golden")
HOOK = b"\x7fELF create-symlinks update-ldcache enable-cuda-compat disable-device-node-modification"


def scan(
    root: Path, *, host: str = "/", hook: str = "", machine: str = "x86_64", version: str = VERSION
) -> DriverFiles:
    driver_root = DriverRoot(path=root, host=host)
    return nvidia.scan(driver_root, version=version, hook=hook, machine=machine, kernel="6.8.0-1-generic")


def sources(found: DriverFiles) -> dict[str, str]:
    """Host paths by container paths."""
    return {mount.container_path: mount.host_path for mount in found.edits.mounts}


def accepted(found: DriverFiles) -> dict[str, Any]:
    """The spec of a claim with these files, as a runtime reads it."""
    device = nvidia.ContainerEdits(device_nodes=(nvidia.DeviceNode(path="/dev/nvidia0", major=195, minor=0),))
    data: dict[str, Any] = json.loads(spec.render_spec("gpu.nvidia.com", found.edits, {"uid-gpu-0": device}))
    read = cdispec.Spec.model_validate(data)
    cdispec.check(read)
    assert read.cdi_version == cdispec.minimum_version(read)
    return data


def _lines(data: dict[str, Any]) -> str:
    """A spec with a line for each mount and hook, for people who read changes."""
    edits = {
        key: "[\n  " + ",\n  ".join(map(json.dumps, value)) + "\n ]" for key, value in data["containerEdits"].items()
    }
    common = ",\n ".join(f'"{key}": {text}' for key, text in edits.items())
    rest = ",\n".join(f'"{key}": {json.dumps(value)}' for key, value in data.items() if key != "containerEdits")
    return f'{{{rest},\n"containerEdits": {{\n {common}\n}}}}\n'


# Each layout: how it is made, the driver root on the host, the machine.
LAYOUTS: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "ubuntu": (roots.ubuntu, "/", "x86_64"),
    "ubuntu-arm64": (lambda root: roots.ubuntu(root, machine="aarch64"), "/", "aarch64"),
    "rhel": (roots.rhel, "/", "x86_64"),
    "debian": (roots.debian, "/", "x86_64"),
    "driver-container": (roots.ubuntu, "/run/nvidia/driver", "x86_64"),
    "nixos": (roots.nixos, "/", "x86_64"),
    "talos": (roots.talos, "/", "x86_64"),
}


@pytest.mark.parametrize("hooks", ["hooks", "no-hooks"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_spec_for_a_layout_is_the_one_that_was_read_and_approved(
    layout: str, hooks: str, tmp_path: Path, request: pytest.FixtureRequest
):
    make, host, machine = LAYOUTS[layout]
    make(tmp_path)
    if hooks == "hooks" and host == "/":
        roots.program(tmp_path, "/usr/bin/nvidia-cdi-hook", HOOK)
        roots.program(tmp_path, "/usr/sbin/ldconfig")
        if not (tmp_path / "sbin").exists():
            roots.link(tmp_path, "/sbin", "usr/sbin")
    setting = "/usr/local/nvidia/toolkit/nvidia-cdi-hook" if hooks == "hooks" and host != "/" else ""

    data = accepted(scan(tmp_path, host=host, hook=setting, machine=machine))

    golden = GOLDEN / f"{layout}-{hooks}.json"
    text = _lines(data)
    assert json.loads(text) == data
    if os.environ.get("WRITE_GOLDEN"):  # then read them, line by line
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_library_is_there_under_the_names_that_programs_load(layout: str, tmp_path: Path):
    make, host, machine = LAYOUTS[layout]
    make(tmp_path)

    mounts = sources(scan(tmp_path, host=host, machine=machine))

    for directory in (f"/usr/lib/{machine}-linux-gnu", "/usr/lib64"):
        for name in ("libcuda.so.1", "libcuda.so", "libnvidia-ml.so.1", "libnvidia-ptxjitcompiler.so.1",
                     "libnvidia-nvvm.so.4", f"libnvidia-gpucomp.so.{VERSION}"):  # fmt: skip
            assert mounts[f"{directory}/{name}"].endswith(f".so.{VERSION}")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_host_paths_lead_to_files_of_the_host(layout: str, tmp_path: Path):
    make, host, machine = LAYOUTS[layout]
    make(tmp_path)

    mounts = sources(scan(tmp_path, host=host, machine=machine))

    for path in mounts.values():
        here = tmp_path / path.removeprefix(host).lstrip("/")
        assert path.startswith(host)
        assert here.exists()
        assert os.path.relpath(here.resolve(), tmp_path.resolve()) == path.removeprefix(host).lstrip("/")


def test_libraries_of_another_version_or_machine_or_of_nobody_are_left_out(tmp_path: Path):
    roots.ubuntu(tmp_path)

    found = " ".join(sources(scan(tmp_path)).values())

    assert "libcuda.so.535.1" not in found
    assert "i386" not in found
    assert "libcudart" not in found


def test_an_arm64_host_gives_no_x86_libraries(tmp_path: Path):
    roots.libraries(tmp_path, "/usr/lib64", machine="x86_64")
    roots.libraries(tmp_path, "/usr/lib/aarch64-linux-gnu", machine="aarch64")

    found = scan(tmp_path, machine="aarch64")

    assert {library.directory for library in found.libraries} == {"/usr/lib/aarch64-linux-gnu"}


@pytest.mark.parametrize("directory", ["nvidia", "tegra"])
@pytest.mark.parametrize("file", ["libcuda.so.1.1", "libcuda.so"])
def test_a_library_without_a_version_in_its_name_is_found_where_jetson_has_it(
    directory: str, file: str, tmp_path: Path
):
    place = f"/usr/lib/aarch64-linux-gnu/{directory}"
    roots.put(tmp_path, f"{place}/{file}", roots.elf("libcuda.so.1", "aarch64"))
    roots.link(tmp_path, f"{place}/libcuda.so.1", file)

    found = scan(tmp_path, machine="aarch64", version="540.4.0")

    assert found.has_cuda
    assert sources(found)["/usr/lib/aarch64-linux-gnu/libcuda.so.1"] == f"{place}/{file}"
    assert sources(found)["/usr/lib/aarch64-linux-gnu/libcuda.so"] == f"{place}/{file}"


def test_a_library_without_a_version_in_its_name_gives_way_to_the_driver_s_own(tmp_path: Path):
    roots.libraries(tmp_path, "/usr/lib64", links=False)
    roots.put(tmp_path, "/usr/lib64/libcuda.so.1", roots.elf("libcuda.so.1"))

    found = scan(tmp_path)

    assert sources(found)["/usr/lib64/libcuda.so.1"] == f"/usr/lib64/libcuda.so.{VERSION}"
    assert len(found.libraries) == len(roots.SONAMES)


@pytest.mark.parametrize("damage", [None, b"", b"garbage", b"glibc-ld.so.cache1.1"])
def test_without_a_usable_cache_the_usual_directories_are_searched(damage: bytes | None, tmp_path: Path):
    roots.libraries(tmp_path, "/usr/lib64", links=False)
    if damage is not None:
        roots.put(tmp_path, "/etc/ld.so.cache", damage)

    assert len(scan(tmp_path).libraries) == len(roots.SONAMES)


def test_a_place_that_only_the_cache_knows_is_found(tmp_path: Path):
    roots.libraries(tmp_path, "/opt/vendor/odd/lib")
    roots.ldconfig(tmp_path, "/opt/vendor/odd/lib")

    assert {library.directory for library in scan(tmp_path).libraries} == {"/opt/vendor/odd/lib"}


def test_libraries_that_say_nothing_of_themselves_have_the_usual_names(tmp_path: Path):
    for name in roots.SONAMES:
        roots.put(tmp_path, f"/usr/lib64/{name}", "no ELF file")

    mounts = sources(scan(tmp_path))

    assert mounts["/usr/lib64/libcuda.so.1"] == f"/usr/lib64/libcuda.so.{VERSION}"
    assert mounts["/usr/lib64/libnvidia-ml.so.1"] == f"/usr/lib64/libnvidia-ml.so.{VERSION}"


def test_links_cannot_lead_out_of_the_driver_root(tmp_path: Path):
    roots.put(tmp_path, "/outside/libcuda.so.1")
    root = tmp_path / "root"
    roots.link(root, "/usr/lib64/libcuda.so.1", "../../../../../../../../outside/libcuda.so.1")
    roots.link(root, f"/usr/lib64/libcuda.so.{VERSION}", str(tmp_path / "outside/libcuda.so.1"))
    roots.link(root, "/usr/bin/nvidia-smi", "nvidia-smi")

    assert scan(root).edits.mounts == ()


def test_an_unknown_version_is_that_of_the_libraries(tmp_path: Path):
    roots.rhel(tmp_path)

    assert scan(tmp_path, version="").version == VERSION


def test_an_empty_root_gives_empty_edits(tmp_path: Path):
    assert not scan(tmp_path).edits
    assert not scan(tmp_path / "missing").edits


def test_programs_have_their_usual_place_wherever_the_host_has_them(tmp_path: Path):
    roots.debian(tmp_path)

    assert sources(scan(tmp_path))["/usr/bin/nvidia-smi"] == "/usr/lib/nvidia/current/nvidia-smi"


def test_programs_that_are_not_for_containers_stay_out(tmp_path: Path):
    roots.ubuntu(tmp_path)

    assert not {path for path in sources(scan(tmp_path)) if "imex" in path or "xconfig" in path}


def test_firmware_is_that_of_the_version(tmp_path: Path):
    roots.ubuntu(tmp_path)

    firmware = {path for path in sources(scan(tmp_path)) if "firmware" in path}

    assert firmware == {f"/lib/firmware/nvidia/{VERSION}/gsp_{name}.bin" for name in ("ga10x", "tu10x")}


def test_sockets_can_be_written_to_and_nothing_else_can(tmp_path: Path):
    roots.ubuntu(tmp_path)

    options = {mount.container_path: mount.options for mount in scan(tmp_path).edits.mounts}

    assert "ro" not in options.pop("/run/nvidia-persistenced/socket")
    assert all("ro" in given for given in options.values())


def test_a_socket_below_var_run_is_found_too(tmp_path: Path):
    roots.put(tmp_path, "/run/nvidia-fabricmanager/socket")
    roots.link(tmp_path, "/var/run", "/run")

    assert sources(scan(tmp_path)) == {"/run/nvidia-fabricmanager/socket": "/run/nvidia-fabricmanager/socket"}


def hook_args(found: DriverFiles) -> list[tuple[str, ...]]:
    return [hook.args for hook in found.edits.hooks]


def test_with_nvidia_s_hook_program_libraries_keep_their_place(tmp_path: Path):
    roots.debian(tmp_path)
    roots.program(tmp_path, "/usr/bin/nvidia-cdi-hook", HOOK)
    roots.program(tmp_path, "/sbin/ldconfig")
    place = "/usr/lib/x86_64-linux-gnu/nvidia/current"

    found = scan(tmp_path)

    libraries = [path for path in sources(found) if ".so" in path]
    assert libraries == [f"{place}/{name}" for name in sorted(roots.SONAMES)]
    assert [args[1] for args in hook_args(found)] == [
        "create-symlinks", "enable-cuda-compat", "update-ldcache", "disable-device-node-modification",
    ]  # fmt: skip
    assert ("--link", f"libcuda.so.{VERSION}::{place}/libcuda.so.1") == hook_args(found)[0][4:6]
    assert hook_args(found)[2][2:] == ("--folder", place)


def test_the_old_name_of_the_hook_program_needs_another_word(tmp_path: Path):
    roots.rhel(tmp_path)
    roots.program(tmp_path, "/usr/bin/nvidia-ctk", b"create-symlinks update-ldcache")
    roots.program(tmp_path, "/sbin/ldconfig")

    assert [args[:3] for args in hook_args(scan(tmp_path))] == [
        ("nvidia-ctk", "hook", "create-symlinks"),
        ("nvidia-ctk", "hook", "update-ldcache"),
    ]


def test_a_wrapper_s_commands_are_those_of_the_program_behind_it(tmp_path: Path):
    roots.rhel(tmp_path)
    roots.program(tmp_path, "/usr/local/nvidia/toolkit/nvidia-cdi-hook")
    roots.program(tmp_path, "/usr/local/nvidia/toolkit/nvidia-cdi-hook.real", HOOK)
    roots.program(tmp_path, "/sbin/ldconfig")

    assert {hook.path for hook in scan(tmp_path).edits.hooks} == {"/usr/local/nvidia/toolkit/nvidia-cdi-hook"}
    assert len(hook_args(scan(tmp_path))) == 4


@pytest.mark.parametrize("hook", [b"", b"create-symlinks only", None])
def test_a_hook_program_that_would_fail_is_not_used(hook: bytes | None, tmp_path: Path, caplog: Any):
    roots.rhel(tmp_path)
    if hook is not None:
        roots.program(tmp_path, "/usr/bin/nvidia-cdi-hook", hook)
    roots.program(tmp_path, "/sbin/ldconfig")

    found = scan(tmp_path, hook="/usr/bin/nvidia-cdi-hook")

    assert found.edits.hooks == ()
    assert "/usr/lib64/libcuda.so.1" in sources(found)
    assert "/usr/bin/nvidia-cdi-hook is not used" in caplog.text


def test_without_a_host_ldconfig_its_hook_would_fail(tmp_path: Path, caplog: Any):
    caplog.set_level(logging.WARNING)
    roots.rhel(tmp_path)
    roots.program(tmp_path, "/usr/bin/nvidia-cdi-hook", HOOK)

    assert scan(tmp_path).edits.hooks == ()
    assert scan(tmp_path, hook="/usr/bin/nvidia-cdi-hook").edits.hooks == ()
    assert "/sbin/ldconfig" in caplog.text


def test_hooks_can_be_switched_off(tmp_path: Path):
    roots.rhel(tmp_path)
    roots.program(tmp_path, "/usr/bin/nvidia-cdi-hook", HOOK)
    roots.program(tmp_path, "/sbin/ldconfig")

    assert scan(tmp_path, hook="none").edits.hooks == ()


def test_beside_a_driver_container_the_hook_program_is_the_one_that_is_named(tmp_path: Path):
    roots.ubuntu(tmp_path)
    toolkit = "/usr/local/nvidia/toolkit/nvidia-cdi-hook"
    roots.program(tmp_path, toolkit, HOOK)

    assert scan(tmp_path, host="/run/nvidia/driver").edits.hooks == ()
    found = scan(tmp_path, host="/run/nvidia/driver", hook=toolkit)
    assert [hook.path for hook in found.edits.hooks] == [toolkit, toolkit]
    assert hook_args(found)[1][2:4] == ("--ldconfig-path", "/run/nvidia/driver/usr/sbin/ldconfig")
