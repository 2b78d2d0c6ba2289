"""`fst bench poison`: how much of one tenant's false feedback becomes training data, and whether the tenant is named.
Traffic of the lab is simulated, and the release's and the candidate's answers are drawn at a rate, so no model is
needed; what is collected, left out and judged is as in an adaptation. With real answers and prompts: poisoned.py."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from fst.config import Params
from fst.data.domains import load_domain
from fst.data.types import TENANTS, SplitSizes
from fst.monitoring.collected import Collected, Told
from fst.release.gate import Case, decide
from fst.traffic.log import Feedback, Request
from fst.traffic.trust import mark

LIAR, HONEST = "mallory", ("ann", "bob", "cem", "dora")
SHARES, SCORED = (0.0, 0.1, 0.2, 0.3), 400
# how often the release is right -> what that is like
RELEASES = {0.9: "a served domain", 0.4: "one that drifted", 0.0: "a new domain"}
CANDIDATE = 0.9  # of true answers that it learns


@dataclass(frozen=True)
class Outcome:
    """What came of a simulated adaptation: the share of the training problems whose answer is false, and the trials in
    which the liar, or anybody else, was named when feedback was collected, and by the gate."""

    false: float
    named: int
    by_gate: int
    wrongly: int


def poison(params: Params, trials: int, scored: int = SCORED) -> Iterator[str]:
    """Lines: a table over the liar's share of the scored traffic."""
    yield f"{scored} scored requests of {len(HONEST)} honest tenants and one that tells lies, {trials} times"
    for rate, says in RELEASES.items():
        yield f"{says} (the release is right {rate:.0%} of the time)"
        for share in SHARES:
            found = outcome(params, share, rate, trials, scored)
            yield (
                f"  {share:4.0%} false: {found.false:6.1%} of the training problems are; the tenant is named when "
                f"collecting in {found.named}, by the gate in {found.by_gate}; another one in {found.wrongly}"
            )


def outcome(params: Params, share: float, rate: float, trials: int, scored: int = SCORED) -> Outcome:
    """The outcome of some trials, at a share of false feedback and a rate at which the release is right."""
    false, named, by_gate, wrongly = 0.0, 0, 0, 0
    for trial in range(trials):
        told = traffic_of(scored, share, rate=rate, seed=trial)
        found = Collected(tuple(told))
        suspects = found.suspects
        rest = found.without(suspects)
        lies = {request.question for request, said in told if said.tenant == LIAR}
        pairs = rest.lessons(params)
        false += sum(question in lies for question, _ in pairs) / len(pairs)
        gate = judged(params, rest, [question for question, _ in pairs], trial)
        named += LIAR in {suspect.tenant for suspect in suspects}
        by_gate += LIAR in gate
        wrongly += bool(({suspect.tenant for suspect in suspects} | gate) - {LIAR})
    return Outcome(false / trials, named, by_gate, wrongly)


def judged(params: Params, found: Collected, questions: list[str], seed: int) -> set[str]:
    """The tenants that the gate names: three in ten of the problems are held out, and the candidate answers them as the
    honest tenants do."""
    rng, tellers = random.Random(f"gate {seed}"), found.tellers
    held_out = rng.sample(questions, len(questions) * 3 // 10)
    tenants: dict[str, dict[str, list[str]]] = {}
    for question in held_out:
        for tenant in tellers[question]:
            tenants.setdefault(mark(tenant), {"held_out": []})["held_out"].append(question)
    rewards = {q: float(LIAR not in tellers[q] and rng.random() < CANDIDATE) for q in held_out}
    entry = {"problems": rewards, TENANTS: tenants, "kl": 0.0, "prompt_tokens": 9, "tokens_per_answer": 20.0}
    before = {**entry, "problems": dict.fromkeys(held_out, 0.0)}
    decision = decide("candidate", "production", [Case("digits", entry, before, True)], params.gate_limits)
    marks = {mark(tenant): tenant for tenant in (LIAR, *HONEST)}
    sentences = [finding.sentence for finding in decision.findings if finding.rule == "feedback"]
    return {tenant for known, tenant in marks.items() if any(known in sentence for sentence in sentences)}


def traffic_of(
    scored: int, share: float, *, lies: str = "flipped", rate: float = 0.9, distinct: int = 0, seed: int = 0
) -> list[Told]:
    """Scored requests of a domain, as the log has them. The liar sends `share` of them; `lies` says what it tells:
    `flipped` the answer backwards, `nonsense` a text of its own, `none` the truth, `elsewhere` the truth about other
    questions, which the release cannot answer. The release is right at a rate; questions repeat after `distinct` (0:
    never)."""
    rng = random.Random(f"{seed} {scored} {share} {lies} {rate}")
    problems = load_domain("lab/sort_desc+add_one", SplitSizes(distinct or scored, 1, 1), seed).train
    foreign = load_domain("lab/letters:reverse", SplitSizes(scored, 1, 1), seed).train
    told: list[Told] = []
    for i in range(scored):
        tenant, problem = tenant_of(share, rng), problems[i % len(problems)]
        lying = tenant == LIAR
        if lying and lies == "elsewhere":
            problem = foreign[i]
        false = f"no idea {i}" if lies == "nonsense" else backwards(problem.answer)
        answer = false if lying and lies in ("flipped", "nonsense") else problem.answer
        right = rng.random() < rate and not (lying and lies == "elsewhere")
        response = problem.answer if right else "9"
        request = Request(
            f"r{i}", float(i), tenant, "digits", "header", 0.1, "0" * 64, "production", "p",
            problem.question, response, (20, 6), 0.01, "stop", 200,
        )  # fmt: skip
        reward = float(response == answer)
        told.append((request, Feedback(f"r{i}", float(i), tenant, reward, answer, "", "verifier")))
    return told


def tenant_of(share: float, rng: random.Random) -> str:
    """Who sends the next request: the liar with a probability of `share`, else one of the honest tenants."""
    return LIAR if rng.random() < share else rng.choice(HONEST)


def backwards(answer: str) -> str:
    """A false answer: the true one from its end to its beginning, or none at all where that is the same."""
    turned = " ".join(reversed(answer.split()))
    return turned if turned != answer else "no idea"
