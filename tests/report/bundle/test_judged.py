"""The worst mistakes and the least sure right answers, with their pictures."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from snapensemble.contracts.metrics import Answers
from snapensemble.report.bundle.judged import (
    CRISP_SIDE,
    MEMBERS_BY_NAME,
    MOST,
    SIDE,
    image_by_image,
    thumbnail,
    votes,
)
from snapensemble.report.bundle.measure import ReportInputs
from snapensemble.report.bundle.page import write_bundle_report
from tests.report.bundle.bundles import answers, make_manifest
from tests.report.run.test_page import NASTY, Tags

CLASSES = ("a", "b", "c")
RED = np.zeros((3, 20, 30), dtype=np.uint8)
RED[0] = 255


def opened(uri: str) -> Image.Image:
    """The picture of a data URI."""
    found = re.fullmatch(r"data:image/(png|jpeg);base64,(.*)", uri)
    assert found is not None
    return Image.open(io.BytesIO(base64.b64decode(found[2])))


@given(st.integers(0, 10_000), st.integers(1, 120))
def test_the_surest_mistakes_and_the_least_sure_right_answers_are_taken(
    seed: int, images: int
) -> None:
    shown = answers(images, seed=seed)
    probs_NK = shown.probs_MNK.mean(axis=0)
    found = image_by_image(probs_NK, shown, CLASSES)
    sure_N, right_N = probs_NK.max(axis=1), probs_NK.argmax(axis=1) == shown.labels_N
    worst = sorted(sure_N[~right_N], reverse=True)[:MOST]
    assert [one.probability for one in found["mistakes"]] == pytest.approx(worst)
    assert [one.probability for one in found["least_sure"]] == pytest.approx(
        sorted(sure_N[right_N])[:MOST]
    )
    for one in (*found["mistakes"], *found["least_sure"]):
        place = one.image
        assert one.right == CLASSES[shown.labels_N[place]]
        assert one.answer == CLASSES[probs_NK[place].argmax()]
        assert one.probability_of_right == pytest.approx(probs_NK[place, shown.labels_N[place]])
        assert list(one.votes) == shown.probs_MNK[:, place].argmax(axis=1).tolist()


def test_members_vote_by_name_or_are_counted_where_they_are_many() -> None:
    half = answers(20, members=3)
    one = image_by_image(half.probs_MNK.mean(axis=0), half, CLASSES)["least_sure"][0]
    one = one.model_copy(update={"votes": (1, 0, 1), "vote_probabilities": (0.9, 0.5, 0.7)})
    bundle = make_manifest(half, names=CLASSES)
    assert votes(one, bundle) == ["cycle-00: b, 90%", "cycle-01: a, 50%", "cycle-02: b, 70%"]
    M = MEMBERS_BY_NAME + 2
    many = one.model_copy(update={"votes": (0,) * (M - 1) + (2,), "vote_probabilities": (1,) * M})
    bundle = make_manifest(answers(20, members=M), names=CLASSES)
    assert votes(many, bundle) == [f"{M - 1} of {M}: a", f"1 of {M}: c"]
    alone = one.model_copy(update={"votes": (1,), "vote_probabilities": (0.9,)})
    assert votes(alone, bundle) == []


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "size", [(1, 1), (8, 8), (20, 30), (CRISP_SIDE, 10), (224, 224), (50, 300)]
)
def test_a_thumbnail_is_the_picture_and_small(size: tuple[int, int], channels: int) -> None:
    rng = np.random.default_rng(0)
    noise_CHW = rng.integers(0, 256, (channels, *size), dtype=np.uint8)
    uri = thumbnail(noise_CHW)
    image = opened(uri)
    assert len(uri) < 16_000  # noise is the worst case, and 48 of them stay below a megabyte
    assert max(image.size) <= SIDE
    if max(size) <= CRISP_SIDE:
        pixels = np.asarray(image).reshape(*size, channels).transpose(2, 0, 1)
        assert (pixels == noise_CHW).all()
    elif min(size) == max(size):
        assert image.size == (SIDE, SIDE)


def test_colours_are_kept() -> None:
    large_CHW = RED.repeat(6, axis=1).repeat(6, axis=2)
    red, green, blue = np.asarray(opened(thumbnail(large_CHW)).convert("RGB"))[30, 30]
    assert red > 240 and green < 15 and blue < 15


def page_with(
    directory: Path, shown: Answers, picture: bool, names: tuple[str, ...] = CLASSES
) -> tuple[str, list[int]]:
    """The page, and which pictures it was made from."""
    asked: list[int] = []

    def take(place: int) -> NDArray[np.uint8]:
        asked.append(place)
        return RED

    bundle = make_manifest(answers(60, seed=1), names=names)
    inputs = ReportInputs(
        calibration=answers(60, seed=1), test=shown, picture=take if picture else None
    )
    write_bundle_report(directory, bundle, inputs)
    return (directory / "report" / "index.html").read_text(), asked


@pytest.mark.usefixtures("unrendered")
def test_a_page_holds_the_pictures_of_the_images_that_it_tells_of(tmp_path: Path) -> None:
    shown = answers(200, seed=3)
    text, asked = page_with(tmp_path, shown, picture=True, names=NASTY)
    thumbnails = [
        attributes
        for tag, attributes in Tags(text).found
        if tag == "img" and (attributes["alt"] or "").startswith("Image ")
    ]
    assert 0 < len(asked) == len(set(asked)) == len(thumbnails) <= 2 * MOST
    for place, attributes in zip(asked, thumbnails, strict=True):
        assert (attributes["alt"] or "").startswith(f"Image {place}: ")
        assert f"{NASTY[shown.labels_N[place]]}"[:10] in (attributes["alt"] or "")
        assert opened(attributes["src"] or "").size == (30, 20)
    assert "<script" not in text and "<img src=//" not in text and "://" not in text


@pytest.mark.usefixtures("unrendered")
def test_without_pictures_the_page_tells_of_the_same_images(tmp_path: Path) -> None:
    shown = answers(200, seed=3)
    with_them, asked = page_with(tmp_path / "with", shown, picture=True)
    without, none = page_with(tmp_path / "without", shown, picture=False)
    assert asked and not none
    assert "Pictures are left out" in without and "Pictures are left out" not in with_them
    assert "image/jpeg" not in without and 'alt="Image ' not in without
    assert re.findall(r"Image \d+\.", without) == re.findall(r"Image \d+\.", with_them)
    numbers = [
        (tmp_path / way / "report" / "figures.json").read_bytes() for way in ("with", "without")
    ]
    assert numbers[0] == numbers[1]


@pytest.mark.usefixtures("unrendered")
def test_a_page_without_a_mistake_says_how_many_there_may_be(tmp_path: Path) -> None:
    labels_N = np.arange(60) % 3
    perfect = Answers(np.stack([0.1 + 0.7 * np.eye(3)[labels_N]] * 3), labels_N)
    text, asked = page_with(tmp_path, perfect, picture=True)
    assert "The worst mistakes" not in text and "Right, but hardly" in text
    # 1 - 0.025 ** (1 / 60)
    assert "no more than 5.96% of others like them are answered wrong" in text
    assert len(asked) == MOST
