"""RayOptions: which cluster of Ray does the work, and what one worker gets of it."""

from pydantic import Field, model_validator

from snapensemble.contracts.errors import Misfit
from snapensemble.contracts.options import Options

LOCAL = "local"


class RayOptions(Options):
    """The options that commands have in common which can run on a cluster."""

    ray: str | None = Field(
        None,
        min_length=1,
        description="let a cluster of Ray do it: its HOST:PORT, auto for the one that this machine "
        "is in, local for one that lives on this machine as long as the command",
        json_schema_extra={"metavar": "ADDRESS"},
    )
    ray_cpus: int | None = Field(
        None,
        ge=1,
        description="with --ray: processors of one worker (predict: those of the smallest node; "
        "train: --threads, or 1)",
        json_schema_extra={"metavar": "N"},
    )
    ray_gpus: float | None = Field(
        None,
        gt=0,
        description="with --ray: GPUs of one worker, or the share of one (none)",
        json_schema_extra={"metavar": "N"},
    )

    @model_validator(mode="after")
    def _workers_are_those_of_a_cluster(self) -> "RayOptions":
        if self.ray is None:
            for name in ("ray_cpus", "ray_gpus"):
                if getattr(self, name) is not None:
                    raise Misfit(f"{{{name}}} needs {{ray}}, the address of a cluster")
        if self.ray_gpus is not None and self.ray_gpus > 1 and self.ray_gpus % 1:
            raise Misfit("{ray_gpus} is a share of one GPU below 1, and a whole number above")
        return self
