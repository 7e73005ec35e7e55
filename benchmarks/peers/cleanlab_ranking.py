"""cleanlab's own order of suspicious labels, for benchmarks.training.suspects.

    python -m benchmarks.peers.cleanlab_ranking ANSWERS.npz ORDERS.npz

It needs nothing but cleanlab and NumPy. ANSWERS.npz has `probs` and `labels`; ORDERS.npz gets the
images for each of cleanlab's ways, the most suspicious first: the three scores of
`get_label_quality_scores`, and `find_label_issues`, which names some and orders these.
"""

import sys
from importlib import import_module
from typing import Any

import numpy as np

SCORES = ("self_confidence", "normalized_margin", "confidence_weighted_entropy")
FILTER = "find_label_issues"


def main() -> None:
    """Read the answers and write the orders."""
    if len(sys.argv) != 3 or "--help" in sys.argv:
        print("usage: cleanlab_ranking ANSWERS.npz ORDERS.npz")
        return
    rank: Any = import_module("cleanlab.rank")
    found: Any = import_module("cleanlab.filter")
    with np.load(sys.argv[1]) as answers:
        labels_N, probs_NK = answers["labels"], answers["probs"].astype(np.float64)
    probs_NK /= probs_NK.sum(axis=1, keepdims=True)
    orders: dict[str, Any] = {
        score: np.argsort(
            rank.get_label_quality_scores(labels_N, probs_NK, method=score), kind="stable"
        )
        for score in SCORES
    }
    orders[FILTER] = found.find_label_issues(
        labels_N, probs_NK, return_indices_ranked_by="self_confidence", n_jobs=1
    )
    np.savez(sys.argv[2], **orders)


if __name__ == "__main__":
    main()
