"""Is our gRPC ahead of PyTriton's, with the same members?

    python -m benchmarks.peers.over_grpc DIR                 # a bundle, or a run
    python -m benchmarks.peers.over_grpc DIR --resnet20      # five with random weights instead

Both speak the Open Inference Protocol's ModelInfer: one picture per request, as bytes, from one
client process that shares the cores with the server. A server is started alone, its answers are
checked, it is loaded and ended; then the other. Rounds begin with another one each time, and ratios
are those of one round. Beside requests/s stands the processor time that a server's processes take
per request, which does not depend on how much the client takes.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import save, spread
from benchmarks.peers.__main__ import CHECKED, answers
from benchmarks.peers.peers import BY_NAME, OURS, ours
from benchmarks.peers.servers import TOLERANCE, NotMeasured, Running, running
from benchmarks.peers.venvs import CACHE, environment
from benchmarks.serving.bundles import add_arguments, add_random, bundle_of, pictures_of
from benchmarks.serving.grpc_load import GrpcClient, messages
from benchmarks.serving.turns import turn_of
from snapensemble.bench.load import closed_loop
from snapensemble.contracts.bundle import read_bundle
from snapensemble.contracts.metrics import Floats
from snapensemble.serving.grpc.messages import CLASSES

CONCURRENCY = (1, 8, 32)
WARM_UP_S = 2.0
PYTRITON = "pytriton"
NUMBERS = {"FP32": np.float32, "FP64": np.float64}


def main() -> None:
    """Install, measure, print and save."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.over_grpc")
    parser.description = __doc__.splitlines()[0]
    add_arguments(parser, "peers-grpc")
    parser.add_argument("--rounds", type=int, default=5, help="how often each server runs (5)")
    parser.add_argument("--seconds", type=float, default=5, help="of one load (5)")
    add_random(parser)
    parser.add_argument("--venvs", type=Path, default=CACHE, help=f"for environments ({CACHE})")
    args = parser.parse_args()
    python = environment(PYTRITON, args.venvs)
    with bundle_of(args) as bundle_dir:
        bundle = read_bundle(bundle_dir)
        pictures = pictures_of(args, bundle_dir)
        expected_BK = answers(bundle_dir, pictures.images[:CHECKED], cascade=False)
        encoded = pictures.encoded
        theirs = messages("ensemble", encoded, tensor="picture", shape=(1, 1))
        grpc_port = replace(
            BY_NAME[OURS],
            arguments=lambda directory, port: ours("--grpc-port", str(port + 1))(directory, port),
        )
        servers = {
            OURS: (grpc_port, Path(sys.executable), messages(bundle.name, encoded)),
            PYTRITON: (BY_NAME[PYTRITON], python, theirs),
        }
        rounds = []
        for turn in range(args.rounds):
            print(f"round {turn + 1} of {args.rounds}", file=sys.stderr)
            found = {}
            for name in sorted(servers, reverse=bool(turn % 2)):
                peer, interpreter, prepared = servers[name]
                checked = encoded[: len(expected_BK)]
                with running(peer, interpreter, bundle_dir, checked, expected_BK) as server:
                    found[name] = asyncio.run(loaded(server, prepared, expected_BK, args.seconds))
            rounds.append(found)
    figures = {"model": bundle.model, "members": len(bundle.members), "seconds": args.seconds}
    save(args.name, {**figures, "rounds": rounds}, table(rounds))


async def loaded(
    server: Running, prepared: Sequence[bytes], expected_BK: Floats, seconds: float
) -> dict[str, Any]:
    """Requests/s and processor milliseconds of a request, at each number of requests at once."""
    client = GrpcClient(f"127.0.0.1:{int(server.url.rpartition(':')[2]) + 1}")
    for number, expected_K in enumerate(expected_BK):
        answer = CLASSES["ModelInferResponse"].FromString(
            await client.infer(number, prepared[number])
        )
        if (gap := float(np.abs(probabilities(answer) - expected_K).max())) > TOLERANCE:
            raise NotMeasured(f"its probabilities over gRPC differ by {gap:.1e}")
    ask, found = client.asker(prepared), {}
    await closed_loop(ask, concurrency=max(CONCURRENCY), seconds=WARM_UP_S)
    for count in CONCURRENCY:
        found[f"c={count}"] = await turn_of(server.url, ask, server.tree.cpu_s, count, seconds)
    await client.close()
    return found


def probabilities(answer: Any) -> Floats:
    """The probabilities of one picture in a ModelInferResponse: probs_K."""
    for tensor, raw in zip(answer.outputs, answer.raw_output_contents, strict=True):
        if tensor.name == "probabilities":
            return np.frombuffer(raw, NUMBERS[tensor.datatype]).astype(np.float64)
    raise NotMeasured("its answer over gRPC has no probabilities")


def table(rounds: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """A row per number of requests at once."""
    head = ["at once", "ours, requests/s", "PyTriton, requests/s", "ours, times PyTriton's"]
    head += ["ours, ms of processor", "PyTriton, ms of processor"]
    rows = [tuple(head)]
    for count in rounds[0][OURS]:
        rates = {name: [found[name][count]["per_second"] for found in rounds] for name in rounds[0]}
        times = {name: [found[name][count]["cpu_ms"] for found in rounds] for name in rounds[0]}
        ratios = [mine / theirs for mine, theirs in zip(rates[OURS], rates[PYTRITON], strict=True)]
        rows.append(
            (
                count,
                *(spread(rates[name], ".0f") for name in (OURS, PYTRITON)),
                spread(ratios, ".2f"),
                *(spread(times[name], ".2f") for name in (OURS, PYTRITON)),
            )
        )
    return rows


if __name__ == "__main__":
    main()
