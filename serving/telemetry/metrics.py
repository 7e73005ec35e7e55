"""Prometheus metrics, in base units, and how far the answers drift. One registry per server."""

import math
from collections import deque
from collections.abc import Iterator, Mapping
from importlib.metadata import version as installed
from pathlib import Path
from platform import python_version

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from snapensemble.contracts.bundle import BundleManifest
from snapensemble.contracts.drift import ReferenceRecord, population_stability_index
from snapensemble.contracts.sessions import RUNTIME_VERSION
from snapensemble.serving.inference.batch import BatchReport, names_by_place

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
CONTENT_TYPE = CONTENT_TYPE_LATEST
WINDOW = 1000  # answers that count for drift
ENOUGH = 100  # answers below which no drift is shown
QUANTITIES = ("confidence", "disagreement")  # whose drift is shown


class Metrics:
    """All that the server counts. Safe to use from any thread.

    Args:
        directory: where several workers count together; the variable PROMETHEUS_MULTIPROC_DIR
            must have named it before the first import.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "snapensemble_requests",
            "Requests answered.",
            ["route", "code"],
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "snapensemble_request_duration_seconds",
            "From the head of a request, when it has come, until its answer is written.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.stage_seconds = Histogram(
            "snapensemble_stage_duration_seconds",
            "Time in each stage of a prediction: receive, decode, queue, inference.",
            ["stage"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.batch_size = Histogram(
            "snapensemble_batch_size_images",
            "Images that ran together.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=self.registry,
        )
        self.members_used = Histogram(
            "snapensemble_members_used",
            "Members asked about an image.",
            buckets=(1, 2, 3, 4, 5, 6, 8, 10, 15, 20),
            registry=self.registry,
        )
        self.problems = Counter(
            "snapensemble_problems",
            "Requests refused or failed, by the code of their problem document.",
            ["code"],
            registry=self.registry,
        )
        self.departed = Counter(
            "snapensemble_departed_clients",
            "Requests whose client left before the answer.",
            registry=self.registry,
        )
        self.partial = Counter(
            "snapensemble_partial_predictions",
            "Images answered at their deadline from the members heard so far.",
            registry=self.registry,
        )
        self.abstained = Counter(
            "snapensemble_abstained_predictions",
            "Images whose answer was not sure enough for the share of errors that was asked for.",
            registry=self.registry,
        )
        self.shadow = Counter(
            "snapensemble_shadow_images",
            "Images that the shadow was to be asked about, by whether it named the same class.",
            ["result"],  # agrees, differs, not_asked
            registry=self.registry,
        )
        self.entropy = Histogram(
            "snapensemble_entropy_ratio",
            "Entropy of an image's answer as a share of its largest, log(classes).",
            buckets=SHARES,
            registry=self.registry,
        )
        self.member_seconds = Counter(
            "snapensemble_member_busy_seconds",
            "Lane time spent in a member, or in the trunk.",
            ["model", "member"],
            registry=self.registry,
        )
        self.member_failures = Counter(
            "snapensemble_member_failures",
            "Micro-batches in which a member, or the trunk, raised an error.",
            ["model", "member"],
            registry=self.registry,
        )
        self.queued = Gauge(
            "snapensemble_queue_images",
            "Images that wait to be decoded, or for their first member.",
            multiprocess_mode="livesum",
            registry=self.registry,
        )
        self.requests_under_way = Gauge(
            "snapensemble_requests_under_way",
            "Predictions whose request has been let in and is not answered.",
            multiprocess_mode="livesum",
            registry=self.registry,
        )
        self.held_bytes = Gauge(
            "snapensemble_held_bytes",
            "Bytes that requests hold: bodies, what they are parsed into, pictures while decoded, "
            "features that the trunk has given.",
            multiprocess_mode="livesum",
            registry=self.registry,
        )
        self.model_info = Gauge(
            "snapensemble_model_info",
            "A model that is served: 1; 0 if it is no longer.",
            ["name", "version", "members"],
            multiprocess_mode="livemax",
            registry=self.registry,
        )
        self.model_bytes = Gauge(
            "snapensemble_model_memory_bytes",
            "By how much the process grew while a model was loaded and warmed up.",
            ["name", "version"],
            multiprocess_mode="livesum",
            registry=self.registry,
        )
        self.drift = Gauge(
            "snapensemble_drift_psi",
            "Population stability index of the last full answers against validation.",
            ["model", "quantity"],
            registry=self.registry,
            multiprocess_mode="livemax",  # each process sees answers of its own
        )
        self.drift_answers = Gauge(
            "snapensemble_drift_answers",
            "Full answers that the index is of; it is shown from 100 on.",
            ["model"],
            registry=self.registry,
            multiprocess_mode="livemin",
        )
        self.build_info = Gauge(
            "snapensemble_build_info",
            "The software that serves; always 1.",
            ["version", "python", "onnxruntime"],
            multiprocess_mode="livemax",
            registry=self.registry,
        )
        self._drifting: frozenset[str] = frozenset()  # models of which drift was ever to be shown
        self._request_counters: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        self.receive_seconds = self.stage_seconds.labels("receive")

    def served(self, name: str, version: str, bundle: BundleManifest, *, is_served: bool) -> None:
        """Set what is served, or is no longer, and by what software."""
        if is_served:
            for member in names_by_place(bundle).values():
                self.member_failures.labels(name, member)  # so that 0 is shown before the first
        self.model_info.labels(name, version, str(len(bundle.members))).set(is_served)
        packages = (installed("snapensemble"), python_version(), RUNTIME_VERSION)
        self.build_info.labels(*packages).set(1)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request that is over."""
        counters = self._request_counters.get((route, status))
        if counters is None:  # to look labels up costs more than to count
            counters = (
                self.requests.labels(route, str(status)),
                self.request_seconds.labels(route),
            )
            self._request_counters[route, status] = counters
        counters[0].inc()
        counters[1].observe(seconds)

    def refused(self, status: int, code: str, is_counted: bool) -> None:
        """Count what the protocol has refused, and the request unless it is counted elsewhere."""
        self.problems.labels(code).inc()
        if not is_counted:
            self.requests.labels("other", str(status)).inc()

    def decoded(self, seconds: float) -> None:
        """Count a picture that was decoded, or could not be."""
        self.stage_seconds.labels("decode").observe(seconds)

    def batch(self, name: str, names: Mapping[int, str], report: BatchReport) -> None:
        """Count a finished micro-batch of a model, whose members have these names by place."""
        self.batch_size.observe(report.images)
        for wait_s in report.waits_s:
            self.stage_seconds.labels("queue").observe(wait_s)
        self.stage_seconds.labels("inference").observe(report.inference_s)
        first = report.members_used - len(report.members_s)
        for member, seconds in enumerate(report.members_s, start=first):
            self.member_seconds.labels(name, names[member]).inc(seconds)
        for member in report.members_failed:
            self.member_failures.labels(name, names[member]).inc()
        for _ in range(report.answered):
            self.members_used.observe(report.members_used)

    def show_drift(self, drifts: Mapping[str, "Drift | None"]) -> None:
        """Show how far the answers of these models have drifted, and of no other one.

        Args:
            drifts: by name of the model; None where nobody can tell.
        """
        # A gauge of several processes cannot be removed. What is infinite is on no page, and loses
        # against the number of another worker.
        self._drifting = self._drifting | drifts.keys()
        for name in self._drifting:
            drift = drifts.get(name)
            self.drift_answers.labels(name).set(math.inf if drift is None else len(drift))
            indices = {} if drift is None else drift.indices()
            for quantity in QUANTITIES:
                self.drift.labels(name, quantity).set(indices.get(quantity, -math.inf))

    def page(self) -> bytes:
        """The text that Prometheus reads: the sum of all workers if there are several."""
        registry = self.registry
        if self._directory is not None:
            registry = CollectorRegistry()
            MultiProcessCollector(registry, str(self._directory))  # type: ignore[no-untyped-call]
        return generate_latest(_Finite(registry))


class _Finite:
    """What a registry collects, without what is infinite, which stands for nothing."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """The metrics, each with what it has to say."""
        for metric in self._registry.collect():
            metric.samples = [each for each in metric.samples if not math.isinf(each.value)]
            yield metric


class Drift:
    """Compares how sure the last answers were with a bundle's reference. For one thread.

    Args:
        reference: how sure the answers to validation images were, from the bundle.
        window: how many of the last answers count.
        enough: how many there must be before an index means something.
    """

    def __init__(
        self, reference: ReferenceRecord, *, window: int = WINDOW, enough: int = ENOUGH
    ) -> None:
        self._references = {
            "confidence": reference.confidence,
            "disagreement": reference.disagreement,
        }
        self._enough = enough
        self._last: deque[tuple[float, float]] = deque(maxlen=window)

    def __len__(self) -> int:
        """How many answers count now."""
        return len(self._last)

    def add(self, *, confidence: float, disagreement: float) -> None:
        """Count an answer, and forget the oldest if there are too many."""
        self._last.append((confidence, disagreement))

    def indices(self) -> dict[str, float]:
        """The population stability index of each quantity; empty while there are too few."""
        if len(self._last) < self._enough:
            return {}
        quantities = np.array(self._last).T
        return {
            name: population_stability_index(one.shares, one.counts_of(values_N))
            for (name, one), values_N in zip(self._references.items(), quantities, strict=True)
        }
