"""Which raw format a job's flags name."""

from data_jobs.csv_pairs import CsvPairs
from data_jobs.errors import InputError
from data_jobs.image_folder import ImageFolder
from data_jobs.parquet_pairs import ParquetPairs
from data_jobs.persian_json import PersianJson
from data_jobs.sources import Source

TAKES_BASE_PATH = ("csv", "parquet")


def source_of(
    *,
    csv: str | None = None,
    persian_json: str | None = None,
    image_folder: str | None = None,
    parquet: str | None = None,
    image_base_path: str | None = None,
) -> Source:
    """Open the one source that was given, and check what can be checked at once.

    Raises InputError: bad_arguments unless exactly one is given, and what the source's `open` raises.
    """
    given = {"csv": csv, "persian_json": persian_json, "image_folder": image_folder, "parquet": parquet}
    named = [name for name, value in given.items() if value is not None]
    flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
    if len(named) != 1:
        raise InputError(
            "bad_arguments",
            f"{len(named)} sources were given; exactly one is needed.",
            f"Give one of {flags}.",
        )
    if image_base_path is not None and named[0] not in TAKES_BASE_PATH:
        raise InputError(
            "bad_arguments",
            f"--image-base-path has no meaning with --{named[0].replace('_', '-')}, whose paths start from its files.",
            "Leave it out.",
        )
    if csv is not None:
        return CsvPairs.open(csv, image_base_path)
    if parquet is not None:
        return ParquetPairs.open(parquet, image_base_path)
    if image_folder is not None:
        return ImageFolder.open(image_folder)
    assert persian_json is not None
    return PersianJson.open(persian_json)
