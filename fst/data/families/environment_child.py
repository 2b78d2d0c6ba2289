"""The child process of fst/data/families/environments.py: the library `verifiers` in a separate interpreter, in which
nothing of this project is installed.

    python -P environment_child.py ID '{"num_tasks": 5}'

The first line on stdout is `{"ready": version}`; then each line on stdin is a request, and each line on stdout its
answer, all of them JSON objects:

    {"tasks": most}                         {"tasks": [{"question", "answer", "data"}]}
    {"data": a task's, "response": text}    {"rewards": {name: [score, weight]}, "metrics": {name: value}}

An answer `{"error": text, "unknown": whether the id is the reason}` takes the place of one that failed. What an
environment prints goes to stderr. The process ends with its stdin.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import verifiers
import verifiers.v1 as vf
from verifiers.v1.state import state_cls

_REFERENCES = ("answer", "solution", "target", "label", "gold")


class Refused(Exception):
    """Raised for an environment that needs more than one question and one answer."""


class Environment:
    """A taskset whose tasks are a question and one answer, without a harness, tools or a sandbox."""

    def __init__(self, environment: str, options: dict[str, Any]) -> None:
        kind = vf.taskset_config_type(environment)
        self.config = kind.model_validate({"id": environment, **options})
        self.taskset = vf.load_taskset(self.config)
        self.task = type(self.taskset).task_type()
        if vf.environment_class(environment) is not vf.SingleAgentEnv:
            raise Refused("it plays its tasks itself; only tasks of one turn are taken")
        if self.task.toolsets(self.config.task) or type(self.taskset).toolsets(self.config):
            raise Refused("its tasks have tools; only plain questions are taken")
        if self.task.NEEDS_CONTAINER:
            raise Refused("its tasks run in a container; only plain questions are taken")

    def tasks(self, most: int) -> Iterator[dict[str, Any]]:
        """Yield all tasks, or the first `most` of an infinite taskset."""
        for task in self.taskset if self.taskset.bounded else self.taskset.take(most):
            reference = next((str(v) for key in _REFERENCES if (v := getattr(task.data, key, None)) is not None), None)
            data = task.data.model_dump(mode="json", exclude_defaults=True)
            yield {"question": _question(task.data), "answer": reference, "data": data}

    def score(self, data: dict[str, Any], response: str) -> dict[str, Any]:
        """Score a response with the task's own rewards and metrics."""
        task = self.task(self.task.data_type().model_validate(data), self.config.task)
        trace = vf.Trace(
            task=vf.TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash),
            agent=vf.AgentInfo(config=vf.AgentConfig(runtime=vf.SubprocessConfig())),
            nodes=_nodes(task.data, response),
            state=state_cls(self.task)(),
            ok=True,
        )
        trace.stop("agent_completed")
        asyncio.run(task.score(trace))
        rewards = {name: [reward.score, reward.weight] for name, reward in trace.rewards.items() if reward}
        if not rewards:
            raise Refused("none of its rewards can be had without a sandbox")
        return {"rewards": rewards, "metrics": {k: value for k, value in trace.metrics.items() if value is not None}}


def _question(data: Any) -> str:
    """The question of a task's single turn, after its own system prompt. Raises Refused if there are more turns."""
    messages = [] if data.prompt is None or isinstance(data.prompt, str) else data.prompt
    roles = [message.role for message in messages]
    if data.prompt is None or roles.count("user") > 1 or {*roles} - {"system", "user"}:
        raise Refused("a task's prompt is no single question")
    parts = [part for message in messages if isinstance(message.content, list) for part in message.content]
    if any(part.type != "text" for part in parts):
        raise Refused("a task's prompt holds more than text")
    return "\n\n".join(text for text in (data.system_prompt, data.prompt_text) if text)


def _nodes(data: Any, response: str) -> list[Any]:
    """The message graph of one turn."""
    prompt = [vf.UserMessage(content=data.prompt)] if isinstance(data.prompt, str) else list(data.prompt or [])
    if data.system_prompt:
        prompt.insert(0, vf.SystemMessage(content=data.system_prompt))
    messages = [*prompt, vf.AssistantMessage(content=response)]
    last = len(messages) - 1
    return [
        vf.MessageNode(message=message, parent=i - 1 if i else None, sampled=i == last)
        for i, message in enumerate(messages)
    ]


def main() -> None:
    """Answer requests until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # an environment may print

    def say(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    try:
        environment = Environment(sys.argv[1], json.loads(sys.argv[2]))
    except Exception as exc:
        return say({"error": _told(exc), "unknown": isinstance(exc, ModuleNotFoundError)})
    say({"ready": verifiers.__version__})
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            if "tasks" in asked:
                say({"tasks": list(environment.tasks(asked["tasks"]))})
            else:
                say(environment.score(asked["data"], asked["response"]))
        except Exception as exc:
            say({"error": _told(exc)})


def _told(exc: BaseException) -> str:
    return str(exc) if isinstance(exc, Refused) else f"{type(exc).__name__}: {inspect.cleandoc(str(exc))}"


if __name__ == "__main__":
    main()
