"""Draw a sample catalogue: product pictures with English and Persian descriptions, split by product.

    python -m data_jobs.make_sample 200 --output-dir DIR

```
DIR/images/p00001.jpg ...   one picture a product
DIR/products.csv            every product: image_path,text,label, kind, colour, pattern; and rows broken on purpose
DIR/train.csv               matches of the training products, in both languages
DIR/val.csv calibration.csv test.csv   matches and mismatches of products that no other file holds;
                            mismatch_kind is colour (only the colour word is wrong), kind, or random
DIR/persian/                the same products as Persian JSON: a list, JSON lines and one folder a product
```
"""

import csv
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Annotated, Any

import tyro

from data_jobs import command, progress
from data_jobs.artefacts import publish
from data_jobs.drawing import Product, describe, draw, random_products, with_other_colour, with_other_kind
from data_jobs.errors import InputError

MARKER = "products.csv"
FIELDS = ("image_path", "text", "label", "mismatch_kind", "group_id", "kind", "colour", "pattern")
MIN_PRODUCTS = 20
SHARES = {"train": 0.73, "val": 0.07, "calibration": 0.1, "test": 0.1}


@dataclass(frozen=True)
class MakeSample:
    count: Annotated[int, tyro.conf.Positional]
    """How many products to draw."""
    output_dir: Path
    """Where the catalogue appears, whole, at the end."""
    size: int = 256
    """Width and height of a picture in pixels."""
    seed: int = 0
    """Another seed, other products."""
    overwrite: bool = False
    """Replace an earlier sample in the output directory."""


@dataclass(frozen=True)
class Listing:
    """A drawn product and the file its picture is in, relative to the catalogue."""

    product: Product
    image_path: str


def run(config: MakeSample) -> Path:
    """Draw and write the catalogue; returns its directory. Raises InputError (too_few_products)."""
    if config.count < MIN_PRODUCTS:
        raise InputError(
            "too_few_products",
            f"{config.count} products cannot be split into train, val, calibration and test.",
            f"Draw at least {MIN_PRODUCTS}.",
        )
    rng = random.Random(config.seed)
    with publish(config.output_dir, marker=MARKER, overwrite=config.overwrite) as folder:
        listings = _draw_all(folder, random_products(config.count, config.seed), config.size)
        _write_csv(folder / MARKER, [_row(x, describe(x.product), 1) for x in listings])
        _break_on_purpose(folder)
        for name, members in _split(listings).items():
            rows = _matches(members, rng) if name == "train" else _judged(members, rng)
            _write_csv(folder / f"{name}.csv", rows)
        _write_persian(folder / "persian", listings)
    print(
        f"{config.output_dir}: {config.count} products drawn; {MARKER} holds {len(BROKEN)} broken rows more"
    )
    return config.output_dir


def _draw_all(folder: Path, products: Sequence[Product], size: int) -> list[Listing]:
    (folder / "images").mkdir()
    listings = []
    with progress.bar("draw", "products", len(products)) as bar:
        for number, product in enumerate(products, 1):
            path = f"images/p{number:05d}.jpg"
            draw(product, size).save(folder / path, quality=92)
            listings.append(Listing(product, path))
            bar.update()
    return listings


def _split(listings: Sequence[Listing]) -> dict[str, list[Listing]]:
    """Consecutive shares of the (already shuffled) products."""
    parts, start, edge = {}, 0, 0.0
    for name, share in SHARES.items():
        edge += share
        end = round(len(listings) * edge)
        parts[name] = list(listings[start:end])
        start = end
    return parts


def _matches(listings: Sequence[Listing], rng: random.Random) -> list[dict[str, Any]]:
    """One description a product, English and Persian by turns."""
    return [
        _row(listing, describe(listing.product, language, rng.randrange(100)), 1)
        for listing, language in zip(listings, cycle(("en", "fa")), strict=False)
    ]


def _judged(listings: Sequence[Listing], rng: random.Random) -> list[dict[str, Any]]:
    """For each product and language a match, and a mismatch of each kind."""
    rows = []
    for listing in listings:
        for language in ("en", "fa"):
            variant = rng.randrange(100)
            true = listing.product
            others = {
                "colour": with_other_colour(true, rng),
                "kind": with_other_kind(true, rng),
                "random": with_other_kind(with_other_colour(true, rng), rng),
            }
            rows.append(_row(listing, describe(true, language, variant), 1))
            rows.extend(
                _row(listing, describe(other, language, variant), 0, mismatch_kind=name)
                for name, other in others.items()
            )
    return rows


def _row(listing: Listing, text: str, label: int, mismatch_kind: str = "") -> dict[str, Any]:
    product = listing.product
    return {
        "image_path": listing.image_path,
        "text": text,
        "label": label,
        "mismatch_kind": mismatch_kind,
        "group_id": f"{product.colour} {product.kind}",
        "kind": product.kind,
        "colour": product.colour,
        "pattern": product.pattern,
    }


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, FIELDS)
        writer.writeheader()
        writer.writerows(rows)


BROKEN: tuple[tuple[str, str, str], ...] = (
    ("images/missing.jpg", "A picture that is not there.", "1"),
    ("images/truncated.jpg", "A picture that breaks off.", "1"),
    ("images/note.jpg", "A text file that calls itself a picture.", "1"),
    ("images/empty.png", "An empty file.", "1"),
    ("images/p00001.jpg", "", "1"),
    ("images/p00001.jpg", "A label that is no label.", "maybe"),
)
"""Rows of products.csv that must be rejected, each for a reason of its own."""


def _break_on_purpose(folder: Path) -> None:
    images = folder / "images"
    whole = (images / "p00001.jpg").read_bytes()
    (images / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (images / "note.jpg").write_text("This is no picture.")
    (images / "empty.png").write_bytes(b"")
    with (folder / MARKER).open("a", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(BROKEN)


def _write_persian(folder: Path, listings: Sequence[Listing]) -> None:
    """The three shapes met in the wild, a third of the products each, and one broken line."""
    folder.mkdir()

    def record(listing: Listing, up: str) -> dict[str, str]:
        product = listing.product
        return {
            "title": describe(product, "fa", 3),
            "response": describe(product, "fa", 0),
            "image_path": f"{up}{listing.image_path}",
            "group_id": f"{product.colour} {product.kind}",
        }

    lists, lines, folders = listings[0::3], listings[1::3], listings[2::3]
    (folder / "list.json").write_text(
        json.dumps([record(x, "../") for x in lists], ensure_ascii=False, indent=1), "utf-8"
    )
    broken = '{"title": "خط شکسته", "response": '
    (folder / "lines.json").write_text(
        "\n".join([*(json.dumps(record(x, "../"), ensure_ascii=False) for x in lines), broken]), "utf-8"
    )
    for listing in folders:
        own = folder / "products" / Path(listing.image_path).stem
        own.mkdir(parents=True)
        (own / "record.json").write_text(
            json.dumps(record(listing, "../../../"), ensure_ascii=False), "utf-8"
        )


if __name__ == "__main__":
    command.main(MakeSample, run, __doc__)
