"""`snapensemble bom`: a bundle -> what is in it, as a CycloneDX ML-BOM.

The document follows https://cyclonedx.org/docs/1.6/json/. The same bundle gives the same bytes: the
document has no time, and its serial number is made from the hash of the manifest.
"""

import argparse
import json
import uuid
from pathlib import Path
from typing import Any

from snapensemble.contracts.bundle import BUNDLE_FILE, BundleManifest, Member, read_bundle
from snapensemble.contracts.errors import InvalidManifest
from snapensemble.contracts.files import read_regular, read_verified, sha256_of, write_atomically
from snapensemble.contracts.manifest import MAX_MANIFEST_BYTES, ValFigures

SCHEMA = "http://cyclonedx.org/schema/bom-1.6.schema.json"
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://cyclonedx.org/snapensemble/bundle")
MEDIA_TYPE = "application/vnd.onnx"


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
    for member in bundle.members:
        read_verified(bundle_dir, member.file, member.sha256, member.size)
    return document(bundle, sha256)


def manifest_sha256(bundle_dir: Path) -> str:
    """The SHA-256 of `ensemble.json`, which stands for the whole bundle, without its report."""
    try:
        return sha256_of(read_regular(bundle_dir / BUNDLE_FILE, MAX_MANIFEST_BYTES))
    except OSError as error:
        raise InvalidManifest(f"{bundle_dir / BUNDLE_FILE}: {error.strerror}") from error


def document(bundle: BundleManifest, manifest_sha256: str) -> dict[str, Any]:
    """The document, made from the manifest and its hash. Pure."""
    root, data = f"bundle:{bundle.name}", "data:training"
    members = [_member(bundle, member) for member in bundle.members]
    return {
        "$schema": SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, manifest_sha256)}",
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
                "hashes": _hashes(manifest_sha256),
                "modelCard": _model_card(bundle, data, bundle.val),
            },
        },
        "components": [*members, _data(bundle, data)],
        "dependencies": [
            {"ref": root, "dependsOn": [member["bom-ref"] for member in members]},
            *({"ref": member["bom-ref"], "dependsOn": [data]} for member in members),
            {"ref": data},
        ],
    }


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
    return {
        "type": "machine-learning-model",
        "bom-ref": f"member:{member.name}",
        "name": member.name,
        "version": member.sha256[:8],
        "mime-type": MEDIA_TYPE,
        "hashes": _hashes(member.sha256),
        "modelCard": _model_card(bundle, "data:training", member.val),
        "properties": [
            {"name": f"snapensemble:{name}", "value": str(value)} for name, value in facts.items()
        ],
    }


def _model_card(bundle: BundleManifest, data: str, val: ValFigures) -> dict[str, Any]:
    channels, height, width = bundle.image.shape
    return {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": "image classification",
            "modelArchitecture": bundle.model,
            "datasets": [{"ref": data}],
            "inputs": [{"format": f"uint8 images [batch, {channels}, {height}, {width}]"}],
            "outputs": [{"format": f"float32 logits [batch, {len(bundle.classes)}]"}],
        },
        "quantitativeAnalysis": {
            "performanceMetrics": [
                {"type": name, "value": f"{value:.6g}", "slice": "validation"}
                for name, value in (("accuracy", val.accuracy), ("NLL (nats)", val.nll))
            ]
        },
    }


def _data(bundle: BundleManifest, ref: str) -> dict[str, Any]:
    data = bundle.data
    return {
        "type": "data",
        "bom-ref": ref,
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
