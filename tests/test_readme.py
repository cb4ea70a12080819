"""README.md does what it says: its blocks are run as they stand, in order, in an empty folder."""

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO_ROOT

from data_jobs.make_sample import MakeSample
from data_jobs.make_sample import run as make_sample
from serve_app.settings import Environment, ServeArgs

README = (REPO_ROOT / "README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)


def test_the_ten_lines_of_python(best_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "demo_output" / "model").mkdir(parents=True)
    (tmp_path / "demo_output" / "model" / "best_model").symlink_to(best_model)
    make_sample(MakeSample(20, tmp_path / "demo_output" / "catalogue", size=64))
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    assert printed.getvalue().count("Verdict(is_mismatch=") == 2


def test_the_jobs_and_the_service(server: str, tmp_path: Path) -> None:
    """The bash blocks; the curl lines go to the test server instead of port 8000."""
    jobs, requests = blocks("bash")
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "RAY_ADDRESS": ""}
    environment.pop("RAY_ADDRESS")

    def bash(script: str) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    printed = bash(jobs)
    assert "206 pairs read = 200 written + 6 rejected" in printed
    assert (tmp_path / "evaluation" / "metrics.json").is_file()
    assert (tmp_path / "index" / "CURRENT").is_file()
    answers = bash(requests.replace("http://127.0.0.1:8000", server))
    for field in ('"is_mismatch"', '"top_matches"', '"embedding"', '"hits"'):
        assert field in answers
    assert '"error"' not in answers


def test_the_settings_table_is_complete() -> None:
    table = README.split("### Settings")[1].split("\n## ")[0]
    named = {
        name
        for line in table.splitlines()
        if line.startswith("| ")
        for name in line[2:].split(" |")[0].split(", ")
    }
    assert named - {"`args`", "| CLIP_DEBUG"} == set(ServeArgs.model_fields)
    for name in Environment.model_fields:
        assert name.upper() in table


def test_every_file_it_points_to_exists() -> None:
    for path in re.findall(r"`((?:tests|data_jobs|train_jobs|serve_app|benchmarks)/[\w./]+\.\w+)`", README):
        assert (REPO_ROOT / path).is_file(), path
    for name in (
        "LICENSE",
        "CHANGELOG.md",
        "cluster.yaml",
        "serve_config.yaml",
        "constraints.txt",
        "Makefile",
    ):
        assert (REPO_ROOT / name).is_file()


def test_no_number_was_left_open() -> None:
    assert not re.search(r"\b(NUMBERS|TITLES|HOP|TODO)\b", README)
