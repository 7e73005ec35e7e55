"""A shadow: a second model that is asked about a share of the requests, and answers nobody.

How people try a new model: how often does it agree with the one that answers? It gets what the
default model gets, after it, and whatever goes wrong there reaches no client.
"""

import asyncio
import logging
import math
import random

import numpy as np
from numpy.typing import NDArray

from snapensemble.contracts.errors import SnapensembleError
from snapensemble.serving.errors import InvalidTensor, Overloaded
from snapensemble.serving.http.adapters.adapter import InferenceResponse
from snapensemble.serving.http.bridge import classified
from snapensemble.serving.http.responses import with_summary
from snapensemble.serving.http.service import Model, Service
from snapensemble.serving.inference.admission import PendingRequest

Images = list[bytes] | NDArray[np.uint8]
log = logging.getLogger("snapensemble")


class Shadow:
    """Asks the shadow of a service, if it has one.

    Args:
        service: has the models, and says which of them is the shadow.
        seed: by which requests are drawn.
    """

    def __init__(self, service: Service, seed: int | None = None) -> None:
        self._service = service
        self._random = random.Random(seed)  # noqa: S311 # no secret
        self._asking: set[asyncio.Task[None]] = set()

    def copies(self, model: Model, images: Images) -> Images | None:
        """The images of a request, if the shadow is to be asked about them, too."""
        settings = self._service.settings
        if settings.shadow is None or not self._service.is_default(model):
            return None
        if self._random.random() >= settings.shadow_share:
            return None
        return list(images) if isinstance(images, list) else images

    def held(self, request: PendingRequest, copies: Images | None) -> Images | None:
        """The same images, if the request may hold them to its end; others are not asked about.

        What is decoded of a request is free again, so the pictures that are kept of it count by
        themselves. Pixels are the request's own.
        """
        if isinstance(copies, list):
            try:
                request.hold(sum(map(len, copies)))
            except Overloaded:  # those who wait for an answer come first
                self._count("not_asked", len(copies))
                return None
        return copies

    def ask(self, images: Images, answered: InferenceResponse) -> None:
        """Ask the shadow, and count where it agrees; this waits for nothing."""
        task = asyncio.get_running_loop().create_task(self._compare(images, answered))
        self._asking.add(task)  # the loop keeps no reference of its own
        task.add_done_callback(self._asking.discard)

    async def _compare(self, images: Images, answered: InferenceResponse) -> None:
        given_N = [likeliest(answered, place) for place in range(len(answered.outputs_N))]
        try:
            shadow_N = await self._names(images, answered)
        except SnapensembleError:  # overload above all, or pixels of a size that it does not take
            self._count("not_asked", len(given_N))
        except Exception:  # nobody waits for it
            log.exception("the shadow could not be asked")
        else:
            for given, shadow in zip(given_N, shadow_N, strict=True):
                self._count("agrees" if given == shadow else "differs", 1)

    def _count(self, result: str, images: int) -> None:
        self._service.metrics.shadow.labels(result).inc(images)

    async def _names(self, images: Images, answered: InferenceResponse) -> list[str]:
        """The likeliest class of each image, by the shadow."""
        model = self._service.model(self._service.settings.shadow)
        mode = answered.options.mode or self._service.settings.mode
        model.engine.check_mode(mode)
        expected = model.engine.bundle.image.shape
        if not isinstance(images, list) and images.shape[1:] != expected:
            raise InvalidTensor(f"found pixels of {images.shape[1:]}, expected {expected}")
        with model.used(), model.admission.request() as request:
            request.hold(sum(map(len, images)) if isinstance(images, list) else images.nbytes)
            accepted = request.accept(images)
            outputs_N = await classified(model.bridge, request, accepted, mode, None, math.inf)
        bundle = model.engine.bundle
        summaries_N = [with_summary(each, bundle).summary for each in outputs_N]
        return [bundle.classes[each.order_K[0]] for each in summaries_N if each is not None]


def likeliest(answered: InferenceResponse, place: int) -> str:
    """The likeliest class of one image, as it was answered."""
    summary = answered.outputs_N[place].summary
    assert summary is not None
    return answered.bundle.classes[summary.order_K[0]]
