"""AVIF pictures whose boxes and headers claim what they do not hold, or more than anybody needs."""

import io
import struct
from importlib import import_module
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from snapensemble.contracts.errors import ImageTooCostly, ImageTooLarge, InvalidImage
from snapensemble.contracts.pictures.cost import picture_cost
from snapensemble.contracts.pictures.limits import PictureLimits
from snapensemble.contracts.pixels import SERVER_LIMITS, decode_image
from tests.attacks.avif import DAMAGED, REFUSED, animation, av1, avif, box, grid, scaled
from tests.attacks.pictures import saved
from tests.factories import encoded, picture


def scan(data: bytes, limits: PictureLimits = SERVER_LIMITS) -> tuple[int, int]:
    cost = picture_cost(data, limits, width=8, height=8)
    return cost.width, cost.height


@pytest.mark.parametrize("name", REFUSED)
def test_what_costs_too_much_is_refused_before_anything_is_decoded(name: str) -> None:
    words, build = REFUSED[name]
    with pytest.raises((ImageTooCostly, ImageTooLarge), match=words):
        scan(build())


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_boxes_are_refused_with_what_was_found(name: str) -> None:
    words, build = DAMAGED[name]
    with pytest.raises(InvalidImage, match=words):
        scan(build())


def test_what_is_built_is_accepted_where_it_claims_little() -> None:
    assert scan(avif()) == (16, 16)
    assert scan(animation(50)) == (16, 16)
    assert scan(grid(3, 4, (64, 32))) == (256, 96)


def test_every_frame_part_and_byte_costs() -> None:
    def seconds(data: bytes) -> float:
        return picture_cost(data, SERVER_LIMITS, width=8, height=8).seconds

    one = seconds(avif([(b"av01", av1(900, 900))]))
    assert seconds(avif([(b"av01", av1(900, 900, frames=3))])) > 2.9 * one
    assert seconds(avif([(b"av01", av1(900, 900))] * 3)) > 2.9 * one
    assert seconds(avif([(b"av01", av1(900, 900) + bytes(500_000))])) > one + 0.04


def test_photographs_of_3_megapixels_are_accepted_and_of_12_in_training_only() -> None:
    """Nothing else runs while Pillow decodes one, so a server must not decode large ones."""

    def photograph(width: int, height: int) -> bytes:
        data = av1(width, height) + bytes(width * height // 12)
        return avif([(b"av01", data)], size=(width, height))

    assert scan(photograph(2_048, 1_536)) == (2_048, 1_536)
    with pytest.raises(ImageTooCostly, match="12.2 megapixels.*save it smaller"):
        scan(photograph(4_032, 3_024))
    assert scan(photograph(4_032, 3_024), SERVER_LIMITS.times(6.25)) == (4_032, 3_024)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
@pytest.mark.parametrize("size", [(37, 21), (1, 1), (1, 90), (90, 1)])
def test_headers_say_what_pillow_writes(mode: str, size: tuple[int, int]) -> None:
    image = picture(width=size[0], height=size[1], mode=mode)
    data = encoded(image, "AVIF", quality=100, subsampling="4:4:4")
    assert scan(data) == size
    found = decode_image(data, channels=3, height=size[1], width=size[0])
    expected = decode_image(encoded(image), channels=3, height=size[1], width=size[0])
    assert np.abs(found.astype(int) - expected).mean() < 4


def test_data_that_is_smaller_than_its_boxes_say_is_scaled_up() -> None:
    assert decode_image(scaled(300, 200), channels=3, height=8, width=8).shape == (3, 8, 8)


def test_the_first_picture_of_an_animation_counts() -> None:
    first, second = (Image.new("RGB", (16, 12), colour) for colour in ("black", "white"))
    data = encoded(first, "AVIF", save_all=True, append_images=[second] * 4)
    assert decode_image(data, channels=3, height=12, width=16).max() < 8


def test_a_picture_is_decoded_by_the_thread_that_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = import_module("PIL._avif").AvifDecoder

    def decoder(data: bytes, codec: str, threads: int) -> Any:
        asked.append(threads)
        return real(data, codec, threads)

    monkeypatch.setattr("PIL._avif.AvifDecoder", decoder)
    decode_image(saved("AVIF", mode="RGB"), channels=3, height=8, width=8)
    assert asked == [1]


HONEST = [
    saved("AVIF", mode="RGB"), saved("AVIF", mode="RGBA"),
    encoded(picture(), "AVIF", save_all=True, append_images=[picture(1)] * 3),
    grid(2, 2, (64, 64)),
]  # fmt: skip


@given(
    data=st.sampled_from(HONEST), random=st.randoms(use_true_random=False),
    cut=st.integers(0, 60) | st.just(0),
)  # fmt: skip
@settings(max_examples=400, deadline=None)
def test_changed_bytes_are_refused_or_decoded_and_nothing_else(
    data: bytes, random: Random, cut: int
) -> None:
    changed = bytearray(data[: len(data) - cut])
    for _ in range(random.randint(1, 6)):
        at = random.randrange(len(changed) - 4)
        value = random.choice([0, 1, 2, 255, 65_535, 2**31, 2**32 - 1, random.getrandbits(32)])
        width = random.choice([1, 2, 4])
        changed[at : at + width] = struct.pack(">I", value)[-width:]
    try:
        assert decode_image(bytes(changed), channels=3, height=8, width=8).shape == (3, 8, 8)
    except InvalidImage as error:
        assert str(error)


def test_boxes_around_the_picture_are_passed_over() -> None:
    data = saved("AVIF", mode="RGB")
    assert scan(data + box(b"free", bytes(99))) == (16, 16)
    assert Image.open(io.BytesIO(data)).size == (16, 16)
