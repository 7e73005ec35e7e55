import numpy as np
import pytest
import torch

from trainer.augment import pad_crop_flip


def images(B: int = 64, C: int = 3, H: int = 8, W: int = 6) -> torch.Tensor:
    pixels = np.random.default_rng(0).integers(0, 256, (B, C, H, W), dtype=np.uint8)
    return torch.from_numpy(pixels)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


@pytest.mark.parametrize("padding", [0, 1, 3])
@pytest.mark.parametrize("flip", [False, True])
def test_each_result_is_a_crop_of_the_reflected_image_and_perhaps_its_mirror(
    padding: int, flip: bool
) -> None:
    before = images()
    after = pad_crop_flip(before, padding=padding, flip=flip, generator=generator())
    assert after.dtype == torch.uint8 and after.shape == before.shape
    _, _, H, W = before.shape
    seen = set()
    for old, new in zip(before.numpy(), after.numpy(), strict=True):
        padded = np.pad(old, ((0, 0), (padding, padding), (padding, padding)), mode="reflect")
        crops = {
            (y, x, mirrored): padded[:, y : y + H, x : x + W][:, :, :: -1 if mirrored else 1]
            for y in range(2 * padding + 1)
            for x in range(2 * padding + 1)
            for mirrored in {False, flip}
        }
        found = [how for how, crop in crops.items() if np.array_equal(crop, new)]
        assert found
        seen.add(found[0])
    if padding or flip:
        assert len(seen) > 1
    assert {mirrored for _, _, mirrored in seen} == {False, flip}


def test_no_padding_and_no_flip_change_nothing() -> None:
    before = images()
    after = pad_crop_flip(before, padding=0, flip=False, generator=generator())
    assert torch.equal(before, after)


def test_the_same_generator_gives_the_same_batch() -> None:
    one, two = (
        pad_crop_flip(images(), padding=2, flip=True, generator=generator()) for _ in range(2)
    )
    assert torch.equal(one, two)


def test_about_half_are_mirrored() -> None:
    ramp = torch.arange(6, dtype=torch.uint8).expand(1000, 1, 1, 6)
    after = pad_crop_flip(ramp, padding=0, flip=True, generator=generator())
    mirrored = (after[:, 0, 0, 0] == 5).float().mean().item()
    assert 0.45 < mirrored < 0.55
