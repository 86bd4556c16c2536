"""What README and docs name has to be there: files of settings that the driver takes, values of the chart."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from driver.claims.config import decode
from driver.node.config_file import read_node_config
from driver.node.settings import Settings
from tests.deploy.helm import CHART
from tests.docs.blocks import DOCUMENTS, ROOT, blocks

if TYPE_CHECKING:
    from pathlib import Path

VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
DOTTED = re.compile(r"(?<![\w./-])[a-z][A-Za-z]*(?:\.[a-z][A-Za-z]*)+(?![\w./(-])")
ELSEWHERE = {
    "resources.claims",
    "resources.gpus.enabled",
    "kubernetesDRA.enabled",
    "devicePlugin.enabled",
    "migManager.enabled",
}
"""Fields of the API that begin like a value, and values of NVIDIA's charts."""


def block(document: str, beginning: str) -> str:
    [found] = [block.text for block in blocks(document) if block.text.startswith(beginning)]
    return found


def test_the_node_config_of_the_docs_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(block("docs/partitions.md", "partitioning: none"))

    assert read_node_config(Settings(node_name="node-1", config=path)).gpus


def test_the_opaque_parameters_of_the_docs_are_taken() -> None:
    assert decode(yaml.safe_load(block("docs/sharing.md", "kind: GpuConfig")))


def test_the_readme_counts_the_examples() -> None:
    claims = [path for path in (ROOT / "deploy" / "examples").glob("*.yaml") if not path.name.startswith("00-")]

    [told] = re.findall(r"([0-9]+) ways to ask for a GPU", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert int(told) == len(claims)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_value_of_the_chart_that_is_named_is_there(document: str) -> None:
    named = {
        name
        for code in re.findall(r"`([^`\n]+)`", (ROOT / document).read_text())
        for name in DOTTED.findall(code)
        if name.partition(".")[0] in VALUES or name.endswith((".enabled", ".create"))
    }

    assert {name for name in named - ELSEWHERE if not is_there(name)} == set()


def is_there(name: str) -> bool:
    found: Any = VALUES
    for part in name.split("."):
        if found == {}:
            return True  # a piece of the Kubernetes API
        if not isinstance(found, dict) or part not in found:
            return False
        found = found[part]
    return True


def test_the_table_of_events_has_each_that_the_driver_writes_and_no_other() -> None:
    source = "".join(path.read_text() for path in sorted((ROOT / "driver").rglob("*.py")))
    written = set(re.findall(r'(?:warn|tell)\(\s*(?:"(?:Normal|Warning)",\s*)?"([A-Z]\w+)"', source)) - {"Warning"}

    chapter = (ROOT / "docs/operations.md").read_text().split("\n## What Events mean\n")[1].split("\n## ")[0]
    described = {
        name for row in re.findall(r"^\| (`.*?) \|", chapter, re.MULTILINE) for name in re.findall(r"\w+", row)
    }

    assert described == written


def anchors(document: Path) -> set[str]:
    """What a heading is called in a link, as GitHub does it."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_link_leads_somewhere(document: str) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", (ROOT / document).read_text()):
        path, _, anchor = link.partition("#")
        target = (ROOT / document).parent / path if path else ROOT / document

        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
