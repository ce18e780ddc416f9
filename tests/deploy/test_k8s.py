"""The manifests in deploy/k8s*: valid by Kubernetes' schema, and consistent with the image and the run file."""

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
BASE, READERS = ROOT / "deploy/k8s", ROOT / "deploy/k8s-readers"
Object = dict[str, Any]
RUN = {"app.kubernetes.io/name": "sideways", "app.kubernetes.io/instance": "demo"}
REDIS = RUN | {"app.kubernetes.io/name": "sideways-redis"}


class Manifests:
    """The objects of a folder's kustomization, as `kubectl apply -k` makes them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.kustomization = folder, read(folder / "kustomization.yaml")[0]
        self.files = [folder / name for name in self.kustomization["resources"]]
        self.objects = [found for file in self.files for found in _objects(file)]
        for patch in self.kustomization.get("patches", []):
            found = self.named(patch["target"]["kind"], patch["target"]["name"])
            text = (folder / patch["path"]).read_text() if "path" in patch else patch["patch"]
            for step in yaml.safe_load(text):
                change(found, **step)
        self.jobs = {
            found["metadata"]["name"].removeprefix("sideways-"): found
            for found in self.objects
            if found["kind"] == "Job"
        }
        self.workloads = [found for found in self.objects if found["kind"] in ("Job", "Deployment")]

    def named(self, kind: str, name: str) -> Object:
        (found,) = (entry for entry in self.objects if (entry["kind"], entry["metadata"]["name"]) == (kind, name))
        return found

    @property
    def config(self) -> Config:
        return parse(tomllib.loads(self.named("ConfigMap", "sideways-run")["data"]["run.toml"]), "run.toml")


def read(file: Path) -> list[Object]:
    return list(yaml.safe_load_all(file.read_text()))


def _objects(resource: Path) -> list[Object]:
    return Manifests(resource).objects if resource.is_dir() else read(resource)


def change(found: Any, op: str, path: str, value: Any) -> None:
    """A step of a JSON patch (RFC 6902): replace a value, or append to a list."""
    *places, last = path.removeprefix("/").split("/")
    for place in places:
        found = found[int(place) if isinstance(found, list) else place]
    if op == "add":
        assert last == "-"
        found.append(value)
    else:
        assert op == "replace"
        assert last in found
        found[last] = value


def pod(workload: Object) -> Object:
    return dict(workload["spec"]["template"]["spec"])


def container(workload: Object) -> Object:
    (only,) = pod(workload)["containers"]
    return dict(only)


def environment(job: Object) -> dict[str, str]:
    return {entry["name"]: entry.get("value", "") for entry in container(job)["env"]}


@pytest.fixture(params=[BASE, READERS], ids=lambda folder: folder.name)
def made(request: pytest.FixtureRequest) -> Manifests:
    return Manifests(request.param)


@pytest.mark.parametrize("version", ["1.31", kubernetes_validate.latest_version()])
def test_every_object_is_valid_by_the_schema(made: Manifests, version: str) -> None:
    for found in made.objects:
        assert kubernetes_validate.validate(found, version, strict=True) in version, found["metadata"]["name"]


def test_the_schema_rejects_unknown_fields() -> None:
    stage = Manifests(BASE).jobs["stage"]
    broken = stage | {"spec": stage["spec"] | {"completion": 4}}
    with pytest.raises(kubernetes_validate.ValidationError, match="completion"):
        kubernetes_validate.validate(broken, "1.31", strict=True)


def test_every_file_is_listed_and_kustomize_makes_the_same_objects(made: Manifests) -> None:
    patches = [made.folder / patch["path"] for patch in made.kustomization.get("patches", []) if "path" in patch]
    listed = {file for file in (*made.files, *patches) if file.is_file()}
    assert listed == set(made.folder.glob("*.yaml")) - {made.folder / "kustomization.yaml"}
    assert all(found["metadata"].get("namespace", "sideways") == "sideways" for found in made.objects)
    assert made.kustomization["images"] == Manifests(BASE).kustomization["images"]
    if not shutil.which("kubectl"):
        return
    command = ["kubectl", "kustomize", str(made.folder)]
    built = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    objects = {(found["kind"], found["metadata"]["name"]): found for found in yaml.safe_load_all(built)}
    assert objects == {(found["kind"], found["metadata"]["name"]): found for found in made.objects}


def test_the_run_file_is_valid_and_the_numbers_of_processes_agree(made: Manifests) -> None:
    config, jobs = made.config, made.jobs
    assert set(jobs) == {"coordinator", "stage"} | ({"reader"} if config.data.readers else set())
    for role, count in {"coordinator": 1, "stage": config.total_stages, "reader": config.data.readers}.items():
        if role in jobs:
            assert jobs[role]["spec"]["completions"] == jobs[role]["spec"]["parallelism"] == count
    assert {environment(job)["WORKERS"] for job in jobs.values()} == {str(config.total_stages)}
    assert {environment(job).get("READERS", "0") for job in jobs.values()} == {str(config.data.readers)}
    assert container(jobs["stage"])["resources"]["requests"]["cpu"] == str(config.threads)


def test_readers_feed_replicas_and_find_the_videos() -> None:
    made = Manifests(READERS)
    config, reader, coordinator = made.config, made.jobs["reader"], made.jobs["coordinator"]
    assert (config.replicas, config.data.readers) == (2, 2)
    assert pod(reader)["volumes"][0] == next(own for own in pod(coordinator)["volumes"] if own["name"] == "data")
    mounts = [entry for entry in container(coordinator)["volumeMounts"] if entry["name"] == "data"]
    assert container(reader)["volumeMounts"][0] == mounts[0] | {"readOnly": True}
    assert made.named("PersistentVolumeClaim", "sideways-data")["spec"]["accessModes"] == ["ReadWriteMany"]
    assert environment(reader).keys() == environment(made.jobs["stage"]).keys()


def test_the_jobs_fit_the_image(made: Manifests) -> None:
    jobs, config = made.jobs, made.config
    dockerfile = (ROOT / "deploy/Dockerfile").read_text()
    member = (ROOT / "deploy/member.sh").read_text()
    assert 'ENTRYPOINT ["/usr/local/bin/member"]' in dockerfile
    user = int(re.findall(r"--uid (\d+)", dockerfile)[0])
    for role, job in jobs.items():
        assert "command" not in container(job)
        assert container(job)["args"][0] == role
        assert pod(job)["securityContext"]["runAsUser"] == user
        own = set(environment(job)) - {"REDIS_URL", "REDIS_PASSWORD_FILE"}
        assert own <= set(re.findall(r"[A-Z_]{6,}", member))
    mounts = {entry["name"]: entry["mountPath"] for entry in container(jobs["coordinator"])["volumeMounts"]}
    assert container(jobs["coordinator"])["args"][1] == f"{mounts['run']}/run.toml"
    assert mounts["runs"] == f"/work/{config.runs}"
    assert "WORKDIR /work\n" in dockerfile
    assert environment(jobs["coordinator"])["REDIS_PASSWORD_FILE"].startswith(mounts["redis"] + "/")


def test_all_members_use_the_coordinators_rendezvous_address(made: Manifests) -> None:
    jobs, named, config = made.jobs, made.named, made.config
    service = named("Service", "sideways")
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"]  # the coordinator becomes ready only after the rendezvous
    ports = {entry["name"]: entry["containerPort"] for entry in container(jobs["coordinator"])["ports"]}
    place = f"{jobs['coordinator']['metadata']['name']}-0.{service['metadata']['name']}:{ports['meeting']}"
    assert {environment(job)["MEETING"] for job in jobs.values()} == {place}
    assert {entry["name"]: entry["port"] for entry in service["spec"]["ports"]} == ports
    for role, job in jobs.items():
        assert job["spec"]["completionMode"] == "Indexed"
        assert pod(job)["subdomain"] == service["metadata"]["name"]
        if role == "reader":  # the coordinator has its metrics
            assert not {"ports", "readinessProbe", "livenessProbe"} & container(job).keys()
            continue
        metrics = {entry["name"]: entry["containerPort"] for entry in container(job)["ports"]}["metrics"]
        assert metrics == config.metrics.port + (role == "stage")
        waits = container(job)["livenessProbe"]
        assert waits["periodSeconds"] * waits["failureThreshold"] > int(environment(job)["PATIENCE"])
    redis = named("Service", "sideways-redis")
    address = f"redis://{redis['metadata']['name']}:{redis['spec']['ports'][0]['port']}/0"
    assert environment(jobs["coordinator"])["REDIS_URL"] == address


def test_labels_and_volumes_agree(made: Manifests) -> None:
    named = made.named
    for workload in made.workloads:
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


def test_pods_have_no_unneeded_privileges(made: Manifests) -> None:
    """As the namespace enforces (restricted Pod Security Standard), with a read-only root file system."""
    for workload in made.workloads:
        without_privileges(workload)


def without_privileges(workload: Object) -> None:
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


def test_network_policies_admit_only_members_and_scrapers(made: Manifests) -> None:
    jobs, named, config = made.jobs, made.named, made.config
    policy = named("NetworkPolicy", "sideways")["spec"]
    assert policy["podSelector"]["matchLabels"] == RUN
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    members, scraping = policy["ingress"]
    assert members == {"from": [{"podSelector": {"matchLabels": RUN}}]}
    assert [list(entry) for entry in scraping["from"]] == [["namespaceSelector"]]
    assert {entry["port"] for entry in scraping["ports"]} == {config.metrics.port, config.metrics.port + 1}
    to_members, to_redis, to_names = policy["egress"]
    assert to_members == {"to": [{"podSelector": {"matchLabels": RUN}}]}
    assert to_redis["to"] == [{"podSelector": {"matchLabels": REDIS}}]
    assert {(entry["port"], entry.get("protocol")) for entry in to_names["ports"]} == {(53, "UDP"), (53, "TCP")}
    redis = named("NetworkPolicy", "sideways-redis")["spec"]
    assert redis["podSelector"]["matchLabels"] == REDIS
    assert redis["egress"] == []
    coordinator = jobs["coordinator"]["spec"]["template"]["metadata"]["labels"]
    assert redis["ingress"] == [{"from": [{"podSelector": {"matchLabels": coordinator}}], "ports": [{"port": 6379}]}]


def policy_rules(job: Object) -> Iterator[tuple[str, Any]]:
    for rule in job["spec"]["podFailurePolicy"]["rules"]:
        yield rule["action"], rule.get("onExitCodes", {}).get("values")


def test_a_configuration_error_fails_the_job_without_a_retry(made: Manifests) -> None:
    from common.errors import ConfigError

    for role, job in made.jobs.items():
        refuses = [("FailJob", [ConfigError.code])] if role == "coordinator" else []
        assert list(policy_rules(job)) == [("Ignore", None), *refuses]
        assert pod(job)["restartPolicy"] == "Never"  # both need it
        assert job["spec"]["backoffLimitPerIndex"] > 0
