import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn.functional import cross_entropy

from snapensemble.trainer.data.balance import class_weights
from snapensemble.trainer.fine_tuning.head import fit_head


def clouds(seed: int, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    numbers = np.random.default_rng(seed)
    labels_N = np.repeat(np.arange(3), 40)
    middle_KC = numbers.normal(size=(3, 5))
    rows_NC = scale * (middle_KC[labels_N] + numbers.normal(size=(120, 5))) + 3 * scale
    return torch.tensor(rows_NC, dtype=torch.float32), torch.tensor(labels_N)


def test_the_head_is_the_penalised_regression_that_scikit_learn_finds() -> None:
    rows_NC, labels_N = clouds(0)
    head = nn.Linear(5, 3)
    fit_head(head, rows_NC, labels_N, l2=0.05)
    centred_NC = rows_NC - rows_NC.mean(dim=0)
    standard_NC = centred_NC / centred_NC.std()
    other = LogisticRegression(C=1 / (0.05 * len(rows_NC)), max_iter=2_000, tol=1e-8)
    other.fit(standard_NC.numpy(), labels_N.numpy())
    with torch.no_grad():
        ours_NK = torch.softmax(head(rows_NC), dim=1).numpy()
    np.testing.assert_allclose(ours_NK, other.predict_proba(standard_NC.numpy()), atol=2e-3)


def test_a_balanced_head_is_the_regression_with_balanced_classes_of_scikit_learn() -> None:
    rows_NC, labels_N = clouds(0)
    kept = torch.cat([torch.arange(0, 40), torch.arange(40, 44), torch.arange(80, 95)])
    rows_NC, labels_N = rows_NC[kept], labels_N[kept]
    weights_K = torch.from_numpy(class_weights([40, 4, 15], "inverse"))
    heads = nn.Linear(5, 3), nn.Linear(5, 3)
    fit_head(heads[0], rows_NC, labels_N, weights_K, l2=0.05)
    fit_head(heads[1], rows_NC, labels_N, l2=0.05)
    standard_NC = (rows_NC - rows_NC.mean(dim=0)) / (rows_NC - rows_NC.mean(dim=0)).std()
    other = LogisticRegression(
        C=1 / (0.05 * len(rows_NC)), max_iter=2_000, tol=1e-8, class_weight="balanced"
    )
    other.fit(standard_NC.numpy(), labels_N.numpy())
    with torch.no_grad():
        balanced_NK, plain_NK = (torch.softmax(head(rows_NC), dim=1).numpy() for head in heads)
    np.testing.assert_allclose(balanced_NK, other.predict_proba(standard_NC.numpy()), atol=2e-3)
    assert balanced_NK[:, 1].mean() > 1.3 * plain_NK[:, 1].mean()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1_000), st.floats(1e-3, 1e3))
def test_the_scale_of_the_features_changes_no_answer(seed: int, scale: float) -> None:
    answers = []
    for factor in (1.0, scale):
        rows_NC, labels_N = clouds(seed, factor)
        head = nn.Linear(5, 3)
        fit_head(head, rows_NC, labels_N)
        with torch.no_grad():
            answers.append(torch.softmax(head(rows_NC), dim=1).numpy())
    np.testing.assert_allclose(answers[0], answers[1], atol=0.01)


def test_a_feature_that_never_varies_does_no_harm() -> None:
    rows_NC, labels_N = clouds(1)
    rows_NC[:, 2] = 7.0
    head = nn.Linear(5, 3)
    fit_head(head, rows_NC, labels_N)
    with torch.no_grad():
        assert cross_entropy(head(rows_NC), labels_N) < 0.8
    assert all(p.isfinite().all() for p in head.parameters())
