"""The image and the compose file, as far as can be seen where no container runs."""

from __future__ import annotations

import ctypes
import json
import re
import shlex
import subprocess
import sys
import tomllib
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from infra import health
from pipeline.job import Job
from tests.pipeline.servers import Answer, serving

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
COMPOSE: dict[str, Any] = yaml.safe_load((INFRA / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
INSTRUCTIONS = [
    line.split(maxsplit=1)
    for line in re.sub(r"\\\n", " ", (INFRA / "Dockerfile").read_text()).splitlines()
    if line and not line.startswith("#")
]


def instructions(name: str) -> list[str]:
    return [rest for found, rest in INSTRUCTIONS if found == name]


def copied() -> set[str]:
    """What the image has of the project."""
    return {
        source
        for copy in instructions("COPY")
        if not copy.startswith("--from")
        for source in copy.split()[:-1]
    }


def test_the_dockerfile_has_no_faults() -> None:
    ended = subprocess.run(
        [Path(sys.executable).parent / "hadolint", INFRA / "Dockerfile"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout


def test_the_image_is_pinned_checked_and_not_roots() -> None:
    first, last = (base.split() for base in instructions("FROM"))
    assert first[0] == last[0]
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", last[0])
    (install,) = [run for run in instructions("RUN") if "pip install" in run]
    assert "--constraint constraints.txt" in install
    assert instructions("USER") == ["1000:1000"]
    assert instructions("HEALTHCHECK")[0].endswith('["python", "-m", "infra.health"]')


def test_what_the_image_has_is_there_and_all_that_is_needed() -> None:
    allowed = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    assert copied() == allowed
    assert [name for name in copied() if not (ROOT / name).exists()] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {package.rstrip("*") for package in packages} < copied()


@pytest.mark.parametrize(
    ("given", "started"),
    [
        ("run /photos --style wave", "restyle run /photos --style wave"),
        ("--help", "restyle --help"),
        ("prefect flow-run execute", "prefect flow-run execute"),
    ],
)
def test_a_container_starts_restyle_or_what_prefect_wants(
    given: str, started: str, tmp_path: Path
) -> None:
    for program in ("restyle", "prefect"):
        (tmp_path / program).write_text(f"#!/bin/sh\necho {program} $@\n")
        (tmp_path / program).chmod(0o755)
    entrypoint = json.loads(instructions("ENTRYPOINT")[0])
    (script,) = [part.replace("/app", str(ROOT)) for part in entrypoint if part != "sh"]
    said = subprocess.run(
        ["/bin/sh", script, *given.split()],
        env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout.strip() == started


def test_the_compose_files_are_of_the_specification() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec",
         *INFRA.glob("compose*.yaml")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout


def test_services_wait_for_what_says_when_it_is_ready() -> None:
    for service in SERVICES.values():
        assert re.search(r":v?\d+\.\d+[^:]*$|^restyle:cpu$", service["image"])
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in COMPOSE["volumes"]
        for name, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[name]
            else:
                assert how["condition"] == "service_completed_successfully"
                assert "restart" not in SERVICES[name]


def test_every_secret_has_an_example_and_no_default() -> None:
    text = (INFRA / "compose.yaml").read_text()
    variables = set(re.findall(r"\$\{?(\w+)", text))
    assert variables == set(re.findall(r"\$\{(\w+):\?", text))
    assert variables == set(re.findall(r"^(\w+)=.", (INFRA / ".env.example").read_text(), re.M))
    assert "/infra/.env" in (ROOT / ".gitignore").read_text().splitlines()
    assert "infra/.env" in (ROOT / ".dockerignore").read_text().splitlines()


def test_the_deployment_of_the_compose_file_is_a_job_of_files_in_the_image() -> None:
    script = SERVICES["deploy"]["command"][-1]
    words = shlex.split(script)
    job = Job.model_validate(json.loads(words[words.index("--params") + 1])["job"])
    assert job.source.startswith("s3://photos/")
    files = re.findall(rf"\b(?:{'|'.join(copied())})/[\w./-]+", script)
    assert set(files) == {"pipeline/styles/sample.jpg", "infra/prefect.yaml"}
    assert [file for file in files if not (ROOT / file).is_file()] == []


@pytest.mark.parametrize(("status", "well"), [(200, True), (503, False)])
def test_a_worker_that_does_not_poll_is_unhealthy(
    status: int, well: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(request: BaseHTTPRequestHandler, body: bytes) -> Answer:
        return status, {}, b""

    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cmdline").write_bytes(b"python\0prefect\0worker\0start\0--pool\0restyle\0")
    monkeypatch.setattr(health, "PROCESSES", tmp_path)
    with serving(answer) as server:
        monkeypatch.setenv("PREFECT_WORKER_WEBSERVER_PORT", server.url.rsplit(":", 1)[1])
        assert (health.ailment() == "") is well
    assert "does not poll" in health.ailment()  # nothing answers at all


def test_a_gpu_that_was_lost_is_unhealthy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "PROCESSES", tmp_path)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(cuInit=lambda flags: 999))
    assert health.ailment() == ""  # there never was one
    monkeypatch.setattr(health, "GPU", tmp_path)
    assert health.ailment() == "the GPU does not answer: CUDA error 999"
