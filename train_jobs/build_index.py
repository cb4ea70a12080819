"""A model and a docstore -> a searchable index.

    python -m train_jobs.build_index --model DIR --docstore DATASET/docstore.parquet --output-dir INDEX

Passages are embedded by Ray tasks, a block each, in the docstore's order.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from data_jobs import command, progress, schema
from data_jobs.errors import InputError
from data_jobs.session import connected
from train_jobs import index
from train_jobs.checkpoints import DEFAULT_MODEL, local_folder
from train_jobs.encoder import Embeddings, Encoder
from train_jobs.index import Manifest
from train_jobs.spec import ModelSpec


@dataclass(frozen=True)
class BuildIndex:
    docstore: Path
    """A dataset's docstore.parquet."""
    output_dir: Path
    """Index directory; a new version is added to an existing one."""
    model: str = DEFAULT_MODEL
    """Model directory or hub name; queries must use the same one."""
    rows_per_task: int = 2048
    """Passages that one task embeds."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""


def run(config: BuildIndex) -> Manifest:
    """Embed, write, publish; returns the manifest. Raises InputError."""
    command.positive("rows_per_task", config.rows_per_task)
    documents = _read(config.docstore)
    folder = str(local_folder(config.model)[0].absolute())
    texts = [
        text_of(title, passage)
        for title, passage in zip(
            documents["title"].to_pylist(), documents["passage_text"].to_pylist(), strict=True
        )
    ]
    blocks = [
        texts[start : start + config.rows_per_task] for start in range(0, len(texts), config.rows_per_task)
    ]
    with connected(), progress.bar("embed", "passages", documents.num_rows) as bar:
        embed = _embed.options(num_gpus=1 if config.device == "cuda" else 0)
        running = [embed.remote(folder, config.device, block) for block in blocks]
        vectors, specs = [], []
        for reference, block in zip(running, blocks, strict=True):
            rows, spec = ray.get(reference)
            vectors.append(rows)
            specs.append(spec)
            bar.update(len(block))
    manifest = index.write(
        config.output_dir, np.concatenate(vectors), documents, specs[0], embedded="title. passage_text"
    )
    print(f"{config.output_dir}/{manifest.version}: {manifest.rows} passages, model {manifest.model_hash}")
    return manifest


def text_of(title: str, passage: str) -> str:
    """What is embedded of a document: people search by title, so it leads (benchmarks/title_search.py)."""
    return f"{title}. {passage}" if title else passage


@ray.remote(num_cpus=1)
def _embed(folder: str, device: str, texts: list[str]) -> tuple[Embeddings, ModelSpec]:
    encoder = Encoder.load(folder, device)
    return encoder.texts(texts), encoder.spec


def _read(path: Path) -> pa.Table:
    try:
        table: Any = pq.read_table(path, schema=schema.DOCSTORE)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(
            "not_a_docstore", f"{path} is no docstore ({error}).", "Use DATASET/docstore.parquet."
        ) from error
    if not table.num_rows:
        raise InputError("nothing_to_index", f"{path} holds no passages.", "Ingest some first.")
    return table


if __name__ == "__main__":
    command.main(BuildIndex, run, __doc__)
