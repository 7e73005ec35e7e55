import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from snapensemble.contracts.bundle import read_bundle
from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.manifest import FileRef
from snapensemble.contracts.metrics import mean_probabilities, nll, softmax, val_figures
from snapensemble.contracts.run import RunManifest, read_run, write_run
from snapensemble.export.bundle import build_bundle
from snapensemble.export.calibration import split_validation
from snapensemble.export.candidates import pooled
from snapensemble.export.config import ExportConfig
from snapensemble.trainer.config import TrainConfig
from snapensemble.trainer.run import train


@pytest.fixture(scope="module")
def second_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run like `digits_run`, but of another seed and network."""
    out = tmp_path_factory.mktemp("second") / "run"
    config = TrainConfig(
        data="digits", out=out, cycles=3, cycle_epochs=2, threads=1, seed=1, model="tiny"
    )
    return train(config)


def changed(run_dir: Path, tmp_path: Path, **changes: object) -> Path:
    """A run that differs in its manifest."""
    run: RunManifest = read_run(run_dir)
    write_run(tmp_path, run.model_copy(update=changes))
    return tmp_path


def test_the_best_of_several_runs_make_one_bundle(
    digits_run: Path, second_run: Path, tmp_path: Path
) -> None:
    config = ExportConfig(select="best", members=4, name="digits", report=False)
    build_bundle([digits_run, second_run], tmp_path / "bundle", config)
    bundle = read_bundle(tmp_path / "bundle")
    labels_N = np.load(digits_run / read_run(digits_run).val_labels.file)
    selection_N = split_validation(labels_N).selection_N
    probs = {
        f"run-{number}-cycle-{snapshot.cycle:02d}": softmax(
            np.load(run_dir / snapshot.val_logits.file)
        )
        for number, run_dir in enumerate((digits_run, second_run))
        for snapshot in read_run(run_dir).snapshots
    }
    best = sorted(probs, key=lambda name: nll(probs[name][selection_N], labels_N[selection_N]))[:4]
    names = [member.name for member in bundle.members]
    assert set(names) == set(best) and names[0] == best[0]
    assert [f"run-{m.run}-cycle-{m.cycle:02d}" for m in bundle.members] == names
    assert bundle.selection.candidates == 2 * (3 * 3 + 2)  # with averages of the weights
    assert bundle.model in ("small", "small + tiny")
    answers_NK = mean_probabilities(
        np.stack([probs[name] for name in names]), bundle.weights_M, bundle.temperature
    )
    assert bundle.val == val_figures(answers_NK, labels_N)


def test_the_last_of_several_runs_are_their_latest_cycles(
    digits_run: Path, second_run: Path
) -> None:
    pool = pooled([digits_run, second_run])
    latest = [
        candidate.name
        for candidate, kind in zip(pool.candidates, pool.kinds_S, strict=True)
        if kind == "last"
    ][-2:]
    assert latest == ["run-0-cycle-02", "run-1-cycle-02"]
    assert pool.candidates[pool.last].name == latest[-1]


def test_one_run_keeps_the_plain_names(digits_run: Path) -> None:
    cycles = [f"cycle-0{i}{kind}" for i in range(3) for kind in ("", "-ema", "-tail")]
    soups = ["cycle-02-soup-2", "cycle-02-soup-3"]
    assert [c.name for c in pooled([digits_run]).candidates] == [*cycles, *soups]


def test_the_cycle_that_pays_is_the_last_of_each_run_where_cycles_are_short(
    digits_run: Path, second_run: Path
) -> None:
    pool = pooled([digits_run, second_run])
    paying = {c.name for c, pays in zip(pool.candidates, pool.pays_S, strict=True) if pays}
    kinds = ("", "-ema", "-tail", "-soup-2", "-soup-3")
    assert paying == {f"run-{run}-cycle-02{kind}" for run in (0, 1) for kind in kinds}


@pytest.mark.parametrize(("epochs", "trusted"), [(34, "last"), (35, "ema")])
def test_averages_of_weights_are_trusted_where_the_last_cycle_has_many_epochs(
    digits_run: Path, epochs: int, trusted: str
) -> None:
    pool = pooled([digits_run])
    run = pool.first_run
    steps = run.schedule.steps_per_epoch
    ends = (steps, 2 * steps, (2 + epochs) * steps)
    longer = run.schedule.model_copy(update={"cycle_ends": ends, "total_steps": ends[-1]})
    changed_run = run.model_copy(update={"schedule": longer})
    candidates = tuple(replace(each, run=changed_run) for each in pool.candidates)
    assert replace(pool, candidates=candidates).trusted == trusted


def test_runs_that_do_not_go_together_are_refused_by_name(digits_run: Path, tmp_path: Path) -> None:
    run = read_run(digits_run)
    turned = changed(digits_run, tmp_path, classes=run.classes[::-1])
    with pytest.raises(InvalidConfig, match="it has the same classes in another order: '9' wh"):
        pooled([digits_run, turned])
    others = changed(digits_run, tmp_path, classes=("a", "b"))
    with pytest.raises(InvalidConfig, match=r"lacks '0', .* and 5 more, and has besides 'a', 'b'"):
        pooled([digits_run, others])
    wide = changed(digits_run, tmp_path, image=run.image.model_copy(update={"width": 9}))
    with pytest.raises(InvalidConfig, match=r"another image contract .* width=9"):
        pooled([digits_run, wide])
    data = run.data.model_copy(update={"fingerprint": "0" * 64})
    with pytest.raises(InvalidConfig, match="on other images than"):
        pooled([digits_run, changed(digits_run, tmp_path, data=data)])
    labels = FileRef(file="val-labels.npy", sha256="0" * 64)
    with pytest.raises(InvalidConfig, match="on other images than"):
        pooled([digits_run, changed(digits_run, tmp_path, val_labels=labels)])


def test_a_run_given_twice_is_refused(digits_run: Path) -> None:
    with pytest.raises(InvalidConfig, match="given twice"):
        pooled([digits_run, digits_run / ".." / digits_run.name])


def test_two_runs_with_the_same_weights_are_refused_by_the_files(
    digits_run: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(digits_run, tmp_path / "run"))
    with pytest.raises(InvalidConfig) as refused:
        pooled([digits_run, copy])
    first = read_run(copy).snapshots[0].file
    assert str(refused.value).startswith(f"{copy / first} and {digits_run / first} are the same")


def test_runs_without_a_finished_cycle_are_refused(digits_run: Path, tmp_path: Path) -> None:
    run = read_run(digits_run)
    (tmp_path / run.val_labels.file).write_bytes((digits_run / run.val_labels.file).read_bytes())
    with pytest.raises(InvalidConfig, match="no finished cycle yet"):
        pooled([changed(digits_run, tmp_path, snapshots=(), averages=())])
