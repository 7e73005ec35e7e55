import json
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from snapensemble.bom import bill_of_materials
from snapensemble.cli import main
from snapensemble.contracts.bundle import BUNDLE_FILE, read_bundle
from snapensemble.contracts.errors import InvalidManifest
from snapensemble.contracts.files import sha256_of
from tests.factories import make_bundle


def problems(document: dict[str, Any]) -> object:
    """What CycloneDX's own schema says against it; None if nothing."""
    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document))


def test_the_document_is_as_the_schema_wants_it(bundle_dir: Path) -> None:
    document = bill_of_materials(bundle_dir)
    assert problems(document) is None
    document["components"][0]["modelCard"]["modelParameters"]["color"] = "red"
    assert problems(document) is not None


def test_a_real_bundle_has_a_document(digits_bundle: Path) -> None:
    document = bill_of_materials(digits_bundle)
    assert problems(document) is None
    card = document["metadata"]["component"]["modelCard"]
    accuracy = card["quantitativeAnalysis"]["performanceMetrics"][0]
    assert float(accuracy["value"]) == pytest.approx(read_bundle(digits_bundle).val.accuracy, 1e-5)


def test_every_file_that_is_loaded_is_in_it_with_its_hash(bundle_dir: Path) -> None:
    document = bill_of_materials(bundle_dir)
    parts = [document["metadata"]["component"], *document["components"]]
    found = {part["hashes"][0]["content"] for part in parts}
    loaded = [bundle_dir / BUNDLE_FILE, *sorted((bundle_dir / "members").iterdir())]
    assert {sha256_of(file.read_bytes()) for file in loaded} <= found


def test_references_lead_to_parts(bundle_dir: Path) -> None:
    document = bill_of_materials(bundle_dir)
    parts = [document["metadata"]["component"], *document["components"]]
    refs = [part["bom-ref"] for part in parts]
    assert len(set(refs)) == len(refs)
    assert {each["ref"] for each in document["dependencies"]} == set(refs)
    assert all(set(each.get("dependsOn", ())) <= set(refs) for each in document["dependencies"])


def test_the_same_bundle_gives_the_same_bytes_and_another_one_another_number(
    bundle_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bom.cdx.json"
    assert main(["bom", str(bundle_dir), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert main(["bom", str(bundle_dir)]) == 0
    assert capsys.readouterr().out == out.read_text()
    other = bill_of_materials(make_bundle(tmp_path / "other", temperature=2.0))
    assert other["serialNumber"] != json.loads(out.read_text())["serialNumber"]


def test_a_damaged_bundle_has_none(bundle_dir: Path) -> None:
    (bundle_dir / "members" / "cycle-01.onnx").write_bytes(b"other")
    with pytest.raises(InvalidManifest, match="sha256 is"):
        bill_of_materials(bundle_dir)


def test_the_parts_list_has_the_trunk_and_what_depends_on_it(trunk_dir: Path) -> None:
    document = bill_of_materials(trunk_dir)
    assert problems(document) is None
    trunk, first, *_ = document["components"]
    depends = {each["ref"]: each.get("dependsOn", []) for each in document["dependencies"]}
    assert trunk["hashes"][0]["content"] == read_bundle(trunk_dir).parts[0].sha256
    assert trunk["bom-ref"] in depends[first["bom-ref"]]
    assert trunk["bom-ref"] in depends[document["metadata"]["component"]["bom-ref"]]
    formats = [
        component["modelCard"]["modelParameters"][end][0]["format"]
        for component in (trunk, first)
        for end in ("inputs", "outputs")
    ]
    features = "float32 features [batch, 4, 5, 4]"
    assert formats == [
        "uint8 images [batch, 3, 6, 5]", features, features, "float32 logits [batch, 3]",
    ]  # fmt: skip
