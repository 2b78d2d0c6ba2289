"""Reflectors: callables that are asked and fail, and the policy as its own reflector.

Invariants of the policy's: R1 same seed, same proposal; R2 nothing of `avoid` comes back while there is anything else;
R3 it writes within its token limit; R4 it counts what it cost; R5 the frozen base writes, whatever the adapter learnt;
R6 screening is the likelihood that the policy gives to the expected answers; R7 what fits the limit of a prompt goes
before what does not; R8 whole examples of feedback are left out until the request fits the context; R9 full feedback is
screened on short answers, and only where they are what is rewarded.
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
    PromptLimit,
    Proposal,
    feedback_request,
)

PAIRS = [("digits: 3 1 2", "1 2 3"), ("digits: 9 4", "4 9"), ("digits: 5 5 0", "0 5 5"), ("digits: 7 6 1 2", "1 2 6 7")]
FEEDBACK = [feedback_text(Problem(str(i), "toy", q, a), "3 3", "wrong") for i, (q, a) in enumerate(PAIRS)]


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
    assert reflector.propose("old", FEEDBACK, [], frozenset(["sort"]), 0).text == "sort", "the round says it is known"
    assert reflector.usage == {}


def words(text: str) -> int:
    return 2 * len(text.split())  # every word has two tokens


def test_a_request_tells_the_longest_prompt_in_tokens_and_words() -> None:
    limit = PromptLimit(64, words)
    assert feedback_request("old", FEEDBACK, limit).endswith("It may have at most 64 tokens, about 32 words.")
    assert str(PromptLimit(1, words)).endswith("at most 1 tokens, about 1 words.")
    assert (limit.allows("a " * 32), limit.allows("a " * 33)) == (True, False)


@pytest.mark.parametrize(("second", "proposed"), [("shorter", "shorter"), ("word " * 40, ("word " * 40).strip())])
def test_a_callable_is_asked_once_more_for_a_prompt_that_is_too_long(second: str, proposed: str) -> None:
    replies, asked = ["```\n" + "word " * 50 + "```", second], list[str]()

    def call(request: str) -> str:
        asked.append(request)
        return replies[len(asked) - 1]

    limit = PromptLimit(64, words)
    proposal = CallableReflector(call, limit).propose("old", FEEDBACK, [], frozenset(), 0)
    assert (proposal.text, proposal.drawn) == (proposed, 2)
    request = feedback_request("old", FEEDBACK, limit)
    assert asked[0] == request
    assert asked[1].startswith(request)
    assert "word word" in asked[1]
    assert asked[1].endswith("it has 100 tokens. Write a shorter one. It may have at most 64 tokens, about 32 words.")


def test_a_check_reaches_the_callable_that_has_one() -> None:
    class Down:
        def __call__(self, request: str) -> str:
            return request

        def check(self) -> None:
            raise ReflectorError("down")

    CallableReflector(str).check()
    with pytest.raises(ReflectorError, match="down"):
        CallableReflector(Down()).check()


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
    while (proposal := propose(reflector, avoid=frozenset(avoid))).text not in avoid:
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


def test_r2_where_all_are_known_already_one_of_them_is_named_and_nothing_is_screened(policy: Policy) -> None:
    reflector = PolicyReflector(policy, proposals=8, max_new_tokens=5)
    avoid = frozenset(drawn_by(reflector))
    again = propose(reflector, avoid=avoid)
    assert again.text in avoid
    assert (again.drawn, again.screened, again.tokens) == (8, 0, 0)


def drawn_by(reflector: PolicyReflector) -> list[str]:
    """Everything that it has to propose, the best first."""
    found: list[str] = []
    while (text := propose(reflector, avoid=frozenset(found)).text) not in found:
        found.append(text)
    return found


def test_r7_a_prompt_over_the_limit_is_not_proposed_while_there_are_others(policy: Policy) -> None:
    every = drawn_by(PolicyReflector(policy, proposals=16, max_new_tokens=6))
    cap = sorted(map(policy.count_tokens, every))[len(every) // 2] - 1
    fit = [text for text in every if policy.count_tokens(text) <= cap]
    assert 0 < len(fit) < len(every), "the toy must have both"
    limited = PolicyReflector(policy, proposals=16, max_new_tokens=6, limit=PromptLimit(cap, policy.count_tokens))
    assert propose(limited).text == fit[0]
    none = PolicyReflector(policy, proposals=16, max_new_tokens=6, limit=PromptLimit(0, policy.count_tokens))
    assert propose(none).text in every, "the round counts it as too long"


def general(policy: Policy, **changes: object) -> PolicyReflector:
    """Reflects on the full feedback, in a context that is large enough for it."""
    policy.context = 8192
    settings = {"proposals": 4, "max_new_tokens": 5, "style": "feedback", **changes}
    return PolicyReflector(policy, **settings)  # type: ignore[arg-type]


def listened(policy: Policy) -> list[list[dict[str, str]]]:
    """The requests that the policy will be given."""
    asked: list[list[dict[str, str]]] = []
    answer = policy.answer

    def listen(requests, *rest):  # type: ignore[no-untyped-def]
        asked.extend(requests)
        return answer(requests, *rest)

    policy.answer = listen  # type: ignore[method-assign]
    return asked


def test_r8_feedback_is_cut_to_the_context_by_whole_examples_the_longest_first(policy: Policy) -> None:
    asked = listened(policy)
    texts = [FEEDBACK[0], FEEDBACK[1] + " and so on" * 9, FEEDBACK[2], FEEDBACK[3] + " and so on" * 5]
    reflector = general(policy)
    for kept in ([0, 1, 2, 3], [0, 2, 3], [0, 2]):
        request = [{"role": "user", "content": feedback_request("p", [texts[i] for i in kept])}]
        policy.context = len(policy.encode([request])[0]) + reflector.max_new_tokens
        reflector.propose("p", texts, [], frozenset(), 0)
        assert asked[-1] == request
    policy.context = 40
    with pytest.raises(ReflectorError, match=r"reads 40 tokens, too few.*lower reflector\.max_new_tokens"):
        reflector.propose("p", texts, [], frozenset(), 0)


def test_r9_full_feedback_is_screened_on_short_answers_and_only_where_they_are_the_reward(policy: Policy) -> None:
    long_answer = feedback_text(Problem("l", "toy", "digits: 1", "1 2 " * 40), "", "wrong")
    screened = general(policy).propose("p", FEEDBACK[:2], FEEDBACK[2:], frozenset(), 3)
    assert screened.screened > 1
    only_short = general(policy).propose("p", [*FEEDBACK[:2], long_answer], FEEDBACK[2:], frozenset(), 3)
    unscreened = general(policy, screens=False).propose("p", FEEDBACK[:2], FEEDBACK[2:], frozenset(), 3)
    assert (unscreened.screened, unscreened.tokens) == (0, 0)
    assert unscreened.drawn == 4
    read = general(policy)._answers([*FEEDBACK, long_answer])
    assert read == PAIRS
    assert only_short.text, "a long answer takes nothing away but itself"
    assert len(general(policy)._answers(FEEDBACK * 9)) == 16
    assert general(policy, screens=False)._answers(FEEDBACK) == []
