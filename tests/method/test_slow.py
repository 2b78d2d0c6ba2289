"""One step of the slow weights on a real tiny model and real TRL, against the same step written out here.

s1  advantages are those of the problem's whole group, prompts mixed, as fst.dealing.group_advantages has them
s2  loss and gradient are CISPO's: -stop_grad(min(rho, tau)) * A * log pi, averaged within a (problem, prompt) cell
    and then over cells (Eq. 4), plus beta times k3's mean over all tokens kept; rho is capped above, never below.
    TRL multiplies k3 by rho, gradient included (the unbiased gradient of the KL), unless told not to
    All that however the rows are cut into slices, and whether they run as a tree or one by one
s3  groups of equal rewards leave the batch, in all its tensors, before the base scores it; without any signal there is
    no step
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fst.data.types import Problem, Score
from fst.method.slow.batch import trimmed
from fst.method.slow.dealing import group_advantages, slot
from fst.method.slow.reuse import spare
from fst.models.policy import Policy
from fst.models.sampler import Answer
from fst.types import Rollout
from support.slow_toys import PROBLEMS, Watched, drawn, population

GROUP = 4


class Row:
    """A rollout that is in the loss: what was read, what was answered, and its cell."""

    def __init__(self, context: list[int], answer: Answer, cell: tuple[str, str], advantage: float) -> None:
        self.context, self.answer, self.cell, self.advantage = context, list(answer.tokens), cell, advantage


def scripted_rows(slow: Watched, prompts: int, answers: list[Answer], rewards: list[float]) -> list[Row]:
    """The rows that the loss should be about, worked out from the script alone, in the batch's order."""
    rows = []
    for place, (answer, reward) in enumerate(zip(answers, rewards, strict=True)):
        problem, prompt = PROBLEMS[place // GROUP], population(prompts).prompts[slot(place, GROUP, prompts)]
        group = torch.tensor(rewards[place // GROUP * GROUP :][:GROUP])
        advantage = float((reward - group.mean()) / (group.std() + 1e-4))
        context = slow.policy.encode([slow.policy.messages(prompt.text, problem.question)])[0]
        if len(set(group.tolist())) > 1:
            rows.append(Row(context, answer, (problem.id, prompt.id), advantage))
    return rows


def logprobs(model: torch.nn.Module, row: Row) -> torch.Tensor:
    """log pi of each answer token, one row alone, without padding."""
    logits = model(input_ids=torch.tensor([row.context + row.answer])).logits[0, len(row.context) - 1 : -1]
    return torch.log_softmax(logits, -1)[range(len(row.answer)), row.answer]


def cispo(slow: Watched, rows: list[Row], beta: float, behaviour: list[torch.Tensor] | None = None) -> torch.Tensor:
    """The loss from the paper's formula, row by row and token by token."""
    model, cap = slow.trainer.model, slow.params.ratio_cap
    cells: dict[tuple[str, str], list[torch.Tensor]] = {}
    penalties = []
    for i, row in enumerate(rows):
        new = logprobs(model, row)
        old = new.detach() if behaviour is None else behaviour[i]
        with torch.no_grad(), slow.policy.frozen_base():
            base = logprobs(model, row)
        for t in range(len(row.answer)):
            ratio = min(float(torch.exp(new[t] - old[t]).detach()), cap)
            cells.setdefault(row.cell, []).append(-ratio * row.advantage * new[t])
            k3 = torch.exp(base[t] - new[t]) - (base[t] - new[t]) - 1
            penalties.append(k3 * torch.exp(new[t] - old[t]) if slow.trainer.args.use_bias_correction_kl else k3)
    policy_loss = torch.stack([torch.stack(tokens).mean() for tokens in cells.values()]).mean()
    return policy_loss + beta * torch.stack(penalties).mean()


def expect_step(
    slow: Watched, prompts: int, rows: list[Row], loss: torch.Tensor, reused: Sequence[Rollout] = ()
) -> None:
    """Take the step and compare its loss and gradient with `loss`."""
    parameters = slow.parameters()
    gradient = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
    result, _ = slow.train_step(population(prompts), PROBLEMS[:3], spare(reused))
    assert result.reused == len(reused)
    assert result.loss == pytest.approx(loss.item(), abs=1e-5)
    assert result.kept_groups == len(rows) // GROUP
    assert slow.gradient.keys() == gradient.keys()
    assert max(float(g.abs().max()) for g in gradient.values()) > 1e-3
    for name, expected in gradient.items():
        torch.testing.assert_close(
            slow.gradient[name], expected, atol=1e-5, rtol=1e-4, msg=lambda m, name=name: f"{name}: {m}"
        )
    norm = torch.sqrt(sum((g**2).sum() for g in gradient.values()))
    assert result.grad_norm == pytest.approx(float(norm), rel=1e-4)


REWARDS = [1.0, 0.0, 0.0, 0.0, 0.5, 0.5, 0.5, 0.5, 0.0, 1.0, 0.25, 1.0]  # the second group has no signal
LENGTHS = [3, 8, 1, 5, 2, 2, 7, 4, 6, 1, 8, 3]


@pytest.fixture
def scripted(policy: Policy, tmp_path: Path) -> Callable[..., Watched]:
    """Slow weights that seem trained and will give answers of all lengths, with the rewards above."""

    def make(**slow: object) -> Watched:
        weights = Watched(policy, tmp_path, max_grad_norm=0.0, warmup_steps=0, **slow)
        weights.perturb()
        weights.script = [drawn(policy, LENGTHS)]
        by_text = {a.text: reward for a, reward in zip(weights.script[0], REWARDS, strict=True)}
        weights.verify = lambda _, text: Score(by_text[text], "")
        return weights

    return make


@pytest.mark.parametrize("prompts", [1, 2, 4])
def test_s1_advantages_are_per_problem(policy: Policy, tmp_path: Path, prompts: int) -> None:
    slow = Watched(policy, tmp_path)
    _, rollouts = slow.train_step(population(prompts), PROBLEMS[:3])
    rewards = torch.tensor([r.reward for r in rollouts])
    assert [r.problem_id for r in rollouts] == [p.id for p in PROBLEMS[:3] for _ in range(GROUP)]
    order = [k for k in range(prompts) for _ in range(GROUP // prompts)] * 3
    assert [r.prompt_id for r in rollouts] == [population(prompts).prompts[k].id for k in order]
    torch.testing.assert_close(slow.before["advantages"], group_advantages(rewards, GROUP))
    assert rewards.view(-1, GROUP).std(1).gt(0).any()


def test_s1_the_model_reads_the_prompt_that_the_rollout_names(policy: Policy, tmp_path: Path) -> None:
    slow = Watched(policy, tmp_path)
    _, rollouts = slow.train_step(population(2), PROBLEMS[:3])
    texts = {p.id: p.text for p in population(2).prompts}
    for i, rollout in enumerate(rollouts):
        problem = next(p for p in PROBLEMS if p.id == rollout.problem_id)
        read = slow.before["prompt_ids"][i][slow.before["prompt_mask"][i].bool()].tolist()
        assert read == policy.encode([policy.messages(texts[rollout.prompt_id], problem.question)])[0]
        answered = slow.before["completion_ids"][i][slow.before["completion_mask"][i].bool()].tolist()
        assert answered == list(rollout.tokens)


@pytest.mark.parametrize("tree", [True, False])
@pytest.mark.parametrize("micro_tokens", [1, 70, 16384])  # a slice for each row, a few slices, one
@pytest.mark.parametrize(("prompts", "beta"), [(1, 0.0), (2, 0.0), (4, 0.05)])
def test_s2_loss_and_gradient(
    scripted: Callable[..., Watched], prompts: int, beta: float, micro_tokens: int, tree: bool
) -> None:
    slow = scripted(kl_penalty=beta, micro_tokens=micro_tokens)
    assert slow.tree
    slow.tree = tree
    rows = scripted_rows(slow, prompts, slow.script[0], REWARDS)
    expect_step(slow, prompts, rows, cispo(slow, rows, beta))


def test_s2_a_temperature_is_corrected_for(scripted: Callable[..., Watched]) -> None:
    """rho is pi over what the tokens were drawn with, at the step's temperature; the record keeps those at T=1."""
    slow = scripted(kl_penalty=0.0, ratio_cap=1.5)
    plain = slow.script[0]
    dice = random.Random(3)
    drawn_at = [tuple(dice.uniform(-9, -3) for _ in answer.tokens) for answer in plain]
    slow.script = [[replace(a, tempered=logprobs) for a, logprobs in zip(plain, drawn_at, strict=True)]]
    rows = scripted_rows(slow, 2, plain, REWARDS)
    places = [i for i in range(len(plain)) if i // GROUP != 1]
    loss = cispo(slow, rows, 0.0, [torch.tensor(drawn_at[place]) for place in places])
    result, rollouts = slow.train_step(population(2), PROBLEMS[:3], temperature=2.0)
    assert result.loss == pytest.approx(float(loss.detach()), rel=1e-4)
    assert [rollout.logprobs for rollout in rollouts] == [answer.logprobs for answer in plain]


def test_s2_gradient_checkpointing_is_on_when_asked(
    scripted: Callable[..., Watched], caplog: pytest.LogCaptureFixture
) -> None:
    """Layers run again in the backward pass; the gradient stays. That rows are not shared then is said."""
    slow = scripted(kl_penalty=0.05, trl={"gradient_checkpointing": True})
    assert "each row runs by itself: gradient checkpointing" in caplog.text
    rows = scripted_rows(slow, 2, slow.script[0], REWARDS)
    loss = cispo(slow, rows, 0.05)
    runs: list[bool] = []
    layer = slow.policy.model.get_base_model().model.layers[0].self_attn
    hook = layer.register_forward_pre_hook(lambda *_: runs.append(torch.is_grad_enabled()))
    expect_step(slow, 2, rows, loss)
    hook.remove()
    assert runs.count(True) == 2, "once for its result, once more for its gradient"
    assert not slow.tree, "checkpointed layers keep no cache"


def test_s2_the_penalty_may_go_without_the_ratio(scripted: Callable[..., Watched]) -> None:
    slow = scripted(kl_penalty=0.05, trl={"use_bias_correction_kl": False})
    rows = scripted_rows(slow, 2, slow.script[0], REWARDS)
    expect_step(slow, 2, rows, cispo(slow, rows, 0.05))


def test_s3_the_base_scores_the_rows_that_are_kept(
    scripted: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, scored = scripted(kl_penalty=0.05), []
    original = slow.trainer._get_per_token_logps_and_entropies

    def watched(model: torch.nn.Module, ids: torch.Tensor, *more: object, **options: object) -> object:
        if not torch.is_grad_enabled():
            scored.append(len(ids))
        return original(model, ids, *more, **options)

    monkeypatch.setattr(slow.trainer, "_get_per_token_logps_and_entropies", watched)
    slow.train_step(population(2), PROBLEMS[:3])
    assert scored == [8], "two of three groups"


def test_s2_at_no_penalty_the_base_is_not_consulted(scripted: Callable[..., Watched]) -> None:
    slow = scripted(kl_penalty=0.0)
    slow.train_step(population(2), PROBLEMS[:3])
    assert "ref_per_token_logps" not in slow.before


def test_s2_the_ratio_is_capped_above_and_not_below(scripted: Callable[..., Watched]) -> None:
    slow = scripted(kl_penalty=0.0, ratio_cap=2.0)
    rows = scripted_rows(slow, 2, slow.script[0], REWARDS)
    dice = torch.Generator().manual_seed(3)
    ratios = [0.1 + 5.9 * torch.rand(len(row.answer), generator=dice) for row in rows]
    with torch.no_grad():
        old = [logprobs(slow.trainer.model, row) - ratio.log() for row, ratio in zip(rows, ratios, strict=True)]
    kept = [i for i in range(12) if i // GROUP != 1]
    slow.behaviour = torch.zeros(12, max(LENGTHS))
    for i, row in zip(kept, old, strict=True):
        slow.behaviour[i, : len(row)] = row
    together = torch.cat(ratios)
    assert together.gt(2).sum() > 10
    assert together.lt(0.8).sum() > 1
    expect_step(slow, 2, rows, cispo(slow, rows, 0.0, old))


def test_s2_reused_answers_carry_the_ratio_of_the_steps_in_between(scripted: Callable[..., Watched]) -> None:
    """Three rows are reused; the others come from the model as it is."""
    slow = scripted(kl_penalty=0.0)
    answers, places = slow.script[0], (0, 2, 8)
    rows = scripted_rows(slow, 2, answers, REWARDS)
    kept = [i for i in range(12) if i // GROUP != 1]
    dice = torch.Generator().manual_seed(3)
    with torch.no_grad():
        old = [logprobs(slow.trainer.model, row) for row in rows]
        for i in map(kept.index, places):
            old[i] = old[i] - (0.2 + 5.8 * torch.rand(len(old[i]), generator=dice)).log()
    told = dict(zip(kept, old, strict=True))
    slow.script = [
        [Answer(a.tokens, tuple(told.get(i, torch.zeros(0)).tolist()), a.text) for i, a in enumerate(answers)]
    ]
    reused = [
        Rollout(
            *("fast", PROBLEMS[i // GROUP].id, population(2).prompts[slot(i, GROUP, 2)].id, 0),
            *(a.text, a.tokens, a.logprobs, REWARDS[i], ""),
        )
        for i in places
        for a in [slow.script[0][i]]
    ]
    expect_step(slow, 2, rows, cispo(slow, rows, 0.0, old), reused)


def test_s3_groups_without_signal_leave_all_tensors(scripted: Callable[..., Watched]) -> None:
    slow = scripted(kl_penalty=0.05)
    result, rollouts = slow.train_step(population(2), PROBLEMS[:3])
    kept = [0, 1, 2, 3, 8, 9, 10, 11]
    assert (result.groups, result.kept_groups, len(rollouts)) == (3, 2, 12)
    assert result.reward == pytest.approx(sum(REWARDS) / 12)
    for key in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask"):
        torch.testing.assert_close(slow.after[key], slow.before[key][kept])
    assert int(slow.after["num_items_in_batch"]) == sum(LENGTHS[i] for i in kept)


def test_s3_without_any_signal_nothing_moves(policy: Policy, tmp_path: Path) -> None:
    slow = Watched(policy, tmp_path, kl_penalty=0.0, warmup_steps=0)
    slow.perturb()
    slow.verify = lambda problem, answer: Score(1.0, "")
    before = slow.adapter()
    result, rollouts = slow.train_step(population(2), PROBLEMS[:3])
    assert (result.kept_groups, result.reward, len(rollouts)) == (0, 1.0, 12)
    assert (result.loss, result.grad_norm) == (0.0, 0.0)
    for name, tensor in slow.adapter().items():
        assert torch.equal(tensor, before[name]), name


def test_s3_without_any_signal_there_is_no_step(policy: Policy, tmp_path: Path) -> None:
    """Neither the penalty nor the optimizer's momentum moves the weights, and the schedule waits."""
    slow = Watched(policy, tmp_path, kl_penalty=1.0, warmup_steps=4)
    slow.perturb()
    slow.train_step(population(2), PROBLEMS[:3])
    before, schedule = slow.adapter(), slow.trainer.lr_scheduler.state_dict()
    slow.verify = lambda problem, answer: Score(0.0, "")
    result, _ = slow.train_step(population(1), PROBLEMS[:3])
    assert (result.kept_groups, result.loss, result.grad_norm) == (0, 0.0, 0.0)
    assert slow.trainer.lr_scheduler.state_dict() == schedule
    assert slow.step == 2
    for name, tensor in slow.adapter().items():
        assert torch.equal(tensor, before[name]), name


def test_s3_only_the_answers_of_one_problem_decide_its_group(policy: Policy, tmp_path: Path) -> None:
    slow = Watched(policy, tmp_path)

    def first_problem_only(problem: Problem, answer: str) -> Score:
        return Score(float(problem.id == "p0"), "")

    slow.verify = first_problem_only
    result, _ = slow.train_step(population(1), PROBLEMS[:3])
    assert (result.kept_groups, result.reward) == (0, pytest.approx(1 / 3))


def test_s2_a_slice_has_no_column_of_padding_alone() -> None:
    batch = {
        "prompt_ids": torch.tensor([[0, 0, 7, 8], [0, 5, 6, 7], [1, 2, 3, 4]]),
        "prompt_mask": torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]]),
        "completion_ids": torch.tensor([[1, 0, 0], [1, 2, 0], [1, 2, 3]]),
        "completion_mask": torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 1]]),
        "old_per_token_logps": torch.tensor([[0.1, 0.0, 0.0], [0.2, 0.3, 0.0], [0.4, 0.5, 0.6]]),
        "advantages": torch.tensor([1.0, 2.0, 3.0]),
        "num_items_in_batch": torch.tensor(6),
        "num_images": None,
    }
    part = trimmed(batch, [1, 0])
    assert part["prompt_ids"].tolist() == [[5, 6, 7], [0, 7, 8]]
    assert part["completion_ids"].tolist() == [[1, 2], [1, 0]]
    torch.testing.assert_close(part["old_per_token_logps"], torch.tensor([[0.2, 0.3], [0.1, 0.0]]))
    assert part["advantages"].tolist() == [2.0, 1.0]
    assert (int(part["num_items_in_batch"]), part["num_images"]) == (6, None)
