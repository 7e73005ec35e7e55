"""Runs that begin with the weights of an earlier one."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from snapensemble.contracts.errors import InvalidConfig, InvalidData, InvalidManifest
from snapensemble.contracts.files import write_atomically
from snapensemble.contracts.manifest import FileRef
from snapensemble.contracts.run import RestartFrom, read_run, write_run
from snapensemble.trainer.config import TrainConfig
from snapensemble.trainer.config_file import CONFIG_FILE, run_config
from snapensemble.trainer.data.dataset import load_dataset
from snapensemble.trainer.models.layers import Backbone, conv3x3
from snapensemble.trainer.models.registry import MODELS, Network
from snapensemble.trainer.models.tuning import divided
from snapensemble.trainer.recording.snapshots import load_model
from snapensemble.trainer.run import branch, resume, train
from snapensemble.trainer.validation import predict_logits
from tests.trainer.interruptions import killed, outcome


def staged(channels: int) -> Backbone:
    def stage(width_in: int, width: int) -> nn.Module:
        layers = [conv3x3(width_in, width), nn.BatchNorm2d(width), nn.ReLU()]
        return nn.Sequential(*layers)

    return Backbone(
        [stage(channels, 8), stage(8, 8), stage(8, 16)], 16, 0.1, ("stem", "stage1", "stage2")
    )


@pytest.fixture(autouse=True)
def network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "staged", Network(staged))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    run_dir = tmp_path / "earlier"
    config = TrainConfig(
        data="digits", out=run_dir, model="staged", cycles=1, cycle_epochs=3, threads=1
    )
    return train(config) / "snapshots" / "cycle-00.safetensors"


def tuned(weights: Path, out: Path, **changes: Any) -> TrainConfig:
    settings = {"tune": "stage2", "cycles": 3, "cycle_epochs": 2, "views": 2, "threads": 1}
    return TrainConfig(
        data="digits", out=out, model="staged", pretrained=str(weights), **{**settings, **changes}
    )


def test_only_the_stage_that_is_tuned_and_what_follows_changes(
    weights: Path, tmp_path: Path
) -> None:
    run_dir = train(tuned(weights, tmp_path / "run"))
    run, before = read_run(run_dir), safetensors.torch.load_file(weights)
    assert run.trunk is not None and run.training.tune == "stage2"
    after = load_model(run_dir, run, run.snapshots[-1]).state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    trunk = {name for name in before if name.startswith(("features.0.", "features.1."))}
    assert {name for name in trunk if "num_batches" not in name} <= same
    assert not any(name.endswith("weight") for name in same if name.startswith("features.2."))
    # Batch normalisation keeps what it knows of the images that it was trained on.
    assert {"features.2.1.running_mean", "features.2.1.running_var"} <= same


def test_the_files_of_a_tuned_run_hold_what_is_common_once(weights: Path, tmp_path: Path) -> None:
    run_dir = train(tuned(weights, tmp_path / "run"))
    run = read_run(run_dir)
    assert run.trunk is not None
    trunk = safetensors.torch.load_file(run_dir / run.trunk.file)
    member = safetensors.torch.load_file(run_dir / run.snapshots[0].file)
    assert trunk.keys().isdisjoint(member.keys())
    assert trunk.keys() | member.keys() == safetensors.torch.load_file(weights).keys()


@pytest.mark.parametrize("tune", ["stage1", "stage2", "head", "all"])
def test_the_kept_validation_logits_are_those_of_the_whole_network(
    weights: Path, tmp_path: Path, tune: str
) -> None:
    run_dir = train(tuned(weights, tmp_path / "run", tune=tune))
    run = read_run(run_dir)
    val_NCHW = torch.from_numpy(
        load_dataset("digits", val_fraction=0.1, split_seed=0).val.images_NCHW
    )
    for snapshot in run.all_snapshots:
        kept_NK = np.load(run_dir / snapshot.val_logits.file)
        whole = load_model(run_dir, run, snapshot)
        np.testing.assert_allclose(predict_logits(whole, val_NCHW), kept_NK, atol=1e-4)
        if tune != "all":
            trunk, member = divided(whole, tune)
            with torch.no_grad():
                parts_NK = member.eval()(trunk.eval()(val_NCHW))
            np.testing.assert_allclose(parts_NK.numpy(), kept_NK, atol=1e-4)


def test_the_first_head_is_better_than_a_random_one_before_any_step(
    weights: Path, tmp_path: Path
) -> None:
    still = {"lr_max": 1e-12, "cycles": 1, "cycle_epochs": 1}
    for tune in ("stage2", "all"):
        run = read_run(train(tuned(weights, tmp_path / tune, tune=tune, **still)))
        assert run.snapshots[0].val.accuracy > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("tune", ["stage2", "all"])
def test_a_tuned_run_that_is_killed_goes_on_to_the_same_bits(
    weights: Path, tmp_path: Path, tune: str
) -> None:
    config = partial(tuned, weights, tune=tune, checkpoint_minutes=0)
    train(config(tmp_path / "whole"))
    expected = outcome(tmp_path / "whole")
    for event in (25, 200, 400):
        run_dir = tmp_path / f"killed-{event}"
        killed(partial(train, config(run_dir)), event)
        weights.rename(tmp_path / "gone") if event == 400 else None  # the run has its own by then
        resume(run_dir)
        assert outcome(run_dir) == expected, event


def test_a_run_whose_settings_say_no_rate_goes_on_with_the_one_it_had(
    weights: Path, tmp_path: Path
) -> None:
    """Versions before this one wrote down only what was given."""
    run_dir = train(tuned(weights, tmp_path / "run", tune="all", lr_max=0.007, batch_size=48))
    run, file = read_run(run_dir), run_dir / CONFIG_FILE
    lines = file.read_text().splitlines(keepends=True)
    older = "".join(line for line in lines if not line.startswith(("lr_max ", "batch_size ")))
    assert older.count("\n") == len(lines) - 2
    sha256 = write_atomically(file, older.encode())
    config = FileRef(file=CONFIG_FILE, sha256=sha256, size=len(older.encode()))
    write_run(run_dir, run.model_copy(update={"config": config}))
    found = run_config(run_dir)
    assert (found.top_rate, found.batch_size) == (0.007, 48)


def test_a_trunk_that_was_changed_is_refused(weights: Path, tmp_path: Path) -> None:
    run_dir = train(tuned(weights, tmp_path / "run"))
    run = read_run(run_dir)
    assert run.trunk is not None
    file = run_dir / run.trunk.file
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    with pytest.raises(InvalidManifest, match=r"trunk\.safetensors"):
        load_model(run_dir, run, run.snapshots[0])


@pytest.mark.parametrize(("restart_from", "near"), [("first", 0), ("previous", 1)])
def test_a_cycle_begins_with_the_first_snapshot_or_with_the_previous_one(
    weights: Path, tmp_path: Path, restart_from: RestartFrom, near: int
) -> None:
    # A thousandth of the rate in each cycle: the last one stays where it begins.
    fading = {"lr_max": 0.1, "lr_max_decay": 1e-3, "restart_from": restart_from}
    run_dir = train(tuned(weights, tmp_path / "run", **fading))
    run = read_run(run_dir)
    assert run.schedule.restart_from == restart_from
    first, second, third = (
        safetensors.torch.load_file(run_dir / snapshot.file) for snapshot in run.snapshots
    )

    def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
        return max(float((one[name] - other[name]).abs().max()) for name in one)

    distances = [apart(third, first), apart(third, second)]
    assert distances.index(min(distances)) == near
    assert min(distances) < max(distances) / 10


def test_a_cycle_of_a_star_does_not_depend_on_those_between(weights: Path, tmp_path: Path) -> None:
    plain = train(tuned(weights, tmp_path / "plain"))
    wild = train(tuned(weights, tmp_path / "longer", cycles=2))
    resume(wild, more_cycles=1)
    files = [
        safetensors.torch.load_file(run_dir / read_run(run_dir).snapshots[2].file)
        for run_dir in (plain, wild)
    ]
    assert all(torch.equal(files[0][name], files[1][name]) for name in files[0])


def test_a_part_can_be_tuned_of_a_pretrained_network_only(tmp_path: Path) -> None:
    config = TrainConfig(data="digits", out=tmp_path / "run", model="staged", tune="stage2")
    with pytest.raises(InvalidConfig, match="--tune stage2 .* needs pretrained weights"):
        train(config)


def test_a_stage_that_is_not_there_is_refused_with_those_that_are(
    weights: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidConfig, match="stage1, stage2, head, or all"):
        train(tuned(weights, tmp_path / "run", tune="stage9"))


def test_fine_tuning_needs_no_more_than_two_classes_and_few_pictures(
    weights: Path, tmp_path: Path
) -> None:
    images_NHW = np.random.default_rng(0).integers(0, 256, (8, 8, 8), np.uint8)
    labels_N = np.arange(8) % 2
    np.savez(tmp_path / "few.npz", x_train=images_NHW, y_train=labels_N, classes=["a", "b"])
    config = tuned(weights, tmp_path / "run").model_copy(
        update={"data": f"npz:{tmp_path / 'few.npz'}"}
    )
    assert read_run(train(config)).complete


def test_branches_of_a_star_have_the_bits_of_the_run_itself(weights: Path, tmp_path: Path) -> None:
    whole = train(
        tuned(weights, tmp_path / "whole", class_balance="inverse", mixup=0.2, trivial_augment=True)
    )
    expected = {snapshot.name: snapshot.sha256 for snapshot in read_run(whole).all_snapshots}
    for cycle in (1, 2):
        run = read_run(branch(whole, cycle, tmp_path / f"branch-{cycle}"))
        assert run.complete and [snapshot.cycle for snapshot in run.snapshots] == [cycle]
        assert {s.name: s.sha256 for s in run.all_snapshots}.items() <= expected.items()


def test_a_branch_that_is_killed_goes_on_to_the_same_bits(weights: Path, tmp_path: Path) -> None:
    whole = train(tuned(weights, tmp_path / "whole", checkpoint_minutes=0))
    branch(whole, 2, tmp_path / "one")
    for event in (12, 60, 150):
        out = tmp_path / f"killed-{event}"
        killed(partial(branch, whole, 2, out), event)
        resume(out)
        assert outcome(out) == outcome(tmp_path / "one"), event


def test_only_a_later_cycle_of_a_star_can_be_a_branch(weights: Path, tmp_path: Path) -> None:
    star = train(tuned(weights, tmp_path / "star"))
    for cycle in (0, 3):
        with pytest.raises(InvalidConfig, match="has the cycles 1 to 2"):
            branch(star, cycle, tmp_path / "branch")
    chain = train(tuned(weights, tmp_path / "chain", restart_from="previous"))
    with pytest.raises(InvalidConfig, match="train with --restart-from first"):
        branch(chain, 1, tmp_path / "branch")
    one = branch(star, 1, tmp_path / "branch")
    with pytest.raises(InvalidConfig, match="branch is one cycle of another run: name that run"):
        branch(one, 2, tmp_path / "of a branch")


def test_a_branch_on_other_images_is_refused(weights: Path, tmp_path: Path) -> None:
    star = train(tuned(weights, tmp_path / "star"))
    numbers = np.random.default_rng(0)
    np.savez(
        tmp_path / "other.npz",
        x_train=numbers.integers(0, 256, (100, 8, 8), np.uint8),
        y_train=np.arange(100) % 10,
        classes=[str(digit) for digit in range(10)],
    )
    with pytest.raises(InvalidData, match="is not what .* began with"):
        branch(star, 1, tmp_path / "branch", data=f"npz:{tmp_path / 'other.npz'}")
