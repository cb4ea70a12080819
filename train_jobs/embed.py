"""A model and pairs -> the embeddings of their distinct texts and pictures, in one Parquet file.

    python -m train_jobs.embed --model DIR --csv pairs.csv [--image-base-path DIR] --output vectors.parquet
    python -m train_jobs.embed --model DIR --data DATASET --only texts --output vectors.parquet

Columns kind, key, embedding; see data_jobs.embeddings. Of texts that differ in case alone the first is embedded.
Pictures that cannot be read are counted and named. Runs in this process, on one device; a CSV's pictures are read as
they are needed.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_jobs import command, dataset, embeddings, files, images, progress
from data_jobs.embeddings import Writer, image_key
from data_jobs.errors import InputError
from data_jobs.pair_table import PairTable
from data_jobs.text import text_key
from train_jobs.arrays import Pixels
from train_jobs.encoder import Encoder
from train_jobs.hub import DEFAULT_MODEL, local_folder

_TEXTS, _PICTURES = 2048, 512  # done and written together


@dataclass(frozen=True)
class Embed:
    output: Path
    """Parquet file to write."""
    model: str = DEFAULT_MODEL
    """Model directory or hub name."""
    csv: str | None = None
    """CSV with the columns image_path,text,label; labels do not matter."""
    image_base_path: str | None = None
    """Folder that relative image paths of the CSV start from (default: the CSV's own)."""
    data: Path | None = None
    """Dataset directory instead of --csv."""
    only: Literal["texts", "images", "both"] = "both"
    """What to embed."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    batch_size: int = 32
    """Texts or pictures in one forward pass."""
    threads: int = 2
    """Pictures read and decoded side by side."""
    overwrite: bool = False
    """Replace an earlier output."""


def run(config: Embed) -> dict[str, Any]:
    """Embed, write, print the counts and return them. Raises InputError."""
    for name in ("batch_size", "threads"):
        command.positive(name, getattr(config, name))
    if (config.csv is None) == (config.data is None):
        raise InputError("bad_arguments", "Give either --csv or --data.", "See --help.")
    if config.output.is_dir() or (config.output.exists() and not config.overwrite):
        raise InputError(
            "output_exists", f"{config.output} exists.", "Choose another --output, or --overwrite a file."
        )
    things = _things(config)
    encoder = Encoder.load(local_folder(config.model)[0], config.device, config.batch_size)
    model_hash = encoder.spec.model_hash
    unusable: list[tuple[str, InputError]] = []
    with embeddings.writing(config.output, encoder.spec.embedding_dim, model_hash) as writer:
        if config.only != "images":
            _embed_texts(encoder, things.texts, writer)
        if config.only != "texts":
            unusable = _embed_pictures(encoder, things.pictures, writer, config.threads)
        counts = {
            "texts": len(things.texts) if config.only != "images" else 0,
            "images": len(things.pictures) - len(unusable) if config.only != "texts" else 0,
            "unusable": dict(Counter(error.code for _, error in unusable)),
            "rows_left_out": things.rows_left_out,
            "model_hash": model_hash,
        }
        if not counts["texts"] and not counts["images"]:
            raise InputError(
                "nothing_usable",
                f"{config.csv or config.data} gave nothing to embed: {counts['unusable'] or 'no usable row'}.",
                "Check --image-base-path and the rows.",
            )
    _print(config, counts, unusable)
    return counts


@dataclass(frozen=True)
class _Things:
    """What to embed, each once: texts by text_key, and how to get a picture's bytes by image_key."""

    texts: dict[str, str]
    pictures: dict[str, Callable[[], bytes]]
    rows_left_out: dict[str, int]


def _things(config: Embed) -> _Things:
    if config.csv is not None:
        table = PairTable.read(config.csv, config.image_base_path)
        return _Things(
            _by_key(record.text for record in table.records),
            {
                image_key(record.image_path): partial(files.read_bytes, record.image_path)
                for record in table.records
            },
            dict(Counter(reject.code for reject in table.rejects)),
        )
    assert config.data is not None
    pairs = dataset.read_pairs(config.data, ["image", "image_path", "text"])
    images_of = pairs["image"]
    return _Things(
        _by_key(pairs["text"].to_pylist()),
        {
            image_key(path): partial(lambda row: images_of[row].as_py(), row)
            for row, path in enumerate(pairs["image_path"].to_pylist())
        },
        {},
    )


def _by_key(texts: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        found.setdefault(text_key(text), text)
    return found


def _embed_texts(encoder: Encoder, texts: dict[str, str], writer: Writer) -> None:
    with progress.bar("embed", "texts", len(texts)) as bar:
        for batch in _batches(texts, _TEXTS):
            writer.add("text", batch, encoder.texts([texts[key] for key in batch]))
            bar.update(len(batch))


def _embed_pictures(
    encoder: Encoder, pictures: dict[str, Callable[[], bytes]], writer: Writer, threads: int
) -> list[tuple[str, InputError]]:
    """Embed what can be decoded; (key, why) of the others."""

    def pixels(key: str) -> Pixels | InputError:
        try:
            data = pictures[key]()
        except files.FAILURES as error:
            return InputError("missing_image", f"It cannot be read ({error}).", "Check --image-base-path.")
        try:
            return encoder.pixels(images.decode(data, target=encoder.spec.image_shortest))
        except InputError as error:
            return error

    unusable = []
    with ThreadPoolExecutor(threads) as pool, progress.bar("embed", "pictures", len(pictures)) as bar:
        for batch in _batches(pictures, _PICTURES):
            found = list(zip(batch, pool.map(pixels, batch), strict=True))
            good = [(key, result) for key, result in found if not isinstance(result, InputError)]
            unusable += [(key, result) for key, result in found if isinstance(result, InputError)]
            if good:
                rows = encoder.images(np.stack([result for _, result in good]))
                writer.add("image", [key for key, _ in good], rows)
            bar.update(len(batch))
    return unusable


def _batches(keys: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(keys)
    while batch := list(islice(iterator, size)):
        yield batch


def _print(config: Embed, counts: dict[str, Any], unusable: list[tuple[str, InputError]]) -> None:
    print(
        f"{config.output}: {counts['texts']} texts and {counts['images']} pictures, model {counts['model_hash']}"
    )
    if counts["rows_left_out"]:
        print(f"  left out rows that cannot be read: {counts['rows_left_out']}")
    if unusable:
        print(f"  {len(unusable)} pictures could not be used: {counts['unusable']}")
        for key, error in unusable[:3]:
            print(f"    {key}: {error.message} {error.suggestion}")


if __name__ == "__main__":
    command.main(Embed, run, __doc__)
