"""A model's two towers as OpenVINO graphs on CPUs, and the directory that an export of them is.

    graphs = convert(encoder)                              # float32: bfloat16 runs from it as well
    graphs.save(folder / "float32")
    quantised(graphs, pictures, texts).save(folder / "int8")
    towers = OpenVinoTowers(folder, "int8", threads=1)
    towers.image(pixels)     # uint8 [N, S, S, 3] -> float32 [N, D], unit norm
    towers.text(ids, mask)   # int64 [N, L] -> float32 [N, D], unit norm

Normalising pixels, projecting and dividing by the norm are all in the graphs. The packages openvino and nncf are
optional; whoever needs them imports them through here.
"""

import copy
import dataclasses
import importlib
import json
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data_jobs.artefacts import sha256
from data_jobs.errors import InputError
from train_jobs.arrays import Embeddings, Pixels
from train_jobs.compiled import compiled
from train_jobs.spec import ModelSpec
from train_jobs.tokens import Tokens

if TYPE_CHECKING:
    from train_jobs.encoder import Encoder
    from train_jobs.towers import TwoTower

Precision = Literal["float32", "bfloat16", "int8"]
FOLDER = "openvino"
"""Of a model directory: where its export is."""
MARKER = "export.json"
FORMAT_VERSION = 1
GRAPHS: dict[Precision, str] = {"float32": "float32", "bfloat16": "float32", "int8": "int8"}
"""The folder of an export that a precision is run from: the processor rounds to bfloat16 as it goes."""


@dataclass(frozen=True)
class Speed:
    """Items a second, in small batches."""

    images: float
    texts: float

    @property
    def pairs(self) -> float:
        """Pictures with a text each, a second."""
        return 1 / (1 / self.images + 1 / self.texts)


@dataclass(frozen=True)
class Fidelity:
    """How near a backend's answers come to those of torch-float32; cosines between the two answers to one input.

    The rest is of labelled pairs, and None where there were none.
    """

    image_cosine_min: float
    image_cosine_mean: float
    text_cosine_min: float
    text_cosine_mean: float
    auroc: float | None = None
    auroc_float32: float | None = None
    auroc_loss: float | None = None  # below 0 where the backend is the better one
    largest_score_shift: float | None = None  # of a pair's cosine
    verdicts_changed: int | None = None  # pairs on the other side of the threshold than in float32


@dataclass(frozen=True)
class Measured:
    """What an export found out about a backend."""

    passed: bool
    problem: str  # why not; "" where it passed
    fidelity: Fidelity
    speeds: dict[int, Speed]  # by number of threads


@dataclass(frozen=True)
class Manifest:
    """The manifest of an export."""

    weights_sha256: str
    model_hash: str  # ModelSpec.model_hash: the preprocessing is in the graphs as well
    versions: dict[str, str]  # of packages
    cpu: str  # that the speeds were measured on
    measured_on: dict[str, Any]  # which pairs or probes, and how many
    backends: dict[str, Measured]  # by name; of torch as well, for comparison
    files: dict[str, str]  # SHA-256 by path in the export

    def to_json(self) -> str:
        facts = {"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}
        return json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False)

    @classmethod
    def read(cls, folder: Path) -> "Manifest | None":
        """The manifest in `folder`, or None where there is no export. Raises InputError (bad_export)."""
        path = folder / MARKER
        if not path.is_file():
            return None
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            if (version := facts.pop("format_version")) != FORMAT_VERSION:
                raise ValueError(f"it has format {version}; this is {FORMAT_VERSION}")
            facts["backends"] = {name: _measured(**found) for name, found in facts["backends"].items()}
            return cls(**facts)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError("bad_export", f"{path} cannot be used: {error}.", "Export again.") from error

    def refuse_stale(self, spec: ModelSpec) -> None:
        """Raise InputError (stale_export) unless it was made of the model that `spec` describes."""
        if self.model_hash != spec.model_hash:
            raise InputError(
                "stale_export",
                f"The export was made of weights {self.weights_sha256[:12]} (model hash {self.model_hash}); "
                f"the model's are {(spec.weights_sha256 or 'not saved')[:12]} (model hash {spec.model_hash}).",
                "Export again: python -m train_jobs.export --overwrite",
            )

    def refuse_damaged(self, folder: Path, precision: Precision) -> None:
        """Raise InputError (damaged_export) unless the files of `precision` are those that were written."""
        for name, written in self.files.items():
            if name.startswith(f"{GRAPHS[precision]}/"):
                path = folder / name
                if not path.is_file() or sha256(path) != written:
                    raise InputError(
                        "damaged_export",
                        f"{path} is not the file that was exported.",
                        "Copy the whole directory again, or export again: python -m train_jobs.export --overwrite",
                    )


def _measured(speeds: dict[str, dict[str, float]], fidelity: dict[str, Any], **facts: Any) -> Measured:
    by_threads = {int(threads): Speed(**speed) for threads, speed in speeds.items()}
    return Measured(fidelity=Fidelity(**fidelity), speeds=by_threads, **facts)


@dataclass(frozen=True)
class Graphs:
    """Both towers as openvino.Model."""

    image: Any
    text: Any

    def save(self, folder: Path) -> None:
        """Write image.xml, text.xml and their weights."""
        openvino = package("openvino")
        folder.mkdir()
        openvino.save_model(self.image, folder / "image.xml", compress_to_fp16=False)
        openvino.save_model(self.text, folder / "text.xml", compress_to_fp16=False)


class OpenVinoTowers:
    """Compiled towers on this machine's CPU. Not thread-safe: one call at a time."""

    device = "cpu"

    def __init__(self, folder: Path, precision: Precision, threads: int, *, keep: bool = True) -> None:
        """`folder` is an export's; see GRAPHS. A call takes all `threads`. Raises InputError (backend_missing).

        What is compiled is kept for the next time unless `keep` is false; see `compiled`.
        """
        self._folder, self._precision, self._keep = folder, precision, keep
        alone = {"PERFORMANCE_HINT": "LATENCY"}
        self._image, self._text = (m.create_infer_request() for m in self._compiled(threads, alone))

    def lanes(self, count: int) -> "list[OpenVinoTowers]":
        """The same for `count` calls at a time, each on one thread; they share one copy of the weights."""
        several = {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": count}
        graphs = self._compiled(count, several)
        return [self._with(*(graph.create_infer_request() for graph in graphs)) for _ in range(count)]

    def image(self, pixels: Pixels) -> Embeddings:
        """uint8 [N, S, S, 3] -> float32 [N, D], unit norm."""
        return _answer(self._image, {"pixels": pixels})

    def text(self, ids: Tensor, mask: Tensor) -> Embeddings:
        """int64 [N, L] -> float32 [N, D], unit norm."""
        return _answer(self._text, {"ids": ids.numpy(), "mask": mask.numpy()})

    def _compiled(self, threads: int, how: dict[str, Any]) -> list[Any]:
        """Both graphs, the image's first."""
        core = package("openvino").Core()
        # What int8 leaves in floating point may as well be bfloat16; where there is none, float32 is computed.
        capable = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        half = self._precision != "float32" and "BF16" in capable
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if half else "f32",
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,  # else all processes of a machine sit on its first cores
            **how,
        }
        graphs = self._folder / GRAPHS[self._precision]
        paths = (graphs / "image.xml", graphs / "text.xml")
        if not self._keep:
            return [core.compile_model(core.read_model(path), "CPU", options) for path in paths]
        return [compiled(core, path, options) for path in paths]

    def _with(self, image: Any, text: Any) -> "OpenVinoTowers":
        other = copy.copy(self)
        other._image, other._text = image, text
        return other


def _answer(request: Any, inputs: dict[str, Any]) -> Embeddings:
    rows: Embeddings = request.infer(inputs, share_inputs=True)[0]
    return rows


def convert(encoder: "Encoder") -> Graphs:
    """The towers of a float32 `encoder` on the CPU as graphs of any batch size and text length.

    Raises InputError (backend_missing, unsupported_family).
    """
    if encoder.spec.family == "siglip2":
        raise InputError(
            "unsupported_family",
            "A NaFlex SigLIP 2 model reads the shape of each picture while it runs, which a graph cannot.",
            "Serve it by torch, or export a SigLIP 2 of one resolution.",
        )
    openvino = package("openvino")
    side = encoder.spec.image_size
    pixels = torch.zeros(2, side, side, 3, dtype=torch.uint8)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing tells of every shape that it takes for constant
        return Graphs(
            openvino.convert_model(_Image(encoder.towers), example_input=pixels),
            openvino.convert_model(
                _Text(encoder.towers), example_input=encoder.padded(encoder.token_ids(["one", "one and two"]))
            ),
        )


def quantised(
    graphs: Graphs, pixels: Iterable[NDArray[np.uint8]], texts: Sequence[list[int]], tokens: Tokens
) -> Graphs:
    """Both graphs in int8, calibrated on single pictures, uint8 [S, S, 3], and on texts as `Tokens.ids` gives them.

    Post-training quantisation by NNCF; minutes for a ViT-B/32. Raises InputError (backend_missing).
    """
    nncf = package("nncf")
    pictures = [{"pixels": picture[None]} for picture in pixels]
    words = []
    for text in texts:
        ids, mask = tokens.padded([text])
        words.append({"ids": ids.numpy(), "mask": mask.numpy()})
    image, text_graph = (
        nncf.quantize(
            graph, nncf.Dataset(items), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(items)
        )
        for graph, items in ((graphs.image, pictures), (graphs.text, words))
    )
    return Graphs(image, text_graph)


def package(name: Literal["openvino", "nncf"]) -> Any:
    """The optional package of this name. Raises InputError (backend_missing) where it is not installed."""
    # Both would send usage statistics to their makers by default; without this package they do not.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            "backend_missing",
            f"The package {name} is not installed ({error}).",
            "pip install 'catalens[openvino]', or: pip install openvino nncf (nncf is for exporting int8 alone).",
        ) from error


class _Image(nn.Module):
    """uint8 [N, S, S, 3] -> float32 [N, D]."""

    def __init__(self, towers: "TwoTower") -> None:
        super().__init__()
        self.towers = towers

    def forward(self, pixels: Tensor) -> Tensor:
        return self.towers.image(pixels.permute(0, 3, 1, 2))


class _Text(nn.Module):
    """int64 [N, L] ids and mask -> float32 [N, D]. The names of the arguments become those of the graph's inputs."""

    def __init__(self, towers: "TwoTower") -> None:
        super().__init__()
        self.towers = towers

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.towers.text(ids, mask)
