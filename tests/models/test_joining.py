"""Continuous batching, on a real tiny model with two adapters. B1 an answer is that of the ask alone, whenever others
join and leave; B2 a newcomer has its first token after the next step, for one more pass over its own context; B3 rows
never take more memory than there is for them; B4 a row that ends or is taken out frees its place; B5 every ask is
answered, in the order in which they came, and newcomers do not hold up rows that run; B6 an ask that fails takes no
other with it; B7 a model whose cache cannot take in rows keeps all this, with a batch for each newcomer; B8 adapters
are loaded and dropped between two steps; B9 no token that a running row has in the cache runs again for a newcomer."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import get_peft_model

from fst.config import ModelParams
from fst.errors import EngineError, FstError
from fst.models.adapter import lora_config, save_adapter
from fst.models.engines.in_process import TransformersEngine
from fst.models.engines.joining import RunningBatch
from fst.models.policy import Policy, load_policy
from fst.models.sampler import Answer, Ask, row_bytes
from fst.models.tree import plain_model

pytestmark = pytest.mark.slow
ENDS = [*range(0, 517, 9)]  # an untrained model hardly ever says its own end token
SYSTEM = [3, 137, 148, 145, 4]
CONTEXTS = [(3, 9, 5), (*SYSTEM, 18, 5), (*SYSTEM, 114, 155, 143, 238, 248, 11, 5), (3, 60, 5), (7,), (*SYSTEM, 20, 5)]
LONG = Ask(CONTEXTS[2], None, 40, 0.0, 0)


@dataclasses.dataclass
class Served:
    """An engine, the names of its adapters, None for the base, and answers of single asks."""

    policy: Policy
    adapters: list[str | None]
    alone: dict[Ask, Answer] = dataclasses.field(default_factory=dict)

    @property
    def batch(self) -> RunningBatch:
        assert isinstance(self.policy.engine, TransformersEngine)
        return self.policy.engine.batch()

    def answer(self, ask: Ask) -> Answer:
        if ask not in self.alone:
            self.alone[ask] = self.policy.engine.serve([ask])[0]
        return self.alone[ask]


def exact(folder: Path) -> Policy:
    """In float64, so that no rounding decides which token is drawn."""
    policy = load_policy(ModelParams(base=str(folder), max_new_tokens=12))
    policy.model.double().generation_config.eos_token_id = ENDS
    return policy


@pytest.fixture(scope="module")
def adapters(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folders = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = get_peft_model(load_policy(ModelParams(base=str(tiny_model_dir))).model, lora_config(4, 8))
        with torch.no_grad():
            for key, tensor in model.named_parameters():
                if "lora_B" in key:
                    tensor.normal_(0, 1)
        folders.append(tmp_path_factory.mktemp("adapters") / str(seed))
        save_adapter(model, folders[-1])
    return folders


@pytest.fixture(scope="module")
def served(tiny_model_dir: Path, adapters: list[Path]) -> Served:
    policy = exact(tiny_model_dir)
    names = [policy.engine.load(folder) for folder in adapters]
    policy.model.double()
    return Served(policy, [None, *names])


@pytest.fixture
def plain(tiny_model_dir: Path) -> Served:
    """Without adapters; nothing ends an answer but its limit."""
    served = Served(exact(tiny_model_dir), [None])
    served.policy.model.generation_config.eos_token_id = None
    served.policy.tokenizer.eos_token = "<unk>" if "<unk>" in served.policy.tokenizer.get_vocab() else None
    return served


def room_for(policy: Policy, tokens: int, rows: int) -> int:
    return rows * row_bytes(policy.model, tokens)


def firsts(steps: Sequence[Sequence[tuple[int, object]]]) -> dict[int, int]:
    """The step at which each ask was first told something, from 1."""
    found: dict[int, int] = {}
    for number, told in enumerate(steps, 1):
        for key, _ in told:
            found.setdefault(key, number)
    return found


def stepped(batch: RunningBatch, times: int | None = None) -> Iterator[list[tuple[int, object]]]:
    """What is told at each step, until nothing is left, or for so many steps."""
    while len(batch) if times is None else times > 0:
        yield list(batch.step())
        times = None if times is None else times - 1


@dataclasses.dataclass(frozen=True)
class Visit:
    """An ask by its numbers, the step before which it joins, and how many steps it stays (None: until answered)."""

    context: int
    adapter: int
    limit: int
    warm: bool
    joins: int
    stays: int | None

    def ask(self, served: Served) -> Ask:
        adapter = served.adapters[self.adapter % len(served.adapters)]
        return Ask(CONTEXTS[self.context], adapter, self.limit, float(self.warm), self.context)


visits = st.lists(
    st.builds(
        Visit,
        context=st.integers(0, len(CONTEXTS) - 1),
        adapter=st.integers(0, 2),
        limit=st.integers(1, 14),
        warm=st.booleans(),
        joins=st.integers(0, 12),
        stays=st.one_of(st.none(), st.integers(0, 4)),
    ),
    min_size=1,
    max_size=9,
)


def visited(
    served: Served, plan: Sequence[Visit], look: Callable[[RunningBatch], None] = lambda _: None
) -> dict[int, list[object]]:
    """Everything that is told to each visit."""
    batch, told = served.batch, {key: list[object]() for key in range(len(plan))}
    for step in range(100):
        for key, visit in enumerate(plan):
            if visit.joins == step:
                batch.join(key, visit.ask(served))
            if visit.stays is not None and visit.joins + visit.stays == step:
                batch.leave(key)
        if step > max(visit.joins for visit in plan) + 4 and not len(batch):
            return told
        for key, what in batch.step():
            told[key].append(what)
        look(batch)
    raise AssertionError("not answered in 100 steps")


@settings(deadline=None, max_examples=25, derandomize=True)
@given(plan=visits, rows=st.sampled_from([2, 5, 1000]))
def test_b1_b3_an_answer_is_that_of_the_ask_alone_in_the_memory_there_is(
    served: Served, plan: list[Visit], rows: int
) -> None:
    served.policy.cache_bytes = room_for(served.policy, 27, rows)

    def look(batch: RunningBatch) -> None:
        """Keys, values and logits that are held."""
        held = [(len(b.rows), b.mask.shape[-1], b.cache.get_seq_length()) for b in batch._batches]
        assert all(columns == kept for _, columns, kept in held)
        taken = sum(count * row_bytes(served.policy.model, columns) for count, columns, _ in held)
        assert taken <= served.policy.cache_bytes or sum(count for count, _, _ in held) == 1

    for visit, told in zip(plan, visited(served, plan, look).values(), strict=True):
        answer = served.answer(visit.ask(served))
        tokens = [token for token in answer.tokens if token not in served.policy.end_ids]
        if visit.stays is None:
            assert told[:-1] == tokens
            assert isinstance(told[-1], Answer)
            assert (told[-1].tokens, told[-1].text) == (answer.tokens, answer.text)
            assert told[-1].logprobs == pytest.approx(answer.logprobs, abs=1e-5)
        else:
            begun = [what for what in told if not isinstance(what, Answer)]
            assert begun == tokens[: len(begun)]
            assert len(begun) <= visit.stays


def test_b1_the_answers_differ_by_adapter_context_and_length(served: Served) -> None:
    answers = [
        served.answer(Visit(context, adapter, 14, True, 0, None).ask(served))
        for context in range(len(CONTEXTS))
        for adapter in range(3)
    ]
    assert len({answer.tokens for answer in answers}) >= 15
    assert len({len(answer.tokens) for answer in answers}) > 4


class Calls:
    """Rows and tokens of every pass through the model."""

    def __init__(self, policy: Policy) -> None:
        self.shapes: list[tuple[int, ...]] = []
        plain_model(policy.model).base_model.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, _: torch.nn.Module, args: object, kwargs: dict[str, torch.Tensor]) -> None:
        self.shapes.append(tuple(kwargs["input_ids"].shape))


def test_b2_a_newcomer_has_its_first_token_after_the_next_step(plain: Served) -> None:
    calls, batch = Calls(plain.policy), plain.batch
    batch.join(0, LONG)
    list(stepped(batch, 5))
    assert calls.shapes == [(1, len(LONG.tokens) - 1), *[(1, 1)] * 5]
    batch.join(1, dataclasses.replace(LONG, tokens=CONTEXTS[1], max_new_tokens=3))
    calls.shapes.clear()
    told = batch.step()
    assert calls.shapes == [(1, len(CONTEXTS[1]) - 1 - len(SYSTEM)), (2, 1)]
    assert [key for key, _ in told] == [0, 1]
    assert firsts(list(stepped(batch))) == {0: 1, 1: 1}
    assert calls.shapes[2:] == [(2, 1)] * 2 + [(1, 1)] * (40 - 5 - 3)


def test_b2_newcomers_of_another_adapter_too(served: Served) -> None:
    served.policy.cache_bytes = 2**30
    batch = served.batch
    for key, adapter in enumerate(served.adapters):
        batch.join(key, dataclasses.replace(LONG, adapter=adapter))
        assert {told for told, _ in batch.step()} == set(range(key + 1))


def test_b2_the_cache_does_not_grow_with_the_time_that_is_served(plain: Served) -> None:
    """One short answer after another beside each other: there is always one running."""
    batch, widths = plain.batch, []
    for key in range(60):
        batch.join(key, dataclasses.replace(LONG, tokens=CONTEXTS[key % 2], max_new_tokens=4))
        list(stepped(batch, 2))
        widths.append(batch._batches[0].cache.layers[0].keys.shape[-2])  # type: ignore[union-attr]
        assert len(batch._batches[0].rows) <= 3
    assert max(widths) <= len(CONTEXTS[1]) + 4


def test_b4_a_row_that_ends_or_is_taken_out_frees_its_place(plain: Served) -> None:
    plain.policy.cache_bytes = room_for(plain.policy, len(LONG.tokens) + 40, 2)
    batch = plain.batch
    short = dataclasses.replace(LONG, max_new_tokens=3)
    for key, ask in enumerate((LONG, short, short)):
        batch.join(key, ask)
    assert firsts(list(stepped(batch, 6))) == {0: 1, 1: 1, 2: 4}
    batch.join(3, LONG)
    batch.join(4, short)
    assert firsts(list(stepped(batch, 6))) == {0: 1, 3: 1}
    assert len(batch) == 3
    batch.leave(0)
    assert firsts(list(stepped(batch, 1))) == {3: 1, 4: 1}
    assert [len(rows.rows) for rows in batch._batches] == [2]
    batch.leave(4)
    batch.leave(3)
    batch.leave(3)
    assert len(batch) == 0
    assert batch.step() == []


def test_b4_one_that_waits_may_leave(plain: Served) -> None:
    plain.policy.cache_bytes = 0
    batch = plain.batch
    batch.join(0, dataclasses.replace(LONG, max_new_tokens=2))
    batch.join(1, LONG)
    batch.join(2, dataclasses.replace(LONG, max_new_tokens=2))
    batch.leave(1)
    assert firsts(list(stepped(batch))) == {0: 1, 2: 3}


def test_b5_a_large_ask_is_not_overtaken_for_ever(plain: Served) -> None:
    """It needs the whole room, and small ones come at every step."""
    small, large = dataclasses.replace(LONG, max_new_tokens=4), dataclasses.replace(LONG, max_new_tokens=60)
    plain.policy.cache_bytes = room_for(plain.policy, len(LONG.tokens) + 60, 1)
    batch = plain.batch
    told: list[list[tuple[int, object]]] = []
    for key in range(80):
        batch.join(key, large if key == 5 else small)
        told += stepped(batch, 1)
    told += stepped(batch)
    first = firsts(told)
    assert set(first) == set(range(80))
    assert [first[key] for key in range(80)] == sorted(first[key] for key in range(80)), "in the order that they came"
    before = [number for number, step in enumerate(told, 1) if any(key < 5 for key, _ in step)]
    assert first[5] == before[-1] + 1, "as soon as the rows before it had ended"
    assert first[6] == first[5] + 60


def test_b5_newcomers_do_not_hold_up_rows_that_run(plain: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fst.models.engines.joining.CONTEXT_TOKENS", 16)
    calls, batch = Calls(plain.policy), plain.batch
    batch.join(0, LONG)
    list(stepped(batch, 1))
    for key in range(1, 7):
        batch.join(key, dataclasses.replace(LONG, tokens=(*SYSTEM, key, key, 5)))
    for key in range(7, 10):
        batch.join(key, dataclasses.replace(LONG, tokens=(*range(1, 40), 5)))
    calls.shapes.clear()
    told = list(stepped(batch, 5))
    assert firsts(told) == {0: 1, **dict.fromkeys(range(1, 7), 1), **dict.fromkeys(range(7, 10), 2)}, (
        "what has run or runs once is not counted"
    )
    assert [sum(key == 0 for key, _ in step) for step in told] == [1] * 5
    assert max(rows * tokens for rows, tokens in calls.shapes) == 39


def test_b6_an_ask_that_fails_takes_no_other_with_it(served: Served) -> None:
    served.policy.cache_bytes = 2**30
    good = [Visit(context, 1, 14, True, 0, None).ask(served) for context in range(3)]
    bad = [dataclasses.replace(good[0], tokens=(3, 10**6, 5)), dataclasses.replace(good[0], adapter="fst-none")]
    batch = served.batch
    for key, ask in enumerate((good[0], bad[0], good[1], bad[1], good[2])):
        batch.join(key, ask)
    ends = {key: what for told in stepped(batch) for key, what in told if isinstance(what, Answer | FstError)}
    assert [ends[key].text for key in (0, 2, 4)] == [served.answer(ask).text for ask in good]  # type: ignore[union-attr]
    assert isinstance(ends[1], EngineError)
    assert "the engine failed: IndexError" in str(ends[1])
    assert "adapter fst-none is not loaded" in str(ends[3])


def test_b6_after_a_step_that_fails_others_are_answered(plain: Served) -> None:
    batch = plain.batch
    ask = dataclasses.replace(LONG, max_new_tokens=3)
    for key in (0, 1):
        batch.join(key, ask)
    list(stepped(batch, 1))
    broken = plain_model(plain.policy.model).register_forward_pre_hook(lambda *_: 1 / 0)
    assert [(key, str(what)) for key, what in batch.step()] == [
        (key, "the engine failed: ZeroDivisionError: division by zero") for key in (0, 1)
    ]
    broken.remove()
    assert len(batch) == 0
    batch.join(2, ask)
    assert [what for told in stepped(batch) for _, what in told][-1] == plain.answer(ask)


@pytest.fixture(scope="module")
def sliding(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """A model whose second layer sees four tokens."""
    folder = tmp_path_factory.mktemp("sliding") / "model"
    shutil.copytree(tiny_model_dir, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    config["layer_types"] = ["full_attention", "sliding_attention"]
    (folder / "config.json").write_text(json.dumps(config))
    return Served(exact(folder), [None])


@settings(deadline=None, max_examples=15, derandomize=True)
@given(plan=visits)
def test_b7_a_model_with_a_cache_of_its_own_kind(sliding: Served, plan: list[Visit]) -> None:
    for visit, told in zip(plan, visited(sliding, plan).values(), strict=True):
        if visit.stays is None:
            assert told[-1].tokens == sliding.answer(visit.ask(sliding)).tokens  # type: ignore[attr-defined]


def test_b7_its_newcomers_do_not_wait_either(sliding: Served) -> None:
    batch = sliding.batch
    batch.join(0, LONG)
    list(stepped(batch, 1))
    batch.join(1, LONG)
    assert {key for key, _ in batch.step()} == {0, 1}
    assert [rows.open for rows in batch._batches] == [False, False]


def test_b9_what_a_newcomer_begins_with_is_taken_from_rows_that_run(plain: Served) -> None:
    calls, batch, other = Calls(plain.policy), plain.batch, [*range(50, 62)]
    contexts = [(*SYSTEM, 8, 9, 5), (*other, 7, 5), (*other, 5), (*SYSTEM, 8, 9, 11, 5), (*other, 7, 7, 5), (99, 98, 5)]
    asks = [dataclasses.replace(LONG, tokens=tokens) for tokens in contexts]
    alone = [plain.answer(ask) for ask in asks]
    told: list[object] = []
    for first, last, shapes in (
        (0, 1, [(1, 7), (1, 1)]),
        (1, 2, [(1, 13), (2, 1)]),
        (2, 5, [(3, 1), (5, 1)]),  # nothing but the end of each, and not even that of the second
        (5, 6, [(1, 2), (6, 1)]),
    ):
        calls.shapes.clear()
        for key in range(first, last):
            batch.join(key, asks[key])
        told += batch.step()
        assert calls.shapes == shapes
    told += [what for step in stepped(batch) for what in step]
    answers = {key: what for key, what in told if isinstance(what, Answer)}  # type: ignore[misc]
    assert [answers[key].tokens for key in range(6)] == [answer.tokens for answer in alone]
    assert answers[4].logprobs == pytest.approx(alone[4].logprobs, abs=1e-5)


def test_b8_adapters_come_and_go_while_rows_run(plain: Served, adapters: list[Path]) -> None:
    engine, batch = plain.policy.engine, plain.batch
    base = dataclasses.replace(LONG, max_new_tokens=20)
    alone = {}
    for adapter in (None, *map(engine.load, adapters)):
        plain.policy.model.double()
        alone[adapter] = plain.answer(dataclasses.replace(base, adapter=adapter)).tokens
    assert len(set(alone.values())) == 3
    first, second = (name for name in alone if name)
    for name in (first, second):
        engine.unload(name)
    told: dict[int, list[object]] = {key: [] for key in range(3)}

    def steps(times: int) -> None:
        for said in stepped(batch, times):
            for key, what in said:
                told[key].append(what)

    batch.join(0, base)
    steps(2)
    engine.load(adapters[0])
    plain.policy.model.double()
    batch.join(1, dataclasses.replace(base, adapter=first, max_new_tokens=6))
    steps(2)
    engine.load(adapters[1])
    plain.policy.model.double()
    batch.join(2, dataclasses.replace(base, adapter=second, max_new_tokens=12))
    steps(4)
    engine.unload(first)
    steps(2)
    batch.leave(2)
    engine.unload(second)
    steps(10)
    assert (*told[0][:-1],) == alone[None]
    assert (*told[1][:-1],) == alone[first][:6]
    assert (*told[2],) == alone[second][:6]
    assert len(batch) == 0


def test_b8_rows_of_an_adapter_that_is_dropped_are_told(served: Served, adapters: list[Path]) -> None:
    batch, engine = served.batch, served.policy.engine
    served.policy.cache_bytes = 2**30
    name = served.adapters[2]
    assert name is not None
    batch.join(0, dataclasses.replace(LONG, adapter=name))
    list(stepped(batch, 1))
    batch.join(1, LONG)
    engine.unload(name)
    try:
        (failed, what), *others = batch.step()
        assert (failed, str(what)) == (0, f"adapter {name} is not loaded; load its folder first")
        assert [key for key, _ in others] == [1]
    finally:
        engine.load(adapters[1])
        served.policy.model.double()
