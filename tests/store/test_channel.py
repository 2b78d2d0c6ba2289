"""A channel's history, without a store:

c1  repeated rollbacks walk back through the releases, to the first and no further
c2  a release after a rollback starts from there; a rollback to any bundle of the history takes back what came after it
c3  what is written is read back; what nobody can have written is refused
c4  a name is none that could be meant as a bundle
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fst.errors import ConfigError, IntegrityError
from fst.store.channel import Action, Channel, Entry, check_name, is_bundle_reference, parse_channel

A, B, C, D = (letter * 64 for letter in "abcd")


def after(*moves: str) -> Channel:
    """The channel after moves such as "+a" (release) and "-a" (rollback)."""
    channel = Channel("prod")
    for number, move in enumerate(moves):
        action: Action = "release" if move[0] == "+" else "rollback"
        channel = channel.with_move(Entry(move[1] * 64, action, f"2026-01-01T00:00:{number:02d}+00:00", "why"))
    return channel


@pytest.mark.parametrize(
    ("moves", "bundle", "before"),
    [
        ([], None, None),
        (["+a"], A, None),
        (["+a", "+b", "+c"], C, B),
        (["+a", "+b", "+c", "-b"], B, A),
        (["+a", "+b", "+c", "-b", "-a"], A, None),
        (["+a", "+b", "+c", "-b", "+d"], D, B),
        (["+a", "+b", "+c", "-b", "+d", "-b"], B, A),
        (["+a", "+b", "+c", "-a"], A, None),
        (["+a", "+b", "+c", "-a", "-c"], C, A),
        (["+a", "+b", "+a"], A, B),
        (["+a", "+b", "+a", "-b"], B, A),
        (["+a", "+b", "+b"], B, A),
    ],
)
def test_c1_c2_where_a_rollback_leads(moves: list[str], bundle: str | None, before: str | None) -> None:
    channel = after(*moves)
    assert (channel.bundle, channel.before) == (bundle, before)


@dataclass
class Node:
    """A release that was made when `parent` was in force: the history as the tree that it is."""

    bundle: str
    parent: Node | None

    def back_to(self, bundle: str) -> Node | None:
        node: Node | None = self
        while node and node.bundle != bundle:
            node = node.parent
        return node


@given(st.lists(st.tuples(st.sampled_from(["release", "back", "to"]), st.sampled_from("abcd")), max_size=30))
def test_c1_c2_the_history_is_a_tree_that_rollbacks_climb(script: list[tuple[str, str]]) -> None:
    channel, node = Channel("prod"), None
    for kind, letter in script:
        bundle = letter * 64
        action: Action = "release" if kind == "release" else "rollback"
        if kind == "back":
            if channel.before is None:
                assert node is None or node.parent is None
                continue
            bundle = channel.before
        if bundle == channel.bundle or (kind == "to" and bundle not in channel.names):
            continue
        known = node.back_to(bundle) if node and action == "rollback" else None
        node = known or Node(bundle, node)
        channel = channel.with_move(Entry(bundle, action, "2026-01-01T00:00:00+00:00", ""))
        assert channel.bundle == node.bundle
        assert channel.before == (node.parent.bundle if node.parent else None)
        assert parse_channel("prod", channel.content(), "tag").before == channel.before


def test_c3_what_is_written_is_read_back() -> None:
    channel = after("+a", "+b", "-a")
    values = json.loads(channel.content())
    assert values["schema"] == 1
    assert values["bundle"] == A
    assert values["history"][2] == {
        "bundle": A,
        "action": "rollback",
        "at": "2026-01-01T00:00:02+00:00",
        "reason": "why",
    }
    read = parse_channel("prod", channel.content(), "tag")
    assert (read.name, read.bundle, read.history, read.tag) == ("prod", A, channel.history, "tag")
    assert channel.names == {A, B}
    assert parse_channel("prod", Channel("prod").content(), "tag").bundle is None


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 2},
        {"bundle": A},
        {"bundle": None},
        {"history": []},
        {"history": None},
        {"history": [{"bundle": B}]},
        {"history": [{"bundle": "b", "action": "release", "at": "", "reason": ""}], "bundle": "b"},
        {"history": [{"bundle": "../" * 21 + "b", "action": "release", "at": "", "reason": ""}], "bundle": "b"},
        {"history": [{"bundle": B, "action": "push", "at": "", "reason": ""}]},
        {"history": [{"bundle": [], "action": "release", "at": "", "reason": ""}]},
    ],
)
def test_c3_what_nobody_can_have_written_is_refused(changes: dict[str, Any]) -> None:
    values = {**json.loads(after("+a", "+b").content()), **changes}
    with pytest.raises(IntegrityError, match="channel 'prod'"):
        parse_channel("prod", json.dumps(values).encode(), "tag")


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"[]", b"\xff", b"[" * 100_000])
def test_c3_what_is_no_channel_is_refused(content: bytes) -> None:
    with pytest.raises(IntegrityError, match="channel 'prod' is damaged"):
        parse_channel("prod", content, "tag")


def test_c4_a_name_is_none_that_could_be_meant_as_a_bundle() -> None:
    for name in ("prod", "beef", "a", "canary-2", "dead_beef"):
        assert check_name(name) == name
    for name in ("", "Prod", "2nd", "a/b", "..", "deadbeef", "abcdef", "a" * 64, "prod\n", "a.b"):
        with pytest.raises(ConfigError, match="a name is"):
            check_name(name)
    assert is_bundle_reference("012345")
    assert not is_bundle_reference("01234")
