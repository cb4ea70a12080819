"""Normalisation: what a Persian reader calls equal becomes equal, and nothing is lost."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator

import pytest
from conftest import REPO_ROOT
from hypothesis import example, given
from hypothesis import strategies as st
from persiantools import characters, digits

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
        pytest.param("كيك شكلاتي", "کیک شکلاتی", id="both letters in one text"),
        pytest.param("علی الموسوى", "علی الموسوی", id="yeh and alef maksura side by side"),
        pytest.param("ﯾﮏ", "یک", id="presentation forms of persian letters"),
        pytest.param("ﭘﻨﭽﮋ ﮔﻞ", "پنچژ گل", id="presentation forms of the four persian letters"),
        pytest.param("ﻲ ﻰ ﻯ", "ی ی ی", id="final yeh and alef maksura"),
        pytest.param("ﻵ ﻷ ﻹ", "لآ لأ لإ", id="lam-alef ligatures with marks"),
        pytest.param("ﺁﺏ", "آب", id="presentation form of alef with madda"),
        pytest.param("ﻣﺆﻣﻦ", "مؤمن", id="presentation form of waw with hamza"),
        pytest.param("ﷲ", "الله", id="word ligature"),
        pytest.param("۱۰٠ ریال ﷼", "100 ریال ریال", id="rial sign"),
        pytest.param("سّلامْ", "سلام", id="shadda and sukun"),
        pytest.param("کتابِ من", "کتاب من", id="ezafe"),
        pytest.param("حتماً", "حتما", id="fathatan"),
        pytest.param("مُـحَـمَّـد", "محمد", id="harakat and tatweel"),
        pytest.param("۱۲٫۵ کیلو", "12٫5 کیلو", id="decimal separator stays"),
        pytest.param("٣٤۵6", "3456", id="digits of three scripts"),
        pytest.param("مدل A۱۲", "مدل A12", id="digits beside latin"),
        pytest.param("\u200e+۹۸\u200f 21", "+98 21", id="phone number in marks"),
        pytest.param("خانه‌ها و می‌شود", "خانه‌ها و می‌شود", id="zwnj in two words"),
        pytest.param("کتاب‌ ها", "کتاب ها", id="zwnj before a space"),
        pytest.param("کتاب ‌ها", "کتاب ها", id="zwnj behind a space"),
        pytest.param("‌\n‌کتاب‌", "کتاب", id="zwnj at the edges of the text"),
        pytest.param("می‌ـ‌روم", "می‌روم", id="zwnj run broken by tatweel"),
        pytest.param("خانه\u0654 ما", "خانه\u0654 ما", id="heh and hamza above stay two"),
        pytest.param("ة", "ة", id="teh marbuta stays"),
        pytest.param("رأی، رای", "رأی، رای", id="alef with hamza is another letter"),
        pytest.param("پیراهن، «شیک»؛ چند؟", "پیراهن، «شیک»؛ چند؟", id="punctuation stays"),
        pytest.param("Crème Bru\u0302lée", "Crème Brûlée", id="latin, decomposed"),
        pytest.param("iPhone\u00a013 \u2003Pro", "iPhone 13 Pro", id="latin, odd spaces"),
        pytest.param("STRASSE ß İ", "STRASSE ß İ", id="latin, case stays"),
        pytest.param("👩\u200d🍳 آشپز", "👩\u200d🍳 آشپز", id="joined emoji stays"),
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


@given(
    st.text("ابپتسشکگمنهوی abM\u200c", min_size=1),
    st.lists(st.text(MARKS), max_size=8),
    st.sampled_from(POLICIES),
)
def test_marks_make_no_difference(letters: str, marks: list[str], policy: ZwnjPolicy) -> None:
    marked = letters
    for place, run in enumerate(marks):
        place = place * 7 % (len(marked) + 1)
        marked = marked[:place] + run + marked[place:]
    if letters.replace(ZWNJ, "").strip():
        assert normalize(marked, policy) == normalize(letters, policy)


@given(st.text("یک یککی0123456789سلام آ", min_size=1), st.data())
def test_letter_and_digit_forms_make_no_difference(text: str, data: st.DataObject) -> None:
    forms = {"ی": "یيىﯼﻱﻰﯾ", "ک": "کكﻙﻛﮎ", "س": "سﺱﺳ", "ل": "لﻝﻟ", "ا": "اﺍﺎ", "م": "مﻡﻣ", "آ": "آﺁ"}
    forms |= {str(n): f"{n}{chr(0x660 + n)}{chr(0x6F0 + n)}" for n in range(10)}
    other = "".join(data.draw(st.sampled_from(forms.get(letter, letter))) for letter in text)
    assert normalize(other) == normalize(text) and text_key(other) == text_key(text)


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


# --------------------------------------------------------- an independent opinion on the same rules

FORMS = ("<initial>", "<medial>", "<final>", "<isolated>")
LETTERS = "آأؤإئابةتثجحخدذرزسشصضطظعغفقلمنهوپچژکگیءۀيىك"
ALL_FORMS = "".join(
    c for c in map(chr, range(0xFE80, 0xFEFD)) if unicodedata.decomposition(c).startswith(FORMS)
)


def _oracle(text: str) -> str:
    """The same rules by other means: persiantools for letters and digits, Unicode's properties for the rest.

    A form of a letter is told by its decomposition, harakat by their combining classes, and bidi marks, soft hyphen
    and byte order mark are format characters. `persiantools` knows no presentation forms, harakat, tatweel
    or marks, and says nothing about ZWNJ.
    """
    text = unicodedata.normalize("NFC", text)
    text = "".join(
        unicodedata.normalize("NFKC", c) if unicodedata.decomposition(c).startswith(FORMS) else c
        for c in text
    )
    text = "".join(
        c
        for c in text
        if unicodedata.combining(c) not in range(27, 36)
        and unicodedata.name(c, "") != "ARABIC TATWEEL"
        and (unicodedata.category(c) != "Cf" or c in "\u200c\u200d")
    )
    text = digits.fa_to_en(digits.ar_to_fa(characters.ar_to_fa(unicodedata.normalize("NFC", text))))
    return " ".join(word.strip(ZWNJ) for word in re.sub(f"{ZWNJ}+", ZWNJ, text).split() if word.strip(ZWNJ))


@given(st.text(LETTERS + ALL_FORMS + MARKS + "٠١۲۳45 aZé،«»" + ZWNJ, max_size=30))
def test_an_independent_normaliser_agrees_on_any_words(text: str) -> None:
    if expected := _oracle(text):
        assert normalize(text) == expected


def _real_texts() -> Iterator[str]:
    data = REPO_ROOT.parent / "shared" / "data"
    names = ("persian_food/food_dataset.json", "persian_grocery/list.json", "persian_grocery/lines.json")
    for name in names:
        if not (data / name).is_file():
            pytest.skip(f"there is no {data / name}")
        content = (data / name).read_text(encoding="utf-8")
        records = (
            map(json.loads, content.splitlines()) if name.endswith("lines.json") else json.loads(content)
        )
        yield from (text for record in records for text in (record["title"], record["response"]))


def test_an_independent_normaliser_agrees_on_real_texts() -> None:
    texts = set(_real_texts())
    assert [text for text in texts if normalize(text) != _oracle(text)] == []
    assert len(texts) == 2886
