"""`snapensemble predict`: image files -> the same answer, from a bundle or from a server.

A server that wants a token gets the one in SNAPENSEMBLE_TOKEN.
"""

import argparse
import http.client
import json
import os
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
from pydantic import ValidationError

from contracts.errors import ImageTooCostly, InvalidConfig, InvalidData, InvalidImage
from contracts.pixels import SERVER_LIMITS
from contracts.text import printable, printable_json
from serving.stages import Mode


class ServerUrl(NamedTuple):
    """Where a server is."""

    scheme: str
    host: str
    port: int | None  # None: the scheme's own
    prefix: str  # the path before ours


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `snapensemble predict`."""
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--bundle", type=Path, metavar="DIR", help="answer here, without a server")
    source.add_argument(
        "--url",
        help="ask a server, for example http://127.0.0.1:8000; if it wants a token, set "
        "SNAPENSEMBLE_TOKEN",
    )
    parser.add_argument("--top", type=int, default=5, help="how many classes to name (5)")
    parser.add_argument(
        "--mode",
        choices=get_args(Mode),
        help="ask every member (full, or what the server does) or a few",
    )
    parser.add_argument(
        "--coverage",
        type=float,
        metavar="P",
        help="name the classes that hold the right one so often",
    )
    parser.add_argument(
        "--max-image-cost",
        type=float,
        default=1.0,
        metavar="TIMES",
        help="with --bundle: what decoding a picture may cost, in times what a server accepts (1)",
    )
    parser.add_argument("--json", action="store_true", help="print the whole answer as JSON")


def run(args: argparse.Namespace) -> int:
    """Print a line per image, or the whole answer as JSON."""
    pictures = [_read(file) for file in args.images]
    query = {"top": args.top, "mode": args.mode, "coverage": args.coverage}
    asked = {name: value for name, value in query.items() if value is not None}
    if args.bundle is not None:
        answer = predict_with_bundle(
            args.bundle, args.images, pictures, max_image_cost=args.max_image_cost, **asked
        )
    else:
        token = os.environ.get("SNAPENSEMBLE_TOKEN")
        answer = predict_with_url(args.url, args.images, pictures, token=token, **asked)
    if args.json:
        print(printable_json(json.dumps(answer, indent=2, ensure_ascii=False)))
    else:
        for file, one in zip(args.images, answer["predictions"], strict=True):
            print(printable(describe(file, one)))
    return 0


def predict_with_bundle(
    bundle_dir: Path,
    files: list[Path],
    pictures: list[bytes],
    *,
    max_image_cost: float = 1.0,
    **query: Any,
) -> dict[str, Any]:
    """Answer in this process.

    Args:
        bundle_dir: made by `snapensemble export`.
        files: names of the pictures, for messages.
        pictures: their bytes.
        max_image_cost: what decoding one may cost, in times what a server accepts.
        query: as of POST /predict.

    Raises:
        InvalidConfig: a parameter is out of bounds.
        InvalidParameter: the bundle cannot grant it.
        InvalidData: a file is not a picture; names it.
        InvalidManifest: the bundle is damaged.
    """
    from serving.answers import prediction, response
    from serving.engine import load_engine
    from serving.schemas import PredictOptions
    from serving.waiting import Said

    try:
        options = PredictOptions(**query)
    except ValidationError as error:
        problems = (f"--{e['loc'][0]}: {e['msg']}, got {e['input']}" for e in error.errors())
        raise InvalidConfig("; ".join(problems)) from error
    if not 1 <= max_image_cost <= 10_000:
        raise InvalidConfig(f"--max-image-cost is between 1 and 10000, got {max_image_cost:g}")
    limits = SERVER_LIMITS.times(max_image_cost)
    mode = options.mode or "full"
    with load_engine(bundle_dir) as engine:
        engine.check_mode(mode)
        quantile = engine.quantile(mode, options.coverage)
        images = []
        for file, picture in zip(files, pictures, strict=True):
            try:
                images.append(engine.bundle.image.decode(picture, limits=limits))
            except ImageTooCostly as error:
                raise InvalidData(f"{file}: {error}; or give --max-image-cost") from error
            except InvalidImage as error:
                raise InvalidData(f"{file}: {error}") from error
        predictions = [
            prediction(Said(probs_dK), engine.bundle, options, quantile)
            for probs_dK in engine.ask(np.stack(images), mode)
        ]
        return response(predictions, engine.bundle, engine.bundle.name)


def predict_with_url(
    url: str, files: list[Path], pictures: list[bytes], *, token: str | None = None, **query: Any
) -> dict[str, Any]:
    """Ask a server, one request per picture over one connection.

    Args:
        url: of the server.
        files: names of the pictures, for messages.
        pictures: their bytes.
        token: a bearer token, if the server wants one.
        query: as of POST /predict.

    Raises:
        InvalidConfig: the URL is none, nobody answers there, or the token is not right.
        InvalidData: the server refused a picture; names it.
    """
    server = server_url(url)
    kind = http.client.HTTPSConnection if server.scheme == "https" else http.client.HTTPConnection
    connection = kind(server.host, server.port, timeout=60)
    path = f"{server.prefix}/predict?{urllib.parse.urlencode(query)}"
    headers = {"content-type": "application/octet-stream"}
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    predictions, model = [], {}
    try:
        for file, picture in zip(files, pictures, strict=True):
            connection.request("POST", path, picture, headers)
            reply = connection.getresponse()
            answer = _parse(url, reply.read())
            if reply.status == 401:
                raise InvalidConfig(f"{url} wants a token: set SNAPENSEMBLE_TOKEN to a right one")
            if reply.status != 200:
                raise InvalidData(f"{file}: {url} answered {reply.status}: {_detail(answer)}")
            predictions += answer["predictions"]
            model = answer["model"]
    except (OSError, UnicodeError, http.client.HTTPException) as error:
        raise InvalidConfig(f"no answer from {url}: {error}; is the server running?") from error
    finally:
        connection.close()
    return {"predictions": predictions, "model": model}


def server_url(url: str, schemes: Sequence[str] = ("http", "https")) -> ServerUrl:
    """The parts of --url.

    Raises:
        InvalidConfig: no URL of one of the schemes.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidConfig(f"--url {url!r}: {error}") from error
    if parts.scheme not in schemes or not host:
        raise InvalidConfig(f"--url {url!r}: expected something like http://127.0.0.1:8000")
    return ServerUrl(parts.scheme, host, port, parts.path.rstrip("/"))


def describe(file: Path, prediction: dict[str, Any]) -> str:
    """One line for people: the likeliest classes, and how far the members disagree."""
    named = ", ".join(f"{t['class']} {t['probability']:.1%}" for t in prediction["top"][:3])
    used = prediction["members_used"]
    said = (
        f"{file}: {named or prediction['class']}  ({used} member{'s' * (used != 1)}, "
        f"disagreement {prediction['uncertainty']['disagreement_nats']:.3f} nats)"
    )
    if (promised := prediction.get("prediction_set")) is not None:
        said += f"  {promised['coverage']:.0%}: {', '.join(promised['classes'])}"
    return said


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
    return printable(str(answer.get("detail", "no reason given")))
