"""What a benchmark's targets come to: misses that are known, new ones, and known ones that have become worse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from driver.kube import Api, ApiError
from tests.bench import world
from tests.bench.known import KNOWN, Miss
from tests.bench.stats import Case, Target, Verdict, judge

LIMITS = {("slow", "share"): Miss(limit=0.2, why="it is like that"), ("big", "MiB"): Miss(limit=90, why="it is big")}
DOCS = Path(__file__).parents[2] / "docs" / "performance.md"


def verdict(key: str, what: str, value: float, *, at_least: bool) -> Verdict:
    target = Target(what=what, value=value, limit=0.4 if at_least else 80, at_least=at_least)
    return judge([Case(key=key, targets=[target])], LIMITS)


@pytest.mark.parametrize(
    ("key", "what", "value", "at_least", "expected"),
    [
        ("fast", "share", 0.5, True, "met"),
        ("fast", "share", 0.3, True, "missed"),
        ("slow", "share", 0.3, True, "known"),
        ("slow", "share", 0.1, True, "missed"),
        ("slow", "share", 0.5, True, "over"),
        ("big", "MiB", 85, False, "known"),
        ("big", "MiB", 95, False, "missed"),
        ("big", "s", 85, False, "missed"),
    ],
)
def test_a_target_is_met_or_missed_or_known_to_be_missed(
    key: str, what: str, value: float, at_least: bool, expected: str
) -> None:
    found = verdict(key, what, value, at_least=at_least)

    lines = {"missed": found.missed, "known": found.known, "over": found.over}
    assert {name for name, told in lines.items() if told} == {expected} - {"met"}


def test_a_known_miss_is_told_with_its_reason() -> None:
    assert verdict("slow", "share", 0.3, at_least=True).known == ("slow: share 0.3 >= 0.4, it is like that",)


def test_what_is_known_to_be_missed_is_documented() -> None:
    rows = [line for line in DOCS.read_text().splitlines() if line.startswith("|") and "**missed**" in line]

    assert {key for key, _ in KNOWN} == {row.split("`")[1] for row in rows}


async def test_the_api_server_of_the_bench_is_as_strict_and_its_claims_as_large_as_in_a_cluster(tmp_path: Path) -> None:
    claim = world.claim("claim-0", "gpu-0")
    async with world.api_process(tmp_path, [claim]) as server:
        config = json.loads(server.kubeconfig.read_bytes())
        del config["users"][0]["user"]["client-certificate-data"], config["users"][0]["user"]["client-key-data"]
        (tmp_path / "no-certificate").write_text(json.dumps(config))

        async with world.client(server) as api:
            found = await api.get(world.path(claim))
        async with await Api.connect(tmp_path / "no-certificate") as api:
            with pytest.raises(ApiError) as refused:
                await api.get(world.path(claim))

    assert api.host.startswith("https://")
    assert refused.value.status == 0
    assert found["metadata"]["managedFields"] == claim["metadata"]["managedFields"]
    assert 1000 < len(json.dumps(found)) < 4000
