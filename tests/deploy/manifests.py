"""What is made from the chart, and the part of its schema that is the driver's: `make manifests`; a test compares."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import yaml

from driver.claims.config import json_schemas
from tests.deploy import parameters
from tests.deploy.helm import CHART, FAKE, NVML, ROOT, Object, render_text

MANIFESTS = ROOT / "deploy" / "manifests"
CLASSES = ROOT / "deploy" / "examples" / "00-deviceclasses.yaml"
SCHEMA = CHART / "values.schema.json"
PARAMETERS = CHART / "parameters.yaml"
SCHEMAS = ROOT / "deploy" / "schemas"
NODE_CONFIG = ROOT / "deploy" / "node-config.schema.json"
MADE = "Made from deploy/chart by `make manifests`; change the chart, not this file."
ABOUT = {
    "nvml": "The driver on nodes with NVIDIA GPUs: kubectl apply -f deploy/manifests/nvml.yaml",
    "fake": "The driver with GPUs that are not there, on any cluster: kubectl apply -f deploy/manifests/fake.yaml",
}
VALUES: dict[str, Object] = {"nvml": NVML, "fake": FAKE}


def manifests() -> dict[Path, str]:
    """Every file that is made from the chart, with its content."""
    found = {
        MANIFESTS / f"{name}.yaml": f"# {ABOUT[name]}\n# {MADE}\n{_plain(render_text(VALUES[name] | _NAMESPACE))}"
        for name in VALUES
    }
    classes = render_text({}, options=("--show-only", "templates/deviceclasses.yaml"))
    found[CLASSES] = (
        "# The classes that everything below asks for: whole GPUs, and partitions of GPUs (MIG).\n"
        "# Expect: nothing happens yet; a cluster has it once, the other examples refer to it.\n"
        f"# {MADE}\n{re.sub(_LABELS, '', _plain(classes), flags=re.MULTILINE)}"
    )
    return found


def schema() -> str:
    """The schema of the values, with the schema of the node config in it.

    All values are required: an upgrade with --reuse-values lacks those that are new, and is refused.
    """
    found, config = json.loads(SCHEMA.read_text()), json.loads(NODE_CONFIG.read_text())
    found["required"] = list(yaml.safe_load((CHART / "values.yaml").read_text()))
    found["properties"]["nodeConfig"] = {key: part for key, part in config.items() if not key.startswith("$")}
    found["$defs"] = config["$defs"]
    return json.dumps(found, indent=2) + "\n"


_NAMESPACE: Object = {"namespace": {"create": True}}
_LABELS = r"^  labels:\n(    .*\n)+"


def _plain(text: str) -> str:
    """Without what helm alone has use for: where an object came from, and who manages it."""
    text = re.sub(
        r"^# Source: .*\n|^ *(helm\.sh/chart|app\.kubernetes\.io/managed-by): .*\n", "", text, flags=re.MULTILINE
    )
    return re.sub(r"\n\n+", "\n", text).strip("\n") + "\n"


def parameter_files() -> dict[Path, str]:
    """What is made from the models of opaque parameters: JSON Schemas, and the policy's spec for the chart."""
    made = "# Made from the models of the parameters by `make manifests`; change driver/claims/config.py.\n"
    found = {SCHEMAS / f"{kind}.schema.json": json.dumps(s, indent=2) + "\n" for kind, s in json_schemas().items()}
    return {PARAMETERS: made + parameters.spec(), **found}


def main() -> None:
    SCHEMA.write_text(schema())
    MANIFESTS.mkdir(exist_ok=True)
    for files in (parameter_files, manifests):
        for path, text in files().items():
            path.write_text(text)


if __name__ == "__main__":
    try:
        main()
    except pytest.skip.Exception as lacking:
        sys.exit(str(lacking))
