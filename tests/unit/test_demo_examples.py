"""What the demo reads out of an example's text, and how it tells what was printed."""

import pytest

from driver.sim.demo.examples import summary
from driver.sim.demo.workloads import load_examples

EXAMPLES = {example.name: example for example in load_examples()}


@pytest.mark.parametrize(
    ("name", "gpus", "together", "partitions", "shares"),
    [
        ("01-single-gpu", 1, "", False, False),
        ("09-job-survives-a-sick-gpu", 2, "", False, False),
        ("04-two-gpus-one-numa-node", 2, "resource.kubernetes.io/numaNode", False, False),
        ("17-same-pcie-root", 2, "resource.kubernetes.io/pcieRoot", False, False),
        ("32-two-gpus-over-nvlink", 2, "nvlinkGroup", False, False),
        ("10-seven-small-partitions", 1, "", True, False),
        ("14-shares-of-memory", 1, "", False, True),
    ],
)
def test_an_example_says_in_its_comment_what_it_needs(name, gpus, together, partitions, shares):
    example = EXAMPLES[name]

    assert (example.needs_gpus, example.together) == (gpus, together)
    assert (example.needs_partitions, example.needs_shares) == (partitions, shares)


def test_examples_that_choose_how_a_gpu_is_shared_inside_their_claim_need_one_for_themselves():
    alone = [name for name, example in EXAMPLES.items() if example.needs_exclusive]

    assert alone == ["15-mps", "16-time-slicing"]


def test_an_example_that_needs_more_than_the_embedded_cluster_tells_what():
    more = {name: example.unknown_kinds for name, example in EXAMPLES.items() if example.unknown_kinds}

    assert more == {
        "24-scale-on-utilisation": {"Deployment", "HorizontalPodAutoscaler"},
        "26-compute-domain": {"ComputeDomain"},
        "31-pod-group": {"PodGroup"},
    }


def test_an_example_that_asks_a_second_driver_says_which():
    more = {name: example.needs_driver for name, example in EXAMPLES.items() if example.needs_driver}

    assert more == {"33-gpu-and-nic": "dra.net"}


def test_a_title_is_the_first_clause_of_the_comment():
    assert EXAMPLES["01-single-gpu"].title == "One pod, one GPU of its own"
    assert EXAMPLES["05-select-by-memory"].title == "A GPU chosen by what it is"


@pytest.mark.parametrize(
    ("devices", "text"),
    [
        (["gpu-0"], "gpu-0"),
        (["gpu-1", "gpu-0", "gpu-1"], "gpu-0, gpu-1"),
        ([f"gpu-{n}" for n in range(8)], "gpu-0 … gpu-7, 8 of them"),
    ],
)
def test_many_devices_are_told_by_the_first_the_last_and_their_number(devices, text):
    assert summary(devices) == text
