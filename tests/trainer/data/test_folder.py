import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from snapensemble.contracts.errors import InvalidData
from snapensemble.contracts.pixels import SERVER_LIMITS, decode_image
from snapensemble.trainer.data.pictures import read_pictures
from snapensemble.trainer.data.sources.folder import find_folder
from tests.factories import encoded, picture
from tests.trainer.folders import load, make_folder, rows


def test_a_folder_with_parts_keeps_them(tmp_path: Path) -> None:
    make_folder(tmp_path / "train", {"b": 6, "a": 4})
    make_folder(tmp_path / "val", {"a": 2, "b": 1})
    make_folder(tmp_path / "test", {"b": 3})
    data = load(tmp_path, image_size=12)
    assert data.classes == ("a", "b") and data.shape == (3, 12, 12)
    assert [len(data.train), len(data.val), len(data.part("test"))] == [10, 3, 3]
    assert data.part("test").labels_N.tolist() == [1, 1, 1]


def test_a_folder_of_classes_alone_is_split(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 20, "b": 10})
    data = load(tmp_path, image_size=8)
    parts = [rows(data.part(name).images_NCHW) for name in ("train", "val", "test")]
    assert [len(part) for part in parts] == [18, 6, 6]
    assert len(parts[0] | parts[1] | parts[2]) == 30


def test_training_sees_the_pixels_that_serving_will_see(tmp_path: Path) -> None:
    make_folder(tmp_path / "train", {"a": 2, "b": 2}, "JPEG")
    data = load(tmp_path, image_size=8)
    served = {
        decode_image(file.read_bytes(), channels=3, height=8, width=8).tobytes()
        for file in tmp_path.rglob("*.jpeg")
    }
    assert rows(data.train.images_NCHW) | rows(data.val.images_NCHW) == served


def test_other_files_in_a_folder_are_passed_over(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 5, "b": 5})
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "a" / ".hidden.png").write_text("x")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "a" / ".thumbnails").mkdir()
    (tmp_path / "a" / ".thumbnails" / "0.png").write_bytes(encoded(picture()))
    data = load(tmp_path)
    assert data.classes == ("a", "b")
    assert sum(len(data.part(name)) for name in ("train", "val", "test")) == 10


def test_runs_and_bundles_that_lie_beside_the_classes_are_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_folder(tmp_path / "archive" / "photos", {"a": 5, "b": 5})
    expected = load(root).fingerprint()
    for place in (tmp_path / "archive" / "runs" / "first", root / "runs" / "second" / "seed-0"):
        (place / "snapshots").mkdir(parents=True)
        (place / "run.json").write_text("{}")
    (root / "bundle").mkdir()
    (root / "bundle" / "ensemble.json").write_text("{}")
    capsys.readouterr()
    assert load(tmp_path / "archive").fingerprint() == expected
    assert "passed over: 2 folders with runs or bundles only" in capsys.readouterr().err
    shutil.copy(root / "a" / "0.png", root / "bundle")
    with pytest.raises(InvalidData, match="class 'bundle' has 1 image;"):
        load(root)


def test_an_unreadable_picture_is_named(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 5, "b": 5})
    (tmp_path / "b" / "9.png").write_text("no picture")
    with pytest.raises(InvalidData, match=r"b/9\.png: not an image.*repair or remove"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({"a": 5, "b": 1}, "class 'b' has 1 image; at least 3"),
        ({"a": 5, "b": 2}, "class 'b' has 2 images; at least 3"),
        ({"a": 5}, "1 class folder; expected at least two"),
        ({}, "0 class folders"),
    ],
)
def test_a_folder_that_is_too_small_is_refused(
    tmp_path: Path, images: dict[str, int], message: str
) -> None:
    make_folder(tmp_path, images)
    with pytest.raises(InvalidData, match=message):
        load(tmp_path)


def test_a_class_with_one_training_image_is_refused_by_name(tmp_path: Path) -> None:
    make_folder(tmp_path / "train", {"a": 5, "b": 1})
    with pytest.raises(InvalidData, match="class 'b' has 1 image; at least 2"):
        load(tmp_path)


def test_all_classes_that_are_too_small_are_refused_at_once_and_before_anything_is_decoded(
    tmp_path: Path,
) -> None:
    make_folder(tmp_path, {"a": 5, **{f"b{i}": i % 3 for i in range(1, 9)}})
    (tmp_path / "a" / "9.png").write_text("no picture")
    expected = (
        "class 'b1' has 1 image, 'b2' 2, 'b3' 0, 'b4' 1, 'b5' 2 and 3 more classes too few; at "
        "least 3 are needed, so that each part of the split has one"
    )
    with pytest.raises(InvalidData) as refused:
        load(tmp_path)
    assert str(refused.value) == expected


def test_a_class_whose_pictures_are_not_there_is_not_called_too_small(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 5})
    rows_of_a = "".join(f"a/{i}.png,a\n" for i in range(5))
    (tmp_path / "x.csv").write_text(f"path,label\n{rows_of_a}b/0.png,b\n")
    with pytest.raises(InvalidData, match=r"row 7: .*b/0\.png: there is no such file"):
        load(f"csv:{tmp_path / 'x.csv'}")


def test_a_class_that_training_does_not_have_is_refused(tmp_path: Path) -> None:
    make_folder(tmp_path / "train", {"a": 5, "b": 5})
    make_folder(tmp_path / "test", {"c": 1})
    with pytest.raises(InvalidData, match="classes that train/ has not: c"):
        load(tmp_path)


def test_a_data_set_without_test_images_says_so(tmp_path: Path) -> None:
    make_folder(tmp_path / "train", {"a": 5, "b": 5})
    with pytest.raises(InvalidData, match="has no test part"):
        load(tmp_path).part("test")


def test_pictures_in_deeper_folders_belong_to_their_class(tmp_path: Path) -> None:
    make_folder(tmp_path / "a", {"2019": 3, "2020": 3})
    make_folder(tmp_path, {"b": 6})
    assert np.bincount(load(tmp_path).train.labels_N).tolist() == [4, 4]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    make_folder(tmp_path, {"train": 4, "bus": 4})
    assert load(tmp_path).classes == ("bus", "train")


def spoil(folder: Path, count: int) -> None:
    for i in range(count):
        (folder / f"bad-{i:02d}.png").write_text("no picture")


def test_every_unreadable_picture_of_all_parts_is_named(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        make_folder(tmp_path / part, {"a": 4, "b": 4})
        spoil(tmp_path / part / "a", 1)
    with pytest.raises(InvalidData, match="3 images cannot be read, at most 2 may be") as refusal:
        load(tmp_path, max_bad_images=2)
    for part in ("train", "val", "test"):
        assert f"{part}/a/bad-00.png: not an image" in str(refusal.value)


def test_at_most_twenty_unreadable_pictures_are_named(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 4, "b": 4})
    spoil(tmp_path / "b", 23)
    with pytest.raises(InvalidData, match="23 images cannot be read") as refusal:
        load(tmp_path)
    assert "bad-19.png" in str(refusal.value) and "bad-20.png" not in str(refusal.value)
    assert "\nand 3 more\n" in str(refusal.value)


def test_as_many_unreadable_pictures_as_allowed_are_left_out_and_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make_folder(tmp_path / "good", {"a": 6, "b": 6})
    make_folder(tmp_path / "bad", {"a": 6, "b": 6})
    spoil(tmp_path / "bad" / "a", 2)
    (tmp_path / "bad" / "b" / "3a.jpg").write_bytes(b"")
    good, bad = load(tmp_path / "good"), load(tmp_path / "bad", max_bad_images=3)
    assert bad.bad_images == 3 and good.bad_images == 0
    assert bad.fingerprint() == good.fingerprint()
    said = capfd.readouterr().err
    assert "left out, cannot be read: 3 of at most 3\n" in said
    for name in ("a/bad-00.png: not an image", "a/bad-01.png: ", "b/3a.jpg: the image is empty"):
        assert f"{tmp_path}/bad/{name}" in said


def test_a_part_without_readable_pictures_is_refused(tmp_path: Path) -> None:
    make_folder(tmp_path / "train", {"a": 4, "b": 4})
    (tmp_path / "test" / "a").mkdir(parents=True)
    spoil(tmp_path / "test" / "a", 2)
    with pytest.raises(InvalidData, match=r"the test part of .*: none of its 2 images can be read"):
        load(tmp_path, max_bad_images=9)


# Four quarters that tell which way is up: red, green, blue, grey.
QUARTERS = np.zeros((16, 16, 3), dtype=np.uint8)
QUARTERS[:8, :8], QUARTERS[:8, 8:], QUARTERS[8:, :8] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
QUARTERS[8:, 8:] = 128


def read_one(root: Path, name: str, data: bytes, channels: int = 3) -> NDArray[np.int64]:
    """image_CHW of a file, as the folder reader gives it."""
    for label in ("a", "b"):
        (root / label).mkdir()
        (root / label / name).write_bytes(data)
    split = read_pictures(find_folder(root), size=16, channels=channels).everything
    assert split is not None
    image_CHW: NDArray[np.uint8] = split.images_NCHW[0]
    return image_CHW.astype(np.int64)


def test_a_picture_turned_by_its_exif_data_stands_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    lying = Image.fromarray(QUARTERS).transpose(Image.Transpose.ROTATE_90)
    image_CHW = read_one(tmp_path, "a.png", encoded(lying, "PNG", exif=exif))
    np.testing.assert_array_equal(image_CHW, QUARTERS.transpose(2, 0, 1))


def test_a_palette_is_resolved(tmp_path: Path) -> None:
    indexed = Image.fromarray(QUARTERS).quantize(4)
    assert indexed.mode == "P"
    image_CHW = read_one(tmp_path, "a.gif", encoded(indexed, "GIF"))
    np.testing.assert_array_equal(image_CHW, QUARTERS.transpose(2, 0, 1))


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    picture = Image.fromarray(QUARTERS).convert("RGBA")
    picture.putalpha(Image.fromarray(np.repeat([[255] * 8 + [0] * 8], 16, 0).astype(np.uint8)))
    image_CHW = read_one(tmp_path, "a.png", encoded(picture))
    np.testing.assert_array_equal(image_CHW[:, :, :8], QUARTERS.transpose(2, 0, 1)[:, :, :8])
    assert (image_CHW[:, :, 8:] == 255).all()


def test_cmyk_becomes_the_colours_it_shows(tmp_path: Path) -> None:
    data = encoded(Image.fromarray(QUARTERS).convert("CMYK"), "JPEG", quality=95)
    image_CHW = read_one(tmp_path, "a.jpg", data)
    assert abs(image_CHW[:, 2, 2] - (255, 0, 0)).max() < 12
    assert abs(image_CHW[:, 13, 13] - 128).max() < 12


def test_sixteen_bits_become_eight_by_their_upper_half(tmp_path: Path) -> None:
    deep = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    image_CHW = read_one(tmp_path, "a.png", encoded(Image.fromarray(deep)))
    np.testing.assert_array_equal(image_CHW, np.broadcast_to(deep >> 8, (3, 16, 16)))


def test_grey_pictures_have_three_equal_channels_or_one(tmp_path: Path) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for channels in (1, 3):
        (tmp_path / str(channels)).mkdir()
        data = encoded(Image.fromarray(grey))
        image_CHW = read_one(tmp_path / str(channels), "a.png", data, channels)
        np.testing.assert_array_equal(image_CHW, np.broadcast_to(grey, (channels, 16, 16)))


def test_pictures_that_a_server_would_refuse_are_counted_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = replace(SERVER_LIMITS, max_pixels=500)
    monkeypatch.setattr("snapensemble.trainer.data.decoding.SERVER_LIMITS", small)
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for number, side in enumerate((20, 30)):
            Image.new("L", (side, side), 9).save(tmp_path / label / f"{number}.png")
    assert len(read_pictures(find_folder(tmp_path), size=8, channels=1).everything or ()) == 4
    assert "a server with its default limits would refuse 2 of these 4 pictures" in (
        "".join(capsys.readouterr())
    )
    with pytest.raises(InvalidData, match="megapixels"):
        read_pictures(find_folder(tmp_path), size=8, channels=1, max_image_cost=1)


def test_every_picture_keeps_its_path_in_the_folder(tmp_path: Path) -> None:
    make_folder(tmp_path / "train", {"a": 8, "b": 8})
    (tmp_path / "train" / "a" / "3.png").write_text("no picture")
    make_folder(tmp_path / "test", {"b": 3})
    data = load(tmp_path, image_size=8, max_bad_images=1)
    for part in data.parts.values():
        assert part.names is not None and len(part.names) == len(part)
        for name, label, image_CHW in zip(part.names, part.labels_N, part.images_NCHW, strict=True):
            served = decode_image((tmp_path / name).read_bytes(), channels=3, height=8, width=8)
            assert (served == image_CHW).all() and name.split("/")[1] == data.classes[label]
