"""Validating admission policies: what they look at, what they refuse, and in which words."""

import aiohttp
import pytest

from tests.unit.sim_apiserver.cluster import CLAIMS, CONFIGMAPS, SLICES, Cluster, claim, refused, resource_slice

ADMISSION = "/apis/admissionregistration.k8s.io/v1"
POLICIES, BINDINGS = f"{ADMISSION}/validatingadmissionpolicies", f"{ADMISSION}/validatingadmissionpolicybindings"
ANYTHING = {"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*"]}
CONFIGMAP_WRITES = ANYTHING | {"apiGroups": [""], "operations": ["CREATE", "UPDATE"], "resources": ["configmaps"]}


def policy(*validations: dict, match: dict | None = None, rule: dict = CONFIGMAP_WRITES, **spec) -> dict:
    constraints = {"resourceRules": [rule], **(match or {})}
    return {
        "metadata": {"name": "policy"},
        "spec": {"matchConstraints": constraints, "validations": list(validations), **spec},
    }


def binding(*actions: str, **spec) -> dict:
    return {
        "metadata": {"name": "binding"},
        "spec": {"policyName": "policy", "validationActions": list(actions), **spec},
    }


async def enforce(cluster: Cluster, body: dict, *actions: str, **spec) -> None:
    await cluster.create(POLICIES, body)
    await cluster.create(BINDINGS, binding(*(actions or ("Deny",)), **spec))


def configmap(name: str = "c", **more) -> dict:
    return {"metadata": {"name": name, **more}}


async def test_a_denial_names_policy_binding_and_message(cluster) -> None:
    await enforce(cluster, policy({"expression": "object.metadata.name != 'c'", "message": "not this name"}))
    async with refused(422) as refusal:
        await cluster.create(CONFIGMAPS, configmap())
    assert refusal.reason == "Invalid"
    assert refusal.message == (
        "configmaps \"c\" is forbidden: ValidatingAdmissionPolicy 'policy' with binding 'binding' denied request: "
        "not this name"
    )
    await cluster.create(CONFIGMAPS, configmap("d"))


async def test_the_policy_chooses_reason_and_words(cluster) -> None:
    expression = "'no ' + object.metadata.name + ' for ' + request.userInfo.username"
    await enforce(cluster, policy({"expression": "false", "messageExpression": expression, "reason": "Forbidden"}))
    async with refused(403) as refusal:
        await cluster.create(CONFIGMAPS, configmap())
    assert refusal.message.endswith("denied request: no c for kubernetes-admin")


async def test_without_words_the_expression_speaks(cluster) -> None:
    await enforce(cluster, policy({"expression": " 1 == 2 ", "messageExpression": "string(object.nope)"}))
    async with refused(422) as refusal:
        await cluster.create(CONFIGMAPS, configmap())
    assert refusal.message.endswith("denied request: failed expression: 1 == 2")


async def test_a_policy_without_binding_does_nothing(cluster) -> None:
    await cluster.create(POLICIES, policy({"expression": "false"}))
    await cluster.create(CONFIGMAPS, configmap())


async def test_a_warning_lets_the_request_through(server, cluster) -> None:
    await enforce(cluster, policy({"expression": "false", "message": "beware"}), "Warn", "Audit")
    async with aiohttp.ClientSession(server.url) as session, session.post(CONFIGMAPS, json=configmap()) as response:
        assert response.status == 201
        assert response.headers["Warning"] == (
            "299 - \"Validation failed for ValidatingAdmissionPolicy 'policy' with binding 'binding': beware\""
        )


async def test_updates_see_both_objects_and_deletions_the_old_one(cluster) -> None:
    rule = CONFIGMAP_WRITES | {"operations": ["UPDATE", "DELETE"]}
    kept = {
        "expression": "request.operation == 'DELETE' ? oldObject.data.keep != 'yes' : object.data == oldObject.data"
    }
    await enforce(cluster, policy(kept, rule=rule))
    await cluster.create(CONFIGMAPS, configmap() | {"data": {"keep": "yes"}})
    await cluster.merge(f"{CONFIGMAPS}/c", {"metadata": {"labels": {"a": "b"}}})
    async with refused(422):
        await cluster.merge(f"{CONFIGMAPS}/c", {"data": {"keep": "no"}})
    async with refused(422):
        await cluster.apply(f"{CONFIGMAPS}/c", {"data": {"keep": "no"}}, "me", force=True)
    for path, name in ((f"{CONFIGMAPS}/c", "c"), (CONFIGMAPS, "Unknown")):
        async with refused(422) as refusal:
            await cluster.delete(path)
        assert f'configmaps "{name}" is forbidden' in refusal.message


@pytest.mark.parametrize(
    ("change", "denied"),
    [
        ({"rule": ANYTHING}, True),
        ({"rule": CONFIGMAP_WRITES | {"apiGroups": ["apps"]}}, False),
        ({"rule": CONFIGMAP_WRITES | {"apiVersions": ["v2"]}}, False),
        ({"rule": CONFIGMAP_WRITES | {"operations": ["DELETE"]}}, False),
        ({"rule": CONFIGMAP_WRITES | {"resources": ["configmaps/status"]}}, False),
        ({"rule": CONFIGMAP_WRITES | {"scope": "Cluster"}}, False),
        ({"rule": CONFIGMAP_WRITES | {"resourceNames": ["other"]}}, False),
        ({"rule": CONFIGMAP_WRITES | {"resourceNames": ["c"]}}, True),
        ({"match": {"objectSelector": {"matchLabels": {"a": "b"}}}}, True),
        ({"match": {"objectSelector": {"matchLabels": {"a": "c"}}}}, False),
        ({"match": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}}}}, True),
        ({"match": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "other"}}}}, False),
        ({"match": {"excludeResourceRules": [ANYTHING]}}, False),
        ({"matchConditions": [{"name": "m", "expression": "object.metadata.name == 'c'"}]}, True),
        ({"matchConditions": [{"name": "m", "expression": "object.metadata.name == 'd'"}]}, False),
    ],
)
async def test_a_policy_looks_at_what_it_matches(cluster, change, denied) -> None:
    await enforce(cluster, policy({"expression": "false"}, **change))
    if not denied:
        await cluster.create(CONFIGMAPS, configmap(labels={"a": "b"}))
        return
    async with refused(422):
        await cluster.create(CONFIGMAPS, configmap(labels={"a": "b"}))


async def test_a_binding_may_narrow_the_match(cluster) -> None:
    selector = {"matchLabels": {"a": "b"}}
    await enforce(cluster, policy({"expression": "false"}), matchResources={"objectSelector": selector})
    await cluster.create(CONFIGMAPS, configmap())
    async with refused(422):
        await cluster.create(CONFIGMAPS, configmap("d", labels={"a": "b"}))


async def test_the_status_is_a_resource_of_its_own(cluster) -> None:
    rule = {"apiGroups": ["resource.k8s.io"], "apiVersions": ["v1"], "operations": ["UPDATE"]}
    await enforce(cluster, policy({"expression": "false"}, rule={**rule, "resources": ["resourceclaims"]}))
    await cluster.create(CLAIMS, claim())
    await cluster.merge(f"{CLAIMS}/claim/status", {"status": {}})
    async with refused(422):
        await cluster.merge(f"{CLAIMS}/claim", {"metadata": {"labels": {"a": "b"}}})


async def test_policies_never_stand_in_the_way_of_their_own_repair(cluster) -> None:
    await enforce(cluster, policy({"expression": "false"}, rule=ANYTHING))
    await cluster.delete(f"{BINDINGS}/binding")
    await cluster.delete(f"{POLICIES}/policy")
    await cluster.create(CONFIGMAPS, configmap())


async def test_an_error_is_a_denial_unless_the_policy_says_otherwise(cluster) -> None:
    body = policy({"expression": "object.data.x == 'y'"})
    await enforce(cluster, body)
    async with refused(422) as refusal:
        await cluster.create(CONFIGMAPS, configmap())
    assert refusal.message.endswith("expression 'object.data.x == 'y'' resulted in error: no such key: data")
    await cluster.merge(f"{POLICIES}/policy", {"spec": {"failurePolicy": "Ignore"}})
    await cluster.create(CONFIGMAPS, configmap())


async def test_a_broken_variable_matters_only_where_it_is_used(cluster) -> None:
    variables = [{"name": "bad", "expression": "object.data"}, {"name": "list", "expression": "[object]"}]
    await enforce(
        cluster,
        policy(
            {"expression": "variables.list.all(item, item.metadata.name.startsWith('c'))"},
            {"expression": "object.metadata.name == 'c1' || size(variables.bad) > 0"},
            variables=variables,
        ),
    )
    await cluster.create(CONFIGMAPS, configmap("c1"))
    async with refused(422) as refusal:
        await cluster.create(CONFIGMAPS, configmap("c2"))
    assert refusal.message.endswith("no such key: data")


async def test_a_dry_run_is_denied_too(cluster) -> None:
    await enforce(cluster, policy({"expression": "!request.dryRun", "message": "no rehearsals"}))
    async with refused(422):
        await cluster.create(CONFIGMAPS, configmap(), dryRun="All")
    await cluster.create(CONFIGMAPS, configmap())


async def test_an_object_that_is_invalid_is_refused_before_any_policy(cluster) -> None:
    await enforce(cluster, policy({"expression": "false"}))
    async with refused(422) as refusal:
        await cluster.create(CONFIGMAPS, configmap("A_"))
    assert "ValidatingAdmissionPolicy" not in refusal.message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (policy(), "must contain at least one item"),
        (policy({"expression": ""}), "spec.validations[0].expression: Required value"),
        (policy({"expression": "foo"}), "<input>:1:1: undeclared reference to 'foo' (in container '')\n | foo\n | ^"),
        (policy({"expression": "object.x"}), "must evaluate to bool but got dyn"),
        (policy({"expression": "variables.a"}, variables=[{"name": "a", "expression": "1"}]), "must evaluate to bool"),
        (policy({"expression": "variables.b"}, variables=[{"name": "a", "expression": "1"}]), "undeclared reference"),
        (policy({"expression": "true", "messageExpression": "1"}), "must evaluate to string but got int"),
    ],
)  # fmt: skip
async def test_policies_are_checked_when_they_are_written(cluster, body, message) -> None:
    async with refused(422) as refusal:
        await cluster.create(POLICIES, body)
    assert message in refusal.message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (binding(), "spec.validationActions: Required value"),
        (binding("Foo"), 'Unsupported value: "Foo"'),
        (binding("Deny", policyName=""), "spec.policyName: Required value"),
    ],
)
async def test_bindings_are_checked_when_they_are_written(cluster, body, message) -> None:
    async with refused(422) as refusal:
        await cluster.create(BINDINGS, body)
    assert message in refusal.message


async def test_a_driver_is_kept_to_the_slices_of_its_node(server, cluster, login) -> None:
    await cluster.create("/api/v1/nodes", {"metadata": {"name": "node-1"}})
    await cluster.create("/api/v1/namespaces/default/serviceaccounts", {"metadata": {"name": "driver"}})
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    rules = [{"apiGroups": ["resource.k8s.io"], "resources": ["resourceslices"], "verbs": ["*"]}]
    await cluster.create(f"{rbac}/clusterroles", {"metadata": {"name": "driver"}, "rules": rules})
    account = {"kind": "ServiceAccount", "namespace": "default", "name": "driver"}
    role = {"kind": "ClusterRole", "name": "driver"}
    await cluster.create(
        f"{rbac}/clusterrolebindings", {"metadata": {"name": "d"}, "roleRef": role, "subjects": [account]}
    )
    node = "request.userInfo.extra[?'authentication.kubernetes.io/node-name'][0].orValue('')"
    await enforce(
        cluster,
        policy(
            {"expression": "variables.node != ''", "message": "no node"},
            {"expression": "variables.node == variables.slice.spec.?nodeName.orValue('')", "message": "not yours"},
            rule={"apiGroups": ["resource.k8s.io"], "apiVersions": ["v1"], "operations": ["*"], "resources": ["*"]},
            variables=[
                {"name": "node", "expression": node},
                {"name": "slice", "expression": "request.operation == 'DELETE' ? oldObject : object"},
            ],
        ),
    )
    bound = await login(token=server.service_account_token("default", "driver", node="node-1"))
    await bound.create(SLICES, resource_slice("mine"))
    for body in (resource_slice(nodeName="node-2"), resource_slice(nodeName=..., allNodes=True)):
        async with refused(422) as refusal:
            await bound.create(SLICES, body)
        assert refusal.message.endswith("not yours")
    unbound = await login(token=server.service_account_token("default", "driver"))
    async with refused(422) as refusal:
        await unbound.delete(f"{SLICES}/mine")
    assert refusal.message.endswith("no node")
    await bound.delete(f"{SLICES}/mine")
