"""The tools that tests need: where there is none to fetch, and where none was."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.deploy.fetch_tools import fetch
from tests.deploy.helm import program

if TYPE_CHECKING:
    from pathlib import Path


def test_a_machine_that_no_tools_are_for_is_told_what_to_do_and_asked_again_the_next_time(tmp_path: Path) -> None:
    said = fetch(tmp_path, "aarch64")

    assert f"put helm3, helm4 and kubectl into {tmp_path}" in said
    assert list(tmp_path.iterdir()) == []


def test_a_test_without_its_tool_is_skipped_with_how_to_have_it() -> None:
    with pytest.raises(pytest.skip.Exception, match="needs helm and kubectl: make tools"):
        program("helm-that-nobody-fetched")
