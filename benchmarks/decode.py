"""JPEG bytes -> the model's 224 x 224 pixels on one core: how fast, how near to the reference, what is noticed?

    python -m benchmarks.decode --photos ../shared/data/grocery/images
    python -m benchmarks.decode --photos ../shared/data/grocery/images --model demo_output/model/best_model

The reference is transformers' CLIP processor on the full decode. All methods decode the same unique files in turn, in
one run. Nearness is the cosine of the embeddings by a ViT-B/32 with random weights, and by --model in its own
size. Needs opencv-python-headless, which nothing else here uses.
"""

import hashlib
import io
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import PIL
import simplejpeg
import torch
import transformers
import tyro
from PIL import Image, ImageFilter, ImageOps
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

from data_jobs import drawing, images
from train_jobs.arrays import Embeddings, Pixels
from train_jobs.encoder import Encoder
from train_jobs.view import View

SIDE, CANVAS, TILES = 224, (1600, 1200), 40  # a mosaic takes at most TILES photos
CUTS, CUT_FILES = (0.5, 0.9, 0.99), 20  # shares of a truncated file that are left; files that are truncated


@dataclass(frozen=True)
class Decode:
    photos: Path | None = None
    """Folder of small JPEG photos, searched at any depth. Without it: drawn ones, 320 px."""
    model: str | None = None
    """Model directory whose embeddings are compared as well."""
    small: int = 300
    """How many small photos."""
    large: int = 40
    """How many 1600 px photos, half of them mosaics and half upscaled."""
    rounds: int = 7
    """Times that every method decodes every photo."""
    seed: int = 0


@dataclass(frozen=True)
class Judge:
    """A model that says how near two decodes are."""

    name: str
    view: View
    embed: Callable[[Pixels], Embeddings]


Method = Callable[[bytes, View], Pixels]

# ------------------------------------------------------------------------------------ the methods


def reference(data: bytes, view: View) -> Pixels:
    crop = view.resize == "crop"
    square = {"height": view.size, "width": view.size}
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": view.size} if crop else square,
        do_center_crop=crop,
        crop_size=square,
        do_rescale=False,
        do_normalize=False,
    )
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    return processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0).astype(np.uint8)


def pillow(data: bytes, view: View, margin: int | None = None) -> Pixels:
    """`margin`: how many times the size the shortest side of a smaller decode must be; None decodes in full."""
    image = Image.open(io.BytesIO(data))
    if margin:
        image.draft("RGB", (margin * view.size, margin * view.size))
    return _by_pillow(ImageOps.exif_transpose(image).convert("RGB"), view)


def turbo(data: bytes, view: View, margin: int) -> Pixels:
    """As `pillow`, with every scale of eighths that libjpeg-turbo has; knows nothing of EXIF."""
    least = margin * view.size
    pixels = simplejpeg.decode_jpeg(data, min_height=least, min_width=least, strict=True)
    return _by_pillow(Image.fromarray(pixels), view)


def opencv(data: bytes, view: View) -> Pixels:
    height, width, *_ = simplejpeg.decode_jpeg_header(data)  # OpenCV cannot tell before it decodes
    shrink = next(k for k in (8, 4, 2, 1) if min(width, height) // k >= view.size or k == 1)
    flag = cv2.IMREAD_COLOR if shrink == 1 else getattr(cv2, f"IMREAD_REDUCED_COLOR_{shrink}")
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    if pixels is None:
        raise ValueError("OpenCV read nothing")
    height, width = pixels.shape[:2]
    scale = view.size / min(width, height)
    crop = view.resize == "crop"
    size = (max(view.size, int(width * scale)), max(view.size, int(height * scale)))
    small = cv2.resize(pixels, size if crop else (view.size, view.size), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(_centre(small, view.size), cv2.COLOR_BGR2RGB)


def ours(data: bytes, view: View) -> Pixels:
    return view.pixels(images.decode(data, target=view.shortest))


def ours_pillow(data: bytes, view: View) -> Pixels:
    """As `ours`, with Pillow's bicubic filter for PyTorch's."""
    return _by_pillow(images.decode(data, target=view.size), view)


def _by_pillow(image: Image.Image, view: View) -> Pixels:
    """Pillow's bicubic filter on the full image, as transformers' processor uses it."""
    scale = view.size / min(image.size)
    size = (max(view.size, int(image.width * scale)), max(view.size, int(image.height * scale)))
    small = image.resize(size if view.resize == "crop" else (view.size, view.size), Image.Resampling.BICUBIC)
    return _centre(np.asarray(small), view.size)


def _centre(pixels: Pixels, size: int) -> Pixels:
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return pixels[top : top + size, left : left + size]


METHODS: dict[str, Method] = {
    "Pillow, full": pillow,
    "Pillow, draft 1x": lambda data, view: pillow(data, view, 1),
    "Pillow, draft 2x": lambda data, view: pillow(data, view, 2),
    "OpenCV, reduced + area": opencv,
    "simplejpeg 1x + Pillow": lambda data, view: turbo(data, view, 1),
    "simplejpeg 2x + Pillow": lambda data, view: turbo(data, view, 2),
    "ours, with Pillow's filter": ours_pillow,
    "ours: decode + preprocess": ours,
}

# ------------------------------------------------------------------------------------- the photos


def small_photos(folder: Path | None, seed: int) -> Iterator[bytes]:
    """Unique JPEG files in a random order, without end for drawn ones."""
    rng = np.random.default_rng(seed)
    if folder is None:
        while True:
            for product in drawing.random_products(64, seed=int(rng.integers(1 << 30))):
                yield jpeg(drawing.draw(product, 320))
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    seen = set()
    for place in rng.permutation(len(paths)):
        data = paths[place].read_bytes()
        if (digest := hashlib.sha256(data).digest()) not in seen:
            seen.add(digest)
            yield data


def mosaic(photos: Iterable[bytes]) -> bytes:
    """Photos laid side by side, pixel for pixel, on CANVAS: the detail of a large photo is real."""
    canvas, left, top, row = Image.new("RGB", CANVAS), 0, 0, 0
    for data in photos:
        tile = Image.open(io.BytesIO(data)).convert("RGB")
        if left >= CANVAS[0]:
            left, top, row = 0, top + row, 0
        canvas.paste(tile, (left, top))
        left, row = left + tile.width, max(row, tile.height)
    return jpeg(canvas)


def upscaled(data: bytes) -> bytes:
    """One photo enlarged to a longest side of 1600 px, then sharpened."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    scale = CANVAS[0] / max(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    return jpeg(image.filter(ImageFilter.UnsharpMask(radius=3, percent=200)))


def jpeg(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90)
    return out.getvalue()


def photo_sets(config: Decode) -> dict[str, list[bytes]]:
    """Raises SystemExit where the folder holds too few photos: each is used once but for those upscaled."""
    stream = small_photos(config.photos, config.seed)
    small = list(islice(stream, config.small))
    half = config.large // 2
    tiles = [list(islice(stream, TILES)) for _ in range(half)]
    if len(small) < max(config.small, config.large - half) or not all(len(t) == TILES for t in tiles):
        raise SystemExit(f"{config.photos} needs {config.small + half * TILES} unique JPEG photos.")
    return {
        "small": small,
        "mosaic": [mosaic(photos) for photos in tiles],
        "upscaled": [upscaled(data) for data in small[: config.large - half]],
    }


# ---------------------------------------------------------------------------------- the measures


def random_vit(seed: int) -> Judge:
    torch.manual_seed(seed)
    model = CLIPVisionModelWithProjection(CLIPVisionConfig()).eval()  # the defaults are ViT-B/32
    mean = torch.tensor(CLIPImageProcessorPil.image_mean).view(3, 1, 1)
    std = torch.tensor(CLIPImageProcessorPil.image_std).view(3, 1, 1)

    def embed(pixels: Pixels) -> Embeddings:
        rows = []
        with torch.inference_mode():
            for batch in torch.from_numpy(pixels).split(16):
                rows.append(model((batch.permute(0, 3, 1, 2) / 255 - mean) / std).image_embeds)
        return torch.nn.functional.normalize(torch.cat(rows)).numpy()

    return Judge("ViT-B/32, random weights", View(SIDE, SIDE, "crop", "bicubic"), embed)


def trained(folder: str) -> Judge:
    encoder = Encoder.load(folder, "cpu", 16)
    return Judge(folder, View.of(encoder.spec), encoder.images)


def decoded(method: Method, data: bytes, view: View) -> Pixels | None:
    """None for a failure: anything raised, or pixels of another shape."""
    try:
        pixels = method(data, view)
    except Exception:
        return None
    return pixels if pixels.shape == (view.size, view.size, 3) else None


def speeds(photos: list[bytes], rounds: int) -> dict[str, float]:
    """Images a second, the median of the rounds. The methods take turns photo by photo, each first in its turn."""
    view = View(SIDE, SIDE, "crop", "bicubic")
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    names = list(METHODS)
    for _ in range(rounds):
        spent = dict.fromkeys(METHODS, 0.0)
        for data in photos:
            names.append(names.pop(0))
            for name in names:
                started = time.perf_counter()
                decoded(METHODS[name], data, view)
                spent[name] += time.perf_counter() - started
        for name in METHODS:
            seconds[name].append(spent[name])
    return {name: len(photos) / statistics.median(times) for name, times in seconds.items()}


@dataclass(frozen=True)
class Nearness:
    """Cosines of the embeddings to the reference's, levels (0 to 255) between the pixels, and failures."""

    cosines: list[float]
    levels: list[float]
    failures: int


def nearness(judge: Judge, photos: list[bytes]) -> tuple[dict[str, Nearness], float]:
    """By method; and the mean cosine of two different photos, to hold the others against."""
    expected = np.stack([reference(data, judge.view) for data in photos])
    wanted = judge.embed(expected)
    found = {}
    for name, method in METHODS.items():
        pictures = {row: decoded(method, data, judge.view) for row, data in enumerate(photos)}
        there = {row: pixels for row, pixels in pictures.items() if pixels is not None}
        rows, failures = list(there), len(photos) - len(there)
        if not rows:
            found[name] = Nearness([float("nan")], [float("nan")], failures)
            continue
        pixels = np.stack(list(there.values()))
        gaps = np.abs(pixels.astype(np.int16) - expected[rows]).mean((1, 2, 3))
        cosines = (judge.embed(pixels) * wanted[rows]).sum(1)
        found[name] = Nearness(cosines.tolist(), gaps.tolist(), failures)
    pairs = (wanted @ wanted.T)[np.triu_indices(len(wanted), 1)]
    return found, float(pairs.mean()) if len(pairs) else float("nan")


def truncated(photos: list[bytes]) -> list[bytes]:
    return [data[: int(share * len(data))] for data in photos[:CUT_FILES] for share in CUTS]


def main(config: Decode) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    print(
        f"{cpu()}, one thread of {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"Pillow {PIL.__version__}, simplejpeg {simplejpeg.__version__}, OpenCV {cv2.__version__}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}"
    )
    judges = [random_vit(config.seed), *([trained(config.model)] if config.model else [])]
    for kind, photos in photo_sets(config).items():
        report(kind, photos, judges, config)


def report(kind: str, photos: list[bytes], judges: list[Judge], config: Decode) -> None:
    sizes = [Image.open(io.BytesIO(data)).size for data in photos]
    width, height = (round(statistics.median(side)) for side in zip(*sizes, strict=True))
    kib = statistics.median(len(data) for data in photos) / 1024
    source = config.photos or "drawn"
    print(f"\n{kind}: {len(photos)} unique photos ({source}), median {width} x {height} px, {kib:.0f} KiB")
    speed, cut = speeds(photos, config.rounds), truncated(photos)
    print(f"{'':28} {'images/s':>8} {'truncated noticed':>18}")
    for name, method in METHODS.items():
        noticed = sum(decoded(method, data, View(SIDE, SIDE, "crop", "bicubic")) is None for data in cut)
        print(f"{name:28} {speed[name]:8.0f} {f'{noticed} of {len(cut)}':>18}")
    for judge in judges:
        found, apart = nearness(judge, photos)
        print(
            f"by {judge.name}, {judge.view.size} px, {judge.view.resize}; two different photos: {apart:.3f}"
        )
        print(f"{'':28} {'min cosine':>10} {'mean':>9} {'levels, mean':>13} {'max':>6} {'failures':>9}")
        for name, near in found.items():
            print(
                f"{name:28} {min(near.cosines):10.6f} {statistics.mean(near.cosines):9.6f} "
                f"{statistics.mean(near.levels):13.3f} {max(near.levels):6.3f} {near.failures:9}"
            )


def cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main(tyro.cli(Decode, description=__doc__))
