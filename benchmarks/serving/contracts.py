"""What does each contract cost beside /predict?

    python -m benchmarks.serving.contracts DIR               # a bundle, or a run
    python -m benchmarks.serving.contracts DIR --resnet20    # five with random weights instead

One picture per request, 32 at once, from one client process. All contracts take turns, round by
round; ratios are those of one round. Beside requests/s stands the processor time that the server
takes per request, which does not depend on how much the client takes.
"""

import argparse
import asyncio
import base64
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.machine import save, spread
from benchmarks.serving.bundles import add_arguments, add_random, bundle_of, pictures_of
from benchmarks.serving.grpc_load import GrpcClient, messages
from benchmarks.serving.turns import turn_of
from snapensemble.bench.http_load import HttpClient
from snapensemble.bench.load import Answer, Ask
from snapensemble.bench.processes import cpu_seconds
from snapensemble.contracts.bundle import read_bundle
from snapensemble.server_process import server_process

CONCURRENCY = 32
PREDICT = "/predict"


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, "serving-contracts")
    parser.add_argument("--rounds", type=int, default=5, help="after one that warms up (5)")
    parser.add_argument("--seconds", type=float, default=5, help="of one turn (5)")
    add_random(parser)
    args = parser.parse_args()
    with bundle_of(args) as bundle_dir:
        pictures = pictures_of(args, bundle_dir).encoded
        bundle = read_bundle(bundle_dir)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            rounds = runner.run(measure(bundle_dir, bundle.name, pictures, args))
    figures = {"model": bundle.model, "members": len(bundle.members), "seconds": args.seconds}
    save(args.name, {**figures, "concurrency": CONCURRENCY, "rounds": rounds}, table(rounds))


async def measure(
    bundle_dir: Path, name: str, pictures: Sequence[bytes], args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Requests/s and the server's processor milliseconds of each contract, for each round."""
    with server_process(bundle_dir, "--port", "0", "--grpc-port", "0") as (process, url):
        assert process.stdout is not None
        address = process.stdout.readline().strip().removeprefix("gRPC on ")
        client, grpc_client = HttpClient(url), GrpcClient(address)
        grpc_way = grpc_client.asker(messages(name, pictures))
        ways = {**http_ways(client, name, pictures), "gRPC": grpc_way}
        rounds = []
        for turn in range(args.rounds + 1):
            found = {}
            for way, ask in ways.items():
                found[way] = await turn_of(
                    way, ask, lambda: cpu_seconds(process.pid), CONCURRENCY, args.seconds
                )
            if turn:  # the first turn warms up
                rounds.append(found)
            print(f"round {turn} of {args.rounds}", file=sys.stderr)
        await client.close()
        await grpc_client.close()
    return rounds


def http_ways(client: HttpClient, name: str, pictures: Sequence[bytes]) -> dict[str, Ask]:
    """What asks each contract over HTTP."""
    v2 = f"/v2/models/{name}/infer"
    tensor = '{"name":"pictures","datatype":"BYTES","shape":[1],%s}'
    forms: dict[str, list[bytes]] = {
        PREDICT: [client.request("POST", PREDICT, each, "image/png") for each in pictures],
        "/v2 JSON": [],
        "/v2 binary": [],
        "/invocations": [
            client.request("POST", "/invocations", each, "image/png") for each in pictures
        ],
    }
    for each in pictures:
        data = f'"data":["{base64.b64encode(each).decode()}"]'
        document = f'{{"inputs":[{tensor % data}]}}'.encode()
        forms["/v2 JSON"].append(client.request("POST", v2, document, "application/json"))
        size = f'"parameters":{{"binary_data_size":{len(each) + 4}}}'
        head = f'{{"inputs":[{tensor % size}],"parameters":{{"binary_data_output":true}}}}'.encode()
        media_type = f"application/octet-stream\r\ninference-header-content-length: {len(head)}"
        body = head + len(each).to_bytes(4, "little") + each
        forms["/v2 binary"].append(client.request("POST", v2, body, media_type))
    return {way: _asker(client, requests) for way, requests in forms.items()}


def _asker(client: HttpClient, requests: Sequence[bytes]) -> Ask:
    async def ask(number: int) -> Answer:
        reply = await client.exchange(requests[number % len(requests)])
        return Answer(None if reply.status == 200 else str(reply.status))

    return ask


def table(rounds: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """A row per contract: requests/s, its ratio to /predict, and the server's time."""
    rows: list[tuple[str, ...]] = [
        ("contract", "requests/s", "of /predict", "server, ms of processor")
    ]
    for way in rounds[0]:
        rates = [each[way]["per_second"] for each in rounds]
        ratios = [each[way]["per_second"] / each[PREDICT]["per_second"] for each in rounds]
        times = [each[way]["cpu_ms"] for each in rounds]
        rows.append((way, spread(rates, ".0f"), spread(ratios, ".2f"), spread(times, ".2f")))
    return rows


if __name__ == "__main__":
    main()
