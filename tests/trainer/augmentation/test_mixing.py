from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.trainer.augmentation.mixing import Mixing, draw_mixing, mixed, partners
from tests.trainer.augmentation.reference import pictures


def numbers(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(B=st.integers(2, 12), seed=st.integers(0, 100), alpha=st.sampled_from([0.2, 1.0, 4.0]))
@settings(deadline=None)
def test_mixup_blends_image_and_label_by_the_same_share(B: int, seed: int, alpha: float) -> None:
    images_BCHW, labels_B = pictures(B), torch.arange(B)
    draws = draw_mixing(B, Mixing(mixup=alpha), numbers(seed))
    rows = partners(slice(0, B), B)
    found_BCHW, pairs = mixed(images_BCHW[rows], labels_B[rows], draws)
    assert found_BCHW.dtype == torch.uint8
    assert torch.equal(pairs.first_B, labels_B) and torch.equal(pairs.second_B, labels_B.roll(-1))
    assert ((pairs.share_B >= 0) & (pairs.share_B <= 1)).all()
    share_B111 = pairs.share_B.view(-1, 1, 1, 1)
    expected = share_B111 * images_BCHW + (1 - share_B111) * images_BCHW.roll(-1, 0)
    assert (found_BCHW - expected).abs().max() <= 0.51


@given(B=st.integers(2, 9), H=st.integers(1, 30), W=st.integers(1, 30), seed=st.integers(0, 100))
@settings(deadline=None)
def test_the_share_of_a_cut_image_is_that_of_its_own_pixels(
    B: int, H: int, W: int, seed: int
) -> None:
    own_BCHW = torch.arange(B, dtype=torch.uint8).view(B, 1, 1, 1).expand(B, 3, H, W)
    draws = draw_mixing(B, Mixing(cutmix=1.0), numbers(seed))
    rows = partners(slice(0, B), B)
    found_BCHW, pairs = mixed(own_BCHW[rows], torch.arange(B)[rows], draws)
    is_own_BHW = (found_BCHW == own_BCHW).all(dim=1)
    other_BHW = (found_BCHW == own_BCHW.roll(-1, 0)).all(dim=1)
    assert (is_own_BHW ^ other_BHW).all()
    torch.testing.assert_close(is_own_BHW.float().mean(dim=(1, 2)), pairs.share_B)
    for other_HW in other_BHW:
        assert torch.equal(other_HW, other_HW.any(1)[:, None] & other_HW.any(0)[None, :])


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_shares_are_drawn_from_beta(alpha: float) -> None:
    drawn = draw_mixing(20_000, Mixing(mixup=alpha), numbers()).share_B.double()
    assert abs(drawn.mean() - 0.5) < 0.02
    assert abs(drawn.var() - 1 / (4 * (2 * alpha + 1))) < 0.01  # of Beta(alpha, alpha)


def test_with_both_half_of_the_pairs_are_cut() -> None:
    cut_B = draw_mixing(4_000, Mixing(mixup=0.2, cutmix=1.0), numbers()).cut_B
    assert 0.45 < cut_B.double().mean() < 0.55
    assert not draw_mixing(50, Mixing(mixup=0.2), numbers()).cut_B.any()
    assert draw_mixing(50, Mixing(cutmix=0.2), numbers()).cut_B.all()


@given(B=st.integers(2, 12), processes=st.integers(1, 4), seed=st.integers(0, 50))
@settings(deadline=None)
def test_processes_that_share_a_batch_mix_it_as_one_does(B: int, processes: int, seed: int) -> None:
    images_BCHW, labels_B = pictures(B), torch.arange(B)
    draws = draw_mixing(B, Mixing(mixup=0.4, cutmix=1.0), numbers(seed))

    def of(mine: slice) -> tuple[Any, ...]:
        rows = partners(mine, B)
        found, pairs = mixed(images_BCHW[rows], labels_B[rows], draws.rows(mine))
        return found, *pairs

    edges = [B * rank // processes for rank in range(processes + 1)]
    parts = [of(slice(a, b)) for a, b in pairwise(edges) if a < b]
    for whole, *pieces in zip(of(slice(0, B)), *parts, strict=True):
        assert torch.equal(whole, torch.cat(pieces))


def test_features_are_blended_as_numbers_of_their_own() -> None:
    rows_XC = torch.tensor([[0.0, 1.0], [1.0, -1.0], [0.0, 1.0]])
    draws = draw_mixing(2, Mixing(mixup=1.0), numbers())
    found_BC, pairs = mixed(rows_XC, torch.tensor([0, 1, 0]), draws)
    first, second = pairs.share_B.tolist()
    np.testing.assert_allclose(
        found_BC.numpy(), [[1 - first, 2 * first - 1], [second, 1 - 2 * second]], atol=1e-6
    )


@pytest.mark.parametrize("bad", [{}, {"mixup": -0.1}, {"mixup": 1.0, "cutmix": -1.0}])
def test_mixing_that_mixes_nothing_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(InvalidConfig):
        Mixing(**bad)
