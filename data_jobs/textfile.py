"""Text files whose encoding nobody wrote down: UTF-8, UTF-16 or a Windows code page, told from the bytes.

A file that is UTF-8 but for some damaged bytes is read as UTF-8, so that one bad byte costs one row and not the whole
file its letters; `is_damaged` tells the row.
"""

import codecs
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from data_jobs import files

PIECE = 1 << 20  # bytes read at once, since the file may be larger than the memory
_DAMAGE = re.compile("[\x00\ud800-\udfff\ufffd]")
_ARABIC = re.compile("[\u0621-\u064a\u0679-\u06cc]{2}")
_LATIN = re.compile("[\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u00fd\u0152\u0153\u0160\u0161\u017d\u017e]")
_SIGNS = re.compile("[°²³¼½¾©®™€£×±–—‘’“”•…«»·]+")
_WORD = re.compile(rb"[\x80-\xff]+")
_PERSIAN = re.compile(rb"(?<![A-Za-z\x80-\xff])[\x80-\xff]{2,}(?![A-Za-z\x80-\xff])")
_WESTERN = re.compile(rb"(?<=[A-Za-z])[\x80-\xff]+|[\x80-\xff]+(?=[A-Za-z])")


def encoding_of(path: str) -> str:
    """The Python codec to read `path` with: utf-8-sig, utf-16, cp1256 (Arabic and Persian) or cp1252 (Western).

    Valid UTF-8 is UTF-8. Else, if most runs of bytes beyond ASCII are valid UTF-8, the file is UTF-8 with damaged
    letters. Else it is of Windows if there is something to show for it: in Persian such runs are words of Arabic
    letters, in Western languages letters beside ASCII ones, in both signs such as °. Without, it is damaged
    too. Raises one of files.FAILURES.
    """
    with files.open_binary(path) as stream:
        start = stream.read(4)
    if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return "utf-16"
    return "utf-8-sig" if _is_utf_8(path) else _by_words(path)


@contextmanager
def opened(path: str, encoding: str) -> Iterator[TextIO]:
    """Open for reading by lines, newlines as they are; what cannot be decoded is marked for `is_damaged`."""
    errors = "replace" if encoding == "utf-16" else "surrogateescape"
    with files.open_binary(path) as raw, io.TextIOWrapper(raw, encoding, errors, newline="") as stream:
        yield stream


def is_damaged(text: str) -> bool:
    """Whether `text` holds bytes that could not be decoded, half a surrogate pair, or a NUL.

    A replacement character counts too: whatever put it there lost a letter.
    """
    return _DAMAGE.search(text) is not None


def readable(text: str, most: int = 80) -> str:
    """The first letters of a damaged text, with a replacement character for what is damaged."""
    return _DAMAGE.sub("\ufffd", text[:most])


def _is_utf_8(path: str) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    with files.open_binary(path) as stream:
        try:
            while piece := stream.read(PIECE):
                decoder.decode(piece)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def _by_words(path: str) -> str:
    valid = invalid = persian = western = signs = 0
    with files.open_binary(path) as stream:
        while piece := stream.readline(PIECE):
            words = _WORD.findall(piece)
            damaged = sum(not _decodes(word) for word in words)
            valid, invalid = valid + len(words) - damaged, invalid + damaged
            persian += sum(bool(_ARABIC.search(_as(word, "cp1256"))) for word in _PERSIAN.findall(piece))
            western += sum(bool(_LATIN.search(_as(word, "cp1252"))) for word in _WESTERN.findall(piece))
            signs += sum(bool(_SIGNS.fullmatch(_as(word, "cp1252"))) for word in words)
    if valid > invalid or not (persian or western or signs):
        return "utf-8-sig"
    return "cp1256" if persian > western else "cp1252"


def _as(run: bytes, encoding: str) -> str:
    return run.decode(encoding, errors="replace")


def _decodes(word: bytes) -> bool:
    try:
        word.decode()
    except UnicodeDecodeError:
        return False
    return True
