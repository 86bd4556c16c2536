"""What the reader can do now, in commands that work when they are pasted where the reader is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import start_http_server

from driver.sim.demo import place

if TYPE_CHECKING:
    from driver.sim.demo.node import Node
    from driver.sim.demo.screen import Screen


def say_what_next(screen: Screen) -> None:
    """After the story."""
    program = place.program()
    screen.heading("What to try next")
    screen.to_paste(f"{program} demo --serve", "A cluster like this one that stays, for kubectl:")
    screen.to_paste(f"{program} demo --devices fake:gb200x4", "The same story on other GPUs:")
    screen.to_paste(
        f"{program} slices --devices fake:h100x8 --partitioning dynamic -otable", "What a node would publish:"
    )


def say_how_to_use(screen: Screen, node: Node, *, page: str) -> None:
    """While the cluster is up; also serves the kubelet's metrics from now on."""
    cluster = node.cluster
    kubectl = place.kubectl() or "kubectl"
    example = place.typed(place.examples_directory() / "01-single-gpu.yaml")
    screen.heading("The cluster is yours until Ctrl-C; in another terminal:")
    if not place.kubectl():
        screen.note("(there is no kubectl on PATH; in the repository, make tools fetches one)")
    screen.to_paste(f"export KUBECONFIG={cluster.kubeconfig} KUBELET_PLUGINS_DIR={cluster.plugins_dir}")
    screen.to_paste(f"{kubectl} get resourceslices")
    screen.to_paste(f"{kubectl} apply -f {example}")
    screen.to_paste(f"{kubectl} wait --for=jsonpath={{.status.phase}}=Succeeded pod/single-gpu")
    screen.to_paste(f"{kubectl} logs single-gpu")
    screen.to_paste(f"{place.program()} fault --device gpu-0 --xid 79")
    metrics, _ = start_http_server(0, addr="127.0.0.1", registry=cluster.kubelet.metrics.registry)
    screen.heading("To look at")
    screen.to_paste(f"the cluster's GPUs, as they are held: {page}")
    screen.to_paste(f"metrics of the driver: http://127.0.0.1:{node.driver.http_port}/metrics")
    screen.to_paste(f"metrics of the kubelet: http://127.0.0.1:{metrics.server_port}/metrics")
    screen.to_paste(f"log of the driver: {node.driver.log_path}")
