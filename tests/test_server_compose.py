"""`docker-compose.yml` and `Dockerfile`: every service, option and file they name exists."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))


def test_services_refer_to_what_is_there(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert set(services) == {"database", "server", "gpu-worker", "cpu-worker"}
    for name, service in services.items():
        assert set(service.get("depends_on", {})) <= set(services), name
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source.startswith("./") or source in compose["volumes"], name
    gpu = services["gpu-worker"]["deploy"]["resources"]["reservations"]["devices"][0]
    assert gpu["capabilities"] == ["gpu"] and services["cpu-worker"]["deploy"]["replicas"] == 0
    assert all(port.startswith("127.0.0.1:") for port in services["server"]["ports"])


def test_the_options_of_the_command_lines_exist(compose: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    from videogen.cli import main

    assert main(["serve", "--help"]) == 0
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    used = set(re.findall(r'"(--[a-z-]+)"', dockerfile))
    for service in compose["services"].values():
        used |= {option.split("=")[0] for option in service.get("command", ())}
    assert used and used <= known
    # it listens on every address
    assert "--api-key-file=/run/keys/keys.json" in compose["services"]["server"]["command"]


def test_the_key_file_is_seen_when_it_is_written_anew(compose: dict[str, Any]) -> None:
    # `videogen keys` puts a new file in the old one's place; a mount of the file alone would go on showing the old one
    (option,) = [one for one in compose["services"]["server"]["command"] if one.startswith("--api-key-file=")]
    folder, _, name = option.partition("=")[2].rpartition("/")
    header = (ROOT / "docker-compose.yml").read_text(encoding="utf-8").partition("\nx-server")[0]
    guide = (ROOT / "docs" / "server.md").read_text(encoding="utf-8")
    assert f"./keys:{folder}:ro" in compose["services"]["server"]["volumes"]
    for text in (header, guide):
        assert f"videogen keys add me --file keys/{name}" in text


def test_the_dockerfile_copies_what_there_is() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    instructions = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
    assert instructions[0] == "FROM" and set(instructions) <= {
        "FROM", "ARG", "RUN", "WORKDIR", "COPY", "USER", "VOLUME", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD",
    }  # fmt: skip
    for line in lines:
        if line.startswith("COPY"):
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), source
    assert "USER videogen" in lines


def test_docker_compose_accepts_it(tmp_path: Path) -> None:
    if shutil.which("docker-compose"):
        command = ["docker-compose"]
    elif (
        shutil.which("docker") and subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0
    ):
        command = ["docker", "compose"]
    else:
        pytest.skip("neither docker-compose nor the compose plugin is installed")
    environment = {**os.environ, "POSTGRES_PASSWORD": "x"}
    arguments = [*command, "-f", str(ROOT / "docker-compose.yml"), "config", "-q"]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    del environment["POSTGRES_PASSWORD"]
    assert subprocess.run(arguments, cwd=tmp_path, capture_output=True, env=environment).returncode != 0
