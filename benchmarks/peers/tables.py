"""The figures of all rounds as tables."""

from collections.abc import Callable
from statistics import median

from benchmarks.machine import spread
from benchmarks.peers.measure import CONNECTIONS, Round
from benchmarks.peers.peers import BY_NAME, MINE, OURS

Row = tuple[str, ...]


def loads(rounds: list[Round], reasons: dict[str, str]) -> list[Row]:
    """A row per server and number of connections, ratios to ours round by round."""
    head = (
        "server", "connections", "requests/s", "p50 ms", "p99 ms", "CPU ms per image", "failed",
        "ours: times its requests/s", "its p99: times ours",
    )  # fmt: skip
    rows: list[Row] = [head]
    for name in measured(rounds):
        for count in CONNECTIONS:
            turns = [each[name][f"c={count}"] for each in rounds]
            compared = name != OURS
            rows.append(
                (
                    BY_NAME[name].title,
                    str(count),
                    spread([turn["requests_per_second"] for turn in turns], ".0f"),
                    spread([turn["p50_ms"] for turn in turns], ".1f"),
                    spread([turn["p99_ms"] for turn in turns], ".1f"),
                    spread([turn["cpu_ms_per_image"] for turn in turns], ".2f"),
                    f"{sum(turn['failed'] for turn in turns):.0f}",
                    spread(faster(rounds, OURS, name, count), ".2f") if compared else "",
                    spread(shorter(rounds, OURS, name, count), ".2f") if compared else "",
                )
            )
    for name, reason in reasons.items():
        rows.append((BY_NAME[name].title, "", f"not measured: {cell(reason)}", *[""] * 6))
    return rows


def against_the_best(rounds: list[Round]) -> list[Row]:
    """Ours against the peer that has the best median at that many connections."""
    present = [name for name in MINE if name in measured(rounds)]
    titles = [BY_NAME[name].title for name in present]
    rows: list[Row] = [
        (
            "connections",
            "most requests/s of a peer",
            *(f"{title}: times as many" for title in titles),
            "shortest p99 of a peer",
            *(f"times that of {title}" for title in titles),
        )
    ]
    peers = [name for name in measured(rounds) if name not in MINE]
    for count in CONNECTIONS if peers else ():
        most = max(peers, key=middle(rounds, "requests_per_second", count))
        least = min(peers, key=middle(rounds, "p99_ms", count))
        rows.append(
            (
                str(count),
                BY_NAME[most].title,
                *(spread(faster(rounds, name, most, count), ".2f") for name in present),
                BY_NAME[least].title,
                *(spread(shorter(rounds, name, least, count), ".2f") for name in present),
            )
        )
    return rows


def footprints(rounds: list[Round], installed: dict[str, float]) -> list[Row]:
    """A row per server: what it takes of the machine besides the load itself."""
    rows: list[Row] = [
        (
            "server", "processes", "memory after the load, MiB", "idle CPU, % of a core",
            "first answer after s", "packages, MiB",
        )
    ]  # fmt: skip
    for name in measured(rounds):
        turns = [each[name] for each in rounds]
        rows.append(
            (
                BY_NAME[name].title,
                f"{median(turn['processes'] for turn in turns):.0f}",
                spread([turn["memory_mib"] for turn in turns], ".0f"),
                spread([100 * turn["idle_cores"] for turn in turns], ".1f"),
                spread([turn["start_s"] for turn in turns], ".1f"),
                f"{installed[name]:.0f}",
            )
        )
    return rows


def measured(rounds: list[Round]) -> list[str]:
    """The servers that have figures in every round, in the order of `ALL`."""
    return [name for name in BY_NAME if rounds and all(name in each for each in rounds)]


def faster(rounds: list[Round], one: str, other: str, count: int) -> list[float]:
    """How many times as many requests/s one has as the other, in each round."""
    key = "requests_per_second"
    return [each[one][f"c={count}"][key] / each[other][f"c={count}"][key] for each in rounds]


def shorter(rounds: list[Round], one: str, other: str, count: int) -> list[float]:
    """How many times one's p99 the other's is, in each round."""
    return [
        each[other][f"c={count}"]["p99_ms"] / each[one][f"c={count}"]["p99_ms"] for each in rounds
    ]


def middle(rounds: list[Round], key: str, count: int) -> Callable[[str], float]:
    """A peer's median over the rounds, to choose by."""
    return lambda name: median(each[name][f"c={count}"][key] for each in rounds)


def cell(text: str) -> str:
    """Text that does not break a table."""
    return " ".join(text.split()).replace("|", "/")
