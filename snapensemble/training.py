"""train() and resume() in Python: the settings of the command line as keyword arguments."""

import inspect
import os
from collections.abc import Callable
from functools import update_wrapper
from pathlib import Path
from typing import Any, ParamSpec

from pydantic import Field

from snapensemble.contracts.options import Options, build, in_python_words
from snapensemble.contracts.process import signals_of_caller
from snapensemble.trainer.config import TrainConfig

P = ParamSpec("P")


class ResumeConfig(Options):
    """The arguments of `resume` that are no settings of a run."""

    run: Path
    more_cycles: int = Field(0, ge=0)


def _with_settings_of(
    config: Callable[P, TrainConfig],
) -> Callable[[Callable[..., Path]], Callable[P, Path]]:
    """Give a function the arguments of a class, for type checkers and for `help`."""

    def decorate(function: Callable[..., Path]) -> Callable[P, Path]:
        def called(*args: P.args, **kwargs: P.kwargs) -> Path:
            return function(*args, **kwargs)

        update_wrapper(called, function)
        fields = inspect.signature(config).replace(return_annotation=Path)
        called.__signature__ = fields  # type: ignore[attr-defined]
        return called

    return decorate


@_with_settings_of(TrainConfig)
def train(**settings: Any) -> Path:
    """Train one network and keep a snapshot at the end of every cycle.

    Args:
        settings: those of `snapensemble train`, see docs/training.md: `data` and `out`, for
            example `epochs`, `minutes`, `model`, `seed`, `threads`.

    Returns:
        The run directory.

    Raises:
        InvalidConfig: a setting is out of bounds, or cannot work with this data or machine.
        InvalidData: the data set cannot be used.
        KeyboardInterrupt: after Ctrl-C, and after the step that was under way; `resume` goes on.
    """
    with in_python_words():
        config = build(TrainConfig, settings, word=str)
        from snapensemble.trainer.run import train as run

        with signals_of_caller():
            return run(config)


def resume(run: str | os.PathLike[str], *, more_cycles: int = 0, **changes: Any) -> Path:
    """Go on with a run that was stopped, or add cycles to one that is finished.

    Args:
        run: the run directory.
        more_cycles: how many are added.
        changes: settings of this machine: `data` (the same images in another place), `device`,
            `threads`, `checkpoint_minutes`, `compile`.

    Returns:
        The run directory.

    Raises:
        InvalidManifest: the directory holds no run, or a damaged one.
        InvalidConfig, InvalidData, KeyboardInterrupt: as for `train`.
    """
    with in_python_words():
        asked = build(ResumeConfig, {"run": run, "more_cycles": more_cycles}, word=str)
        from snapensemble.trainer.cli import refuse_new_settings
        from snapensemble.trainer.run import resume as go_on

        refuse_new_settings(changes, "resume", set())
        with signals_of_caller():
            return go_on(asked.run, asked.more_cycles, **changes)
