"""Pods with and without claims, from binding to deletion, against an API server and a plugin."""

from driver.kube.client import MERGE_PATCH, RESOURCE
from tests.eventually import eventually
from tests.unit.sim_kubelet.fakes import DRIVER, NAMESPACE, NODE, pod

UNTIL_GO = "while [ ! -e {root}/go ]; do sleep 0.02; done; "


async def test_runs_a_pod_to_its_end_and_reports_exit_code_and_log(cluster, run_kubelet):
    kubelet = run_kubelet()
    await cluster.create_pod(pod(script="echo hello; exit 3"))

    failed = await cluster.phase("Failed")

    terminated = failed["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (terminated["exitCode"], terminated["reason"]) == (3, "Error")
    assert kubelet.now.read_log(NAMESPACE, "pod-1") == "hello\n"


async def test_container_sees_the_edits_of_its_claims(cluster, run_kubelet, make_plugin):
    plugin = await make_plugin().start()
    kubelet = run_kubelet()
    await eventually(lambda: plugin.registered)
    await cluster.create_claim()
    await cluster.create_pod(pod(claims={"gpu": "claim-1"}, script="env"))

    await cluster.phase("Succeeded")

    assert "CLAIM_claim_1=yes" in kubelet.now.read_log(NAMESPACE, "pod-1")


async def test_a_pod_of_two_claims_is_prepared_with_one_call_per_driver(cluster, run_kubelet, make_plugin):
    plugin = await make_plugin().start()
    run_kubelet()
    await eventually(lambda: plugin.registered)
    uids = {(await cluster.create_claim(name))["metadata"]["uid"] for name in ("claim-1", "claim-2")}
    await cluster.create_pod(pod(claims={"a": "claim-1", "b": "claim-2"}))

    await cluster.phase("Running")

    assert [(method, set(called)) for method, called in plugin.calls] == [("prepare", uids)]


async def test_deletion_unprepares_before_the_object_goes(cluster, run_kubelet, make_plugin):
    plugin = await make_plugin().start()
    run_kubelet()
    await eventually(lambda: plugin.registered)
    claim = await cluster.create_claim()
    await cluster.create_pod(pod(claims={"gpu": "claim-1"}))
    await cluster.phase("Running")

    await cluster.delete_pod()
    await cluster.gone()

    assert plugin.calls[-1] == ("unprepare", [claim["metadata"]["uid"]])


async def test_an_unprepare_error_keeps_the_pod_until_it_succeeds(cluster, run_kubelet, make_plugin):
    plugin = await make_plugin().start()
    plugin.unprepare_error = {"claim-1": "busy"}
    run_kubelet()
    await eventually(lambda: plugin.registered)
    await cluster.create_claim()
    await cluster.create_pod(pod(claims={"gpu": "claim-1"}))
    await cluster.phase("Running")
    await cluster.delete_pod()

    await eventually(lambda: plugin.count("unprepare") >= 2, what="a second try")
    kept = await cluster.pod()
    plugin.unprepare_error = {}
    await cluster.gone()

    assert kept is not None
    assert kept["status"]["phase"] == "Running"


async def test_a_prepare_error_is_an_event_and_is_retried(cluster, run_kubelet, make_plugin):
    plugin = await make_plugin().start()
    plugin.prepare_error = {"claim-1": "the GPU is on fire"}
    run_kubelet()
    await eventually(lambda: plugin.registered)
    await cluster.create_claim()
    await cluster.create_pod(pod(claims={"gpu": "claim-1"}))

    event = await cluster.event("FailedPrepareDynamicResources")
    plugin.prepare_error = {}
    await cluster.phase("Running")

    assert event["message"] == (
        "Failed to prepare dynamic resources: prepare dynamic resources: "
        "NodePrepareResources failed for ResourceClaim claim-1: the GPU is on fire"
    )


async def test_without_the_driver_the_event_names_it(cluster, run_kubelet):
    run_kubelet()
    await cluster.create_claim()
    await cluster.create_pod(pod(claims={"gpu": "claim-1"}))

    event = await cluster.event("FailedPrepareDynamicResources")

    assert event["message"].endswith(f"prepare dynamic resources: DRA driver {DRIVER} is not registered")


async def test_two_pods_share_a_claim_and_the_last_one_unprepares(cluster, run_kubelet, make_plugin):
    plugin = await make_plugin().start()
    run_kubelet()
    await eventually(lambda: plugin.registered)
    await cluster.create_claim()
    for name in ("pod-1", "pod-2"):
        await cluster.create_pod(pod(name, claims={"gpu": "claim-1"}))
        await cluster.phase("Running", name)

    await cluster.delete_pod("pod-1")
    await cluster.gone("pod-1")
    after_first = list(plugin.calls)
    await cluster.delete_pod("pod-2")
    await cluster.gone("pod-2")

    assert [method for method, _ in after_first] == ["prepare"]
    assert [method for method, _ in plugin.calls] == ["prepare", "unprepare"]


async def test_a_pod_deleted_by_force_is_unprepared(cluster, run_kubelet, make_plugin):
    plugin = await make_plugin().start()
    kubelet = run_kubelet()
    await eventually(lambda: plugin.registered)
    await cluster.create_claim()
    await cluster.create_pod(pod(claims={"gpu": "claim-1"}))
    await cluster.phase("Running")

    await cluster.delete_pod(grace=0)

    await eventually(lambda: plugin.count("unprepare"))
    await eventually(lambda: not kubelet.now.runtime.sandboxes(), what="containers and their files gone")


async def test_claims_of_pods_that_vanished_while_the_kubelet_was_away_are_unprepared(
    cluster, run_kubelet, make_plugin
):
    plugin = await make_plugin().start()
    kubelet = run_kubelet(on_shutdown="leave")
    await eventually(lambda: plugin.registered)
    await cluster.create_claim()
    await cluster.create_pod(pod(claims={"gpu": "claim-1"}))
    await cluster.phase("Running")
    await kubelet.stop()
    await cluster.delete_pod(grace=0)

    kubelet.start()

    await eventually(lambda: plugin.count("unprepare"))
    await eventually(lambda: not kubelet.now.runtime.sandboxes())


async def test_a_restarted_kubelet_adopts_running_containers_without_another_prepare(cluster, run_kubelet, make_plugin):
    plugin = await make_plugin().start()
    kubelet = run_kubelet(on_shutdown="leave")
    await eventually(lambda: plugin.registered)
    await cluster.create_claim()
    created = await cluster.create_pod(pod(claims={"gpu": "claim-1"}))
    before = await cluster.phase("Running")
    await kubelet.stop()

    kubelet.start()
    await eventually(lambda: kubelet.now.plugins.instances)
    await cluster.delete_pod()
    await cluster.gone()

    assert before["status"]["containerStatuses"][0]["restartCount"] == 0
    assert [method for method, _ in plugin.calls] == ["prepare", "unprepare"]
    assert created["metadata"]["uid"] not in kubelet.now.runtime.sandboxes()


async def test_a_restarted_kubelet_prepares_again_when_the_sandbox_is_lost(cluster, run_kubelet, make_plugin):
    plugin = await make_plugin().start()
    kubelet = run_kubelet(on_shutdown="stop")
    await eventually(lambda: plugin.registered)
    await cluster.create_claim()
    await cluster.create_pod(pod(claims={"gpu": "claim-1"}, restartPolicy="Always"))
    await cluster.phase("Running")
    await kubelet.stop()

    kubelet.start()

    await eventually(lambda: plugin.count("prepare") == 2)

    async def restarted():
        statuses = (await cluster.pod())["status"]["containerStatuses"]
        return statuses[0]["restartCount"] == 1 and "running" in statuses[0]["state"]

    await eventually(restarted)


async def test_an_unresolvable_device_is_the_runtimes_error(cluster, run_kubelet, make_plugin, root):
    plugin = await make_plugin().start()
    plugin.cdi_dir = root / "elsewhere"
    plugin.cdi_dir.mkdir()
    run_kubelet()
    await eventually(lambda: plugin.registered)
    claim = await cluster.create_claim()
    await cluster.create_pod(pod(claims={"gpu": "claim-1"}))

    event = await cluster.event("Failed")

    uid = claim["metadata"]["uid"]
    assert event["message"].endswith(
        f"CDI device injection failed: unresolvable CDI devices k8s.{DRIVER}/claim={uid}-gpu-0"
    )

    async def told():
        statuses = (await cluster.pod())["status"].get("containerStatuses") or [{"state": {}}]
        return statuses[0]["state"].get("waiting", {}).get("reason") == "CreateContainerError"

    await eventually(told)  # the event comes first


async def test_restarts_on_failure_until_success(cluster, run_kubelet, root):
    run_kubelet()
    script = f"echo x >>{root}/tries; [ $(wc -l <{root}/tries) = 3 ]"
    await cluster.create_pod(pod(script=script, restartPolicy="OnFailure"))

    succeeded = await cluster.phase("Succeeded")

    assert succeeded["status"]["containerStatuses"][0]["restartCount"] == 2


async def test_a_running_pod_is_ready(cluster, run_kubelet):
    run_kubelet()
    await cluster.create_pod(pod())

    running = await cluster.phase("Running")

    conditions = {c["type"]: c["status"] for c in running["status"]["conditions"]}
    assert conditions["Ready"] == "True"
    assert conditions["PodScheduled"] == "True", "the scheduler's condition is kept"


async def test_the_node_is_ready(cluster, run_kubelet):
    kubelet = run_kubelet()
    await eventually(lambda: kubelet.now.node.ready.is_set())

    status = (await cluster.get(f"/api/v1/nodes/{NODE}"))["status"]

    assert {c["type"]: c["status"] for c in status["conditions"]}["Ready"] == "True"
    assert status["nodeInfo"]["kubeletVersion"] == "v1.36.2"


async def test_a_claim_that_is_not_reserved_for_the_pod_is_refused(cluster, run_kubelet, make_plugin):
    plugin = await make_plugin().start()
    run_kubelet()
    await eventually(lambda: plugin.registered)
    claim = await cluster.create_claim()
    created = await cluster.create_pod(pod(claims={"gpu": "claim-1"}), reserve=False)

    event = await cluster.event("FailedPrepareDynamicResources")

    assert f"pod pod-1 ({created['metadata']['uid']}) is not allowed to use ResourceClaim claim-1 " in event["message"]
    assert claim["metadata"]["uid"] in event["message"]
    assert plugin.calls == []


async def test_an_old_claim_of_the_same_name_is_refused(cluster, run_kubelet, make_plugin):
    plugin = await make_plugin().start()
    plugin.unprepare_error = {"claim-1": "not yet"}
    run_kubelet()
    await eventually(lambda: plugin.registered)
    old = await cluster.create_claim()
    await cluster.create_pod(pod(claims={"gpu": "claim-1"}))
    await cluster.phase("Running")
    await cluster.delete_pod(grace=0)
    await cluster.claim_status("claim-1", {"reservedFor": None, "allocation": None})
    await cluster.api.request("DELETE", f"{RESOURCE}/namespaces/{NAMESPACE}/resourceclaims/claim-1")
    await cluster.create_claim()
    await cluster.create_pod(pod("pod-2", claims={"gpu": "claim-1"}))

    event = await cluster.event("FailedPrepareDynamicResources", containing="force-deleted")
    plugin.unprepare_error = {}
    await cluster.phase("Running", "pod-2")

    assert event["message"].endswith(
        f"old ResourceClaim with same name claim-1 and different UID {old['metadata']['uid']} still exists "
        "(previous pod force-deleted?!)"
    )


async def test_a_call_that_takes_too_long_is_given_up_and_retried(cluster, run_kubelet, make_plugin):
    plugin = await make_plugin().start()
    plugin.hold.clear()
    run_kubelet(rpc_timeout=0.2)
    await eventually(lambda: plugin.registered)
    await cluster.create_claim()
    await cluster.create_pod(pod(claims={"gpu": "claim-1"}))

    event = await cluster.event("FailedPrepareDynamicResources")
    plugin.hold.set()
    await cluster.phase("Running")

    assert event["message"].endswith(
        "NodePrepareResources: rpc error: code = DeadlineExceeded desc = context deadline exceeded"
    )


async def test_a_pod_deleted_during_prepare_is_unprepared(cluster, run_kubelet, make_plugin):
    plugin = await make_plugin().start()
    plugin.hold.clear()
    run_kubelet()
    await eventually(lambda: plugin.registered)
    await cluster.create_claim()
    await cluster.create_pod(pod(claims={"gpu": "claim-1"}))
    await eventually(lambda: plugin.count("prepare"))

    await cluster.delete_pod()
    await cluster.gone()

    assert [method for method, _ in plugin.calls] == ["prepare", "unprepare"]


async def test_a_plugin_that_is_deregistered_during_a_call_fails_the_call(cluster, run_kubelet, make_plugin):
    plugin = await make_plugin().start()
    plugin.hold.clear()
    run_kubelet()
    await eventually(lambda: plugin.registered)
    await cluster.create_claim()
    await cluster.create_pod(pod(claims={"gpu": "claim-1"}))
    await eventually(lambda: plugin.count("prepare"))

    plugin.registrar.unlink()

    event = await cluster.event("FailedPrepareDynamicResources")
    assert event["message"].endswith("code = Canceled desc = grpc: the client connection is closing")


async def test_a_pod_that_is_being_deleted_when_first_seen_is_never_started(cluster, run_kubelet, make_plugin):
    plugin = await make_plugin().start()
    kubelet = run_kubelet()
    await eventually(lambda: plugin.registered)
    await kubelet.stop()
    await cluster.create_claim()
    await cluster.create_pod(pod(claims={"gpu": "claim-1"}))
    await cluster.delete_pod()

    kubelet.start()
    await cluster.gone()

    assert plugin.calls == []


async def test_a_claim_survives_the_restart_of_a_kubelet_whose_other_pod_has_ended(cluster, run_kubelet, make_plugin):
    plugin = await make_plugin().start()
    kubelet = run_kubelet(on_shutdown="leave")
    await eventually(lambda: plugin.registered)
    await cluster.create_claim()
    await cluster.create_pod(pod("pod-1", claims={"gpu": "claim-1"}))
    await cluster.phase("Running", "pod-1")
    await cluster.create_pod(pod("pod-2", claims={"gpu": "claim-1"}, script="true"))
    await cluster.phase("Succeeded", "pod-2")
    await kubelet.stop()

    kubelet.start()
    await cluster.delete_pod("pod-2")
    await cluster.gone("pod-2")

    assert plugin.count("unprepare") == 0


async def test_an_image_that_is_not_known_sleeps(cluster, run_kubelet):
    run_kubelet()
    body = pod()
    del body["spec"]["containers"][0]["command"]
    await cluster.create_pod(body)

    await cluster.phase("Running")


async def test_nothing_is_written_when_nothing_changes(cluster, run_kubelet):
    run_kubelet(resync=0.05)
    await cluster.create_pod(pod())
    before = (await cluster.phase("Running"))["metadata"]["resourceVersion"]

    # Many rounds of the status loop later, which read the pod from the mirror.
    await cluster.create_pod(pod("pod-2", script="sleep 0.5"))
    await cluster.phase("Succeeded", "pod-2")

    assert (await cluster.pod())["metadata"]["resourceVersion"] == before


async def test_a_pod_with_a_finalizer_is_ended_once_and_stays_until_it_is_removed(cluster, run_kubelet, server):
    run_kubelet()
    body = pod()
    body["metadata"]["finalizers"] = ["example.com/keep"]
    await cluster.create_pod(body)
    await cluster.phase("Running")

    await cluster.delete_pod()
    kept = await cluster.phase("Failed")
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/pod-1"
    await cluster.api.request("PATCH", path, body={"metadata": {"finalizers": None}}, content_type=MERGE_PATCH)
    await cluster.gone()

    assert kept["metadata"]["deletionTimestamp"]
    assert server.requests["delete", "pods"] <= 3


async def test_a_condition_that_somebody_else_sets_meanwhile_is_kept(cluster, run_kubelet, root):
    run_kubelet()
    await cluster.create_pod(pod(script=UNTIL_GO.format(root=root)))
    running = await cluster.phase("Running")
    theirs = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByDeviceTaintManager"}
    conditions = [*running["status"]["conditions"], theirs]
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/pod-1/status"
    await cluster.api.request("PATCH", path, body={"status": {"conditions": conditions}}, content_type=MERGE_PATCH)
    (root / "go").touch()

    succeeded = await cluster.phase("Succeeded")

    assert "DisruptionTarget" in {condition["type"] for condition in succeeded["status"]["conditions"]}


async def test_what_happens_while_the_api_server_is_away_is_told_when_it_is_back(cluster, run_kubelet, server, root):
    kubelet = run_kubelet()
    await cluster.create_pod(pod(script=UNTIL_GO.format(root=root) + "exit 4"))
    running = await cluster.phase("Running")
    worker_slot = kubelet.now.runtime.containers(running["metadata"]["uid"])[0]
    await server.stop()
    (root / "go").touch()
    await worker_slot.wait()

    await server.start()

    failed = await cluster.phase("Failed")
    assert failed["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 4
