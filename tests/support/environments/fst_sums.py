"""A package of an environment, as `vf-init` lays one out: sums, with a reward for the value, one for brevity, and a
metric. Options choose how many tasks there are, and tasks that are refused."""

from __future__ import annotations

from typing import Literal

import verifiers.v1 as vf

__all__ = ["SumsTaskset"]


class SumsData(vf.TaskData):
    answer: int
    bonus: float = 0.5


class SumsTask(vf.Task[SumsData, vf.State, vf.TaskConfig]):
    @vf.reward(weight=0.8)
    async def value(self, trace: vf.Trace) -> float:
        if "raise" in trace.last_reply:
            raise RuntimeError("no idea")
        return float(str(self.data.answer) in trace.last_reply)

    @vf.reward(weight=0.2)
    async def brevity(self, task: SumsData, trace: vf.Trace) -> float:
        return 1.0 if len(trace.last_reply) <= 3 else task.bonus

    @vf.metric
    async def words(self, trace: vf.Trace) -> float:
        print("environments print")
        return float(len(trace.last_reply.split()))


class SumsConfig(vf.TasksetConfig):
    num_tasks: int = 12
    kind: Literal["plain", "dialogue", "endless"] = "plain"


class SumsTaskset(vf.Taskset[SumsTask, SumsConfig]):
    @property
    def INFINITE(self) -> bool:
        return self.config.kind == "endless"

    def load(self):
        n = 0
        while self.config.kind == "endless" or n < self.config.num_tasks:
            question = f"{n} + {n}?"
            prompt = [vf.UserMessage(content=question), vf.AssistantMessage(content="?"), vf.UserMessage(content="!")]
            yield SumsTask(
                SumsData(
                    prompt=prompt if self.config.kind == "dialogue" else question,
                    system_prompt="Be short.",
                    answer=2 * n,
                ),
                self.config.task,
            )
            n += 1
