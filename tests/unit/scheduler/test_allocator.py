import pytest

from driver.sim.scheduler.allocator import AllocationError, UnschedulableError
from tests.unit.scheduler.builders import allocated, claim, device, device_class, exactly, names, run, slice_of

FOUR = [slice_of([device(f"gpu-{i}", attributes={"index": {"int": i}}) for i in range(4)])]
INDEX = 'device.attributes["gpu.nvidia.com"].index'


def gpu_with_partitions(gpu, *, slices_total):
    """Counters of one GPU with 7 memory slices, and its devices: the whole, then 3 + 4, then ones."""

    def part(name, amount):
        counters = [{"counterSet": gpu, "counters": {"memory": {"value": str(amount)}}}]
        return device(name, attributes={"parent": {"string": gpu}}, consumesCounters=counters)

    sizes = [("whole", 7), ("four", 4), ("three", 3), *((f"one-{i}", 1) for i in range(7))]
    sets = [{"name": gpu, "counters": {"memory": {"value": "7"}}}]
    return [
        slice_of(None, name=f"0-{gpu}", slices=slices_total, nodeName="node-a", sharedCounters=sets),
        slice_of([part(f"{gpu}-{name}", size) for name, size in sizes], name=f"1-{gpu}", slices=slices_total),
    ]


ONE_GPU = gpu_with_partitions("gpu-0", slices_total=2)
TWO_GPUS = gpu_with_partitions("gpu-0", slices_total=4) + gpu_with_partitions("gpu-1", slices_total=4)


class TestExactly:
    def test_the_first_devices_in_order_are_taken(self):
        (result,) = run(claim(exactly(count=2)), FOUR)

        assert names(result) == ["gpu-0", "gpu-1"]

    def test_devices_of_other_claims_are_skipped(self):
        (first,) = run(claim(exactly(count=3)), FOUR)

        (second,) = run(claim(), FOUR, allocated=[allocated(claim(), first)])

        assert names(second) == ["gpu-3"]

    def test_several_claims_share_the_devices_out(self):
        assert [names(result) for result in run([claim(), claim()], FOUR)] == [["gpu-0"], ["gpu-1"]]

    def test_selectors_of_class_and_request_must_both_hold(self):
        classes = [device_class(selector=f"{INDEX} > 0")]

        (result,) = run(claim(exactly(selector=f"{INDEX} != 1")), FOUR, classes=classes)

        assert names(result) == ["gpu-2"]

    def test_backtracks_when_an_earlier_choice_was_wrong(self):
        picky = exactly("picky", selector=f"{INDEX} == 0")

        (result,) = run(claim(exactly("any"), picky), FOUR)

        assert names(result) == ["gpu-1", "gpu-0"]

    def test_backtracks_into_earlier_claims(self):
        results = run([claim(exactly(count=2)), claim(exactly(selector=f"{INDEX} < 2", count=2))], FOUR)

        assert [names(result) for result in results] == [["gpu-2", "gpu-3"], ["gpu-0", "gpu-1"]]

    def test_too_few_devices_are_too_few(self):
        with pytest.raises(UnschedulableError, match=r"^cannot allocate all claims$"):
            run(claim(exactly(count=5)), FOUR)

    def test_at_most_32_results_per_claim(self):
        with pytest.raises(AllocationError, match=r"number of requested devices 33 exceeds the claim limit of 32"):
            run(claim(exactly(count=33)), FOUR)

    def test_a_slow_search_is_given_up(self):
        ticks = iter(range(100))

        with pytest.raises(AllocationError, match=r"node node-a: timed out trying to allocate devices"):
            run(claim(exactly(count=4)), FOUR, clock=lambda: float(next(ticks)), timeout=3.0)


class TestErrors:
    def test_an_unknown_class_is_named(self):
        with pytest.raises(AllocationError, match=r"request gpu: device class nope does not exist"):
            run(claim(exactly(class_name="nope")), FOUR)

    def test_a_missing_attribute_aborts_with_the_selector(self):
        bad = exactly(selector='device.attributes["gpu.nvidia.com"].uuid == "GPU-1"')

        with pytest.raises(
            AllocationError, match=r"^claim default/c: selector #0: CEL runtime error: no such key: uuid$"
        ):
            run(claim(bad, name="c"), FOUR)

    def test_a_device_that_fits_first_hides_a_later_error(self):
        devices = [device("good", attributes={"uuid": {"string": "a"}}), device("bad")]
        picky = exactly(selector='device.attributes["gpu.nvidia.com"].uuid == "a"')

        (result,) = run(claim(picky), [slice_of(devices)])

        assert names(result) == ["good"]

    def test_a_class_selector_that_does_not_compile_is_named(self):
        with pytest.raises(AllocationError, match=r"^class gpu: selector #0: CEL compile error: compilation failed"):
            run(claim(), FOUR, classes=[device_class(selector="nonsense")])

    def test_invalid_pools_are_reported_only_if_nothing_else_fits(self):
        broken = slice_of([device("a"), device("a")], pool="broken", name="b")

        assert names(run(claim(), [*FOUR, broken])[0]) == ["gpu-0"]
        with pytest.raises(UnschedulableError, match=r"invalid resource pools were encountered.*duplicate device name"):
            run(claim(exactly(count=5)), [*FOUR, broken])


class TestAll:
    def test_all_matching_devices_are_taken(self):
        (result,) = run(claim(exactly(allocationMode="All", selector=f"{INDEX} > 1")), FOUR)

        assert names(result) == ["gpu-2", "gpu-3"]

    def test_one_device_in_use_is_one_too_many(self):
        (first,) = run(claim(), FOUR)

        with pytest.raises(UnschedulableError):
            run(claim(exactly(allocationMode="All")), FOUR, allocated=[allocated(claim(), first)])

    def test_no_device_is_not_enough(self):
        with pytest.raises(UnschedulableError):
            run(claim(exactly(allocationMode="All", selector="false")), FOUR)

    def test_waits_for_pools_that_are_being_updated(self):
        updating = slice_of([device("a")], pool="other", slices=2)

        with pytest.raises(AllocationError, match=r"asks for all devices, but resource pool gpu.nvidia.com/other"):
            run(claim(exactly(allocationMode="All")), [*FOUR, updating])

    def test_a_constraint_that_cannot_hold_is_an_error(self):
        same = {"matchAttribute": "gpu.nvidia.com/index"}

        with pytest.raises(AllocationError, match=r"a claim constraint would not be satisfied"):
            run(claim(exactly(allocationMode="All"), constraints=[same]), FOUR)


class TestFirstAvailable:
    @staticmethod
    def request(*alternatives):
        return {"name": "gpu", "firstAvailable": [{"deviceClassName": "gpu", **a} for a in alternatives]}

    def test_the_first_that_fits_wins(self):
        request = self.request({"name": "many", "count": 5}, {"name": "few", "count": 2}, {"name": "one"})

        (result,) = run(claim(request), FOUR)

        assert [(r["request"], r["device"]) for r in result["devices"]["results"]] == [
            ("gpu/few", "gpu-0"),
            ("gpu/few", "gpu-1"),
        ]

    def test_a_later_request_can_force_the_second_choice(self):
        request = self.request({"name": "all", "count": 4}, {"name": "some", "count": 3})

        (result,) = run(claim(request, exactly("own")), FOUR)

        assert [r["request"] for r in result["devices"]["results"]] == ["gpu/some"] * 3 + ["own"]

    def test_alternatives_with_too_many_results_are_skipped(self):
        many = [slice_of([device(f"gpu-{i}") for i in range(64)])]
        request = self.request({"name": "big", "count": 20}, {"name": "small", "count": 12})

        (result,) = run(claim(exactly("own", count=20), request), many)

        assert {r["request"] for r in result["devices"]["results"]} == {"own", "gpu/small"}


class TestConstraints:
    DEVICES = (
        device("a0", attributes={"root": {"string": "pci0"}, "resource.kubernetes.io/numa": {"int": 0}}),
        device("b0", attributes={"root": {"string": "pci1"}, "resource.kubernetes.io/numa": {"int": 0}}),
        device("b1", attributes={"root": {"string": "pci1"}}),
    )

    def pick(self, *requests, **constraint):
        (result,) = run(claim(*requests, constraints=[constraint]), [slice_of(list(self.DEVICES))])
        return names(result)

    def test_match_attribute_of_the_driver(self):
        assert self.pick(exactly(count=2), matchAttribute="gpu.nvidia.com/root") == ["b0", "b1"]

    def test_match_attribute_of_another_domain(self):
        assert self.pick(exactly(count=2), matchAttribute="resource.kubernetes.io/numa") == ["a0", "b0"]

    def test_distinct_attribute(self):
        assert self.pick(exactly(count=2), distinctAttribute="gpu.nvidia.com/root") == ["a0", "b0"]
        with pytest.raises(UnschedulableError, match="cannot allocate all claims"):
            self.pick(exactly(count=3), distinctAttribute="gpu.nvidia.com/root")

    def test_only_the_named_requests_are_bound(self):
        chosen = self.pick(
            exactly("x"), exactly("y"), exactly("z"), requests=["y", "z"], matchAttribute="gpu.nvidia.com/root"
        )

        assert chosen == ["a0", "b0", "b1"]

    def test_a_device_without_the_attribute_fails(self):
        with pytest.raises(UnschedulableError):
            self.pick(exactly(count=3), matchAttribute="resource.kubernetes.io/numa")


class TestCounters:
    def test_the_whole_gpu_is_listed_first(self):
        assert names(run(claim(), ONE_GPU)[0]) == ["gpu-0-whole"]

    def test_a_partition_blocks_the_whole_gpu(self):
        taken = allocated(claim(), run(claim(), FOUR)[0])
        taken["status"]["allocation"]["devices"]["results"][0]["device"] = "gpu-0-one-3"

        (result,) = run(claim(), ONE_GPU, allocated=[taken])

        assert names(result) == ["gpu-0-four"]

    def test_counters_hold_within_one_attempt_too(self):
        results = run([claim() for _ in range(3)], ONE_GPU)

        assert [names(result) for result in results] == [["gpu-0-four"], ["gpu-0-one-0"], ["gpu-0-one-1"]]

    def test_a_full_gpu_has_nothing_left(self):
        whole = allocated(claim(), run(claim(), ONE_GPU)[0])

        with pytest.raises(UnschedulableError, match="cannot allocate all claims"):
            run(claim(), ONE_GPU, allocated=[whole])

    def test_partitions_of_one_parent_are_found_on_the_second_gpu(self):
        same = {"matchAttribute": "gpu.nvidia.com/parent"}
        taken = allocated(claim(), run(claim(), TWO_GPUS)[0])

        (result,) = run(claim(exactly(count=2), constraints=[same]), TWO_GPUS, allocated=[taken])

        assert names(result) == ["gpu-1-four", "gpu-1-three"]

    @staticmethod
    def tainted_four():
        slices = gpu_with_partitions("gpu-0", slices_total=2)
        whole, four, *_ = slices[1]["spec"]["devices"]
        slices[1]["spec"]["devices"].remove(whole)
        four["taints"] = [{"key": "k", "effect": "NoSchedule"}]
        return slices

    def test_kubernetes_1_36_forgets_to_give_them_back(self):
        with pytest.raises(UnschedulableError):
            run([claim(exactly(count=4))], self.tainted_four())

    def test_admin_access_needs_free_counters(self):
        whole = allocated(claim(), run(claim(), ONE_GPU)[0])

        with pytest.raises(UnschedulableError, match="cannot allocate all claims"):
            run(claim(exactly(adminAccess=True)), ONE_GPU, allocated=[whole])

    def test_an_allocated_device_that_left_the_slices_counts_no_longer(self):
        whole = allocated(claim(), run(claim(), ONE_GPU)[0])
        reshaped = gpu_with_partitions("gpu-0", slices_total=2)
        reshaped[1]["spec"]["devices"].pop(0)

        (result,) = run(claim(), reshaped, allocated=[whole])

        assert names(result) == ["gpu-0-four"]


class TestShares:
    @staticmethod
    def slices(**policy):
        memory = {"value": "80Gi", "requestPolicy": policy} if policy else {"value": "80Gi"}
        return [slice_of([device("gpu-0", allowMultipleAllocations=True, capacity={"memory": memory})])]

    @staticmethod
    def share(amount):
        return exactly(capacity={"requests": {"memory": amount}})

    def test_each_share_has_its_own_id_and_amount(self):
        ids = iter(["id-1", "id-2"])

        results = run([claim(self.share("20Gi")) for _ in range(2)], self.slices(), share_id=lambda: next(ids))

        assert [r["devices"]["results"][0] | {"request": ""} for r in results] == [
            {
                "request": "",
                "driver": "gpu.nvidia.com",
                "pool": "node-a",
                "device": "gpu-0",
                "shareID": share,
                "consumedCapacity": {"memory": "20Gi"},
            }
            for share in ("id-1", "id-2")
        ]

    def test_the_policy_rounds_up(self):
        slices = self.slices(validValues=["10Gi", "40Gi"], default="10Gi")

        (result,) = run(claim(self.share("11Gi")), slices)

        assert result["devices"]["results"][0]["consumedCapacity"] == {"memory": "40Gi"}

    def test_capacity_of_other_claims_is_counted(self):
        others = [allocated(claim(), run(claim(self.share("50Gi")), self.slices())[0])]

        assert run(claim(self.share("30Gi")), self.slices(), allocated=others)
        with pytest.raises(UnschedulableError, match="cannot allocate all claims"):
            run(claim(self.share("31Gi")), self.slices(), allocated=others)

    def test_without_an_amount_everything_is_taken(self):
        everything = [allocated(claim(), run(claim(), self.slices())[0])]

        with pytest.raises(UnschedulableError):
            run(claim(self.share("1")), self.slices(), allocated=everything)

    def test_capacity_is_a_minimum_for_exclusive_devices(self):
        (result,) = run(claim(self.share("40Gi")), FOUR)

        assert "consumedCapacity" not in result["devices"]["results"][0]
        with pytest.raises(UnschedulableError, match="cannot allocate all claims"):
            run(claim(self.share("81Gi")), FOUR)

    def test_counters_of_a_shared_device_are_taken_once(self):
        counters = [{"counterSet": "gpu-0", "counters": {"memory": {"value": "7"}}}]
        shared = device("gpu-0", allowMultipleAllocations=True, consumesCounters=counters)
        sets = [{"name": "gpu-0", "counters": {"memory": {"value": "7"}}}]
        slices = [
            slice_of(None, name="0", slices=2, nodeName="node-a", sharedCounters=sets),
            slice_of([shared], name="1", slices=2),
        ]

        assert len(run([claim(self.share("20Gi")) for _ in range(3)], slices)) == 3


class TestAdminAccess:
    def test_a_device_in_use_is_given_too(self):
        owner = allocated(claim(), run(claim(exactly(count=4)), FOUR)[0])

        (result,) = run(claim(exactly(adminAccess=True, allocationMode="All")), FOUR, allocated=[owner])

        assert names(result) == ["gpu-0", "gpu-1", "gpu-2", "gpu-3"]
        assert all(r["adminAccess"] for r in result["devices"]["results"])

    def test_it_holds_no_device(self):
        admin = allocated(claim(), run(claim(exactly(adminAccess=True)), FOUR)[0])

        assert names(run(claim(), FOUR, allocated=[admin])[0]) == ["gpu-0"]

    def test_not_the_same_device_twice_in_a_claim(self):
        (result,) = run(claim(exactly(adminAccess=True, count=2)), FOUR)

        assert names(result) == ["gpu-0", "gpu-1"]


class TestTaints:
    def slices(self):
        taint = {"key": "gpu.nvidia.com/xid", "value": "79", "effect": "NoSchedule"}
        return [slice_of([device("bad", taints=[taint]), device("good")])]

    def test_tainted_devices_are_passed_over(self):
        assert names(run(claim(), self.slices())[0]) == ["good"]

    def test_a_toleration_gets_them_and_is_copied(self):
        toleration = {"operator": "Exists", "key": "gpu.nvidia.com/xid"}

        (result,) = run(claim(exactly(tolerations=[toleration])), self.slices())

        assert result["devices"]["results"][0]["tolerations"] == [toleration]
        assert names(result) == ["bad"]

    def test_rules_of_administrators_count_too(self):
        rule = {"spec": {"deviceSelector": {"device": "good"}, "taint": {"key": "m", "effect": "NoExecute"}}}

        with pytest.raises(UnschedulableError, match="cannot allocate all claims"):
            run(claim(), self.slices(), rules=[rule])
