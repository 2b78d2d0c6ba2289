"""The sampler, on a real tiny model. The invariants:

a1  greedy answers are those of transformers' own generate, whatever the padding, the batch and the order
a2  an answer's log-probabilities are the model's at T=1, whatever temperature drew it
a3  each distinct request runs once, what requests begin with alike runs once, and that serves all n answers; rows that
    have ended leave the batch when a quarter of it has, and change nothing for the others
a4  same seed, same answers, however the rows are batched; another seed, or another place, others
a5  tokens are drawn from softmax(logits / temperature)
a6  an answer ends at its first end token or at the limit, and holds nothing behind it
a7  the model's mode is left as it was found, also after an error
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from fst.models.likelihood import answer_logprobs
from fst.models.policy import Policy
from fst.models.sampler import MAX_ROWS, Answer, Sampling, rows_that_fit, sample_answers
from support.slow_toys import Watched

REQUESTS = [[3, 137, 148, 4, 18, 246, 5], [3, 9, 5], [3, 137, 148, 145, 4, 114, 155, 143, 238, 248, 11, 5], [3, 60, 5]]
ENDS = tuple(range(0, 517, 9))  # an untrained model hardly ever says its own end token


def sharp(policy: Policy) -> torch.nn.Module:
    """The model with its logits times 8: an untrained model's distribution is flat, this one's is not."""
    policy.model.get_output_embeddings().register_forward_hook(lambda _module, _inputs, logits: logits * 8)
    return policy.model


def plan(**changes: object) -> Sampling:
    return dataclasses.replace(Sampling(1, 12, 1.0, ENDS, 0, 0, 2**30), **changes)


def greedy_by_generate(policy: Policy, request: list[int], ends: tuple[int, ...]) -> tuple[int, ...]:
    ids = torch.tensor([request])
    out = policy.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=12,
        eos_token_id=list(ends),
        pad_token_id=0,
    )
    return tuple(out[0, len(request) :].tolist())


class Calls:
    """Rows of every forward pass, in order."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.handle = model.base_model.register_forward_pre_hook(self.note, with_kwargs=True)

    def note(self, _: torch.nn.Module, args: object, kwargs: dict[str, torch.Tensor]) -> None:
        self.shapes.append(tuple(kwargs["input_ids"].shape))


def flat(groups: list[list[Answer]]) -> list[Answer]:
    return [answer for group in groups for answer in group]


def mixed_ends(policy: Policy) -> tuple[int, ...]:
    """The end token at which the greedy answers end at the most different places."""
    endless = flat(sample_answers(policy.model, REQUESTS, plan(temperature=0.0, end_ids=())))
    tokens = sorted({token for a in endless for token in a.tokens})
    return (max(tokens, key=lambda end: len({(*a.tokens, end).index(end) for a in endless})),)


@pytest.fixture
def lively(policy: Policy, tmp_path: Path) -> Policy:
    """An adapter on top, far from zero: the bare model's greedy answers repeat one token."""
    Watched(policy, tmp_path).perturb(scale=1.0)
    return policy


def test_a1_greedy_is_generates(lively: Policy) -> None:
    policy = lively
    ends = mixed_ends(policy)
    found = flat(sample_answers(policy.model, REQUESTS, plan(temperature=0.0, end_ids=ends)))
    assert [a.tokens for a in found] == [greedy_by_generate(policy, request, ends) for request in REQUESTS]
    assert len({len(a.tokens) for a in found}) > 2


def test_a1_alone_and_in_any_order(lively: Policy) -> None:
    policy = lively
    greedy = plan(temperature=0.0, end_ids=mixed_ends(policy))
    together = sample_answers(policy.model, REQUESTS, greedy)
    backwards = sample_answers(policy.model, REQUESTS[::-1], greedy)
    for i, request in enumerate(REQUESTS):
        alone = sample_answers(policy.model, [request], greedy)[0][0]
        for other in (together[i][0], backwards[-1 - i][0]):
            assert other.tokens == alone.tokens
            assert other.logprobs == pytest.approx(alone.logprobs, abs=1e-5)


def test_a1_no_requests_no_answers(policy: Policy) -> None:
    assert sample_answers(policy.model, [], plan()) == []


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0, 2.0])
def test_a2_logprobs_are_the_models_at_t_1(policy: Policy, temperature: float) -> None:
    groups = sample_answers(policy.model, REQUESTS, plan(n=3, temperature=temperature))
    contexts = [request for request in REQUESTS for _ in range(3)]
    forced = answer_logprobs(policy.model, contexts, [a.tokens for a in flat(groups)], 0)
    assert [sum(a.logprobs) for a in flat(groups)] == pytest.approx(forced, abs=1e-4)
    assert [len(a.logprobs) for a in flat(groups)] == [len(a.tokens) for a in flat(groups)]


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_a2_logprobs_at_the_temperature_that_drew_them(policy: Policy, temperature: float) -> None:
    """Those of softmax(logits / temperature), token by token."""
    context = list(REQUESTS[0])
    for answer in flat(sample_answers(policy.model, [context], plan(n=3, temperature=temperature))):
        with torch.no_grad():
            logits = policy.model(input_ids=torch.tensor([[*context, *answer.tokens]])).logits[0, len(context) - 1 : -1]
        own = torch.log_softmax(logits / temperature, -1)[range(len(answer.tokens)), list(answer.tokens)]
        assert answer.tempered == pytest.approx(own.tolist(), abs=1e-4)


def test_a2_at_temperature_1_the_logprobs_stand_for_both(policy: Policy) -> None:
    for temperature in (0.0, 1.0):
        assert not any(a.tempered for a in flat(sample_answers(policy.model, REQUESTS, plan(temperature=temperature))))


def test_a3_requests_run_once_and_ended_rows_leave(policy: Policy) -> None:
    calls = Calls(policy.model)
    answers = flat(sample_answers(policy.model, REQUESTS, plan(n=4)))
    lengths = [len(a.tokens) for a in answers]
    # two begin with 3, two with 3, 137, 148; the last token of a request runs with the answers
    assert calls.shapes[:2] == [(2, 3), (4, 8)]
    decoded = calls.shapes[2:]
    assert decoded[0] == (16, 1)
    assert len(decoded) == max(lengths)
    rows = 16
    for step, shape in enumerate(decoded):
        running = sum(length > step for length in lengths)
        rows = running if running < 0.75 * rows else rows
        assert shape == (rows, 1)
    assert rows < 16, "some rows should end before others"


def test_a3_n_greedy_answers_are_the_same_answer(lively: Policy) -> None:
    policy = lively
    one = sample_answers(policy.model, REQUESTS, plan(temperature=0.0))
    five = sample_answers(policy.model, REQUESTS, plan(n=5, temperature=0.0))
    for alone, group in zip(one, five, strict=True):
        assert [a.tokens for a in group] == [alone[0].tokens] * 5


def test_a3_more_rows_than_a_batch_holds(lively: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = lively
    whole = sample_answers(policy.model, REQUESTS, plan(n=2, temperature=0.0))
    monkeypatch.setattr("fst.models.sampler.MAX_ROWS", 4)
    calls = Calls(policy.model)
    split = sample_answers(policy.model, REQUESTS, plan(n=2, temperature=0.0))
    assert max(shape[0] for shape in calls.shapes) == 4
    assert [a.tokens for a in flat(split)] == [a.tokens for a in flat(whole)]


def test_a3_rows_fit_in_the_memory_for_them(policy: Policy) -> None:
    """Two layers, two heads of 16, float32: 512 bytes a token; six copies of 517 logits: 12,408 bytes a row."""
    row = 20 * 512 + 12_408
    assert [rows_that_fit(policy.model, 20, room) for room in (0, row, 2 * row - 1, 2 * row)] == [1, 1, 1, 2]
    assert rows_that_fit(policy.model, 20, 10**12) == MAX_ROWS


def test_a4_the_batch_changes_no_answer(lively: Policy) -> None:
    whole = flat(sample_answers(lively.model, REQUESTS, plan(n=6)))
    split = flat(sample_answers(lively.model, REQUESTS, plan(n=6, cache_bytes=80_000)))
    assert [a.tokens for a in split] == [a.tokens for a in whole]
    assert [x for a in split for x in a.logprobs] == pytest.approx([x for a in whole for x in a.logprobs], abs=1e-5)


def test_a4_a_seed_fixes_the_answers(policy: Policy) -> None:
    first, again, other = (flat(sample_answers(policy.model, REQUESTS, plan(n=3, seed=s))) for s in (1, 1, 2))
    assert first == again
    assert sum(a.tokens != b.tokens for a, b in zip(first, other, strict=True)) > 9
    assert len({a.tokens for a in first}) > 9


def test_a4_the_global_random_state_is_neither_used_nor_moved(policy: Policy) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = sample_answers(policy.model, REQUESTS, plan())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert sample_answers(policy.model, REQUESTS, plan()) == first


def chi_square(policy: Policy, drawn_at: float, expected_at: float, draws: int = 4000) -> tuple[float, int]:
    """Pearson's statistic of first tokens drawn at one temperature against softmax at another; cells, tokens
    expected fewer than 5 times taken together."""
    model, request = sharp(policy), REQUESTS[2]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([request])).logits[0, -1].double()
    answers = sample_answers(model, [request], plan(n=draws, max_new_tokens=1, temperature=drawn_at))[0]
    counts = torch.bincount(torch.tensor([a.tokens[0] for a in answers]), minlength=len(logits)).double()
    expected = torch.softmax(logits / expected_at, -1) * draws
    common = expected >= 5
    counts = torch.cat([counts[common], counts[~common].sum()[None]])
    expected = torch.cat([expected[common], expected[~common].sum()[None]])
    return float(((counts - expected) ** 2 / expected).sum()), len(expected) - 1


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.5])
def test_a5_first_tokens_follow_the_softmax(policy: Policy, temperature: float) -> None:
    statistic, freedom = chi_square(policy, temperature, temperature)
    assert statistic < freedom + 5 * (2 * freedom) ** 0.5
    assert freedom > 20


@pytest.mark.parametrize("temperature", [0.6, 1.5])
def test_a5_and_not_that_of_another_temperature(policy: Policy, temperature: float) -> None:
    statistic, freedom = chi_square(policy, temperature, 1.0)
    assert statistic > freedom + 10 * (2 * freedom) ** 0.5


def test_a6_answers_end_where_they_should(policy: Policy) -> None:
    answers = flat(sample_answers(policy.model, REQUESTS, plan(n=16)))
    for answer in answers:
        assert not set(answer.tokens[:-1]) & set(ENDS)
        assert answer.tokens[-1] in ENDS or len(answer.tokens) == 12
    assert {answer.tokens[-1] in ENDS for answer in answers} == {True, False}


def test_a6_the_policy_says_what_ends_an_answer(policy: Policy) -> None:
    assert policy.end_ids == (policy.tokenizer.convert_tokens_to_ids("<|end|>"),)
    policy.model.generation_config.eos_token_id = [7, 2]
    assert policy.end_ids == (2, 7)
    answers = policy.answer_ids([[3, 9, 5]], 8, seed=0, max_new_tokens=3)[0]
    assert {len(a.tokens) for a in answers} == {3}
    assert [a.text for a in answers] == [
        policy.tokenizer.decode(list(a.tokens), skip_special_tokens=True).strip() for a in answers
    ]


@pytest.mark.parametrize("training", [True, False])
def test_a7_the_mode_is_left_as_found(policy: Policy, training: bool) -> None:
    policy.model.train(training)
    sample_answers(policy.model, REQUESTS, plan())
    assert policy.model.training is training
    with pytest.raises(IndexError):
        sample_answers(policy.model, [[10**6]], plan())
    assert policy.model.training is training
