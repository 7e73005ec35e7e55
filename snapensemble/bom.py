"""`snapensemble bom`: a bundle -> what is in it, as a CycloneDX ML-BOM.

The document follows https://cyclonedx.org/docs/1.6/json/. The same bundle gives the same bytes: the
document has no time, and its serial number is made from the hash of the manifest.
"""

import argparse
import json
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from snapensemble.contracts.bundle import (
    BundleManifest,
    Member,
    Trunk,
    manifest_sha256,
    read_bundle,
)
from snapensemble.contracts.files import read_verified, write_atomically
from snapensemble.contracts.manifest import ValFigures

SCHEMA = "http://cyclonedx.org/schema/bom-1.6.schema.json"
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://cyclonedx.org/snapensemble/bundle")
MEDIA_TYPE = "application/vnd.onnx"
DATA_REF = "data:training"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `snapensemble bom`."""
    parser.add_argument("bundle_dir", type=Path, metavar="BUNDLE_DIR")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to (standard output)")


def run(args: argparse.Namespace) -> int:
    """Write the document; with --out the last line of stdout is the file."""
    text = json.dumps(bill_of_materials(args.bundle_dir), indent=2, allow_nan=False)
    if args.out is None:
        print(text)
    else:
        write_atomically(args.out, f"{text}\n".encode())
        print(args.out)
    return 0


def bill_of_materials(bundle_dir: Path) -> dict[str, Any]:
    """The document of a bundle, whose files are those that its manifest lists.

    Raises:
        InvalidManifest: a file is absent, changed or damaged.
    """
    sha256 = manifest_sha256(bundle_dir)
    bundle = read_bundle(bundle_dir, sha256)
    for part in bundle.parts:
        read_verified(bundle_dir, part.file, part.sha256, part.size)
    return document(bundle, sha256)


def document(bundle: BundleManifest, sha256: str) -> dict[str, Any]:
    """The document, made from the manifest and its hash. Pure."""
    root, data = f"bundle:{bundle.name}", DATA_REF
    trunks = [] if bundle.trunk is None else [_trunk(bundle, bundle.trunk)]
    members = [_member(bundle, member) for member in bundle.members]
    trunk_refs = [trunk["bom-ref"] for trunk in trunks]
    return {
        "$schema": SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, sha256)}",
        "version": 1,
        "metadata": {
            "tools": {
                "components": [
                    {
                        "type": "application",
                        "name": "snapensemble",
                        "version": bundle.snapensemble,
                        "description": "made the bundle",
                    }
                ]
            },
            "component": {
                "type": "machine-learning-model",
                "bom-ref": root,
                "name": bundle.name,
                "version": bundle.version,
                "description": f"Averaged class probabilities of {len(members)} ONNX members",
                "hashes": _hashes(sha256),
                "modelCard": _model_card(bundle, _images(bundle), bundle.val),
            },
        },
        "components": [*trunks, *members, _data(bundle)],
        "dependencies": [
            {"ref": root, "dependsOn": [part["bom-ref"] for part in (*trunks, *members)]},
            *({"ref": member["bom-ref"], "dependsOn": [*trunk_refs, data]} for member in members),
            *({"ref": each} for each in (*trunk_refs, data)),
        ],
    }


def _trunk(bundle: BundleManifest, trunk: Trunk) -> dict[str, Any]:
    facts = {"file": trunk.file, "precision": trunk.precision, "opset": bundle.opset}
    parameters = {
        "task": "what all members take instead of images",
        "modelArchitecture": bundle.model,
        "inputs": [{"format": _images(bundle)}],
        "outputs": [{"format": _features(trunk)}],
    }
    return _part(trunk, "trunk", {"modelParameters": parameters}, facts)


def _member(bundle: BundleManifest, member: Member) -> dict[str, Any]:
    facts = {
        "file": member.file,
        "weight": f"{member.weight:.6g}",
        "run": member.run,
        "cycle": member.cycle,
        "step": member.step,
        "precision": member.precision,
        "opset": bundle.opset,
    }
    takes = _images(bundle) if bundle.trunk is None else _features(bundle.trunk)
    return _part(member, f"member:{member.name}", _model_card(bundle, takes, member.val), facts)


def _part(
    part: Trunk | Member, ref: str, model_card: dict[str, Any], facts: dict[str, Any]
) -> dict[str, Any]:
    return {
        "type": "machine-learning-model",
        "bom-ref": ref,
        "name": part.name,
        "version": part.sha256[:8],
        "mime-type": MEDIA_TYPE,
        "hashes": _hashes(part.sha256),
        "modelCard": model_card,
        "properties": [
            {"name": f"snapensemble:{name}", "value": str(value)} for name, value in facts.items()
        ],
    }


def _images(bundle: BundleManifest) -> str:
    return f"uint8 images {_batch_of(bundle.image.shape)}"


def _features(trunk: Trunk) -> str:
    return f"float32 features {_batch_of(trunk.features)}"


def _batch_of(shape: Sequence[int]) -> str:
    return f"[batch, {', '.join(map(str, shape))}]"


def _model_card(bundle: BundleManifest, takes: str, val: ValFigures) -> dict[str, Any]:
    return {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": "image classification",
            "modelArchitecture": bundle.model,
            "datasets": [{"ref": DATA_REF}],
            "inputs": [{"format": takes}],
            "outputs": [{"format": f"float32 logits [batch, {len(bundle.classes)}]"}],
        },
        "quantitativeAnalysis": {
            "performanceMetrics": [
                {"type": name, "value": f"{value:.6g}", "slice": "validation"}
                for name, value in (
                    ("accuracy", val.accuracy),
                    ("macro accuracy", val.macro_accuracy),
                    ("NLL (nats)", val.nll),
                )
                if value is not None
            ]
        },
    }


def _data(bundle: BundleManifest) -> dict[str, Any]:
    data = bundle.data
    return {
        "type": "data",
        "bom-ref": DATA_REF,
        "name": data.spec or "training data",
        "version": data.fingerprint[:8],
        "hashes": _hashes(data.fingerprint),
        "data": [
            {
                "type": "dataset",
                "name": data.spec or "training data",
                "description": f"{data.train_images} images taught, {data.val_images} validated, "
                f"{data.test_images} tested; the hash is over the pixels and labels of the first "
                "two",
            }
        ],
    }


def _hashes(sha256: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": sha256}]
