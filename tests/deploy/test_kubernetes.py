"""The Kubernetes files: read by Dagster's own launcher, rendered, and held against the schema of the API, offline."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import yaml

from tests.support.paths import REPO

DEPLOY = REPO / "docs/deploy"
FILES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
VALUES = yaml.safe_load((DEPLOY / "kubernetes/values.yaml").read_text())
LAUNCHER = VALUES["runLauncher"]["config"]["k8sRunLauncher"]
MANIFESTS = [f for f in FILES if f.name != "values.yaml"]
pytestmark = [pytest.mark.slow, pytest.mark.no_cover]


def validate(manifest: dict[str, Any]) -> None:
    """Hold a manifest against the strict schema; a field that the API does not know is an error."""
    schema = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    schema.validate(manifest, schema.latest_version(), strict=True)


def snake(name: str) -> str:
    return re.sub(r"([A-Z])", lambda m: "_" + m[1].lower(), name)


def launcher_config() -> dict[str, Any]:
    """Return what the chart makes of the values for the launcher."""
    given = dict(LAUNCHER)
    image = given.pop("image")
    plain = {snake(key): value for key, value in given.items() if key != "runK8sConfig"}
    raw = {snake(key): value for key, value in given["runK8sConfig"].items()}
    return plain | {
        "job_image": f"{image['repository']}:{image['tag']}",
        "job_namespace": "perturbfm",
        "service_account_name": "perturbfm",
        "instance_config_map": "perturbfm-instance",
        "dagster_home": VALUES["global"]["dagsterHome"],
        "postgres_password_secret": VALUES["global"]["postgresqlSecretName"],
        "run_k8s_config": raw,
    }


@pytest.fixture(scope="module")
def rendered() -> dict[str, Any]:
    """Render the Job of one run as the launcher would send it."""
    k8s = pytest.importorskip("dagster_k8s", reason="dagster-k8s is not installed")
    import kubernetes
    from dagster._config import process_config, resolve_to_config_type
    from dagster_k8s.job import DagsterK8sJobConfig, UserDefinedDagsterK8sConfig, construct_dagster_k8s_job

    found = process_config(resolve_to_config_type(k8s.K8sRunLauncher.config_type()), launcher_config())
    assert found.success, found.errors
    fields = dict(found.value)
    raw = UserDefinedDagsterK8sConfig.from_dict(fields["run_k8s_config"])
    known = DagsterK8sJobConfig._fields
    config = DagsterK8sJobConfig(**{k: v for k, v in fields.items() if k in known})
    args = ["dagster", "api", "execute_run", "{}"]
    job = construct_dagster_k8s_job(config, args, "dagster-run-0", raw, "dagster-run-0", "run_worker")
    body: dict[str, Any] = kubernetes.client.ApiClient().sanitize_for_serialization(job)
    return {"apiVersion": "batch/v1", "kind": "Job"} | body


def test_the_launcher_takes_the_values_and_its_job_is_valid(rendered):
    validate(rendered)
    pod = rendered["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == "registry.example.org/perturbfm:0.1.0"
    assert {"name": "PERTURBFM_HOME", "value": "/store"} in container["env"]
    assert {"mountPath": "/store", "name": "store"} in container["volumeMounts"]
    assert container["resources"]["limits"] == {"cpu": "2", "memory": "4Gi"}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert pod["securityContext"]["runAsUser"] == 10001
    assert rendered["spec"]["ttlSecondsAfterFinished"] == 86400


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "template", "spec", "containers", 0, "volumeMount"), []),
        (("spec", "template", "spec", "restartPolicies"), "Never"),
        (("spec", "backoffLimit"), "many"),
    ],
)
def test_a_wrong_field_would_be_refused(rendered, path, value):
    schema = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    broken = copy.deepcopy(rendered)
    place = broken
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(schema.ValidationError):
        validate(broken)


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda f: f.name)
def test_manifests_are_valid(file):
    for manifest in yaml.safe_load_all(file.read_text()):
        validate(manifest)


def test_all_name_the_same_image_volume_and_user():
    texts = {f.name: f.read_text() for f in FILES}
    images = {
        m
        for text in texts.values()
        for m in re.findall(r"registry\.example\.org/perturbfm(?::([\d.]+))?", text)
    }
    assert images <= {"", "0.1.0"}
    assert {name for name, text in texts.items() if "perturbfm-store" not in text} == {"web.yaml"}
    assert re.search(r"USER (\d+):\1", (DEPLOY / "Dockerfile").read_text())[1] == "10001"


def test_only_the_read_only_web_server_is_reached():
    policy = yaml.safe_load((DEPLOY / "kubernetes/web.yaml").read_text())
    labels = policy["spec"]["podSelector"]["matchLabels"]
    # Those of the chart: the other web server's component is dagster-webserver-read-only.
    assert labels == {"app.kubernetes.io/instance": "perturbfm", "component": "dagster-webserver"}
    assert (policy["spec"]["policyTypes"], policy["spec"]["ingress"]) == (["Ingress"], [])
    assert VALUES["dagsterWebserver"]["enableReadOnly"] is True
    assert VALUES["ingress"]["enabled"] is False
    page = (REPO / "docs/kubernetes.md").read_text()
    assert page.index("kubernetes/web.yaml") < page.index("helm install")


def test_the_code_server_is_bounded_and_without_root():
    (server,) = VALUES["dagster-user-deployments"]["deployments"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "code-server"},
        "spec": {
            "securityContext": server["podSecurityContext"],
            "volumes": server["volumes"],
            "containers": [
                {key: server[key] for key in ("name", "env", "volumeMounts", "resources", "securityContext")}
            ],
        },
    }
    validate(pod)
    assert pod["spec"]["securityContext"] == LAUNCHER["runK8sConfig"]["podSpecConfig"]["securityContext"]
    assert set(server["resources"]) == {"requests", "limits"}
    # Else the chart hands them to every run.
    assert server["includeConfigInLaunchedRuns"] == {"enabled": False}


def test_the_job_runs_a_suite_that_exists():
    from perturbfm_core.catalog.loading import load_catalog

    job = yaml.safe_load((DEPLOY / "kubernetes/job.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["command"][:3] == ["perturbfm", "suite", "run"]
    assert container["command"][3] in load_catalog().suites


def test_versions_are_those_of_the_lock():
    lock = dict(
        line.split("==")
        for line in (REPO / ".ci/requirements.lock").read_text().splitlines()
        if "==" in line and "#" not in line
    )
    assert f"dagster/dagster {lock['dagster']})" in (DEPLOY / "kubernetes/values.yaml").read_text()
    pinned = dict(re.findall(r"(dagster-\w+)==([\d.]+)", (DEPLOY / "Dockerfile").read_text()))
    assert pinned["dagster-k8s"] == lock["dagster-k8s"] == pinned["dagster-postgres"]
