"""The methods of the services, on a port of their own and on the event loop of the other one."""

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import grpc
from starlette.types import Message, Receive, Scope, Send

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.serving.errors import ServingError, Unauthorized
from snapensemble.serving.grpc.inference import infer
from snapensemble.serving.grpc.messages import (
    CLASSES,
    HEALTH,
    IS_NOT_SERVING,
    IS_SERVING,
    SERVICE,
    parsed,
)
from snapensemble.serving.grpc.reading import MessageReader
from snapensemble.serving.http.adapters.open_inference.metadata import (
    model_metadata,
    server_metadata,
)
from snapensemble.serving.http.auth import read_tokens
from snapensemble.serving.http.exchange import STATE, Exchange, Exchanges, RequestState
from snapensemble.serving.http.problems import (
    GRPC_STATUS,
    INTERNAL_ERROR,
    entry_of,
    problem_body,
    retry_after_s,
)
from snapensemble.serving.http.service import Model, Service
from snapensemble.serving.inference.admission import MemoryBudget
from snapensemble.serving.settings import Settings
from snapensemble.serving.telemetry.tracing import Traces

MAX_METADATA_BYTES = 64 * 1024
MOST = 2**31 - 2  # of a number that gRPC's part in C takes, one less than means no limit
# Nothing else ends a call whose client does not take the answer: the time after which a connection
# is to end, and how much longer than the slowest call it then lasts.
CONNECTION_S, TAKING_S = 600.0, 30.0
SPARE_CALLS = 100  # beside those with images: probes
PUSHBACK = "grpc-retry-pushback-ms"
OPEN = (f"/{SERVICE}/ServerLive", f"/{SERVICE}/ServerReady", f"/{HEALTH}/Check")  # to all
Headers = list[tuple[bytes, bytes]]
Context = Any  # grpc.aio.ServicerContext; the package ships no types
log = logging.getLogger("snapensemble")


@dataclass(frozen=True, slots=True)
class Given:
    """What is known of a call beside its message."""

    headers: Mapping[bytes, bytes]
    within_s: float | None  # seconds until the client's deadline
    state: RequestState


Method = Callable[[bytes, Given], Awaitable[bytes]]


class GrpcServer:
    """The service on its port: started and stopped on the event loop.

    Args:
        service: what the answers come from; its settings say where.
        traces: makes spans of the calls.
        room: how many connections there may be, if that is less than the settings say.
        memory: counts the bytes of answers until they are taken.
    """

    def __init__(
        self,
        service: Service,
        traces: Traces | None = None,
        room: int = sys.maxsize,
        memory: MemoryBudget | None = None,
    ) -> None:
        settings = service.settings
        self._most_connections = min(settings.max_connections, room)
        self._memory = memory or MemoryBudget(sys.maxsize)
        self._service = service
        self._tokens = read_tokens(settings)
        self._messages = MessageReader(settings)
        self._services: dict[str, dict[str, Method]] = {
            SERVICE: {
                "ServerLive": self._server_live,
                "ServerReady": self._server_ready,
                "ModelReady": self._model_ready,
                "ServerMetadata": self._server_metadata,
                "ModelMetadata": self._model_metadata,
                "ModelInfer": self._model_infer,
            },
            HEALTH: {"Check": self._health},
        }
        # Every call is a POST over HTTP/2, so it is counted, logged and traced like one.
        self._layer = Exchanges(
            _no_app,
            routes=tuple(
                f"/{service}/{name}"
                for service, methods in self._services.items()
                for name in methods
            ),
            metrics=service.metrics,
            shutdown=service.shutdown,
            traces=traces,
            access_log=settings.access_log,
        )
        self._server: Any = None

    async def start(self) -> None:
        """Listen; raises InvalidConfig if the port is taken."""
        settings = self._service.settings
        options = {
            "max_receive_message_length": settings.max_body_bytes,
            "max_metadata_size": MAX_METADATA_BYTES,
            "absolute_max_metadata_size": MAX_METADATA_BYTES,
            "max_connection_idle_ms": settings.keep_alive_s * 1000,
            "max_connection_age_ms": int(CONNECTION_S * 1000),
            "max_connection_age_grace_ms": int(slowest_call_s(settings) * 1000),
            "max_allowed_incoming_connections": self._most_connections,
            "so_reuseport": 1,  # with other workers, and with who has taken the port
        }
        server = grpc.aio.server(
            options=[(f"grpc.{name}", min(value, MOST)) for name, value in options.items()],
            maximum_concurrent_rpcs=min(settings.max_queue + SPARE_CALLS, MOST),
        )
        for service, methods in self._services.items():
            handlers = {
                # As a stream of one message, which is read when the call may come in.
                name: grpc.stream_unary_rpc_method_handler(
                    partial(self._call, f"/{service}/{name}", method)
                )
                for name, method in methods.items()
            }
            handler = grpc.method_handlers_generic_handler(service, handlers)
            server.add_generic_rpc_handlers((handler,))
        try:
            server.add_insecure_port(settings.grpc_address)
        except RuntimeError as error:
            raise InvalidConfig(
                f"cannot listen on {settings.grpc_address} for gRPC; choose another --grpc-port"
            ) from error
        await server.start()
        self._server = server

    async def stop(self, left_s: float) -> None:
        """Accept no more calls, and wait for those that were accepted, so long at most."""
        if self._server is not None:
            await self._server.stop(left_s)

    async def _call(self, path: str, method: Method, _: object, context: Context) -> bytes:
        """Answer one call of any method: counted, logged, traced, and refused in gRPC's words."""
        state = RequestState(is_whole=True)
        headers = [
            (name.encode(), value if isinstance(value, bytes) else value.encode())
            for name, value in context.invocation_metadata()
        ]
        scope = {
            "type": "http", "method": "POST", "scheme": "http", "path": path,
            "headers": headers, "state": {STATE: state},
        }  # fmt: skip
        wait_s: int | None = None
        with Exchange(self._layer, scope, _no_send) as exchange:
            try:
                reply = await self._reply(path, method, headers, state, context)
                self._hold_until_taken(len(reply), context)
            except ServingError as error:
                exchange.status, code, title = entry_of(error)
                detail = str(error)
                wait_s = retry_after_s(error) if exchange.status == 503 else None
            except asyncio.CancelledError:  # nobody is there to be answered
                if not self._service.shutdown.stopping:  # or the time for that is over
                    self._service.metrics.departed.inc()
                raise
            except Exception:  # a defect: logged here, and the client learns no more than that
                log.exception("unexpected error in %s", path)
                exchange.status, code, title = INTERNAL_ERROR
                detail = "the server's log says more"
            else:
                exchange.status = 200
                context.set_trailing_metadata((("x-request-id", exchange.identity),))
                return reply
            # Not where the error is handled: the context keeps what `abort` raises, which would
            # keep the error, and with it the message, until the next collection of cycles.
            return await self._abort(context, exchange, code, title, detail, wait_s)

    async def _reply(
        self, path: str, method: Method, headers: Headers, state: RequestState, context: Context
    ) -> bytes:
        """The reply to a call; raises ServingError."""
        if self._tokens is not None and path not in OPEN:
            self._check_token(headers)
        raw = await self._messages.read(context)
        return await method(raw, Given(dict(headers), context.time_remaining(), state))

    def _hold_until_taken(self, size: int, context: Context) -> None:
        """Hold the bytes of an answer until its call is over: a client may take its time."""
        self._memory.hold(size)
        context.add_done_callback(lambda _: self._memory.let_go(size))

    async def _abort(
        self,
        context: Context,
        exchange: Exchange,
        code: str,
        title: str,
        detail: str,
        wait_s: int | None,
    ) -> NoReturn:
        """Answer with an error; its code is counted, and clients of gRPC obey the time to wait."""
        self._service.metrics.problems.labels(code).inc()
        trailing = [("x-request-id", exchange.identity), ("code", code)]
        if wait_s is not None:
            trailing += [("retry-after", str(wait_s)), (PUSHBACK, str(wait_s * 1000))]
        body = problem_body(exchange.status, code, title, detail)
        status = getattr(grpc.StatusCode, GRPC_STATUS[exchange.status])
        await context.abort(status, f"{body['title']}: {body['detail']}", tuple(trailing))
        raise AssertionError  # abort has raised

    def _check_token(self, headers: Headers) -> None:
        assert self._tokens is not None
        if not self._tokens.accept(headers):
            raise Unauthorized("send a token, as metadata: `authorization: Bearer TOKEN`")

    async def _server_live(self, _: bytes, __: Given) -> bytes:
        return _bytes("ServerLiveResponse", live=True)

    async def _server_ready(self, _: bytes, __: Given) -> bytes:
        return _bytes("ServerReadyResponse", ready=_is_ready(self._service.check_ready))

    async def _model_ready(self, raw: bytes, _: Given) -> bytes:
        model = self._model(raw, "ModelReadyRequest")
        check = partial(self._service.check_ready, model)
        return _bytes("ModelReadyResponse", ready=_is_ready(check))

    async def _health(self, raw: bytes, _: Given) -> bytes:
        """Of the server, or of the model that is asked for as if it were a service."""
        name = parsed("HealthCheckRequest", raw).service
        check = self._service.check_ready
        if name not in ("", SERVICE):
            check = partial(self._service.check_ready, self._service.model(name, None))
        status = IS_SERVING if _is_ready(check) else IS_NOT_SERVING
        return _bytes("HealthCheckResponse", status=status)

    async def _server_metadata(self, _: bytes, __: Given) -> bytes:
        return _bytes("ServerMetadataResponse", **server_metadata())

    async def _model_metadata(self, raw: bytes, _: Given) -> bytes:
        model = self._model(raw, "ModelMetadataRequest")
        return _bytes("ModelMetadataResponse", **model_metadata(self._service, model))

    async def _model_infer(self, raw: bytes, given: Given) -> bytes:
        return await infer(self._service, raw, given.headers, given.within_s, given.state)

    def _model(self, raw: bytes, kind: str) -> Model:
        message = parsed(kind, raw)
        return self._service.model(message.name or None, message.version or None)


def slowest_call_s(settings: Settings) -> float:
    """How long a call may last, from the first byte of its message to the last of its answer."""
    return settings.body_timeout_s + settings.max_wait_ms / 1000 + TAKING_S


def _bytes(kind: str, **fields: Any) -> bytes:
    message: bytes = CLASSES[kind](**fields).SerializeToString()
    return message


def _is_ready(check: Callable[[], None]) -> bool:
    try:
        check()
    except ServingError:
        return False
    return True


async def _no_app(scope: Scope, receive: Receive, send: Send) -> None:
    """Nothing is below the layer here."""


async def _no_send(message: Message) -> None:
    """Answers go another way."""
