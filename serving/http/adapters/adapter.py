"""What an adapter is: a contract's own words for a request, for its answer and for its errors.

Shapes: N images, C channels, H height, W width.
"""

import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from fastapi import APIRouter
from numpy.typing import NDArray

from snapensemble.contracts.bundle import BundleManifest
from snapensemble.serving.http.body import Body, essence
from snapensemble.serving.http.problems import Words, problem_document
from snapensemble.serving.http.responses import Promised, prediction
from snapensemble.serving.http.schemas import PredictOptions
from snapensemble.serving.inference.request import MemberOutputs
from snapensemble.serving.settings import Settings

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Head:
    """What is known of a request before its body: where it goes, and how it is described."""

    template: str  # of the path, where the contract has several
    params: Mapping[str, str]  # what the path names, such as `model` and `version`
    headers: Mapping[bytes, bytes]  # names in lower case; of one that is repeated the last
    options: PredictOptions  # those of the query
    name: str  # of the model
    version: str
    bundle: BundleManifest  # of the model
    settings: Settings

    @property
    def media_type(self) -> str:
        """The media type of the body, without parameters and in lower case."""
        return essence(self.headers.get(b"content-type", b"").decode("latin-1"))


@dataclass(frozen=True, slots=True)
class InferenceResponse:
    """The answers to all images of a request."""

    outputs_N: Sequence[MemberOutputs]
    options: PredictOptions
    promised: Promised
    name: str  # of the model
    version: str
    bundle: BundleManifest

    def predictions(self) -> list[dict[str, Any]]:
        """One prediction per image, as `POST /predict` gives them."""
        return [
            prediction(each, self.bundle, self.options, self.promised) for each in self.outputs_N
        ]


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a request: status 200, a body and what describes it."""

    content: bytes
    media_type: str = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """What a request asks, and how its answer is put."""

    images: list[bytes] | NDArray[np.uint8]  # encoded pictures, or images_NCHW of the model's shape
    options: PredictOptions
    encode: Callable[[InferenceResponse], Reply]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """One contract: its paths, how it reads a request, and how it words an error.

    Args:
        predictions: templates of the paths that POST asks for predictions; `{model}` and
            `{version}` in them name what is asked.
        read: reads a body, by a deadline on the event loop's clock; raises what `Body` raises, and
            MalformedBody or InvalidParameter. None if there are no predictions.
        words: how an error is put; a problem document unless given.
        error_content: by media type, the schema of the errors that `words` puts.
        worded: beginnings of the paths whose errors are put so, beside those of `predictions`.
        router: all other routes, and for the document those that ask for predictions.
        probes: routes that tell whether the server is ready and nothing else, and need no token.
        methods: those by which predictions are asked.
    """

    predictions: Sequence[str] = ()
    read: Callable[[Body, Head, float], Awaitable[InferenceRequest]] | None = None
    words: Words = problem_document
    error_content: Mapping[str, Any] | None = None
    worded: tuple[str, ...] = ()
    router: APIRouter | None = None
    probes: APIRouter | None = None
    methods: Collection[str] = ("POST",)


@dataclass(frozen=True, slots=True)
class Route:
    """A path that asks for predictions, and its contract."""

    template: str
    adapter: Adapter
    params: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


class Routes:
    """Finds the contract of a path. A path without names is found at once, whatever others exist.

    Args:
        adapters: all contracts; of two that have a path in common, the first has it.
    """

    def __init__(self, adapters: Sequence[Adapter]) -> None:
        self._exact: dict[str, Route] = {}
        # By what a path begins with, so that each is compared with few templates.
        self._named: dict[str, list[tuple[re.Pattern[str], Route]]] = {}
        self._worded: list[tuple[str, Words]] = []
        for adapter in adapters:
            for template in adapter.predictions:
                route = Route(template, adapter)
                if "{" in template:
                    alike = self._named.setdefault(first_part(template), [])
                    alike.append((pattern_of(template), route))
                else:
                    self._exact.setdefault(template, route)
            self._worded += [(beginning, adapter.words) for beginning in adapter.worded]

    def find(self, path: str) -> Route | None:
        """The route of a path, with the names that are in it; None if it asks for no prediction."""
        if (route := self._exact.get(path)) is not None:
            return route
        for pattern, route in self._named.get(first_part(path), ()):
            if found := pattern.fullmatch(path):
                return Route(route.template, route.adapter, found.groupdict())
        return None

    def words(self, path: str) -> Words:
        """How errors are put that answer requests to a path."""
        if (route := self._exact.get(path)) is not None:
            return route.adapter.words
        for beginning, words in self._worded:
            if path.startswith(beginning):
                return words
        return problem_document


def first_part(path: str) -> str:
    """What is between the first two slashes of a path; in a template there is no name."""
    return path.split("/", 2)[1] if path.startswith("/") else ""


def pattern_of(template: str) -> re.Pattern[str]:
    """What matches the paths of a template, in which each name stands for one part of a path."""
    literal = re.split(r"\{(\w+)\}", template)
    parts = [
        f"(?P<{part}>[^/]+)" if place % 2 else re.escape(part) for place, part in enumerate(literal)
    ]
    return re.compile("".join(parts))


def error_words(document: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The error that KServe, TensorFlow Serving and others expect: `{"error": TEXT}`."""
    return JSON, {"error": f"{document['title']}: {document['detail']}"}
