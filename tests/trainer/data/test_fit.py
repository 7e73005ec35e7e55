"""A folder's pictures come into their squares as the server fits them, by choice or by shape."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from snapensemble.contracts.errors import InvalidData
from snapensemble.contracts.pictures.fit import Fit
from snapensemble.contracts.pixels import ImageContract
from snapensemble.contracts.run import DataRecord
from snapensemble.trainer.build import image_contract
from snapensemble.trainer.data.aspects import choose_fit
from snapensemble.trainer.data.cache import Pictures, cache_key
from snapensemble.trainer.data.decoding import Unreadable, decode_pictures
from snapensemble.trainer.data.reread import reread
from snapensemble.trainer.data.sources.source import Files
from tests.factories import encoded, picture
from tests.trainer.folders import load

FITS: tuple[Fit, ...] = ("cover", "pad", "stretch")


def folder_of(root: Path, sizes: list[tuple[int, int]], kind: str = "PNG") -> Path:
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for index, (width, height) in enumerate(sizes):
            data = encoded(picture(index, width=width, height=height), kind)
            (root / name / f"{index}.{kind.lower()}").write_bytes(data)
    return root


def chosen(root: Path) -> tuple[Fit, str]:
    return choose_fit(Files(sorted(root.rglob("*.*"))), 1.0)


@pytest.mark.parametrize("sizes", [
    [(40, 30)] * 8, [(30, 20)] * 8, [(20, 30), (40, 30)] * 4, [(48, 27)] * 8,
    [(40, 30)] * 7 + [(90, 20)],
])  # fmt: skip
def test_ordinary_photographs_and_a_few_long_ones_are_covered(
    tmp_path: Path, sizes: list[tuple[int, int]]
) -> None:
    fit, why = chosen(folder_of(tmp_path, sizes))
    assert fit == "cover" and why.startswith("fit: cover")


@pytest.mark.parametrize("turned", [False, True])
def test_long_pictures_of_many_shapes_are_padded_and_of_one_shape_stretched(
    tmp_path: Path, turned: bool
) -> None:
    for name, sizes, expected in (
        ("many", [(60, 20), (90, 20), (50, 20), (40, 30)] * 2, "pad"),
        ("one", [(80, 20), (81, 20), (79, 20), (80, 21)] * 2, "stretch"),
    ):
        sizes = [size[::-1] if turned else size for size in sizes]
        fit, why = chosen(folder_of(tmp_path / name, sizes))
        assert fit == expected and f"fit: {expected}" in why and "\n" not in why


def test_the_line_says_what_was_seen(tmp_path: Path) -> None:
    _, why = chosen(folder_of(tmp_path, [(80, 20), (60, 20), (40, 30)] * 4))
    assert "67% of 24 pictures" in why and "the middle one is 3:1" in why


def test_pictures_that_cannot_be_read_do_not_decide(tmp_path: Path) -> None:
    root = folder_of(tmp_path, [(80, 20)] * 3)
    for index in range(9):
        (root / "a" / f"bad-{index}.png").write_bytes(b"no picture")
    assert chosen(root)[0] == "stretch"
    assert choose_fit(Files([root / "absent.png"]), 1.0).fit == "cover"


def test_of_many_pictures_an_even_sample_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snapensemble.trainer.data.aspects.SAMPLE", 5)
    root = folder_of(tmp_path, [(80, 20), (30, 30)] * 10)
    assert "of 5 pictures" in chosen(root)[1]


@given(
    sizes=st.lists(
        st.tuples(st.integers(1, 60), st.integers(1, 60))
        | st.tuples(st.just(1), st.integers(1, 200))
        | st.tuples(st.integers(1, 200), st.just(1)),
        min_size=1, max_size=3,
    ),
    fit=st.sampled_from(FITS),
    kind=st.sampled_from(["PNG", "JPEG", "WEBP", "AVIF", "GIF", "TIFF", "BMP"]),
    mode=st.sampled_from(["RGB", "L", "RGBA"]),
    orientation=st.integers(1, 8),
    size=st.integers(1, 40),
    channels=st.sampled_from([1, 3]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_training_decodes_to_the_bit_as_serving_does(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[tuple[int, int]], fit: Fit, kind: str,
    mode: str, orientation: int, size: int, channels: int,
) -> None:  # fmt: skip
    root = tmp_path_factory.mktemp("pictures")
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {} if kind in ("GIF", "BMP", "TIFF") else {"exif": exif}
    mode = "RGB" if mode == "RGBA" and kind in ("JPEG", "BMP") else mode
    files = []
    for index, (width, height) in enumerate(sizes):
        files.append(root / str(index))
        image = picture(index, width=width, height=height, mode=mode)
        files[-1].write_bytes(encoded(image, kind, **options))
    served = ImageContract(
        channels=1 if channels == 1 else 3, height=size, width=size, mean=(0.5,) * channels,
        std=(0.5,) * channels, fit=fit,
    )  # fmt: skip
    for file, image_CHW in zip(
        files,
        decode_pictures(Files(files), size=size, channels=channels, fit=fit),
        strict=True,
    ):
        assert not isinstance(image_CHW, Unreadable), image_CHW
        np.testing.assert_array_equal(image_CHW, served.decode(file.read_bytes()))


def test_the_choice_reaches_the_contract_and_what_is_read_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = folder_of(tmp_path / "drawings", [(60, 20), (90, 20), (50, 20)] * 4)
    data = load(root, image_size=16, fit="auto")
    assert data.fit == "pad" and "fit: pad" in capfd.readouterr().err
    image = image_contract(data)
    assert json.loads(image.model_dump_json())["fit"] == "pad"
    record = DataRecord(
        spec=str(root), fingerprint=data.fingerprint(), split_seed=0, val_fraction=0.25,
        train_images=len(data.train), val_images=len(data.val), test_images=len(data.part("test")),
    )  # fmt: skip
    again = reread(record, data.classes, image)
    np.testing.assert_array_equal(again.images_NCHW, data.part("test").images_NCHW)
    with pytest.raises(InvalidData, match="no longer, what the snapshots were trained on"):
        reread(record, data.classes, image.model_copy(update={"fit": "stretch"}))


def test_larger_pictures_for_crops_are_fitted_alike(tmp_path: Path) -> None:
    root = folder_of(tmp_path, [(80, 20)] * 8)
    data = load(root, image_size=16, large_size=32, fit="pad")
    assert data.train.large_NCHW is not None
    white_NH = (data.train.large_NCHW == 255).all(axis=(1, 3))
    np.testing.assert_array_equal(
        white_NH[:, ::2], (data.train.images_NCHW == 255).all(axis=(1, 3))
    )


def test_another_fit_is_another_entry_of_the_cache(tmp_path: Path) -> None:
    root = folder_of(tmp_path, [(80, 20)])
    files = Files(sorted(root.rglob("*.png")))
    keys = {cache_key(Pictures(files, 8, 3, 1.0, fit)) for fit in FITS}
    assert len(keys) == 3


def test_images_that_have_their_size_say_how_a_server_fits(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.savez(
        tmp_path / "x.npz", x_train=images, y_train=np.arange(40) % 2, x_test=images,
        y_test=np.arange(40) % 2, classes=np.array(["a", "b"]),
    )  # fmt: skip
    assert load(f"npz:{tmp_path / 'x.npz'}", fit="auto").fit == "cover"
    assert load(f"npz:{tmp_path / 'x.npz'}", fit="pad").fit == "pad"
