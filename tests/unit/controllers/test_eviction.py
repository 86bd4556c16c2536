from datetime import UTC, datetime, timedelta

import pytest

from driver.sim.controllers.eviction import claim_eviction, pod_eviction
from driver.sim.scheduler.pools import newest

ADDED = datetime(2026, 5, 1, 12, tzinfo=UTC)
TAINT = {"key": "gpu.nvidia.com/xid", "value": "79", "effect": "NoExecute", "timeAdded": "2026-05-01T12:00:00Z"}
NAME = ("gpu.nvidia.com", "node-a", "gpu-0")


def slice_of(*taints, generation=1, device="gpu-0"):
    spec = {
        "driver": NAME[0],
        "pool": {"name": NAME[1], "generation": generation, "resourceSliceCount": 1},
        "devices": [{"name": device, "taints": list(taints)}],
    }
    return {"metadata": {"name": f"{generation}"}, "spec": spec}


def claim(*tolerations, reserved="pod-uid", owner=None):
    result = {"request": "gpu", "driver": NAME[0], "pool": NAME[1], "device": NAME[2], "tolerations": list(tolerations)}
    metadata = {"name": "c", "namespace": "default", "uid": "c"}
    if owner:
        metadata["ownerReferences"] = [{"kind": "Pod", "uid": owner, "controller": True}]
    reservations = [{"resource": "pods", "name": "p", "uid": reserved}]
    return {
        "metadata": metadata,
        "status": {"allocation": {"devices": {"results": [result]}}, "reservedFor": reservations},
    }


def pod(entry=None, **spec):
    spec = {"nodeName": "node-a", "resourceClaims": [entry or {"name": "gpu", "resourceClaimName": "c"}]} | spec
    return {"metadata": {"name": "p", "namespace": "default", "uid": "pod-uid"}, "spec": spec}


def toleration(**fields):
    return {"operator": "Exists", "effect": "NoExecute"} | fields


class TestClaim:
    def test_a_taint_evicts_when_it_was_added(self):
        eviction = claim_eviction(claim(), [slice_of(TAINT)], [])

        assert eviction.when == ADDED
        assert eviction.reasons == ("gpu.nvidia.com/node-a/gpu-0 gpu.nvidia.com/xid=79:NoExecute",)

    @pytest.mark.parametrize("effect", ["NoSchedule", "None"])
    def test_other_effects_do_not_evict(self, effect):
        assert claim_eviction(claim(), [slice_of(TAINT | {"effect": effect})], []) is None

    def test_taints_of_other_devices_do_not_matter(self):
        assert claim_eviction(claim(), [slice_of(TAINT, device="gpu-1")], []) is None

    def test_a_toleration_without_end_keeps_the_pod(self):
        assert claim_eviction(claim(toleration()), [slice_of(TAINT)], []) is None

    def test_the_shortest_toleration_counts_from_when_the_taint_was_added(self):
        tolerations = [toleration(tolerationSeconds=s) for s in (300, 60)]

        assert claim_eviction(claim(*tolerations), [slice_of(TAINT)], []).when == ADDED + timedelta(seconds=60)

    def test_a_negative_toleration_is_none(self):
        eviction = claim_eviction(claim(toleration(tolerationSeconds=-5)), [slice_of(TAINT)], [])

        assert eviction.when == ADDED

    def test_a_toleration_without_effect_does_not_count(self):
        assert claim_eviction(claim({"operator": "Exists"}), [slice_of(TAINT)], []).when == ADDED

    def test_the_earliest_of_several_taints_counts(self):
        later = TAINT | {"key": "other", "timeAdded": "2026-05-01T13:00:00Z"}

        eviction = claim_eviction(claim(), [slice_of(later, TAINT)], [])

        assert eviction.when == ADDED
        assert len(eviction.reasons) == 2

    def test_rules_evict_too(self):
        rule = {"spec": {"deviceSelector": {"driver": NAME[0]}, "taint": TAINT}}

        assert claim_eviction(claim(), [slice_of()], [rule]).when == ADDED
        assert claim_eviction(claim(), [], [rule]).when == ADDED

    def test_only_the_newest_generation_counts(self):
        slices = [slice_of(TAINT, generation=1), slice_of(generation=2)]

        assert claim_eviction(claim(), newest(slices), []) is None


class TestPod:
    def evict(self, pod_, claim_):
        return pod_eviction(pod_, {("default", "c"): claim_}, [slice_of(TAINT)], [])

    def test_the_user_of_a_tainted_claim_goes(self):
        assert self.evict(pod(), claim()).when == ADDED

    def test_a_pod_without_a_node_stays(self):
        assert self.evict(pod(nodeName=""), claim()) is None

    def test_a_pod_for_which_the_claim_is_not_reserved_stays(self):
        assert self.evict(pod(), claim(reserved="earlier-pod")) is None

    def test_a_generated_claim_of_another_pod_does_not_matter(self):
        entry = {"name": "gpu", "resourceClaimTemplateName": "t"}
        of_template = pod(entry) | {"status": {"resourceClaimStatuses": [{"name": "gpu", "resourceClaimName": "c"}]}}

        assert self.evict(of_template, claim(owner="somebody")) is None
        assert self.evict(of_template, claim(owner="pod-uid")).when == ADDED

    def test_a_finished_pod_stays(self):
        assert self.evict(pod() | {"status": {"phase": "Succeeded"}}, claim()) is None
