# SPDX-License-Identifier: Apache-2.0
"""What is written for many hosts: figures that are right, and examples that the tools accept."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.parser import text_string_to_metric_families

from tests.lab.prometheus import promtool
from tests.unit.test_rules import ROOT, RULES, rules

FLEET = (ROOT / "docs" / "fleet.md").read_text()
EXAMPLES = ROOT / "examples"
GOLDEN = ROOT / "tests" / "golden" / "metrics-debian.txt"
#: A scrape with `--what-if accessed`.
ESTIMATED = GOLDEN.with_name("metrics.txt")
HOSTS, VMS_OF_A_HOST = 1_000, 50
#: up, scrape_duration_seconds, scrape_samples_scraped, …_post_metric_relabeling, scrape_series_added.
ADDED_BY_PROMETHEUS = 5
#: The oldest version that must take the DaemonSet, and a new one.
KUBERNETES = ("1.28", "1.37")


def scraped() -> dict[str, tuple[int, int]]:
    """Family → how many series one VM has of it, and the host without its VMs."""
    families = text_string_to_metric_families(GOLDEN.read_text())
    of_vm = {family.name: [("vm" in sample.labels) for sample in family.samples] for family in families}
    return {name: (sum(found), len(found) - sum(found)) for name, found in of_vm.items()}


def estimates() -> int:
    """How many series one VM has of estimates."""
    families = text_string_to_metric_families(ESTIMATED.read_text())
    samples = [sample for family in families for sample in family.samples]
    return sum("what_if" in sample.name and sample.labels["vm"] == "web1" for sample in samples)


def configuration(name: str) -> Any:
    """One of the examples for Prometheus."""
    return yaml.safe_load((EXAMPLES / "prometheus" / name).read_text())


def daemonset_pod() -> Any:
    """What the DaemonSet says of its pods."""
    _, daemonset = yaml.safe_load_all((EXAMPLES / "kubernetes" / "daemonset.yml").read_text())
    return daemonset["spec"]["template"]["spec"]


def test_the_figures_are_those_of_a_real_scrape() -> None:
    """The table is the arithmetic of the golden scrape, of the rules, and of what the example keeps."""
    families = scraped()
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    process = sum(len(family.samples) for family in registry.collect())
    example = configuration("prometheus.yml")
    (write,) = example["remote_write"][0]["write_relabel_configs"]
    (dropped,) = re.findall(
        r"regex: (shadowwatch_\(parenting_age.*)", (EXAMPLES / "prometheus/prometheus.yml").read_text()
    )

    unestimated = sum(of_vm for of_vm, _ in families.values())
    estimated = estimates()
    vm = unestimated + estimated
    host = sum(of_host for _, of_host in families.values()) + process + ADDED_BY_PROMETHEUS
    histograms = sum(of_vm for name, (of_vm, _) in families.items() if re.fullmatch(dropped, f"{name}_"))
    recorded = [rule["record"] for rule in rules() if "record" in rule]
    vm_recorded = sum(name.startswith("vm:") for name in recorded)
    host_recorded = len(recorded) - vm_recorded
    kept = [name for name in (*families, "up") if re.fullmatch(write["regex"], f"shadowwatch;{name}")]
    host_kept = host_recorded + sum(families.get(name, (0, 1))[1] for name in kept)
    assert all(re.fullmatch(write["regex"], f"shadowwatch;{name}") for name in (*recorded, "ALERTS"))
    assert not any(families.get(name, (0, 1))[0] for name in kept)

    total = HOSTS * (VMS_OF_A_HOST * vm + host)
    sent = HOSTS * (VMS_OF_A_HOST * vm_recorded + host_kept)
    text = " ".join(FLEET.split())
    assert f"A VM's {vm} are bounded" in text
    assert f"{histograms} are its four histograms" in text
    assert f"{estimated} are estimates: five counters" in text
    (fewer,) = {sum(name.startswith(f"{of}:shadowwatch_faults") for name in recorded) for of in ("vm", "instance")}
    assert f"Where there are none, {fewer} fewer are recorded of a VM and of its host." in text
    assert (
        f"A host's {host} are {host - process - ADDED_BY_PROMETHEUS} of shadowwatch, {process} of its process" in text
    )
    assert f"each 30 s these are {round(total / 30, -3):,.0f} samples/s" in text
    assert f"{sent:,} series, {sent / total:.0%} of what is scraped" in text.replace(" %", "%")
    assert f"{total // 10:,} series" in text

    rows = [
        ("scraped", unestimated, host),
        ("scraped, with `--what-if accessed`", vm, host),
        ("scraped, with it, without histograms", vm - histograms, host),
        ("recorded, with it", vm_recorded, host_recorded),
        ("sent on, with it", vm_recorded, host_kept),
    ]
    for row, of_vm, of_host in rows:
        assert f"| {row} | {of_vm} | {of_host} | {HOSTS * (VMS_OF_A_HOST * of_vm + of_host):,} |" in FLEET


@pytest.mark.parametrize("name", ["prometheus.yml", "openstack.yml", "kubernetes.yml"])
def test_prometheus_takes_the_examples(name: str, tmp_path: Path) -> None:
    """In the folder that docs/fleet.md has one make. Debian's promtool does not know Kubernetes; the rest it checks."""
    shutil.copytree(EXAMPLES / "prometheus", tmp_path, dirs_exist_ok=True)
    shutil.copy(RULES, tmp_path)
    example = configuration(name)
    (job,) = example["scrape_configs"]
    assert job["job_name"] == "shadowwatch"
    if name == "kubernetes.yml":
        (found,) = job.pop("kubernetes_sd_configs")
        assert found["role"] == "pod"
        (tmp_path / name).write_text(yaml.safe_dump(example))
    assert f"{name} is valid prometheus config file syntax" in promtool("check", "config", tmp_path / name)


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_takes_the_daemonset(version: str) -> None:
    """By its own schema, in which nothing unknown is allowed."""
    documents = list(yaml.safe_load_all((EXAMPLES / "kubernetes" / "daemonset.yml").read_text()))
    assert [document["kind"] for document in documents] == ["Namespace", "DaemonSet"]
    for document in documents:
        assert kubernetes_validate.validate(document, version, strict=True) == version


def test_the_pod_estimates_what_the_document_says() -> None:
    """It has the flag that is asked for on every host, to rank the fleet."""
    (container,) = daemonset_pod()["containers"]
    flag = re.search(r"`(--what-if \w+)`", FLEET)
    assert flag
    assert flag[1] in " ".join(container["args"])


def test_each_privilege_of_the_pod_has_its_reason() -> None:
    """What the container is given is what docs/fleet.md explains."""
    pod = daemonset_pod()
    (container,) = pod["containers"]
    rows = re.findall(r"^\| (`.*?) \|", FLEET[FLEET.index("## Kubernetes") :], re.MULTILINE)
    explained = {word for row in rows for word in re.findall("`(.*?)`", row)}
    capabilities = container["securityContext"]["capabilities"]
    folders = {volume["hostPath"]["path"] for volume in pod["volumes"] if "hostPath" in volume}
    assert capabilities["drop"] == ["ALL"]
    assert explained == {*capabilities["add"], *folders, "hostPID"}
    assert all(mount["readOnly"] for mount in container["volumeMounts"] if mount["mountPath"] in folders)
    assert not {"hostNetwork", "hostIPC"} & pod.keys()


def test_prometheus_finds_the_pods() -> None:
    """By the label that the DaemonSet gives them."""
    _, daemonset = yaml.safe_load_all((EXAMPLES / "kubernetes" / "daemonset.yml").read_text())
    keep, _ = configuration("kubernetes.yml")["scrape_configs"][0]["relabel_configs"]
    assert keep["source_labels"] == ["__meta_kubernetes_pod_label_app_kubernetes_io_name"]
    assert keep["regex"] == daemonset["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"]
