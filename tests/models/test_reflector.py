"""Reflectors: what a reply is read as, callables that fail, and the policy as its own reflector.

Invariants of the policy's: R1 same seed, same proposal; R2 nothing of `avoid` comes back; R3 it writes within its
token limit; R4 it counts what it cost; R5 the frozen base writes, whatever the adapter learnt; R6 screening is the
likelihood that the policy gives to the expected answers.
"""

from __future__ import annotations

import pytest
import torch
from peft import get_peft_model

from fst.data.scoring import feedback_text
from fst.data.types import Problem
from fst.errors import ReflectorError
from fst.models.adapter import lora_config
from fst.models.likelihood import answer_logprobs
from fst.models.policy import Policy
from fst.models.reflector import (
    INDUCTION_SYSTEM,
    CallableReflector,
    PolicyReflector,
    Proposal,
    extract_prompt,
    feedback_request,
)

PAIRS = [("digits: 3 1 2", "1 2 3"), ("digits: 9 4", "4 9"), ("digits: 5 5 0", "0 5 5"), ("digits: 7 6 1 2", "1 2 6 7")]
FEEDBACK = [feedback_text(Problem(str(i), "toy", q, a), "3 3", "wrong") for i, (q, a) in enumerate(PAIRS)]


@pytest.mark.parametrize(
    ("reply", "prompt"),
    [
        ("sort the digits", "sort the digits"),
        ("  sort \n", "sort"),
        ("", ""),
        ("Here:\n```\nsort\nall\n```\nDone.", "sort\nall"),
        ("```text\nsort\n```", "sort"),
        ("```first```\nno, better:\n```\nsecond\n```", "second"),
        ("```\n\n```", ""),
        ("```\nnever closed", "```\nnever closed"),
        ("use `x` and ``y``", "use `x` and ``y``"),
    ],
)
def test_the_prompt_of_a_reply(reply: str, prompt: str) -> None:
    assert extract_prompt(reply) == prompt


def test_the_request_holds_the_current_prompt_and_all_feedback_verbatim() -> None:
    request = feedback_request("sort {it}", [*FEEDBACK, "braces {stay} as they are"])
    assert "```\nsort {it}\n```" in request
    assert "\n\n".join(FEEDBACK) + "\n\nbraces {stay} as they are" in request


def test_a_callable_is_asked_with_the_request_and_its_reply_is_read() -> None:
    asked: list[str] = []

    def call(request: str) -> str:
        asked.append(request)
        return "```\nsort\n```"

    reflector = CallableReflector(call)
    proposal = reflector.propose("old", FEEDBACK, [], frozenset(), 0)
    assert (proposal.text, proposal.drawn, proposal.screened, proposal.tokens) == ("sort", 1, 0, 0)
    assert asked == [feedback_request("old", FEEDBACK)]
    assert reflector.propose("old", FEEDBACK, [], frozenset(["sort"]), 0).text == ""
    assert reflector.usage == {}


def test_a_callable_that_returns_none_has_nothing_to_propose() -> None:
    assert CallableReflector(lambda _: None).propose("p", [], [], frozenset(), 0).text == ""  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("error", [RuntimeError("down"), TimeoutError(), ReflectorError("no answer after 5 retries")])
def test_what_a_callable_raises_is_passed_on(error: Exception) -> None:
    def call(request: str) -> str:
        raise error

    with pytest.raises(type(error)):
        CallableReflector(call).propose("p", FEEDBACK, [], frozenset(), 0)


def propose(reflector: PolicyReflector, seed: int = 3, avoid: frozenset[str] = frozenset()) -> Proposal:
    return reflector.propose("solve the task", FEEDBACK[:3], FEEDBACK[3:], avoid, seed)


def test_r1_r2_r4_on_a_tiny_policy(policy: Policy) -> None:
    reflector = PolicyReflector(policy, proposals=16, max_new_tokens=5)
    first, again, other = propose(reflector), propose(reflector), propose(reflector, seed=4)
    assert first.text
    assert (first.text, first.screened, first.tokens) == (again.text, again.screened, again.tokens)
    assert other.text != first.text
    second = propose(reflector, avoid=frozenset([first.text]))
    assert second.text not in ("", first.text)
    assert second.screened == first.screened - 1
    for proposal in (first, other, second):
        assert proposal.drawn == 16
        assert 1 < proposal.screened <= 16
        assert proposal.tokens > 10 * proposal.screened
        assert proposal.seconds > 0


def test_r3_it_writes_within_its_token_limit_whatever_the_policy_s_own_is(policy: Policy) -> None:
    lengths: list[int] = []
    answer = policy.answer

    def listen(*arguments):  # type: ignore[no-untyped-def]
        groups = answer(*arguments)
        lengths.extend(len(a.tokens) for group in groups for a in group)
        return groups

    policy.answer = listen  # type: ignore[method-assign]
    propose(PolicyReflector(policy, proposals=16, max_new_tokens=12))
    assert len(lengths) == 16
    assert max(lengths) == 12 > policy.max_new_tokens


def test_r4_without_pairs_there_is_nothing_to_propose_and_nothing_is_drawn(policy: Policy) -> None:
    proposal = PolicyReflector(policy, proposals=8).propose("p", ["the answer is wrong"], FEEDBACK, frozenset(), 0)
    assert proposal == Proposal("", drawn=0)


def test_requests_are_subsets_of_the_pairs_within_the_token_limit(policy: Policy) -> None:
    reflector = PolicyReflector(policy, proposals=24, max_new_tokens=4, max_request_tokens=20)
    asked: list[str] = []
    answer = policy.answer

    def listen(requests, *rest):  # type: ignore[no-untyped-def]
        asked.extend(request[-1]["content"] for request in requests)
        assert all(request[0] == {"role": "system", "content": INDUCTION_SYSTEM} for request in requests)
        return answer(requests, *rest)

    policy.answer = listen  # type: ignore[method-assign]
    assert propose(reflector).drawn == 24
    assert len(asked) == 3
    for text in asked:
        pairs = [tuple(pair.split(" -> ")) for pair in text.split("; ")]
        assert set(pairs) <= set(PAIRS[:3])
        assert len(set(pairs)) == len(pairs)
        assert len(pairs) == 1 or policy.count_tokens(text) <= 20


def test_r5_the_frozen_base_writes_whatever_the_adapter_learnt(policy: Policy) -> None:
    reflector = PolicyReflector(policy, proposals=2, max_new_tokens=6, temperature=0.0, style="feedback")
    unreadable = ["no pairs here, so that nothing is screened and the first proposal drawn is taken"]
    before = reflector.propose("p", unreadable, [], frozenset(), 7)
    policy.model = get_peft_model(policy.model, lora_config(4, 8))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, tensor in policy.model.named_parameters():
            if "lora_" in name:
                tensor.normal_()
    request = [[{"role": "user", "content": feedback_request("p", unreadable)}]]
    adapted = policy.answer(request, 1, 7, 0.0, 6)
    with policy.frozen_base():
        frozen = policy.answer(request, 1, 7, 0.0, 6)
    assert adapted[0][0].text != frozen[0][0].text, "the adapter must matter for this test"
    assert before.text == frozen[0][0].text
    assert reflector.propose("p", unreadable, [], frozenset(), 7).text == before.text


def test_r6_screening_is_the_mean_log_likelihood_of_the_expected_answers(policy: Policy) -> None:
    texts = ["sort the digits", "reverse", "solve the task"]
    means, tokens = PolicyReflector(policy)._screen(texts, PAIRS)
    eos = policy.tokenizer.eos_token_id
    read = 0
    for text in texts:
        total = 0.0
        for question, expected in PAIRS:
            context = policy.encode([policy.messages(text, question)])[0]
            answer = [*policy.tokenizer(expected, add_special_tokens=False)["input_ids"], eos]
            read += len(context) + len(answer)
            with torch.no_grad():
                logits = policy.model(input_ids=torch.tensor([context + answer])).logits[0].double()
            logprobs = torch.log_softmax(logits, -1)
            by_hand = sum(logprobs[len(context) + i - 1, token].item() for i, token in enumerate(answer))
            assert answer_logprobs(policy.model, [context], [answer], policy.pad_id) == pytest.approx([by_hand])
            total += by_hand
        assert means[text] == pytest.approx(total / len(PAIRS), rel=1e-5)
    assert tokens == read
    assert len(set(means.values())) == 3


def test_r6_the_proposal_is_the_likeliest_of_the_finalists(policy: Policy) -> None:
    reflector = PolicyReflector(policy, proposals=8, max_new_tokens=5, finalists=3)
    drawn: list[str] = []
    avoid: set[str] = set()
    while (proposal := propose(reflector, avoid=frozenset(avoid))).text:
        drawn.append(proposal.text)
        avoid.add(proposal.text)
    assert len(drawn) == propose(reflector).screened
    first, _ = reflector._screen(drawn, PAIRS[:3])
    finalists = sorted(drawn, key=lambda text: -first[text])[:3]
    proven, _ = reflector._screen(finalists, PAIRS)
    assert drawn[0] == max(finalists, key=proven.__getitem__)


def test_screening_of_nothing_costs_nothing(policy: Policy) -> None:
    reflector = PolicyReflector(policy)
    assert reflector._screen([], PAIRS) == ({}, 0)
    assert reflector._screen(["a", "b"], []) == ({"a": 0.0, "b": 0.0}, 0)
