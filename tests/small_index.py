"""A model's spec, vectors and documents: an index of 16 dimensions that is written in no time."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_jobs import schema, text
from train_jobs import index
from train_jobs.index import Manifest, Queries
from train_jobs.index_kinds import Modality, Vectors
from train_jobs.spec import ModelSpec

ROWS, WIDTH = 200, 16


def spec(**changes: Any) -> ModelSpec:
    facts: dict[str, Any] = {
        "base_model": "test", "base_revision": None, "family": "clip", "embedding_dim": WIDTH,
        "image_size": 32, "image_resize": "crop", "image_shortest": 32, "image_resample": "bicubic",
        "image_mean": (0.5, 0.5, 0.5), "image_std": (0.5, 0.5, 0.5), "context_length": 77,
        "pad_to_context": False, "text_normalizer": text.VERSION,
        "logit_scale": 10.0, "logit_bias": 0.0, "calibration": None, "threshold": None, "metrics": {},
        "data_fingerprint": None, "weights_sha256": "ab" * 32,
    }  # fmt: skip
    return ModelSpec(**facts | changes)


def units(rows: int, seed: int = 0) -> Vectors:
    rows_ = np.random.default_rng(seed).normal(size=(rows, WIDTH)).astype(np.float32)
    return rows_ / np.linalg.norm(rows_, axis=1, keepdims=True)


def make_documents(rows: int) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "id": f"d{row}", "food_id": f"g{row // 2}", "title": f"قرمه سبزی {row}",
                "passage_text": f"passage {row}", "image_path": None,
                "metadata": json.dumps({"row": row, "price": f"{row % 50}.50"}),
            }
            for row in range(rows)
        ],
        schema.DOCSTORE,
    )  # fmt: skip


VECTORS = units(ROWS)


def make_queries(vectors: Vectors, **facts: Any) -> Queries:
    return Queries(
        **{"about": "some", "vectors": vectors, "groups": ["g0"] * len(vectors), "own": [-1] * len(vectors)}
        | facts
    )


NOBODY = make_queries(np.empty((0, WIDTH), np.float32), about="nobody asked")
UNASKED: dict[Modality, Queries] = {"text": NOBODY, "image": NOBODY}


def write(folder: Path, rows: int, seed: int = 0) -> Manifest:
    return index.write(folder, units(rows, seed), make_documents(rows), spec(), embedded="x", queries=UNASKED)
