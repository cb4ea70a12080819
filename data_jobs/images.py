"""Image bytes -> an upright RGB picture, or a named rejection.

The whole picture is decoded, because a truncated file has a perfect header. Formats are told by content,
never by file name. Pillow reads every header and is the judge of what is accepted; the pixels of a JPEG
without fault come from libjpeg-turbo through simplejpeg, which gives the same ones sooner (benchmarks/decode).
"""

import io
import re

import simplejpeg
from PIL import Image

from data_jobs.errors import InputError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
_JPEG = ("JPEG", "MPO")  # phones store a JPEG with its depth map or gain map as a multi-picture object
_SIGNATURES = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8|RIFF....WEBP", re.DOTALL)
MAX_PIXELS = 50_000_000
"""Default bound against decompression bombs: four times a 12-megapixel phone photo, 150 MB as RGB."""
MAX_ASPECT = 200
"""A panorama has 20. A model that crops scales the shortest side up: of 1,000,000 x 1 pixels it would make 150 GB."""
_OTHERS = ("AVIF", "BMP", "ICO", "JPEG2000", "PPM", "PSD", "TIFF")
"""Known by name in a refusal. Pillow knows more, some of whose headers take seconds to read (EPS)."""
_LONGEST_JPEG_SIDE = 65_500  # libjpeg's JPEG_MAX_DIMENSION

_UPRIGHT = {  # EXIF orientation, TIFF 6.0 tag 274 -> what turns the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS, target: int | None = None) -> Image.Image:
    """Decode `data` fully to an upright RGB image.

    EXIF orientation is applied, transparency is laid on white, 16-bit greys are scaled to 8, CMYK and
    palettes are converted, and of an animation the first frame is taken. With `target`, a JPEG may be decoded
    at 1/2, 1/4 or 1/8 of its size, the smallest whose shortest side is still at least `target` pixels. The
    header's size is in `image.info["original_size"]` as (width, height), upright.

    Raises InputError with code empty_file, not_an_image, unsupported_format, too_many_pixels, too_elongated
    or truncated_image.
    """
    if not data:
        raise InputError("empty_file", "The image file has 0 bytes.", "Upload the picture again.")
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=(*FORMATS, *_OTHERS))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        declared = re.search(r"\d+", str(error))  # Pillow's words, with another limit
        found = f"{int(declared[0]):,} pixels" if declared else "too many pixels"
        raise _too_many_pixels(found, max_pixels) from error
    except Exception as error:  # Pillow's parsers raise many types on hostile headers
        if _SIGNATURES.match(data):
            raise _truncated(f"The picture of {len(data)} bytes", error) from error
        raise InputError(
            "not_an_image",
            f"The {len(data)} bytes are not a picture in a known format.",
            f"Use one of {', '.join(FORMATS)}.",
        ) from error
    if image.format not in (*FORMATS, *_JPEG):
        raise InputError(
            "unsupported_format",
            f"The picture is a {image.format} file; accepted are {', '.join(FORMATS)}.",
            "Convert it to JPEG or PNG.",
        )
    width, height = image.size
    if width * height > max_pixels:
        raise _too_many_pixels(f"{width} x {height} pixels", max_pixels)
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise InputError(
            "too_elongated",
            f"The picture has {width} x {height} pixels; the limit is {MAX_ASPECT} times as long as wide.",
            "Crop it to the product.",
        )
    try:
        orientation = image.getexif().get(0x0112, 1)
        upright = _by_turbojpeg(data, image.size, target) if image.format in _JPEG else None
        if upright is None:
            upright = _by_pillow(image, target)
        if orientation in _UPRIGHT:
            upright = upright.transpose(_UPRIGHT[orientation])
    except Exception as error:
        raise _truncated(f"The {image.format} picture of {width} x {height} pixels", error) from error
    upright.info = {"original_size": (height, width) if orientation in (5, 6, 7, 8) else (width, height)}
    return upright


def shrink(image: Image.Image, shortest_side: int) -> Image.Image:
    """The picture scaled down (never up) to `shortest_side` pixels by a bicubic filter; its aspect stays.

    Raises InputError (side_too_long) when the longest side is then beyond what JPEG can hold.
    """
    side = min(image.size)
    if side > shortest_side:
        scale = shortest_side / side
        size = (
            max(shortest_side, round(image.width * scale)),
            max(shortest_side, round(image.height * scale)),
        )
        image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    if max(image.size) > _LONGEST_JPEG_SIDE:
        raise InputError(
            "side_too_long",
            f"At a shortest side of {min(image.size)} pixels the picture is {max(image.size)} pixels long; "
            f"JPEG holds {_LONGEST_JPEG_SIDE}.",
            "Crop the picture to the product.",
        )
    return image


def encode_jpeg(image: Image.Image, *, quality: int = 92) -> bytes:
    """The picture as a JPEG file, colours at full resolution (4:4:4).

    Pillow's encoder: simplejpeg's takes as long, with a less exact DCT below quality 96.
    """
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality, subsampling=0)
    return out.getvalue()


def _by_turbojpeg(data: bytes, size: tuple[int, int], target: int | None) -> Image.Image | None:
    """A flawless JPEG's pixels, the same as `_by_pillow` gives; None for a faulty one, for CMYK, and for a tiny one.

    None too where libjpeg-turbo reads another size than Pillow, whose `size` was held to the limit of pixels.
    """
    scale = next((s for s in (8, 4, 2) if target and min(size) // s >= target), 1)
    if max(size) < 8:
        return None  # 3/8 of 5 pixels are 2 as well as 1/2, and simplejpeg would take 3/8
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if (width, height) != size or colours not in ("YCbCr", "Gray", "RGB"):
            return None
        pixels = simplejpeg.decode_jpeg(  # RGBX is how Pillow keeps RGB: copied, not rearranged
            data, "RGBX", min_height=-(-height // scale), min_width=-(-width // scale), strict=True
        )
    except Exception:  # Pillow will name the error, or find none
        return None
    return Image.frombytes("RGB", (pixels.shape[1], pixels.shape[0]), pixels.data, "raw", "RGBX")


def _by_pillow(image: Image.Image, target: int | None) -> Image.Image:
    if target is not None:
        image.draft("RGB", (target, target))  # does nothing but for JPEG
    image.load()
    return _to_rgb(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert every mode Pillow decodes to RGB; always a new image."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.new("RGB", rgba.size, (255, 255, 255))
        image.paste(rgba, mask=rgba.getchannel("A"))
    return image.convert("RGB")


def _truncated(what: str, error: Exception) -> InputError:
    return InputError(
        "truncated_image",
        f"{what} breaks off or is damaged ({error}).",
        "Export or download the picture again.",
    )


def _too_many_pixels(found: str, max_pixels: int) -> InputError:
    return InputError(
        "too_many_pixels",
        f"The picture has {found}; the limit is {max_pixels:,} pixels.",
        "Scale it down before sending it.",
    )
