import glob
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snapensemble.contracts.errors import InvalidData
from snapensemble.many.files import Pictures, divided, matches, may_hold
from tests.factories import encoded, picture

PNG = encoded(picture())


def tree(root: Path, *names: str) -> Path:
    """Files of a picture's bytes, and the folders that they are in."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(PNG)
    return root


def found(*sources: object, **more: object) -> list[str]:
    return list(Pictures([str(source) for source in sources], **more))  # type: ignore[arg-type]


def below(root: Path, *sources: str) -> list[str]:
    """What is found, as the paths below `root`."""
    return [os.path.relpath(each, root) for each in found(*(root / name for name in sources))]


def test_a_folder_stands_for_all_pictures_below_it_in_the_order_of_their_names(
    tmp_path: Path,
) -> None:
    tree(tmp_path, "b.png", "a/2.JPG", "a/10.jpeg", "c/d/e.webp", "a/x/1.gif")
    assert below(tmp_path, "") == ["a/10.jpeg", "a/2.JPG", "a/x/1.gif", "b.png", "c/d/e.webp"]


def test_what_is_no_picture_is_counted_by_kind(tmp_path: Path) -> None:
    tree(tmp_path, "a.txt", "b.TXT", "c.md", "d.png")
    (tmp_path / "notes").write_text("no picture")
    pictures = Pictures([str(tmp_path)])
    assert list(pictures) == [str(tmp_path / "d.png")]
    assert pictures.describe() == "passed over: 2 .txt, 1 .md, 1 without a suffix"


def test_without_a_suffix_the_first_bytes_decide(tmp_path: Path) -> None:
    for number, kind in enumerate(("PNG", "JPEG", "GIF", "WEBP", "TIFF")):
        (tmp_path / str(number)).write_bytes(encoded(picture(), kind))
    (tmp_path / "5").write_bytes(b"BMW")
    (tmp_path / "6").touch()
    assert below(tmp_path, "") == ["0", "1", "2", "3", "4"]


def test_hidden_files_and_what_archives_add_are_passed_over_without_a_word(tmp_path: Path) -> None:
    tree(tmp_path, ".a.png", ".git/b.png", "__MACOSX/c.png", ".ipynb_checkpoints/d.png", "e.png")
    pictures = Pictures([str(tmp_path)])
    assert list(pictures) == [str(tmp_path / "e.png")] and pictures.describe() == ""


def test_links_are_followed_and_cycles_noticed(tmp_path: Path) -> None:
    tree(tmp_path, "elsewhere/a.png", "photos/b.png", "photos/sub/c.png")
    (tmp_path / "photos" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "sub" / "up").symlink_to("..")
    (tmp_path / "photos" / "gone.png").symlink_to("nowhere")
    pictures = Pictures([str(tmp_path / "photos")])
    names = [os.path.relpath(each, tmp_path / "photos") for each in pictures]
    assert names == ["b.png", "gone.png", "linked/a.png", "sub/c.png"]
    assert pictures.describe() == "passed over: 1 linked to a folder above it"


def test_a_link_that_leads_to_itself_is_named_later_and_ends_nothing(tmp_path: Path) -> None:
    tree(tmp_path, "a.png")
    for name in ("loop.png", "loop"):
        (tmp_path / name).symlink_to(name)
    assert below(tmp_path, "") == ["a.png", "loop.png"]


def test_a_device_with_the_name_of_a_picture_is_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    pictures = Pictures([str(tmp_path)])
    assert list(pictures) == [] and pictures.describe() == "passed over: 1 neither file nor folder"


def test_a_folder_that_cannot_be_read_is_passed_over_aloud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree(tmp_path, "a/1.png", "b/2.png")
    real = os.scandir

    def scandir(path: str) -> object:
        if path.endswith("/a"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    pictures = Pictures([str(tmp_path)])
    assert list(pictures) == [str(tmp_path / "b" / "2.png")]
    assert pictures.describe() == "passed over: 1 folder (Permission denied)"


def test_folders_that_are_left_out_and_own_files_are_not_entered(tmp_path: Path) -> None:
    tree(tmp_path, "a.png", "sorted/cat/b.png", "rows.csv")
    status = (tmp_path / "sorted").stat()
    pictures = Pictures([str(tmp_path)], [(status.st_dev, status.st_ino)], ["rows.csv"])
    assert list(pictures) == [str(tmp_path / "a.png")] and pictures.describe() == ""


def test_a_file_that_is_named_is_taken_whatever_it_is_called(tmp_path: Path) -> None:
    tree(tmp_path, "picture.dat", "[1].png", ".hidden")
    names = [str(tmp_path / name) for name in ("picture.dat", "[1].png", ".hidden")]
    assert found(*names) == names


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    for name in ("nothing", "nothing/*.png", "nothing.png"):
        with pytest.raises(InvalidData, match="no such file or folder"):
            divided(str(tmp_path / name))


PARTS = st.sampled_from(["a", "b", "ab", "a.png", "b.png", "[x].png"])
PATTERN = st.lists(
    st.sampled_from(["a", "*", "?", "*.png", "**", "[ab]", "a*", "[!a]*"]), min_size=1, max_size=4
)


@settings(deadline=None)
@given(st.lists(st.lists(PARTS, min_size=1, max_size=4), max_size=8), PATTERN)
def test_a_pattern_means_what_it_means_to_python(
    tmp_path_factory: pytest.TempPathFactory, paths: list[list[str]], pattern: list[str]
) -> None:
    root = tmp_path_factory.mktemp("tree")
    for parts in paths:
        file = root.joinpath(*parts[:-1], parts[-1] + "!")  # names of files end unlike folders'
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    taken = {
        os.path.normpath(each) for each in glob.glob(os.path.join(root, *pattern), recursive=True)
    }
    for file in (each for each in root.rglob("*") if each.is_file()):
        way = file.relative_to(root).parts
        above = {str(root.joinpath(*way[:depth])) for depth in range(len(way) + 1)}
        expected = bool(taken & above)
        assert matches(way, pattern) == expected, (way, pattern)
        if expected:  # no folder on the way is passed by
            assert all(may_hold(way[:depth], pattern) for depth in range(1, len(way)))


def test_a_pattern_does_not_look_where_nothing_can_match(tmp_path: Path) -> None:
    tree(tmp_path, "2024-01/a.png", "2024-02/x/b.png", "2023/c.png", "d.png")
    assert below(tmp_path, "2024-*") == ["2024-01/a.png", "2024-02/x/b.png"]
    assert below(tmp_path, "*/*.png") == ["2023/c.png", "2024-01/a.png"]
    assert below(tmp_path, "**/b.*") == ["2024-02/x/b.png"]
    assert not may_hold(["2023"], ["2024-*", "*.png"])


def test_names_are_read_as_they_are_needed(tmp_path: Path) -> None:
    tree(tmp_path, "a/1.png", "b/2.png")
    pictures = iter(Pictures([str(tmp_path)]))
    assert next(pictures).endswith("a/1.png")
    tree(tmp_path, "b/3.png")  # its folder has not been read yet
    assert [os.path.basename(each) for each in pictures] == ["2.png", "3.png"]
