"""Soups: one network whose weights are the mean of several snapshots' weights.

The greedy one is recipe 1 of Wortsman et al. 2022 (Model soups, arXiv:2203.05482): from the best
snapshot on, each further one is added to the mean if the loss on the selection half does not rise.
It is never worse there than its best ingredient. The uniform one is the mean of all. Statistics of
batch normalisation are measured anew over training images (Izmailov et al. 2018, arXiv:1803.05407,
section 3.2), unless training had frozen them, and never in a trunk that the snapshots share.

Shapes: S snapshots, N images, B batch, C channels, H height, W width, K classes.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from snapensemble.contracts.errors import InvalidConfig, message_of
from snapensemble.contracts.metrics import val_figures
from snapensemble.contracts.process import noting_progress
from snapensemble.contracts.run import Balance
from snapensemble.export.calibration import ValidationSplit
from snapensemble.export.candidates import Candidate, Judged, Pool, judged
from snapensemble.export.config import ExportConfig
from snapensemble.export.members import Say, shared_tune
from snapensemble.export.selection import FEW, Bag, Chosen, Judge, comparable
from snapensemble.trainer.data.reread import NOT_AT_HAND, reread
from snapensemble.trainer.models.tuning import divided

Images = NDArray[np.uint8]
STATISTICS_IMAGES = 1_000  # whose every pixel counts: a thousand photographs make millions
BATCH = 128
MAX_KEPT_BYTES = 2**30  # of features; beyond, they are computed anew each time
_SEED = 0


class Kitchen:
    """Makes soups of some of a pool's snapshots and has them answer the validation images.

    Args:
        pool: where the snapshots come from.
        ingredients: the places in it of those that may go into a soup, of one architecture.
        read: gives the images of a part of the data set, train or val.

    Raises:
        InvalidManifest: a snapshot is damaged.
        InvalidConfig: a network needs what is not installed.
        InvalidData: the images are not where they were.
    """

    def __init__(
        self, pool: Pool, ingredients: Sequence[int], read: Callable[[str], Images]
    ) -> None:
        candidates = [pool.candidates[s] for s in ingredients]
        networks = [candidate.network() for candidate in candidates]
        self._states = {
            s: network.state_dict() for s, network in zip(ingredients, networks, strict=True)
        }
        self._network, tune = candidates[0].network(), shared_tune(candidates)
        trunk: nn.Module = nn.Identity()
        self._part: nn.Module = self._network
        if tune is not None:
            trunk, self._part = divided(self._network, tune)
        self._train = None
        if not all(each.run.training.frozen_statistics for each in candidates):
            self._train = Inputs(trunk, statistics_images(read("train")))
        self._val = Inputs(trunk, read("val"))

    def soup(self, bag: Bag) -> tuple[Mapping[str, Tensor], NDArray[np.float32]]:
        """The mean weights of a bag with statistics of their own, and their logits_NK."""
        self._network.load_state_dict(mean_state([self._states[s] for s in bag]))
        if self._train is not None:
            update_bn(self._train, self._part)
        self._network.eval()
        with torch.no_grad():
            logits_NK = torch.cat([self._part(inputs) for inputs in self._val])
        state = {name: tensor.clone() for name, tensor in self._network.state_dict().items()}
        return state, logits_NK.numpy()


class Inputs:
    """Batches of images as a network takes them, or of what a trunk makes of them."""

    def __init__(self, trunk: nn.Module, images_NCHW: Images) -> None:
        self._trunk = trunk.eval()
        self._images_NCHW = images_NCHW
        self._kept: list[Tensor] = []

    def __iter__(self) -> Iterator[Tensor]:
        if self._kept:
            yield from self._kept
            return
        computed = []
        for start in range(0, len(self._images_NCHW), BATCH):
            images_BCHW = torch.from_numpy(self._images_NCHW[start : start + BATCH].copy())
            with torch.no_grad():
                computed.append(self._trunk.eval()(images_BCHW))
            yield computed[-1]
            if len(self._images_NCHW) * computed[-1][0].nbytes > MAX_KEPT_BYTES:
                computed.clear()
        self._kept = computed


def with_soups(
    pool: Pool, split: ValidationSplit, config: ExportConfig, say: Say
) -> tuple[Pool, Chosen | None]:
    """Put soups among the candidates where the configured rule considers them.

    Args:
        pool: the snapshots that the runs have kept.
        split: which validation images choose.
        config: the rule `soup` needs them, `auto` considers one where it compares, several cycles
            pay and one member will do.
        say: called with a sentence about what takes long, or why `auto` has no such soup.

    Returns:
        The pool with soups at its end, and what the rule `soup` chooses among these.

    Raises:
        InvalidConfig: the snapshots are of different architectures, or several members are asked
            for; only with the rule `soup`, as below.
        InvalidData: the images are not where they were.
    """
    asked = config.select == "soup"
    images = comparable(pool.labels_N[split.selection_N], config.metric)
    is_contender = config.select == "auto" and config.members in (None, "auto", 1)
    if not asked and (not is_contender or images < FEW):
        return pool, None
    kind = config.weights or "last"
    pays_S = [asked or pays for pays in pool.pays_S]
    ingredients = [s for s, own in enumerate(pool.kinds_S) if own == kind and pays_S[s]]
    runs = [pool.candidates[s].run for s in ingredients]
    models = sorted({run.training.model for run in runs})
    balances = set() if pool.prior is None else {run.training.class_balance for run in runs}
    if asked:
        _refuse_impossible(ingredients, models, balances, config)
    elif len(ingredients) < 2 or len(models) > 1 or len(balances) > 1:
        return pool, None
    run = pool.first_run

    def read(part: str) -> Images:
        say(f"reading the {part} images of {config.data or run.data.spec}, for soups")
        return reread(run.data, run.classes, run.image, spec=config.data, split=part).images_NCHW

    try:
        kitchen = Kitchen(pool, ingredients, read)
    except NOT_AT_HAND as error:
        without = "a soup is measured on the run's images, which cannot be read"
        if asked:
            error.add_note(f"{without}; give --data, or another --select")
            raise
        say(f"no greedy soup: {without}: {message_of(error)}")
        return pool, None
    return _cooked(kitchen, pool, ingredients, split, config, say)


def greedy_soup(ranked: Iterable[int], badness: Callable[[Bag], tuple[float, ...]]) -> Bag:
    """Add each snapshot, from the best on, that does not make the mean of the weights worse.

    Args:
        ranked: snapshots, the best first.
        badness: of the mean weights of a bag; lower is better.
    """
    rest = iter(ranked)
    bag: Bag = (next(rest),)
    lowest = badness(bag)
    for snapshot in rest:
        found = badness((*bag, snapshot))
        if found <= lowest:
            bag, lowest = (*bag, snapshot), found
    return bag


def mean_state(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of several networks' tensors, in float64 on the way; counters are the first's."""
    return {
        name: torch.stack([state[name].double() for state in states]).mean(dim=0).to(first.dtype)
        if first.is_floating_point()
        else first
        for name, first in states[0].items()
    }


def statistics_images(images_NCHW: Images) -> Images:
    """Some images in whole batches, drawn at random: a folder's come sorted by class."""
    shuffled_N = np.random.default_rng(_SEED).permutation(len(images_NCHW))[:STATISTICS_IMAGES]
    whole = len(shuffled_N) // BATCH * BATCH or len(shuffled_N)
    return images_NCHW[shuffled_N[:whole]]


def _cooked(
    kitchen: Kitchen,
    pool: Pool,
    ingredients: Sequence[int],
    split: ValidationSplit,
    config: ExportConfig,
    say: Say,
) -> tuple[Pool, Chosen | None]:
    """The pool with the greedy soup, and for the rule `soup` the uniform one if it is better."""
    made: dict[Bag, tuple[Mapping[str, Tensor], Judged]] = {}
    chosen_by, labels_N = split.selection_N, pool.labels_N[split.selection_N]

    def badness(bag: Bag) -> tuple[float, ...]:
        if len(bag) > 1 and bag not in made:
            state, logits_NK = kitchen.soup(bag)
            made[bag] = state, judged(logits_NK, pool.candidates[bag[0]].run, pool.prior)
        alone_NK = pool.judged_by(config.metric)[bag[0]]
        probs_NK = alone_NK if len(bag) == 1 else made[bag][1].by(config.metric)
        return Judge(probs_NK[None, chosen_by], labels_N, config.metric).badness([0])

    ranked = sorted(ingredients, key=lambda s: (badness((s,)), -s))
    say(f"trying which of {len(ranked)} snapshots' weights make a better mean")
    bag = greedy_soup(noting_progress(ranked, "snapshots are tried", say), badness)
    if config.select == "soup":
        bag = min((bag, tuple(ranked)), key=badness)
    if len(bag) > 1:
        pool = pool.with_candidate(soup_candidate(pool, bag, *made[bag]), made[bag][1])
    if config.select != "soup":
        return pool, None
    index = bag[0] if len(bag) == 1 else len(pool.candidates) - 1
    names = [pool.candidates[s].name for s in bag]
    loss, alone = badness(bag)[0], badness(bag[:1])[0]
    what, better = {"nll": "NLL", "accuracy": "error", "macro": "macro error"}[config.metric], ""
    if len(bag) > 1:
        better = f", {names[0]} alone {alone:.4f}"
    reason = (
        f"the mean of the weights of {len(bag)} of {len(ranked)} snapshots ({', '.join(names)}), "
        f"at the price of one network: {what} {loss:.4f} on {len(labels_N):,} selection images"
        f"{better}"
    )
    return pool, Chosen((index,), (1.0,), reason)


def soup_candidate(pool: Pool, bag: Bag, state: Mapping[str, Tensor], answers: Judged) -> Candidate:
    """A soup as a candidate; it stands where the latest of its ingredients does."""
    latest = pool.candidates[max(bag)]
    snapshot = latest.snapshot.model_copy(
        update={
            "weights": "soup",
            "of_cycles": len(bag),
            "val": val_figures(answers.probs_NK, pool.labels_N),
        }
    )
    return replace(
        latest,
        name=f"soup-of-{len(bag)}",
        snapshot=snapshot,
        state=state,
        offsets_K=answers.offsets_K,
    )


def _refuse_impossible(
    ingredients: Sequence[int],
    models: Sequence[str],
    balances: Collection[Balance],
    config: ExportConfig,
) -> None:
    if not ingredients:
        raise InvalidConfig(
            f"--select soup: the run has kept no {config.weights} weights; leave --weights out"
        )
    if len(models) > 1:
        raise InvalidConfig(
            f"--select soup averages weights, and these are of {' and '.join(models)}; give runs "
            "of one architecture, or another --select, which averages their answers"
        )
    if len(balances) > 1:
        raise InvalidConfig(
            f"--select soup averages weights, and these were taught with --class-balance "
            f"{' and '.join(sorted(balances))}, so their mean answers for no known class shares; "
            "give runs of one, or leave --class-prior uniform out"
        )
