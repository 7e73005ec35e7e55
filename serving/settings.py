"""The settings of the server, each with its unit and bounds, from flags and variables.

Variables that look like settings and are none are refused.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from itertools import combinations
from pathlib import Path
from typing import Annotated, cast

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from snapensemble.contracts.cascade import Mode
from snapensemble.contracts.cpu import MAX_THREADS
from snapensemble.contracts.errors import InvalidConfig, Misfit
from snapensemble.contracts.pixels import MAX_PIXELS
from snapensemble.contracts.sessions import PROVIDERS, Provider
from snapensemble.serving.inference.engine import Limits
from snapensemble.serving.telemetry.logs import LogFormat

PREFIX = "SNAPENSEMBLE_"
CLIENT_TOKEN = "SNAPENSEMBLE_TOKEN"  # noqa: S105 # the name of a variable
# Variables that are read elsewhere: by the trainer, by `predict`, by `sign`.
OTHERS = ("SNAPENSEMBLE_CACHE", CLIENT_TOKEN, "SNAPENSEMBLE_KEY_PASSWORD")
# Settings that keep something out: what each holds, and what happens where it is not set.
GUARDS = {
    "tokens": ("token", "everybody may ask"),
    "tokens_file": ("name of a file", "everybody may ask"),
    "expect_bundle": ("hash", "any bundle is served"),
    "verify_key": ("name of a file", "any bundle is served"),
}
# What Kubernetes sets for a Service whose name begins like this product's; no setting looks so.
_OF_KUBERNETES = re.compile(
    r"\w+_SERVICE_(HOST|PORT(_\w+)?)|\w+_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?"
)
MIB = 2**20
ORIGIN = re.compile(r"https?://[A-Za-z0-9.-]+(:\d{1,5})?|https?://\[[0-9a-fA-F:]+\](:\d{1,5})?")
MODE = re.compile(r"[0-7]{3}")
PATH = re.compile(r"(/(?!\.\.?(/|$))[A-Za-z0-9._~@:-]+)+")
SHA256 = re.compile(r"[0-9a-fA-F]{64}")
MAX_PREFIX = 256  # characters
SECRETS = ("tokens",)  # no flags: everybody on the machine can read a command line
Positive = Annotated[int, Field(ge=1)]


class Settings(BaseSettings):
    """All settings, frozen once built; `docs/settings.md` lists what each one means."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,  # what a compose file makes of a variable that is not there
        frozen=True,
        extra="forbid",
    )

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(
        8000, ge=0, le=65535, description="port; 0 takes a free one; PORT counts, too"
    )
    uds: Path | None = Field(
        None, description="path of a Unix socket to listen on, in place of host and port"
    )
    uds_mode: str = Field("660", description="permissions of the Unix socket, octal")
    root_path: str = Field(
        "", description="path under which a proxy shows this server, such as /apps/photos"
    )
    grpc_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="port for gRPC, of the Open Inference Protocol; none if not set",
    )
    name: str | None = Field(None, description="model name to answer with, instead of the bundle's")
    default_model: str | None = Field(
        None, description="model of a directory that answers requests which name none"
    )
    versions: Positive = Field(
        1, description="newest versions of each model of a directory that are served"
    )
    watch: float | None = Field(
        None,
        ge=1,
        allow_inf_nan=False,
        description="how often to look for new bundles and versions, seconds; on SIGHUP only if "
        "not set",
    )
    model_control: bool = Field(
        False, description="let whoever may ask load and unload models, too"
    )
    shadow: str | None = Field(
        None,
        description="model of a directory that is asked beside the default one, and whose answers "
        "are compared and not given",
    )
    shadow_share: float = Field(
        0.1, gt=0, le=1, description="requests that the shadow is asked about, too, fraction"
    )
    expect_bundle: str | None = Field(
        None, description="SHA-256 of the bundle's ensemble.json; another one is refused at start"
    )
    verify_key: Path | None = Field(
        None, description="public key, PEM; a bundle that it has not signed is refused at start"
    )
    mode: Mode = Field(
        "full", description="full or cascade: how to answer requests that do not say"
    )
    max_accuracy_drop: float | None = Field(
        None,
        ge=0,
        le=1,
        description="accuracy that the cascade may cost, fraction; the bundle's choice if not set",
    )
    threads: int | None = Field(
        None,
        ge=1,
        le=MAX_THREADS,
        description="inference lanes; the CPU budget of this process if not set",
    )
    workers: Positive = Field(1, description="processes that share the port and the processors")
    providers: str = Field(
        "cpu",
        description="what runs members, first choice first: cpu, cuda, tensorrt, openvino (for "
        "bundles without class maps)",
    )
    max_batch_size: Positive = Field(32, description="images that run together at most")
    max_queue: Positive = Field(1024, description="images accepted and not answered at most")
    max_connections: Positive = Field(
        10_000, description="connections at most; predictions over more are refused"
    )
    max_wait_ms: Positive = Field(
        10_000, description="predicted wait above which a request is refused, milliseconds"
    )
    max_body_bytes: Positive = Field(16 * MIB, description="size of one request's body, bytes")
    max_bytes_in_flight: Positive = Field(
        320 * MIB,
        description="bodies, what they are parsed into and pictures while decoded, together, bytes",
    )
    max_image_pixels: Positive = Field(
        MAX_PIXELS, description="width x height of one image, by its header"
    )
    max_images_per_request: Positive = Field(64, description="images in one request")
    body_timeout_s: float = Field(
        30, gt=0, allow_inf_nan=False, description="time for a body to arrive, seconds"
    )
    keep_alive_s: Positive = Field(
        75, description="time that an idle connection stays open, seconds"
    )
    drain_seconds: float = Field(
        0,
        ge=0,
        le=3600,
        description="time to answer on after SIGTERM while /health/ready says 503, seconds",
    )
    shutdown_timeout_s: Positive = Field(
        30, description="time for accepted requests to finish after SIGTERM, seconds"
    )
    access_log: bool = Field(False, description="one line per request on stderr")
    log_format: LogFormat = Field("text", description="text or json: how log lines look")
    tokens: SecretStr | None = Field(
        None, description="bearer tokens, one of which every request must carry; no flag"
    )
    tokens_file: Path | None = Field(
        None, description="file with bearer tokens, one per line; every request must carry one"
    )
    metrics_port: int | None = Field(
        None, ge=0, le=65535, description="port for /metrics alone; the main port has it if not set"
    )
    cors_origins: str | None = Field(
        None, description="origins whose pages may ask, separated by commas; none if not set"
    )

    @model_validator(mode="after")
    def _a_request_fits_the_queue(self) -> "Settings":
        if self.max_images_per_request > self.max_queue:
            raise Misfit(
                f"{{max_images_per_request}} {self.max_images_per_request} exceeds {{max_queue}} "
                f"{self.max_queue}, so such a request could never be accepted"
            )
        if self.max_body_bytes >= self.max_bytes_in_flight:
            raise Misfit(
                f"{{max_body_bytes}} {self.max_body_bytes} leaves nothing of "
                f"{{max_bytes_in_flight}} {self.max_bytes_in_flight} to decode a picture in"
            )
        return self

    @model_validator(mode="after")
    def _each_has_a_port_of_its_own(self) -> "Settings":
        names = ("port", "grpc_port", "metrics_port")[self.uds is not None :]
        opened = [(name, port) for name in names if (port := getattr(self, name))]  # 0: a free one
        for (one, port), (other, same) in combinations(opened, 2):
            if port == same:
                raise Misfit(f"{{{one}}} and {{{other}}} are both {port}; choose another for one")
        return self

    @field_validator("host")
    @classmethod
    def _an_address_is_named(cls, text: str) -> str:
        if not text:  # which the system would take for all of them
            raise ValueError("expected an address such as 127.0.0.1, or 0.0.0.0 for all of IPv4")
        return text

    @field_validator("expect_bundle")
    @classmethod
    def _a_hash_is_whole(cls, text: str | None) -> str | None:
        if text is not None and not SHA256.fullmatch(text):
            raise ValueError("expected 64 hexadecimal digits, as sha256sum prints them")
        return None if text is None else text.lower()

    @field_validator("uds_mode")
    @classmethod
    def _a_mode_is_octal(cls, text: str) -> str:
        if not MODE.fullmatch(text):
            raise ValueError("expected three octal digits, such as 660 or 666")
        return text

    @field_validator("root_path")
    @classmethod
    def _a_prefix_is_a_path(cls, text: str) -> str:
        text = text.rstrip("/")
        if text and not is_prefix(text):
            raise ValueError(
                "expected a path such as /apps/photos, of letters, digits and any of - . _ ~ @ :"
            )
        return text

    @field_validator("providers")
    @classmethod
    def _providers_are_known(cls, text: str) -> str:
        names = split_at_commas(text)
        if not names or not set(names) <= set(PROVIDERS):
            raise ValueError(f"expected some of {', '.join(PROVIDERS)}, separated by commas")
        return text

    @field_validator("cors_origins")
    @classmethod
    def _origins_are_origins(cls, text: str | None) -> str | None:
        for origin in [] if text is None else split_at_commas(text):
            if origin != "*" and not ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is no origin; expected https://HOST or https://HOST:PORT without "
                    "a path, or * for all"
                )
        return text

    @property
    def allowed_origins(self) -> tuple[str, ...]:
        """The origins in `cors_origins`, one by one."""
        return () if self.cors_origins is None else split_at_commas(self.cors_origins)

    @property
    def grpc_address(self) -> str | None:
        """Where gRPC is listened for, as gRPC writes it; None if it is not."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return None if self.grpc_port is None else f"{host}:{self.grpc_port}"

    def limits(self) -> Limits:
        """The settings that the engine needs, in its units."""
        return Limits(
            threads=self.threads,
            max_batch_size=self.max_batch_size,
            max_queue=self.max_queue,
            max_wait_s=self.max_wait_ms / 1000,
            max_image_pixels=self.max_image_pixels,
            max_held_bytes=self.max_bytes_in_flight,
            max_picture_bytes=self.max_bytes_in_flight - self.max_body_bytes,
            providers=cast("tuple[Provider, ...]", split_at_commas(self.providers)),
        )


def is_prefix(text: str) -> bool:
    """Whether a text is a path, without an end of `/` and without any character to be escaped."""
    return len(text) <= MAX_PREFIX and PATH.fullmatch(text) is not None


def split_at_commas(text: str) -> tuple[str, ...]:
    """The parts of a text between commas, without space around them and without empty ones."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def variable(setting: str) -> str:
    """The name of the variable that a setting is read from."""
    return f"{PREFIX}{setting.upper()}"


def check_environment(
    environment: Mapping[str, str], settings: Iterable[str], flags: Iterable[str]
) -> None:
    """Refuse variables that look like settings and are none, and guards that are empty.

    Args:
        environment: names in any case, as the settings are read.
        settings: names of all settings.
        flags: names of those that are given as flags, whose variables do not count.

    Raises:
        InvalidConfig: a variable is not right; the message names it, and the one that was meant.
    """
    found = {name.upper(): value for name, value in environment.items()}
    found = {name: value for name, value in found.items() if name.startswith(PREFIX)}
    known = set(map(variable, settings))
    problems = [
        _explain(name, known)
        for name in sorted(found.keys() - known - set(OTHERS))
        if not _OF_KUBERNETES.fullmatch(name)
    ]
    flags = set(flags)
    for setting, (what, happens) in GUARDS.items():
        name = variable(setting)
        if found.get(name) == "" and setting not in flags:
            problems.append(
                f"{name}: there is no {what} in it; give one, or remove the variable if it is "
                f"meant that {happens}"
            )
    is_guarded = flags & {"tokens_file"} or any(
        found.get(variable(setting)) for setting in ("tokens", "tokens_file")
    )
    if found.get(CLIENT_TOKEN) and not is_guarded:
        problems.append(
            f"{CLIENT_TOKEN} is the token that clients send; it protects no server. Set "
            "SNAPENSEMBLE_TOKENS to the tokens that are accepted, or remove the variable"
        )
    if problems:
        raise InvalidConfig("; ".join(problems))


def _explain(name: str, known: set[str]) -> str:
    # Without the prefix, which makes all of them alike.
    ends = [each.removeprefix(PREFIX) for each in known]
    near = difflib.get_close_matches(name.removeprefix(PREFIX), ends, n=1)
    meant = f"did you mean {PREFIX}{near[0]}?" if near else "`snapensemble serve --help` lists all"
    return f"{name} is no setting; {meant}"
