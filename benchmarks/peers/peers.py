"""The servers that are measured, ours and the peers: how each is started, asked and understood."""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.serving.wrk import OCTETS

BOUNDARY = "snapensemble-peers"
BASE64 = {"content_type": "base64"}  # as MLServer calls it
OURS = "snapensemble"
OURS_CASCADE = "snapensemble-cascade"
OURS_INT8 = "snapensemble-int8"
OURS_WORKERS = "snapensemble-workers"
OURS_INT8_WORKERS = "snapensemble-int8-workers"
MINE = (OURS, OURS_WORKERS, OURS_CASCADE, OURS_INT8, OURS_INT8_WORKERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One server.

    `body` makes a request's body of an encoded picture; `probabilities` reads an answer.
    """

    name: str
    title: str
    environment: str  # requirements/NAME.txt
    arguments: Callable[[Path, int], list[str]]  # for its Python: bundle and port
    path: str = "/predict"
    headers: Mapping[str, str] = field(default_factory=lambda: OCTETS)
    body: Callable[[bytes], bytes] = bytes
    probabilities: Callable[[httpx.Response], Any] = lambda reply: reply.json()["probabilities"]
    cascade: bool = False  # ours in mode cascade
    int8: bool = False  # with the bundle of int8 members


def app(module: str) -> Callable[[Path, int], list[str]]:
    """How to start one of `apps`, which read bundle and port from the environment."""
    return lambda _bundle_dir, _port: ["-m", f"benchmarks.peers.apps.{module}"]


def ours(*flags: str) -> Callable[[Path, int], list[str]]:
    """How to start ours."""
    start = ["-m", "snapensemble.cli", "serve"]
    return lambda bundle_dir, port: [*start, str(bundle_dir), "--port", str(port), *flags]


def form(picture: bytes) -> bytes:
    """A form with one file."""
    head = 'content-disposition: form-data; name="images"; filename="0"\r\ncontent-type: image/png'
    return f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode() + picture + f"\r\n--{BOUNDARY}--\r\n".encode()


def v2_json(picture: bytes) -> bytes:
    """The Open Inference Protocol's JSON, with the picture as base64."""
    text = base64.b64encode(picture).decode()
    tensor = {"name": "picture", "shape": [1, 1], "datatype": "BYTES", "data": [text]}
    return json.dumps({"inputs": [tensor | {"parameters": BASE64}]}).encode()


def v2_probabilities(reply: httpx.Response) -> Any:
    """The probabilities of an answer that is JSON in a string."""
    return json.loads(reply.json()["outputs"][0]["data"][0])["probabilities"]


def triton_probabilities(reply: httpx.Response) -> Any:
    """The probabilities of an answer whose numbers stand as bytes behind the JSON."""
    return np.frombuffer(reply.content[int(reply.headers["Inference-Header-Content-Length"]) :])


PREDICTIONS = lambda reply: reply.json()["predictions"][0]["probabilities"]  # noqa: E731
RAW = {**OCTETS, "Inference-Header-Content-Length": "0"}
JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}

ALL = (
    Peer(
        name=OURS,
        title="Snapensemble",
        environment="snapensemble",
        arguments=ours(),
        probabilities=PREDICTIONS,
    ),
    Peer(
        name=OURS_WORKERS,
        title="Snapensemble, 2 workers",
        environment="snapensemble",
        arguments=ours("--workers", "2"),
        probabilities=PREDICTIONS,
    ),
    Peer(
        name=OURS_CASCADE,
        title="Snapensemble, cascade",
        environment="snapensemble",
        arguments=ours("--mode", "cascade"),
        probabilities=PREDICTIONS,
        cascade=True,
    ),
    Peer(
        name=OURS_INT8,
        title="Snapensemble, int8 cascade",
        environment="snapensemble",
        arguments=ours("--mode", "cascade"),
        probabilities=PREDICTIONS,
        cascade=True,
        int8=True,
    ),
    Peer(
        name=OURS_INT8_WORKERS,
        title="Snapensemble, int8 cascade, 2 workers",
        environment="snapensemble",
        arguments=ours("--mode", "cascade", "--workers", "2"),
        probabilities=PREDICTIONS,
        cascade=True,
        int8=True,
    ),
    Peer(
        name="fastapi",
        title="FastAPI by hand",
        environment="fastapi",
        arguments=app("fastapi_plain"),
    ),
    Peer(
        name="fastapi-batch",
        title="FastAPI by hand, batching",
        environment="fastapi",
        arguments=app("fastapi_batch"),
    ),
    Peer(
        name="litserve",
        title="LitServe",
        environment="litserve",
        arguments=app("litserve_plain"),
    ),
    Peer(
        name="litserve-batch",
        title="LitServe, batching",
        environment="litserve",
        arguments=app("litserve_batch"),
    ),
    Peer(
        name="bentoml",
        title="BentoML",
        environment="bentoml",
        arguments=app("bentoml_plain"),
        headers={"Content-Type": "image/png"},
    ),
    Peer(
        name="bentoml-batch",
        title="BentoML, batching",
        environment="bentoml",
        arguments=app("bentoml_batch"),
        headers=FORM,
        body=form,
        probabilities=lambda reply: reply.json()[0]["probabilities"],
    ),
    Peer(
        name="ray",
        title="Ray Serve",
        environment="ray",
        arguments=app("ray_plain"),
    ),
    Peer(
        name="ray-batch",
        title="Ray Serve, batching",
        environment="ray",
        arguments=app("ray_batch"),
    ),
    Peer(
        name="mlserver",
        title="MLServer, own handler",
        environment="mlserver",
        arguments=app("mlserver_plain"),
    ),
    Peer(
        name="mlserver-batch",
        title="MLServer, batching",
        environment="mlserver",
        arguments=app("mlserver_batch"),
        path="/v2/models/ensemble/infer",
        headers=JSON,
        body=v2_json,
        probabilities=v2_probabilities,
    ),
    Peer(
        name="pytriton",
        title="PyTriton, batching",
        environment="pytriton",
        arguments=app("pytriton_batch"),
        path="/v2/models/ensemble/infer",
        headers=RAW,
        probabilities=triton_probabilities,
    ),
)
BY_NAME = {peer.name: peer for peer in ALL}
