"""The manifests in deploy/k8s: valid by Kubernetes' schema, and consistent with the image and the run file."""

import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from common.config.run_file import parse
from common.config.settings import Config

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "deploy/k8s"
Object = dict[str, Any]
RUN = {"app.kubernetes.io/name": "sideways", "app.kubernetes.io/instance": "demo"}
REDIS = RUN | {"app.kubernetes.io/name": "sideways-redis"}


def read(name: str) -> list[Object]:
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


LISTED: list[str] = read("kustomization.yaml")[0]["resources"]
OBJECTS = [found for name in LISTED for found in read(name)]
WORKLOADS = [found for found in OBJECTS if found["kind"] in ("Job", "Deployment")]


def named(kind: str, name: str) -> Object:
    (found,) = (entry for entry in OBJECTS if (entry["kind"], entry["metadata"]["name"]) == (kind, name))
    return found


def pod(workload: Object) -> Object:
    return dict(workload["spec"]["template"]["spec"])


def container(workload: Object) -> Object:
    (only,) = pod(workload)["containers"]
    return dict(only)


def environment(job: Object) -> dict[str, str]:
    return {entry["name"]: entry.get("value", "") for entry in container(job)["env"]}


def config() -> Config:
    return parse(tomllib.loads(named("ConfigMap", "sideways-run")["data"]["run.toml"]), "run.toml")


JOBS = {role: named("Job", f"sideways-{role}") for role in ("coordinator", "stage")}


@pytest.mark.parametrize("version", ["1.31", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("found", OBJECTS, ids=lambda found: f"{found['kind']}-{found['metadata']['name']}")
def test_every_object_is_valid_by_the_schema(found: Object, version: str) -> None:
    assert kubernetes_validate.validate(found, version, strict=True) in version


def test_the_schema_rejects_unknown_fields() -> None:
    broken = JOBS["stage"] | {"spec": JOBS["stage"]["spec"] | {"completion": 4}}
    with pytest.raises(kubernetes_validate.ValidationError, match="completion"):
        kubernetes_validate.validate(broken, "1.31", strict=True)


def test_every_file_is_listed_and_kustomize_changes_no_object() -> None:
    assert sorted(LISTED) == sorted({file.name for file in FOLDER.glob("*.yaml")} - {"kustomization.yaml"})
    assert all(found["metadata"].get("namespace", "sideways") == "sideways" for found in OBJECTS)
    if not shutil.which("kubectl"):
        return
    built = subprocess.run(["kubectl", "kustomize", str(FOLDER)], check=True, capture_output=True, text=True).stdout
    made = {(found["kind"], found["metadata"]["name"]): found for found in yaml.safe_load_all(built)}
    assert made == {(found["kind"], found["metadata"]["name"]): found for found in OBJECTS}


def test_the_run_file_is_valid_and_the_numbers_of_workers_agree() -> None:
    workers = config().workers
    assert JOBS["stage"]["spec"]["completions"] == JOBS["stage"]["spec"]["parallelism"] == workers
    assert {environment(job)["WORKERS"] for job in JOBS.values()} == {str(workers)}
    assert JOBS["coordinator"]["spec"]["completions"] == 1
    assert container(JOBS["stage"])["resources"]["requests"]["cpu"] == str(config().threads)


def test_the_jobs_fit_the_image() -> None:
    dockerfile = (ROOT / "deploy/Dockerfile").read_text()
    member = (ROOT / "deploy/member.sh").read_text()
    assert 'ENTRYPOINT ["/usr/local/bin/member"]' in dockerfile
    user = int(re.findall(r"--uid (\d+)", dockerfile)[0])
    for role, job in JOBS.items():
        assert "command" not in container(job)
        assert container(job)["args"][0] == role
        assert pod(job)["securityContext"]["runAsUser"] == user
        own = set(environment(job)) - {"REDIS_URL", "REDIS_PASSWORD_FILE"}
        assert own <= set(re.findall(r"[A-Z_]{6,}", member))
    mounts = {entry["name"]: entry["mountPath"] for entry in container(JOBS["coordinator"])["volumeMounts"]}
    assert container(JOBS["coordinator"])["args"][1] == f"{mounts['run']}/run.toml"
    assert mounts["runs"] == f"/work/{config().runs}"
    assert "WORKDIR /work\n" in dockerfile
    assert environment(JOBS["coordinator"])["REDIS_PASSWORD_FILE"].startswith(mounts["redis"] + "/")


def test_all_members_use_the_coordinators_rendezvous_address() -> None:
    service = named("Service", "sideways")
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"]  # the coordinator becomes ready only after the rendezvous
    ports = {entry["name"]: entry["containerPort"] for entry in container(JOBS["coordinator"])["ports"]}
    place = f"{JOBS['coordinator']['metadata']['name']}-0.{service['metadata']['name']}:{ports['meeting']}"
    assert {environment(job)["MEETING"] for job in JOBS.values()} == {place}
    assert {entry["name"]: entry["port"] for entry in service["spec"]["ports"]} == ports
    for role, job in JOBS.items():
        assert job["spec"]["completionMode"] == "Indexed"
        assert pod(job)["subdomain"] == service["metadata"]["name"]
        metrics = {entry["name"]: entry["containerPort"] for entry in container(job)["ports"]}["metrics"]
        assert metrics == config().metrics.port + (role == "stage")
        waits = container(job)["livenessProbe"]
        assert waits["periodSeconds"] * waits["failureThreshold"] > int(environment(job)["PATIENCE"])
    redis = named("Service", "sideways-redis")
    address = f"redis://{redis['metadata']['name']}:{redis['spec']['ports'][0]['port']}/0"
    assert environment(JOBS["coordinator"])["REDIS_URL"] == address


def test_labels_and_volumes_agree() -> None:
    for workload in WORKLOADS:
        labels = workload["spec"]["template"]["metadata"]["labels"]
        selected = workload["spec"].get("selector", {"matchLabels": labels})["matchLabels"]
        assert (RUN if workload["kind"] == "Job" else REDIS).items() <= labels.items()
        assert selected.items() <= labels.items()
        volumes = {entry["name"]: entry for entry in pod(workload)["volumes"]}
        assert {entry["name"] for entry in container(workload)["volumeMounts"]} == set(volumes)
        for volume in volumes.values():
            if claim := volume.get("persistentVolumeClaim"):
                assert named("PersistentVolumeClaim", claim["claimName"])
            assert volume.get("secret", {}).get("secretName", "sideways-redis") == "sideways-redis"
            assert volume.get("configMap", {}).get("name", "sideways-run") == "sideways-run"
    assert named("Service", "sideways")["spec"]["selector"] == RUN
    assert named("Service", "sideways-redis")["spec"]["selector"] == REDIS
    assert named("PersistentVolumeClaim", "sideways-runs")["spec"]["accessModes"] == ["ReadWriteMany"]


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda found: found["metadata"]["name"])
def test_pods_have_no_unneeded_privileges(workload: Object) -> None:
    """As the namespace enforces (restricted Pod Security Standard), with a read-only root file system."""
    outer, inner = pod(workload)["securityContext"], container(workload)["securityContext"]
    assert outer["runAsNonRoot"]
    assert outer["runAsUser"] > 0
    assert outer["seccompProfile"] == {"type": "RuntimeDefault"}
    assert inner == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert not pod(workload)["automountServiceAccountToken"]
    assert "memory" in container(workload)["resources"]["limits"]
    allowed = {"configMap", "emptyDir", "persistentVolumeClaim", "secret", "name"}
    assert all(set(entry) <= allowed for entry in pod(workload)["volumes"])


def test_network_policies_admit_only_members_and_scrapers() -> None:
    policy = named("NetworkPolicy", "sideways")["spec"]
    assert policy["podSelector"]["matchLabels"] == RUN
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    members, scraping = policy["ingress"]
    assert members == {"from": [{"podSelector": {"matchLabels": RUN}}]}
    assert [list(entry) for entry in scraping["from"]] == [["namespaceSelector"]]
    assert {entry["port"] for entry in scraping["ports"]} == {config().metrics.port, config().metrics.port + 1}
    to_members, to_redis, to_names = policy["egress"]
    assert to_members == {"to": [{"podSelector": {"matchLabels": RUN}}]}
    assert to_redis["to"] == [{"podSelector": {"matchLabels": REDIS}}]
    assert {(entry["port"], entry.get("protocol")) for entry in to_names["ports"]} == {(53, "UDP"), (53, "TCP")}
    redis = named("NetworkPolicy", "sideways-redis")["spec"]
    assert redis["podSelector"]["matchLabels"] == REDIS
    assert redis["egress"] == []
    coordinator = JOBS["coordinator"]["spec"]["template"]["metadata"]["labels"]
    assert redis["ingress"] == [{"from": [{"podSelector": {"matchLabels": coordinator}}], "ports": [{"port": 6379}]}]


def policy_rules(job: Object) -> Iterator[tuple[str, Any]]:
    for rule in job["spec"]["podFailurePolicy"]["rules"]:
        yield rule["action"], rule.get("onExitCodes", {}).get("values")


def test_a_configuration_error_fails_the_job_without_a_retry() -> None:
    from common.errors import ConfigError

    assert list(policy_rules(JOBS["coordinator"])) == [("Ignore", None), ("FailJob", [ConfigError.code])]
    assert list(policy_rules(JOBS["stage"])) == [("Ignore", None)]
    for job in JOBS.values():
        assert pod(job)["restartPolicy"] == "Never"  # both need it
        assert job["spec"]["backoffLimitPerIndex"] > 0
