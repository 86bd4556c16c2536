"""Budgets: what the chart's policy refuses, going by the account that stands on the quota."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from driver.cluster.accountant.annotation import write_account
from driver.cluster.accountant.ledger import PER_HOUR, WHOLE, Account, Amount
from driver.cluster.accountant.period import Forever, Month, Period, read_time
from driver.kube.client import MERGE_PATCH, RESOURCE, Api, ApiError
from tests.deploy.conftest import apply
from tests.deploy.helm import KUBERNETES, NAMESPACE, RELEASE, Object, one, render

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable
    from pathlib import Path
    from zoneinfo import ZoneInfo

    from driver.sim.apiserver import ApiServer

CLAIMS = f"{RESOURCE}/namespaces/default/resourceclaims"
QUOTAS = "/api/v1/namespaces/default/resourcequotas"
GPU, PART, OTHER = "gpu.nvidia.com", "mig.nvidia.com", "nic.example.com"
ACCOUNTANT = f"{RELEASE}-accountant"
KINDS = {
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "ServiceAccount",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
}
HARD = {"requests.resource.k8s.io/gpu-hours": "1000", "requests.resource.k8s.io/gpu": "10"}


VALUES: Object = {
    "accountant": {"enabled": True, "policy": {"deviceClasses": ["h100"]}},
    "deviceClasses": {"mig": {"profiles": ["1g.10gb"]}},
}


@pytest.fixture
async def admin(server: ApiServer, tmp_path: Path) -> AsyncIterator[Api]:
    # The embedded server knows no Deployments: it has no pods to run for them.
    apply(server, [obj for obj in render(VALUES) if obj["kind"] in KINDS])
    async with await Api.connect(server.write_kubeconfig(tmp_path / "admin")) as api:
        yield api


async def budget(api: Api, account: str | None, *, hard: Object = HARD) -> None:
    annotations = {"annotations": {"gpu.nvidia.com/gpu-hours": account}} if account is not None else {}
    await api.request("POST", QUOTAS, body={"metadata": {"name": "team", **annotations}, "spec": {"hard": hard}})


def account(hours: float, *, held: float = 0, period: Period | None = None, at: str = "2026-01-15T00:00:00Z") -> str:
    period, moment = period or Forever(), read_time(at) or 0
    spans = ((period.span(moment), Amount(int(hours * PER_HOUR))),)
    state = Account(at=moment, heard=moment, period=period, floor=0, held=int(held * WHOLE), spans=spans)
    return write_account(state, hard=1000 * PER_HOUR)


def claim(*classes: str, count: int = 1, **request: object) -> Object:
    requests = [
        {"name": f"r{index}", "exactly": {"deviceClassName": name, "count": count, **request}}
        for index, name in enumerate(classes)
    ]
    return {"metadata": {"generateName": "claim-"}, "spec": {"devices": {"requests": requests}}}


def either(*classes: str) -> Object:
    choices = [{"name": f"s{index}", "deviceClassName": name} for index, name in enumerate(classes)]
    return {
        "metadata": {"generateName": "claim-"},
        "spec": {"devices": {"requests": [{"name": "r", "firstAvailable": choices}]}},
    }


async def refusal(api: Api, body: Object) -> str:
    with pytest.raises(ApiError) as error:
        await api.request("POST", CLAIMS, body=body)
    assert error.value.status == 403, error.value
    return str(error.value)


async def taken(api: Api, body: Object) -> None:
    await api.request("POST", CLAIMS, body=body)


async def test_a_spent_budget_refuses_and_says_how_much_of_what_and_until_when(admin: Api) -> None:
    await budget(admin, account(1000))

    assert (await refusal(admin, claim(GPU))).endswith(
        "denied request: the GPU budget of namespace default is spent: 1000.000 of 1k GPU hours are used "
        "(ResourceQuota team); claims get no more GPUs until the budget is raised"
    )


@pytest.mark.parametrize(
    "body", [claim(PART), claim("1g.10gb.mig.nvidia.com"), claim("h100"), claim(OTHER, GPU), either(OTHER, PART)]
)
async def test_every_class_of_ours_counts_wherever_a_claim_names_it(admin: Api, body: Object) -> None:
    await budget(admin, account(1000))

    assert "is spent" in await refusal(admin, body)


@pytest.mark.parametrize("body", [claim(OTHER), either(OTHER)])
async def test_other_devices_are_no_concern_of_it(admin: Api, body: Object) -> None:
    await budget(admin, account(1000))

    await taken(admin, body)


@pytest.mark.parametrize("text", [None, "", account(999.9996)], ids=["not counted yet", "empty", "not yet spent"])
async def test_what_is_left_may_be_used(admin: Api, text: str | None) -> None:
    await budget(admin, text)

    await taken(admin, claim(GPU))


def result(device: str = "gpu-0", *, driver: str = GPU, **more: object) -> Object:
    return {"request": "r0", "driver": driver, "pool": "node", "device": device, **more}


async def given(api: Api, name: str, *results: Object, at: str = "2026-01-15T00:00:00Z") -> None:
    """Write what the scheduler writes when it gives devices to a claim."""
    allocation = {"allocationTimestamp": at, "devices": {"results": list(results)}}
    status = {"status": {"allocation": allocation}}
    await api.request("PATCH", f"{CLAIMS}/{name}/status", body=status, content_type=MERGE_PATCH)


async def taken_back(api: Api, name: str) -> None:
    status = {"status": {"allocation": None}}
    await api.request("PATCH", f"{CLAIMS}/{name}/status", body=status, content_type=MERGE_PATCH)


async def older_claim(api: Api, *classes: str, count: int = 1) -> str:
    """A claim that is there before anything is spent."""
    made = await api.request("POST", CLAIMS, body=claim(*classes, count=count))
    return str(made["metadata"]["name"])


async def test_a_claim_from_before_gets_no_gpus_of_a_spent_budget(admin: Api) -> None:
    name = await older_claim(admin, GPU)
    await budget(admin, account(1000))

    with pytest.raises(ApiError, match="denied request: the GPU budget of namespace default is spent: 1000"):
        await given(admin, name, result())


async def test_a_claim_that_has_its_gpus_goes_on_and_gets_none_again(admin: Api) -> None:
    name = await older_claim(admin, GPU)
    await given(admin, name, result())
    await budget(admin, account(1000))

    reserved = {"status": {"reservedFor": [{"resource": "pods", "name": "pod", "uid": "uid"}]}}
    await admin.request("PATCH", f"{CLAIMS}/{name}/status", body=reserved, content_type=MERGE_PATCH)
    await admin.request(
        "PATCH", f"{CLAIMS}/{name}/status", body={"status": {"reservedFor": None}}, content_type=MERGE_PATCH
    )
    await taken_back(admin, name)

    with pytest.raises(ApiError, match="is spent"):
        await given(admin, name, result("gpu-1"))


async def test_devices_are_known_by_their_driver_whatever_class_asked_for_them(admin: Api) -> None:
    unlisted, others = await older_claim(admin, "renamed.example.com"), await older_claim(admin, GPU)
    await budget(admin, account(1000))

    with pytest.raises(ApiError, match="is spent"):
        await given(admin, unlisted, result())
    await given(admin, others, result(driver=OTHER))


async def test_admin_access_is_given_whatever_is_spent(admin: Api) -> None:
    label = {"metadata": {"labels": {"resource.kubernetes.io/admin-access": "true"}}}
    await admin.request("PATCH", "/api/v1/namespaces/default", body=label, content_type=MERGE_PATCH)
    await budget(admin, account(1000))

    made = await admin.request("POST", CLAIMS, body=claim(GPU, adminAccess=True))
    await given(admin, made["metadata"]["name"], result(adminAccess=True))


async def test_a_period_that_is_over_gives_gpus_to_older_claims(admin: Api, utc: ZoneInfo) -> None:
    name = await older_claim(admin, GPU)
    await budget(admin, account(1000, period=Month(utc), at="2999-01-15T00:00:00Z"))

    with pytest.raises(ApiError, match="until 2999-02-01"):
        await given(admin, name, result(), at="2999-01-31T23:59:59Z")
    await given(admin, name, result(), at="2999-02-01T00:00:00Z")


async def test_older_claims_get_no_more_gpus_than_the_budget_has(admin: Api) -> None:
    name = await older_claim(admin, GPU, count=3)
    await budget(admin, account(0, held=7.5))

    with pytest.raises(ApiError, match=r"holds 7\.500 of 10 GPUs .*and the claim asks for 3 more"):
        await given(admin, name, *(result(f"gpu-{index}") for index in range(3)))
    await given(admin, name, *(result(f"gpu-{index}") for index in range(2)), result("gpu-3-mig-1g.10gb-0"))


async def test_a_raised_budget_lets_claims_pass_at_once(admin: Api) -> None:
    await budget(admin, account(1000))
    await refusal(admin, claim(GPU))

    more = {"spec": {"hard": {"requests.resource.k8s.io/gpu-hours": "1001"}}}
    await admin.request("PATCH", f"{QUOTAS}/team", body=more, content_type=MERGE_PATCH)

    await taken(admin, claim(GPU))


async def test_a_month_is_spent_until_it_ends_and_over_when_it_has_whoever_runs(admin: Api, utc: ZoneInfo) -> None:
    await budget(admin, account(1000, period=Month(utc), at="2999-01-15T00:00:00Z"))
    assert "until 2999-02-01T00:00:00.000Z, or until the budget is raised" in await refusal(admin, claim(GPU))

    over = {"metadata": {"annotations": {"gpu.nvidia.com/gpu-hours": account(1000, period=Month(utc))}}}
    await admin.request("PATCH", f"{QUOTAS}/team", body=over, content_type=MERGE_PATCH)

    await taken(admin, claim(GPU))


async def test_no_more_gpus_than_the_budget_has_as_far_as_is_known(admin: Api) -> None:
    await budget(admin, account(0, held=7.5))

    await taken(admin, claim(GPU, count=2))
    assert (await refusal(admin, claim(GPU, PART, count=3))).endswith(
        "namespace default holds 7.500 of 10 GPUs (ResourceQuota team), and the claim asks for 3 more; it is refused "
        "until others are given back"
    )


async def test_a_part_of_a_gpu_needs_that_there_is_any_left(admin: Api) -> None:
    await budget(admin, account(0, held=10))

    assert "asks for a part of one more" in await refusal(admin, claim(PART))


async def test_quotas_without_a_budget_refuse_nothing(admin: Api) -> None:
    await budget(admin, account(1000), hard={"pods": "1"})

    await taken(admin, claim(GPU))


async def test_an_account_that_cannot_be_read_refuses(admin: Api) -> None:
    await budget(admin, account(0).replace("0.000", "none"))

    with pytest.raises(ApiError, match="resulted in error"):
        await admin.request("POST", CLAIMS, body=claim(GPU))


@pytest.fixture
async def accountant(server: ApiServer, admin: Api, tmp_path: Path) -> AsyncIterator[Api]:
    """The API as the accountant's pod sees it."""
    token = server.service_account_token(NAMESPACE, ACCOUNTANT)
    config = server.write_kubeconfig(tmp_path / "accountant", token=token)
    async with await Api.connect(config) as api:
        yield api


async def refused(request: Awaitable[object]) -> None:
    with pytest.raises(ApiError, match="cannot"):
        await request


LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PATCH", f"{QUOTAS}/team"),
        ("DELETE", f"{QUOTAS}/team"),
        ("POST", QUOTAS),
        ("GET", f"{CLAIMS}/claim"),
        ("POST", CLAIMS),
        ("DELETE", f"{CLAIMS}/claim"),
        ("PATCH", f"{CLAIMS}/claim/status"),
        ("POST", f"{RESOURCE}/resourceslices"),
        ("DELETE", f"{RESOURCE}/resourceslices/x"),
        ("GET", "/api/v1/pods"),
        ("GET", "/api/v1/namespaces/default/secrets"),
        ("DELETE", "/api/v1/namespaces/default/pods/x"),
        ("POST", "/api/v1/namespaces/default/pods/x/eviction"),
        ("GET", "/api/v1/nodes"),
        ("PUT", f"{LEASES}/another"),
        ("DELETE", f"{LEASES}/{ACCOUNTANT}"),
    ],
)
async def test_what_no_rule_allows_the_accountant_is_forbidden(accountant: Api, method: str, path: str) -> None:
    kind = MERGE_PATCH if method == "PATCH" else "application/json"

    await refused(accountant.request(method, path, body={"metadata": {"name": "x"}}, content_type=kind))


async def test_the_accountant_writes_what_is_used_and_not_what_is_granted(admin: Api, accountant: Api) -> None:
    await budget(admin, None)
    body = {"spec": {"hard": {"requests.resource.k8s.io/gpu-hours": "9999"}}, "status": {"used": {"pods": "1"}}}

    await accountant.request("PATCH", f"{QUOTAS}/team/status", body=body, content_type=MERGE_PATCH)

    assert (await admin.get(f"{QUOTAS}/team"))["spec"]["hard"] == {**HARD, "requests.resource.k8s.io/gpu-hours": "1k"}


@pytest.mark.parametrize("kubernetes", KUBERNETES)
def test_without_the_accountant_nothing_of_it_is_there(kubernetes: str) -> None:
    assert not [obj for obj in render({}, kubernetes=kubernetes) if "accountant" in str(obj) or "budget" in str(obj)]


def test_the_accountant_has_no_privilege_and_is_not_taken_for_a_driver() -> None:
    objects = render(VALUES)
    deployment, drivers = one(objects, "Deployment"), one(objects, "DaemonSet")
    template = deployment["spec"]["template"]
    spec, [container] = template["spec"], template["spec"]["containers"]

    assert "volumes" not in spec
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    selector = drivers["spec"]["selector"]["matchLabels"]
    assert not selector.items() <= template["metadata"]["labels"].items()


@pytest.mark.parametrize("when_spent", ["refuse", "evict"])
def test_pods_are_evicted_only_where_it_was_asked_for(when_spent: str) -> None:
    role = one(render({"accountant": {"enabled": True, "whenSpent": when_spent}}), "ClusterRole", "-accountant")

    asked = any("pods/eviction" in rule["resources"] for rule in role["rules"])
    assert asked == (when_spent == "evict")


@pytest.fixture
def utc() -> ZoneInfo:
    from zoneinfo import ZoneInfo

    return ZoneInfo("UTC")
