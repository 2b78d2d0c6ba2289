"""The sections of params.yaml about the stages of a domain and about releases: domains, checks, trackers, gate, store,
flows."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from fst.config.section import Number, Section, Texts, as_tuple
from fst.types import AnswerSetting, Arm, scored_with, with_answer


class DomainParams(Section):
    """A domain, which the stages know by its name here. It continues from the bundle of `start`: that bundle's adapter
    is trained further, and its other domains' prompts are kept."""

    spec: str = Field("", description="where the problems come from: FAMILY/NAME, or FAMILY:ARGUMENTS")
    verifier: str = Field(
        "",
        description="what scores a file's problems that name no verifier, or a hub dataset's: a name, "
        "FILE.py:FUNCTION, or a JSON object of name and options",
    )
    source: str = Field("fst/data/lab/rules.py", description="the file that the stage depends on for these problems")
    answer: AnswerSetting = Field(
        "", description="how the answer is found in a response (docs/answers.md); empty: the family's default"
    )
    start: str = Field("base", description="the earlier domain whose bundle it continues; `base`: the base model")
    serves: str = Field("", description="the domain's name in its bundle, where that differs: same domain, newer data")
    set: Texts = Field((), description="overrides for this domain's stages only, each as section.key=value")

    @property
    def full_spec(self) -> str:
        """The spec with the verifier and the answer mode, in the form of records and manifests."""
        return with_answer(scored_with(self.spec, self.verifier), self.answer)


class ValidateParams(Section):
    """Limits of the checks on each split of prepared problems."""

    min_problems: int = Field(16, ge=1, description="fewest problems of a split")
    max_answer_share: Number = Field(0.5, ge=0, le=1, description="share of the most common answer; above: a warning")
    max_slice_share: Number = Field(0.9, ge=0, le=1, description="share of the largest slice (meta.branch), likewise")


class TrainParams(Section):
    """The stage `train`."""

    arm: Arm = Field(
        "fst",
        description="what learns: `fst` both, `rl` only the adapter, `gepa` only the prompts, `rl_gepa` and "
        "`gepa_rl` one after the other; `distill` moves the prompt of the bundle it starts from into the adapter",
    )
    seed: int = Field(0, ge=0, description="seed of everything that the stage draws")


Tracker = Literal["tensorboard", "mlflow", "wandb", "trackio"]


class TrackParams(Section):
    """Where runs and decisions of the gate are shown, beside their own records (fst/runs/trackers.py)."""

    to: Annotated[tuple[Tracker, ...], BeforeValidator(as_tuple)] = Field(
        (),
        description="trackers by name: `tensorboard`, `mlflow`, `wandb`, `trackio`; each is an extra, and configured "
        "by the library's own environment variables",
    )
    project: str = Field("fst", description="name of the project, or of MLflow's experiment")


class BundleParams(Section):
    """The stage `bundle`."""

    prompts: int = Field(4, ge=1, description="the most prompts that a domain ships, best first")


class GateParams(Section):
    """When a candidate may replace production. Rewards are in [0, 1]."""

    confidence: Number = Field(0.95, ge=0.5, le=0.9999, description="level of the interval of the reward difference")
    resamples: int = Field(2000, ge=100, description="resamples of the paired bootstrap")
    tie: Literal["keep", "replace"] = Field("keep", description="production's fate if the interval contains zero")
    max_forgetting: Number = Field(0.05, ge=0, le=1, description="mean reward that a domain in production may lose")
    max_kl: Number = Field(2.0, ge=0, description="KL divergence from the base model, in nats per token")
    max_prompt_tokens: int | None = Field(
        None, ge=1, description="longest prompt, in tokens; null: the longest that training may make"
    )
    max_cost_ratio: Number = Field(
        1.5, ge=0, description="tokens read and written per answer without the prompt's, relative to production's"
    )
    seed: int = Field(0, ge=0, description="seed of the bootstrap")


class StoreParams(Section):
    """Where releases are kept."""

    url: str = Field("models/releases", description="a directory, or s3://bucket/prefix (credentials: environment)")
    channel: str = Field("prod", description="the release pointer that commands use unless --channel names another")
    public_key: str = Field("", description="PEM file; if set, only bundles signed with its key are used")
    allow_unconditional_writes: bool = Field(False, description="use S3 without compare-and-swap: one publisher only")


class FlowParams(Section):
    """Retries and time limits of the flows."""

    retries: int = Field(3, ge=0, description="further attempts after an infrastructure failure")
    retry_seconds: Number = Field(2.0, ge=0, description="wait before the first retry; doubled each time")
    round_seconds: float | None = Field(
        None,
        ge=0,
        description="longest training round, after which it is ended as hung; null: an hour, or a second for every 50 "
        "tokens that it may draw if that is more",
    )
    stage_seconds: float | None = Field(None, ge=0, description="the same for any other stage")
