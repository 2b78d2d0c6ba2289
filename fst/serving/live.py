"""The releases in force. The channel is polled; the release it points at is fetched, verified, loaded, and only then
swapped in. A request keeps the release it began with; an adapter is unloaded after its last request.

A new release may first be tried on a share of the traffic (canary). Once enough of its answers have been scored it is
promoted, or, if its mean reward is below production's (one-sided Welch test at 95%), the channel is moved back.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fst.config import ServeParams
from fst.errors import ChannelMoved, EngineError, FstError
from fst.serving.router import Route, Router
from fst.serving.threads import Threads
from fst.serving.worker import Worker
from fst.store.bundle import Bundle
from fst.store.releases import Releases

Variant = Literal["production", "canary", "shadow"]
WORSE = 1.645  # standard errors below production's mean that count as worse: one-sided, 95%
log = logging.getLogger("fst.gateway")


@dataclass(eq=False)
class Release:
    """A release, ready to serve. `prompts` has (id, text) pairs by domain, the best first; `adapter` is its name in the
    engine, None for the base; `in_hand` counts the requests that are answered with it."""

    id: str
    manifest: dict[str, Any]
    prompts: dict[str, list[tuple[str, str]]]
    router: Router
    adapter: str | None
    in_hand: int = 0
    turns: dict[str, Iterator[int]] = field(default_factory=dict)

    @property
    def domains(self) -> list[str]:
        return list(self.prompts)

    @property
    def seed_prompt(self) -> str:
        """The prompt for requests of an unknown domain."""
        return str(self.manifest["params"].get("loop", {}).get("seed_prompt", ""))

    @property
    def template_options(self) -> dict[str, Any]:
        """The options of the chat template that the release was trained with."""
        return dict(self.manifest["params"].get("model", {}).get("chat_template_kwargs", {}))

    def route(self, text: str) -> Route:
        """Route a text to a domain. A release with one domain and no reference traffic sends every text there."""
        if not self.router.domains and len(self.prompts) == 1:
            return Route(self.domains[0], True, 0.0, 1.0)
        return self.router.route(text)

    def prompt(self, domain: str, dealt: bool) -> tuple[str, str]:
        """Return (id, text) of the prompt for a request: the domain's best or, with `dealt`, its prompts in turn."""
        if domain not in self.prompts:
            return "", self.seed_prompt
        prompts = self.prompts[domain]
        if not dealt:
            return prompts[0]
        turn = self.turns.setdefault(domain, itertools.count())
        return prompts[next(turn) % len(prompts)]

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the release loaded inside the block, while a request is answered with it."""
        self.in_hand += 1
        try:
            yield
        finally:
            self.in_hand -= 1


@dataclass
class Trial:
    """A canary: the rewards of its own and of production's scored answers since it began."""

    release: Release
    own: list[float] = field(default_factory=list)
    production: list[float] = field(default_factory=list)

    def verdict(self, scored: int) -> Literal["promote", "roll back"] | None:
        """Return the outcome once the canary has `scored` scored answers; None before."""
        if len(self.own) < scored:
            return None
        if len(self.production) < 2:
            return "promote"
        return "roll back" if worse(self.own, self.production) else "promote"


def worse(ours: list[float], theirs: list[float]) -> bool:
    """Whether the mean of ours is below theirs by more than chance (one-sided Welch test at 95%, normal
    approximation)."""
    spread = statistics.variance(ours) / len(ours) if len(ours) > 1 else 0.0
    spread += statistics.variance(theirs) / len(theirs) if len(theirs) > 1 else 0.0
    return statistics.fmean(theirs) - statistics.fmean(ours) > WORSE * math.sqrt(spread)


class Live:
    """The releases that are served. Call all methods on the gateway's event loop; the store is read in threads."""

    def __init__(self, releases: Releases, worker: Worker | Threads, params: ServeParams, channel: str) -> None:
        self.releases, self.worker, self.params, self.channel = releases, worker, params, channel
        self.production: Release | None = None
        self.shadow: Release | None = None
        self.trial: Trial | None = None
        self.problem = ""  # why the channel's release is not the one in force
        self.swaps = 0
        self.since = 0.0
        self._ready: dict[str, Release] = {}
        self._refused: set[str] = set()
        self._turn = asyncio.Lock()
        self.folder: Callable[[str], Path] = lambda bundle_id: Path("models/fetched") / bundle_id

    # -- requests ---------------------------------------------------------------------------------------

    def choose(self, request: str) -> tuple[Release, Variant] | None:
        """Choose the release that answers the request with this id, and its variant; None before the first release."""
        if self.trial and share_of(request) < self.params.canary_percent / 100:
            return self.trial.release, "canary"
        return (self.production, "production") if self.production else None

    def scored(self, release: str, reward: float) -> None:
        """Count a reward for an answer of a release towards the canary's verdict."""
        if self.trial is None or self.production is None:
            return
        if release == self.trial.release.id:
            self.trial.own.append(reward)
        elif release == self.production.id:
            self.trial.production.append(reward)

    # -- the channel ------------------------------------------------------------------------------------

    async def follow(self) -> None:
        """Call `look` every `serve.poll_seconds` for as long as the gateway runs."""
        while True:
            await asyncio.sleep(self.params.poll_seconds)
            await self.look()

    async def look(self) -> None:
        """Bring the served releases up to date with the channel, once. If that fails, everything stays as it was, and
        `problem` has the reason."""
        async with self._turn:
            try:
                await self._settle()
                await self._follow_channel()
                if self.params.shadow:
                    await self._follow_shadow()
                self.problem = ""
            except (FstError, OSError) as exc:
                if str(exc) != self.problem:
                    log.warning("cannot serve the channel's release: %s", exc)
                self.problem = str(exc)
            await self._forget()

    async def _follow_channel(self) -> None:
        bundle_id = (await asyncio.to_thread(self.releases.channel, self.channel)).bundle
        served = self.production.id if self.production else None
        if bundle_id is None or bundle_id == served:
            self.trial = None
            return
        if self.trial and self.trial.release.id == bundle_id:
            return
        release = await self._prepared(bundle_id)
        if self.production and self.params.canary_percent and bundle_id not in self._refused:
            self.trial = Trial(release)
            log.info("release %s serves %g%% of the traffic", bundle_id[:12], self.params.canary_percent)
        else:
            self._swap(release)

    async def _follow_shadow(self) -> None:
        bundle_id = (await asyncio.to_thread(self.releases.channel, self.params.shadow)).bundle
        if bundle_id and (self.shadow is None or self.shadow.id != bundle_id):
            self.shadow = await self._prepared(bundle_id)

    async def _settle(self) -> None:
        """Promote the canary or roll it back, once enough of its answers have been scored."""
        if self.trial is None or self.production is None:
            return
        verdict = self.trial.verdict(self.params.canary_scored)
        if verdict == "promote":
            log.info("release %s is promoted", self.trial.release.id[:12])
            self._swap(self.trial.release)
        elif verdict == "roll back":
            ours, theirs = (statistics.fmean(r) for r in (self.trial.own, self.trial.production))
            reason = f"canary: reward {ours:.3f} on {len(self.trial.own)} scored requests, production's {theirs:.3f}"
            log.warning("release %s is rolled back: %s", self.trial.release.id[:12], reason)
            self._refused.add(self.trial.release.id)
            channel = await asyncio.to_thread(self.releases.channel, self.channel)
            if channel.bundle == self.trial.release.id:
                with suppress(ChannelMoved):  # somebody else decided meanwhile
                    await asyncio.to_thread(self.releases.move, channel, self.production.id, "rollback", reason)
            self.trial = None

    def _swap(self, release: Release) -> None:
        self.production, self.trial = release, None
        self.swaps += 1
        self.since = time.time()
        log.info("release %s is in force", release.id[:12])

    async def _prepared(self, bundle_id: str) -> Release:
        """Fetch, verify and load a release. Raises FstError, in which case nothing has changed."""
        if bundle_id not in self._ready:
            bundle = await asyncio.to_thread(self.releases.fetch, bundle_id, self.folder(bundle_id))
            release = await asyncio.to_thread(_read, bundle)
            if bundle.adapter:
                release.adapter = await self.worker.load(bundle.adapter)
            self._ready[bundle_id] = release
        return self._ready[bundle_id]

    async def _forget(self) -> None:
        """Unload the releases that are no longer served and that no request uses."""
        kept = [self.production, self.shadow, self.trial.release if self.trial else None]
        for bundle_id, release in list(self._ready.items()):
            if release.in_hand or any(release is one for one in kept):
                continue
            del self._ready[bundle_id]
            if release.adapter and all(release.adapter != other.adapter for other in self._ready.values()):
                with suppress(EngineError):
                    await self.worker.unload(release.adapter)


def _read(bundle: Bundle) -> Release:
    prompts = {
        domain: [(prompt["id"], prompt["text"]) for prompt in served["prompts"]]
        for domain, served in bundle.prompts().items()
    }
    questions = {
        domain: list(dict.fromkeys(row["question"] for row in traffic["rows"]))
        for domain, traffic in bundle.reference().items()
    }
    return Release(bundle.id, bundle.manifest, prompts, Router(questions), None)


def share_of(request: str) -> float:
    """Hash a request id to a number in [0, 1), uniform over ids and always the same for one id."""
    return int.from_bytes(hashlib.sha256(request.encode()).digest()[:6]) / 2**48
