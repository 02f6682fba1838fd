"""Revocations in a mesh of real members on a virtual network, which loses, doubles and reorders."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.engine import Sampling
from overlay.effects import Effect, Meet, Outcast, Revoked, Unreadable
from overlay.errors import HearthError, Malformed
from overlay.forwarding import effects as fwd
from overlay.gossip.records import (
    CARD,
    CHAIN,
    LOAD,
    Card,
    Load,
    is_revocation,
    pack_chain,
    revocation_key,
    unpack_chain,
)
from overlay.identity.certificates import (
    Certificate,
    Membership,
    found_mesh,
    issue,
    verify_when_issued,
)
from overlay.identity.keys import NodeKey
from overlay.identity.peer_id import PeerId
from overlay.identity.revocations import Revocation, Revocations
from overlay.limits import (
    CHAIN_CHECKS_PER_ROUND,
    FORGET_PEER_S,
    REVOCATION_CHECKS_PER_ROUND,
    REVOCATIONS_PER_BRANCH_BURST,
    UNPROVEN_S,
)
from overlay.member import Member
from overlay.routing.cost_policy import CostPolicy
from overlay.wire.anti_entropy import (
    Change,
    DigestEntry,
    GossipAck,
    OriginDelta,
    RevocationNotice,
    Syn,
)
from overlay.wire.messages import Message
from tests.overlay.identity.strategies import key
from tests.overlay.members import TOY

TODAY = 1_800_000_000
FOUNDED = found_mesh(key(1), b"m" * 32)


@dataclass
class Node:
    key: NodeKey
    membership: Membership
    revocations: Revocations = field(init=False)
    member: Member = field(init=False)
    told: list[Effect] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.revocations = Revocations(FOUNDED.founder)

    @property
    def me(self) -> PeerId:
        return self.key.peer_id

    def start(self, incarnation: int, now: float) -> None:
        rng = random.Random(bytes(self.me)[0])
        self.member = Member(
            self.me,
            incarnation,
            FOUNDED.mesh_secret,
            CostPolicy(rng),
            rng,
            now,
            certificates=self.membership.certificates,
            revocations=self.revocations,
        )
        self.member.described("node", (), now)

    def record(self, subject: PeerId, at: int = TODAY) -> bytes:
        """What the node may sign, whether it has a right to or not."""
        statement = Revocation(FOUNDED.mesh_id, subject, self.me, at).sign(self.key)
        return msgpack.packb([statement, list(self.membership.certificates)])  # type: ignore[no-any-return]


class Network:
    """``parents[i]`` invited node i + 1; the founder is node 0."""

    def __init__(self, parents: Sequence[int], seed: int, *, loss: float = 0.0) -> None:
        self.rng = random.Random(seed)
        self.now = 100.0
        self.loss = loss
        self.nodes = [Node(key(1), FOUNDED)]
        for index, parent in enumerate(parents):
            inviter, invited = self.nodes[parent], key(index + 2)
            chain = issue(inviter.key, inviter.membership, invited.peer_id, TODAY)
            membership = Membership(FOUNDED.founder, FOUNDED.mesh_secret, chain)
            self.nodes.append(Node(invited, membership))
        self.by_id = {node.me: node for node in self.nodes}
        self.links: set[frozenset[PeerId]] = set()
        self.under_way: list[tuple[Node, Node, Message]] = []
        for node in self.nodes:
            node.start(1, self.now)

    def link(self, one: Node, other: Node) -> bool:
        """Both show their chains; whoever knows better refuses."""
        for judge, judged in ((one, other), (other, one)):
            if judge.revocations.find(judged.membership.certificates):
                return False
        self.links.add(frozenset({one.me, other.me}))
        for node, peer in ((one, other), (other, one)):
            self.perform(node, node.member.link_up(peer.me, "", self.now))
        return True

    def link_all(self) -> None:
        for index, one in enumerate(self.nodes):
            for other in self.nodes[index + 1 :]:
                self.link(one, other)

    def peers(self, node: Node) -> list[PeerId]:
        return sorted(
            peer for link in self.links if node.me in link for peer in link if peer != node.me
        )

    def revoke(self, by: Node, subject: Node, at: int = TODAY) -> None:
        self.perform(by, by.member.revoked(by.record(subject.me, at), self.now))

    def run(self, rounds: int) -> None:
        for _ in range(rounds):
            self.now += 1.3
            for node in self.nodes:
                self.perform(node, node.member.tick(self.now, self.peers(node)))
            self.settle()

    def settle(self) -> None:
        """Deliver what is under way, and what comes of it; no time passes."""
        while self.under_way:
            at = self.rng.randrange(len(self.under_way)) if self.loss else 0
            sender, receiver, message = self.under_way.pop(at)
            if self.rng.random() < self.loss:
                continue
            if self.rng.random() < self.loss / 2:
                self.under_way.append((sender, receiver, message))
            if frozenset({sender.me, receiver.me}) in self.links:
                self.perform(receiver, receiver.member.receive(sender.me, message, self.now))

    def perform(self, node: Node, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case fwd.Send(peer=peer, message=message):
                    self.send(node, peer, message)
                case Revoked(record=record):
                    node.told.append(effect)
                    for peer in self.peers(node):
                        self.send(node, peer, RevocationNotice(record))
                    self.refuse_revoked(node)
                case Outcast(peer=peer):
                    node.told.append(effect)
                    self.exclude(node, peer)
                case _:
                    node.told.append(effect)

    def send(self, node: Node, peer: PeerId, message: Message) -> None:
        self.under_way.append((node, self.by_id[peer], message))

    def refuse_revoked(self, node: Node) -> None:
        for peer in self.peers(node):
            other = self.by_id[peer]
            found = node.revocations.find(other.membership.certificates)
            if found:
                self.links.discard(frozenset({node.me, peer}))
                self.perform(node, node.member.link_down(peer, self.now))
                self.perform(other, other.member.link_down(node.me, self.now))
                self.perform(other, other.member.revoked(found[1], self.now))
                self.exclude(node, peer)

    def exclude(self, node: Node, peer: PeerId) -> None:
        if peer not in self.peers(node):
            self.perform(node, node.member.exclude(peer, self.now))


def void(network: Network, records: Sequence[bytes]) -> set[PeerId]:
    """Who is no member any more, by all that was ever signed."""
    known = Revocations(FOUNDED.founder, records)
    return {
        node.me for node in network.nodes if known.find(node.membership.certificates) is not None
    }


trees = st.lists(st.integers(0, 5), min_size=3, max_size=5).map(
    lambda parents: [min(parent, index) for index, parent in enumerate(parents)]
)
#: Who revokes whom, of whose hearing, and after how many rounds.
deeds = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=4
)


@settings(max_examples=50, deadline=None)
@given(trees, deeds, st.integers(0, 1 << 16))
def test_all_members_agree_whatever_the_network_does(
    parents: list[int], deeds: list[tuple[int, int, int]], seed: int
) -> None:
    network = Network(parents, seed, loss=0.4)
    network.link_all()
    signed = []
    for by, subject, rounds in deeds:
        network.run(rounds)
        issuer = network.nodes[by % len(network.nodes)]
        record = issuer.record(network.nodes[subject % len(network.nodes)].me)
        try:
            network.perform(issuer, issuer.member.revoked(record, network.now))
        except HearthError:
            continue  # of the founder, or of itself
        signed.append(record)
    network.loss = 0.0
    network.run(8)
    out = void(network, signed)
    staying = [node for node in network.nodes if node.me not in out]
    assert network.nodes[0] in staying
    for node in staying:
        others = sorted({each.me for each in staying} - {node.me})
        assert network.peers(node) == others
        assert sorted(node.member.gossip.states()) == others
        known = set(node.revocations.records())
        # Those who were thrown out may have signed something that nobody has heard.
        assert known <= set(signed)
        assert {each.me for each in network.nodes if each.me in void(network, sorted(known))} == out
        assert known == set(staying[0].revocations.records())


@given(st.integers(0, 1 << 16))
@settings(max_examples=20, deadline=None)
def test_the_news_do_not_wait_for_a_round(seed: int) -> None:
    network = Network([0, 0, 0, 0, 0, 0], seed)
    for one, other in zip(network.nodes, network.nodes[1:], strict=False):
        network.link(one, other)
    network.run(12)
    *staying, last = network.nodes
    network.revoke(network.nodes[0], last)
    network.settle()
    assert network.peers(last) == []
    assert all(last.me not in node.member.gossip.states() for node in staying)
    assert last.revocations.find(last.membership.certificates)


@given(st.integers(0, 1 << 16))
@settings(max_examples=20, deadline=None)
def test_where_the_news_are_lost_gossip_brings_them_within_two_rounds(seed: int) -> None:
    network = Network([0, 0, 0, 0], seed)
    network.link_all()
    network.run(12)
    out = network.nodes[-1]
    network.revoke(network.nodes[0], out)
    network.under_way.clear()
    network.run(2)
    assert network.peers(out) == []
    assert all(out.me not in node.member.gossip.states() for node in network.nodes[:-1])


def test_whose_answer_ends_by_a_revocation_hears_so_at_once() -> None:
    network = Network([0, 0], 1)
    founder, asker, out = network.nodes
    out.member.models_changed([TOY], {}, network.now)
    out.member.described("out", (), network.now)
    network.link_all()
    network.run(4)
    asker.member.links_measured({out.me: 1.0}, network.now)
    asked = asker.member.submit(b"r" * 16, TOY.name, "1 2", Sampling(), network.now)
    network.perform(asker, asked)
    network.settle()
    network.revoke(founder, out)
    network.settle()
    [ending] = [effect.event for effect in asker.told if isinstance(effect, fwd.Emit)]
    assert isinstance(ending, fwd.Failure)
    assert str(ending.error) == "out was thrown out in mid-answer"


def test_revocations_outlive_whoever_made_them() -> None:
    network = Network([0, 0, 0], 1)
    founder, second, late, out = network.nodes
    network.link(founder, second)
    network.revoke(founder, out)
    network.settle()
    network.links.clear()
    # The founder is gone. Who was away met the revoked one first.
    network.link(late, out)
    network.run(4)
    assert out.me in late.member.gossip.states()
    network.link(second, late)
    network.run(4)
    assert late.revocations.records() == second.revocations.records() != []
    assert network.peers(out) == []
    assert out.me not in late.member.gossip.states()
    assert any(isinstance(effect, Revoked) for effect in late.told)


def test_who_comes_back_is_heard_of_again_by_all() -> None:
    network = Network([0, 0, 0], 1)
    founder, second, third, out = network.nodes
    network.link_all()
    network.run(4)
    network.revoke(founder, out)
    network.run(2)
    begins = founder.revocations.check_invited(FOUNDED, out.me, TODAY + 1)
    chain = issue(founder.key, FOUNDED, out.me, TODAY + 1, not_before=begins)
    out.membership = Membership(FOUNDED.founder, FOUNDED.mesh_secret, chain)
    out.start(2, network.now)
    assert network.link(out, second)
    network.run(4)
    # The others have no link to it, and hear of it all the same.
    for node in (founder, second, third):
        assert node.member.gossip.incarnation(out.me) == 2
        assert node.member.gossip.record(out.me, CARD) is not None
        assert node.member.roll.chain(out.me) == chain
    # And it can be thrown out again.
    network.revoke(founder, out, at=TODAY + 1)
    network.settle()
    assert network.peers(out) == []


def test_everybody_publishes_what_it_knows() -> None:
    network = Network([0, 0], 1)
    founder, second, out = network.nodes
    network.link_all()
    network.revoke(founder, out)
    network.settle()
    for node in (founder, second):
        mine = node.member.gossip.records(node.me)
        assert [value for k, value in mine.items() if is_revocation(k)] == [founder.record(out.me)]
    # After a restart too.
    second.start(2, network.now)
    assert founder.record(out.me) in second.member.gossip.records(second.me).values()


def test_a_forged_chain_excludes_nobody() -> None:
    """A member may publish in the name of others; but it cannot sign in their name."""
    network = Network([0, 0, 0], 1)
    founder, victim, out, judge = network.nodes
    network.link_all()
    network.run(4)
    network.revoke(founder, out)
    network.settle()
    roll = judge.member.roll
    certificate = out.membership.certificates[0]
    # As if the one that was revoked had invited the victim.
    invited = issue(out.key, out.membership, victim.me, TODAY)[0]
    forged = bytes(64) + invited[64:]
    for chain in ((certificate,), (forged, certificate), (certificate[:-1] + b"\xff",)):
        victim.member.gossip.set(CHAIN, pack_chain(chain), network.now)
        network.run(4)
        assert roll.chain(victim.me) == chain
        assert not roll.is_void(victim.me)
        assert victim.me in judge.member.gossip.states()


@pytest.mark.parametrize("garbage", [b"\xc1", b"", pack_chain((b"no certificate",))])
def test_a_chain_that_cannot_be_read_saves_nobody_from_revocation(garbage: bytes) -> None:
    network = Network([0, 0, 0], 1)
    founder, second, third, out = network.nodes
    network.link_all()
    network.run(4)
    out.member.gossip.set(CHAIN, garbage, network.now)
    network.run(4)
    assert founder.member.roll.inviter(out.me) is None
    network.revoke(founder, out)
    network.settle()
    assert network.peers(out) == []
    for node in (founder, second, third):
        assert out.me not in node.member.gossip.states()


def test_forged_records_are_told_of_and_have_no_effect() -> None:
    network = Network([0, 0], 1)
    founder, second, mallory = network.nodes
    network.link_all()
    statement = Revocation(FOUNDED.mesh_id, second.me, founder.me, TODAY).sign(founder.key)
    forged = msgpack.packb([bytes(64) + statement[64:], []])
    mallory.member.gossip.set(b"r" + b"x" * 16, forged, network.now)
    network.run(4)
    assert any(isinstance(effect, Unreadable) for effect in founder.told)
    assert founder.revocations.records() == second.revocations.records() == []
    assert len(network.links) == 3


def test_a_flood_of_forgeries_takes_little_time_and_hides_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = Network([0, 0, 0, 0], 1)
    founder, second, mallory, out, judge = network.nodes
    network.link_all()
    network.run(4)
    for number in range(5 * REVOCATION_CHECKS_PER_ROUND):
        forged = msgpack.packb([number.to_bytes(64, "big"), []])
        mallory.member.gossip.set(revocation_key(forged), forged, network.now)
    looked_at = []
    opened = Revocation.open

    def counted(packed: bytes) -> Revocation:
        looked_at.append(packed)
        return opened(packed)

    monkeypatch.setattr(Revocation, "open", counted)
    # The judge hears of it by gossip alone, amid the forgeries.
    network.links.discard(frozenset({founder.me, judge.me}))
    network.revoke(founder, out)
    network.under_way.clear()
    for _ in range(12):
        looked_at.clear()
        network.run(1)
        assert len(looked_at) <= REVOCATION_CHECKS_PER_ROUND * len(network.nodes)
    assert judge.revocations.records() == second.revocations.records()
    assert len(judge.revocations.records()) == 1
    # Each was looked at once by each.
    looked_at.clear()
    network.run(2)
    assert looked_at == []


def test_a_round_goes_through_no_more_than_it_may_look_at() -> None:
    network = Network([0, 0], 1)
    founder, mallory, _ = network.nodes
    network.link_all()
    network.run(4)
    for number in range(5 * REVOCATION_CHECKS_PER_ROUND):
        forged = msgpack.packb([number.to_bytes(64, "big"), []])
        mallory.member.gossip.set(revocation_key(forged), forged, network.now)
    network.settle()
    network.perform(mallory, mallory.member.tick(network.now + 1.3, network.peers(mallory)))
    network.settle()
    roll = founder.member.roll
    for round_number in range(1, 4):
        gone_through = 0
        for _, record in roll.round(random.Random(1), network.now):
            gone_through += 1
            with suppress(HearthError):
                roll.heard(record, network.now)
        # Those that came first, those of the rounds before, and half as many new ones.
        assert gone_through == (2 + round_number) * REVOCATION_CHECKS_PER_ROUND // 2
    # What nobody publishes, and so comes but once, is heard amid all that is overdue.
    notice = founder.record(PeerId(bytes(32)), TODAY)
    assert roll.heard(notice, network.now) is not None


def test_a_crowd_that_forges_hides_what_a_friend_publishes_for_a_few_rounds_at_most() -> None:
    """One of it is enough to fill a round, and each has more than are remembered as seen."""
    network = Network([0, 0, 0, *[2] * 40], 1)
    judge, friend, _, out, *crowd = network.nodes
    roll, gossip = judge.member.roll, judge.member.gossip
    record = judge.record(out.me, TODAY)
    for node in (friend, *crowd):
        records = (
            [record]
            if node is friend
            else [
                msgpack.packb([bytes(node.me) + number.to_bytes(32, "big"), []])
                for number in range(2 * REVOCATION_CHECKS_PER_ROUND)
            ]
        )
        chain = Change(CHAIN, 1, pack_chain(node.membership.certificates))
        told = [Change(revocation_key(each), at, each) for at, each in enumerate(records, start=2)]
        gossip.alive(node.me, network.now)
        delta = OriginDelta(node.me, 1, 0, True, (chain, *told), len(told) + 1, 0)
        gossip.receive(node.me, GossipAck((delta,)), network.now)
        assert roll.verify(node.me) is True
    roll._overdue = True
    rng, rounds = random.Random(1), 0
    while record not in judge.revocations:
        rounds += 1
        assert rounds < 10
        network.now += 1
        for _, each in roll.round(rng, network.now):
            with suppress(HearthError):
                roll.heard(each, network.now)


@pytest.mark.parametrize("by", [2, 3], ids=["a member", "one that it let in"])
def test_who_revokes_without_end_is_heard_a_little_and_hides_nobody_else(by: int) -> None:
    """Each takes the place of another one, and would be written to the disk and told to all."""
    network = Network([0, 0, 2, 1], 1)
    judge, second, _, _, out = network.nodes
    storming = network.nodes[by]
    network.link_all()
    network.run(4)
    began, each_round = network.now, REVOCATION_CHECKS_PER_ROUND // 2
    for number in range(12 * each_round):
        made_up = PeerId(number.to_bytes(32, "big"))
        notice = RevocationNotice(storming.record(made_up, TODAY + number))
        for peer in network.peers(storming):
            network.send(storming, peer, notice)
        if number % each_round == 0:
            network.run(1)
    taken = sum(isinstance(effect, Revoked) for effect in judge.told)
    assert taken <= REVOCATIONS_PER_BRANCH_BURST + network.now - began + 1
    network.revoke(second, out)
    network.settle()
    assert network.peers(out) == []
    # Then it is quiet, and all have heard the same in the end.
    network.run(REVOCATIONS_PER_BRANCH_BURST)
    known = [set(node.revocations.records()) for node in network.nodes if node is not out]
    assert all(each == known[0] for each in known)


def met(node: Node) -> set[PeerId]:
    """Whom the node was told to keep a link to."""
    return {effect.peer for effect in node.told if isinstance(effect, Meet)}


def test_members_are_met_and_nobody_who_is_made_up() -> None:
    """Whoever hears of them: next to the member that made them up, and behind it."""
    network = Network([0, 0, 0], 1)
    founder, mallory, second, third = network.nodes
    network.link(founder, mallory)
    network.link(founder, second)
    network.link(second, third)
    made_up = [key(100 + number) for number in range(5)]
    [own] = issue(founder.key, FOUNDED, made_up[3].peer_id, TODAY)
    foreign = found_mesh(key(99), b"m" * 32)
    chains = [
        None,
        (bytes(100),),
        mallory.membership.certificates,
        (bytes(64) + own[64:],),
        issue(key(99), foreign, made_up[4].peer_id, TODAY),
    ]
    for stranger, chain in zip(made_up, chains, strict=True):
        chained = [] if chain is None else [Change(CHAIN, 2, pack_chain(chain))]
        changes = (Change(CARD, 1, Card("made up").pack()), *chained)
        told = OriginDelta(stranger.peer_id, 1, 0, True, changes, len(changes), 0)
        network.send(mallory, founder.me, GossipAck((told,)))
    network.settle()
    # Of the one without a chain nobody knows better yet; that it is one, nobody else hears.
    assert founder.member.gossip.states().keys() - network.by_id.keys() == {made_up[0].peer_id}
    network.run(6)
    for node in (second, third):
        assert node.member.gossip.states().keys() == network.by_id.keys() - {node.me}
    everybody = {node.me for node in network.nodes}
    for node in (founder, second, third):
        assert met(node) == everybody - {node.me}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 3), st.sampled_from([0.0, 0.4]), st.integers(0, 1 << 16))
def test_members_are_heard_of_from_afar_and_who_is_made_up_only_next_to_the_liar(
    place: int, loss: float, seed: int
) -> None:
    network = Network([0, 0, 1, 2], seed, loss=loss)
    for one, other in zip(network.nodes, network.nodes[1:], strict=False):
        network.link(one, other)
    liar, neighbour = network.nodes[place], network.nodes[place + 1]
    rng = random.Random(seed)
    for number in range(10):
        origin = key(100 + number).peer_id
        records = [(CARD, Card("made up").pack()), (LOAD, Load().pack())]
        records += [(CHAIN, pack_chain(liar.membership.certificates))] * rng.randrange(2)
        rng.shuffle(records)
        changes = tuple(
            Change(name, version, value) for version, (name, value) in enumerate(records, 1)
        )
        told = OriginDelta(origin, 1, 0, True, changes, len(changes), 0)
        heartbeats = Syn((DigestEntry(origin, 1, number, len(changes), 0),))
        for message in (GossipAck((told,)), heartbeats):
            network.send(liar, neighbour.me, message)
        network.run(1)
    network.loss = 0.0
    network.run(10)
    everybody = network.by_id.keys()
    for node in network.nodes:
        gossip = node.member.gossip
        members = {peer for peer in gossip.states() if gossip.is_member(peer)}
        assert members == everybody - {node.me}
        assert all(gossip.record(peer, CARD) for peer in members)
        assert node in (liar, neighbour) or gossip.states().keys() == members
    network.run(round(UNPROVEN_S / 1.3))
    assert neighbour.member.gossip.states().keys() == everybody - {neighbour.me}


@pytest.mark.parametrize("away", [0, 3], ids=["the founder", "a member"])
def test_who_was_away_until_it_was_forgotten_is_heard_of_from_afar_again(away: int) -> None:
    network = Network([0, 0, 0], 1)
    out = network.nodes[away]
    first, second, third = (node for node in network.nodes if node is not out)
    network.link(first, second)
    network.link(second, third)
    network.link(third, out)
    network.run(12)
    network.links.discard(frozenset({third.me, out.me}))
    for one, other in ((third, out), (out, third)):
        network.perform(one, one.member.link_down(other.me, network.now))
    network.run(40)
    network.now += FORGET_PEER_S
    network.run(12)
    for node in (first, second, third):
        assert node.member.gossip.states().keys() == network.by_id.keys() - {node.me, out.me}
    network.link(third, out)
    network.run(12)
    for node in (first, second, third):
        assert node.member.gossip.is_member(out.me)
        assert node.member.gossip.record(out.me, CARD) is not None


def test_members_that_come_and_go_do_not_make_one_that_stays_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("overlay.roll", "overlay.gossip.replicas"):
        monkeypatch.setattr(f"{module}.MEMBERS_MAX", 3)
    network = Network([0] * 8, 1)
    founder, staying, *passing = network.nodes
    for peer in (staying, *passing):
        founder.member.link_up(peer.me, "", network.now)
        changes = (
            Change(CARD, 1, Card("somebody").pack()),
            Change(CHAIN, 2, pack_chain(peer.membership.certificates)),
        )
        told = GossipAck((OriginDelta(peer.me, 1, 0, True, changes, 2, 0),))
        founder.member.receive(peer.me, told, network.now)
        assert founder.member.roll.vouched(peer.me)
        assert founder.member.roll.vouched(staying.me)
        if peer is not staying:
            founder.member.link_down(peer.me, network.now)


def test_a_chain_may_come_after_the_card() -> None:
    network = Network([0, 0], 1)
    founder, second, third = network.nodes
    network.link(founder, second)
    records = {CARD: Card("third").pack(), CHAIN: pack_chain(third.membership.certificates)}
    for version, (name, value) in enumerate(records.items(), 1):
        assert third.me not in met(founder)
        change = Change(name, version, value)
        delta = OriginDelta(third.me, 1, version - 1, False, (change,), version, 0)
        network.send(second, founder.me, GossipAck((delta,)))
        network.settle()
    assert third.me in met(founder)


@pytest.mark.parametrize("unreadable", [CARD, LOAD])
def test_a_member_is_one_though_not_all_that_it_tells_can_be_read(unreadable: bytes) -> None:
    """It may be newer than this node, whose other peers may well read what it tells."""
    network = Network([0, 0], 1)
    founder, second, third = network.nodes
    network.link(founder, second)
    records = {
        CARD: Card("third").pack(),
        LOAD: Load(queued=3).pack(),
        CHAIN: pack_chain(third.membership.certificates),
    } | {unreadable: b"\xc1"}
    changes = tuple(
        Change(name, version, value) for version, (name, value) in enumerate(records.items(), 1)
    )
    told = OriginDelta(third.me, 1, 0, False, changes, len(changes), 0)
    network.send(second, founder.me, GossipAck((told,)))
    network.settle()
    assert founder.member.gossip.is_member(third.me)
    known = founder.member.neighbourhood.neighbours[third.me]
    assert (known.card is None, known.load is None) == (unreadable == CARD, unreadable == LOAD)


def test_a_crowd_that_is_made_up_takes_little_time_and_hides_no_member(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = Network([0, 0], 1)
    founder, mallory, late = network.nodes
    network.link(founder, mallory)
    verified = []

    def counted(*chain: Any) -> tuple[Certificate, ...]:
        verified.append(chain)
        return verify_when_issued(*chain)

    monkeypatch.setattr("overlay.roll.verify_when_issued", counted)
    crowd = [key(100 + number).peer_id for number in range(5 * CHAIN_CHECKS_PER_ROUND)]
    chain = pack_chain(late.membership.certificates)
    changes = (Change(CARD, 1, Card("").pack()), Change(CHAIN, 2, chain))
    for origin in (*crowd, late.me):
        delta = OriginDelta(origin, 1, 0, True, changes, 2, 0)
        network.send(mallory, founder.me, GossipAck((delta,)))
    network.settle()
    for _ in range(12):
        assert len(verified) <= 2 * CHAIN_CHECKS_PER_ROUND, "two nodes that hear of them"
        verified.clear()
        network.run(1)
    assert met(founder) == {mallory.me, late.me}
    assert verified == [], "each was looked at once"


def test_whoever_lets_in_its_own_inventions_keeps_no_friend_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    places = 12
    for module in ("overlay.roll", "overlay.gossip.replicas"):
        monkeypatch.setattr(f"{module}.MEMBERS_MAX", places)
    network = Network([0, 0, 0], 1)
    founder, mallory, friend, late = network.nodes
    network.link(founder, mallory)
    network.link(founder, friend)
    invented = {key(100 + number).peer_id for number in range(2 * places)}
    for origin in sorted(invented):
        chain = pack_chain(issue(mallory.key, mallory.membership, origin, TODAY))
        changes = (Change(CARD, 1, Card("").pack()), Change(CHAIN, 2, chain))
        told = GossipAck((OriginDelta(origin, 1, 0, True, changes, 2, 0),))
        network.send(mallory, founder.me, told)
    network.settle()
    network.link(friend, late)
    network.run(6)
    assert met(founder) >= {mallory.me, friend.me, late.me}
    assert len(met(founder) & invented) <= places // 3
    noticed = {effect.peer for effect in founder.told if isinstance(effect, fwd.Noticed)}
    assert noticed == {mallory.me}


@given(st.binary(max_size=60) | st.lists(st.binary(), max_size=9).map(pack_chain))
def test_any_bytes_are_a_chain_or_malformed(value: bytes) -> None:
    try:
        chain = unpack_chain(value)
    except Malformed:
        return
    assert unpack_chain(pack_chain(chain)) == chain
