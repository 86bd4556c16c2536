"""The plugin manager and the store of plugins: who gets registered, who gets called, when slices are deleted."""

from prometheus_client import generate_latest

from driver.kube.client import RESOURCE
from tests.eventually import eventually
from tests.unit.sim_kubelet.fakes import DRIVER, NODE, pod


def published_slice(name: str, *, driver: str = DRIVER, node: str = NODE) -> dict:
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": name},
        "spec": {
            "driver": driver,
            "nodeName": node,
            "pool": {"name": node, "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": "gpu-0"}],
        },
    }


async def slice_names(cluster) -> set[str]:
    return {item["metadata"]["name"] for item in (await cluster.api.get(f"{RESOURCE}/resourceslices"))["items"]}


async def test_a_socket_that_exists_at_start_is_registered(run_kubelet, make_plugin):
    plugin = await make_plugin().start()

    kubelet = run_kubelet()

    await eventually(lambda: plugin.registered)
    assert [instance.endpoint for instance in kubelet.now.plugins.instances] == [str(plugin.endpoint)]


async def test_a_socket_that_appears_later_is_registered(run_kubelet, make_plugin):
    kubelet = run_kubelet()
    await eventually(lambda: kubelet.now.node.ready.is_set())

    plugin = await make_plugin().start()

    await eventually(lambda: plugin.registered)


async def test_a_failed_get_info_is_tried_again(run_kubelet, make_plugin):
    plugin = make_plugin()
    plugin.get_info_errors = 2
    await plugin.start()

    run_kubelet()

    await eventually(lambda: plugin.registered)


async def test_a_failed_notification_deregisters_and_is_tried_again(run_kubelet, make_plugin):
    plugin = make_plugin()
    plugin.notify_errors = 1
    await plugin.start()

    kubelet = run_kubelet()

    await eventually(lambda: len(plugin.statuses) == 2)
    await eventually(lambda: len(kubelet.now.plugins.instances) == 1)


async def test_a_plugin_without_a_known_service_is_told_why(run_kubelet, make_plugin):
    plugin = make_plugin()
    plugin.info.supported_versions[:] = ["v1alpha4.Node"]
    await plugin.start()

    kubelet = run_kubelet()

    status = await eventually(lambda: plugin.statuses and plugin.statuses[0])
    assert not status.plugin_registered
    assert 'none of services supported by the plugin (["v1alpha4.Node"]) are supported by the kubelet' in status.error
    assert kubelet.now.plugins.instances == []


async def test_a_plugin_of_another_type_is_told_why(run_kubelet, make_plugin):
    plugin = make_plugin()
    plugin.info.type = "CSIPlugin"
    await plugin.start()

    run_kubelet()

    status = await eventually(lambda: plugin.statuses and plugin.statuses[0])
    assert "no handler registered for plugin type: CSIPlugin" in status.error


async def test_the_same_endpoint_twice_is_refused(run_kubelet, make_plugin):
    first = await make_plugin(instance="a").start()
    kubelet = run_kubelet()
    await eventually(lambda: first.registered)
    second = make_plugin(instance="b")
    second.info.endpoint = str(first.endpoint)

    await second.register()

    status = await eventually(lambda: second.statuses and second.statuses[0])
    assert f"endpoint {first.endpoint} already registered for DRA driver plugin {DRIVER}" in status.error
    assert len(kubelet.now.plugins.instances) == 1


async def test_files_that_are_no_sockets_and_dot_files_are_ignored(run_kubelet, make_plugin, root):
    hidden = make_plugin()
    hidden.registrar = hidden.registrar.with_name(".hidden-reg.sock")
    await hidden.start()
    (root / "plugins_registry" / "note.txt").write_text("not a socket")

    kubelet = run_kubelet()
    shown = await make_plugin(instance="b").start()
    await eventually(lambda: shown.registered)

    assert hidden.statuses == []
    assert [instance.endpoint for instance in kubelet.now.plugins.instances] == [str(shown.endpoint)]


async def test_a_socket_in_a_new_subdirectory_is_registered(run_kubelet, make_plugin, root):
    kubelet = run_kubelet()
    await eventually(lambda: kubelet.now.node.ready.is_set())
    directory = root / "plugins_registry" / DRIVER
    directory.mkdir()
    plugin = make_plugin()
    plugin.registrar = directory / "reg.sock"

    await plugin.start()

    await eventually(lambda: plugin.registered)


async def test_a_plugin_is_deregistered_when_its_socket_goes(run_kubelet, make_plugin):
    plugin = await make_plugin().start()
    kubelet = run_kubelet()
    await eventually(lambda: plugin.registered)

    plugin.registrar.unlink()

    await eventually(lambda: kubelet.now.plugins.instances == [])


async def test_a_plugin_that_was_restarted_with_the_same_sockets_is_registered_again(run_kubelet, make_plugin):
    first = await make_plugin().start()
    kubelet = run_kubelet()
    await eventually(lambda: first.registered)
    before = kubelet.now.plugins.instances
    await first.stop()

    second = await make_plugin().start()

    await eventually(lambda: second.registered)
    assert len(kubelet.now.plugins.instances) == 1
    assert kubelet.now.plugins.instances != before


async def test_a_socket_that_nobody_listens_on_does_not_hold_up_the_others(run_kubelet, make_plugin):
    dead = await make_plugin(driver="dead.example.com").start()
    saved = dead.registrar.with_name(".saved")
    dead.registrar.rename(saved)
    await dead.stop()
    saved.rename(dead.registrar)

    run_kubelet()
    alive = await make_plugin().start()

    await eventually(lambda: alive.registered)


async def test_an_empty_endpoint_means_the_registration_socket(run_kubelet, make_plugin):
    plugin = make_plugin()
    plugin.info.endpoint = ""
    await plugin.start()

    kubelet = run_kubelet()

    await eventually(lambda: plugin.registered)
    assert kubelet.now.plugins.get(DRIVER).endpoint == str(plugin.registrar)


async def test_of_two_instances_the_latest_connected_one_is_called(cluster, run_kubelet, make_plugin):
    kubelet = run_kubelet()
    old = await make_plugin(instance="a").start()
    await eventually(lambda: old.registered)
    new = await make_plugin(instance="b").start()
    await eventually(lambda: new.registered)
    await eventually(lambda: kubelet.now.plugins.get(DRIVER).endpoint == str(new.endpoint))

    await cluster.create_claim()
    await cluster.create_pod(pod(claims={"gpu": "claim-1"}))
    await cluster.phase("Running")
    await new.stop_serving()
    await eventually(lambda: kubelet.now.plugins.get(DRIVER).endpoint == str(old.endpoint))
    await cluster.delete_pod()
    await cluster.gone()

    assert (new.count("prepare"), old.count("prepare")) == (1, 0)
    assert (new.count("unprepare"), old.count("unprepare")) == (0, 1)


async def test_a_service_that_comes_back_behind_the_same_registration_is_used(cluster, run_kubelet, make_plugin):
    kubelet = run_kubelet()
    plugin = await make_plugin().start()
    await eventually(lambda: kubelet.now.plugins.instances and kubelet.now.plugins.get(DRIVER).connected)
    await plugin.stop_serving()
    await eventually(lambda: not kubelet.now.plugins.get(DRIVER).connected)

    await plugin.serve()
    await eventually(lambda: kubelet.now.plugins.get(DRIVER).connected)
    await cluster.create_claim()
    await cluster.create_pod(pod(claims={"gpu": "claim-1"}))

    await cluster.phase("Running")
    assert len(plugin.statuses) == 1


async def test_all_slices_of_the_node_are_deleted_at_start(cluster, run_kubelet):
    for name, node in (("mine", NODE), ("theirs", "node-2")):
        await cluster.api.request("POST", f"{RESOURCE}/resourceslices", body=published_slice(name, node=node))

    run_kubelet()

    async def only_theirs():
        return await slice_names(cluster) == {"theirs"}

    await eventually(only_theirs)


async def test_slices_of_a_driver_go_some_time_after_its_last_instance(cluster, run_kubelet, make_plugin):
    kubelet = run_kubelet(wiping_delay=0.3)
    await kubelet.now.started.wait()
    plugin = await make_plugin().start()
    await eventually(lambda: kubelet.now.plugins.instances and kubelet.now.plugins.get(DRIVER).connected)
    for name, driver in (("mine", DRIVER), ("other", "other.example.com")):
        await cluster.api.request("POST", f"{RESOURCE}/resourceslices", body=published_slice(name, driver=driver))

    await plugin.stop()

    async def only_other():
        return await slice_names(cluster) == {"other"}

    await eventually(only_other)


async def test_slices_stay_when_the_driver_is_back_in_time(run_kubelet, make_plugin):
    kubelet = run_kubelet()
    old = await make_plugin(instance="a").start()
    await eventually(lambda: kubelet.now.plugins.instances and kubelet.now.plugins.get(DRIVER).connected)
    await old.stop()
    await eventually(lambda: kubelet.now.plugins.pending_wipes == {DRIVER})

    await make_plugin(instance="b").start()

    await eventually(lambda: kubelet.now.plugins.instances and kubelet.now.plugins.get(DRIVER).connected)
    assert kubelet.now.plugins.pending_wipes == set()


async def test_the_first_known_entry_of_the_plugins_list_is_the_service_used(cluster, run_kubelet, make_plugin):
    plugin = make_plugin()
    plugin.info.supported_versions[:] = ["v9.DRAPlugin", "v1.DRAPlugin"]
    await plugin.start()
    kubelet = run_kubelet()

    await eventually(lambda: plugin.registered)

    assert kubelet.now.plugins.get(DRIVER).service == "v1.DRAPlugin"


async def test_metrics_have_the_names_and_labels_of_the_real_kubelet(cluster, run_kubelet, make_plugin):
    plugin = await make_plugin().start()
    kubelet = run_kubelet()
    await eventually(lambda: plugin.registered)
    await cluster.create_claim()
    await cluster.create_pod(pod(claims={"gpu": "claim-1"}))
    await cluster.phase("Running")

    text = generate_latest(kubelet.now.metrics.registry).decode()

    method = "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodePrepareResources"
    assert (
        f'dra_grpc_operations_duration_seconds_count{{driver_name="{DRIVER}",grpc_status_code="OK",'
        f'method_name="{method}"}} 1.0' in text
    )
    assert 'dra_operations_duration_seconds_count{is_error="false",operation_name="PrepareResources"} 1.0' in text
    assert f'dra_resource_claims_in_use{{driver_name="{DRIVER}"}} 1.0' in text
    assert 'dra_resource_claims_in_use{driver_name="<any>"} 1.0' in text
    assert f'plugin_manager_total_plugins{{socket_path="{plugin.registrar}",state="actual_state_of_world"}} 1.0' in text
