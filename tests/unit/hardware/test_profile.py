import re

import pytest

from driver.hardware.fake import profile
from driver.hardware.fake.profile import ProfileError
from driver.inventory import counters as mig

GOOD = """\
driver_version: 570.124.06
cuda_version: "12.8"
model:
  product: NVIDIA L40S
gpus:
- {minor: 0, uuid: GPU-00000000-0000-0000-0000-000000000000, pci: "0000:17:00.0"}
- {minor: 1, uuid: GPU-00000000-0000-0000-0000-000000000001, pci: "0000:18:00.0"}
"""


def parse_error(text: str) -> str:
    with pytest.raises(ProfileError) as caught:
        profile.parse(text, "node.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_shipped_profiles():
    assert profile.known() == ("a100x8", "a30x4", "b200x8", "gb200x4", "h100x8", "h200x8", "l40sx4", "t4x1")


@pytest.mark.parametrize("name", profile.known())
def test_shipped_profile_is_complete(name: str):
    inventory = profile.load_profile(name).inventory()

    assert len(inventory.gpus) == int(name.rpartition("x")[2])
    assert [gpu.index for gpu in inventory.gpus] == list(range(len(inventory.gpus)))
    for gpu in inventory.gpus:
        assert gpu.name == f"gpu-{gpu.minor}"
        facts = (gpu.brand, gpu.architecture, gpu.compute_capability, gpu.memory_bytes, gpu.multiprocessors)
        assert None not in (*facts, gpu.pci_bus_id, gpu.pcie_root)
        assert bool(gpu.mig_profiles) == bool(gpu.memory_slices)


def test_uuids_are_unique_across_all_shipped_profiles():
    uuids = [gpu.uuid for name in profile.known() for gpu in profile.load_profile(name).inventory().gpus]

    assert len(set(uuids)) == len(uuids)


def test_mig_facts_of_an_h100():
    facts = {mig.name: mig for mig in profile.load_profile("h100x8").inventory().gpus[0].mig_profiles}

    assert facts["3g.40gb"].starts == (0, 4)
    assert facts["3g.40gb"].size == 4
    assert facts["3g.40gb"].profile_id == 9
    assert facts["1g.10gb+me"].max_instances == 1
    assert facts["7g.80gb"].multiprocessors == 132


def test_minors_may_differ_from_indexes():
    gpu = profile.load_profile("a100x8").inventory().gpus[0]

    assert (gpu.index, gpu.minor, gpu.name) == (0, 2, "gpu-2")


def test_gpus_are_in_pci_order_whatever_the_order_in_the_file():
    text = GOOD.replace("0000:17", "0000:19")

    gpus = profile.parse(text, "node.yaml").inventory().gpus

    assert [(gpu.index, gpu.minor) for gpu in gpus] == [(0, 1), (1, 0)]


def test_facts_that_a_profile_leaves_out_are_unknown():
    gpu = profile.parse(GOOD, "node.yaml").inventory().gpus[0]

    assert (gpu.memory_bytes, gpu.numa_node, gpu.pcie_root, gpu.brand) == (None, None, None, None)


def test_a_node_may_have_no_gpu():
    text = re.sub(r"gpus:.*", "gpus: []\n", GOOD, flags=re.DOTALL)

    assert profile.parse(text, "node.yaml").inventory().gpus == ()


def test_unknown_profile_lists_the_known_ones():
    with pytest.raises(
        ProfileError, match=r"'h100x9'.*a100x8, a30x4, b200x8, gb200x4, h100x8, h200x8, l40sx4, t4x1.*path"
    ):
        profile.load_profile("h100x9")


def test_missing_file(tmp_path):
    with pytest.raises(ProfileError, match=r"nowhere.yaml: cannot be read: No such file"):
        profile.load_profile(str(tmp_path / "nowhere.yaml"))


def test_directory_instead_of_a_file(tmp_path):
    with pytest.raises(ProfileError, match="not a regular file"):
        profile.load_profile(f"{tmp_path}/")


def test_file_that_is_too_big(tmp_path):
    path = tmp_path / "big.yaml"
    path.write_bytes(b"#" * (profile.MAX_FILE_BYTES + 1))

    with pytest.raises(ProfileError, match="more than 1048576 bytes"):
        profile.load_profile(str(path))


def test_file_is_loaded_by_its_path(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)

    assert len(profile.load_profile(str(path)).gpus) == 2


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("minor: 1", "minor: x", "node.yaml:7:11: gpus[1].minor: 'x' is not an integer"),
        ("minor: 1", "minor: 1.5", "node.yaml:7:11: gpus[1].minor: 1.5 is not an integer"),
        ("minor: 1", "minor: true", "node.yaml:7:11: gpus[1].minor: true is not an integer"),
        ("minor: 1", "minor: -1", "node.yaml:7:11: gpus[1].minor: -1: input should be greater than or equal to 0"),
        ("minor: 1", "minor: 0", "node.yaml:7:11: gpus[1].minor: 0 is taken by gpus[0]"),
        ("minor: 1, ", "", "node.yaml:7:3: gpus[1].minor: is missing"),
        (
            "minor: 1",
            "minor: 1, colour: red",
            "node.yaml:7:22: gpus[1].colour: unknown key; known are minor, uuid, pci, root, numa",
        ),
        ("model:\n  product: NVIDIA L40S\n", "", "node.yaml:1:1: model: is missing"),
        ("product: NVIDIA L40S", "product: 40", "node.yaml:4:12: model.product: 40 is not a string (put it in quotes)"),
        ('"12.8"', "12.8", "node.yaml:2:15: cuda_version: 12.8 is not a string (put it in quotes)"),
        ('"0000:18:00.0"', "0000:18:00.0", "gpus[1].pci: 0000:18:00.0 is not a string (put it in quotes)"),
        ("model:\n  product: NVIDIA L40S", "model: L40S", "node.yaml:3:8: model: 'L40S' is not a mapping"),
        ("cuda_version", "cuda", "node.yaml:1:1: cuda_version: is missing (and 1 more)"),
        ('"0000:18:00.0"', '"18:00.0"', "gpus[1].pci: '18:00.0' does not match ^([0-9a-f]{4}|"),
        ("driver_version: ", "cuda_version: ", "node.yaml:2:1: the key 'cuda_version' is there twice"),
        ("minor: 1", "minor: [", "node.yaml:7:"),
        ("model:", "model", "node.yaml:"),
        ("  product", "\tproduct", "node.yaml:4:1: found character '\\t' that cannot start any token"),
    ],
)
def test_error_says_where_what_was_found_and_what_is_expected(old: str, new: str, expected: str):
    assert old in GOOD

    assert expected in parse_error(GOOD.replace(old, new, 1))


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n"])
def test_empty_file(text: str):
    assert parse_error(text).startswith("node.yaml:1:1: the file is empty; expected: driver_version, cuda_version")


@pytest.mark.parametrize("text", ["[]", "3", "a: &a [*a]", "!!python/object:os.system {}", "\x00", "a: 2026-13-45"])
def test_other_nonsense_is_an_error_in_one_line(text: str):
    assert parse_error(text).startswith("node.yaml:")


def test_bytes_that_are_not_text():
    with pytest.raises(ProfileError, match=r"node.yaml: not readable as YAML"):
        profile.parse(b"a: \xff\xfe", "node.yaml")


def test_document_that_refers_to_itself_without_end_is_refused():
    bomb = "a: &a [x]\n" + "".join(
        f"{c}: &{c} [*{p}, *{p}, *{p}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)
    )

    assert "unknown key" in parse_error(bomb) or "is missing" in parse_error(bomb)


RTX_PRO = GOOD.replace(
    "NVIDIA L40S",
    "NVIDIA RTX PRO 6000 Blackwell\n  memory_slices: 12\n  mig_profiles:\n"
    "  - {name: 1g.24gb, id: 14, compute_slices: 1, size: 3, starts: [0, 3, 6, 9], max_instances: 4, memory_mib: 24192,"
    " multiprocessors: 46, engines: {ce: 1, dec: 1, enc: 1, jpg: 1, ofa: 0}}\n"
    "  - {name: 4g.96gb, id: 0, compute_slices: 4, size: 12, starts: [0], max_instances: 1, memory_mib: 97280,"
    " multiprocessors: 188, engines: {ce: 4, dec: 4, enc: 4, jpg: 4, ofa: 1}}",
)


def test_a_gpu_may_have_as_many_memory_slices_as_the_api_can_count():
    (gpu, _) = profile.parse(RTX_PRO, "node.yaml").inventory().gpus

    assert gpu.memory_slices == 12
    assert {p.name: (p.size, p.starts) for p in gpu.mig_profiles} == {
        "1g.24gb": (3, (0, 3, 6, 9)),
        "4g.96gb": (12, (0,)),
    }
    most = profile.parse(RTX_PRO.replace("memory_slices: 12", f"memory_slices: {profile.MAX_SLICES}"), "node.yaml")
    counters = mig.totals(most.inventory().gpus[0])
    assert len(counters) <= 32
    assert "memory_slices: 26: input should be less than or equal to 25" in parse_error(
        RTX_PRO.replace("memory_slices: 12", "memory_slices: 26")
    )


def test_a_partition_may_start_at_any_slice():
    text = RTX_PRO.replace(
        'pci: "0000:18:00.0"', 'pci: "10000:e1:00.0", mig: true, partitions: [{profile: 1g.24gb, start: 9}]'
    )

    node = profile.parse(text, "node.yaml")

    assert node.instances("GPU-00000000-0000-0000-0000-000000000001") == (("1g.24gb", 9),)


def test_mig_placement_beyond_the_die():
    mig = (
        "\n  memory_slices: 4\n  mig_profiles:\n  - {name: 2g.12gb, id: 5, compute_slices: 2, size: 2, starts: [0, 3],"
        " max_instances: 2, memory_mib: 1, multiprocessors: 1, engines: {ce: 1, dec: 0, enc: 0, jpg: 0, ofa: 0}}"
    )

    error = parse_error(GOOD.replace("NVIDIA L40S", "NVIDIA L40S" + mig))

    assert error.startswith("node.yaml:7:")
    assert "model.mig_profiles[0].starts: an instance of 2 at 3 does not fit into model.memory_slices = 4" in error
