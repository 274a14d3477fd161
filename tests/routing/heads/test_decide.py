"""What the embedded heads decide: from what was asked, whatever product it was asked in."""

from pathlib import Path

from benchmarks.tasks.report import read_panel
from benchmarks.tasks.suite import Split, tasks
from routing.heads.decide import Learned, decide_by_head
from routing.heads.evidence import HeadKind
from routing.ladder.features import request_features
from routing.ladder.policy import PolicyConfig
from routing.records import Api, Decision, RequestedModel

EMBEDDED = Path("deploy/artefacts/embedded")
SYSTEM = "You work for a help desk. Give exactly what is asked for, in the form that is asked for, no greeting. " * 4


def decision(messages: list[dict[str, str]], heads: Learned) -> Decision:
    body, policy = {"messages": messages}, PolicyConfig(quality_target=0.8)
    features = request_features(body, Api.CHAT, 0, policy)
    return decide_by_head(RequestedModel.AUTO, body, Api.CHAT, features, None, heads, policy)


def test_shared_system_prompt_moves_no_decision() -> None:
    heads = Learned(router=read_panel(EMBEDDED, HeadKind.ROUTER))
    questions = [[*task.messages] for task in tasks(Split.TEST)[::20]]
    alone = [decision(question, heads) for question in questions]
    assert len({d.p_tier1_ok for d in alone}) > 5
    assert [decision([{"role": "system", "content": SYSTEM}, *q], heads) for q in questions] == alone
