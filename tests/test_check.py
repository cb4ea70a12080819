"""check: what is wrong with a configuration is told in a line, and what is right passes."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPO_ROOT, free_port

from data_jobs.errors import InputError
from serve_app.check import Check, run


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # where there is no .env
    for name in [name for name in os.environ if name.startswith(("CLIP_", "RAY_SERVE_"))]:
        monkeypatch.delenv(name)


def configured(folder: Path, port: int = 8000, **args: Any) -> Path:
    """serve_config.yaml with these `args`, and its own besides."""
    config = yaml.safe_load((REPO_ROOT / "serve_config.yaml").read_text())
    config["http_options"]["port"] = port
    config["applications"][0]["args"] |= args
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def refused(config: Check) -> InputError:
    with pytest.raises(InputError) as refusal:
        run(config)
    return refusal.value


def test_the_configuration_of_the_project_is_sound_with_a_model(
    best_model: Path, built_index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(Check(configured(tmp_path, free_port(), model=str(best_model), index=str(built_index)), ports=True))
    assert capsys.readouterr().out.endswith("config.yaml is sound\n")


def test_a_setting_that_is_none_is_told_with_its_neighbour(tmp_path: Path) -> None:
    error = refused(Check(configured(tmp_path, bach_size=3)))
    assert (error.message, error.suggestion) == (
        "There is no setting 'bach_size'.",
        "Do you mean batch_size?",
    )


def test_an_index_that_is_not_there(best_model: Path, tmp_path: Path) -> None:
    error = refused(Check(configured(tmp_path, model=str(best_model), index="nowhere")))
    assert error.code == "not_an_index"


def test_a_port_that_is_taken(best_model: Path, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        config = configured(tmp_path, port, model=str(best_model))
        error = refused(Check(config, ports=True))
        run(Check(config))  # beside a service that runs
    assert error.code == "port_in_use"
    assert f"Port {port} of 127.0.0.1" in error.message
    assert "http_options.port" in error.suggestion


def test_ports_of_haproxy_are_checked_where_it_is_used(
    best_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Check(configured(tmp_path, free_port(), model=str(best_model)), ports=True)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setenv("RAY_SERVE_HAPROXY_STATS_PORT", str(other.getsockname()[1]))
        monkeypatch.setenv("RAY_SERVE_HAPROXY_METRICS_PORT", str(free_port()))
        run(config)
        monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "1")
        assert "RAY_SERVE_HAPROXY_STATS_PORT" in refused(config).suggestion


@pytest.mark.parametrize("content", ["applications: 3", "[", "http_options: {port: x}\napplications: []"])
def test_what_is_no_configuration(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.yaml").write_text(content)
    error = refused(Check(tmp_path / "config.yaml"))
    assert error.code == "bad_config"


def test_the_command_ends_with_2_and_a_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "serve_app.check", "--config", str(configured(tmp_path, model="./nowhere"))],
        cwd=REPO_ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "error (model_not_found): There is no directory ./nowhere.\n  Check the path.\n"
