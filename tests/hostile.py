"""Hypothesis strategies for what strangers send: odd, damaged and lying pictures, and bodies that are none.

`benchmarks/fuzz.py` sends them over HTTP, `test_fuzz.py` hands them to the functions that meet them first.
"""

import base64
import io
import json
import struct
import zlib
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

SIDES = (37, 23)
"""Width and height of the sound pictures: odd, so that no padding goes unnoticed, and small, so that many are tried."""
BOUNDARY = "xxx"


@cache
def sound() -> dict[str, bytes]:
    """Whole files by name, in every mode that the accepted formats have, and in formats that are not accepted."""
    colours = np.random.default_rng(0).integers(0, 256, (*SIDES[::-1], 4), dtype=np.uint8)
    rgba = Image.fromarray(colours)
    rgb, grey = rgba.convert("RGB"), rgba.convert("L")
    sixteen = Image.fromarray(colours[..., 0].astype(np.uint16) * 257)
    frames = [rgb.rotate(90 * turn).quantize(16) for turn in range(3)]
    upside_down = Image.Exif()
    upside_down[0x0112] = 6
    animated: dict[str, Any] = {"save_all": True, "append_images": [frame.convert("RGB") for frame in frames]}
    return {
        "jpeg": _saved(rgb, "JPEG"),
        "jpeg, grey": _saved(grey, "JPEG"),
        "jpeg, CMYK": _saved(rgb.convert("CMYK"), "JPEG"),
        "jpeg, progressive": _saved(rgb, "JPEG", progressive=True),
        "jpeg, rotated": _saved(
            rgb, "JPEG", exif=upside_down, icc_profile=b"no profile" * 9, comment=b"hello"
        ),
        "jpeg, 1 x 1": _saved(rgb.crop((0, 0, 1, 1)), "JPEG"),
        "mpo": _saved(rgb, "MPO", **animated),
        "png": _saved(rgb, "PNG"),
        "png, transparent": _saved(rgba, "PNG"),
        "png, palette": _saved(frames[0], "PNG", transparency=3),
        "png, 1 bit": _saved(rgb.convert("1"), "PNG"),
        "png, 16 bit": _saved(sixteen, "PNG"),
        "png, 16 bit RGB": png(4, 2, depth=16, colour_type=2, rows=(b"\0" + bytes(range(24))) * 2),
        "png, interlaced": png(1, 1, colour_type=0, rows=b"\0\x80", interlaced=True),
        "png, animated": _saved(rgb, "PNG", **animated),
        "png, 1 x 1": _saved(rgb.crop((0, 0, 1, 1)), "PNG"),
        "webp": _saved(rgb, "WEBP"),
        "webp, lossless": _saved(rgba, "WEBP", lossless=True),
        "webp, animated": _saved(rgb, "WEBP", **animated),
        "gif": _saved(frames[0], "GIF"),
        "gif, animated": _saved(frames[0], "GIF", save_all=True, append_images=frames[1:], transparency=2),
        "bmp": _saved(rgb, "BMP"),
        "tiff": _saved(rgb, "TIFF"),
        "tiff, 16 bit": _saved(sixteen, "TIFF"),
        "ico": _saved(rgba, "ICO"),
        "jpeg 2000": _saved(rgb, "JPEG2000"),
        "eps": _saved(rgb, "EPS"),
        "text": b"This is no picture.",
        "empty": b"",
    }


@cache
def bombs() -> dict[str, bytes]:
    """Small files that promise, or hold, far more than they weigh."""
    million = zlib.compress(b"\0" * 1_000_000)
    return {
        "png, promised": png(50_000, 50_000),
        "png, beyond 2**31": png(2**31 - 1, 2**31 - 1),
        "png, thin": png(1_000_000, 1, colour_type=0, rows=b"\0" * 1_000_001),
        "png, 144 megapixels": _saved(Image.new("1", (12_000, 12_000)), "PNG"),
        "png, text": png(1, 1, rows=b"\0\0\0\0", more=[(b"zTXt", b"a\0\0" + million)] * 70),
        "png, profile": png(
            1, 1, rows=b"\0\0\0\0", more=[(b"iCCP", b"a\0\0" + zlib.compress(b"\0" * 9_000_000))]
        ),
        "jpeg, promised": resized(sound()["jpeg"], 65_500, 65_500),
        "gif, promised": resized(sound()["gif"], 65_535, 65_535),
        "webp, promised": resized(sound()["webp, animated"], 16_000, 16_000),
    }


def png(
    width: int,
    height: int,
    *,
    depth: int = 8,
    colour_type: int = 2,
    rows: bytes = b"",
    interlaced: bool = False,
    more: "list[tuple[bytes, bytes]] | tuple[()]" = (),
) -> bytes:
    """A PNG made by hand whose checksums are right: `rows` with their filter bytes, `more` chunks before them."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, interlaced)
    chunks = [(b"IHDR", header), *more, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(_chunk, chunks))


def resized(data: bytes, width: int, height: int) -> bytes:
    """The file with other sides in its header, wherever its format keeps them; whatever its pixels are."""
    edited = bytearray(data)
    if data.startswith(b"\x89PNG"):
        edited[16:24] = struct.pack(">II", width % 2**32, height % 2**32)
        edited[29:33] = struct.pack(">I", zlib.crc32(edited[12:29]))
    elif data.startswith(b"GIF"):
        edited[6:10] = struct.pack("<HH", width % 2**16, height % 2**16)
    elif data[12:16] == b"VP8X":
        edited[24:30] = (width - 1).to_bytes(8, "little", signed=True)[:3] + (height - 1).to_bytes(
            8, "little", signed=True
        )[:3]
    elif data.startswith(b"BM"):
        edited[18:26] = struct.pack("<II", width % 2**32, height % 2**32)
    else:
        for marker in (b"\xff\xc0", b"\xff\xc2"):
            place = data.find(marker)
            if data.startswith(b"\xff\xd8") and place > 0:
                edited[place + 5 : place + 9] = struct.pack(">HH", height % 2**16, width % 2**16)
    return bytes(edited)


def _chunk(named: tuple[bytes, bytes]) -> bytes:
    name, data = named
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


PLACES = st.floats(0, 1, exclude_max=True)
"""Where in a file, as a part of its length."""
EXTREMES = st.sampled_from(
    [b"\0", b"\xff", b"\0\0", b"\xff\xff", b"\x7f\xff", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff",
     b"\x80\0\0\0", b"\0\0\0\x80", b"\0\0\0\1", b"\1\0\0\0"]
)  # fmt: skip
LENGTHS = st.sampled_from(
    [0, 1, 2, 255, 256, 8000, 16_383, 16_384, 65_500, 65_535, 2**24, 2**31 - 1, 2**31, 2**32 - 1]
)


@st.composite
def pictures(draw: st.DrawFn) -> bytes:
    """A sound file, or one with up to three kinds of damage."""
    data = draw(st.sampled_from(list(sound().values())))
    for _ in range(draw(st.integers(0, 3))):
        data = draw(st.sampled_from(_DAMAGES))(draw, data)
    return data


def _flipped(draw: st.DrawFn, data: bytes) -> bytes:
    damaged = bytearray(data)
    for place, bit in draw(st.lists(st.tuples(PLACES, st.integers(0, 7)), min_size=1, max_size=8)):
        if damaged:
            damaged[int(place * len(damaged))] ^= 1 << bit
    return bytes(damaged)


def _cut(draw: st.DrawFn, data: bytes) -> bytes:
    return data[: int(draw(PLACES) * len(data))]


def _edited(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes of the header, where lengths and counts are, replaced by extreme ones."""
    place, extreme = int(draw(PLACES) * min(len(data), 200)), draw(EXTREMES)
    return data[:place] + extreme + data[place + len(extreme) :]


def _other_sides(draw: st.DrawFn, data: bytes) -> bytes:
    return resized(data, draw(LENGTHS | st.integers(0, 100)), draw(LENGTHS | st.integers(0, 100)))


def _spliced(draw: st.DrawFn, data: bytes) -> bytes:
    """The head of one file with the tail of another."""
    other = draw(st.sampled_from(list(sound().values())))
    return data[: int(draw(PLACES) * len(data))] + other[int(draw(PLACES) * len(other)) :]


def _repeated(draw: st.DrawFn, data: bytes) -> bytes:
    """A part of the file once more, or not at all."""
    start, end = sorted(int(draw(PLACES) * len(data)) for _ in range(2))
    return data[:end] + data[start:] if draw(st.booleans()) else data[:start] + data[end:]


def _longer(draw: st.DrawFn, data: bytes) -> bytes:
    place = int(draw(PLACES) * len(data))
    return data[:place] + draw(st.binary(max_size=64)) + data[place:]


_DAMAGES = [_flipped, _cut, _edited, _other_sides, _spliced, _repeated, _longer]

# ------------------------------------------------------------------------------------------ texts and values

ODD_TEXTS = st.sampled_from(
    ["", " ", "\0", "a\0b", "\u200c", "\u200f \u200c", "a" * 500, "a" * 501, "آش رشته", "\ud800", "\udfff a", "a\r\nb",
     "\ufdfa" * 499, "e" + "\u0301" * 400, "👩" * 250, "\uffff", "\U0010ffff", "<|endoftext|>", "[PAD] [UNK]",
     "{category}", "{0}", "%s", ",,,", "NaN", "-0", "1e999", "null", "../../etc/passwd", "/dev/zero", "=====", "AAAA=A",
     "data:,", "data:;base64,", "DATA:image/png;base64,AAAA", "data:image/png;base64," + "=" * 9, "http://0x7f.1/",
     "http://[::1", "http://\ud800", "http://127.0.0.1/x.jpg", "https://a:b@127.0.0.1:99999/", "file:///etc/passwd"]
)  # fmt: skip
TEXTS = ODD_TEXTS | st.text(max_size=40)
NUMBERS = (
    st.integers()
    | st.floats()
    | st.sampled_from([0, -1, 1, 5, 64, 1000, 1001, 2**31, 2**63, 2**64, 10**400, 1e308, -0.0, 0.5])
)


def base64s() -> st.SearchStrategy[str]:
    """A picture as base64 or a data URI, now and then with a letter changed."""

    def written(data: bytes, head: str, place: float, letter: str) -> str:
        value = base64.b64encode(data).decode()
        at = int(place * len(value))
        return head + value[:at] + letter + value[at:]

    heads = st.sampled_from(["", "", "data:image/jpeg;base64,", "data:;base64,", "data:image/png,", " "])
    return st.builds(
        written, pictures(), heads, PLACES, st.sampled_from(["", "", "", "\n", "=", "*", "é", "\0"])
    )


def values(names: list[str]) -> st.SearchStrategy[Any]:
    """Any JSON, its objects with these names among others, its texts odd ones and pictures among others."""
    leaves = st.none() | st.booleans() | NUMBERS | TEXTS | base64s()
    keys = st.sampled_from(names) | TEXTS
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=5),
        max_leaves=12,
    )


def written(value: Any) -> bytes:
    """As JSON, halves of surrogate pairs and numbers of any size included."""
    return json.dumps(value).encode()


SENSIBLE: dict[str, list[Any]] = {
    "text": ["a red mug", "آش رشته"],
    "texts": ["a red mug"],
    "threshold": [0.3, -1, "0.2"],
    "model": ["clip"],
    "categories": ["mug, plate,lamp", ["mug", "plate"]],
    "top_k": [1, 1000],
    "weights": [{"text": 0.5}, {"text": -1, "image": 2, "embedding": 0}],
    "filter": [
        {"title": "a"}, {"not": {"any": [{"id": "d1"}, {"price": {"gte": 1, "lt": "5"}}]}}, {"id": {"in": ["d1", 2]}},
        {"price": {"gte": 1, "lt": 50}, "colour": "red"},
    ],
    "exact": [True],
    "embedding": [[0.1] * 64, [1e38] * 64, [0.0] * 64],
    "input": ["a red mug", ["a", "b"], [{"text": "a"}, "b"]],
    "messages": [[{"role": "user", "content": "a"}], [{"content": [{"type": "text", "text": "a"}]}]],
    "encoding_format": ["float", "base64"],
    "dimensions": [1, 8],
    "modality": ["text", "image"],
    "items": [
        [{"text": "a"}, 1, None], [{"text": "a", "image_path": "a.jpg"}, {"text": "a", "image_url": "http://127.0.0.1/"}],
    ],
}  # fmt: skip
"""Values that are what a field of this name expects, or nearly."""


@st.composite
def json_bodies(draw: st.DrawFn, names: list[str]) -> bytes:
    """An object of some of these fields as JSON, of which some have values of any kind; broken now and then."""
    body: dict[str, Any] = {}
    for name in draw(st.lists(st.sampled_from(names), unique=True, max_size=5)):
        sensible = (
            [*SENSIBLE.get(name, ["a"]), draw(base64s())] if name == "image" else SENSIBLE.get(name, ["a"])
        )
        body[name] = draw(st.sampled_from(sensible))
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2]))):
        body[draw(st.sampled_from(names))] = draw(values([*names, *NESTED]))
    return draw(broken(written(body)))


NESTED = [
    "text",
    "image",
    "image_url",
    "url",
    "type",
    "content",
    "role",
    "not",
    "any",
    "in",
    "gt",
    "exists",
    "title",
]
"""Names that have a meaning deeper down in some body."""


@st.composite
def broken(draw: st.DrawFn, data: bytes) -> bytes:
    """Usually as it is; else with damage, or something else altogether."""
    how = draw(st.integers(0, 9))
    if how <= 6:
        return data
    if how <= 8:
        return draw(st.sampled_from([_flipped, _cut, _repeated, _longer]))(draw, data)
    return draw(st.sampled_from(ODD_BODIES))


ODD_BODIES = [
    b"", b"null", b"[]", b"{}", b'"', b"{", b"[" * 5000, b'{"a":' * 5000, b"\xff\xfe{}", b"\xef\xbb\xbf{}",
    b'"\\ud800"', b"1e99999", b"-", b"NaN", b"\0", b"9" * 5000, b'{"text": "a", "text": 1}',
    b"[" + b"[]," * 1000 + b"[]]",
]  # fmt: skip


@st.composite
def forms(draw: st.DrawFn, schema: dict[str, Any]) -> tuple[str, bytes]:
    """A multipart form, nearly as the schema wants it: its content type and its body, now and then malformed."""
    parts = [
        _part(draw, name, "format" in (facts | facts.get("items", {})))
        for name, facts in schema["properties"].items()
        if draw(st.booleans()) or (name in schema.get("required", []) and draw(st.booleans()))
    ]
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        parts.append(
            _part(draw, draw(st.sampled_from(list(schema["properties"])) | TEXTS), draw(st.booleans()))
        )
    return draw(st.sampled_from(CONTENT_TYPES)), draw(broken(b"".join(parts) + _END))


_END = b"--%s--\r\n" % BOUNDARY.encode()


def _part(draw: st.DrawFn, name: str, file: bool) -> bytes:
    if file:
        named = draw(st.sampled_from(["a.jpg", "عکس.png", "../../a", "a" * 300, "\0", '"', "\ud800"]))
        return part(name, draw(pictures()), named, draw(st.sampled_from(EXTRA_HEADERS)))
    sensible = st.sampled_from(
        [value if isinstance(value, str) else json.dumps(value) for value in SENSIBLE.get(name, ["a"])]
    )
    value = draw(sensible | sensible | PLAIN)
    return part(name, value.encode("utf-8", "surrogatepass"), None, draw(st.sampled_from(EXTRA_HEADERS)))


def part(name: str, data: bytes, file: str | None = None, headers: bytes = b"") -> bytes:
    """One part of a multipart form, a file if it has such a name."""
    named = b"" if file is None else b'; filename="%s"' % file.encode("utf-8", "surrogatepass")
    head = b'--%s\r\nContent-Disposition: form-data; name="%s"%s%s\r\n\r\n'
    return head % (BOUNDARY.encode(), name.encode("utf-8", "surrogatepass"), named, headers) + data + b"\r\n"


PLAIN = TEXTS | st.sampled_from(
    ["a red mug", "0.3", "nan", "5", "clip", "mug,plate", '{"text": 0.5}', "[1, 2]", '{"id": "d1"}', "true"]
)
EXTRA_HEADERS = [
    b"", b"", b"", b"\r\nContent-Type: image/jpeg", b"\r\nContent-Type: text/plain; charset=utf-7",
    b"\r\nContent-Type: text/plain; charset=nonsense", b"\r\nContent-Transfer-Encoding: base64",
    b"\r\nX: " + b"y" * 9000,
]  # fmt: skip
CONTENT_TYPES = [f"multipart/form-data; boundary={BOUNDARY}"] * 9 + [
    "multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=y",
    "multipart/form-data; boundary=" + "z" * 300, f"multipart/form-data; boundary={BOUNDARY}; charset=utf-16",
    f"multipart/form-data; boundary={BOUNDARY}; charset=nonsense", "application/x-www-form-urlencoded",
    "application/x-www-form-urlencoded; charset=utf-7", "application/json", "text/plain", "",
]  # fmt: skip


# ------------------------------------------------------------------------------------------- whole requests


@dataclass(frozen=True)
class Sent:
    """A request to an address of the service."""

    kind: str  # of hostility
    path: str
    content_type: str  # none if empty
    body: bytes
    method: str = "POST"
    route: str | None = None  # as OpenAPI names it; None: there is none
    more: tuple[tuple[str, bytes], ...] = ()

    @property
    def headers(self) -> list[tuple[str, bytes]]:
        kind = [("content-type", self.content_type.encode())] if self.content_type else []
        return [*kind, *self.more]


@dataclass(frozen=True)
class Route:
    """A route that takes a body, as OpenAPI tells of it."""

    path: str
    fields: list[str]  # of its JSON
    form: dict[str, Any] | None  # the schema of its form

    def json(self, picture: str) -> dict[str, Any] | None:
        """A body that is sound but for its picture; None where JSON takes none."""
        item = {"image": picture, "text": "a red mug"}
        if "items" in self.fields:
            return {"items": [item]}
        if "input" in self.fields:
            return {"input": [{"image": picture}]}
        return (
            {name: item[name] for name in ("image", "text") if name in self.fields}
            if "image" in self.fields
            else None
        )


def routes(openapi: dict[str, Any]) -> list[Route]:
    """Those that take a body."""
    found = []
    for path, operations in openapi["paths"].items():
        content = operations.get("post", {}).get("requestBody", {}).get("content", {})
        fields = content.get("application/json", {}).get("schema", {}).get("properties", {})
        found.append(Route(path, list(fields), content.get("multipart/form-data", {}).get("schema")))
    return [route for route in found if route.fields or route.form]


def requests(openapi: dict[str, Any]) -> dict[str, st.SearchStrategy[Sent]]:
    """Requests to the routes in `openapi`, by their kind of hostility."""
    taking = routes(openapi)
    with_files = [route for route in taking if route.form is not None]
    with_pictures = [route for route in taking if route.json("") is not None]
    return {
        "picture as a file": _uploads(with_files),
        "picture as base64": _encoded(with_pictures),
        "form": _forms(with_files),
        "JSON": _bodies(taking),
        "odd request": _odd(openapi),
    }


def upload(route: Route, data: bytes) -> Sent:
    """A form that is sound but for its picture."""
    assert route.form is not None
    body = b""
    for name, schema in route.form["properties"].items():
        if "binary" in (schema.get("format"), schema.get("items", {}).get("format")):
            body += part(name, data, "a.jpg")
        elif name in route.form.get("required", []):
            body += part(name, b"a red mug")
    return Sent("picture as a file", route.path, CONTENT_TYPES[0], body + _END, route=route.path)


def _uploads(taking: list[Route]) -> st.SearchStrategy[Sent]:
    return st.builds(upload, st.sampled_from(taking), pictures())


@st.composite
def _encoded(draw: st.DrawFn, taking: list[Route]) -> Sent:
    route = draw(st.sampled_from(taking))
    return Sent(
        "picture as base64",
        route.path,
        "application/json",
        written(route.json(draw(base64s()))),
        route=route.path,
    )


@st.composite
def _forms(draw: st.DrawFn, taking: list[Route]) -> Sent:
    route = draw(st.sampled_from(taking))
    assert route.form is not None
    kind, body = draw(forms(route.form))
    return Sent("form", route.path, kind, body, route=route.path)


@st.composite
def _bodies(draw: st.DrawFn, taking: list[Route]) -> Sent:
    route = draw(st.sampled_from(taking))
    kind = draw(st.sampled_from(["application/json"] * 9 + CONTENT_TYPES))
    return Sent("JSON", route.path, kind, draw(json_bodies(route.fields)), route=route.path)


@st.composite
def _odd(draw: st.DrawFn, openapi: dict[str, Any]) -> Sent:
    """Any method, an address that is not quite one, and a query that nobody asked for."""
    path = draw(st.sampled_from([*openapi["paths"], "/", "/docs", "/openapi.json", "/static-offline-docs/"]))
    tail = draw(
        st.sampled_from(
            ["", "/", "//", "/..", "/%2e%2e/etc/passwd", "/%00", "%ff", "/a", "?skip=-1&limit=x", "?%00=%ff"]
        )
    )
    method = draw(
        st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "BREW"])
    )
    kind, body = draw(st.sampled_from(CONTENT_TYPES)), draw(st.sampled_from(ODD_BODIES))
    return Sent(
        "odd request", path + tail, kind, body, method,
        more=tuple(draw(st.lists(ODD_HEADERS, max_size=2, unique_by=lambda header: header[0]))),
    )  # fmt: skip


# Not among them: X-Request-ID that is no UTF-8, which Ray's own proxy (2.60, proxy.py) answers with 500 by itself.
ODD_HEADERS = st.sampled_from(
    [("x-request-id", b"\xc3\xa9"), ("x-request-id", b"a" * 5000), ("x-request-id", b"<script>"), ("host", b"a b"),
     ("authorization", b"Bearer \xff"), ("x-api-key", b""), ("content-encoding", b"gzip"), ("range", b"bytes=9-1"),
     ("x-forwarded-for", b"::1, nonsense"), ("accept", b"text/html;q=x"), ("cookie", b"=;=\xff"), ("origin", b"null")]
)  # fmt: skip


def complaint(openapi: dict[str, Any], sent: Sent, status: int, content_type: str, body: bytes) -> str | None:
    """What is wrong with an answer, None if nothing is: its status, that OpenAPI does not name it, an error's shape."""
    if status >= 500:
        return f"status {status}"
    if (
        sent.route is not None
        and str(status) not in openapi["paths"][sent.route][sent.method.lower()]["responses"]
    ):
        return f"status {status} is not documented"
    if status < 400 or sent.method == "HEAD" or (status == 400 and sent.route is None):
        return None  # 400 is the HTTP server's own word on what is no HTTP
    try:
        told = json.loads(body)
        sound_error = set(told) == {"error", "detail", "request_id"} and all(
            told["error"][name] for name in ("code", "message", "suggestion")
        )
    except (ValueError, KeyError, TypeError):
        sound_error = False
    return None if sound_error and content_type == "application/json" else "an error of another shape"


def batch(pictures: list[bytes], whole: bytes) -> tuple[dict[str, Any], list[int]]:
    """A batch of these pictures with a whole one before each and after the last; the places of the whole ones."""
    files = [file for picture in pictures for file in (whole, picture)] + [whole]
    items = [{"image": base64.b64encode(file).decode(), "text": "a red mug"} for file in files]
    return {"items": items}, list(range(0, len(files), 2))
