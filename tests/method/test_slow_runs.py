"""Many steps of the slow weights: against plain TRL, across a restart, and under a user's TRL options.

r1  with one prompt and answers of equal length the steps are plain TRL's own: same adapter as GRPOTrainer.train()
r2  stop, load and go on: the same adapter, bit by bit, as without the stop, wherever the process stood before
r3  a TRL option of the user's reaches TRL; one that TRL does not know, or that contradicts ours, is refused by name
r4  the learning rate rises by lr / warmup_steps a step
r5  two ranks deal what one process deals
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from trl import GRPOTrainer

from fst.config import ModelParams, SlowParams
from fst.errors import ConfigError, ModelError
from fst.method.slow.dealing import slot
from fst.method.slow.trainer import trl_config
from fst.models.adapter import adapter_sha256, adapter_state, lora_config
from fst.models.policy import Policy
from fst.models.sampler import Answer
from support.slow_toys import PROBLEMS, PROMPTS, Watched, drawn, population, verify

STEPS, GROUP, ANSWER = 3, 4, 6
SCRIPTED = {"warmup_steps": 2, "learning_rate": 2e-3, "kl_penalty": 0.01}


class Plain(GRPOTrainer):
    """TRL as it comes, but for the answers, which are given."""

    script: list[list[Answer]]

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: int, **_: Any
    ) -> Any:
        return [list(a.tokens) for a in self.script[self.state.global_step]], None


def plain_trl(policy: Policy, params: SlowParams, script: list[list[Answer]], folder: Path) -> dict[str, torch.Tensor]:
    """The adapter after GRPOTrainer.train() on the toy problems in order."""
    by_question = {problem.question: problem for problem in PROBLEMS}

    def reward(prompts: Any, completions: Any, **_: Any) -> list[float]:
        asked = [by_question[messages[-1]["content"]] for messages in prompts]
        return [verify(p, c[0]["content"].strip()).reward for p, c in zip(asked, completions, strict=True)]

    config = trl_config(params, ModelParams(max_new_tokens=8), folder, seed=0)
    rows = [{"prompt": policy.messages(PROMPTS[0].text, problem.question)} for problem in PROBLEMS]
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Plain(
            model=policy.model,
            reward_funcs=reward,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=policy.tokenizer,
            peft_config=lora_config(params.lora_rank, params.lora_alpha),
        )
        trainer.script = script
        trainer.train()
    assert trainer.state.global_step == STEPS
    return adapter_state(trainer.model)


def test_r1_one_prompt_and_equal_lengths_are_plain_trl(new_policy: Callable[[], Policy], tmp_path: Path) -> None:
    slow = Watched(new_policy(), tmp_path / "ours", **SCRIPTED)
    slow.script = [drawn(slow.policy, [ANSWER] * 3 * GROUP, seed) for seed in range(STEPS)]
    untrained = slow.adapter()
    for step in range(STEPS):
        result, _ = slow.train_step(population(1), PROBLEMS[3 * step : 3 * step + 3])
        assert result.kept_groups == 3
    options = {"shuffle_dataset": False, "max_steps": STEPS}
    params = SlowParams(**{**vars(slow.params), "trl": options})
    theirs = plain_trl(new_policy(), params, slow.script, tmp_path / "theirs")
    assert theirs.keys() == slow.adapter().keys()
    for name, tensor in slow.adapter().items():
        torch.testing.assert_close(tensor, theirs[name], atol=1e-6, rtol=0, msg=lambda m, name=name: f"{name}: {m}")
    moved = max(float((theirs[name] - untrained[name]).abs().max()) for name in theirs)
    assert moved > 1e-3


def trained(slow: Watched, steps: int) -> list[tuple[int, ...]]:
    """Take steps over the toy problems; the answers sampled, in order."""
    answers = []
    for _ in range(steps):
        start = 3 * (slow.step % 3)
        _, rollouts = slow.train_step(population(2), PROBLEMS[start : start + 3])
        answers += [r.tokens for r in rollouts]
    return answers


@pytest.mark.slow
def test_r2_a_stop_changes_nothing(new_policy: Callable[[], Policy], tmp_path: Path) -> None:
    whole = Watched(new_policy(), tmp_path / "a")
    answers = trained(whole, 4)
    first = Watched(new_policy(), tmp_path / "b")
    early = trained(first, 2)
    first.save(tmp_path / "saved")
    torch.manual_seed(12345)  # a new process: other random state
    second = Watched(new_policy(), tmp_path / "c")
    second.load(tmp_path / "saved")
    assert second.step == 2
    assert early + trained(second, 2) == answers
    assert second.step == whole.step == 4
    for name, tensor in whole.adapter().items():
        assert torch.equal(second.adapter()[name], tensor), name
    assert adapter_sha256(second.adapter()) == adapter_sha256(whole.adapter())


@pytest.mark.slow
def test_r2_a_load_replaces_what_was_there(new_policy: Callable[[], Policy], tmp_path: Path) -> None:
    first, other = Watched(new_policy(), tmp_path / "a"), Watched(new_policy(), tmp_path / "b", seed=5)
    trained(first, 2)
    trained(other, 3)
    first.save(tmp_path / "saved")
    assert adapter_sha256(first.adapter()) != adapter_sha256(other.adapter())
    other.load(tmp_path / "saved")
    assert adapter_sha256(first.adapter()) == adapter_sha256(other.adapter())
    assert other.trainer.lr_scheduler.get_last_lr() == first.trainer.lr_scheduler.get_last_lr()
    moments = [slow.trainer.optimizer.state_dict()["state"] for slow in (first, other)]
    assert [torch.equal(moments[0][i]["exp_avg"], moments[1][i]["exp_avg"]) for i in moments[0]] == [True] * 28


def test_r2_an_adapter_of_another_rank_is_refused(new_policy: Callable[[], Policy], tmp_path: Path) -> None:
    Watched(new_policy(), tmp_path / "a", lora_rank=2).save(tmp_path / "saved")
    with pytest.raises(ModelError, match="does not fit this model and LoRA rank; start a new run"):
        Watched(new_policy(), tmp_path / "b", lora_rank=4).load(tmp_path / "saved")


def test_r3_an_option_reaches_trl(policy: Policy, tmp_path: Path) -> None:
    """scale_rewards "none" leaves the advantages undivided: r - mean."""
    slow = Watched(policy, tmp_path, trl={"scale_rewards": "none"})
    _, rollouts = slow.train_step(population(2), PROBLEMS[:3])
    rewards_PG = torch.tensor([r.reward for r in rollouts]).view(-1, GROUP)
    expected = (rewards_PG - rewards_PG.mean(1, keepdim=True)).view(-1)
    assert expected.abs().max() > 0.2
    torch.testing.assert_close(slow.before["advantages"], expected)


def test_r3_an_option_of_the_optimizer_reaches_it(policy: Policy, tmp_path: Path) -> None:
    slow = Watched(policy, tmp_path, trl={"weight_decay": 0.25, "adam_beta2": 0.9})
    group = slow.trainer.optimizer.param_groups[0]
    assert (group["weight_decay"], group["betas"]) == (0.25, (0.9, 0.9))


@pytest.mark.parametrize("masked", [(), (0, 1), (0, 1, 2, 3)], ids=["none", "one cell", "one group"])
def test_r3_cut_off_answers_may_be_masked(policy: Policy, tmp_path: Path, masked: tuple[int, ...]) -> None:
    """A cell whose answers were all cut off has no tokens left, and weighs nothing."""
    slow = Watched(policy, tmp_path, trl={"mask_truncated_completions": True}, kl_penalty=0.0, warmup_steps=0)
    ended = [Answer((*a.tokens, policy.end_ids[0]), (0.0,) * 7, a.text) for a in drawn(policy, [ANSWER] * 12)]
    slow.script = [[Answer(a.tokens[:-1], a.logprobs[:-1], a.text) if i in masked else a for i, a in enumerate(ended)]]
    result, _ = slow.train_step(population(2), PROBLEMS[:3])
    assert int(slow.after["completion_mask"].sum()) == 7 * (12 - len(masked))
    expected = slow.before["advantages"] * torch.tensor([float(i not in masked) for i in range(12)])
    cells = 6 - len(masked) // 2
    assert result.kept_groups == 3
    factor = slow.after["num_items_in_batch"] / (cells * 14)
    torch.testing.assert_close(slow.after["advantages"], expected * factor)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"no_such_option": 1}, "slow.trl: .*no_such_option"),
        ({"lr_scheduler_type": "sideways"}, "slow.trl: .*sideways"),
        ({"beta": 0.1}, r"slow\.trl\.beta: is set by slow\.\* in params"),
        ({"adam_beta2": 0.9, "num_generations": 2}, r"slow\.trl\.num_generations: "),
        ({"loss_type": "grpo"}, r"slow\.trl\.loss_type: "),
    ],
)
def test_r3_other_options_are_refused_by_name(
    policy: Policy, tmp_path: Path, options: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        Watched(policy, tmp_path, trl=options)


def test_r4_warm_up(policy: Policy, tmp_path: Path) -> None:
    slow = Watched(policy, tmp_path, learning_rate=1e-3, warmup_steps=10)
    slow.script = [drawn(policy, [2] * 12, seed) for seed in range(12)]
    rates = []
    for step in range(12):
        rates.append(slow.trainer.optimizer.param_groups[0]["lr"])
        slow.train_step(population(1), PROBLEMS[:3])
        assert slow.trainer.lr_scheduler.get_last_lr()[0] == pytest.approx(1e-3 * min(step + 1, 10) / 10)
    assert rates == pytest.approx([1e-3 * min(step, 10) / 10 for step in range(12)])


@pytest.mark.parametrize("prompts", [1, 2, 4])
def test_r5_ranks_deal_what_one_process_deals(policy: Policy, tmp_path: Path, prompts: int) -> None:
    slow = Watched(policy, tmp_path)
    problems = PROBLEMS[:4]
    _, rollouts = slow.train_step(population(prompts), problems)
    places = [*range(0, 8), *range(8, 16)]  # rank 0's rows, then rank 1's
    dealt = [population(prompts).prompts[slot(place, GROUP, prompts)].id for place in places]
    assert [r.prompt_id for r in rollouts] == dealt
    assert [r.problem_id for r in rollouts] == [problems[place // GROUP].id for place in places]
