"""The rules of the house: who may import whom, what is a library and what is a job."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {"data_jobs": set(), "train_jobs": {"data_jobs"}, "serve_app": {"data_jobs", "train_jobs"}}
"""Package -> the others that it may import."""
JOBS = {
    "data_jobs.ingest", "data_jobs.make_mismatches", "data_jobs.make_sample", "data_jobs.split", "data_jobs.validate",
    "train_jobs.build_index", "train_jobs.calibrate", "train_jobs.compare", "train_jobs.embed", "train_jobs.evaluate",
    "train_jobs.export", "train_jobs.finetune",
    "serve_app.check", "serve_app.demo",
}  # fmt: skip
KNOW_RAY = JOBS | {
    "data_jobs.session",  # how jobs reach Ray
    "data_jobs.stream",  # how the verbs that read raw files use it
    "train_jobs.fit",  # how finetune uses it
    "train_jobs.indexing",  # how the verbs that make an index use it
    "serve_app.app", "serve_app.embedding", "serve_app.ingress", "serve_app.retrieval",  # Serve deployments
    "serve_app.ray_metrics",  # what telemetry tells, to Ray
    "serve_app.web",  # maps Serve's back-pressure to a status
}  # fmt: skip
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> set[str]:
    """Dotted names that a module imports anywhere, `from package import module` resolved to the module."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_run_one_way_and_jobs_are_imported_by_nobody(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0]
    for name in imports_of(path):
        top = name.split(".")[0]
        if top in PACKAGES and top != own:
            assert top in PACKAGES[own], f"{name_of(path)} imports {name}"
        if name in JOBS:
            assert name_of(path) == "serve_app.demo", f"{name_of(path)} imports the job {name}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_libraries_know_no_ray(path: Path) -> None:
    uses_ray = any(name.split(".")[0] == "ray" for name in imports_of(path))
    if name_of(path) not in KNOW_RAY:
        assert not uses_ray, f"{name_of(path)} is a library and imports ray"


def test_there_is_no_fourth_package_and_no_drawer() -> None:
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert folders == set(PACKAGES)
    assert not [path for path in MODULES if path.stem in ("utils", "helpers", "common", "misc")]


@pytest.mark.parametrize("package", PACKAGES)
def test_init_holds_a_docstring_only(package: str) -> None:
    body = ast.parse((ROOT / package / "__init__.py").read_text()).body
    assert len(body) == 1
    assert isinstance(body[0], ast.Expr)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring
    if name_of(path) in JOBS:
        assert f"python -m {name_of(path)}" in docstring, "a job's docstring shows its command"


def test_importing_libraries_does_not_even_load_ray() -> None:
    libraries = [name_of(p) for p in MODULES if name_of(p) not in KNOW_RAY and p.stem != "__init__"]
    code = (
        "import importlib, sys\n"
        f"for name in {libraries!r}: importlib.import_module(name)\n"
        "assert 'ray' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [("serve_app.app", "transformers.modeling_utils"), ("serve_app.retrieval", "torch")],
)
def test_a_replica_loads_what_it_needs_only(module: str, unwanted: str) -> None:
    """Models of transformers take four seconds to import, and torch two: a service should start soon."""
    code = f"import sys, {module}; assert {unwanted!r} not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_read_no_environment_at_import(path: Path) -> None:
    for node in ast.parse(path.read_text()).body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            assert "os.environ" not in ast.unparse(node), f"{name_of(path)} reads the environment at import"


@pytest.mark.parametrize("name", sorted(JOBS))
def test_jobs_cache_no_functions(name: str) -> None:
    """Run by `python -m`, a job is `__main__`: Ray sends its functions by value, which cached ones do not allow."""
    path = ROOT.joinpath(*name.split(".")).with_suffix(".py")
    assert not {"functools.lru_cache", "functools.cache"} & imports_of(path)
