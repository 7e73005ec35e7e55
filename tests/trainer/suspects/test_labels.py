import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from snapensemble.trainer.suspects.labels import (
    FOLDS,
    out_of_fold,
    stratified_folds,
    suspect_labels,
)


@given(st.integers(2, 6), st.integers(1, 30), st.integers(0, 30), st.integers(0, 2**32))
def test_only_labels_that_are_not_the_most_probable_are_listed_the_least_probable_first(
    classes: int, images: int, most: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    probs_NK = rng.dirichlet(np.ones(classes), images).astype(np.float32)
    labels_N = rng.integers(0, classes, images)
    found = suspect_labels(probs_NK, labels_N, most)
    wrong_N = probs_NK.argmax(axis=1) != labels_N
    assert len(found.images_S) == min(most, wrong_N.sum())
    assert wrong_N[found.images_S].all()
    assert (found.suggested_S == probs_NK[found.images_S].argmax(axis=1)).all()
    doubt_N = 1 - probs_NK[np.arange(images), labels_N].astype(np.float64)
    assert found.doubt_S.tolist() == sorted(doubt_N[wrong_N], reverse=True)[:most]
    assert found.doubt_S.tolist() == doubt_N[found.images_S].tolist()


def test_an_image_s_own_label_has_no_say_in_its_probabilities() -> None:
    # So many features that a fit remembers every label; these mean nothing.
    features_NC = torch.randn(100, 400, generator=torch.Generator().manual_seed(0))
    labels_N = np.arange(100) % 4
    probs_NK = out_of_fold(features_NC, labels_N, 4)
    assert (probs_NK.argmax(axis=1) == labels_N).mean() < 0.4
    assert np.allclose(probs_NK.sum(axis=1), 1, atol=1e-5)


def test_wrong_labels_of_clear_classes_come_first() -> None:
    generator = torch.Generator().manual_seed(0)
    truth_N = np.arange(200) % 4
    centres_KC = 3 * torch.randn(4, 16, generator=generator)
    features_NC = centres_KC[truth_N] + torch.randn(200, 16, generator=generator)
    labels_N = truth_N.copy()
    labels_N[:10] = (labels_N[:10] + 1) % 4
    found = suspect_labels(out_of_fold(features_NC, labels_N, 4), labels_N, 10)
    assert set(found.images_S.tolist()) == set(range(10))
    assert (found.suggested_S == truth_N[found.images_S]).all()


@given(st.lists(st.integers(0, 5), min_size=1, max_size=80), st.integers(0, 9))
def test_every_fold_has_its_share_of_every_class(labels: list[int], seed: int) -> None:
    labels_N = np.array(labels)
    folds_N = stratified_folds(labels_N, seed)
    for label in set(labels):
        counts = np.bincount(folds_N[labels_N == label], minlength=FOLDS)
        assert len(counts) == FOLDS and counts.max() - counts.min() <= 1
    assert (folds_N == stratified_folds(labels_N, seed)).all()
