"""Training in the small: models of a few thousand weights, pairs in memory, schedules, and two worker processes."""

import functools
import io
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor
from transformers import (
    BertConfig,
    CLIPConfig,
    CLIPModel,
    PreTrainedModel,
    ResNetConfig,
    SiglipConfig,
    SiglipModel,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
)

from data_jobs import text
from train_jobs import scratch
from train_jobs.augment import Augmentation
from train_jobs.encoder import Encoder
from train_jobs.loop import Training
from train_jobs.pairdata import PairData
from train_jobs.schedule import Lora, Schedule
from train_jobs.spec import ModelSpec

SIDE, WIDTH, CONTEXT = 32, 8, 16
WORDS = ["mug", "chair", "lamp", "hat", "bottle", "sofa", "plate", "spoon"]
COLOURS = ["red", "green", "blue", "white", "black"]
T = TypeVar("T")


def encoder(kind: str = "clip", *, dropout: float = 0.0, seed: int = 0) -> Encoder:
    """A fresh model: clip and siglip are small transformers, dual is a residual network with batch norm and a BERT."""
    tokenizer = scratch.train_tokenizer(
        [f"{colour} {word} 0123456789" for colour in COLOURS for word in WORDS], 320
    )
    torch.manual_seed(seed)
    model = {"clip": _clip, "siglip": _siglip, "dual": _dual}[kind](tokenizer, dropout)
    spec = ModelSpec(
        base_model="tiny",
        base_revision=None,
        family=kind,  # type: ignore[arg-type]
        embedding_dim=WIDTH,
        image_size=SIDE,
        image_resize="squash",
        image_shortest=SIDE,
        image_resample="bicubic",
        image_mean=(0.5, 0.5, 0.5),
        image_std=(0.5, 0.5, 0.5),
        context_length=CONTEXT,
        pad_to_context=kind == "siglip",
        text_normalizer=text.VERSION,
        logit_scale=float(model.logit_scale.detach().exp()),
        logit_bias=0.0,
    )
    return Encoder(model, tokenizer, spec, "cpu", batch_size=4)


def _transformer(dropout: float, width: int = 16) -> dict[str, Any]:
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2}
    return {"hidden_size": width, "intermediate_size": 24, "attention_dropout": dropout, **layers}


def _special(tokenizer: Any) -> dict[str, int]:
    ids = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    return {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": CONTEXT,
        **{f"{k}_token_id": v for k, v in ids.items()},
    }


def _clip(tokenizer: Any, dropout: float) -> PreTrainedModel:
    return CLIPModel(
        CLIPConfig(
            text_config=_transformer(dropout) | _special(tokenizer),
            vision_config=_transformer(dropout) | {"image_size": SIDE, "patch_size": 16},
            projection_dim=WIDTH,
        )
    )


def _siglip(tokenizer: Any, dropout: float) -> PreTrainedModel:
    return SiglipModel(
        SiglipConfig(
            text_config=_transformer(dropout, WIDTH) | _special(tokenizer) | {"projection_size": WIDTH},
            vision_config=_transformer(dropout, WIDTH) | {"image_size": SIDE, "patch_size": 16},
        )
    )


def _dual(tokenizer: Any, dropout: float) -> PreTrainedModel:
    vision = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic", hidden_size=12
    )
    words = BertConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=0.2,
        vocab_size=len(tokenizer),
        max_position_embeddings=CONTEXT,
        pad_token_id=tokenizer.pad_token_id,
        type_vocab_size=1,
    )
    config = VisionTextDualEncoderConfig.from_vision_text_configs(vision, words, projection_dim=WIDTH)
    return VisionTextDualEncoderModel(config)


def pairs(
    count: int, *, things: int | None = None, mismatches: Sequence[int] = (), seed: int = 0
) -> PairData:
    """Row i is a picture of its own of thing i % `things`, with that thing's text; in `mismatches` with the next's."""
    things = things or count
    shown = [row % things for row in range(count)]
    told = [(thing + (row in mismatches)) % things for row, thing in enumerate(shown)]
    return PairData(
        images=pa.chunked_array([[_noise(seed, row) for row in range(count)]], pa.binary()),
        picture_ids=[f"picture {seed} {row}" for row in range(count)],
        texts=[words(thing) for thing in told],
        labels=np.array([int(row not in mismatches) for row in range(count)], np.int64),
        image_groups=[f"thing {thing}" for thing in shown],
        text_groups=[f"thing {thing}" for thing in told],
        fingerprint="tiny",
    )


def labelled(pictures: int, *, each: int, seed: int = 0) -> PairData:
    """`each` pairs of every picture: one with its own text, the rest with those of the next; not in order."""
    rows = pairs(pictures, seed=seed)
    shown = [row % pictures for row in range(pictures * each)]
    told = [(row + row // pictures) % pictures for row in range(pictures * each)]
    return replace(
        rows.take(shown),
        texts=[words(thing) for thing in told],
        labels=np.array([int(a == b) for a, b in zip(shown, told, strict=True)], np.int64),
        text_groups=[f"thing {thing}" for thing in told],
    )


def words(thing: int) -> str:
    """What is said of a thing, in one to four words."""
    number = " ".join(str(thing // 40)) if thing >= 40 else ""
    return f"{COLOURS[thing % 5]} {WORDS[thing // 5 % 8]} {number}".strip()


def _noise(seed: int, row: int) -> bytes:
    pixels = np.random.default_rng([seed, row]).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize((24, 24)).save(out, "JPEG", quality=95)
    return out.getvalue()


def schedule(**changes: Any) -> Schedule:
    """Two epochs of plain float32 training with random views."""
    facts: dict[str, Any] = {
        "loss": "contrastive",
        "choose_by": "auroc",
        "epochs": 2,
        "batch_size": 8,
        "accumulate": 1,
        "learning_rate": 1e-2,
        "vision_optimizer": "adamw",
        "vision_learning_rate": 1e-2,
        "weight_decay": 0.1,
        "vision_weight_decay": 0.1,
        "warmup": 0.1,
        "gradient_clip": 1.0,
        "label_smoothing": 0.0,
        "average": 0.0,
        "patience": 0,
        "precision": "float32",
        "augmentation": Augmentation(),
        "freeze": "none",
        "new_text_head": False,
        "lora": Lora(),
        "gradient_checkpointing": False,
        "shard": False,
        "seed": 0,
        "cache_bytes": 10**8,
        "threads": 1,
        "save_steps": 0,
        "save_all": False,
    }
    return Schedule(**(facts | changes))


def train(
    model: Encoder, plan: Schedule, folder: Path, *, rows: PairData | None = None, **hooks: Any
) -> list[dict[str, float]]:
    """A whole run; 24 pairs of 12 things, unless given others. Validated on 9 matches and 5 mismatches."""
    rows = pairs(24, things=12) if rows is None else rows
    return Training(model, rows, VALIDATION, plan, folder, **hooks).run()


VALIDATION = pairs(14, things=6, mismatches=(1, 4, 6, 9, 12), seed=1)


def gradients_of(model: Encoder) -> dict[str, np.ndarray]:
    """The gradients that are there, by parameter."""
    found = {name: p.grad for name, p in model.towers.named_parameters() if p.grad is not None}
    return {name: gradient.numpy().copy() for name, gradient in found.items()}


def state_of(model: Encoder) -> dict[str, Tensor]:
    """A copy of the towers' parameters and buffers."""
    return {name: value.clone() for name, value in model.towers.state_dict().items()}


def both(function: Callable[..., T], *args: Any) -> list[T]:
    """What a function of a module says in each of two worker processes, which are started once for all tests.

    It may use torch.distributed (gloo, as `finetune` does on CPUs). A worker that waits for the other longer than
    a minute fails.
    """
    working = [pool.submit(function, *args) for pool in _pools()]
    return [work.result(timeout=120) for work in working]


@functools.cache
def _pools() -> list[ProcessPoolExecutor]:
    folder = tempfile.mkdtemp(prefix="tiny-workers-")
    return [
        ProcessPoolExecutor(1, get_context("spawn"), initializer=_join, initargs=(rank, folder))
        for rank in (0, 1)
    ]


def _join(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=2,
        timeout=timedelta(minutes=1),
    )
