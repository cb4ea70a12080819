"""infinity as benchmarks.serve starts it: float32 on PyTorch, its own environment, otherwise its defaults.

python -m venv DIR
DIR/bin/pip install 'infinity_emb[torch,server,vision]' aiohttp torch==2.13.0     # aiohttp: for pictures
DIR/bin/pip uninstall torchvision     # unless it fits the torch: nothing here needs it
"""

import json
import shutil
import subprocess
from pathlib import Path


def missing(python: Path | None) -> str:
    """Why infinity cannot be measured, or ""."""
    if python is None:
        return "--infinity-python, the Python of an environment with infinity_emb, is not given"
    if not python.exists():
        return f"there is no {python}"
    found = subprocess.run(
        [python, "-c", "import infinity_emb.infinity_server"], capture_output=True, text=True, check=False
    )
    return found.stderr.strip().rpartition("\n")[2]


def version(python: Path) -> str:
    """What is in its environment."""
    names = ("infinity_emb", "torch", "transformers")
    code = (
        f"from importlib.metadata import version; print(*(n + ' ' + version(n) for n in {names}), sep=', ')"
    )
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def adapted(model: Path, folder: Path) -> Path:
    """The model directory as the transformers 4 of that environment reads it: other names, the same weights."""
    folder.mkdir()
    for name in ("config.json", "preprocessor_config.json", "tokenizer.json"):
        shutil.copy(model / name, folder)
    (folder / "model.safetensors").symlink_to((model / "model.safetensors").absolute())
    facts = json.loads((model / "tokenizer_config.json").read_text())
    # CLIPProcessor would only take CLIP's own tokenizer; this one takes any, and does the same.
    facts |= {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "processor_class": "VisionTextDualEncoderProcessor",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(facts))
    return folder


def command(python: Path, folder: Path, port: int) -> list[str]:
    """Starts it, under the name that benchmarks.serve_load asks for, whose own warm-up it gets like the others."""
    return [
        *(str(python.parent / "infinity_emb"), "v2"),
        *("--model-id", str(folder), "--served-model-name", "clip"),
        *("--port", str(port), "--host", "127.0.0.1", "--engine", "torch", "--device", "cpu"),
        *("--dtype", "float32", "--no-bettertransformer", "--no-model-warmup", "--log-level", "error"),
    ]
