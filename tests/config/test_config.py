"""params.yaml: it ships the defaults, mistakes are refused by the key's path, every key is documented and has a reader,
records are read with the names that keys had in them, and the JSON of parameters does not move."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fst.config import PROPOSALS, DomainParams, FastParams, Params, load_params, params_from_dict, params_from_record
from fst.config.section import Section
from fst.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "params.yaml"
SECTIONS = {field.alias or name: field.annotation for name, field in Params.model_fields.items()}


def write(folder: Path, text: str) -> Path:
    path = folder / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shipped_file_is_the_defaults() -> None:
    assert load_params(SHIPPED).replace(domains={}) == Params() == load_params(None)


def test_the_shipped_file_names_every_section() -> None:
    shipped = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
    assert list(shipped) == list(SECTIONS)


def test_what_is_not_named_keeps_its_default(tmp_path: Path) -> None:
    params = load_params(write(tmp_path, "loop:\n  cycles: 3\nslow:\nprepare: {}\n"))
    assert params == Params().replace(loop=Params().loop.replace(cycles=3))
    assert load_params(write(tmp_path, "")) == Params()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"slo": {}}, "slo: unknown key; did you mean 'slow'?"),
        ({"slow": {"learning_rat": 1.0}}, "slow.learning_rat: unknown key; did you mean 'learning_rate'?"),
        ({"prepare": {"zebra": 1}}, "prepare.zebra: unknown key; known keys: seed, train, validation, test"),
        ({"prepare": 3}, "prepare: expected a section with keys, found 3"),
        ({"prepare": [1]}, "prepare: expected a section with keys, found [1]"),
        ({"prepare": {"train": "many"}}, "prepare.train: expected int, found 'many'"),
        ({"prepare": {"train": 1.5}}, "prepare.train: expected int, found 1.5"),
        ({"prepare": {"train": True}}, "prepare.train: expected int, found True"),
        ({"slow": {"learning_rate": False}}, "slow.learning_rate: expected float, found False"),
        ({"model": {"base": 7}}, "model.base: expected str, found 7"),
        ({"slow": {"trl": [1]}}, "slow.trl: expected a mapping, found list"),
        ({"model": {"chat_template_kwargs": "x"}}, "model.chat_template_kwargs: expected a mapping, found str"),
        (
            {"model": {"chat_template_kwargs": {"enable_thinking": [1]}}},
            "model.chat_template_kwargs.enable_thinking: expected true, false, a number or a text, found [1]",
        ),
        (
            {"model": {"chat_template_kwargs": {"tokenize": False}}},
            "model.chat_template_kwargs.tokenize: is no option of a chat template",
        ),
        ({"model": {"dtype": "float16"}}, "model.dtype: 'float16' is none of 'float32', 'bfloat16'"),
        ({"prepare": {"train": 0}}, "prepare.train: 0 is out of range, it must be at least 1"),
        ({"slow": {"group_size": 1}}, "slow.group_size: 1 is out of range, it must be at least 2"),
        ({"slow": {"ratio_cap": 0.9}}, "slow.ratio_cap: 0.9 is out of range, it must be at least 1"),
        ({"slow": {"kl_penalty": float("nan")}}, "slow.kl_penalty: nan is out of range, it must be at least 0"),
        ({"fast": {"prompts": 3}}, "fast.prompts: K=3 does not divide slow.group_size G=8"),
        ({"fast": {"prompts": 16}}, "fast.prompts: K=16 does not divide slow.group_size G=8"),
        ({"fast": {"minibatch": 33}}, "fast.minibatch: 33 is more than fast.anchors (32)"),
        (
            {"fast": {"budget": 55}},
            "fast.budget: 55 rollouts leave none for a proposal beside scoring again what is carried (4); 56 do for "
            "one, 104 for 3, and fewer with a smaller fast.minibatch",
        ),
        ({"fast": {"tie": 1}}, "fast.tie: 1 is out of range, it must be between 0 and 0.9"),
        ({"gate": {"max_prompt_tokens": 0}}, "gate.max_prompt_tokens: 0 is out of range, it must be at least 1"),
        ({"gate": {"max_prompt_tokens": "x"}}, "gate.max_prompt_tokens: expected int, found 'x'"),
        ({"flows": {"round_seconds": -1}}, "flows.round_seconds: -1 is out of range, it must be at least 0"),
        ({"gate": {"confidence": 1}}, "gate.confidence: 1 is out of range, it must be between 0.5 and 0.9999"),
        ({"slow": {"learning_rate": "fast"}}, "slow.learning_rate: expected float, found 'fast'"),
        ({"fast": {"carry": 1}}, "fast.carry: expected bool, found 1"),
        ({"vllm": {"arguments": "--x"}}, "vllm.arguments: expected a list, found str"),
        ({"vllm": {"arguments": ["--x", 5]}}, "vllm.arguments[1]: expected str, found 5"),
        ({"slow": {7: 1}}, "slow[7]: unknown key; known keys: problems_per_step"),
        ({"domains": {7: {}}}, "domains[7]: expected str, found 7"),
        ({"validation": {}}, "validation: unknown key; did you mean 'validate'?"),
        ({"prepare": {"train": 0}, "slo": {}}, "slo: unknown key; did you mean 'slow'?"),
        (
            {"evaluate": {"drift_problems": 5}},
            "evaluate.drift_problems: unknown key; its name is evaluate.kl_problems",
        ),
        ({"model": {"engine": "vlm"}}, "model.engine: 'vlm' is none of 'transformers', 'vllm'; did you mean 'vllm'?"),
    ],
)
def test_a_mistake_is_refused_by_its_path(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        params_from_dict(values)


def test_a_whole_number_is_a_float_where_one_is_wanted() -> None:
    params = params_from_dict({"slow": {"learning_rate": 1, "trl": {"top_k": 5}}})
    assert repr(params.slow.learning_rate) == "1.0"
    assert params.slow.trl == {"top_k": 5}


def test_overrides_are_yaml_and_the_last_one_counts(tmp_path: Path) -> None:
    path = write(tmp_path, "loop:\n  cycles: 3\n  steps_per_cycle: 2\n")
    params = load_params(
        path, ["loop.cycles=4", "slow.trl={top_k: 5}", "loop.seed_prompt=a = b", "loop.cycles=5", "model.base='7'"]
    )
    assert (params.loop.cycles, params.loop.steps_per_cycle) == (5, 2)
    assert params.slow.trl == {"top_k": 5}
    assert (params.loop.seed_prompt, params.model.base) == ("a = b", "7")


def test_an_override_may_be_in_scientific_notation() -> None:
    assert load_params(None, ["slow.learning_rate=1e-4"]).slow.learning_rate == 0.0001


def test_an_override_reaches_any_depth() -> None:
    params = load_params(SHIPPED, ["domains.sort_add.spec=lab/reverse", "slow.trl.top_k=5", "slow.trl.top_p=0.5"])
    assert params.domains["sort_add"] == load_params(SHIPPED).domains["sort_add"].replace(spec="lab/reverse")
    assert list(params.domains) == ["sort_add", "letters", "odd_rotate"]
    assert params.slow.trl == {"top_k": 5, "top_p": 0.5}
    assert load_params(SHIPPED, ["domains.new={spec: lab/reverse}"]).domain("new").spec == "lab/reverse"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loop.cycles", "--set loop.cycles: write section.key=value"),
        ("cycles=3", "--set cycles=3: write section.key=value"),
        ("loop.cycle=3", "loop.cycle: unknown key; did you mean 'cycles'?"),
        ("loop.cycles=three", "loop.cycles: expected int, found 'three'"),
        ("loop.cycles=", "loop.cycles: expected int, found None"),
        ("domains.sort_ad.spec=x", "domains.sort_ad: params.yaml has no such domain; did you mean 'sort_add'?"),
        (
            "domains.zebra.spec=x",
            "domains.zebra: params.yaml has no such domain; it has: sort_add, letters",
        ),
        ("domains.letters.sepc=x", "domains.letters.sepc: unknown key; did you mean 'spec'?"),
        ("model.base.x=1", "model.base: expected a section with keys, found 'lab'"),
        ("loop.seed_prompt=a: b: c", "--set loop.seed_prompt=a: b: c: not readable as YAML"),
    ],
)
def test_a_wrong_override_is_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        load_params(SHIPPED, [override])


def test_an_override_inside_a_section_that_is_no_section_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^prepare: expected a section with keys, found 5"):
        load_params(write(tmp_path, "prepare: 5\n"), ["prepare.train=3"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", "not readable as YAML"),
        (b"loop:\n\tcycles: 3\n", "not readable as YAML"),
        (b"\xff\xfe\xff", "not readable as YAML"),
        (b"- 1\n- 2\n", "expected sections with keys at the top"),
        (b"just words\n", "expected sections with keys at the top"),
    ],
)
def test_a_file_that_is_no_params_file_is_refused_by_its_path(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"^{re.escape(str(path))}: {message}"):
        load_params(path)


@pytest.mark.parametrize("path", sorted((ROOT / "params").glob("qwen3-*.yaml")), ids=lambda path: path.stem)
def test_the_files_of_hub_models_hold_the_papers_settings(path: Path) -> None:
    params = load_params(path)
    slow, fast, loop = params.slow, params.fast, params.loop
    assert (loop.steps_per_cycle, fast.prompts, slow.group_size, slow.warmup_steps) == (6, 4, 8, 10)
    assert (slow.ratio_cap, slow.kl_penalty, fast.budget) == (4.0, 0.001, 5 * fast.anchors)
    assert fast.anchors == loop.steps_per_cycle * slow.problems_per_step, "the problems of the next T batches"
    assert (params.model.engine, params.reflector.kind, params.reflector.api_key_env) == (
        "vllm", "endpoint", "OPENAI_API_KEY",
    )  # fmt: skip
    assert params.vllm.context > fast.max_prompt_tokens + params.model.max_new_tokens


def test_a_missing_file_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file; name a params file with --params"):
        load_params(tmp_path / "none.yaml")


def test_the_rollout_budget_of_all_arms_is_what_fst_may_spend() -> None:
    params = params_from_dict({"loop": {"cycles": 2, "steps_per_cycle": 3}, "fast": {"budget": 100}})
    assert params.rollouts_per_step == 16 * 8
    assert params.rollout_budget == 2 * (100 + 3 * 16 * 8)
    assert params_from_dict({"loop": {"rollout_budget": 77}}).rollout_budget == 77


@settings(max_examples=200)
@given(st.integers(1, 1200), st.integers(1, 8), st.integers(1, 200), st.integers(1, 16), st.booleans())
def test_a_fast_round_has_room_for_as_many_proposals_as_its_budget_says(
    budget: int, prompts: int, anchors: int, minibatch: int, carry: bool
) -> None:
    """Within the budget, as many as there can be on a minibatch's number of anchors, and then as many anchors."""
    fast = FastParams(prompts=prompts, anchors=max(anchors, minibatch), minibatch=minibatch, carry=carry)
    used, proposals = fast.room(budget, fast.carried)

    def cost(anchors: int) -> int:
        return fast.carried * anchors + proposals * (2 * minibatch + anchors)

    assert cost(used) <= budget
    assert used == fast.anchors or cost(used + 1) > budget
    assert proposals == max((n for n in range(1, PROPOSALS + 1) if fast.budget_for(n) <= budget), default=0)


def test_where_prompts_are_not_carried_one_is_scored_again() -> None:
    assert params_from_dict({"fast": {"budget": 32, "carry": False}}).fast.carried == 1
    with pytest.raises(ConfigError, match=r"^fast\.budget: 31 rollouts leave none .* carried \(1\)"):
        params_from_dict({"fast": {"budget": 31, "carry": False}})


def test_a_temperature_needs_log_probabilities_at_it() -> None:
    loop = {"signal": ["temperature", "problems"], "signal_temperature": 2}
    assert params_from_dict({"loop": loop}).loop.signal == ("temperature", "problems")
    with pytest.raises(ConfigError, match=r"^loop\.signal: temperature needs model\.engine: transformers; vllm does"):
        params_from_dict({"loop": loop, "model": {"engine": "vllm"}})
    with pytest.raises(ConfigError, match=r"^loop\.signal"):
        params_from_dict({"loop": {"signal": ["noise"]}})


def test_the_patience_of_flows_follows_from_what_may_be_drawn() -> None:
    lab = load_params(SHIPPED)
    assert (lab.flow_limits.round_seconds, lab.flow_limits.stage_seconds) == (3600.0, 3600.0)
    large = params_from_dict({"model": {"max_new_tokens": 4096}, "flows": {"stage_seconds": 60}})
    rollouts = 400 + 6 * 16 * 8 + 4 * (200 + 200)
    assert large.flow_limits.round_seconds == rollouts * 4096 / 50
    assert large.flow_limits.stage_seconds == 60
    assert params_from_dict({"model": {"max_new_tokens": 4096}}).flow_limits.stage_seconds == 4 * 400 * 4 * 4096 / 50


def classes() -> dict[str, type[Section]]:
    """The class of every section; of `domains`, a domain's."""
    return {name: DomainParams if name == "domains" else kind for name, kind in SECTIONS.items()}


def test_every_key_has_a_reader() -> None:
    read: set[str] = set()
    for room in ("fst", "pipelines"):
        for path in (ROOT / room).rglob("*.py"):
            if path.parent.name != "config":
                tree = ast.parse(path.read_text(encoding="utf-8"))
                read |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    keys = {f"{section}.{key}": key for section, kind in classes().items() for key in kind.model_fields}
    assert len(keys) > 100
    assert {path for path, key in keys.items() if key not in read} == set()


def test_every_key_says_what_it_is_and_every_number_where_it_ends() -> None:
    for section, kind in classes().items():
        assert kind.__doc__, section
        for key, field in kind.model_fields.items():
            assert len(field.description or "") > 8, f"{section}.{key}"
            if field.annotation in (int, float):
                assert any(hasattr(bound, "ge") for bound in field.metadata), f"{section}.{key} has no lower bound"


def test_the_schema_that_editors_use_is_current() -> None:
    printed = subprocess.run([sys.executable, "-m", "fst.config"], cwd=ROOT, check=True, capture_output=True, text=True)
    assert (ROOT / "params.schema.json").read_text(encoding="utf-8") == printed.stdout, (
        "write it again: python -m fst.config > params.schema.json"
    )
    schema = json.loads(printed.stdout)
    group_size = schema["$defs"]["SlowParams"]["properties"]["group_size"]
    assert (group_size["minimum"], group_size["default"], group_size["type"]) == (2, 8, "integer")
    assert schema["additionalProperties"] is False
    assert list(schema["properties"]) == list(SECTIONS)


@pytest.mark.parametrize("path", [SHIPPED, *sorted((ROOT / "params").glob("*.yaml"))], ids=lambda path: path.stem)
def test_editors_find_the_schema_from_every_params_file(path: Path) -> None:
    head, _, place = path.read_text(encoding="utf-8").splitlines()[0].partition("=")
    assert head == "# yaml-language-server: $schema"
    assert (path.parent / place).resolve() == ROOT / "params.schema.json"


def fingerprint(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def test_the_json_of_parameters_does_not_move() -> None:
    """Run folders and bundles have names that are hashes of it: its keys, their order and how numbers are written."""
    overrides = ["slow.trl={top_k: 5, x: [1, 2.5]}", "slow.learning_rate=1e-4", "vllm.arguments=[a, b]"]
    odd = load_params(SHIPPED, [*overrides, "domains.x={set: [loop.cycles=2]}"])
    assert fingerprint(odd.as_dict()) == "d05ac102ee86c80f"
    assert fingerprint(load_params(SHIPPED).as_dict()) == "0f2578415b2399da"
    assert fingerprint(load_params(SHIPPED).of_run()) == "dd6db07fb03c6f1c"
    assert fingerprint(load_params(ROOT / "params/qwen3-8b.yaml").of_run()) == "2054b9196cf420eb"


@pytest.mark.parametrize(
    ("domains", "message"),
    [
        ({"Bad": {}}, "domains.Bad: a name is a-z, 0-9, - and _"),
        ({"base": {}}, "domains.base: a name is"),
        ({"a": {"start": "b"}, "b": {}}, "domains.a.start: 'b' is none of those before it: base"),
        ({"a": {}, "b": {"start": "c"}}, "domains.b.start: 'c' is none of those before it: base, a"),
        ({"a": {"sepc": "lab/reverse"}}, "domains.a.sepc: unknown key; did you mean 'spec'?"),
        ({"a": 3}, "domains.a: expected a section with keys, found 3"),
    ],
)
def test_a_domain_builds_on_what_is_listed_before_it(domains: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        params_from_dict({"domains": domains})


def test_an_unknown_domain_is_named_with_those_there_are() -> None:
    params = params_from_dict({"domains": {"a": {"spec": "lab/reverse"}, "b": {"start": "a"}}})
    assert params.domain("a").spec == "lab/reverse"
    assert params.domain("b").start == "a"
    with pytest.raises(ConfigError, match=r"^domains\.c: params.yaml has no such domain; it has: a, b$"):
        params.domain("c")


def test_a_run_is_decided_by_its_own_sections() -> None:
    """Domains, gate and store may change around a run that goes on."""
    before = Params().of_run()
    assert params_from_dict({"gate": {"max_kl": 9}, "domains": {"a": {}}, "store": {"channel": "x"}}).of_run() == before
    assert params_from_dict({"slow": {"lora_rank": 2}}).of_run() != before


def test_a_domains_overrides_hold_for_its_stages() -> None:
    params = load_params(SHIPPED, ["domains.letters.set=[loop.cycles=2, slow.trl.top_k=5]"])
    own = params.of_domain("letters")
    assert (own.loop.cycles, own.slow.trl, params.loop.cycles) == (2, {"top_k": 5}, 10)
    assert own.replace(loop=params.loop, slow=params.slow) == params
    assert params.of_domain("sort_add") is params
    wrong = load_params(SHIPPED, ["domains.letters.set=[loop.cycle=2]"])
    with pytest.raises(ConfigError, match=r"^domains\.letters\.set: loop\.cycle: unknown key; did you mean 'cycles'"):
        wrong.of_domain("letters")


def test_records_are_read_with_the_names_that_keys_had() -> None:
    record = json.loads(json.dumps(Params().of_run()).replace("kl_problems", "drift_problems"))
    record["domains"] = {"a": {"set": ["evaluate.drift_problems=7", "loop.cycles=2"]}, "b": {}}
    params = params_from_record(record)
    assert params.of_run() == Params().of_run()
    assert params.domains["a"].set == ("evaluate.kl_problems=7", "loop.cycles=2")
    assert record["evaluate"]["drift_problems"] == 100, "the record itself stays as it is"


def test_a_checked_copy() -> None:
    slow = Params().slow.replace(group_size=4)
    assert (slow.group_size, slow.lora_rank, Params().slow.group_size) == (4, 16, 8)
    with pytest.raises(ValidationError):
        slow.replace(group_size=1)
    with pytest.raises(ValidationError):
        slow.group_size = 3  # type: ignore[misc]
    with pytest.raises(ConfigError, match=r"^fast\.prompts: K=4 does not divide"):
        Params().replace(slow={"group_size": 6})
