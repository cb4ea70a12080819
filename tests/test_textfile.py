"""Text files: the encoding is told from the bytes, and what is damaged is marked, not spread."""

from pathlib import Path

import pytest

from data_jobs import files, textfile
from data_jobs.textfile import PIECE, encoding_of, is_damaged, opened, readable

PERSIAN = "image_path,text,label\na.jpg,ماگ قرمز با طرح گل,1\nb.jpg,کیف چرمی,0\n"
WINDOWS_PERSIAN = "a.jpg,پيراهن گل‌دار,1\nb.jpg,ژاكت چهارخانه,0\n"  # cp1256 has no Persian yeh
WESTERN = "a.jpg,café crème,1\nb.jpg,Größe 38,0\nc.jpg,naïve façade,1\n"


def _read(path: Path) -> tuple[str, str]:
    encoding = encoding_of(str(path))
    with opened(str(path), encoding) as stream:
        return encoding, stream.read()


@pytest.mark.parametrize(
    ("content", "encoding", "text"),
    [
        pytest.param(PERSIAN.encode(), "utf-8-sig", PERSIAN, id="utf-8"),
        pytest.param(PERSIAN.encode("utf-8-sig"), "utf-8-sig", PERSIAN, id="utf-8 with a mark"),
        pytest.param(PERSIAN.encode("utf-16"), "utf-16", PERSIAN, id="utf-16"),
        pytest.param(b"\xff\xfe" + PERSIAN.encode("utf-16-le"), "utf-16", PERSIAN, id="utf-16 little-endian"),
        pytest.param(b"\xfe\xff" + PERSIAN.encode("utf-16-be"), "utf-16", PERSIAN, id="utf-16 big-endian"),
        pytest.param(WINDOWS_PERSIAN.encode("cp1256"), "cp1256", WINDOWS_PERSIAN, id="windows persian"),
        pytest.param("گچ پژ".encode("cp1256"), "cp1256", "گچ پژ", id="the four persian letters"),
        pytest.param(WESTERN.encode("cp1252"), "cp1252", WESTERN, id="windows western"),
        pytest.param("“café” – 5 €".encode("cp1252"), "cp1252", "“café” – 5 €", id="windows punctuation"),
        pytest.param(WESTERN.encode(), "utf-8-sig", WESTERN, id="western utf-8"),
        pytest.param(
            b"a.jpg,red mug,1\r\n", "utf-8-sig", "a.jpg,red mug,1\r\n", id="ascii, line ends as they are"
        ),
        pytest.param(b"", "utf-8-sig", "", id="empty"),
        pytest.param(b"\xef\xbb\xbf", "utf-8-sig", "", id="a mark alone"),
        pytest.param(
            "a.jpg,Größe 38,1\n".encode("cp1252"), "cp1252", "a.jpg,Größe 38,1\n", id="side by side"
        ),
        pytest.param(
            "38°, ½ l".encode("cp1252"), "cp1252", "38°, ½ l", id="signs that both code pages share"
        ),
        pytest.param(
            "USB كابل ۲متر".translate({0x6F2: "2"}).encode("cp1256"), "cp1256", "USB كابل 2متر", id="mixed"
        ),
    ],
)
def test_encodings(tmp_path: Path, content: bytes, encoding: str, text: str) -> None:
    (tmp_path / "file").write_bytes(content)
    assert _read(tmp_path / "file") == (encoding, text)
    assert not is_damaged(text)


def test_one_damaged_byte_among_many_lines_damages_its_line(tmp_path: Path) -> None:
    lines = [f"{n}.jpg,ماگ شماره {n},1\n".encode() for n in range(100)]
    lines[41] = lines[41].replace(b"\xd9\x85", b"\xd9", 1)
    (tmp_path / "file").write_bytes(b"".join(lines))
    encoding, text = _read(tmp_path / "file")
    assert encoding == "utf-8-sig"
    read = text.split("\n")
    assert [number for number, line in enumerate(read) if is_damaged(line)] == [41]
    assert read[40] == "40.jpg,ماگ شماره 40,1" and read[41].startswith("41.jpg,")


def test_one_damaged_byte_in_a_file_of_one_line(tmp_path: Path) -> None:
    content = (
        '[{"title": "کباب", "response": "گوشت را چرخ کنید"}, {"title": "آش", "response": "رشته"}]'.encode()
    )
    (tmp_path / "file").write_bytes(content.replace("چرخ".encode(), "چرخ".encode()[1:]))
    encoding, text = _read(tmp_path / "file")
    assert encoding == "utf-8-sig" and is_damaged(text)
    assert text.startswith('[{"title": "کباب", "response": "گوشت را ') and text.endswith('رشته"}]')


@pytest.mark.parametrize("odd", [0, 1])
def test_a_letter_across_two_pieces(tmp_path: Path, odd: int) -> None:
    text = "x" * (PIECE - 2 - odd) + "ماگ" + "y" * PIECE + "ماگ"
    (tmp_path / "file").write_bytes(text.encode())
    assert _read(tmp_path / "file") == ("utf-8-sig", text)


def test_a_file_cut_within_its_last_letter(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(PERSIAN.encode() + "c.jpg,ماگ".encode()[:-1])
    encoding, text = _read(tmp_path / "file")
    assert encoding == "utf-8-sig" and text.startswith(PERSIAN)
    assert is_damaged(text[len(PERSIAN) :])


def test_utf_16_with_half_a_letter_at_its_end(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes("ماگ\nکیف".encode("utf-16") + b"\x41")
    encoding, text = _read(tmp_path / "file")
    assert encoding == "utf-16" and text.startswith("ماگ\nکیف")
    assert is_damaged(text.split("\n")[1]) and not is_damaged(text.split("\n")[0])


def test_what_windows_leaves_undefined_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes("café\nGröße ".encode("cp1252") + b"\x81")
    encoding, text = _read(tmp_path / "file")
    assert encoding == "cp1252"
    assert [is_damaged(line) for line in text.split("\n")] == [False, True]


@pytest.mark.parametrize(
    ("text", "damaged"),
    [
        ("red mug", False),
        ("ماگ 😀", False),
        ("", False),
        ("m\udcffg", True),
        ("\ud83d", True),
        ("caf\ufffd", True),
    ],
)
def test_damage_is_told(text: str, damaged: bool) -> None:
    assert is_damaged(text) == damaged


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(files.FAILURES):
        encoding_of(str(tmp_path / "nowhere"))
    with pytest.raises(files.FAILURES), textfile.opened(str(tmp_path / "nowhere"), "utf-8"):
        pass


@pytest.mark.parametrize("damage", [b"\xff", b"\xff\xfe", b"\xff\xfe\x00", b"caf\x81", b"\xfe!"])
def test_damage_in_an_english_file_is_no_code_page(tmp_path: Path, damage: bytes) -> None:
    rows = [b"a red mug No. %d" % number for number in range(50)]
    rows[20] = b"bad " + damage + b" bytes"
    (tmp_path / "file").write_bytes(b"\n".join(rows))
    encoding, text = _read(tmp_path / "file")
    assert encoding == "utf-8-sig"
    assert [number for number, line in enumerate(text.split("\n")) if is_damaged(line)] == [20]


def test_a_damaged_text_is_shown_with_what_can_be_read() -> None:
    assert readable("گ\udcd9 \udcff bad") == "گ\ufffd \ufffd bad"
