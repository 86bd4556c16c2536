import pytest

from driver.sim.scheduler.cel import CelError, compile_error, selector

GPU = (
    "gpu.nvidia.com",
    {
        "attributes": {
            "model": {"string": "NVIDIA H100 80GB HBM3"},
            "mig": {"bool": False},
            "index": {"int": 3},
            "driverVersion": {"version": "550.54.15"},
            "resource.kubernetes.io/pcieRoot": {"string": "pci0000:00"},
        },
        "capacity": {"memory": {"value": "80Gi"}},
    },
)
ATTRIBUTES = 'device.attributes["gpu.nvidia.com"]'
MEMORY = 'device.capacity["gpu.nvidia.com"].memory'


@pytest.mark.parametrize(
    "expression",
    [
        'device.driver == "gpu.nvidia.com"',
        f'{ATTRIBUTES}.model.startsWith("NVIDIA H100")',
        f'{ATTRIBUTES}.model.lowerAscii().matches("^nvidia.*80gb")',
        f"{ATTRIBUTES}.index in [1, 3]",
        f"!{ATTRIBUTES}.mig && !device.allowMultipleAllocations",
        'device.attributes["resource.kubernetes.io"].pcieRoot == "pci0000:00"',
        f'{MEMORY}.compareTo(quantity("40Gi")) >= 0',
        f'{MEMORY}.isGreaterThan(quantity("79Gi")) && {MEMORY}.isLessThan(quantity("1Ti"))',
        f'{MEMORY} == quantity("81920Mi")',
        f'{MEMORY}.sub(quantity("79Gi")).add(1).asInteger() == 1073741825',
        f'{ATTRIBUTES}.driverVersion.isGreaterThan(semver("535.104.5"))',
        f"{ATTRIBUTES}.driverVersion.major() == 550",
        f"cel.bind(gpu, {ATTRIBUTES}, gpu.index == 3 && !gpu.mig)",
        f"has({ATTRIBUTES}.model) && !has({ATTRIBUTES}.uuid)",
        f'{ATTRIBUTES}[?"uuid"].orValue("none") == "none"',
        "'gpu.nvidia.com' in device.attributes",
        'isQuantity("4Gi") && !isSemver("4")',
    ],
)
def test_selects_the_gpu(expression):
    assert selector(expression).matches(*GPU)


def test_an_unknown_domain_is_an_empty_map():
    assert not selector('has(device.attributes["other.example.com"].model)').matches(*GPU)


def test_an_unknown_domain_is_still_not_among_the_domains():
    guarded = '"other.example.com" in device.attributes && device.attributes["other.example.com"].x == 1'

    assert not selector(guarded).matches(*GPU)


def test_code_within_a_string_is_text():
    assert not selector("device.driver == 'device.nonsense'").matches(*GPU)


def test_a_missing_attribute_is_a_runtime_error():
    with pytest.raises(CelError, match=r"^no such key: uuid$"):
        selector(f'{ATTRIBUTES}.uuid == "GPU-1"').matches(*GPU)


def test_wrong_types_are_a_runtime_error():
    with pytest.raises(CelError, match=r"no such overload"):
        selector(f"{ATTRIBUTES}.model > 3").matches(*GPU)


def test_a_list_attribute_is_refused():
    listed = ("d", {"attributes": {"roots": {"strings": ["a"]}}})

    with pytest.raises(CelError, match=r"attribute roots: unsupported attribute value"):
        selector("true").matches(*listed)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("device.", "compilation failed"),
        ("nonsense", "undeclared reference"),
        ("device.memory", "undefined field 'memory'"),
        ('1 + "a"', "no matching overload"),
        ("1 + 1", "must evaluate to bool"),
        ("true || " + "x" * 11_000, "too long"),
    ],
)
def test_says_what_does_not_compile(expression, message):
    assert message in (compile_error(expression) or "")


def test_an_expression_is_compiled_once():
    assert selector("device.driver != ''") is selector("device.driver != ''")
