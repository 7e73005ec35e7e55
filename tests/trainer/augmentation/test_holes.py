import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from snapensemble.trainer.augmentation.batch import Augmentation, augment, draw_augmentation
from tests.trainer.augmentation.reference import transforms

FILL_C = torch.tensor([200], dtype=torch.uint8)


def holes(count: int, height: int, width: int, erasing: float = 1.0, seed: int = 0) -> torch.Tensor:
    """hole_BHW: what is erased of blank images."""
    blank = torch.zeros(count, 1, height, width, dtype=torch.uint8)
    numbers = torch.Generator().manual_seed(seed)
    draws = draw_augmentation(count, Augmentation(erasing=erasing), numbers)
    return augment(blank, draws, FILL_C)[:, 0] > 0


@given(H=st.integers(1, 40), W=st.integers(1, 40), seed=st.integers(0, 100))
@settings(deadline=None)
def test_what_is_erased_is_a_rectangle_that_leaves_something(H: int, W: int, seed: int) -> None:
    for hole_HW in holes(20, H, W, seed=seed):
        rows_H, cols_W = hole_HW.any(dim=1), hole_HW.any(dim=0)
        assert torch.equal(hole_HW, rows_H[:, None] & cols_W[None, :])
        for marked in (rows_H, cols_W):
            at = marked.nonzero().flatten()
            assert len(at) == 0 or int(at[-1] - at[0]) + 1 == len(at) < len(marked)


def test_areas_and_shapes_are_those_that_torchvision_draws() -> None:
    torch.manual_seed(0)
    erasing = transforms.RandomErasing(p=1.0, value=1.0)
    theirs = torch.stack([erasing(torch.zeros(1, 60, 90))[0] > 0 for _ in range(3_000)])
    figures = []
    for hole_BHW in (theirs, holes(3_000, 60, 90)):
        height_B, width_B = (hole_BHW.any(dim=d).sum(dim=1).double() for d in (2, 1))
        area_B, aspect_B = height_B * width_B / (60 * 90), (height_B / width_B).log()
        middle = hole_BHW.double().mean(dim=0)  # where holes are
        figures.append((area_B, aspect_B, middle))
    (area_B, aspect_B, middle), (our_area_B, our_aspect_B, our_middle) = figures
    quantiles = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)
    assert (area_B.quantile(quantiles) - our_area_B.quantile(quantiles)).abs().max() < 0.02
    assert (aspect_B.quantile(quantiles) - our_aspect_B.quantile(quantiles)).abs().max() < 0.15
    assert (middle - our_middle).abs().max() < 0.06


def test_the_share_of_images_that_lose_something_is_as_asked() -> None:
    lost = holes(4_000, 20, 20, erasing=0.25).any(dim=2).any(dim=1).double().mean()
    assert abs(lost - 0.25) < 0.03
