"""`snapensemble predict`: image files -> an answer, the same from a bundle and from a server.

Folders, patterns and a file of rows are the business of `snapensemble.many`.

A server that wants a token gets the one in SNAPENSEMBLE_TOKEN.
"""

import argparse
import base64
import json
import os
from collections.abc import Sequence
from functools import partial
from glob import has_magic
from pathlib import Path
from typing import Any

from pydantic import Field

from snapensemble.contracts.errors import InvalidConfig, InvalidData
from snapensemble.contracts.files import (
    explaining_failures,
    read_picture,
    refuse_unwritable,
    write_atomically,
)
from snapensemble.contracts.options import add_options, build
from snapensemble.contracts.process import printable, printable_json
from snapensemble.many.options import ManyOptions
from snapensemble.serving.http.schemas import PredictOptions
from snapensemble.serving.inference.explain import PREDICTED


class PredictConfig(PredictOptions):
    """The query of POST /predict, and a limit that a server has as a setting."""

    max_image_cost: float = Field(
        1.0,
        ge=1,
        le=10_000,
        description="with --bundle: what decoding a picture may cost, in times what a server "
        "accepts",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `snapensemble predict`."""
    parser.add_argument(
        "images",
        nargs="+",
        type=Path,
        metavar="IMAGE",
        help="picture, folder, pattern in quotes, parquet:FILE or wds:PATTERN",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--bundle", type=Path, metavar="DIR", help="answer here, without a server")
    source.add_argument(
        "--url",
        help="ask a server, for example http://127.0.0.1:8000; if it wants a token, set "
        "SNAPENSEMBLE_TOKEN",
    )
    add_options(
        parser, PredictConfig, without=("members", "probabilities", "deadline_ms", "explain")
    )
    parser.add_argument(
        "--explain",
        type=Path,
        metavar="DIR",
        help="write to DIR where in each image the evidence for its predicted class is, as a grey "
        "picture",
    )
    parser.add_argument("--json", action="store_true", help="print the whole answer as JSON")
    add_options(parser, ManyOptions)
    parser.add_argument(
        "--restart", action="store_true", help="with --out: forget the rows that are there"
    )


def run(args: argparse.Namespace) -> int:
    """Print a line per image, or the whole answer as JSON; or write rows, and print their file.

    Pictures that cannot be read are an error if they are named, and a row if they are found.
    """
    options = vars(args)
    files, bundle_dir, url, as_json, restart = map(
        options.pop, ("images", "bundle", "url", "json", "restart")
    )
    many = build(
        ManyOptions, {name: options.pop(name) for name in ManyOptions.model_fields & options.keys()}
    )
    maps_dir: Path | None = options.pop("explain")
    options["explain"] = () if maps_dir is None else (PREDICTED,)
    config = build(PredictConfig, options)
    if many.out is not None or any(map(is_many, files)):
        if bundle_dir is None:
            raise InvalidConfig(
                "folders, patterns, --out and --ray are answered here: give --bundle"
            )
        if as_json:
            raise InvalidConfig("--json is for single pictures: give --out FILE.jsonl")
        if maps_dir is not None:
            raise InvalidConfig("--explain is for single pictures: name those to explain")
        asked = PredictOptions.model_validate(config.model_dump(exclude={"max_image_cost"}))
        if many.ray is not None:
            from snapensemble.many.cluster.run import predict_on_cluster as answer_all
        else:
            from snapensemble.many.run import predict_many

            answer_all = partial(predict_many, describe=describe)
        answer_all(
            list(map(str, files)),
            bundle_dir,
            many,
            asked,
            max_image_cost=config.max_image_cost,
            restart=restart,
        )
        if many.out is not None:
            print(printable(str(many.out)))
        return 0
    if maps_dir is not None:
        refuse_unwritable(maps_dir)
    if restart:
        raise InvalidConfig("--restart needs --out, the file of rows")
    pictures = [_read(file) for file in files]
    if bundle_dir is not None:
        answer = predict_with_bundle(bundle_dir, files, pictures, **options)
    else:
        token = os.environ.get("SNAPENSEMBLE_TOKEN")
        query = config.model_dump(
            include={"top", "mode", "coverage", "abstain", "novelty", "explain"},
            exclude_none=True,
        )
        answer = predict_with_url(url, files, pictures, token=token, **query)
    if maps_dir is not None:
        save_maps(maps_dir, files, answer["predictions"])
    if as_json:
        print(printable_json(json.dumps(answer, indent=2, ensure_ascii=False)))
    else:
        for file, one in zip(files, answer["predictions"], strict=True):
            print(printable(describe(file, one)))
    return 0


def predict_with_bundle(
    bundle_dir: Path, files: list[Path], pictures: list[bytes], **options: Any
) -> dict[str, Any]:
    """Answer in this process.

    Args:
        bundle_dir: made by `snapensemble export`.
        files: names of the pictures, for messages.
        pictures: their bytes.
        options: those of PredictConfig.

    Raises:
        InvalidConfig: an option is out of bounds.
        InvalidParameter: the bundle cannot grant an option.
        BadPicture: a file is not a picture; the message names it.
        InvalidManifest: the bundle is damaged.
    """
    from snapensemble.offline import answers, own_engine
    from snapensemble.serving.http.responses import response

    config = build(PredictConfig, options)
    with own_engine(bundle_dir, max_image_cost=config.max_image_cost) as engine:
        predictions = list(answers(engine, pictures, config, list(map(str, files))))
        return response(predictions, engine.bundle.name, engine.bundle.version)


def predict_with_url(
    url: str, files: list[Path], pictures: list[bytes], *, token: str | None = None, **query: Any
) -> dict[str, Any]:
    """Ask a server; what fails is not tried again.

    Args:
        url: that of the server.
        files: names of the pictures, for messages.
        pictures: their bytes.
        token: a bearer token, if the server wants one.
        query: the parameters of POST /predict.

    Raises:
        InvalidConfig: the URL is none, nobody answers there, or the token is not right.
        BadPicture: the server refused a picture; the message names it.
        ServerProblem: the server cannot answer, or refused what was asked.
    """
    from snapensemble.client.errors import Unauthorized
    from snapensemble.client.sync import Client

    with Client(url, token=token, attempts=1) as client:
        try:
            return client.ask(pictures, list(map(str, files)), **query)._asdict()
        except Unauthorized as error:
            raise InvalidConfig(
                f"{url} wants a token: set SNAPENSEMBLE_TOKEN to a right one"
            ) from error


def save_maps(directory: Path, files: Sequence[Path], predictions: list[dict[str, Any]]) -> None:
    """Write the map of each image's predicted class, with the image's number before its name.

    Raises:
        WriteFailed: the directory cannot be made or written to.
    """
    with explaining_failures(directory):
        directory.mkdir(parents=True, exist_ok=True)
    for number, (file, one) in enumerate(zip(files, predictions, strict=True)):
        (explanation,) = one["explanation"]
        png = base64.b64decode(explanation["png"])
        write_atomically(directory / f"{number:03d}-{file.stem}.png", png)


def is_many(file: Path) -> bool:
    """Whether an argument is a folder, a pattern or a file of pictures, and no single picture."""
    return (
        file.is_dir()
        or str(file).startswith(("parquet:", "wds:"))
        or (has_magic(str(file)) and not os.path.lexists(file))
    )


def describe(file: Path | str, prediction: dict[str, Any]) -> str:
    """One line for people: the likeliest classes, and how far the members disagree."""
    named = ", ".join(f"{t['class']} {t['probability']:.1%}" for t in prediction["top"][:3])
    used = prediction["members_used"]
    text = (
        f"{file}: {named or prediction['class']}  ({used} member{'s' * (used != 1)}, "
        f"disagreement {prediction['uncertainty']['disagreement_nats']:.3f} nats)"
    )
    if (promised := prediction.get("prediction_set")) is not None:
        text += f"  {promised['coverage']:.0%}: {', '.join(promised['classes'])}"
    if prediction.get("abstain"):
        text += "  not sure enough to answer"
    if (found := prediction.get("novelty")) is not None and found["novel"]:
        text += "  unlike the pictures that taught"
    return text


def _read(file: Path) -> bytes:
    try:
        return read_picture(file)
    except OSError as error:
        raise InvalidData(f"{file}: {error.strerror or error}") from error
