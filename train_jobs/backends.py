"""Backends: one model made fast for serving. Other arithmetic than Encoder's, the same answers within a gate.

    backend = open_backend("model/best_model")           # the fastest here that passes its gate; says why in the log
    backend = open_backend("model/best_model", "openvino-int8", threads=1)
    backend.images(pixels)             # uint8 [N, S, S, 3] -> float32 [N, D], unit norm
    backend.texts(["a red mug"])       # -> float32 [N, D], unit norm

The gate compares with torch-float32: every cosine between the two answers to one input at least 0.999; of int8 no more
than 0.005 of AUROC lost on labelled pairs, which train_jobs.export measures and writes down.
"""

import copy
import logging
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_jobs.drawing import describe, draw, random_products
from data_jobs.errors import InputError
from train_jobs import metrics, openvino_towers
from train_jobs.arrays import Embeddings, Pixels
from train_jobs.devices import choose_device
from train_jobs.hub import DEFAULT_MODEL, local_folder, weights_sha256
from train_jobs.openvino_towers import Fidelity, Manifest, OpenVinoTowers, Precision, Speed
from train_jobs.spec import ModelSpec
from train_jobs.tokens import Tokens

if TYPE_CHECKING:
    from train_jobs.encoder import Encoder

FLOAT32 = "torch-float32"
INT8 = "openvino-int8"
TORCH = {FLOAT32: torch.float32, "torch-float16": torch.float16, "torch-bfloat16": torch.bfloat16}
OPENVINO: dict[str, Precision] = {
    "openvino-float32": "float32",
    "openvino-bfloat16": "bfloat16",
    INT8: "int8",
}
NAMES = (FLOAT32, "openvino-float32", "torch-float16", "torch-bfloat16", "openvino-bfloat16", INT8)
"""The most exact first."""

LEAST_COSINE = 0.999
MOST_AUROC_LOSS = 0.005
BATCH_TOKENS = 4096
"""Of a batch of texts with its padding: 53 texts of 77 tokens, 256 of 16."""

_WORTH = 1.1
"""How much faster a backend must be to be taken before a more exact one: measurements on a busy machine scatter."""
_ROUNDS = 2
"""At the start: a ViT-B/32 on one core takes 0.6 s a round in float32."""

_log = logging.getLogger(__name__)


class Towers(Protocol):
    """Both towers somewhere."""

    device: str

    def image(self, pixels: Pixels) -> Embeddings:
        """uint8 [N, S, S, 3] -> float32 [N, D], unit norm."""

    def text(self, ids: Tensor, mask: Tensor) -> Embeddings:
        """int64 [N, L], on the CPU -> float32 [N, D], unit norm."""

    def lanes(self, count: int) -> "Sequence[Towers]":
        """The same on a thread each, for `count` calls at a time; none where that would share them."""


class TorchTowers:
    """An encoder's towers on its device, in its own precision or with weights cast to another."""

    def __init__(self, encoder: "Encoder", dtype: torch.dtype) -> None:
        own = dtype == torch.float32
        self._towers = encoder.towers if own else copy.deepcopy(encoder.towers).to(dtype)
        self._device = encoder.device
        self.device = str(encoder.device)

    @torch.inference_mode()
    def image(self, pixels: Pixels) -> Embeddings:
        """As Towers.image."""
        batch = torch.from_numpy(np.array(pixels)).to(
            self._device
        )  # a copy: Ray's arrays cannot be written to
        rows: Embeddings = self._towers.image(batch.permute(0, 3, 1, 2)).cpu().numpy()
        return rows

    @torch.inference_mode()
    def text(self, ids: Tensor, mask: Tensor) -> Embeddings:
        """As Towers.text."""
        rows: Embeddings = self._towers.text(ids.to(self._device), mask.to(self._device)).cpu().numpy()
        return rows

    def lanes(self, count: int) -> Sequence[Towers]:
        """None: the number of threads is the process's."""
        return ()


class Backend:
    """Serves one model. Not thread-safe: one call at a time."""

    def __init__(
        self,
        name: str,
        towers: Towers,
        spec: ModelSpec,
        tokens: Tokens,
        batch_size: int = 32,
        batch_tokens: int = BATCH_TOKENS,
    ) -> None:
        self.name = name
        self.device = towers.device
        self.spec = spec
        self.tokens = tokens
        self.batch_size = batch_size
        self.batch_tokens = batch_tokens
        self._towers = towers

    def lanes(self, count: int) -> "list[Backend]":
        """The same on one thread each, for `count` calls at a time instead of this; [] if it cannot be had so."""
        several = self._towers.lanes(count) if count > 1 else ()
        return [
            Backend(self.name, towers, self.spec, self.tokens, self.batch_size, self.batch_tokens)
            for towers in several
        ]

    def images(self, pixels: Pixels) -> Embeddings:
        """The model's views of pictures, uint8 [N, S, S, 3] -> float32 [N, D], unit norm."""
        out = np.empty((len(pixels), self.spec.embedding_dim), np.float32)
        for start in range(0, len(pixels), self.batch_size):
            rows = slice(start, start + self.batch_size)
            out[rows] = self._towers.image(pixels[rows])
        return out

    def texts(self, texts: Sequence[str]) -> Embeddings:
        """Texts as people write them -> float32 [N, D], unit norm."""
        return self.texts_of(self.token_ids(texts))

    def texts_of(self, ids: Sequence[list[int]]) -> Embeddings:
        """Texts as `token_ids` gives them -> float32 [N, D], unit norm."""
        out = np.empty((len(ids), self.spec.embedding_dim), np.float32)
        for rows in self._batches([len(tokens) for tokens in ids]):
            out[rows] = self._towers.text(*self.tokens.padded([ids[row] for row in rows]))
        return out

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """As Tokens.ids."""
        return self.tokens.ids(texts)

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Rows of like length together: at most `batch_size`, and padded at most `batch_tokens` unless it is one."""
        batch: list[int] = []
        for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
            longest = self.tokens.context_length if self.tokens.pad_to_context else lengths[row]
            if batch and (len(batch) == self.batch_size or (len(batch) + 1) * longest > self.batch_tokens):
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch


def open_backend(
    model: str | Path = DEFAULT_MODEL,
    name: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    batch_size: int = 32,
    batch_tokens: int = BATCH_TOKENS,
    exported: str | Path | None = None,
) -> Backend:
    """The model in a directory, or of the hub, as the backend `name`, or as the fastest one that passes its gate.

    `device` is auto, cpu, cuda or mps; OpenVINO is for CPUs alone. `threads` holds for all torch models of the
    process (default: as many as torch has now). `exported` is a directory of train_jobs.export (default: `openvino`
    in the model's). On a processor of the export's kind, auto goes by the speeds in it, so that all replicas choose
    alike and start at once; elsewhere it tries every backend for a second or two.

    Raises InputError: unknown_backend, wrong_device, gate_failed, backend_missing, no_export, not_exported,
    stale_export, damaged_export, bad_export, or what Encoder.load does. auto passes over an export that cannot be
    used, and says so in the log.
    """
    if name not in (*NAMES, "auto"):
        raise InputError(
            "unknown_backend", f"There is no backend {name!r}.", f"Use auto or one of {', '.join(NAMES)}."
        )
    if name in OPENVINO:
        if device not in ("auto", "cpu"):
            raise InputError(
                "wrong_device", f"{name} runs on the CPU; the device is {device!r}.", "Use --device cpu."
            )
        device = "cpu"
    if threads is not None:
        torch.set_num_threads(threads)
    opening = _Opening(model, choose_device(device), exported, batch_size, batch_tokens)
    backend, why = opening.fastest() if name == "auto" else (opening.named(name), "as asked for")
    _log.info("%s: %s on %s, %d threads: %s", model, backend.name, backend.device, opening.threads, why)
    return backend


class _Opening:
    """A model on its way to becoming a backend; PyTorch gets to see it only if it is to run it."""

    def __init__(
        self,
        model: str | Path,
        device: str,
        exported: str | Path | None,
        batch_size: int,
        batch_tokens: int,
    ) -> None:
        self.threads = torch.get_num_threads()
        self._model, self._device = model, device
        self._checkpoint = local_folder(model)[0]
        self._folder = self._checkpoint / openvino_towers.FOLDER if exported is None else Path(exported)
        self._sizes = (batch_size, batch_tokens)

    @cached_property
    def _encoder(self) -> "Encoder":
        from train_jobs.encoder import Encoder  # here: transformers' models take seconds to import

        return Encoder.load(self._model, self._device)

    @cached_property
    def _facts(self) -> tuple[ModelSpec, Tokens]:
        spec = None if "_encoder" in vars(self) else ModelSpec.read(self._checkpoint)
        if spec is None:  # the model knows: it is loaded already, or a plain checkpoint
            return self._encoder.spec, self._encoder.tokens
        spec.refuse_other_weights(self._checkpoint, weights_sha256(self._checkpoint))
        return spec, Tokens.of(self._checkpoint, spec)

    @property
    def _spec(self) -> ModelSpec:
        return self._facts[0]

    def named(self, name: str) -> Backend:
        """Raises InputError if it cannot be had or fails its gate."""
        backend = self._opened(name)
        if name in TORCH and name != FLOAT32:
            probe = Probe.of(self._spec)
            found = fidelity(probe.answers(self._opened(FLOAT32)), probe.answers(backend))
            if reason := problem(name, found):
                raise InputError("gate_failed", f"{name}: {reason}.", "Use auto or torch-float32.")
        return backend

    def fastest(self) -> tuple[Backend, str]:
        """Also says why it is this one."""
        left_out: list[str] = []
        export = self._usable_export(left_out)
        names = self._candidates(export, left_out)
        speeds = {} if export is None else self._recorded(export, names)
        if speeds:
            backend, how = self._best(speeds, left_out), "by the measurements of its export"
        elif len(names) > 1:
            (backend, speeds), how = self._tried(names, left_out), "as just tried"
            if export is not None:
                left_out.append("its export was measured on another processor, export again on this one")
        else:
            backend, how = self._opened(FLOAT32), "for want of another"
        told = ", ".join(f"{name} {speed.pairs:.1f} pairs/s" for name, speed in speeds.items())
        return backend, "; ".join(filter(None, [f"the fastest {how}", told, *left_out]))

    def _candidates(self, export: Manifest | None, left_out: list[str]) -> list[str]:
        """What can be had here, the most exact first; more about the others in `left_out`."""
        device = self._device.partition(":")[0]
        names = []
        for name in NAMES:
            if name == "torch-float16" and device != "cuda":
                continue
            if name == "torch-bfloat16" and not (
                device == "cuda" or (device == "cpu" and bfloat16_is_fast())
            ):
                continue
            if name in OPENVINO:
                if export is None:
                    continue
                try:
                    self._check_exported(export, name)
                except InputError as error:
                    left_out.append(f"without {name}: {error}")
                    continue
            names.append(name)
        return names

    def _usable_export(self, left_out: list[str]) -> Manifest | None:
        if self._device != "cpu":
            return None
        try:
            export = Manifest.read(self._folder)
            if export is None:
                left_out.append(f"nothing is exported to {self._folder}")
                return None
            export.refuse_stale(self._spec)
            openvino_towers.package("openvino")
        except InputError as error:
            left_out.append(f"the export in {self._folder} is passed over: {error}")
            return None
        return export

    def _recorded(self, export: Manifest, names: Sequence[str]) -> dict[str, Speed]:
        """The speeds of `names` in the export at the nearest number of threads; {} if of another processor."""
        if export.cpu != cpu_name():
            return {}
        found = {}
        for name in names:
            measured = export.backends.get(name)
            if measured is not None and measured.passed:
                nearest = min(measured.speeds, key=lambda threads: abs(threads - self.threads))
                found[name] = measured.speeds[nearest]
        return found

    def _best(self, speeds: dict[str, Speed], left_out: list[str]) -> Backend:
        while (name := quickest(speeds)) != FLOAT32:
            try:
                return self._opened(name)
            except InputError as error:
                left_out.append(f"without {name}: {error}")
                del speeds[name]
        return self._opened(FLOAT32)

    def _tried(self, names: Sequence[str], left_out: list[str]) -> tuple[Backend, dict[str, Speed]]:
        probe = Probe.of(self._spec)
        best = self._opened(FLOAT32)
        reference = probe.answers(best)
        speeds = {FLOAT32: probe.speed(best, _ROUNDS)}
        for name in names[1:]:
            if name == "openvino-float32" and {"torch-bfloat16", "openvino-bfloat16"} <= {*names}:
                continue  # bfloat16 is fast here: seconds saved at the start
            try:
                backend = self._opened(name)
            except InputError as error:
                left_out.append(f"without {name}: {error}")
                continue
            found = fidelity(reference, probe.answers(backend))
            # Pictures unlike those that it was calibrated on say nothing about int8: its own gate was the export's.
            if name != INT8 and (reason := problem(name, found)):
                left_out.append(f"without {name}: {reason}")
                continue
            speeds[name] = probe.speed(backend, _ROUNDS)
            if quickest({best.name: speeds[best.name], name: speeds[name]}) == name:
                best = backend
        return best, speeds

    def _opened(self, name: str) -> Backend:
        if name in TORCH:
            return self._of(name, TorchTowers(self._encoder, TORCH[name]))
        export = Manifest.read(self._folder)
        if export is None:
            raise InputError(
                "no_export",
                f"{name} needs an export, and {self._folder} holds none.",
                "Make it: python -m train_jobs.export --model DIR",
            )
        export.refuse_stale(self._spec)
        self._check_exported(export, name)
        export.refuse_damaged(self._folder, OPENVINO[name])
        return self._of(name, OpenVinoTowers(self._folder, OPENVINO[name], self.threads))

    def _check_exported(self, export: Manifest, name: str) -> None:
        """Raises InputError (not_exported, gate_failed)."""
        measured = export.backends.get(name)
        if measured is None:
            there = ", ".join(sorted(OPENVINO.keys() & export.backends))
            raise InputError(
                "not_exported",
                f"{self._folder} holds {there}, not {name}.",
                f"Export again with --precision {OPENVINO[name]}.",
            )
        if not measured.passed:
            raise InputError("gate_failed", f"When exported, {measured.problem}.", "Use auto.")

    def _of(self, name: str, towers: Towers) -> Backend:
        return Backend(name, towers, *self._facts, *self._sizes)


# ------------------------------------------------------------------------------------- gates


@dataclass(frozen=True)
class Answers:
    """What a backend makes of distinct pictures [P, D] and distinct texts [T, D]."""

    images: Embeddings
    texts: Embeddings


@dataclass(frozen=True)
class Labelled:
    """Pairs of those pictures and texts, [N]."""

    picture: NDArray[np.int64]
    text: NDArray[np.int64]
    labels: NDArray[np.int64]  # 1 match, 0 mismatch; both occur
    threshold: float  # cosine below which a pair is a mismatch

    def scores(self, answers: Answers) -> NDArray[np.float32]:
        """The cosine of every pair, [N]; of an answer that is not finite -1."""
        return _cosines(answers.images[self.picture], answers.texts[self.text])


def fidelity(reference: Answers, found: Answers, labelled: Labelled | None = None) -> Fidelity:
    """How near `found` comes to the answers of torch-float32."""
    images, texts = _cosines(reference.images, found.images), _cosines(reference.texts, found.texts)
    cosines = (float(images.min()), float(images.mean()), float(texts.min()), float(texts.mean()))
    if labelled is None:
        return Fidelity(*cosines)
    before, now = labelled.scores(reference), labelled.scores(found)
    auroc_float32, auroc = metrics.auroc(before, labelled.labels), metrics.auroc(now, labelled.labels)
    flips = (before >= labelled.threshold) != (now >= labelled.threshold)
    return Fidelity(
        *cosines,
        auroc=auroc,
        auroc_float32=auroc_float32,
        auroc_loss=auroc_float32 - auroc,
        largest_score_shift=float(np.abs(now - before).max()),
        verdicts_changed=int(flips.sum()),
    )


def problem(
    name: str,
    found: Fidelity,
    *,
    least_cosine: float = LEAST_COSINE,
    most_auroc_loss: float = MOST_AUROC_LOSS,
) -> str:
    """Why the backend `name` does not pass its gate, or "" if it does. int8 needs labelled pairs."""
    if name == INT8:
        assert found.auroc is not None and found.auroc_float32 is not None and found.auroc_loss is not None
        if found.auroc_loss <= most_auroc_loss:
            return ""
        return (
            f"the AUROC falls by {found.auroc_loss:.4f}, from {found.auroc_float32:.4f} in float32 to "
            f"{found.auroc:.4f}, and may fall by {most_auroc_loss}"
        )
    least = min(found.image_cosine_min, found.text_cosine_min)
    if least >= least_cosine:
        return ""
    return (
        f"the cosine to float32 is as low as {found.image_cosine_min:.5f} for a picture and "
        f"{found.text_cosine_min:.5f} for a text, and must be at least {least_cosine}"
    )


def _cosines(one: Embeddings, other: Embeddings) -> NDArray[np.float32]:
    return np.nan_to_num(np.einsum("nd,nd->n", one, other), nan=-1.0, posinf=-1.0, neginf=-1.0)


# ------------------------------------------------------------------------------------- speed


@dataclass(frozen=True)
class Probe:
    """Fixed inputs that every model can take: drawn products and noise, and texts in both languages."""

    pixels: Pixels  # [4, S, S, 3]
    texts: list[str]  # 8

    @classmethod
    def of(cls, spec: ModelSpec) -> "Probe":
        """For a model of this picture size."""
        products = random_products(4, seed=0)
        side = spec.image_size
        noise = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
        drawn = [np.asarray(draw(product, side)) for product in products[:3]]
        return cls(
            np.concatenate([noise, drawn]),
            [
                describe(product, language, n)
                for language in ("en", "fa")
                for n, product in enumerate(products)
            ],
        )

    def answers(self, backend: Backend) -> Answers:
        return Answers(backend.images(self.pixels), backend.texts(self.texts))

    def speed(self, backend: Backend, rounds: int) -> Speed:
        """The best of `rounds`; the backend has answered before and is warm. A GPU gets whole batches."""
        copies = 1 if backend.device == "cpu" else max(1, backend.batch_size // len(self.pixels))
        pixels, ids = np.tile(self.pixels, (copies, 1, 1, 1)), backend.token_ids(self.texts) * copies
        image_s = text_s = float("inf")
        for _ in range(rounds):
            started = time.perf_counter()
            backend.images(pixels)
            between = time.perf_counter()
            backend.texts_of(ids)
            image_s = min(image_s, between - started)
            text_s = min(text_s, time.perf_counter() - between)
        return Speed(len(pixels) / image_s, len(ids) / text_s)


def quickest(speeds: Mapping[str, Speed]) -> str:
    """The fastest of backends that are given the most exact first; one must be worth what it loses."""
    names = iter(speeds)
    best = next(names)
    for name in names:
        if speeds[name].pairs > _WORTH * speeds[best].pairs:
            best = name
    return best


def bfloat16_is_fast() -> bool:
    """Whether the CPU multiplies bfloat16 faster than float32; without instructions for it, it is many times slower."""
    spent = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = torch.ones(64, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)
        spent[dtype] = float("inf")
        for _ in range(8):
            started = time.perf_counter()
            a @ b
            spent[dtype] = min(spent[dtype], time.perf_counter() - started)
    return spent[torch.float32] > _WORTH * spent[torch.bfloat16]


def cpu_name() -> str:
    """What tells processors apart whose speeds differ: the model and the instructions that matter here."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    instructions = set(facts.get("flags", "").split()) & _INSTRUCTIONS
    numbers = [facts.get(key, "") for key in ("model name", "cpu family", "model")]
    return " ".join([platform.machine(), *filter(None, numbers), *sorted(instructions)])


_INSTRUCTIONS = {"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_bf16", "amx_int8"}
