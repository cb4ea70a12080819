"""English and Persian text normalisation, versioned.

Tokenizers do not do this: XLM-R turns a ZWNJ into a space, BERT deletes it, and neither folds Arabic
letter forms, tatweel or digits. `normalize` makes texts that a Persian reader calls equal, equal. It is
applied inside `Encoder` and when grouping equal texts, and nowhere else; the raw text is what is stored.
"""

import hashlib
import re
import unicodedata
from functools import lru_cache
from typing import Literal

VERSION = "fa-en-1"
"""Travels with every dataset, model and index. Bump it whenever an output of `normalize` changes."""

ZwnjPolicy = Literal["keep", "space", "remove"]

ZWNJ = "\u200c"

# Arabic code points that Persian keyboards and scrapers mix with the Persian letters (Unicode 16, block 0600).
# Hamza forms (أ إ ؤ ئ ۀ) and madda (آ) are different letters and stay.
_LETTERS: dict[str, str | int | None] = {
    "\u064a": "\u06cc",  # ARABIC LETTER YEH -> FARSI YEH
    "\u0649": "\u06cc",  # ARABIC LETTER ALEF MAKSURA -> FARSI YEH
    "\u0643": "\u06a9",  # ARABIC LETTER KAF -> KEHEH
}
_DIGITS: dict[str, str | int | None] = {chr(base + n): str(n) for base in (0x0660, 0x06F0) for n in range(10)}
_DROPPED = dict.fromkeys(
    [
        0x0640,  # tatweel
        *range(0x064B, 0x0653),  # harakat: fathatan .. sukun
        0x0670,  # superscript alef
        0x00AD,  # soft hyphen
        0x061C,  # Arabic letter mark
        0x200E,  # left-to-right mark
        0x200F,  # right-to-left mark
        *range(0x202A, 0x202F),  # bidi embeddings and overrides
        *range(0x2066, 0x206A),  # bidi isolates
        0xFEFF,  # byte order mark
    ]
)
_TABLE = {**str.maketrans(_LETTERS), **str.maketrans(_DIGITS), **_DROPPED}
_PRESENTATION = re.compile("[\ufb50-\ufdff\ufe70-\ufefc]+")
_SPACES = re.compile(r"\s+")
_ZWNJ_RUN = re.compile(f"{ZWNJ}+")
_ZWNJ_EDGE = re.compile(rf"{ZWNJ}*(\s|^|$){ZWNJ}*")
_ZWNJ_AS = {"keep": ZWNJ, "space": " ", "remove": ""}


def normalize(text: str, zwnj: ZwnjPolicy = "keep") -> str:
    """Fold `text` to the form that every model of ours reads.

    NFC; presentation forms to letters; ي ى -> ی and ك -> ک; tatweel, harakat, bidi marks and BOM dropped;
    Persian and Arabic digits to ASCII; runs of white space and of ZWNJ collapsed, and ZWNJ by `zwnj`: kept
    (the default), made a space, or removed. Idempotent. Case and hamza are kept. A text that consists only
    of dropped marks comes back as it was, so that no word is ever emptied.
    """
    folded = unicodedata.normalize("NFC", text)
    folded = _PRESENTATION.sub(lambda run: unicodedata.normalize("NFKC", run.group()), folded)
    folded = unicodedata.normalize("NFC", folded.translate(_TABLE))
    if ZWNJ in folded:
        folded = _ZWNJ_EDGE.sub(r"\1", _ZWNJ_RUN.sub(ZWNJ, folded))
    if zwnj != "keep":
        folded = unicodedata.normalize("NFC", folded.replace(ZWNJ, _ZWNJ_AS[zwnj]))
    return _SPACES.sub(" ", folded).strip() or _SPACES.sub(" ", text).strip()


@lru_cache(maxsize=4096)  # catalogues repeat their texts, and a row asks more than once
def text_key(text: str) -> str:
    """A short stable id of the normalised, case-folded text: equal texts, equal keys (16 hex digits).

    Any `str` has one, also a file name that is no valid Unicode.
    """
    folded = normalize(text).casefold().encode(errors="surrogatepass")
    return hashlib.sha256(folded).hexdigest()[:16]
