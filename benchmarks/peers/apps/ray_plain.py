"""Ray Serve without batching: a replica per core.

`num_replicas` fills the cores; each reserves half of one, or no room would be left to place them.
`max_ongoing_requests` lets every request reach a replica, as the page "Configure Ray Serve
deployments" describes. RAY_SERVE_THROUGHPUT_OPTIMIZED is on, as "Enable High Throughput on Ray
Serve" advises: no extra thread and loop per replica, gRPC between proxy and replicas. Not on is the
HAProxy of that page: it listens on every address of the machine. The access log is off.
"""

import os
import signal
import threading

os.environ.setdefault("RAY_SERVE_THROUGHPUT_OPTIMIZED", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_SERVE_DEFAULT_HTTP_HOST", "127.0.0.1")

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse

from benchmarks.peers.apps.members import CORES, HOST, MAX_BATCH_SIZE, PORT, Members

OPTIONS = {
    "num_replicas": CORES,
    "max_ongoing_requests": 4 * MAX_BATCH_SIZE,
    "ray_actor_options": {"num_cpus": 0.5},
    "logging_config": {"enable_access_log": False, "log_level": "WARNING"},
}


@serve.deployment(**OPTIONS)
class Ensemble:
    """Answers one picture after the other."""

    def __init__(self) -> None:
        self.members = Members()

    async def __call__(self, request: Request) -> JSONResponse:  # noqa: D102
        return JSONResponse(self.members.classify(await request.body()))


def serve_until_signal(deployment: serve.Deployment) -> None:
    """Serve until a signal comes."""
    ray.init(
        num_cpus=CORES,
        include_dashboard=False,
        logging_level="warning",
        log_to_driver=False,
        _node_ip_address=HOST,
    )
    serve.start(http_options={"host": HOST, "port": PORT, "access_log": False})
    serve.run(deployment.bind(), route_prefix="/predict", logging_config={"log_level": "WARNING"})
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    stop.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    serve_until_signal(Ensemble)
