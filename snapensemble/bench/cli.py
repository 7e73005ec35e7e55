"""`snapensemble bench`: how fast a bundle answers, in this process and over HTTP."""

import argparse
import asyncio
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import uvloop
from pydantic import Field

from snapensemble.bench.figures import HEAD, Row, line, row, warnings
from snapensemble.bench.http_load import HttpClient, Predictions
from snapensemble.bench.load import closed_loop, open_loop, poisson_arrivals
from snapensemble.bench.pictures import Pictures, noise, read_pictures
from snapensemble.bench.targets import InProcess, Target, check, metered
from snapensemble.contracts.bundle import BundleManifest
from snapensemble.contracts.cascade import Mode
from snapensemble.contracts.cpu import cpu_budget
from snapensemble.contracts.options import Options, add_options, build
from snapensemble.contracts.process import signals_deferred
from snapensemble.server_process import server_process
from snapensemble.serving.cli import build_settings
from snapensemble.serving.inference.engine import load_engine

CONCURRENCY = (1, 8, 32)
WARM_UP_S = 1.0  # seconds of load before each row, at most


class BenchConfig(Options):
    """The options of `snapensemble bench`: what to measure."""

    bundle_dir: Path
    concurrency: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        None,
        description="clients that ask again as soon as they are answered (1 8 32)",
        json_schema_extra={"metavar": "N"},
    )
    rate: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (),
        description="requests/s at random times; latency counts from when a request was due",
        json_schema_extra={"metavar": "R"},
    )
    mode: Mode = Field("full", description="ask every member, or a few")
    seconds: float = Field(10.0, gt=0, description="of each row")
    images: tuple[Path, ...] = Field(
        (), description="pictures to send (noise as PNG)", json_schema_extra={"metavar": "FILE"}
    )
    images_per_request: int = Field(
        1, ge=1, description="pictures in one", json_schema_extra={"metavar": "N"}
    )
    url: str | None = Field(None, description="measure this server instead of starting one")

    @property
    def loads(self) -> list[tuple[int | None, float | None]]:
        """The loads: clients of each closed loop, then requests/s of each open one."""
        clients = (
            (() if self.rate else CONCURRENCY) if self.concurrency is None else self.concurrency
        )
        return [*((each, None) for each in clients), *((None, each) for each in self.rate)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The bundle, the pictures and the targets, ready to be measured."""

    bundle: BundleManifest
    pictures: Pictures
    targets: Sequence[Target]
    runner: asyncio.Runner  # the loop that the connections belong to


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `snapensemble bench`."""
    parser.add_argument("bundle_dir", type=Path, metavar="BUNDLE_DIR")
    add_options(parser, BenchConfig, without=("bundle_dir",))
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Measure and print row by row; after Ctrl-C print what was measured until then."""
    options = vars(args)
    as_json = options.pop("json")
    config = build(BenchConfig, options)
    with prepared(config) as subject:
        if not as_json:
            print(f"{title(config, subject)}\n{HEAD}", flush=True)
        # A signal ends a row early and not the process, so that what was measured is printed.
        with signals_deferred() as deferred:
            rows = []
            for found in measure(config, subject, stop=lambda: bool(deferred.signum)):
                rows.append(found)
                if not as_json:
                    print(line(found), flush=True)
            if as_json:
                report: dict[str, Any] = {
                    "rows": [row.as_json() for row in rows],
                    "warnings": warnings(rows),
                }
                report["stopped"] = bool(deferred.signum)
                print(json.dumps({**described(config, subject), **report}, indent=2))
            else:
                print("\n".join(warnings(rows)))
    return 0


def title(config: BenchConfig, subject: Subject) -> str:
    """What is measured, for people."""
    bundle = subject.bundle
    return (
        f"{bundle.name} {bundle.version} (members: {len(bundle.members)}), mode {config.mode}, "
        f"{config.seconds:g} s per row\n{subject.pictures.source}, "
        f"{config.images_per_request} in a request\n"
    )


def described(config: BenchConfig, subject: Subject) -> dict[str, Any]:
    """What is measured, as JSON."""
    return {
        "model": {"name": subject.bundle.name, "version": subject.bundle.version},
        "members": len(subject.bundle.members),
        "mode": config.mode,
        "seconds_per_row": config.seconds,
        "pictures": subject.pictures.source,
        "images_per_request": config.images_per_request,
        "cores": cpu_budget(),
    }


@contextmanager
def prepared(config: BenchConfig) -> Iterator[Subject]:
    """Start the engine and a server, both with the server's settings, and check both.

    Raises:
        InvalidManifest: the bundle is damaged.
        InvalidParameter: the bundle carries no cascade.
        InvalidData: a picture file cannot be read.
        InvalidConfig: no server answers at the URL.
        ServerFailed: the server did not start.
    """
    settings = build_settings({"port": 0}, for_server=False)
    with ExitStack() as stack:
        engine = stack.enter_context(
            load_engine(
                config.bundle_dir,
                settings.limits(),
                max_accuracy_drop=settings.max_accuracy_drop,
            )
        )
        engine.check_mode(config.mode)
        image = engine.bundle.image
        pictures = read_pictures(config.images, image) if config.images else noise(image)
        encoded, decoded = pictures.groups(config.images_per_request)
        pid = None
        url = config.url
        if url is None:
            process, url = stack.enter_context(server_process(config.bundle_dir, "--port", "0"))
            pid = process.pid
        runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        client = HttpClient(url)
        stack.callback(lambda: runner.run(client.close()))
        engine_ask = InProcess(engine, decoded, config.mode)
        # The query of a program that wants no more than the answer.
        http_ask = Predictions(client, encoded, f"mode={config.mode}")
        runner.run(check(http_ask, url))
        targets = (
            Target(way="engine", ask=engine_ask, pid=os.getpid(), is_client=True),
            Target(way="http", ask=http_ask, pid=pid, is_client=False),
        )
        yield Subject(bundle=engine.bundle, pictures=pictures, targets=targets, runner=runner)


def measure(config: BenchConfig, subject: Subject, stop: Callable[[], bool]) -> Iterator[Row]:
    """Measure a row per load and way, the ways in turns, so that each sees the same machine."""
    warm_up_s = min(WARM_UP_S, config.seconds / 5)
    for concurrency, rate in config.loads:
        for target in subject.targets:
            clients = concurrency or 1
            warm_up = closed_loop(target.ask, concurrency=clients, seconds=warm_up_s, stop=stop)
            subject.runner.run(warm_up)
            if stop():
                return
            if rate is None:
                load = closed_loop(
                    target.ask, concurrency=clients, seconds=config.seconds, stop=stop
                )
            else:
                load = open_loop(target.ask, poisson_arrivals(rate, config.seconds), stop=stop)
            samples, usage = metered(target, partial(subject.runner.run, load))
            yield row(
                target.way,
                samples,
                usage,
                concurrency=concurrency,
                rate=rate,
                images_per_request=config.images_per_request,
            )
