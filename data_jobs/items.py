"""What a source says, one thing at a time: a pair, a passage, something refused, or a remark.

Readers (`csv_pairs`, `persian_json`, `image_folder`, `parquet_pairs`) make items; `rows` checks them.
"""

from dataclasses import dataclass, field

from data_jobs.errors import InputError


@dataclass(frozen=True)
class Record:
    """A picture-text pair as a source states it. `line` counts from 1; groups as in schema.PAIRS.

    `image` holds the picture's bytes where the source itself has them (Parquet); else `image_path` is read.
    """

    source: str
    line: int
    image_path: str
    text: str
    label: int
    image_group: str | None
    text_group: str
    metadata: dict[str, str] = field(default_factory=dict)
    image: bytes | None = None


@dataclass(frozen=True)
class Passage:
    """A text that belongs in the docstore, with or without photos."""

    source: str
    line: int
    id: str
    group: str
    title: str
    text: str
    image_path: str | None
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reject:
    """An input that was refused: where it is, why, and what to do."""

    source: str
    line: int
    image_path: str | None
    code: str
    message: str
    suggestion: str

    @classmethod
    def of(cls, error: InputError, source: str, line: int, image_path: str | None = None) -> "Reject":
        return cls(source, line, image_path, error.code, error.message, error.suggestion)


@dataclass(frozen=True)
class Note:
    """Something worth counting that loses nothing, such as a recipe without photos."""

    source: str
    line: int
    code: str


Item = Record | Passage | Reject | Note
