"""Ask a running stack the questions of a split and keep what came back: the text, and which ledger row is its own."""

import asyncio
from collections.abc import Sequence
from typing import Any

import aiohttp
from pydantic import Field
from tqdm import tqdm

from benchmarks.load.client import new_session
from benchmarks.tasks.task import Task
from routing.records import Record


class Answer(Record):
    """One answer as the client saw it. output is None when the request failed. Error says how."""

    task: str = Field(description="id of the task")
    model: str = Field(description="as it was asked for: tier1, frontier, auto")
    request_id: str | None = Field(None, description="of the ledger row")
    output: str | None = None
    error: str | None = None


async def ask(session: aiohttp.ClientSession, url: str, task: Task, model: str) -> Answer:
    """One question. Never raises for what the stack does."""
    try:
        async with session.post(f"{url}/v1/chat/completions", json=task.body(model)) as reply:
            if reply.status != 200:
                return Answer(task=task.id, model=model, error=f"{reply.status}: {(await reply.text())[:200]}")
            document: dict[str, Any] = await reply.json()
    except (aiohttp.ClientError, TimeoutError) as error:
        return Answer(task=task.id, model=model, error=type(error).__name__)
    return Answer(
        task=task.id,
        model=model,
        request_id=document["tierwise"]["request_id"],
        output=document["choices"][0]["message"]["content"] or "",
    )


async def ask_all(url: str, tasks: Sequence[Task], models: Sequence[str], concurrency: int) -> list[Answer]:
    """Every question to every model, one model after the other, `concurrency` at a time."""
    answers: list[Answer] = []
    async with new_session() as session:
        for model in models:
            waiting = iter(tqdm(tasks, desc=model, unit="task"))

            async def work(model: str = model, waiting: Any = waiting) -> None:
                for task in waiting:
                    answers.append(await ask(session, url, task, model))

            async with asyncio.TaskGroup() as group:
                for _ in range(concurrency):
                    group.create_task(work())
    return answers
