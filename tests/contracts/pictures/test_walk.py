import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from snapensemble.contracts.errors import InvalidData
from snapensemble.contracts.pictures import walk as walk_module
from snapensemble.contracts.pictures.walk import Walk, kind_of
from snapensemble.contracts.pixels import SUFFIXES


def make(root: Path, *names: str) -> Path:
    """Empty files; a name that ends with a slash is a directory."""
    for name in names:
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.touch()
    return root


def found(root: Path, walk: Walk | None = None) -> list[str]:
    return [path.relative_to(root).as_posix() for path in (walk or Walk()).pictures(root)]


def test_pictures_are_found_at_any_depth_by_suffix_in_any_case_in_the_order_of_paths(
    tmp_path: Path,
) -> None:
    make(tmp_path, "b.JPG", "a/c/1.jfif", "a/2.Png", "a/9.jpe", "c.mpo", "a/c/0.tiff", "empty/")
    assert found(tmp_path) == ["a/2.Png", "a/9.jpe", "a/c/0.tiff", "a/c/1.jfif", "b.JPG", "c.mpo"]


@pytest.mark.parametrize(
    "name",
    [
        ".hidden.png",
        ".ipynb_checkpoints/a.png",
        "__MACOSX/a.png",
        "a/__macosx/._a.png",
        "@eaDir/a.jpg/THUMB.jpg",
        "Thumbs.db",
        "a/desktop.ini",
    ],
)
def test_what_is_hidden_or_a_systems_own_is_ignored(tmp_path: Path, name: str) -> None:
    walk = Walk()
    assert found(make(tmp_path, name, "b.png"), walk) == ["b.png"]
    assert walk.summary() == ""


@pytest.fixture
def without_heic(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the package that reads HEIC were not installed."""
    others = tuple(each for each in SUFFIXES if each not in (".heic", ".heif"))
    monkeypatch.setattr(walk_module, "SUFFIXES", others)


@pytest.mark.usefixtures("without_heic")
def test_what_is_passed_over_is_counted_by_kind_with_what_to_do(tmp_path: Path) -> None:
    make(
        tmp_path, "a.png", "b/notes.txt", "b/c/more.TXT", "b/photos.zip", "README", "1.2", "x.heif"
    )
    walk = Walk()
    assert found(tmp_path, walk) == ["a.png"]
    assert walk.summary() == (
        "passed over: 2 .txt, 2 without a suffix, 1 .heif (install snapensemble[heic]), "
        "1 .zip (to be unpacked)"
    )


def test_the_line_stays_short_whatever_was_passed_over(tmp_path: Path) -> None:
    walk = Walk()
    found(make(tmp_path, *(f"{i}.a{i}" for i in range(500))), walk)
    assert len(walk.summary()) < 200 and walk.summary().endswith(", 488 of other kinds")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
@pytest.mark.parametrize("name", ["photo", "photo.2", "Dr. Who", "photo.jpg?width=300", "a.b c"])
def test_a_picture_without_a_suffix_is_known_by_its_first_bytes(
    tmp_path: Path, kind: str, name: str
) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / name, kind)
    assert found(tmp_path) == [name]


@pytest.mark.usefixtures("without_heic")
def test_other_bytes_without_a_suffix_are_no_picture(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("BMW, Audi and others")
    (tmp_path / "film").write_bytes(b"\0\0\0\x20ftypisom\0\0\0\0")
    (tmp_path / "phone").write_bytes(b"\0\0\0\x20ftypheic\0\0\0\0")
    walk = Walk()
    assert found(tmp_path, walk) == []
    assert walk.passed_over == {"without a suffix": 2, ".heic": 1}


def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    make(tmp_path, "elsewhere/more/1.png", "elsewhere/2.png", "photos/")
    (tmp_path / "photos" / "all").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "one.png").symlink_to(tmp_path / "elsewhere" / "2.png")
    assert found(tmp_path / "photos") == ["all/2.png", "all/more/1.png", "one.png"]


@pytest.mark.parametrize("target", [".", "..", "../..", "../../.."])
def test_a_link_to_a_folder_above_it_is_passed_over(tmp_path: Path, target: str) -> None:
    root = make(tmp_path / "photos", "cats/old/1.png", "cats/2.png")
    (root / "cats" / "old" / "again").symlink_to(target)
    walk = Walk()
    assert found(root, walk) == ["cats/2.png", "cats/old/1.png"]
    assert walk.summary() == "passed over: 1 linked to a folder above it"


def test_a_cycle_through_a_folder_elsewhere_is_passed_over(tmp_path: Path) -> None:
    make(tmp_path, "photos/cats/1.png", "elsewhere/2.png")
    (tmp_path / "photos" / "cats" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "photos")
    walk = Walk()
    assert found(tmp_path / "photos" / "cats", walk) == ["1.png", "more/2.png"]
    assert walk.passed_over == {"linked to a folder above it": 1}


def test_a_link_to_itself_and_one_to_nothing_are_counted(tmp_path: Path) -> None:
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    walk = Walk()
    assert found(tmp_path, walk) == []
    assert walk.passed_over == {"linked to nothing": 2}


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    walk = Walk()
    assert found(tmp_path, walk) == []
    assert walk.passed_over == {"neither file nor folder": 1}


def test_a_folder_that_links_lead_to_is_read_once_where_it_lies(tmp_path: Path) -> None:
    make(tmp_path, "z/1.png", "b/2.png")
    (tmp_path / "a").symlink_to("z")
    (tmp_path / "b" / "z").symlink_to("../z")
    walk = Walk()
    assert found(tmp_path, walk) == ["b/2.png", "z/1.png"]
    assert walk.passed_over == {"linked twice": 2} and walk.shared == []


def test_a_folder_that_an_earlier_call_read_is_named(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "a" / "more").symlink_to("../b")
    walk = Walk()
    assert found(tmp_path / "a", walk) == ["1.png", "more/2.png"]
    assert found(tmp_path / "b", walk) == []
    assert walk.shared == [(tmp_path / "a" / "more", tmp_path / "b")]


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="nowhere cannot be listed: No such file"):
        Walk().pictures(tmp_path / "nowhere")


@settings(max_examples=50)
@given(data=st.data())
def test_every_picture_is_found_once_however_folders_are_linked(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Each of five folders holds a picture; links lead from any of them to any."""
    root = tmp_path_factory.mktemp("photos")
    folders = [root / "a", root / "a" / "b", root / "a" / "b" / "c", root / "d", root / "d" / "e"]
    for index, folder in enumerate(folders):
        make(folder, f"{index}.png")
    ends = st.tuples(st.sampled_from(folders), st.sampled_from(folders))
    for index, (start, end) in enumerate(data.draw(st.lists(ends, max_size=8))):
        (start / f"link-{index}").symlink_to(end, target_is_directory=True)
    walk = Walk()
    pictures = walk.pictures(root)
    assert pictures == sorted(folder / f"{i}.png" for i, folder in enumerate(folders))


@given(st.text(min_size=1, max_size=20))
def test_the_kind_of_a_name_is_a_short_suffix_or_that_there_is_none(name: str) -> None:
    kind = kind_of(Path("nowhere") / name.replace("/", "").replace("\0", ""))
    assert kind in SUFFIXES or kind == "without a suffix" or 2 <= len(kind) <= 17
