from tests.unit.scheduler.builders import claim, device, device_class, exactly, run, slice_of

TWO = [slice_of([device("gpu-0"), device("gpu-1")])]


def opaque(value):
    return {"opaque": {"driver": "gpu.nvidia.com", "parameters": {"value": value}}}


def configs(allocation):
    entries = allocation["devices"]["config"]
    return [(e["source"], e.get("requests", []), e["opaque"]["parameters"]["value"]) for e in entries]


def test_configs_of_a_class_come_first_and_once():
    classes = [device_class(config=[opaque("class")])]
    wanted = claim(exactly("a"), exactly("b"), config=[opaque("claim")])

    (result,) = run(wanted, TWO, classes=classes)

    assert configs(result) == [("FromClass", ["a", "b"], "class"), ("FromClaim", [], "claim")]


def test_a_claim_config_is_repeated_for_each_of_its_requests():
    wanted = claim(exactly("a"), exactly("b"), config=[{**opaque("both"), "requests": ["a", "b"]}])

    (result,) = run(wanted, TWO)

    assert configs(result) == [("FromClaim", ["a", "b"], "both")] * 2


def test_configs_for_subrequests_that_were_not_picked_are_left_out():
    alternatives = [{"name": n, "deviceClassName": "gpu", "count": c} for n, c in (("three", 3), ("one", 1))]
    wanted = claim(
        {"name": "gpu", "firstAvailable": alternatives},
        config=[{**opaque(name), "requests": [name]} for name in ("gpu/three", "gpu/one", "gpu")],
    )
    classes = [device_class(config=[opaque("class")])]

    (result,) = run(wanted, TWO, classes=classes)

    assert configs(result) == [
        ("FromClass", ["gpu/one"], "class"),
        ("FromClaim", ["gpu/one"], "gpu/one"),
        ("FromClaim", ["gpu"], "gpu"),
    ]


def test_the_allocation_of_a_nodes_own_device_is_bound_to_the_node():
    (result,) = run(claim(), TWO)

    (term,) = result["nodeSelector"]["nodeSelectorTerms"]
    assert term == {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-a"]}]}


def test_devices_for_all_nodes_bind_to_none():
    (result,) = run(claim(), [slice_of([device("a")], allNodes=True)])

    assert "nodeSelector" not in result
