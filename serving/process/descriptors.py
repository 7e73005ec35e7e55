"""How many connections there is room for, among the files that a process may have open."""

import logging
import resource

from snapensemble.serving.settings import Settings

SPARE = 100  # for what is no connection: bundles that are loaded, counts of workers, the log
ENOUGH = 1000  # connections at each port, for who has not said how many there shall be
METRICS = 100  # connections to the port for metrics alone: those who scrape, and people who look
log = logging.getLogger("snapensemble")


def make_room_for_connections(settings: Settings) -> None:
    """Raise the limit of open files of this process and its workers, as far as it needs and may.

    The usual limit is made for programs that wait with `select`. Beyond `max_connections` there
    are those that are refused, so twice as many get room. The default is more than most need, so
    that fewer have room is said of it only where they are few.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * settings.max_connections * _ports(settings) + _kept(settings)
    wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError) as error:  # the system may allow less than it says
            log.warning("the limit of open files stays %d: %s", soft, error)
    room = room_for_connections(settings)
    is_asked_for = "max_connections" in settings.model_fields_set
    if room < (settings.max_connections if is_asked_for else ENOUGH):
        log.warning(
            "there is room for %d connections, --max-connections is %d: the limit of open files "
            "is %d; raise it (ulimit -n), or lower --max-connections",
            room, settings.max_connections, resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        )  # fmt: skip


def room_for_connections(settings: Settings) -> int:
    """How many connections a port for predictions may have, so that files are left for all else."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 2 * settings.max_connections
    return max(soft // 2, soft - _kept(settings)) // _ports(settings)


def room_for_metrics(settings: Settings) -> int:
    """How many connections the port for metrics alone may have; 0 where there is no such port."""
    if settings.metrics_port is None:
        return 0
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return METRICS if soft == resource.RLIM_INFINITY else min(METRICS, max(1, soft // 4))


def _kept(settings: Settings) -> int:
    """Files that are no connections to ports for predictions."""
    return SPARE + room_for_metrics(settings)


def _ports(settings: Settings) -> int:
    return 1 if settings.grpc_port is None else 2
