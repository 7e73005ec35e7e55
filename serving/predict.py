"""`snapensemble predict`: image files -> the same answer, from a bundle or from a server."""

import argparse
import http.client
import json
import urllib.parse
from pathlib import Path
from typing import Any

import numpy as np

from contracts.errors import InvalidConfig, InvalidData, InvalidImage
from contracts.pixels import decode_image


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `snapensemble predict`."""
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--bundle", type=Path, metavar="DIR", help="answer here, without a server")
    source.add_argument("--url", help="ask a server, for example http://127.0.0.1:8000")
    parser.add_argument("--top", type=int, default=5, help="how many classes to name (5)")
    parser.add_argument("--json", action="store_true", help="print the whole answer as JSON")


def run(args: argparse.Namespace) -> int:
    """Print a line per image, or the whole answer as JSON."""
    pictures = [_read(file) for file in args.images]
    if args.bundle is not None:
        answer = predict_with_bundle(args.bundle, args.images, pictures, args.top)
    else:
        answer = predict_with_url(args.url, args.images, pictures, args.top)
    if args.json:
        print(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        for file, one in zip(args.images, answer["predictions"], strict=True):
            print(describe(file, one))
    return 0


def predict_with_bundle(
    bundle_dir: Path, files: list[Path], pictures: list[bytes], top: int
) -> dict[str, Any]:
    """Answer in this process.

    Raises:
        InvalidData: a file is not a picture; names it.
        InvalidManifest: the bundle is damaged.
    """
    from serving.answers import prediction, response
    from serving.engine import load_engine
    from serving.schemas import PredictOptions

    if top < 0 or top > 1000:
        raise InvalidConfig(f"--top must be from 0 to 1000, got {top}")
    with load_engine(bundle_dir) as engine:
        image = engine.bundle.image
        images = []
        for file, picture in zip(files, pictures, strict=True):
            try:
                images.append(
                    decode_image(
                        picture, channels=image.channels, height=image.height, width=image.width
                    )
                )
            except InvalidImage as error:
                raise InvalidData(f"{file}: {error}") from error
        probs_MNK = engine.predict(np.stack(images))
        options = PredictOptions(top=top)
        predictions = [
            prediction(probs_MNK[:, row], engine.bundle, options) for row in range(len(images))
        ]
        return response(predictions, engine.bundle, engine.bundle.name)


def predict_with_url(
    url: str, files: list[Path], pictures: list[bytes], top: int
) -> dict[str, Any]:
    """Ask a server, one request per picture over one connection.

    Raises:
        InvalidConfig: the URL is none, or nobody answers there.
        InvalidData: the server refused a picture; names it.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidConfig(f"--url {url!r}: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidConfig(f"--url {url!r}: expected something like http://127.0.0.1:8000")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname, port, timeout=60)
    path = f"{parts.path.rstrip('/')}/predict?top={top}"
    predictions, model = [], {}
    try:
        for file, picture in zip(files, pictures, strict=True):
            connection.request("POST", path, picture, {"content-type": "application/octet-stream"})
            reply = connection.getresponse()
            answer = _parse(url, reply.read())
            if reply.status != 200:
                raise InvalidData(f"{file}: {url} answered {reply.status}: {_detail(answer)}")
            predictions += answer["predictions"]
            model = answer["model"]
    except (OSError, UnicodeError, http.client.HTTPException) as error:
        raise InvalidConfig(f"no answer from {url}: {error}; is the server running?") from error
    finally:
        connection.close()
    return {"predictions": predictions, "model": model}


def describe(file: Path, prediction: dict[str, Any]) -> str:
    """One line for people: the likeliest classes, and how far the members disagree."""
    named = ", ".join(f"{t['class']} {t['probability']:.1%}" for t in prediction["top"][:3])
    return (
        f"{file}: {named or prediction['class']}  ({prediction['members_used']} members, "
        f"disagreement {prediction['uncertainty']['disagreement_nats']:.3f} nats)"
    )


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InvalidData(f"{file}: {error.strerror or error}") from error


def _parse(url: str, body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise InvalidConfig(f"{url} does not answer as a snapensemble server does")
    return answer


def _detail(answer: dict[str, Any]) -> str:
    return str(answer.get("detail", "no reason given"))
