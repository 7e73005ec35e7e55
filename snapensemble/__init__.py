"""Snapensemble in Python: train, export, load, and clients of a server.

Each name is imported when it is first asked for, so that `import snapensemble` costs nothing:
`train` needs torch, `load` ONNX Runtime, `Client` neither. docs/python.md shows them.

The packages of this name are relative links here (docs/decisions/0026-one-name.md).
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from snapensemble.client.aio import AsyncClient as AsyncClient
    from snapensemble.client.errors import ClientError as ClientError
    from snapensemble.client.errors import ServerProblem as ServerProblem
    from snapensemble.client.errors import Unauthorized as Unauthorized
    from snapensemble.client.errors import Unavailable as Unavailable
    from snapensemble.client.errors import Unreachable as Unreachable
    from snapensemble.client.sync import Client as Client
    from snapensemble.contracts.errors import InvalidConfig as InvalidConfig
    from snapensemble.contracts.errors import InvalidData as InvalidData
    from snapensemble.contracts.errors import SnapensembleError as SnapensembleError
    from snapensemble.ensemble import Ensemble as Ensemble
    from snapensemble.ensemble import load as load
    from snapensemble.export import ExportPackage
    from snapensemble.pictures import BadPicture as BadPicture
    from snapensemble.predictions import Prediction as Prediction
    from snapensemble.training import resume as resume
    from snapensemble.training import train as train

    export: ExportPackage
    __version__: str

_HOMES = {
    "AsyncClient": "client.aio",
    "BadPicture": "pictures",
    "Client": "client.sync",
    "ClientError": "client.errors",
    "Ensemble": "ensemble",
    "InvalidConfig": "contracts.errors",
    "InvalidData": "contracts.errors",
    "Prediction": "predictions",
    "ServerProblem": "client.errors",
    "SnapensembleError": "contracts.errors",
    "Unauthorized": "client.errors",
    "Unavailable": "client.errors",
    "Unreachable": "client.errors",
    "load": "ensemble",
    "resume": "training",
    "train": "training",
}
__all__ = [*_HOMES, "export"]

if not TYPE_CHECKING:  # or a type checker would believe in any name

    def __getattr__(name):
        """Import a name, and keep it."""
        if name == "export":  # the package can be called: docs/decisions/0049-python.md
            return import_module("snapensemble.export")
        if name == "__version__":
            return import_module("importlib.metadata").version("snapensemble")
        if name not in _HOMES:
            raise AttributeError(f"module 'snapensemble' has no attribute {name!r}")
        found = getattr(import_module(f"snapensemble.{_HOMES[name]}"), name)
        globals()[name] = found
        return found

    def __dir__():
        return sorted({*globals(), *__all__})
