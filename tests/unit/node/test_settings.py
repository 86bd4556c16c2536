"""Names that the settings make: sockets that fit, whatever the kubelet's root directory is."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from driver.inventory.instances import registrar_sockets
from driver.node.settings import MAX_SOCKET_PATH, Settings
from tests.harness import DRIVER, node_directories

ROOT = Path(__file__).parents[3]
PLACES = ["deploy/chart/values.yaml", "docs/install.md"]
TEXT = "".join((ROOT / place).read_text() for place in PLACES)
NAMED = sorted(set(re.findall(r"/[a-z0-9/]+/kubelet\b", TEXT)))
UID = "0c6f0f61-4a5b-4f7f-9d5e-1f8f1f1f1f1f"
OTHER = "0c6f0f61-4a5b-4f7f-9d5e-1f8f1f1f1f20"


def settings(root: str | Path, **more: Any) -> Settings:
    return Settings.model_validate(
        {
            "node_name": "node-1",
            "pod_uid": UID,
            "kubelet_plugins_dir": f"{root}/plugins",
            "kubelet_registry_dir": f"{root}/plugins_registry",
            **more,
        }
    )


def sockets(of: Settings) -> list[Path]:
    return [of.dra_socket, of.registrar_socket]


def test_the_docs_name_the_root_directories_of_distributions() -> None:
    assert set(NAMED) >= {"/var/lib/kubelet", "/var/lib/k0s/kubelet", "/var/snap/microk8s/common/var/lib/kubelet"}


@pytest.mark.parametrize("root", NAMED)
def test_the_sockets_fit_below_each_root_directory_that_the_docs_name(root: str) -> None:
    paths = sockets(settings(root))

    assert max(len(os.fsencode(path)) for path in paths) <= MAX_SOCKET_PATH


def test_a_pod_uid_that_fits_is_in_the_names_as_it_is() -> None:
    assert [path.name for path in sockets(settings("/var/lib/kubelet"))] == [
        f"dra-{UID}.sock",
        f"{DRIVER}-{UID}-reg.sock",
    ]


def test_two_pods_have_different_sockets_where_only_short_names_fit() -> None:
    root = "/var/snap/microk8s/common/var/lib/kubelet"

    one, same, other = settings(root), settings(root), settings(root, pod_uid=OTHER)

    assert len(one.instance) == 8
    assert sockets(one) == sockets(same)
    assert not {*sockets(one)} & {*sockets(other)}


def test_instances_with_long_and_with_short_names_find_each_other() -> None:
    with_uid = settings("/var/lib/kubelet").registrar_socket.name
    short = settings("/var/snap/microk8s/common/var/lib/kubelet", pod_uid=OTHER).registrar_socket.name

    with node_directories() as node, socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as other:
        one.bind(str(node.registry / with_uid))
        other.bind(str(node.registry / short))
        found = registrar_sockets(node.registry, DRIVER)

    assert {path.name for path in found} == {with_uid, short}


def test_a_directory_that_no_name_fits_into_is_refused_with_the_lengths() -> None:
    root = "/" + "a" * 80

    with pytest.raises(ValueError, match=r"has 117 bytes \(100 for the directory \+ 17 for the name\), 107 fit"):
        settings(root, driver_name="b.example")
