import json
from pathlib import Path

import pytest

from snapensemble.contracts.run import read_run
from snapensemble.export.onnx_export import DATA_KINDS, data_kind, graph_sentence, member_metadata
from snapensemble.trainer.data import dataset as data


def test_a_member_says_where_it_comes_from_and_what_it_takes(digits_run: Path) -> None:
    run = read_run(digits_run)
    said = member_metadata(run, run.snapshots[1], member="cycle-01", precision="int8")
    assert json.loads(said["classes"]) == list(run.classes)
    assert json.loads(said["image"]) == run.image.model_dump(mode="json")
    assert (said["model"], said["data"], said["seed"]) == ("small", "digits", "0")
    assert (said["member"], said["cycle"], said["precision"]) == ("cycle-01", "1", "int8")
    assert said["step"] == str(run.snapshots[1].step)
    assert float(said["val_nll"]) == pytest.approx(run.snapshots[1].val.nll, abs=1e-6)
    assert said["schedule"].startswith("sgdr: 3 cycles, ")


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ("digits", "digits"),
        ("cifar10:/home/me/cifar", "cifar10"),
        ("/home/me/flowers", "folder"),
        ("C:/pictures", "folder"),
        ("./npz", "folder"),
    ],
)
def test_no_path_of_the_machine_that_trained_is_told(
    digits_run: Path, spec: str, kind: str
) -> None:
    assert data_kind(spec) == kind
    run = read_run(digits_run)
    run = run.model_copy(update={"data": run.data.model_copy(update={"spec": spec})})
    said = member_metadata(run, run.snapshots[0], member="cycle-00")
    assert said["data"] == kind and "/" not in "".join(said.values())


def test_every_kind_of_data_is_known() -> None:
    assert set(DATA_KINDS) == {"digits", *data._ARRAYS}
    assert [kind for kind in DATA_KINDS if data.is_folder(f"{kind}:x")] == ["digits"]


def test_a_grey_image_is_called_grey(digits_run: Path) -> None:
    assert "uint8 [batch, 1, 8, 8], grey" in graph_sentence(read_run(digits_run).image, 10)
