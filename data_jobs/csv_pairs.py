"""CSV of labelled pairs: `image_path,text,label`, in any dialect of `csvfile`."""

from collections.abc import Iterator
from dataclasses import dataclass

from data_jobs import csvfile, files, pairs, sources
from data_jobs.csvfile import Table
from data_jobs.errors import InputError
from data_jobs.items import Item, Note, Record, Reject
from data_jobs.sources import Raw


@dataclass(frozen=True)
class CsvPairs:
    """A Source. Relative image paths are below `base`; the other columns become metadata."""

    name: str
    table: Table
    base: str
    needs_pairs = True

    @classmethod
    def open(cls, path: str, image_base_path: str | None = None) -> "CsvPairs":
        """Check the header. Raises InputError (missing_source, wrong_columns, unknown_protocol)."""
        place = files.absolute(path)
        table = csvfile.open_table(place, pairs.COLUMNS)
        base = files.parent(place) if image_base_path is None else files.absolute(image_base_path)
        return cls(path, table, base)

    def files(self) -> list[str]:
        return [self.table.path]

    def raws(self, file: str) -> Iterator[Raw]:
        for remark in self.table.remarks:
            yield Raw(file, 1, Note(file, 1, remark), rows=0)
        for line, row in csvfile.read_rows(self.table):
            yield Raw(file, line, row)

    def items(self, raw: Raw) -> Iterator[Item]:
        if isinstance(raw.content, Note):
            yield raw.content
        elif isinstance(raw.content, InputError):
            yield Reject.of(raw.content, raw.file, raw.line)
        else:
            yield from pairs.items_of(raw.file, raw.line, raw.content, self.base)


def records(path: str, image_base_path: str | None = None) -> list[Record]:
    """The pairs of a CSV that state one, in order; what cannot be read is left out. Raises as CsvPairs.open."""
    source = CsvPairs.open(path, image_base_path)
    return [item for item in sources.read(source) if isinstance(item, Record)]
