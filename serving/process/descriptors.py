"""How many connections there is room for, among the files that a process may have open."""

import logging
import resource

from snapensemble.serving.settings import Settings

SPARE = 100  # for what is no connection: bundles that are loaded, counts of workers, the log
log = logging.getLogger("snapensemble")


def make_room_for_connections(settings: Settings) -> None:
    """Raise the limit of open files of this process and its workers, as far as it needs and may.

    The usual limit is made for programs that wait with `select`. Beyond `max_connections` there
    are those that are refused, so twice as many get room.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * settings.max_connections * _ports(settings) + SPARE
    wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError) as error:  # the system may allow less than it says
            log.warning("the limit of open files stays %d: %s", soft, error)
    room = room_for_connections(settings)
    if room < settings.max_connections:
        log.warning(
            "there is room for %d connections, --max-connections is %d: the limit of open files "
            "is %d; raise it (ulimit -n), or lower --max-connections",
            room, settings.max_connections, resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        )  # fmt: skip


def room_for_connections(settings: Settings) -> int:
    """How many connections a port may have, so that files are left for all else."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 2 * settings.max_connections
    return max(soft // 2, soft - SPARE) // _ports(settings)


def _ports(settings: Settings) -> int:
    return 1 if settings.grpc_port is None else 2
