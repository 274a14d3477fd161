"""Config of the choice among the replicas of a deployment."""

from pydantic import Field

from routing.records import Record
from routing.replicas.rank import ReplicaConfig


class ReplicaRoutingConfig(Record):
    """How a request finds its replica, where a deployment has several."""

    policy: str = Field(
        "kv_aware",
        pattern=r"^(kv_aware|power_of_two|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$",
        description="power_of_two: the shorter of two queues drawn at random, as Ray Serve does by itself; "
        "module:Class: another request router of Ray Serve",
    )
    kv_events: bool = Field(True, description="follow the engines' own reports, or else keep a model of their caches")
    share_load: bool = Field(True, description="gateway processes tell each other what they have sent where")
    unreachable_after_s: float = Field(
        5.0, gt=0, description="how long a replica whose events broke off is avoided before it is modelled"
    )
    max_sessions: int = Field(10_000, ge=1, description="sessions whose last replica is remembered as a tie-breaker")
    cost: ReplicaConfig = ReplicaConfig()
