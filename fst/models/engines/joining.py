"""Continuous batching: asks join and leave a running batch of answers between two steps.

When an ask joins, its context runs, except the prefix that it shares with a running row (usually its prompt), and it
takes the place of an ended row or a new one. From the next step on it gets a token per step like all others, so a
newcomer waits for one step and for its own context, however long the other answers are. The rows of one adapter form
one batch; the batches of several adapters step in turn.

Asks join in the order of arrival, as many as fit in memory, and none overtakes another: an ask that does not fit yet
gets the memory that earlier rows free. Between two steps at most CONTEXT_TOKENS tokens of contexts run, not counting
shared prefixes, so that newcomers do not hold up the running rows.

Invariants, each with a test: B1 an answer is the same as if the ask ran alone, whenever others join and leave; B2 a
newcomer has its first token after the next step; B3 rows never take more memory than is set aside for them; B4 a row
that ends or is taken out frees its place; B5 every ask is answered, whatever the other asks are; B6 an ask that fails
does not make others fail; B7 all this also holds, with a batch for each newcomer, if the model's cache cannot take in
rows; B8 adapters are loaded and dropped between two steps; B9 no token that a running row has in the cache runs again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, cast

import torch
from torch.nn import functional

from fst.errors import EngineError, FstError
from fst.models.cache import GrowingLayer, new_cache
from fst.models.engines.engine import Told
from fst.models.sampler import MAX_ROWS, Ask, Decoder, Row, row_bytes
from fst.models.slices import Slice, common
from fst.models.tree import Encoded, continue_contexts, plain_model, takes_tree, tree_tokens

if TYPE_CHECKING:
    from fst.models.policy import Policy

CONTEXT_TOKENS = 1024  # that run between two steps, or one context if it is longer


class JoinedRows(Decoder):
    """The rows of one adapter. Each row's tokens are aligned at the right, so that a row takes as many columns of the
    cache as it has tokens. A model whose layers do not keep one key and value per token cannot take in rows, and its
    newcomers form separate batches."""

    def __init__(self, policy: Policy, adapter: str | None, rows: Sequence[Row], beside: JoinedRows | None) -> None:
        """Run the contexts of the rows; `beside` is the batch that they will join, whose cache they can share."""
        model = plain_model(policy.model)
        encoded = beside.encode(rows, policy.pad_id) if beside and takes_tree(model) else None
        super().__init__(model, rows, policy.end_ids, policy.pad_id, encoded)
        self.adapter = adapter
        self._movable = all(type(layer) is GrowingLayer for layer in self.cache.layers)
        if self._movable:
            order = self.mask.argsort(dim=-1, stable=True)  # padding first
            aligned = self.mask.gather(-1, order)
            if not torch.equal(aligned, self.mask):
                self.mask = aligned
                for layer in self._layers:
                    layer.align(order)
        self.trim()

    @property
    def open(self) -> bool:
        """Whether it can take in rows."""
        return self._movable and self.mask.shape[-1] > 0

    @property
    def longest(self) -> int:
        """The most tokens that any unfinished row can reach."""
        return max((longest(row.ask) for row in self.rows if not row.ended), default=0)

    def trim(self) -> None:
        """Drop the columns in which no running row has a token."""
        used = max(len(row.ask.tokens) - 1 + len(row.tokens) for row in self.rows if not row.ended)
        if self._movable and (unused := self.mask.shape[-1] - used):
            self.mask = self.mask[:, unused:]
            for layer in self._layers:
                layer.trim(unused)

    def take_in(self, other: JoinedRows) -> None:
        """Move the rows of another batch of this adapter into this one."""
        free = [place for place, row in enumerate(self.rows) if row.ended]
        below = max(0, len(other.rows) - len(free))
        taken = [*free, *range(len(self.rows), len(self.rows) + below)][: len(other.rows)]
        places = torch.tensor(taken, device=self.mask.device)
        left = max(0, other.mask.shape[-1] - self.mask.shape[-1])
        for mine, theirs in zip(self._layers, other._layers, strict=True):
            mine.put(places, theirs, left, below)
        for name in ("mask", "noise", "positions", "chosen", "drawn", "temperatures", "top_ps"):
            setattr(self, name, _merged(getattr(self, name), getattr(other, name), places, below, name == "mask"))
        self.rows += other.rows[len(other.rows) - below :]
        for place, row in zip(taken, other.rows, strict=True):
            self.rows[place] = row

    def encode(self, rows: Sequence[Row], pad_id: int) -> Encoded | None:
        """Run the contexts of rows that will join, each continuing from the longest prefix that a running row here has
        in the cache. Returns None if this saves nothing over running them separately."""
        place: dict[tuple[int, ...], int] = {}
        row_of = [place.setdefault(row.ask.tokens[:-1], len(place)) for row in rows]
        begun = [self._longest_beginning(body) for body in place]
        if sum(len(body) - shared for body, (shared, _) in zip(place, begun, strict=True)) >= tree_tokens([*place]):
            return None
        width = max(shared for shared, _ in begun)
        lengths = torch.tensor([shared for shared, _ in begun], device=self.mask.device)
        donors = torch.tensor([donor for _, donor in begun], device=self.mask.device)
        ahead = torch.arange(width, device=self.mask.device) - (width - lengths)[:, None]
        starts = self.mask[donors].argmax(-1)  # a row's first token
        cache = new_cache(plain_model(self.model).config.get_text_config())
        for layer, own in zip(cache.layers, self._layers, strict=True):
            cast(GrowingLayer, layer).copy_from(own, donors, (starts[:, None] + ahead).clamp(min=0))
        known = Encoded(cache, (ahead >= 0).long(), lengths, row_of)
        return continue_contexts(self.model, known, [*place], pad_id)

    def _longest_beginning(self, body: tuple[int, ...]) -> tuple[int, int]:
        """Length of the longest prefix that a context shares with that of a running row, and the place of that row."""
        running = (place for place, row in enumerate(self.rows) if not row.ended)
        found = ((common(body, self.rows[place].ask.tokens[:-1]), -place) for place in running)
        shared, donor = max(found, default=(0, 0))
        return shared, -donor

    @property
    def _layers(self) -> list[GrowingLayer]:
        return cast(list[GrowingLayer], self.cache.layers)


class RunningBatch:
    """The asks that an engine is answering, within `policy.cache_bytes` of memory. `weights(adapter)` activates an
    adapter (None: the base), and raises EngineError if it is not loaded."""

    def __init__(self, policy: Policy, weights: Callable[[str | None], AbstractContextManager[None]]) -> None:
        self._policy, self._weights = policy, weights
        self._waiting: dict[int, Row] = {}
        self._batches: list[JoinedRows] = []

    def __len__(self) -> int:
        """Number of asks that wait or run."""
        return len(self._waiting) + sum(batch.left for batch in self._batches)

    def join(self, key: int, ask: Ask) -> None:
        """Add an ask; `step` returns its tokens and its answer under `key`."""
        self._waiting[key] = Row(ask, key)

    def leave(self, key: int) -> None:
        """Remove an ask; does nothing if it has been answered."""
        self._waiting.pop(key, None)
        for batch in self._batches:
            for row in batch.rows:
                row.ended |= row.key == key
        self._forget()

    def step(self) -> list[Told]:
        """Admit the asks that fit, then draw a token for every row. Returns every token except end tokens, followed by
        the answer, or the error instead of it, when an ask is done."""
        for batch in self._batches:
            batch.trim()
        said: list[Told] = []
        admitted = self._admitted()
        for adapter in dict.fromkeys(row.ask.adapter for row in admitted):
            said += self._start(adapter, [row for row in admitted if row.ask.adapter == adapter])
        for batch in list(self._batches):
            said += self._stepped(batch)
        self._forget()
        return said

    # -- parts ------------------------------------------------------------------------------------------

    def _admitted(self) -> list[Row]:
        """Take the asks that have waited longest, as many as CONTEXT_TOKENS and memory allow."""
        if not any(Sizes(self._policy, self._batches).takes(row.ask) for row in list(self._waiting.values())[:1]):
            return []  # checked first, because a full batch comes here at every step
        sizes, admitted, new = Sizes(self._policy, self._batches), list[Row](), 0
        known: dict[str | None, Slice] = {}  # of each adapter: the contexts that have run
        for adapter, row in [(b.adapter, row) for b in self._batches for row in b.rows if not row.ended]:
            known[adapter] = _with(known.get(adapter), row)
        for row in list(self._waiting.values()):
            before = known.get(row.ask.adapter, Slice())
            after = _with(before, row)
            runs = after.nodes - before.nodes
            if (admitted and runs and new + runs > CONTEXT_TOKENS) or not sizes.takes(row.ask):
                break
            new += runs
            known[row.ask.adapter] = after
            admitted.append(self._waiting.pop(row.key))
        return admitted

    def _start(self, adapter: str | None, rows: list[Row]) -> list[Told]:
        """Run the contexts of rows of one adapter and let them join its batch; if that fails, try them one by one."""
        batch, failed = open_batch(self._batches, adapter), None
        try:
            with self._weights(adapter), torch.inference_mode():
                new = JoinedRows(self._policy, adapter, rows, batch)
        except torch.AcceleratorError:  # every later call fails too: a new process is needed
            raise
        except Exception as exc:  # whatever a model raises about a context
            failed = explained(exc)  # the exception itself would keep the attempt's memory alive
        if failed and len(rows) == 1:
            return [(rows[0].key, failed)]
        if failed:
            return [told for row in rows for told in self._start(adapter, [row])]
        if batch is None:
            self._batches.append(new)
            return []
        try:
            with torch.inference_mode():
                batch.take_in(new)
        except torch.AcceleratorError:
            raise
        except Exception as exc:
            return self._failed(batch, exc, new.rows)
        return []

    def _stepped(self, batch: JoinedRows) -> list[Told]:
        try:
            with self._weights(batch.adapter), torch.inference_mode():
                drawn = batch.step()
        except torch.AcceleratorError:
            raise
        except Exception as exc:
            return self._failed(batch, exc)
        said: list[Told] = []
        for row, token in drawn:
            if token not in batch.end_ids:
                said.append((row.key, token))
            if row.ended:
                said.append((row.key, self._policy.decoded([row.answer])[0]))
        return said

    def _failed(self, batch: JoinedRows, exc: Exception, more: Iterable[Row] = ()) -> list[Told]:
        """Drop a batch whose cache may be half written; returns the error for each of its asks."""
        self._batches.remove(batch)
        return [(key, explained(exc)) for key in {row.key for row in (*batch.rows, *more) if not row.ended}]

    def _forget(self) -> None:
        self._batches = [batch for batch in self._batches if batch.left]


class Sizes:
    """Tracks the bytes that batches take once their rows are at their longest, while asks are admitted."""

    def __init__(self, policy: Policy, batches: Sequence[JoinedRows]) -> None:
        self._policy, self._batches = policy, batches
        self._new: dict[str | None, list[int]] = {}  # of each adapter: lengths of the asks let in

    def takes(self, ask: Ask) -> bool:
        """Whether another ask fits; if so, it is counted from now on. A single ask always fits."""
        new = {**self._new, ask.adapter: [*self._new.get(ask.adapter, []), longest(ask)]}
        rows, taken = self._total(new)
        if rows > 1 and (rows > MAX_ROWS or taken > self._policy.cache_bytes):
            return False
        self._new = new
        return True

    def _total(self, new: dict[str | None, list[int]]) -> tuple[int, int]:
        """Rows and bytes with these asks admitted. Newcomers first take the places of ended rows."""
        shapes = [
            (len(batch.rows), batch.longest)
            for batch in self._batches
            if batch is not open_batch(self._batches, batch.adapter) or batch.adapter not in new
        ]
        for adapter, lengths in new.items():
            batch = open_batch(self._batches, adapter)
            places, running, before = (len(batch.rows), batch.left, batch.longest) if batch else (0, 0, 0)
            shapes.append((max(places, running + len(lengths)), max(before, *lengths)))
        return sum(r for r, _ in shapes), sum(r * row_bytes(self._policy.model, tokens) for r, tokens in shapes)


def _with(contexts: Slice | None, row: Row) -> Slice:
    return (contexts or Slice()).with_row(row.key, row.ask.tokens[:-1], 0)


def open_batch(batches: Iterable[JoinedRows], adapter: str | None) -> JoinedRows | None:
    """The batch that rows of an adapter may join."""
    return next((batch for batch in batches if batch.open and batch.adapter == adapter), None)


def longest(ask: Ask) -> int:
    """The most tokens that an ask and its answer can have together."""
    return len(ask.tokens) + ask.max_new_tokens


def explained(exc: Exception) -> FstError:
    """Turn an exception into the error that an ask is answered with."""
    return exc if isinstance(exc, FstError) else EngineError(f"the engine failed: {type(exc).__name__}: {exc}")


def _merged(mine: torch.Tensor, theirs: torch.Tensor, places: torch.Tensor, below: int, right: bool) -> torch.Tensor:
    """Write the rows of `theirs` over those of `mine` at `places`, after appending `below` rows. If the widths differ,
    the narrower one is padded with zeros, in front if `right`, otherwise behind."""
    if mine.dim() == 1:
        mine, theirs = mine[:, None], theirs[:, None]
        return _merged(mine, theirs, places, below, right)[:, 0]
    width = max(mine.shape[-1], theirs.shape[-1])

    def filled(part: torch.Tensor, rows: int) -> torch.Tensor:
        more = width - part.shape[-1]
        return functional.pad(part, (more if right else 0, 0 if right else more, 0, rows))

    whole = filled(mine, below)
    whole[places] = filled(theirs, 0)
    return whole
