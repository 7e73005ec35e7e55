"""SNAPENSEMBLE_* variables that are no settings: a name that was mistyped must not open a server.

A setting that nobody reads protects nobody, so a server does not start with one. Other commands
read a name or two, and do not mind the rest.
"""

import difflib
import re
from collections.abc import Iterable, Mapping

from contracts.errors import InvalidConfig

PREFIX = "SNAPENSEMBLE_"
CLIENT_TOKEN = "SNAPENSEMBLE_TOKEN"  # noqa: S105 # the name of a variable
# Read elsewhere: by the trainer, by `predict`, by `sign`.
OTHERS = ("SNAPENSEMBLE_CACHE", CLIENT_TOKEN, "SNAPENSEMBLE_KEY_PASSWORD")
# Settings that keep something out; what they let in where they are not set.
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


def variable(setting: str) -> str:
    """The variable that a setting is read from."""
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
        InvalidConfig: names the variable, and the one that was meant.
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
