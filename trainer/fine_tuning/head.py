"""The first head of a fine-tuned network: a logistic regression on the features before it.

With random numbers in it the first steps would tear at weights that are good already (Kumar et al.
2022, arXiv:2202.10054: linear probing, then fine-tuning).

Shapes: N images, C features, K classes.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

STEPS = 200  # of L-BFGS at most
L2 = 0.05


def fit_head(
    head: nn.Linear,
    features_NC: Tensor,
    labels_N: Tensor,
    class_weights_K: Tensor | None = None,
    *,
    l2: float = L2,
) -> None:
    """Replace the layer's weights by those of a penalised multinomial regression.

    For the fit each feature has mean 0, and all together have deviation 1; the layer takes them as
    they are.

    Args:
        head: C features to K logits.
        features_NC: float32.
        labels_N: their classes.
        class_weights_K: how much an image of each class counts, with a mean of 1 over the images.
        l2: the penalty, per image, on half the squared weights of the scaled features.
    """
    mean_C = features_NC.mean(dim=0)
    scale = (features_NC - mean_C).std().clamp(min=1e-6)
    inputs_NC = (features_NC - mean_C) / scale
    weight_KC = torch.zeros_like(head.weight, requires_grad=True)
    bias_K = torch.zeros_like(head.bias, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight_KC, bias_K], max_iter=STEPS, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits_NK = inputs_NC @ weight_KC.T + bias_K
        value = (
            cross_entropy(logits_NK, labels_N, class_weights_K) + l2 / 2 * weight_KC.square().sum()
        )
        value.backward()  # type: ignore[no-untyped-call]  # torch's own signature has no types
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        head.weight.copy_(weight_KC / scale)
        head.bias.copy_(bias_K - (weight_KC / scale) @ mean_C)
