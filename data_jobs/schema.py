"""The one Parquet contract: what every dataset directory holds.

```
DIR/pairs/*.parquet      PAIRS     one row a checked picture-text pair
DIR/docstore.parquet     DOCSTORE  one row a unique passage
DIR/rejects/*.parquet    REJECTS   one row a refused input, with the reason and the remedy
DIR/rejects.csv          the same for a spreadsheet
DIR/report.json          counts that reconcile: read = written + rejected; duplicates, sizes, warnings
DIR/report.html          the same for people, with thumbnails
```
"""

import pyarrow as pa

PAIRS = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),  # stable: source file, record and photo
        pa.field("image", pa.binary(), nullable=False),  # JPEG, upright RGB, shrunk to the dataset's size
        pa.field("image_path", pa.string(), nullable=False),  # as the source names it, resolved
        pa.field("image_sha256", pa.string(), nullable=False),  # of the original file's bytes
        pa.field("image_phash", pa.uint64(), nullable=False),  # perceptual hash; see perceptual.phash
        pa.field("width", pa.int32(), nullable=False),  # pixels of the original, upright
        pa.field("height", pa.int32(), nullable=False),
        pa.field("text", pa.string(), nullable=False),  # as written in the source; Encoder normalises
        pa.field("text_key", pa.string(), nullable=False),  # of the normalised text: equal texts, equal keys
        pa.field("label", pa.int8(), nullable=False),  # 1 match, 0 mismatch
        pa.field(
            "image_group", pa.string()
        ),  # what the picture shows; null where only "not this text" is known
        pa.field("text_group", pa.string(), nullable=False),  # what the text describes
        pa.field("metadata", pa.string(), nullable=False),  # JSON object of the source's other columns
        pa.field("source", pa.string(), nullable=False),  # file the row came from
        pa.field("line", pa.int32(), nullable=False),  # line (CSV, JSON lines) or record number, from 1
    ]
)

DOCSTORE = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),  # of the normalised passage
        pa.field(
            "food_id", pa.string(), nullable=False
        ),  # group: all passages and photos of one dish or product
        pa.field("title", pa.string(), nullable=False),
        pa.field("passage_text", pa.string(), nullable=False),
        pa.field("image_path", pa.string()),  # one photo of the group, where there is one
        pa.field("metadata", pa.string(), nullable=False),  # JSON object
    ]
)

REJECTS = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("line", pa.int32(), nullable=False),
        pa.field("image_path", pa.string()),
        pa.field("code", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("suggestion", pa.string(), nullable=False),
    ]
)

STORED = {
    "compression": {name: "none" if name == "image" else "zstd" for name in PAIRS.names},
    "use_dictionary": [name for name in PAIRS.names if name != "image"],
    "write_statistics": [name for name in PAIRS.names if name != "image"],
}
"""How PAIRS are written (arguments of pyarrow.parquet): pictures are compressed already."""
