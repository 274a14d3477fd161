"""The machine that a profile was worked out for: what `plan` compares with."""

from pydantic import Field

from routing.records import Record


class HardwareConfig(Record):
    """One kind of machine. Nothing is allocated by these numbers; a plan that does not fit them is refused."""

    name: str = Field(min_length=1, description="in words")
    gpus: int = Field(0, ge=0, description="of the whole cluster at its largest; 0: engines run on CPUs")
    gpu_memory_gib: float | None = Field(None, gt=0, description="of one GPU, as nvidia-smi shows it, rounded down")
    memory_gib: float | None = Field(None, gt=0, description="host memory of one machine")
