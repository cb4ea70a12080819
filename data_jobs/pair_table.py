"""A CSV of pairs with its cells as they stand, for jobs that write the rows again with other ones beside them."""

import csv
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_jobs import files
from data_jobs.csv_pairs import CsvPairs
from data_jobs.items import Record, Reject

Cells = dict[str, str]


@dataclass(frozen=True)
class PairTable:
    """The usable rows of a CSV, all in memory: the cells of each by column, and the record that it states."""

    path: str
    columns: list[str]  # in lower case and in order, without nameless ones
    cells: list[Cells]
    records: list[Record]
    rejects: list[Reject]

    @classmethod
    def read(cls, path: str, image_base_path: str | None = None) -> "PairTable":
        """Read as `CsvPairs` does. Raises InputError (missing_source, wrong_columns, unknown_protocol)."""
        source = CsvPairs.open(path, image_base_path)
        table = cls(path, [name for name in dict.fromkeys(source.table.names) if name], [], [], [])
        for raw in source.raws(source.table.path):
            for item in source.items(raw):
                if isinstance(item, Record):
                    table.cells.append(raw.content)
                    table.records.append(item)
                elif isinstance(item, Reject):
                    table.rejects.append(item)
        return table

    def paths_from(self, folder: Path) -> list[str]:
        """The image_path cells, changed so that relative ones below the CSV's folder resolve from `folder`.

        From a remote CSV they become whole addresses.
        """
        if files.is_remote(self.path):
            return [record.image_path for record in self.records]
        before, after = os.path.realpath(files.parent(files.absolute(self.path))), os.path.realpath(folder)
        paths = [cells["image_path"] for cells in self.cells]
        if before == after:
            return paths
        return [
            path
            if os.path.isabs(path) or files.is_remote(path)
            else os.path.relpath(os.path.join(before, path), after)
            for path in paths
        ]


def to_csv(columns: Sequence[str], rows: Iterable[Cells]) -> str:
    """A CSV file's content; cells that a row lacks are empty, and cells without a column are left out."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
