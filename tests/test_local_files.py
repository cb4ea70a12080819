"""Server-side paths against real files: links, pipes, sockets, races, and whatever hypothesis thinks of."""

import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_jobs.errors import InputError
from serve_app.local_files import read_below

LIMIT = 1000
SECRET = b"the secret outside"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`root` with pictures, and a secret and a look-alike folder beside it."""
    place = tmp_path_factory.mktemp("place")
    (place / "root" / "deep" / "er").mkdir(parents=True)
    (place / "root" / "a.jpg").write_bytes(b"picture a")
    (place / "root" / "deep" / "er" / "ماگ.jpg").write_bytes(b"picture b")
    (place / "root" / "full.jpg").write_bytes(b"x" * LIMIT)
    (place / "root" / "over.jpg").write_bytes(b"x" * (LIMIT + 1))
    (place / "root2").mkdir()
    for outside in (place / "secret.txt", place / "root2" / "secret.txt"):
        outside.write_bytes(SECRET)
    return place


@pytest.fixture(scope="module")
def root(place: Path) -> Path:
    return place / "root"


def refused(root: Path | None, path: str) -> str:
    """The code of the refusal, whose words name nothing on the server that the caller did not."""
    with pytest.raises(InputError) as caught:
        read_below(root, path, LIMIT)
    error = caught.value
    if root is not None:
        for real in {str(root), str(root.resolve())}:
            assert real in path or real not in str(error)
    json.dumps(str(error)).encode()
    str(error).encode()
    return error.code


class TestInside:
    def test_relative_and_absolute_paths_are_read(self, root: Path) -> None:
        assert read_below(root, "a.jpg", LIMIT) == b"picture a"
        assert read_below(root, "./deep//er/./ماگ.jpg", LIMIT) == b"picture b"
        assert read_below(root, str(root / "deep" / "er" / "ماگ.jpg"), LIMIT) == b"picture b"

    def test_a_root_behind_a_link_goes_by_both_its_names(self, root: Path, tmp_path: Path) -> None:
        (tmp_path / "images").symlink_to(root)
        for path in ("a.jpg", str(tmp_path / "images" / "a.jpg"), str(root / "a.jpg")):
            assert read_below(tmp_path / "images", path, LIMIT) == b"picture a"

    def test_the_limit_is_the_last_size_that_is_read(self, root: Path) -> None:
        assert len(read_below(root, "full.jpg", LIMIT)) == LIMIT
        assert refused(root, "over.jpg") == "file_too_large"

    def test_a_file_larger_than_it_says_is_refused(self) -> None:
        """Files of /proc have a size of 0 and content, as one has that grows while it is read."""
        assert os.stat("/proc/cpuinfo").st_size == 0
        with pytest.raises(InputError) as caught:
            read_below(Path("/proc"), "cpuinfo", 10)
        assert caught.value.code == "file_too_large"

    def test_no_descriptors_are_left_open(self, root: Path) -> None:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            read_below(root, "deep/er/ماگ.jpg", LIMIT)
            for path in ("deep/er/none.jpg", "deep/none/er/a.jpg", "over.jpg", "deep", "../secret.txt"):
                refused(root, path)
        assert len(os.listdir("/proc/self/fd")) == before


class TestOutside:
    def test_without_a_root_nothing_is_read(self, root: Path) -> None:
        assert refused(None, str(root / "a.jpg")) == "paths_not_allowed"

    @pytest.mark.parametrize(
        "path",
        ["../secret.txt", "deep/../../secret.txt", "deep/../a.jpg", "..", "/", "/etc/passwd", "//etc/passwd",
         "/no/such/file", "{root}/../secret.txt", "{root}2/secret.txt", "{root}/../root/a.jpg", "{place}"],
    )  # fmt: skip
    def test_paths_that_leave_the_root(self, path: str, root: Path, place: Path) -> None:
        assert refused(root, path.format(root=root, place=place)) == "path_outside_root"

    def test_whether_something_outside_exists_is_not_told(self, root: Path, place: Path) -> None:
        def words(path: str) -> str:
            with pytest.raises(InputError) as caught:
                read_below(root, path, LIMIT)
            return str(caught.value).replace(path, "PATH")

        assert words("../secret.txt") == words("../nothing.txt")
        assert words(str(place / "secret.txt")) == words(str(place / "nothing.txt"))
        (root / "there").symlink_to(place / "secret.txt")
        (root / "dead").symlink_to(place / "nothing.txt")
        assert words("there") == words("dead")

    @pytest.mark.parametrize(
        ("target", "path"),
        [("../secret.txt", "link"), ("{place}/secret.txt", "link"), ("..", "link/secret.txt"),
         ("{place}", "link/root2/secret.txt"), ("a.jpg", "link"), ("deep", "link/er/ماگ.jpg"), ("link", "link"),
         ("link", "link/a.jpg"), ("/proc/self/root", "link/etc/passwd")],
    )  # fmt: skip
    def test_links_are_not_followed(self, target: str, path: str, root: Path, place: Path) -> None:
        (root / "link").unlink(missing_ok=True)
        (root / "link").symlink_to(target.format(place=place))
        assert refused(root, path) == "path_outside_root"

    def test_a_folder_swapped_for_a_link_meanwhile_leads_nowhere(self, place: Path, tmp_path: Path) -> None:
        """Checked by name and then opened, the path would sometimes lead to the secret."""
        (tmp_path / "real").mkdir()
        (tmp_path / "real" / "secret.txt").write_bytes(b"harmless")
        (tmp_path / "door").symlink_to("real")
        os.rename(tmp_path / "door", tmp_path / "spare")
        os.rename(tmp_path / "real", tmp_path / "door")
        (tmp_path / "spare").unlink()
        (tmp_path / "spare").symlink_to(place / "root2")
        stop = threading.Event()

        def swap() -> None:
            while not stop.is_set():
                os.rename(tmp_path / "door", tmp_path / "aside")
                os.rename(tmp_path / "spare", tmp_path / "door")
                os.rename(tmp_path / "door", tmp_path / "spare")
                os.rename(tmp_path / "aside", tmp_path / "door")

        swapper = threading.Thread(target=swap)
        swapper.start()
        seen: set[bytes | str] = set()
        try:
            for _ in range(3000):
                try:
                    seen.add(read_below(tmp_path, "door/secret.txt", LIMIT))
                except InputError as error:
                    seen.add(error.code)
        finally:
            stop.set()
            swapper.join()
        assert SECRET not in seen
        assert b"harmless" in seen
        assert seen & {"path_outside_root", "file_missing"}, "the swap was never met: nothing was tried"


class TestNoPictures:
    @pytest.mark.parametrize(
        "path",
        ["", ".", "./", "none.jpg", "deep", "deep/er/", "a.jpg/b.jpg", "a\0.jpg", "\0", "x" * 300, "x/" * 3000 + "x",
         "\ud800.jpg", "{root}", "~/a.jpg", "a.jpg\n", "A.JPG"],
    )  # fmt: skip
    def test_what_names_no_file(self, path: str, root: Path) -> None:
        assert refused(root, path.format(root=root)) == "file_missing"

    def test_pipes_sockets_and_devices_are_refused_at_once(self, root: Path) -> None:
        os.mkfifo(root / "pipe")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(root / "socket"))
            for path in ("pipe", "socket"):
                assert within(5, root, path) == "file_missing"
        assert within(5, Path("/dev"), "zero") == "file_missing"

    def test_an_unopenable_root_is_the_operators_to_mend(self, root: Path) -> None:
        with pytest.raises(OSError, match="nowhere"):
            read_below(root / "nowhere", "a.jpg", LIMIT)


def within(seconds: float, root: Path, path: str) -> str:
    """The code of the refusal, unless it takes longer."""
    codes: list[str] = []
    thread = threading.Thread(target=lambda: codes.append(refused(root, path)), daemon=True)
    thread.start()
    thread.join(seconds)
    assert codes, f"{path} still blocks after {seconds} s"
    return codes[0]


@pytest.fixture(scope="module")
def watched(place: Path) -> Iterator[Path]:
    """The root, with links out of it under the names that hypothesis plays with."""
    (place / "root" / "out").symlink_to("..")
    (place / "root" / "secret.txt").symlink_to("../secret.txt")
    yield place / "root"
    (place / "root" / "out").unlink()
    (place / "root" / "secret.txt").unlink()


parts = st.sampled_from(
    ["..", ".", "", "deep", "er", "out", "a.jpg", "secret.txt", "root", "root2", "~", "\\"]
)
paths = st.one_of(st.lists(parts, max_size=8).map("/".join), st.text(max_size=50))


@given(path=paths, absolute=st.booleans())
@example(path="out/secret.txt", absolute=False)
def test_any_path_gives_a_picture_or_a_refusal_and_never_the_secret(
    watched: Path, path: str, absolute: bool
) -> None:
    outcome: bytes | str
    try:
        outcome = read_below(watched, f"{watched}/{path}" if absolute else path, LIMIT)
    except InputError as error:
        outcome = error.code
    assert outcome in (b"picture a", "path_outside_root", "file_missing")
    assert ".." not in path.split("/") or isinstance(outcome, str)
