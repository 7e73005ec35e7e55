"""Bearer tokens (RFC 6750), kept as hashes, so that it does not show how near a guess was."""

import hashlib
import hmac
import re
from collections.abc import Iterable
from pathlib import Path

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.serving.settings import Settings

MIN_CHARACTERS = 16
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_FORM = f"a token has at least {MIN_CHARACTERS} letters, digits or any of - . _ ~ + / ="


class Tokens:
    """The tokens that open the server, each by itself."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self._hashes = [_hash(token.encode()) for token in tokens]

    def accept(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether a request's headers carry one of the tokens, and no second authorization.

        Args:
            headers: names in lower case, as ASGI gives them.
        """
        found = [value for name, value in headers if name == b"authorization"]
        scheme, _, token = found[0].partition(b" ") if len(found) == 1 else (b"", b"", b"")
        # All are compared, also after a match, and hashes of one length, so that the time tells
        # neither which token was nearly right nor how long it is.
        given = _hash(token.strip(b" "))
        matches = [hmac.compare_digest(given, known) for known in self._hashes]
        return scheme.lower() == b"bearer" and any(matches)


def read_tokens(settings: Settings) -> Tokens | None:
    """What accepts the tokens of the settings; None if there are none. Raises as `tokens_of`."""
    tokens = tokens_of(settings)
    return Tokens(tokens) if tokens else None


def tokens_of(settings: Settings) -> set[str]:
    """The tokens of the settings, from the file and the variable together; none if neither is set.

    Raises:
        InvalidConfig: a source that is set has no token or one that is not right, or cannot be
            read. No message repeats a token.
    """
    tokens: set[str] = set()
    if settings.tokens is not None:
        text = settings.tokens.get_secret_value().replace(",", "\n")
        tokens |= parse_tokens(text, "SNAPENSEMBLE_TOKENS")
    if settings.tokens_file is not None:
        tokens |= parse_tokens(_read(settings.tokens_file), str(settings.tokens_file))
    return tokens


def parse_tokens(text: str, source: str) -> set[str]:
    """One token per line; empty lines and lines that begin with # do not count.

    Args:
        text: the lines.
        source: where the lines are from, for messages.

    Raises:
        InvalidConfig: there is no token, or one is too short or has other characters.
    """
    tokens = set()
    for number, line in enumerate(text.splitlines(), start=1):
        token = line.strip()
        if not token or token.startswith("#"):
            continue
        if len(token) < MIN_CHARACTERS or not _TOKEN.fullmatch(token):
            raise InvalidConfig(
                f"{source}: entry {number} is too short or has other characters; {_FORM}; "
                "make one with `openssl rand -hex 32`"
            )
        tokens.add(token)
    if not tokens:
        raise InvalidConfig(
            f"{source}: there is no token in it, so nobody could ask; write one per line, or leave "
            "the setting out to let everybody ask"
        )
    return tokens


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise InvalidConfig(
            f"--tokens-file {file}: {reason}; expected a readable file with one token per line"
        ) from None


def _hash(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
