"""How far do perceptual hashes move when a photo is changed, and how near are photos of different things?

    python -m benchmarks.near_duplicates --photos ../shared/data/grocery/images

Supports `data_jobs.duplicates.NEAR_DISTANCE`: what each distance finds, and what it wrongly joins. The class of
a photo is its folder's name. Hashed is what ingest hashes: the picture decoded and shrunk to --image-size.
"""

import hashlib
import io
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
import tyro
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

from data_jobs import images
from data_jobs.duplicates import NEAR_DISTANCE
from data_jobs.errors import InputError
from data_jobs.perceptual import distance, phash

DISTANCES = (0, 2, 4, 6, 8, 10)
NEAREST = 4
"""How many of the nearest pairs of different classes are printed by name."""


@dataclass(frozen=True)
class NearDuplicates:
    photos: Path
    """Folder of photos, searched at any depth."""
    limit: int = 3000
    """At most so many photos, chosen at random."""
    image_size: int = 224
    """Shortest side of the hashed picture, as in ingest."""
    seed: int = 0


def jpeg(image: Image.Image, quality: int) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)
    return out.getvalue()


def half(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)


def watermarked(image: Image.Image, bar: bool) -> Image.Image:
    """Half-transparent white text in the lower right corner, or solid on a dark bar, as shops stamp it."""
    layer = Image.new("RGBA", image.size)
    pen, font = ImageDraw.Draw(layer), ImageFont.load_default(max(10, image.height // 20))
    left, top, right, bottom = pen.textbbox((0, 0), "shop.example", font=font)
    corner = (image.width - (right - left) - 8, image.height - (bottom - top) - 8)
    if bar:
        pen.rectangle((*corner, image.width, image.height), fill=(40, 40, 40, 255))
    place = (corner[0] + 4 - left, corner[1] + 4 - top)
    pen.text(place, "shop.example", fill=(255, 255, 255, 255 if bar else 128), font=font)
    return Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")


def cropped(image: Image.Image, share: float) -> Image.Image:
    """`share` of each side's length is lost, half of it at either end."""
    dx, dy = round(image.width * share / 2), round(image.height * share / 2)
    return image.crop((dx, dy, image.width - dx, image.height - dy))


CHANGES: dict[str, Callable[[Image.Image], bytes]] = {
    "JPEG quality 50": lambda image: jpeg(image, 50),
    "JPEG quality 30": lambda image: jpeg(image, 30),
    "PNG": png,
    "half the size": lambda image: jpeg(half(image), 90),
    "half, quality 50": lambda image: jpeg(half(image), 50),
    "text in a corner": lambda image: jpeg(watermarked(image, bar=False), 90),
    "text on a bar in a corner": lambda image: jpeg(watermarked(image, bar=True), 90),
    "brightness + 20 %": lambda image: jpeg(ImageEnhance.Brightness(image).enhance(1.2), 90),
    "brightness - 20 %": lambda image: jpeg(ImageEnhance.Brightness(image).enhance(0.8), 90),
    "cropped by 2 %": lambda image: jpeg(cropped(image, 0.02), 90),
    "cropped by 5 %": lambda image: jpeg(cropped(image, 0.05), 90),
    "mirrored": lambda image: jpeg(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 90),
}


def hashed(data: bytes, image_size: int) -> int:
    return phash(images.shrink(images.decode(data, target=image_size), image_size))


def all_distances(hashes: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """uint8 [N, N]: bits in which the hashes differ."""
    return np.stack([np.bitwise_count(hashes ^ one) for one in hashes])


def main(config: NearDuplicates) -> None:
    paths = sorted(
        p for p in config.photos.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp")
    )
    if not paths:
        raise SystemExit(f"There are no photos below {config.photos}.")
    chosen = np.random.default_rng(config.seed).permutation(len(paths))[: config.limit]
    hashes: list[int] = []
    kept: list[Path] = []
    moved: dict[str, list[int]] = {name: [] for name in CHANGES}
    digests, same_bytes, failures = set(), 0, 0
    for path in (paths[place] for place in sorted(chosen)):
        data = path.read_bytes()
        if (digest := hashlib.sha256(data).digest()) in digests:
            same_bytes += 1
            continue
        digests.add(digest)
        try:
            image = images.decode(data)
        except InputError as error:
            failures += 1
            print(f"{path}: {error.code}")
            continue
        hashes.append(hashed(data, config.image_size))
        kept.append(path)
        for name, change in CHANGES.items():
            moved[name].append(distance(hashes[-1], hashed(change(image), config.image_size)))
    classes = np.array([path.parent.name for path in kept])
    print(
        f"{platform.machine()}, Pillow {PIL.__version__}; {len(kept)} unique photos below {config.photos}, "
        f"{len(set(classes))} classes; left out: {same_bytes} equal files, {failures} unreadable"
    )
    _print_moves(moved)
    _print_pairs(np.array(hashes, np.uint64), classes, kept)


def _print_moves(moved: dict[str, list[int]]) -> None:
    """By change: quantiles of the distance, and the share of photos within each of DISTANCES."""
    print(
        f"\nThe same photo, changed: bits that differ, and % of photos within (NEAR_DISTANCE = {NEAR_DISTANCE})"
    )
    print(
        f"{'':26} {'median':>6} {'p90':>4} {'p99':>4} {'max':>4}   "
        + "".join(f"{f'<={d}':>7}" for d in DISTANCES)
    )
    for name, bits in moved.items():
        median, p90, p99 = np.quantile(bits, [0.5, 0.9, 0.99], method="higher")
        shares = "".join(f"{100 * np.mean(np.array(bits) <= d):7.2f}" for d in DISTANCES)
        print(f"{name:26} {median:6} {p90:4} {p99:4} {max(bits):4}   {shares}")


def _print_pairs(hashes: NDArray[np.uint64], classes: NDArray[np.str_], paths: list[Path]) -> None:
    """How many pairs of different photos are within each distance, and the nearest ones by name."""
    first, second = np.triu_indices(len(hashes), 1)
    bits = all_distances(hashes)[first, second]
    same = classes[first] == classes[second]
    print(f"\nPairs of different photos: {(~same).sum():,} of two classes, {same.sum():,} of one")
    print(f"{'':10} {'two classes':>12} {'one class':>10} {'photos so joined to another class':>34}")
    for limit in DISTANCES:
        wrong = (bits <= limit) & ~same
        joined = len(set(first[wrong]) | set(second[wrong]))
        print(f"<= {limit:2} bits {wrong.sum():12,} {((bits <= limit) & same).sum():10,} {joined:34,}")
    apart = np.flatnonzero(~same)
    for pair in apart[np.argsort(bits[apart], kind="stable")[:NEAREST]]:
        names = (f"{paths[place].parent.name}/{paths[place].name}" for place in (first[pair], second[pair]))
        print(f"nearest of two classes: {bits[pair]} bits, {' and '.join(names)}")


if __name__ == "__main__":
    main(tyro.cli(NearDuplicates, description=__doc__))
