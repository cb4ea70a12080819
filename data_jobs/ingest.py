"""Raw files -> a checked dataset directory.

    python -m data_jobs.ingest --csv pairs.csv [--image-base-path DIR] --output-dir DATASET
    python -m data_jobs.ingest --persian-json DIR --output-dir DATASET
    python -m data_jobs.ingest --image-folder DIR --output-dir DATASET
    python -m data_jobs.ingest --parquet FILE_OR_DIR --output-dir DATASET

Sources are local paths or anything fsspec opens (s3://, gs://, http://, zip://pairs.csv::catalogue.zip). Streams: files
are read, pictures decoded and parts written by Ray tasks; the driver sees only counts. A run that was killed or
stopped goes on with --resume.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_jobs import command, dataset, files, formats, images, session, stream, text
from data_jobs.artefacts import resumable
from data_jobs.dataset import MARKER
from data_jobs.sources import Source


@dataclass(frozen=True)
class Ingest:
    output_dir: Path
    """Where the dataset appears, whole, at the end. On a cluster: storage that every node sees."""
    csv: str | None = None
    """CSV with the columns image_path,text,label; others are kept as metadata."""
    persian_json: str | None = None
    """Folder of JSON records with title, response and image_path or folder_path; or one such file."""
    image_folder: str | None = None
    """Folder of pictures with metadata.csv or metadata.jsonl (file_name,text)."""
    parquet: str | None = None
    """Parquet file or folder with image_path or image, text and label; or a dataset of ours."""
    image_base_path: str | None = None
    """Folder that relative image paths of --csv or --parquet start from (default: the file's own)."""
    image_size: int = 256
    """Shortest side, in pixels, that pictures are stored at; never enlarged."""
    max_pixels: int = images.MAX_PIXELS
    """Pictures with more pixels are rejected as decompression bombs."""
    rows_per_part: int = stream.ROWS_PER_PART
    """Rows that one task checks and writes together."""
    overwrite: bool = False
    """Replace an earlier dataset in the output directory, and throw away what an unfinished run wrote."""
    resume: bool = False
    """Go on with a run that was killed or stopped; same flags, same files."""


def run(config: Ingest) -> dict[str, Any]:
    """Ingest, print the counts and return the report. Raises InputError."""
    source = formats.source_of(
        csv=config.csv,
        persian_json=config.persian_json,
        image_folder=config.image_folder,
        parquet=config.parquet,
        image_base_path=config.image_base_path,
    )
    for name in ("image_size", "max_pixels", "rows_per_part"):
        command.positive(name, getattr(config, name))
    work = resumable(
        config.output_dir,
        marker=MARKER,
        plan=_plan(config, source),
        overwrite=config.overwrite,
        resume=config.resume,
    )
    try:
        with work as folder, session.connected():
            stream.ingest(
                source,
                folder,
                image_size=config.image_size,
                max_pixels=config.max_pixels,
                rows_per_part=config.rows_per_part,
            )
            report = dataset.finish(
                folder,
                image_size=config.image_size,
                inputs=[source.name],
                pairs_required=source.needs_pairs,
            )
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt("what was written is kept; go on with --resume") from stop
    print(f"{config.output_dir}: {dataset.counted(report)}")
    for warning in report["warnings"]:
        print(f"warning ({warning['code']}): {warning['message']} {warning['suggestion']}")
    print(f"See {config.output_dir / 'report.html'}.")
    return report


def _plan(config: Ingest, source: Source) -> dict[str, object]:
    """What makes two runs the same work: the code's formats, the flags and the files as they are now."""
    return {
        "dataset format": dataset.FORMAT_VERSION,
        "text normalizer": text.VERSION,
        "input source": repr(source),
        "input files": [[file, files.stamp(file)] for file in source.files()],
        "image_size": config.image_size,
        "max_pixels": config.max_pixels,
        "rows_per_part": config.rows_per_part,
    }


if __name__ == "__main__":
    command.main(Ingest, run, __doc__)
