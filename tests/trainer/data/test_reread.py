import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest

from snapensemble.contracts.errors import InvalidData
from snapensemble.contracts.pixels import ImageContract
from snapensemble.contracts.run import DataRecord
from snapensemble.trainer.data.dataset import Dataset, resolved
from snapensemble.trainer.data.reread import reread
from tests.trainer.folders import load, make_folder

IMAGE = ImageContract(channels=3, height=64, width=64, mean=(0.5,) * 3, std=(0.2,) * 3)


def record(spec: str, data: Dataset) -> DataRecord:
    return DataRecord(
        spec=resolved(spec),
        fingerprint=data.fingerprint(),
        split_seed=0,
        val_fraction=0.25,
        train_images=len(data.train),
        val_images=len(data.val),
        test_images=0,
    )


def test_a_run_of_an_earlier_version_whose_names_have_a_macs_accents_is_read_again(
    tmp_path: Path,
) -> None:
    name = unicodedata.normalize("NFD", "Löwe")
    make_folder(tmp_path, {name: 6, "Bär": 6})
    data = load(tmp_path)
    assert data.classes == ("Bär", unicodedata.normalize("NFC", name))
    as_before = replace(data, classes=("Bär", name))
    said = record(str(tmp_path), as_before)
    assert len(reread(said, as_before.classes, IMAGE, split="val")) == len(data.val)
    with pytest.raises(InvalidData, match="they must be equal"):
        reread(said, ("Bär", "Lowe"), IMAGE, split="val")


def test_a_run_on_a_folder_is_measured_on_a_table_of_it(tmp_path: Path) -> None:
    make_folder(tmp_path / "train", {"a": 6, "b": 6})
    make_folder(tmp_path / "test", {"a": 2, "b": 3})
    said = record(str(tmp_path), load(tmp_path))
    paths = [path.relative_to(tmp_path) for path in tmp_path.rglob("*.png")]
    rows = "".join(f"{path},{path.parts[1]},{path.parts[0]}\n" for path in paths)
    (tmp_path / "labels.csv").write_text(f"path,label,split\n{rows}")
    spec = f"csv:{tmp_path / 'labels.csv'}"
    for part in ("val", "test"):
        from_table = reread(said, ("a", "b"), IMAGE, spec=spec, split=part)
        from_folder = reread(said, ("a", "b"), IMAGE, split=part)
        assert (from_table.images_NCHW == from_folder.images_NCHW).all()
