"""Does any file break the server, whole or cut off?

    python -m benchmarks.serving.odd_images DIR --files FOLDER [--step 64]

POSTs every file of a folder, and each of its beginnings of `--step`, 2 x `--step`, ... bytes, to a
server of the bundle DIR. Prints how they were answered; the exit code is 1 if any answer was a 5xx
or none, or if the server ended.
"""

import argparse
import asyncio
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.machine import save
from benchmarks.serving.bundles import add_arguments, bundle_of, pictures_of
from snapensemble.bench.figures import MIB
from snapensemble.bench.http_load import HttpClient, Predictions, body_of
from snapensemble.bench.processes import resident_bytes
from snapensemble.server_process import server_process

AT_ONCE = 8
WARM_UP_REQUESTS = 200


def main() -> int:
    """Ask, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, "odd-images")
    parser.add_argument("--files", type=Path, required=True, metavar="FOLDER", help="to send")
    parser.add_argument("--step", type=int, default=64, help="bytes between two cuts (64)")
    args = parser.parse_args()
    files = sorted(file for file in args.files.rglob("*") if file.is_file())
    with bundle_of(args) as bundle_dir:
        figures = measure(bundle_dir, pictures_of(args, bundle_dir).encoded, files, args.step)
    save(args.name, {"files": len(files), "step": args.step, **figures}, table(figures))
    return 1 if figures["bad"] or figures["server_ended"] else 0


def measure(bundle_dir: Path, pictures: Any, files: list[Path], step: int) -> dict[str, Any]:
    """How the files were answered, and the server's memory before and after."""
    with (
        server_process(bundle_dir, "--port", "0") as (process, url),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        client = HttpClient(url)
        ask = Predictions(client, [[picture] for picture in pictures])
        for number in range(WARM_UP_REQUESTS):
            runner.run(ask(number))
        before = resident_bytes(process.pid)
        whole: Counter[str] = Counter()
        cut: Counter[str] = Counter()
        bad = runner.run(send_all(client, pieces(files, step), whole, cut))
        found = {
            "whole": dict(whole.most_common()),
            "cut": dict(cut.most_common()),
            "bad": bad,
            "server_ended": process.poll() is not None,
            "resident_bytes": {"before": before, "after": resident_bytes(process.pid)},
        }
        runner.run(client.close())
    return found


def pieces(files: list[Path], step: int) -> Iterator[tuple[str, bytes, bool]]:
    """Every file and each of its beginnings: name, bytes, and whether these are the whole file."""
    for file in files:
        data = file.read_bytes()
        for end in range(step, len(data), step):
            yield f"{file.name}[:{end}]", data[:end], False
        yield file.name, data, True


async def send_all(
    client: HttpClient,
    jobs: Iterator[tuple[str, bytes, bool]],
    whole: Counter[str],
    cut: Counter[str],
) -> list[str]:
    """Count the answers; those that must not be come back, with the names of their files."""
    bad = []

    async def sender() -> None:
        for name, data, is_whole in jobs:  # the senders share them
            try:
                reply = await client.exchange(client.request("POST", "/predict", *body_of([data])))
                code = "" if reply.status == 200 else f" {json.loads(reply.body)['code']}"
                outcome = f"{reply.status}{code}"
            except OSError as error:  # TimeoutError is one, too
                outcome = f"no answer: {type(error).__name__}"
            (whole if is_whole else cut)[outcome] += 1
            if not outcome.startswith(("2", "4")):
                bad.append(f"{name}: {outcome}")

    await asyncio.gather(*(sender() for _ in range(AT_ONCE)))
    return bad


def table(figures: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row per kind of answer."""
    rows: list[tuple[str, ...]] = [("answer", "whole files", "beginnings of files")]
    for outcome in {**figures["whole"], **figures["cut"]}:
        whole, cut = figures["whole"].get(outcome, 0), figures["cut"].get(outcome, 0)
        rows.append((outcome, f"{whole:,}", f"{cut:,}"))
    memory = figures["resident_bytes"]
    before, after = ((memory[name] or 0) / MIB for name in ("before", "after"))
    rows.append(("resident memory, MiB", f"{before:.0f} before", f"{after:.0f} after"))
    rows.append(("the server", "ended" if figures["server_ended"] else "goes on", ""))
    return rows


if __name__ == "__main__":
    sys.exit(main())
