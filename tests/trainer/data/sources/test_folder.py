import os
import shutil
import unicodedata
from pathlib import Path

import pytest

from snapensemble.contracts.errors import InvalidData
from snapensemble.trainer.data.sources.folder import find_folder
from snapensemble.trainer.data.sources.source import Found
from tests.factories import encoded, picture
from tests.trainer.data.sources.wrong_folders import section

DATA_PAGE = Path(__file__).parents[4] / "docs" / "data.md"

TWO = {"a": 1, "b": 1}


def put(root: Path, images: dict[str, int]) -> Path:
    """CLASS/* with so many pictures each, of which only the names count here."""
    for name, count in images.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            (root / name / f"{index}.png").touch()
    return root


def names(found: Found) -> dict[str, list[str]]:
    """The pictures of each part, below the folder."""
    return {
        part: [
            os.path.relpath(labelled.source.name(index), found.place)
            for index in range(len(labelled.source))
        ]
        for part, labelled in found.parts.items()
    }


@pytest.mark.parametrize("train", ["train", "Training", "TRAIN"])
@pytest.mark.parametrize("val", ["Val", "valid", "VALIDATION", "dev"])
@pytest.mark.parametrize("test", ["test", "Testing", "eval"])
def test_parts_are_known_by_the_names_that_people_give_them(
    tmp_path: Path, train: str, val: str, test: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (train, val, test):
        put(tmp_path / name, TWO)
    found = find_folder(tmp_path)
    assert found.classes == ("a", "b")
    assert names(found) == {
        part: [f"{name}/a/0.png", f"{name}/b/0.png"]
        for part, name in (("train", train), ("val", val), ("test", test))
    }
    said = capsys.readouterr().err
    for part, name in (("train", train), ("val", val), ("test", test)):
        assert (f"{name}/ as {part}" in said) == (name != part)


def test_two_names_for_one_part_are_refused(tmp_path: Path) -> None:
    for name in ("train", "val", "valid"):
        put(tmp_path / name, TWO)
    with pytest.raises(InvalidData, match=r"val/ and valid/ both mean the val part; move them"):
        find_folder(tmp_path)


@pytest.mark.parametrize("sibling", ["Test_old", "extra", "unlabelled", "train2"])
def test_pictures_beside_the_parts_are_refused_by_name(tmp_path: Path, sibling: str) -> None:
    put(tmp_path / "train", TWO)
    put(tmp_path / sibling, {"a": 2, "b": 1})
    with pytest.raises(InvalidData, match=rf"{sibling} holds 3 pictures, but is no part .* move"):
        find_folder(tmp_path)


def test_a_folder_without_pictures_beside_the_parts_is_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "train", TWO)
    put(tmp_path, {"labels": 0})
    (tmp_path / "labels" / "0.xml").touch()
    (tmp_path / "poster.png").touch()
    (tmp_path / "train" / "loose.png").touch()
    assert len(find_folder(tmp_path).parts["train"].labels) == 2
    said = capsys.readouterr().err
    assert said == "passed over: 2 pictures outside of the class folders, 1 .xml\n"


def test_a_link_to_a_part_beside_it_is_passed_over(tmp_path: Path) -> None:
    put(tmp_path / "train", TWO)
    (tmp_path / "latest").symlink_to("train")
    assert list(find_folder(tmp_path).parts) == ["train"]


def test_a_part_without_class_folders_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "train", TWO)
    put(tmp_path, {"test": 3})
    with pytest.raises(InvalidData, match=r"test has no class folders, as there are beside it"):
        find_folder(tmp_path)


@pytest.mark.parametrize("parts", [("val",), ("test", "valid")])
def test_parts_without_anything_to_train_on_are_refused(
    tmp_path: Path, parts: tuple[str, ...]
) -> None:
    for name in parts:
        put(tmp_path / name, TWO)
    with pytest.raises(InvalidData, match=r"but nothing to train on; expected .* train"):
        find_folder(tmp_path)


@pytest.mark.parametrize("names", [("train", "test"), ("training", "valid"), ("train_1", "test_1")])
def test_flat_folders_called_as_parts_are_no_classes(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    put(tmp_path, dict.fromkeys(names, 3))
    with pytest.raises(InvalidData, match=r"look like parts .* no class folders; .* csv:FILE"):
        find_folder(tmp_path)


def test_parts_with_other_names_are_no_classes(tmp_path: Path) -> None:
    put(tmp_path / "Train_set", TWO)
    put(tmp_path / "Test_set", TWO)
    with pytest.raises(InvalidData, match=r"Test_set/, Train_set/ look like parts .* hold folders"):
        find_folder(tmp_path)


def test_two_levels_with_equal_names_are_asked_about(tmp_path: Path) -> None:
    for name in ("fold-a", "fold-b", "fold-c", "fold-d"):
        put(tmp_path / name, {"cat": 1, "dog": 1})
    with pytest.raises(InvalidData, match=r"fold-a/, fold-b/, fold-c/, \.\.\. holds .* cat, dog"):
        find_folder(tmp_path)
    (tmp_path / "train").mkdir()
    for folder in sorted(tmp_path.glob("fold-*")):  # as the message says
        shutil.move(folder, tmp_path / "train")
    assert find_folder(tmp_path).classes == ("fold-a", "fold-b", "fold-c", "fold-d")


def test_classes_may_have_inner_folders_of_some_equal_names(tmp_path: Path) -> None:
    put(tmp_path / "cat", {"2019": 1, "2020": 1})
    put(tmp_path / "dog", {"2020": 1, "2021": 1})
    assert find_folder(tmp_path).classes == ("cat", "dog")


@pytest.mark.parametrize("around", ["flowers", "archive/flowers", "a/b/c"])
def test_the_only_folder_is_looked_into(
    tmp_path: Path, around: str, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / around / "train", TWO)
    put(tmp_path, {"__MACOSX": 1, ".git": 1})
    (tmp_path / "README.md").touch()
    assert list(find_folder(tmp_path).parts) == ["train"]
    said = capsys.readouterr().err
    assert f"{tmp_path} holds one folder only; {tmp_path / around} is read\n" in said


def test_a_single_folder_that_links_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "again").symlink_to(tmp_path)
    with pytest.raises(InvalidData, match="1 class folder; expected at least two"):
        find_folder(tmp_path)


def test_pictures_without_class_folders_are_counted_in_the_message(tmp_path: Path) -> None:
    for index in range(3):
        (tmp_path / f"{index}.png").touch()
    with pytest.raises(InvalidData, match=r"0 class folders and 3 pictures; .* csv:FILE"):
        find_folder(tmp_path)


NFC, NFD = (unicodedata.normalize(form, "Königskerze") for form in ("NFC", "NFD"))


def test_a_class_whose_accents_are_coded_in_two_ways_is_one_class(tmp_path: Path) -> None:
    put(tmp_path / "train", {NFD: 1, "a": 1})
    put(tmp_path / "val", {NFC: 1, "a": 1})
    found = find_folder(tmp_path)
    assert found.classes == (NFC, "a")
    assert names(found)["val"] == [f"val/{NFC}/0.png", "val/a/0.png"]


def test_two_folders_that_only_look_the_same_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "train", {NFC: 1, NFD: 1})
    if len(os.listdir(tmp_path / "train")) == 1:
        pytest.skip("this file system takes both for one name")
    with pytest.raises(InvalidData, match=r"'K\\xf6nigskerze' look the same, 'Königskerze'"):
        find_folder(tmp_path)


@pytest.mark.parametrize(
    ("link", "target"), [("train/a/more", "train/b"), ("val/a", "train/a"), ("val/b", "train/a")]
)
def test_a_folder_that_is_linked_into_two_classes_or_parts_is_refused(
    tmp_path: Path, link: str, target: str
) -> None:
    put(tmp_path / "train", TWO)
    (tmp_path / link).parent.mkdir(exist_ok=True)
    (tmp_path / link).symlink_to(tmp_path / target)
    with pytest.raises(InvalidData, match=r"are one folder, by a link; .* remove one"):
        find_folder(tmp_path)


def test_linked_parts_and_classes_are_read_and_cycles_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "elsewhere", TWO)
    put(tmp_path / "photos" / "train", {"a": 1})
    (tmp_path / "photos" / "train" / "b").symlink_to(tmp_path / "elsewhere" / "b")
    (tmp_path / "photos" / "test").symlink_to(put(tmp_path / "held out", TWO))
    (tmp_path / "photos" / "train" / "a" / "top").symlink_to(tmp_path / "photos")
    assert names(find_folder(tmp_path / "photos")) == {
        "train": ["train/a/0.png", "train/b/0.png"],
        "test": ["test/a/0.png", "test/b/0.png"],
    }
    assert capsys.readouterr().err == "passed over: 1 linked to a folder above it\n"


def test_all_that_is_passed_over_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("train", "val"):
        put(tmp_path / part, TWO)
        (tmp_path / part / "a" / "notes.txt").touch()
        (tmp_path / part / "b" / "clip.mov").touch()
        (tmp_path / part / "b" / ".DS_Store").touch()
    (tmp_path / "val" / "b" / "scan").write_bytes(encoded(picture()))
    found = find_folder(tmp_path)
    assert names(found)["val"] == ["val/a/0.png", "val/b/0.png", "val/b/scan"]
    assert capsys.readouterr().err == "passed over: 2 .mov, 2 .txt\n"


def test_a_part_whose_files_are_all_passed_over_says_what_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, {"a": 0, "b": 0})
    (tmp_path / "a" / "0.mov").touch()
    with pytest.raises(InvalidData, match="holds no images in its class folders"):
        find_folder(tmp_path)
    assert capsys.readouterr().err == "passed over: 1 .mov\n"


def test_the_page_shows_what_the_program_says_of_wrong_folders() -> None:
    assert section() in DATA_PAGE.read_text()
