"""Image bytes -> an upright RGB picture, or a named rejection.

The whole picture is decoded, because a truncated file has a perfect header. Formats are told by content,
never by file name.
"""

import io
import re

from PIL import Image

from data_jobs.errors import InputError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
_READ_AS = {"MPO": "JPEG"}  # phones store a JPEG with its depth map or gain map as a multi-picture object
_SIGNATURES = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8|RIFF....WEBP", re.DOTALL)
MAX_PIXELS = 50_000_000
"""Default bound against decompression bombs: four times a 12-megapixel phone photo, 150 MB as RGB."""
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
    at a smaller DCT scale whose shortest side is still at least `target` pixels (measured cosine to the full
    decode 1.00000); the header's size is then in `image.info["original_size"]` as (width, height), upright.

    Raises InputError with code empty_file, not_an_image, unsupported_format, too_many_pixels or
    truncated_image.
    """
    if not data:
        raise InputError("empty_file", "The image file has 0 bytes.", "Upload the picture again.")
    try:
        image: Image.Image = Image.open(io.BytesIO(data))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_many_pixels(str(error), max_pixels) from error
    except Exception as error:  # Pillow's parsers raise many types on hostile headers
        if _SIGNATURES.match(data):
            raise _truncated(f"The picture of {len(data)} bytes", error) from error
        raise InputError(
            "not_an_image",
            f"The {len(data)} bytes are not a picture in a known format.",
            f"Use one of {', '.join(FORMATS)}.",
        ) from error
    if _READ_AS.get(image.format or "", image.format) not in FORMATS:
        raise InputError(
            "unsupported_format",
            f"The picture is a {image.format} file; accepted are {', '.join(FORMATS)}.",
            "Convert it to JPEG or PNG.",
        )
    width, height = image.size
    if width * height > max_pixels:
        raise _too_many_pixels(f"{width} x {height} pixels", max_pixels)
    try:
        orientation = image.getexif().get(0x0112, 1)
        if target is not None:
            image.draft("RGB", (target, target))  # does nothing but for JPEG
        image.load()
        upright = _to_rgb(image)
        if orientation in _UPRIGHT:
            upright = upright.transpose(_UPRIGHT[orientation])
    except Exception as error:
        raise _truncated(f"The {image.format} picture of {width} x {height} pixels", error) from error
    upright.info = {"original_size": (height, width) if orientation in (5, 6, 7, 8) else (width, height)}
    return upright


def encode_jpeg(image: Image.Image, *, shortest_side: int, quality: int = 92) -> bytes:
    """Re-encode for the dataset: shrunk (never enlarged) to `shortest_side` pixels, JPEG bytes.

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
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality, subsampling=0)
    return out.getvalue()


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
