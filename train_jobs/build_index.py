"""A model and a docstore or pairs -> a searchable index.

    python -m train_jobs.build_index --model DIR --docstore DATASET/docstore.parquet --output-dir INDEX
    python -m train_jobs.build_index --model DIR --data DATASET --output-dir INDEX

--docstore indexes passages. --data indexes the distinct pictures of a dataset's pairs, so that texts and photos find
photos; with --embed texts its passages, asked with the pairs' pictures. Up to some 155,000 rows of 512 dimensions
search is exact; beyond, a graph or compressed cells are tuned on held-out queries, texts and pictures separately, until
a search finds --target-recall of the 10 nearest. Where that cannot be reached nothing is written. Embedding is done by
Ray tasks, a block each.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_jobs import command
from data_jobs.errors import InputError
from data_jobs.session import connected
from train_jobs import index_sources, indexing
from train_jobs.hub import DEFAULT_MODEL
from train_jobs.index import TARGET_RECALL, Manifest
from train_jobs.index_sources import Source


@dataclass(frozen=True)
class BuildIndex:
    output_dir: Path
    """Index directory; a new version is added to an existing one, and the one before it is kept."""
    docstore: Path | None = None
    """A dataset's docstore.parquet: index its passages."""
    data: Path | None = None
    """Dataset directory instead of --docstore: index what its pairs hold."""
    embed: Literal["images", "texts"] = "images"
    """What of --data is indexed."""
    model: str = DEFAULT_MODEL
    """Model directory or hub name; queries must use the same one."""
    kind: Literal["auto", "flat", "hnsw", "ivf-pq"] = "auto"
    """flat: exact; hnsw: a graph; ivf-pq: compressed, for more rows than memory holds. auto goes by size."""
    target_recall: float = TARGET_RECALL
    """Share of the 10 nearest that a search must find, for text queries and for picture queries."""
    rows_per_task: int = 2048
    """Passages or pictures that one task embeds."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""


def run(config: BuildIndex) -> Manifest:
    """Embed, tune, publish; returns the manifest. Raises InputError."""
    command.positive("rows_per_task", config.rows_per_task)
    if not 0 < config.target_recall <= 1:
        raise InputError(
            "bad_arguments", f"--target-recall is {config.target_recall}.", "Give more than 0, at most 1."
        )
    source = _source(config)
    with connected():
        manifest = indexing.build(
            source,
            config.model,
            config.output_dir.absolute(),
            device=config.device,
            kind=config.kind,
            target_recall=config.target_recall,
        )
    _print(config, manifest)
    return manifest


def _source(config: BuildIndex) -> Source:
    if config.docstore is not None and config.data is None:
        return index_sources.from_docstore(config.docstore, block=config.rows_per_task)
    if config.data is not None and config.docstore is None:
        return index_sources.from_pairs(config.data, embed=config.embed, block=config.rows_per_task)
    raise InputError("bad_arguments", "Give either --docstore or --data.", "See --help.")


def _print(config: BuildIndex, manifest: Manifest) -> None:
    print(
        f"{config.output_dir}/{manifest.version}: {manifest.rows} x {manifest.embedded}, model {manifest.model_hash}"
    )
    print(f"  {manifest.kind} ({manifest.factory}): {manifest.reason}")
    for modality, found in manifest.measured.items():
        recall = "not measured" if found.recall_at_10 is None else f"{found.recall_at_10:.3f}"
        settings = "exact" if found.settings is None else str(found.settings)
        print(f"  {modality} queries ({found.about}): {settings}; of the 10 nearest found: {recall}")
        if found.finds_at is not None:
            shares = ", ".join(f"{share:.3f} @{k}" for k, share in found.finds_at.items())
            print(f"    {found.answerable} with an answer in the index; found {shares}")


if __name__ == "__main__":
    command.main(BuildIndex, run, __doc__)
