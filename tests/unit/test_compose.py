"""What runs us elsewhere: the Compose file, the Dockerfile and the CloudFormation templates keep what docs/deploy.md promises."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.base.settings import PREFIX, Settings
from pipeline.observe.health import KINDS
from pipeline.sources.s3 import provision

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
TEMPLATES = sorted([*ROOT.glob("deploy/aws/*.yaml"), *ROOT.glob("deploy/ecs/*.yaml")])
OURS = {"watcher": "watch", **{kind: kind for kind in KINDS if kind != "watch"}}
"""Compose service → the kind of process in it."""


def run(program: str, *arguments: str, **environment: str) -> str:
    """The program that is installed beside this Python. Fails the test with what it printed."""
    command = [str(Path(sys.executable).with_name(program)), *arguments]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def composed(**environment: str) -> dict[str, Any]:
    """The Compose file as the real client understands it, profiles included."""
    answer = run("docker-compose", "--file", str(COMPOSE), "--profile", "*", "config", "--format", "json", **environment)
    return json.loads(answer)


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    return composed()["services"]


# The Compose file -------------------------------------------------------------------------------------------------


def test_the_compose_file_follows_the_specification() -> None:
    run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE))


def test_every_process_of_the_pipeline_has_a_service(services: dict[str, dict[str, Any]]) -> None:
    assert set(services) == {"redis", "localstack", "search", *OURS}


def test_no_service_may_do_more_than_it_must(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert not {"cap_add", "privileged"} & set(service), name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"]), f"{name} runs as root"
        assert int(service["mem_limit"]) > 0, name
        assert service["pids_limit"] > 0, name


def test_nothing_is_reached_from_another_machine(services: dict[str, dict[str, Any]]) -> None:
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published
    assert {port["host_ip"] for port in published} == {"127.0.0.1"}


def test_every_image_is_pinned_and_ours_is_one(services: dict[str, dict[str, Any]]) -> None:
    images = {name: service["image"] for name, service in services.items()}
    for image in images.values():
        assert re.search(r":\d", image), f"{image} floats"
    assert len({images[name] for name in [*OURS, "search"]}) == 1


def test_every_service_is_checked_by_its_own_health(services: dict[str, dict[str, Any]]) -> None:
    for name, kind in OURS.items():
        assert services[name]["healthcheck"]["test"] == ["CMD", "dropdex", "health", kind]
    for name in ("redis", "localstack"):
        assert services[name]["healthcheck"]["test"][0] == "CMD-SHELL"


def test_services_start_when_what_they_need_is_healthy(services: dict[str, dict[str, Any]]) -> None:
    for name in OURS:
        needs = services[name]["depends_on"]
        assert {"redis", "localstack"} <= set(needs), name
        assert {need["condition"] for need in needs.values()} == {"service_healthy"}
    assert {"embedding", "indexing"} <= set(services["watcher"]["depends_on"])


def test_every_variable_of_ours_is_a_setting(services: dict[str, dict[str, Any]]) -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for service in services.values():
        assert {name for name in service.get("environment", {}) if name.startswith(PREFIX)} <= known


def test_one_variable_scales_the_workers_and_tells_the_watcher() -> None:
    services = composed(EMBEDDING_WORKERS="3")["services"]
    assert services["embedding"]["deploy"]["replicas"] == 3
    assert services["watcher"]["environment"]["DROPDEX_WORKERS"] == "3"


def test_the_password_of_redis_reaches_server_clients_and_health_check() -> None:
    services = composed(REDIS_PASSWORD="opensesame")["services"]
    assert "opensesame" in services["redis"]["command"]
    assert services["redis"]["environment"]["REDISCLI_AUTH"] == "opensesame"
    assert "redis://:opensesame@redis:6379/" in services["watcher"]["environment"]["DROPDEX_BROKER"]


def test_redis_keeps_what_it_was_told(services: dict[str, dict[str, Any]]) -> None:
    options = " ".join(services["redis"]["command"])
    assert "--appendonly yes --appendfsync everysec" in options
    assert "--maxmemory-policy noeviction" in options
    assert [(mount["type"], mount["target"]) for mount in services["redis"]["volumes"]] == [("volume", "/data")]


def test_localstack_makes_the_buckets_and_the_queue_that_we_use(services: dict[str, dict[str, Any]]) -> None:
    made, used = services["localstack"]["environment"], services["watcher"]["environment"]
    assert used["DROPDEX_SOURCES"] == f"s3://{made['PROVISION_BUCKET']}?queue={made['PROVISION_QUEUE']}"
    assert used["DROPDEX_INDEX"].startswith(f"s3://{made['PROVISION_INDEX']}/")
    mounted = {mount["target"]: Path(mount["source"]) for mount in services["localstack"]["volumes"]}
    assert mounted["/opt/dropdex/provision.py"] == Path(provision.__file__)
    assert os.access(mounted["/etc/localstack/init/ready.d"] / "provision.sh", os.X_OK)


def test_localstack_keeps_its_buckets_and_queues_in_a_volume(services: dict[str, dict[str, Any]]) -> None:
    localstack = services["localstack"]
    mounts = {mount["target"]: mount for mount in localstack["volumes"]}
    (volume,) = [target for target, mount in mounts.items() if mount["type"] == "volume"]
    assert localstack["environment"]["KEEP_STATE"].startswith(f"{volume}/")
    assert not any(volume.startswith(entry.partition(":")[0]) for entry in localstack["tmpfs"])
    assert (Path(mounts["/etc/localstack/init/start.d"]["source"]) / "keep.py").is_file()


def test_the_tour_kills_every_service_that_up_starts(services: dict[str, dict[str, Any]]) -> None:
    tour = runpy.run_path(str(ROOT / "tests" / "compose" / "tour.py"))
    assert set(tour["SERVICES"]) == {name for name, service in services.items() if not service.get("profiles")}
    localstack = services["localstack"]["environment"]
    assert tour["QUEUES"] == (localstack["PROVISION_QUEUE"], f"{localstack['PROVISION_QUEUE']}-dead-letters")


# The image --------------------------------------------------------------------------------------------------------


def test_the_dockerfile_is_clean() -> None:
    run("hadolint", "Dockerfile")


def test_the_image_is_pinned_and_not_root() -> None:
    text = (ROOT / "Dockerfile").read_text()
    bases = re.findall(r"^ARG PYTHON_IMAGE=(\S+)|^FROM (?!\$\{PYTHON_IMAGE\})(\S+)", text, re.MULTILINE)
    assert bases == [("python:3.11-slim-bookworm", "")]
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE) == ["10001:10001"]


# The templates ----------------------------------------------------------------------------------------------------


class _Template(yaml.SafeLoader):
    """Reads CloudFormation's short forms as what stands behind their tag."""


def _behind_tag(loader: yaml.SafeLoader, _: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return loader.construct_scalar(node)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    assert isinstance(node, yaml.MappingNode)
    return loader.construct_mapping(node, deep=True)


_Template.add_multi_constructor("!", _behind_tag)


def template(name: str) -> dict[str, Any]:
    return yaml.load((ROOT / "deploy" / name).read_text(), _Template)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_templates_are_clean(path: Path) -> None:
    run("cfn-lint", str(path))


def test_every_kind_runs_on_ecs_and_beat_never_twice() -> None:
    nested = [r["Properties"] for r in template("ecs/dropdex.yaml")["Resources"].values() if r["Type"] == "AWS::CloudFormation::Stack"]
    parameters = {stack["Parameters"]["Kind"]: stack["Parameters"] for stack in nested if "Kind" in stack["Parameters"]}
    assert set(parameters) == set(KINDS)
    assert (parameters["beat"]["MinimumHealthyPercent"], parameters["beat"]["MaximumPercent"]) == (0, 100)
    assert {kind for kind, given in parameters.items() if "TaskRoleArn" not in given} == {"beat", "flower"}


def test_a_container_on_ecs_may_do_no_more_than_one_of_compose() -> None:
    task = template("ecs/service.yaml")["Resources"]["TaskDefinition"]["Properties"]
    (container,) = task["ContainerDefinitions"]
    assert container["ReadonlyRootFilesystem"] is True
    assert container["LinuxParameters"]["Capabilities"] == {"Drop": ["ALL"]}
    assert container["User"] == "10001:10001"
    assert container["HealthCheck"]["Command"] == ["CMD", "dropdex", "health", "Kind"]
    declared = re.findall(r"^VOLUME (\[.*\])", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert [mount["ContainerPath"] for mount in container["MountPoints"]] == json.loads(declared[0])  # else root owns them
    names = {entry["Name"] for entry in [*container["Environment"], container["Secrets"][0]] if entry["Name"].startswith(PREFIX)}
    assert names <= {PREFIX + name.upper() for name in Settings.model_fields}
