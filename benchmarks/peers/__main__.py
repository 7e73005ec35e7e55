"""How do other ways to serve the same members compare with ours?

    python -m benchmarks.peers DIR                          # a bundle, or a run
    python -m benchmarks.peers DIR --int8-bundle DIR        # and ours in int8, with a cascade
    python -m benchmarks.peers DIR --only fastapi,litserve  # some peers only, and ours

Each server is started alone, warmed up, asked by wrk over 1, 8 and 32 connections, one picture
per request, left idle for a moment, and ended; then the next one. Rounds begin with another server
each time; ratios are those of one round. A server whose answers differ from what ours says in
process is not measured. Ours is measured in mode cascade too where a bundle carries one.
What each peer does, and which page of its documents advises it, is said in its module in `apps`.
The peers are installed from `requirements`, each in an environment of its own, which are kept.
Needs wrk, and Linux for what it reads of processes. All servers take about 8 minutes a round.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.machine import save
from benchmarks.peers.measure import Task, measure
from benchmarks.peers.peers import ALL, BY_NAME, MINE, Peer
from benchmarks.peers.tables import against_the_best, footprints, loads
from benchmarks.peers.venvs import CACHE, NotInstalled, environment, installed_mib
from benchmarks.serving.bundles import add_arguments, bundle_of, pictures_of
from benchmarks.serving.wrk import find_wrk
from snapensemble.bench.pictures import Pictures
from snapensemble.contracts.bundle import read_bundle
from snapensemble.contracts.metrics import Floats
from snapensemble.serving.inference.aggregate import averaged
from snapensemble.serving.inference.engine import load_engine
from snapensemble.serving.inference.request import Image

CHECKED = 8  # pictures whose answers are compared


def main() -> None:
    """Install, measure, print and save."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_arguments(parser, "peers")
    parser.add_argument("--rounds", type=int, default=5, help="how often each server runs (5)")
    parser.add_argument("--seconds", type=float, default=5, help="of one load (5)")
    parser.add_argument("--only", metavar="NAME,…", help=f"of {', '.join(BY_NAME)}; all if not set")
    parser.add_argument("--int8-bundle", type=Path, metavar="DIR", help="with a cascade")
    parser.add_argument("--venvs", type=Path, default=CACHE, help=f"for environments ({CACHE})")
    args = parser.parse_args()
    find_wrk()
    reasons: dict[str, str] = {}
    with bundle_of(args) as bundle_dir:
        pictures = pictures_of(args, bundle_dir)
        tasks = []
        for peer in chosen(args, bundle_dir):
            try:
                python = environment(peer.environment, args.venvs)
            except NotInstalled as error:
                reasons[peer.name] = f"cannot be installed: {error}"
                continue
            directory = args.int8_bundle if peer.int8 else bundle_dir
            expected = answers(directory, pictures.images[:CHECKED], cascade=peer.cascade)
            tasks.append(Task(peer, python, directory, expected))
        rounds = measure(tasks, pictures.encoded, args.rounds, args.seconds, reasons)
        described = describe(bundle_dir, pictures)
    installed = {task.peer.name: installed_mib(task.python) for task in tasks}
    figures = {
        **described,
        "seconds": args.seconds,
        "not_measured": reasons,
        "installed_mib": installed,
        "rounds": rounds,
    }
    save(args.name, figures, loads(rounds, reasons))
    save(f"{args.name}-best", {"of": args.name}, against_the_best(rounds))
    save(f"{args.name}-footprint", {"of": args.name}, footprints(rounds, installed))


def chosen(args: argparse.Namespace, bundle_dir: Path) -> list[Peer]:
    """Ours, as far as there are bundles for it, and the peers that the flags ask for."""
    names = list(BY_NAME) if args.only is None else [name.strip() for name in args.only.split(",")]
    if unknown := [name for name in names if name not in BY_NAME]:
        sys.exit(f"--only: unknown {', '.join(unknown)}; there are {', '.join(BY_NAME)}")
    has_cascade = read_bundle(bundle_dir).cascade is not None

    def has_bundle(peer: Peer) -> bool:
        return args.int8_bundle is not None if peer.int8 else has_cascade or not peer.cascade

    return [peer for peer in ALL if peer.name in {*names, *MINE} and has_bundle(peer)]


def answers(bundle_dir: Path, images: Sequence[Image], *, cascade: bool) -> Floats:
    """The answers of our engine in this process: probs_BK."""
    with load_engine(bundle_dir) as engine:
        outputs = engine.ask(np.stack(images), "cascade" if cascade else "full")
        return np.stack([averaged(probs_dK, engine.bundle) for probs_dK in outputs])


def describe(bundle_dir: Path, pictures: Pictures) -> dict[str, object]:
    """What was served, and which pictures were sent."""
    bundle = read_bundle(bundle_dir)
    return {
        "model": bundle.model,
        "members": len(bundle.members),
        "image": bundle.image.shape,
        "pictures": pictures.source,
    }


if __name__ == "__main__":
    main()
