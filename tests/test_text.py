"""Normalisation: what a Persian reader calls equal becomes equal, and nothing is lost."""

import hashlib
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_jobs.text import VERSION, ZwnjPolicy, normalize, text_key

ZWNJ = "\u200c"
POLICIES: tuple[ZwnjPolicy, ...] = ("keep", "space", "remove")

# What scraped Persian is made of, and what breaks normalisers: marks that recompose once others are dropped.
PIECES = [
    *"ابسمهویيىکكآأإؤئۀة۲٣4aEéﻻﷺﷲﹰﺀﻲ",
    *"\u0640\u064b\u0651\u0653\u0654\u0655\u0670\u0301\u0327\u0344\u200e\u202b\u2067\ufeff\u00ad\u200d",
]
TEXTS = st.text(max_size=12) | st.lists(st.sampled_from([*PIECES, ZWNJ, " ", "\n"]), max_size=8).map("".join)
MARKS = "\u0640\u064b\u064e\u0651\u0652\u0670\u00ad\u061c\u200e\u200f\u202a\u202e\u2066\u2069\ufeff"


@pytest.mark.parametrize(
    ("raw", "folded"),
    [
        pytest.param("علي", "علی", id="arabic yeh"),
        pytest.param("موسى", "موسی", id="alef maksura"),
        pytest.param("كباب", "کباب", id="arabic kaf"),
        pytest.param("ﺳﻼﻡ", "سلام", id="presentation forms"),
        pytest.param("ﻻﻟﻪ", "لاله", id="lam-alef ligature"),
        pytest.param("ﻛﻴﻒ", "کیف", id="presentation form of an arabic letter"),
        pytest.param("ســـلام", "سلام", id="tatweel"),
        pytest.param("مُحَمَّدٌ", "محمد", id="harakat"),
        pytest.param("رحمٰن", "رحمن", id="superscript alef"),
        pytest.param("\u200fسلام\u200e", "سلام", id="bidi marks"),
        pytest.param("\u202bسلام\u202c \u2067ماگ\u2069\u061c", "سلام ماگ", id="embeddings and isolates"),
        pytest.param("\ufeffسلام", "سلام", id="byte order mark"),
        pytest.param("پس\u00adزمینه", "پسزمینه", id="soft hyphen"),
        pytest.param("۰۱۲۳۴۵۶۷۸۹", "0123456789", id="persian digits"),
        pytest.param("٠١٢٣٤٥٦٧٨٩", "0123456789", id="arabic digits"),
        pytest.param("  ماگ\u00a0\t قرمز\r\n", "ماگ قرمز", id="white space"),
        pytest.param("می‌روم", "می‌روم", id="zwnj between letters stays"),
        pytest.param("می‌‌‌روم", "می‌روم", id="zwnj run"),
        pytest.param("‌می‌ روم‌", "می روم", id="zwnj at the edges of words"),
        pytest.param("می\u200c\u200f\u200cروم", "می‌روم", id="zwnj run broken by a dropped mark"),
        pytest.param("مسئول مؤمن أحمد خانۀ", "مسئول مؤمن أحمد خانۀ", id="hamza stays"),
        pytest.param("آب", "آب", id="madda stays"),
        pytest.param("ا\u0653ب", "آب", id="decomposed madda is composed"),
        pytest.param("ا\u0640\u0653ب", "آب", id="madda behind tatweel is composed"),
        pytest.param("ي\u0654", "ئ", id="decomposed yeh with hamza is not folded apart"),
        pytest.param("Cafe\u0301 MUG", "Café MUG", id="nfc and case"),
        pytest.param("½ ﬁ x²", "½ ﬁ x²", id="no compatibility folding outside arabic"),
        pytest.param("", "", id="empty"),
        pytest.param(" \n ", "", id="blank"),
    ],
)
def test_each_rule(raw: str, folded: str) -> None:
    assert normalize(raw) == folded


@pytest.mark.parametrize(("policy", "folded"), [("keep", "می‌روم"), ("space", "می روم"), ("remove", "میروم")])
def test_zwnj_policies(policy: ZwnjPolicy, folded: str) -> None:
    assert normalize("می‌‌روم‌", policy) == folded


@given(TEXTS, st.sampled_from(POLICIES))
@example("ا\u200c\u0653", "remove")  # joined, the letter and its mark compose
@example("ﻻ\u200c\u0654", "remove")
@example("\u0640 \u064b", "keep")
def test_twice_is_once(text: str, policy: ZwnjPolicy) -> None:
    once = normalize(text, policy)
    assert normalize(once, policy) == once


@given(TEXTS, st.sampled_from(POLICIES))
@example("\u0640\u0640", "keep")
@example("\u200c", "remove")
@example("ﹰ", "keep")
def test_no_word_is_emptied(text: str, policy: ZwnjPolicy) -> None:
    assert bool(normalize(text, policy)) == bool(text.strip())


@given(TEXTS, st.sampled_from(POLICIES))
def test_white_space_is_single_and_inside(text: str, policy: ZwnjPolicy) -> None:
    folded = normalize(text, policy)
    assert folded == " ".join(folded.split())


@given(st.text("ابپتسشکگمنهوی abM", min_size=1), st.text(MARKS), st.integers(0, 20))
def test_marks_make_no_difference(letters: str, marks: str, place: int) -> None:
    place = min(place, len(letters))
    marked = letters[:place] + marks + letters[place:]
    if letters.strip():
        assert normalize(marked) == normalize(letters)


@given(TEXTS)
def test_composed_and_decomposed_are_equal(text: str) -> None:
    assert normalize(unicodedata.normalize("NFD", text)) == normalize(unicodedata.normalize("NFC", text))


@pytest.mark.parametrize("marks", ["\u0640\u0640", "\u064b", "\u200f", "\u200c\u200c"])
def test_a_text_of_marks_only_comes_back(marks: str) -> None:
    assert normalize(f" {marks} ") == marks


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("كيف دستي", "کیف دستی"),
        ("Red  MUG ", "red mug"),
        ("۱۲ عدد", "12 عدد"),
        ("سَلام", "ﺳﻼﻡ"),
        ("STRASSE", "straße"),
    ],
)
def test_equal_texts_have_equal_keys(one: str, other: str) -> None:
    assert text_key(one) == text_key(other)


@pytest.mark.parametrize(
    ("one", "other"), [("mug", "mugs"), ("می‌روم", "می روم"), ("آب", "اب"), ("red mug", "redmug"), ("1", "2")]
)
def test_other_texts_have_other_keys(one: str, other: str) -> None:
    assert text_key(one) != text_key(other)


def test_key_is_stable_and_short() -> None:
    assert text_key(" Red Mug") == hashlib.sha256(b"red mug").hexdigest()[:16]
    assert VERSION == "fa-en-1"  # keys and normalised texts travel; a change of either needs another version


def test_even_half_a_surrogate_pair_has_a_key() -> None:
    assert text_key("\ud83d") != text_key("\ude00")
