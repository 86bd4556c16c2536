"""What the chart gives Prometheus and Grafana: rules that do what they say, and dashboards that can be loaded."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

import driver.observe.metrics
from driver.cluster.accountant.numbers import Numbers
from driver.usage.collector import claims, gpus, rooms, times, uses
from tests.deploy.helm import CHART, EVERYTHING, MODES, NAMESPACE, RELEASE, Object, one, render
from tests.needs import NO_PROMETHEUS, PROMTOOL

DEPLOY = CHART.parent
ALERTS: list[Object] = yaml.safe_load((CHART / "alerts.yaml").read_text())
RECORDED: list[Object] = yaml.safe_load((CHART / "rules.yaml").read_text())
PROMQL = {
    "absent", "and", "avg", "avg_over_time", "by", "group_left", "histogram_quantile", "increase", "job", "instance",
    "label_replace", "le", "max", "max_over_time", "namespace", "node", "offset", "on", "or", "rate", "sum", "workload",
    "workload_type",
}  # fmt: skip
"""Words of the language, and labels that a histogram, the scrape or a rule adds."""
OTHERS = {
    "kube_deployment_status_replicas_available": {"namespace", "deployment"},
    "kube_daemonset_status_number_unavailable": {"namespace", "daemonset"},
    "kube_pod_owner": {"namespace", "pod", "owner_kind", "owner_name", "owner_is_controller"},
    "kube_replicaset_owner": {"namespace", "replicaset", "owner_kind", "owner_name", "owner_is_controller"},
    "kubelet_pod_pending_resizes": {"reason"},
}
"""Metrics of kube-state-metrics and the kubelet, and their labels."""
CASES: dict[str, Object] = {
    case["name"]: case for case in yaml.safe_load(Path(__file__).with_name("rules_cases.yaml").read_text())
}
DASHBOARDS: dict[str, Object] = {
    path.stem: json.loads(path.read_text()) for path in sorted((CHART / "dashboards").glob("*.json"))
}
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason=NO_PROMETHEUS)


def known_metrics() -> dict[str, set[str]]:
    """Every metric by the names of its series, with its labels."""
    metrics = driver.observe.metrics.Metrics(driver_name="gpu.nvidia.com")
    known = OTHERS | {rule["record"]: set() for rule in RECORDED}
    for family in metrics.registry.collect():
        labels = {label for sample in family.samples for label in sample.labels}
        # Series with labels come into being with their first value: counters as _total, histograms as _bucket.
        for suffix in ("", "_total", "_bucket"):
            known[f"{family.name}{suffix}"] = labels
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            for suffix in ("", "_total", "_bucket"):
                known[f"{metric.describe()[0].name}{suffix}"] = set(metric._labelnames)
    for told in (claims(()), *times({}), *uses(()), *gpus({}), *rooms({}), *Numbers().collect()):
        known[f"{told.name}_total" if told.type == "counter" else told.name] = set(told._labelnames)
    return known


@pytest.mark.parametrize("rule", [*ALERTS, *RECORDED], ids=lambda rule: rule.get("alert") or rule["record"])
def test_a_rule_uses_metrics_that_exist_and_labels_that_these_have(rule: Object) -> None:
    known = known_metrics()

    words = set(re.findall(r"[a-zA-Z_][\w:]*", re.sub(r'"[^"]*"|\[\w+\]|\b\d+m\b', "", rule["expr"])))
    used = {word for word in words if word in known}

    assert used
    assert words - used - PROMQL <= {label for name in used for label in known[name]}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_has_a_severity_and_a_summary(alert: Object) -> None:
    assert alert["labels"]["severity"]
    assert alert["annotations"]["summary"]


def test_a_driver_that_is_absent_is_an_alert_of_its_own() -> None:
    # A series that is not there is no 0: only these see it.
    expressions = {rule["expr"] for group in groups() for rule in group["rules"]}

    assert "absent(gpu_dra_registered)" in expressions
    unavailable = f'kube_daemonset_status_number_unavailable{{namespace="{NAMESPACE}", daemonset="{RELEASE}"}} > 0'
    assert unavailable in expressions


@pytest.mark.parametrize(("values", "kind"), [(EVERYTHING, "PodMonitor"), (MODES["service-monitor"], "ServiceMonitor")])
def test_the_labels_of_a_claim_are_never_those_of_the_drivers_pod(values: Object, kind: str) -> None:
    spec = one(render(values), kind)["spec"]
    [endpoint] = spec.get("podMetricsEndpoints") or spec["endpoints"]

    assert endpoint["honorLabels"] is True
    assert {"action": "labeldrop", "regex": "pod"} in endpoint["relabelings"]


@needs_promtool
def test_promtool_has_nothing_to_say_about_the_rules(tmp_path: Path) -> None:
    promtool("check", "rules", str(written(tmp_path)))


@needs_promtool
@pytest.mark.parametrize("name", CASES)
def test_the_rules_say_what_they_should(tmp_path: Path, name: str) -> None:
    case = {"rule_files": [written(tmp_path).name], "evaluation_interval": "1m", "tests": [CASES[name]]}
    (tmp_path / "case.yaml").write_text(yaml.safe_dump(case))

    promtool("test", "rules", str(tmp_path / "case.yaml"))


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_comes_as_a_configmap_that_grafanas_sidecar_finds(name: str) -> None:
    found = one(render(EVERYTHING), "ConfigMap", f"-dashboard-{name}")

    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert found["metadata"]["annotations"] == {"grafana_folder": "GPUs"}
    [text] = found["data"].values()
    assert json.loads(text) == DASHBOARDS[name]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_has_panels_that_do_not_overlap_and_ask_the_chosen_source(name: str) -> None:
    panels = DASHBOARDS[name]["panels"]
    cells = [cell for panel in panels for cell in covered(panel["gridPos"])]

    assert len(set(cells)) == len(cells)
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(0 <= x < 24 for x, _ in cells)
    for panel in panels:
        for target in panel.get("targets", ()):
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["type"] == "row" or len({t["refId"] for t in panel["targets"]}) == len(panel["targets"])


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_uses_the_variables_that_it_has(name: str) -> None:
    dashboard = DASHBOARDS[name]
    has = {variable["name"] for variable in dashboard["templating"]["list"]}

    used = set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard["panels"]) + json.dumps(dashboard["templating"])))

    assert {word for word in used if not word.startswith("__")} == has


def test_dashboards_link_to_each_other() -> None:
    uids = {f"/d/{dashboard['uid']}" for dashboard in DASHBOARDS.values()}

    assert {link["url"] for dashboard in DASHBOARDS.values() for link in dashboard["links"]} == uids


def test_the_example_scales_on_a_metric_that_the_adapters_rules_make() -> None:
    objects = yaml.safe_load_all((DEPLOY / "examples" / "24-scale-on-utilisation.yaml").read_text())
    rules = yaml.safe_load((DEPLOY / "autoscaling" / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    [scaler] = [obj for obj in objects if obj["kind"] == "HorizontalPodAutoscaler"]

    wanted = {metric["pods"]["metric"]["name"] for metric in scaler["spec"]["metrics"]}

    assert wanted <= {rule["name"]["as"] for rule in rules}


def covered(place: Object) -> list[tuple[int, int]]:
    return [(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])]


def groups() -> list[Object]:
    found: list[Object] = one(render(EVERYTHING), "PrometheusRule")["spec"]["groups"]
    return found


def written(directory: Path) -> Path:
    """The chart's rules as a file of Prometheus."""
    path = directory / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": groups()}))
    return path


def promtool(*arguments: str) -> None:
    assert PROMTOOL is not None
    result = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
