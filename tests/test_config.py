"""serve_config.yaml and cluster.yaml against Ray's own schemas, and against misspelling, which Ray lets pass."""

import copy
import inspect
import types
import typing
from pathlib import Path
from typing import Any

import pydantic
import pytest
import yaml
from pydantic import BaseModel
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.serve.schema import ServeDeploySchema

from data_jobs.errors import InputError
from serve_app.app import build
from serve_app.capacity import Capacity
from serve_app.embedding import MOST_THREADS
from serve_app.settings import Environment, ServeArgs, environment, parse, resolve

ROOT = Path(__file__).parent.parent


@pytest.fixture
def config() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    return loaded


def unknown_keys(value: Any, annotation: Any, where: str = "") -> list[str]:
    """Dotted paths of keys that no field of Ray's schema has, at every level."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        arms = typing.get_args(annotation)
        models = [arm for arm in arms if inspect.isclass(arm) and issubclass(arm, BaseModel)]
        return unknown_keys(value, models[0] if models else None, where)
    if origin is list and isinstance(value, list):
        (of,) = typing.get_args(annotation)
        return [key for i, item in enumerate(value) for key in unknown_keys(item, of, f"{where}[{i}]")]
    if not (inspect.isclass(annotation) and issubclass(annotation, BaseModel) and isinstance(value, dict)):
        return []
    fields = annotation.model_fields
    found = [f"{where}.{key}" for key in value if key not in fields]
    for key in value.keys() & fields.keys():
        found += unknown_keys(value[key], fields[key].annotation, f"{where}.{key}")
    return found


def check(config: dict[str, Any]) -> None:
    ServeDeploySchema.model_validate(config)
    assert unknown_keys(config, ServeDeploySchema) == []
    for application in config["applications"]:
        ServeArgs(**application["args"])


def test_serve_config_is_valid_and_correctly_spelt(config: dict[str, Any]) -> None:
    check(config)


def misspelt(config: dict[str, Any], path: list[str | int], old: str, new: str) -> dict[str, Any]:
    config = copy.deepcopy(config)
    level: Any = config
    for step in path:
        level = level[step]
    level[new] = level.pop(old)
    return config


DEPLOYMENT: list[str | int] = ["applications", 0, "deployments", 1]


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ([], "http_options", "http_option"),
        (["http_options"], "keep_alive_timeout_s", "keep_alive_timeout"),
        (["logging_config"], "log_level", "loglevel"),
        (["applications", 0], "route_prefix", "routeprefix"),
        (["applications", 0, "args"], "batch_size", "batchsize"),
        (DEPLOYMENT, "max_ongoing_requests", "max_ongoing_request"),
        ([*DEPLOYMENT, "autoscaling_config"], "max_replicas", "max_replica"),
        ([*DEPLOYMENT, "ray_actor_options"], "num_cpus", "num_cpu"),
        (["applications", 0, "deployments", 0, "backpressure_config"], "retry_after_s", "retry_after"),
    ],
)
def test_a_misspelt_key_is_caught_at_every_level(
    config: dict[str, Any], path: list[str | int], old: str, new: str
) -> None:
    with pytest.raises((AssertionError, pydantic.ValidationError)):
        check(misspelt(config, path, old, new))


def test_every_deployment_of_the_application_is_configured(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    ingress = build({"model": str(tmp_path)})._bound_deployment
    embedders, retriever, _ = ingress.init_args
    bound = {ingress.name} | {part._bound_deployment.name for part in (*embedders.values(), retriever)}
    assert bound == {deployment["name"] for deployment in config["applications"][0]["deployments"]}


def test_we_refuse_before_serve_does(config: dict[str, Any]) -> None:
    """What Serve itself refuses or gives up has another shape than the contract's errors."""
    application = config["applications"][0]
    args = ServeArgs(**application["args"])
    ingress, embedder, _ = application["deployments"]
    assert ingress["max_ongoing_requests"] > args.most_requests
    assert config["http_options"]["request_timeout_s"] > args.deadline_s > args.waiting_s
    assert embedder["max_ongoing_requests"] >= under_way(lanes=MOST_THREADS)
    assert embedder["max_queued_requests"] == -1
    assert embedder["autoscaling_config"]["target_ongoing_requests"] < under_way(lanes=1)


def under_way(lanes: int) -> int:
    """Batches, all of one size, that an ingress with work keeps under way to one replica."""
    capacity, count = Capacity(), 0
    capacity.answered("a", lanes)
    while capacity.takes(8):
        capacity.begin(count, 8)
        count += 1
    return count


def test_ray_is_started_with_the_throughput_flags() -> None:
    """Wherever users start Ray, on each kind of node."""
    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    starts = [
        c for kind in ("head", "worker") for c in cluster[f"{kind}_start_ray_commands"] if "ray start" in c
    ]
    assert len(starts) == 2
    for command in [*starts, (ROOT / "Makefile").read_text(), (ROOT / "README.md").read_text()]:
        assert "RAY_SERVE_ENABLE_HA_PROXY=1 RAY_SERVE_THROUGHPUT_OPTIMIZED=1" in command
        for flag in (
            'RAY_SERVE_HAPROXY_RETRY_ON="conn-failure empty-response"',
            "RAY_SERVE_HAPROXY_TUNE_BUFSIZE=262144",
            "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE=1",
        ):
            assert flag in command


def test_cluster_config_is_valid_by_rays_schema() -> None:
    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    validate_config(prepare_config(copy.deepcopy(cluster)))
    assert {"head", "cpu_worker", "gpu_worker"} == set(cluster["available_node_types"])
    assert cluster["available_node_types"]["cpu_worker"]["max_workers"] > 0
    broken = copy.deepcopy(cluster)
    broken["available_node_types"]["cpu_worker"]["max_worker"] = 3
    with pytest.raises(Exception, match="max_worker"):
        validate_config(prepare_config(broken))


def test_the_environment_overrides_args(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    args = ServeArgs(model="a/b", threshold=0.3, batch_size=8)
    assert resolve(args, Environment()) == args.model_copy(update={"model_name": "a/b"})
    (tmp_path / "model").mkdir()
    monkeypatch.setenv("CLIP_MODEL_NAME", "c/d")
    monkeypatch.setenv("CLIP_MODEL_PATH", "model")
    monkeypatch.setenv("CLIP_SIMILARITY_THRESHOLD", "0.28")
    monkeypatch.setenv("CLIP_FORCE_CPU", "1")
    monkeypatch.setenv("CLIP_BATCH_SIZE", "16")
    monkeypatch.setenv("CLIP_ZERO_SHOT_LABELS", "mug, ماگ,")
    found = resolve(args, Environment())
    assert found.model == str(tmp_path / "model")  # the path wins over the name, and is made absolute
    assert (found.threshold, found.device, found.batch_size) == (0.28, "cpu", 16)
    assert found.categories == ("mug", "ماگ")


def test_a_dotenv_file_is_read_and_the_environment_wins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("CLIP_MODEL_NAME=from/file\nCLIP_BATCH_SIZE=4\nOTHER=1\n")
    monkeypatch.setenv("CLIP_BATCH_SIZE", "5")
    found = resolve(ServeArgs(), Environment())
    assert (found.model, found.batch_size) == ("from/file", 5)


def test_bad_settings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(pydantic.ValidationError, match="batchsize"):
        ServeArgs(batchsize=3)  # type: ignore[call-arg]
    with pytest.raises(InputError, match="device: .*banana"):
        resolve(ServeArgs(), Environment(clip_device="banana"))
    with pytest.raises(InputError, match="categories"):
        resolve(ServeArgs(), Environment(clip_zero_shot_labels=","))
    with pytest.raises(InputError, match=r"'batchsize'.* batch_size\?"):
        parse({"batchsize": 3})
    with pytest.raises(InputError, match=r"no setting 'x'.* model, model_name, "):
        parse({"x": 3})
    monkeypatch.setenv("CLIP_SIMILARITY_THRESHOLD", "2")
    with pytest.raises(InputError, match="clip_similarity_threshold: .*2"):
        environment()


def test_a_bad_key_is_not_shown() -> None:
    with pytest.raises(InputError, match="api_keys") as refusal:
        parse({"api_keys": "a secret that is no list"})
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"api_keys": ["too short"]}, "bad_api_keys"),
        ({"image_root": "nowhere"}, "bad_settings"),
        ({"image_url_hosts": ["http://x"]}, "bad_allowed_host"),
        ({"rate_per_s": float("inf")}, "bad_rate_limit"),
        ({"model": "./nowhere"}, "model_not_found"),
    ],
)
def test_what_replicas_would_refuse_is_refused_before_they_start(
    settings: dict[str, Any], code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as refusal:
        build(settings)
    assert refusal.value.code == code
