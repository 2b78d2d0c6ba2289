"""Distillation. W1 to W5 as numbered in fst/method/distill/weights.py; W6 `fst distill` makes a run folder that exports
like any other, with the seed prompt alone, and measures itself once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fst.cli import main
from fst.config import ModelParams, Params, SlowParams, params_from_dict
from fst.errors import ConfigError
from fst.method.distill.job import RESULT, job_of
from fst.method.distill.weights import DistilledWeights, prompt_to_distil
from fst.method.run.runner import Job, prepare, run_job, run_rounds, summary_of
from fst.models.adapter import WEIGHTS, adapter_state, save_adapter
from fst.models.policy import Policy
from fst.runs.progress import Progress
from fst.runs.view import load_run
from fst.stages.trained import export_run
from fst.store.bundle import write_bundle
from fst.types import Population, Prompt
from support.slow_toys import PROBLEMS, PROMPTS, verify

SEED, EVOLVED = PROMPTS[0], PROMPTS[2]
ANSWERS = [(20, 21, 22), (30,), (40, 41, 42, 43, 44), (50, 51)]


def weights(
    policy: Policy, folder: Path, prompt: Prompt = EVOLVED, scale: float = 0.3, **slow: int
) -> DistilledWeights:
    """A student whose adapter has moved off the base, and a teacher that has the same adapter."""
    params = SlowParams.model_validate(
        {"problems_per_step": 4, "group_size": 2, "lora_rank": 4, "warmup_steps": 0, "learning_rate": 0.001, **slow}
    )
    model = ModelParams(max_new_tokens=8, chat_template_kwargs=policy.options)
    found = DistilledWeights(policy, params, model, verify, folder, seed=0)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for _, parameter in sorted(found.trainer.model.named_parameters()):
            if parameter.requires_grad:
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    save_adapter(found.trainer.model, folder / "teacher")
    found.teach(prompt, folder / "teacher")
    return found


def trainable(slow: DistilledWeights) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in slow.trainer.model.named_parameters() if p.requires_grad}


def test_w1_the_teacher_never_moves_and_only_the_adapter_learns(policy: Policy, tmp_path: Path) -> None:
    slow = weights(policy, tmp_path, scale=0.1)
    model = slow.trainer.model
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    first = slow.apart(SEED, PROBLEMS[:4], ANSWERS)
    for _ in range(12):
        result, rollouts = slow.train_step(Population((SEED,)), PROBLEMS[:4])
    assert slow.apart(SEED, PROBLEMS[:4], ANSWERS) < 0.6 * first
    assert (len(rollouts), {r.prompt_id for r in rollouts}, {r.purpose for r in rollouts}) == (8, {SEED.id}, {"train"})
    assert (result.groups, result.kept_groups, slow.step) == (4, 4, 12)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert moved == set(trainable(slow)), "the teacher and the base stay; all of the adapter moves"
    assert all(".default." in name for name in moved)
    assert load_file(tmp_path / "teacher" / WEIGHTS).keys() == adapter_state(model).keys(), "its own name in files"


def test_w1_without_an_adapter_the_base_teaches(policy: Policy, tmp_path: Path) -> None:
    slow = weights(policy, tmp_path)
    slow.teach(SEED, None)
    moved = slow.apart(SEED, PROBLEMS[:4], ANSWERS)
    assert moved > 1e-3
    with torch.no_grad():
        for parameter in trainable(slow).values():
            parameter.zero_()
    assert slow.apart(SEED, PROBLEMS[:4], ANSWERS) == pytest.approx(0, abs=1e-7), "an adapter of zeros is the base"


def test_w2_the_same_policy_under_the_same_prompt_has_nothing_to_learn(policy: Policy, tmp_path: Path) -> None:
    slow = weights(policy, tmp_path, SEED)
    assert slow.apart(SEED, PROBLEMS[:4], ANSWERS) == pytest.approx(0, abs=1e-7)
    assert slow.apart(EVOLVED, PROBLEMS[:4], ANSWERS) > 1e-3
    result, _ = slow.train_step(Population((SEED,)), PROBLEMS[:4])
    assert (result.loss, result.grad_norm) == (pytest.approx(0, abs=1e-7), pytest.approx(0, abs=1e-5))


def plain_kl(slow: DistilledWeights) -> torch.Tensor:
    """The mean KL(teacher || student) by whole forward passes, a row at a time."""
    model, policy, total = slow.policy.model, slow.policy, torch.zeros(())
    for problem, answer in zip(PROBLEMS[:4], ANSWERS, strict=True):
        found = []
        for prompt in (EVOLVED, SEED):
            (context,) = policy.encode([policy.messages(prompt.text, problem.question)])
            with slow.teacher() if prompt is EVOLVED else torch.enable_grad():
                logits = model(input_ids=torch.tensor([[*context, *answer]])).logits[0, len(context) - 1 : -1]
            found.append(torch.log_softmax(logits.float(), -1))
        target, given = found[0].detach(), found[1]
        total = total + (target.exp() * (target - given)).sum()
    return total / sum(map(len, ANSWERS))


@pytest.mark.parametrize("micro_tokens", [16, 64, 4096])
def test_w3_slices_change_neither_loss_nor_gradient(policy: Policy, tmp_path: Path, micro_tokens: int) -> None:
    slow = weights(policy, tmp_path, micro_tokens=micro_tokens)
    expected = plain_kl(slow)
    expected.backward()  # type: ignore[no-untyped-call]
    wanted = {name: p.grad.clone() for name, p in trainable(slow).items() if p.grad is not None}
    slow.trainer.model.zero_grad()
    assert slow._backward(SEED, PROBLEMS[:4], ANSWERS) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert wanted.keys() == trainable(slow).keys()
    for name, parameter in trainable(slow).items():
        torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-3, atol=1e-6)


def test_w4_the_seed_prompt_cannot_be_distilled() -> None:
    with pytest.raises(ConfigError, match=r"lab/reverse: the best prompt is the seed prompt, 'solve the task'"):
        prompt_to_distil(Population((SEED,)), SEED, "lab/reverse")
    assert prompt_to_distil(Population((EVOLVED, SEED)), SEED, "lab/reverse") == EVOLVED


SPEC = "lab/reverse"
SMALL = {
    "prepare": {"train": 16, "validation": 4, "test": 4},
    "slow": {"problems_per_step": 2, "group_size": 4, "lora_rank": 4, "warmup_steps": 0, "learning_rate": 0.01},
    "fast": {"prompts": 2, "anchors": 4, "minibatch": 2, "budget": 16},
    "reflector": {"proposals": 4, "max_new_tokens": 4},
    "loop": {"cycles": 2, "steps_per_cycle": 2},
    "evaluate": {"samples": 2, "kl_problems": 4},
}


def params_for(model: Path) -> Params:
    return params_from_dict({**SMALL, "model": {"base": str(model), "max_new_tokens": 4, "threads": 1}})


def start_of(folder: Path, text: str, adapter: Path | None = None) -> Path:
    """A bundle that serves the domain with a prompt."""
    facts = {"schema": 1, "base": {}, "start": None, "run": None, "metrics": {}, "candidate": None, "gate": None}
    prompts = {"mine": {"prompts": [Prompt(text).as_dict()], "ancestry": []}}
    manifest = {**facts, "domains": {"mine": {"spec": SPEC}}}
    return write_bundle(folder, manifest, {"prompts.json": prompts, "evaluation.json": {}}, adapter).folder


def test_w4_a_start_without_a_prompt_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    job = Job("distill", SPEC, 0, tmp_path / "run", params_for(tiny_model_dir))
    with pytest.raises(ConfigError, match=r"distil a run that evolved one \(`fst distill RUN`"):
        prepare(job, Progress(1, 1, "distill", SPEC, quiet=True))
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.slow
def test_w5_w6_a_distilled_run_goes_on_and_exports_like_any_other(
    tiny_model_dir: Path, tmp_path: Path, new_policy: Callable[[], Policy], capsys: pytest.CaptureFixture[str]
) -> None:
    params = params_for(tiny_model_dir)
    weights(new_policy(), tmp_path / "made")
    start = start_of(tmp_path / "start", "turn it around", tmp_path / "made" / "teacher")
    source = run_job(Job("gepa", SPEC, 0, tmp_path / "source", params, start=start), quiet=True)
    assert load_run(source).end is not None

    assert main(["distill", str(source), "--quiet", "--set", "slow.learning_rate=0.02"]) == 0
    folder = tmp_path / "source-distilled"
    said = capsys.readouterr().out
    found = json.loads((folder / RESULT).read_text())
    assert found["prompt"] == summary_of(source)["prompts"][0]
    assert found["teacher"]["kl"] == pytest.approx(0, abs=1e-6)
    assert found["before"]["kl"] > 0
    assert found["after"]["kl"] != found["before"]["kl"]
    assert f"{found['teacher']['tokens'] - found['after']['tokens']:.1f} tokens an answer saved" in said
    view = load_run(folder)
    assert (view.arm, [event["channel"] for event in view.rounds]) == ("distill", ["slow", "slow"])
    assert view.config["params"]["slow"]["learning_rate"] == 0.02
    assert summary_of(folder)["prompts"] == ["solve the task"]
    assert summary_of(folder)["rollouts"]["train"] == 2 * 2 * 2 * 4
    export_run(folder, None, tmp_path / "out", tmp_path / "curve.csv")
    assert (tmp_path / "out" / "adapter" / WEIGHTS).read_bytes() != (start / "adapter" / WEIGHTS).read_bytes()
    assert [p["text"] for p in json.loads((tmp_path / "out" / "prompts.json").read_text())["prompts"]] == [SEED.text]

    kept = (folder / RESULT).stat().st_mtime_ns
    assert main(["distill", str(source), "--quiet", "--set", "slow.learning_rate=0.02", "--resume"]) == 0
    assert (folder / RESULT).stat().st_mtime_ns == kept, "an ended run is measured once"

    cut = job_of(source, tmp_path / "cut", ["slow.learning_rate=0.02"])
    rounds = run_rounds(cut, quiet=True)
    next(rounds)
    rounds.close()
    run_job(cut, resume=True, quiet=True)
    for key in ("adapter_sha256", "accuracy", "rollouts"):
        assert summary_of(cut.folder)[key] == summary_of(folder)[key]
    assert main(["distill", str(tmp_path / "cut"), "--quiet"]) == 2
    assert "nothing to move into the weights" in capsys.readouterr().err
