"""The workload of the layers: questions of the task suite, with one system prompt for each kind of task.

All questions of a kind begin alike, as in products, so a prefix cache can hold that beginning. A program still grades
every answer.
"""

from typing import Any

from benchmarks.tasks.task import Task

SHARED = (
    "Your colleagues write to you from a small trading company; their messages are short and come by the hundred. "
    "Read the whole message before you answer. Give exactly what the message asks for, in exactly the form that it "
    "names, and nothing beside it: no greeting, no explanation, no repetition of the question. Where the message lists "
    "choices, use one of them, spelled as it is there. Keep names, numbers and spelling as they are in the "
    "message. Where it asks for JSON or code, give it complete and without words around it."
)
SYSTEM_PROMPTS = {
    "arithmetic": "You work at the desk that adds up figures.",
    "word_problems": "You work at the desk that answers questions about stock and shares.",
    "units": "You work at the desk that converts measures.",
    "dates": "You work at the desk that keeps the calendar.",
    "extraction": "You work at the desk that takes orders down.",
    "lookup": "You work at the desk that knows who is who.",
    "ordering": "You work at the desk that compares people.",
    "tickets": "You work at the desk that sorts the mail of customers.",
    "code_output": "You work at the desk that reads programs.",
    "code_functions": "You work at the desk that writes programs.",
    "strings": "You work at the desk that handles words and letters.",
    "counting": "You work at the desk that counts words.",
    "instructions": "You work at the desk that makes lists.",
    "translation": "You work at the desk for foreign mail.",
}


def body(task: Task, model: str) -> dict[str, Any]:
    """Return the request: the kind's system prompt and the question, streamed, at temperature 0, with usage."""
    system = {"role": "system", "content": f"{SYSTEM_PROMPTS[task.kind]} {SHARED}"}
    asked = task.body(model)
    return {
        **asked,
        "messages": [system, *asked["messages"]],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
