"""Where weights come from: a directory, the hub's cache, or the hub, with an answer at once when it is away."""

import hashlib
import json
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

from data_jobs.errors import InputError

DEFAULT_MODEL = "openai/clip-vit-base-patch32"
HUB_TIMEOUT_S = 5.0
"""How long one question to the hub may take before we say that it cannot be reached."""

_SMALL_FILES = ["*.json", "*.txt", "*.model"]
_WEIGHTS = ("*.safetensors", "*.bin")  # in order of preference


def local_folder(name: str | Path) -> tuple[Path, str | None]:
    """The directory of checkpoint `name`, a whole model or one tower, and its hub revision (None for a path).

    Downloads if need be. Raises InputError: model_not_found (no such directory or repository), incomplete_weights (a
    directory lacks shards), model_unreachable (a hub name that is not in the cache, and no network).
    """
    folder = Path(name)
    if folder.is_dir():
        if missing := _missing_shards(folder):
            raise InputError(
                "incomplete_weights",
                f"{folder} lacks {', '.join(missing)}, which its index names.",
                "Copy or download the whole model directory again.",
            )
        weights_there = any(folder.glob("*.safetensors")) or any(folder.glob("*.bin"))
        if not (folder / "config.json").is_file() or not weights_there:
            raise InputError(
                "model_not_found",
                f"{folder} holds no config.json with weights beside it, so it is not a model directory.",
                "Name the directory that holds config.json and the weights, such as OUTPUT/best_model.",
            )
        return folder, None
    repo = str(name)
    if repo.startswith((".", "/", "~")) or repo.count("/") > 1:
        raise InputError("model_not_found", f"There is no directory {repo}.", "Check the path.")
    try:
        if (cached := _cached(repo)) is not None:
            return cached, cached.name
        info = HfApi().model_info(repo, timeout=HUB_TIMEOUT_S)
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise InputError(
            "model_not_found", f"There is neither a directory nor a hub model {repo!r}.", "Check the name."
        ) from error
    except Exception as error:  # no network, a proxy's answer, a time-out: all mean unreachable
        raise InputError(
            "model_unreachable",
            f"The model {repo!r} is not on this machine and the hub cannot be reached "
            f"({type(error).__name__}).",
            "Give the path of a local model directory (CLIP_MODEL_PATH or --model-name), run `make demo` and use "
            "demo_output/model/best_model, or download the model where there is a network and copy it here.",
        ) from error
    files = [sibling.rfilename for sibling in info.siblings or []]
    weights = _WEIGHTS[0] if any(f.endswith(".safetensors") for f in files) else _WEIGHTS[1]
    snapshot = Path(snapshot_download(repo, allow_patterns=[*_SMALL_FILES, weights]))
    return snapshot, snapshot.name


def _cached(repo: str) -> Path | None:
    """The snapshot of `repo` in the hub's cache, if all that we need of it is there."""
    for weights in _WEIGHTS:
        try:
            snapshot = Path(
                snapshot_download(repo, allow_patterns=[*_SMALL_FILES, weights], local_files_only=True)
            )
        except LocalEntryNotFoundError:  # not there, or a download that broke off
            continue
        whole = any(snapshot.glob(weights)) and not _missing_shards(snapshot)
        if whole and (snapshot / "config.json").is_file():
            return snapshot
    return None


def _missing_shards(folder: Path) -> list[str]:
    """Names of weight files that an index in `folder` lists and that are not there."""
    for kind in _WEIGHTS:
        for index in folder.glob(f"{kind}.index.json"):
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            return sorted(name for name in names if not (folder / name).is_file())
    return []


def weights_sha256(folder: Path) -> str | None:
    """SHA-256 over the weight files of `folder` (safetensors, else .bin) in name order; None without any."""
    files = next((found for kind in _WEIGHTS if (found := sorted(folder.glob(kind)))), [])
    if not files:
        return None
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 24):
                digest.update(chunk)
    return digest.hexdigest()
