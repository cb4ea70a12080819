"""The report page: its numbers, and, in a real browser, that nothing in a catalogue can run or call out."""

import re
import socket
from pathlib import Path
from typing import Any

import pytest
from handmade import counts, dataset, jpeg, pair, reject

from data_jobs import page
from data_jobs.page import bars, path, percent, shown, spelled, tail
from data_jobs.survey import survey
from data_jobs.thumbnails import Thumbnails

PERSIAN = "سیب سرخِ درختی، کیلویی ۲۵٬۰۰۰ تومان"
HOSTILE = "<script>document.title='owned'</script><img src=http://evil.test/a onerror=\"document.title='owned'\">'\"&"


def _page(
    folder: Path, *rows: dict[str, Any], rejects: list[dict[str, Any]] | None = None, **values: Any
) -> str:
    folders = {"all": dataset(folder / "data", list(rows), rejects)}
    numbers = survey(folders)
    page.write(folder / "report.html", {**counts(numbers), **numbers, **values}, folders)
    return (folder / "report.html").read_text(encoding="utf-8")


def _words(html: str) -> str:
    """What a reader reads, in one line."""
    body = html[html.index("<body>") :]
    return " ".join(re.sub(r"<[^>]*>", " ", body).split())


def test_the_numbers_are_on_the_page(tmp_path: Path) -> None:
    rejects = [reject(line, "missing_image", image_path=f"{line}.jpg") for line in range(30, 42)]
    rows = [pair(f"p{i}", label=int(i < 6), width=200, text="سیب" if i else "apple") for i in range(8)]
    words = _words(_page(tmp_path, *rows, rejects=rejects))
    assert "8 of 20 pairs can be used from pairs.csv" in words
    assert "Pairs read 20 Written 8 40.0 % Rejected 12 60.0 %" in words
    assert "Different pictures 8" in words
    assert "6 matches 75.0 % 2 mismatches 25.0 %" in words
    assert "128 to 255 8" in words
    assert "0 to 9 8" in words
    assert "Persian or Arabic script: 7 pairs, 87.5 %." in words
    assert "12 missing_image The message of line 30. The remedy of missing_image. pairs.csv:30" in words
    assert "1 thing to look at The dataset has 8 pairs; fewer than 100 are too few" in words


def test_examples_show_their_pictures_texts_and_places(tmp_path: Path) -> None:
    html = _page(
        tmp_path,
        pair("p0", image_sha256="s", text_key="k", image_path="/photos/fruit/a.jpg", image=jpeg("red")),
        pair("p1", image_sha256="s", text_key="k", image_path="/photos/fruit/a.jpg", label=0),
        pair("p2", image_phash=0b1, image=jpeg("blue")),
        pair("p3", image_phash=0b11),
    )
    words = _words(html)
    assert "Contradicting labels 1" in words
    assert (
        "2 rows match text of p0 fruit/a.jpg pairs.csv:2 mismatch text of p1 fruit/a.jpg pairs.csv:3" in words
    )
    assert "Pictures that look alike 1" in words
    assert "2 pictures text of p2 photos/p2.jpg pairs.csv:4 text of p3" in words
    assert html.count('<img src="data:image/jpeg;base64,') == 4
    assert 'alt="/photos/fruit/a.jpg"' in html


def test_a_rejected_picture_is_shown_and_a_missing_one_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "small.jpg").write_bytes(jpeg("red"))
    rejects = [
        reject(1, "a_missing_image", image_path="/gone.jpg"),
        reject(2, "too_small", image_path=str(tmp_path / "small.jpg")),
    ]
    html = _page(tmp_path, rejects=rejects)
    assert html.index("<img src=") < html.index("no picture: /gone.jpg")
    assert html.count("<img ") == html.count('role="img"') == 1


def test_rejects_without_picture_are_few(tmp_path: Path) -> None:
    rejects = [reject(line, "missing_image", image_path=f"{line}.jpg") for line in range(30)]
    assert _page(tmp_path, rejects=rejects).count("<figure>") == 6


def test_passages_without_photos_are_no_failure(tmp_path: Path) -> None:
    values = {"passages": {"read": 1500, "unique": 1389}, "codes": {"no_photos": 1387}, "inputs": ["recipes"]}
    words = _words(_page(tmp_path, pair("p0"), pair("p1"), **values))
    assert "1,389 passages, 2 pairs with a photo from recipes" in words
    assert "1,387 no_photos Records without a photo." in words
    assert "Rejected 0 0 %" in words
    assert "rejects.csv" not in words


def test_passages_alone(tmp_path: Path) -> None:
    words = _words(_page(tmp_path, passages={"read": 2, "unique": 2}, codes={"no_photos": 2}))
    assert "2 passages, no pairs with a photo" in words
    assert "Balance" not in words


def test_remarks_are_what_the_rejects_do_not_account_for(tmp_path: Path) -> None:
    rejects = [reject(1, "odd"), reject(2, "odd"), reject(3, "bad_label")]
    words = _words(_page(tmp_path, pair("p0"), rejects=rejects, codes={"odd": 5, "bad_label": 1, "new": 1}))
    assert "Remarks 1 new 3 odd" in words


def test_several_splits_name_theirs(tmp_path: Path) -> None:
    folders = {
        "train": dataset(tmp_path / "train", [pair("p0"), pair("p1")]),
        "val": dataset(tmp_path / "val", [pair("q9", image_group="product of p1")]),
    }
    numbers = survey(folders)
    words = _words(page.render({**counts(numbers), **numbers}, thumbnails=Thumbnails()))
    assert "train 2 pairs val 1 pairs" in words
    assert "The same product in more than one split: 1 2 rows" in words
    assert (
        "no picture train match text of p1 photos/p1.jpg pairs.csv:3 no picture val match text of q9" in words
    )


def test_of_many_groups_the_largest_are_shown(tmp_path: Path) -> None:
    rows = [pair(f"p{i}", image_sha256=f"s{i % 13}", text_key="k", image_path="a.jpg") for i in range(26)]
    words = _words(_page(tmp_path, *rows))
    assert words.count("2 rows") == 12
    assert words.count("The 12 largest are shown.") == 1
    (tmp_path / "fewer").mkdir()
    assert "largest are shown" not in _words(_page(tmp_path / "fewer", *rows[:12], *rows[13:25]))


def test_clean_data_is_said_to_be_clean(tmp_path: Path) -> None:
    words = _words(_page(tmp_path, *(pair(f"p{i}") for i in range(100))))
    assert "No warnings." in words
    assert "Matches only is fine for training." in words
    assert "things to look at" not in words


def test_equal_runs_give_equal_pages(tmp_path: Path) -> None:
    rows = [pair(f"p{i}", image_sha256=f"s{i % 2}", text_key="k", label=i % 2) for i in range(9)]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one = _page(tmp_path / "one", *rows, rejects=[reject(1, "x")])
    assert one == _page(tmp_path / "two", *rows[::-1], rejects=[reject(1, "x")])


def test_a_number_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="no attribute 'persian'"):
        _page(tmp_path, pair("p0"), texts={"distinct": 1, "length": []})


def test_percent_is_exact_at_the_ends() -> None:
    assert [percent(part, 10_000) for part in (0, 1, 10, 1234, 9990, 9999, 10_000)] == [
        "0 %", "under 0.1 %", "0.1 %", "12.3 %", "99.9 %", "over 99.9 %", "100 %"
    ]  # fmt: skip


def test_long_and_unprintable_words_are_cut_and_replaced() -> None:
    assert shown("a" * 301) == "a" * 300 + "…"
    assert shown("a" * 300) == "a" * 300
    assert shown("a" * 300 + "…") == "a" * 300 + "…"
    assert shown("a\0b\x1bc\udce9d\ne") == "a\ufffdb\ufffdc\ufffdd\ne"
    assert shown(PERSIAN) == PERSIAN
    assert spelled("photo\u202egpj.exe") == "photo[U+202E]gpj.exe"
    assert path("/data/" + "x" * 500 + "/name.jpg", 20) == "/data/xxxx…x/name.jpg"
    assert tail("/data/fruit/apple/1.jpg") == "apple/1.jpg"
    assert tail("1.jpg") == "1.jpg"


def test_bars_leave_out_empty_ends() -> None:
    histogram = [
        {"from": 0, "to": 10, "count": 0},
        {"from": 10, "to": 2000, "count": 4},
        {"from": 2000, "to": 3000, "count": 0},
        {"from": 3000, "to": None, "count": 1},
    ]
    assert bars(histogram) == [
        {"label": "10 to 1,999", "count": 4, "width": 100.0},
        {"label": "2,000 to 2,999", "count": 0, "width": 0.0},
        {"label": "3,000 and more", "count": 1, "width": 25.0},
    ]
    assert bars(histogram[:1]) == []


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report whose every free field is hostile, long or Persian; the path of its page."""
    folder = tmp_path_factory.mktemp("hostile")
    name = f"/photos/{HOSTILE}/\u202egpj.{'x' * 3000}"
    same = {"image_sha256": "s", "text_key": "k", "source": f"{HOSTILE}.csv", "image_phash": 0}
    rejects = [
        reject(
            1, HOSTILE, image_path=name, message=HOSTILE + "y" * 10_000, suggestion=HOSTILE, source=HOSTILE
        ),
        reject(2, "bad_label", message=f"{PERSIAN} \u202e evil"),
    ]
    _page(
        folder,
        pair("p0", **same, text=HOSTILE * 100, image_path=name),
        pair("p1", **same, text=PERSIAN, image_path="/photos/سیب.jpg", label=0),
        pair("p2", **same, text="z" * 10_000),
        pair("p3", image_phash=1, text=f"{PERSIAN} 10% OFF"),
        rejects=rejects,
        inputs=[HOSTILE, "bytes that are no letters: \udce9"],
        codes={HOSTILE: 3},
        fingerprint=HOSTILE,
    )
    return folder / "report.html"


@pytest.mark.parametrize("width", [1200, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser_nothing_runs_and_nothing_is_fetched(
    browser: Any, hostile: Path, width: int, scheme: str
) -> None:
    requests: list[str] = []
    messages: list[str] = []
    opened = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    opened.on("request", lambda request: requests.append(request.url))
    opened.on("console", lambda message: messages.append(message.text))
    opened.on("pageerror", lambda error: messages.append(str(error)))
    opened.goto(hostile.as_uri(), wait_until="networkidle")
    assert opened.title() == "Dataset report · Catalens"
    assert [url for url in requests if not url.startswith("data:image/jpeg")] == [hostile.as_uri()]
    assert messages == []
    assert opened.evaluate("document.scripts.length") == 0
    assert (
        opened.evaluate("document.querySelectorAll('[onerror],[onload],[onclick],iframe,object').length") == 0
    )
    pictures = "[...document.images].map(image => image.complete && image.naturalWidth > 0)"
    assert opened.evaluate(pictures) and all(opened.evaluate(pictures))
    assert opened.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out at the side"
    assert len(opened.inner_text("body")) < 20_000
    assert "<script>document.title" in opened.inner_text("body"), "it is shown as text"
    opened.close()


@pytest.mark.parametrize("policy", [True, False])
def test_the_policy_of_the_page_stops_what_escaping_would_miss(
    browser: Any, hostile: Path, tmp_path: Path, policy: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as outside:
        outside.settimeout(0.5)
        address = f"http://127.0.0.1:{outside.getsockname()[1]}"
        unescaped = f"<script>document.title='owned'</script><img src='{address}'>"
        html = hostile.read_text(encoding="utf-8").replace("</main>", f"{unescaped}</main>")
        if not policy:
            html = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
        (tmp_path / "broken.html").write_text(html, encoding="utf-8")
        opened = browser.new_page()
        opened.goto((tmp_path / "broken.html").as_uri(), wait_until="commit")
        called = True
        try:
            outside.accept()[0].close()
        except TimeoutError:
            called = False
        assert called is not policy
        assert (opened.title() == "owned") is not policy
        opened.close()


def test_in_a_browser_persian_runs_from_right_to_left(browser: Any, hostile: Path) -> None:
    opened = browser.new_page()
    opened.goto(hostile.as_uri())
    directions = opened.evaluate(
        "[...document.querySelectorAll('[dir=auto]')].map(e => [e.textContent, getComputedStyle(e).direction])"
    )
    opened.close()
    persian = {direction for text, direction in directions if text.startswith("سیب")}
    others = {direction for text, direction in directions if text.startswith(("<script", "zzz", "The "))}
    assert (persian, others) == ({"rtl"}, {"ltr"})
    assert sum(text.startswith("سیب") for text, _ in directions) >= 3
