"""What one node's parts hear of each other, through gossip and links in virtual time."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from unittest.mock import patch

import pytest

from models.engine import CacheChanged, Failed, Sampling
from overlay.effects import Meet, PeerChanged, Unreadable
from overlay.errors import EngineFailed, RemoteProtocolError, Unreachable
from overlay.forwarding import effects as fwd
from overlay.gossip.effects import Disputed, PeerDown, PeerState, PeerUp
from overlay.gossip.records import CARD, Card, Load, block_of
from overlay.identity.multiaddr import Multiaddr
from overlay.identity.peer_id import PeerId
from overlay.identity.revocations import Revocations
from overlay.limits import (
    ACCEPT_S,
    HOP_LIMIT_DEFAULT,
    RELINK_S,
    SUMMARY_BLOCKS_MAX,
    TOMBSTONES_MAX,
    UNPROVEN_S,
)
from overlay.member import Member
from overlay.prefix.chain import block_hashes
from overlay.routing.cost_policy import CostPolicy
from overlay.wire.anti_entropy import Change, DigestEntry, GossipAck, OriginDelta, Syn
from overlay.wire.messages import Accepted, Forward, Goodbye, Message, Refused
from tests.overlay.forwarding.world import forwarded
from tests.overlay.members import (
    ANSWER,
    ANSWER_S,
    SECRET,
    TOKEN_S,
    TOY,
    VirtualMember,
    VirtualMesh,
)

PROMPT = tuple(range(320))
REQUEST = b"r" * 16
#: Long enough for gossip to reach everybody in a mesh of three.
GOSSIP_S = 6.0
WHOLE = "".join(f"<{token}>" for token in ANSWER)
ME, PEER, FAR = (PeerId(bytes([number]) * 32) for number in (1, 2, 3))
NOW = 100.0


def alone() -> Member:
    rng = random.Random(0)
    return Member(ME, 1, SECRET, CostPolicy(rng), rng, NOW)


def summary(node: VirtualMember) -> set[int]:
    """The blocks that the node says it holds."""
    gossip = node.member.gossip
    blocks = (block_of(key) for key in gossip.records(node.member.me))
    return {block for block in blocks if block is not None}


def says(origin: PeerId, key: bytes, value: bytes) -> GossipAck:
    """The first record of ``origin``, as some peer passes it on."""
    return GossipAck((OriginDelta(origin, 1, 0, True, (Change(key, 1, value),), 1, 0),))


# --- Copies -------------------------------------------------------------------------------------


def test_of_two_that_hold_the_same_one_is_told_to_give_it_up_first() -> None:
    mesh = VirtualMesh(3, serving=[0, 1, 2])
    mesh.compute(0, PROMPT)
    mesh.run(GOSSIP_S)
    mesh.compute(1, PROMPT)
    mesh.run(GOSSIP_S)
    told = [
        [effect for effect in node.told if isinstance(effect, fwd.CopiesChanged)]
        for node in mesh.nodes
    ]
    assert not told[2]
    assert all(effect.model == TOY.name for effect in told[0] + told[1])
    first, second = ({b for effect in each for b in effect.changed} for each in told[:2])
    assert first | second == set(block_hashes(SECRET, TOY.key, PROMPT))
    assert not first & second


# --- A request, where gossip leads it -----------------------------------------------------------


def test_a_prompt_computed_at_one_is_forwarded_there_once_gossip_told() -> None:
    mesh = VirtualMesh(3, serving=[0, 1, 2])
    mesh.compute(2, PROMPT)
    mesh.run(GOSSIP_S)
    mesh.submit(0, REQUEST, PROMPT)
    mesh.run(ANSWER_S)
    answer = mesh.ending(0, REQUEST)
    assert isinstance(answer, fwd.Answer)
    assert mesh.text(0, REQUEST) == WHOLE
    assert (answer.served_by, answer.route) == (mesh.nodes[2].member.me, "forwarded")
    assert answer.cached_tokens == answer.decision.chosen.match_tokens == len(PROMPT)


def test_before_gossip_told_it_is_computed_here_and_told_to_the_others() -> None:
    mesh = VirtualMesh(3, serving=[0, 1, 2])
    mesh.compute(2, PROMPT)
    mesh.submit(0, REQUEST, PROMPT)
    mesh.run(ANSWER_S)
    answer = mesh.ending(0, REQUEST)
    assert isinstance(answer, fwd.Answer)
    assert answer.served_by == mesh.nodes[0].member.me
    mesh.run(GOSSIP_S)
    hashes = block_hashes(SECRET, TOY.key, PROMPT)
    blocks = mesh.nodes[1].member.neighbourhood.index.match(hashes)
    assert blocks == {mesh.nodes[0].member.me: 10, mesh.nodes[2].member.me: 10}


def test_an_answer_goes_on_elsewhere_when_its_peer_is_lost() -> None:
    mesh = VirtualMesh(3, serving=[0, 1, 2])
    mesh.compute(2, PROMPT)
    mesh.run(GOSSIP_S)
    mesh.submit(0, REQUEST, PROMPT)
    mesh.run(ANSWER_S / 2)
    begun = mesh.text(0, REQUEST)
    assert begun
    assert begun != WHOLE
    mesh.kill(2)
    mesh.run(ANSWER_S)
    answer = mesh.ending(0, REQUEST)
    assert isinstance(answer, fwd.Answer)
    assert mesh.text(0, REQUEST) == WHOLE
    assert (answer.served_by, answer.route) == (mesh.nodes[0].member.me, "failed-over")


def test_a_peer_that_falls_silent_is_judged_down_and_its_answer_goes_on_elsewhere() -> None:
    """No link breaks: gossip alone notices."""
    mesh = VirtualMesh(3, serving=[0, 1, 2])
    mesh.compute(2, PROMPT)
    mesh.run(4 * GOSSIP_S)
    mesh.submit(0, REQUEST, PROMPT)
    mesh.run(ANSWER_S / 2)
    assert mesh.nodes[2].running == {REQUEST}
    mesh.nodes[2].alive = False
    mesh.run(4 * GOSSIP_S)
    assert mesh.text(0, REQUEST) == WHOLE
    told = [e.peer for e in mesh.nodes[0].told if isinstance(e, PeerDown)]
    assert told == [mesh.nodes[2].member.me]


def test_a_client_that_hangs_up_stops_the_engine_far_away() -> None:
    mesh = VirtualMesh(2, serving=[1])
    mesh.run(GOSSIP_S)
    mesh.submit(0, REQUEST, PROMPT)
    mesh.run(ANSWER_S / 2)
    assert mesh.nodes[1].running == {REQUEST}
    mesh.perform(mesh.nodes[0], mesh.nodes[0].member.cancel(REQUEST, mesh.now))
    mesh.run(TOKEN_S)
    assert mesh.nodes[1].running == set()
    assert mesh.nodes[1].member.forwarder.open_requests == 0


def test_what_is_due_first_sets_the_deadline() -> None:
    mesh = VirtualMesh(2, serving=[1], gossip_interval_s=100.0)
    mesh.run(2 * 120.0)
    node = mesh.nodes[0]
    mesh.submit(0, REQUEST, PROMPT)
    accepted_s = HOP_LIMIT_DEFAULT * ACCEPT_S
    accepted_by = mesh.now + accepted_s
    assert node.member.next_deadline() == pytest.approx(accepted_by, abs=0.01)
    # It has been accepted and answered, which is found out then.
    mesh.run(accepted_s + ANSWER_S)
    assert node.member.next_deadline() == node.member.gossip.next_deadline()


def test_a_request_whose_model_is_gone_before_it_starts_is_refused() -> None:
    """The driver finds no engine for a Generate effect."""
    mesh = VirtualMesh(1, serving=[0])
    member = mesh.nodes[0].member
    member.submit(REQUEST, TOY.name, "", Sampling(), mesh.now)
    [generate] = list(member.tokenized(REQUEST, PROMPT, mesh.now))
    assert isinstance(generate, fwd.Generate)
    member.models_changed([], {TOY.name: "it died"}, mesh.now)
    gone = Failed(REQUEST, EngineFailed.code, "the model is gone")
    [emit] = member.engine_event(TOY.name, gone, mesh.now)
    assert isinstance(emit, fwd.Emit)
    assert isinstance(emit.event, fwd.Failure)


def test_a_model_that_comes_back_gets_its_place_again() -> None:
    """Requests that name no model go to the first."""
    mesh = VirtualMesh(1, serving=[0])
    member, second = mesh.nodes[0].member, replace(TOY, name="second", aliases=())
    for served in ([TOY, second], [second], [TOY, second]):
        member.models_changed(served, {}, mesh.now)
        assert [model.info for model in member.neighbourhood.models_for(guest=False)] == served


# --- What the node says of itself ---------------------------------------------------------------


def test_a_model_that_goes_away_is_withdrawn_from_the_summary() -> None:
    mesh = VirtualMesh(2, serving=[0])
    mesh.compute(0, PROMPT)
    mesh.run(GOSSIP_S)
    server, peer = mesh.nodes[0], mesh.nodes[1].member
    assert len(summary(server)) == peer.neighbourhood.index.blocks(server.member.me) == 10
    server.member.models_changed([], {}, mesh.now)
    assert summary(server) == set()
    mesh.run(GOSSIP_S)
    assert peer.neighbourhood.index.blocks(server.member.me) == 0
    assert peer.neighbourhood.offered() == {}


def test_what_changed_in_a_summary_travels_and_nothing_else() -> None:
    mesh = VirtualMesh(2, serving=[0])
    told: list[int] = []
    taken = mesh.nodes[1].member.neighbourhood.records_changed
    mesh.compute(0, PROMPT)
    mesh.run(GOSSIP_S)
    server, peer = mesh.nodes[0].member, mesh.nodes[1].member

    def heard(origin: PeerId, changes: Sequence[Change]) -> bool:
        told.extend(block for change in changes if (block := block_of(change.key)) is not None)
        return taken(origin, changes)

    first = block_hashes(SECRET, TOY.key, PROMPT)
    with patch.object(peer.neighbourhood, "records_changed", heard):
        server.engine_event(TOY.name, CacheChanged((7, 8), (first[-1],)), mesh.now)
        mesh.run(GOSSIP_S)
    assert sorted(told) == sorted([7, 8, first[-1]])
    assert peer.neighbourhood.index.match(first) == {server.me: len(first) - 1}


def test_a_peer_that_slept_through_a_collection_of_tombstones_gets_the_summary_anew() -> None:
    mesh = VirtualMesh(2, serving=[0])
    mesh.compute(0, PROMPT)
    mesh.run(GOSSIP_S)
    server, peer = mesh.nodes[0].member, mesh.nodes[1].member
    first = block_hashes(SECRET, TOY.key, PROMPT)
    assert peer.neighbourhood.index.match(first) == {server.me: len(first)}
    mesh.kill(1)
    server.engine_event(TOY.name, CacheChanged((), first), mesh.now)
    blocks = tuple(range(SUMMARY_BLOCKS_MAX))
    for _ in range(TOMBSTONES_MAX // SUMMARY_BLOCKS_MAX + 1):
        server.engine_event(TOY.name, CacheChanged(blocks, ()), mesh.now)
        server.engine_event(TOY.name, CacheChanged((), blocks), mesh.now)
        blocks = tuple(block + SUMMARY_BLOCKS_MAX for block in blocks)
    server.engine_event(TOY.name, CacheChanged(blocks[:3], ()), mesh.now)
    mesh.run(GOSSIP_S)
    mesh.wake(1)
    with patch.object(
        peer.neighbourhood, "origin_reset", wraps=peer.neighbourhood.origin_reset
    ) as reset:
        mesh.run(GOSSIP_S)
    reset.assert_called_once_with(server.me)
    assert peer.neighbourhood.index.blocks(server.me) == 3
    assert peer.neighbourhood.index.match(first) == {}
    assert peer.neighbourhood.index.match(blocks[:3]) == {server.me: 3}


def test_a_cache_that_begins_anew_replaces_the_summary() -> None:
    mesh = VirtualMesh(1, serving=[0])
    mesh.compute(0, PROMPT)
    event = CacheChanged((1, 2), (), reset=True)
    assert mesh.nodes[0].member.engine_event(TOY.name, event, mesh.now) == []
    assert summary(mesh.nodes[0]) == {1, 2}


def test_what_an_engine_says_after_its_model_is_gone_is_not_published() -> None:
    mesh = VirtualMesh(1, serving=[0])
    member = mesh.nodes[0].member
    member.models_changed([], {}, mesh.now)
    mesh.compute(0, PROMPT)
    assert summary(mesh.nodes[0]) == set()
    assert Card.unpack(member.gossip.records(member.me)[CARD]).models == ()


def test_load_and_description_are_published() -> None:
    member = alone()
    address = Multiaddr("ip4", "192.0.2.7", 7710)
    member.described("ann", [address], NOW)
    card = Card.unpack(member.gossip.records(ME)[CARD])
    assert card == Card("ann", (str(address),), ())
    assert Load.unpack(member.gossip.records(ME)[b"load"]) == Load()


# --- What it hears of the others ----------------------------------------------------------------


def test_a_card_introduces_a_peer_that_has_no_link() -> None:
    rng = random.Random(0)
    founded_by_far = Revocations(FAR)
    member = Member(ME, 1, SECRET, CostPolicy(rng), rng, NOW, revocations=founded_by_far)
    addresses = ("/ip4/192.0.2.7/tcp/7710", "/from/the/future")
    effects = member.receive(PEER, says(FAR, CARD, Card("far", addresses).pack()), NOW)
    assert effects == [Meet(FAR, (Multiaddr("ip4", "192.0.2.7", 7710),)), PeerChanged(FAR)]
    assert member.neighbourhood.name_of(FAR) == "far"


def test_of_records_that_cannot_be_read_it_is_told_who_passed_them_on() -> None:
    member = alone()
    [effect] = member.receive(PEER, says(FAR, CARD, b"nonsense"), NOW)
    assert isinstance(effect, Unreadable)
    assert (effect.origin, effect.by) == (FAR, PEER)


def test_who_let_a_peer_in_is_known_for_as_long_as_it_has_its_link() -> None:
    """However full its queue is, and though it starts anew: in the crowd's branch it stays."""
    member, lineage = alone(), (FAR, PEER)
    member.link_up(PEER, "bob", NOW, lineage=lineage)
    request = forwarded(path=(ME,))
    member.undeliverable(PEER, request, NOW)
    member.receive(PEER, says(PEER, CARD, Card("bob").pack()), NOW)
    restarted = GossipAck((OriginDelta(PEER, 2, 0, True, (), 1, 0),))
    member.receive(PEER, restarted, NOW)
    member.links_measured({PEER: 1.0}, NOW)
    assert member.neighbourhood.client_of(PEER) == (FAR, PEER, PEER)
    assert member.neighbourhood.name_of(PEER) == "bob"


def test_a_link_and_a_goodbye_tell_who_is_here() -> None:
    member = alone()
    assert member.link_up(PEER, "bob", NOW) == [PeerUp(PEER)]
    assert member.neighbourhood.name_of(PEER) == "bob"
    [down] = member.receive(PEER, Goodbye("off to bed"), NOW)
    assert isinstance(down, PeerDown)
    assert down.peer == PEER
    assert member.gossip.states()[PEER] is PeerState.LEFT


def test_nothing_is_kept_of_members_that_came_and_went() -> None:
    member = alone()
    for number in range(10, 20):
        peer = PeerId(bytes([number]) * 32)
        member.link_up(peer, "passer-by", NOW)
        member.links_measured({peer: 1.0}, NOW)
        member.link_down(peer, NOW)
    for second in range(int(UNPROVEN_S) + 5):
        member.tick(NOW + second, [])
    assert member.neighbourhood.neighbours == {}


def test_nothing_is_kept_of_members_that_a_peer_made_up() -> None:
    member = alone()
    member.link_up(PEER, "bob", NOW)
    member.links_measured({PEER: 1.0}, NOW)
    for number in range(10, 20):
        made_up = PeerId(bytes([number]) * 32)
        member.receive(PEER, says(made_up, CARD, Card("x").pack()), NOW)
    assert len(member.neighbourhood.neighbours) == 11
    for second in range(int(UNPROVEN_S) + 5):
        member.tick(NOW + second, [PEER])
    assert member.neighbourhood.neighbours.keys() == {PEER}


def test_a_peer_with_a_link_is_not_forgotten_when_it_restarts() -> None:
    member = alone()
    member.link_up(PEER, "bob", NOW)
    member.links_measured({PEER: 1.0}, NOW)
    member.receive(PEER, says(PEER, CARD, Card("bob").pack()), NOW)
    member.receive(PEER, Syn((DigestEntry(PEER, 7, 1, 1, 0),)), NOW)
    neighbour = member.neighbourhood.neighbours[PEER]
    assert (neighbour.name, neighbour.card, neighbour.rtt_ms) == ("bob", None, 1.0)


def test_a_peer_with_a_link_that_is_not_measured_yet_keeps_its_name_when_it_restarts() -> None:
    member = alone()
    member.link_up(PEER, "bob", NOW)
    member.receive(PEER, says(PEER, CARD, Card("bob").pack()), NOW)
    member.receive(PEER, Syn((DigestEntry(PEER, 7, 1, 1, 0),)), NOW)
    assert member.neighbourhood.name_of(PEER) == "bob"


def test_who_knows_records_of_ours_that_we_never_wrote_is_told_of() -> None:
    member = alone()
    effects = member.receive(PEER, Syn((DigestEntry(ME, 7, 1, 1, 0),)), NOW)
    assert Disputed(PEER, 8) in effects


@pytest.mark.parametrize(
    "lie",
    [
        Syn((DigestEntry(FAR, 1 << 60, 1, 1, 0),)),
        Accepted(REQUEST, ME, 1, 320),
    ],
    ids=["gossip", "forwarding"],
)
def test_a_lie_raises_so_that_the_driver_hangs_up(lie: Message) -> None:
    mesh = VirtualMesh(2, serving=[1])
    mesh.run(GOSSIP_S)
    mesh.submit(0, REQUEST, PROMPT)
    with pytest.raises(RemoteProtocolError):
        mesh.nodes[0].member.receive(mesh.nodes[1].member.me, lie, mesh.now)


def test_a_forward_that_cannot_be_sent_is_routed_elsewhere() -> None:
    mesh = VirtualMesh(3, serving=[1, 2])
    mesh.run(GOSSIP_S)
    first, then = choking(mesh, times=1)
    assert first != then
    mesh.run(ANSWER_S)
    assert mesh.text(0, REQUEST) == WHOLE


def test_a_forward_that_cannot_be_sent_is_sent_a_moment_later_if_nobody_else_has_the_model() -> (
    None
):
    """Its link broke, say, and that is not told yet; or is choked."""
    mesh = VirtualMesh(2, serving=[1])
    mesh.run(GOSSIP_S)
    assert choking(mesh, times=1) == [mesh.nodes[1].member.me]
    assert mesh.nodes[0].events[REQUEST] == []
    mesh.run(1 + ANSWER_S)
    assert mesh.text(0, REQUEST) == WHOLE


def test_a_forward_that_can_never_be_sent_fails() -> None:
    mesh = VirtualMesh(2, serving=[1])
    mesh.run(GOSSIP_S)
    choking(mesh, times=3)
    mesh.run(2)
    ending = mesh.ending(0, REQUEST)
    assert isinstance(ending, fwd.Failure)
    assert isinstance(ending.error, Unreachable)


def choking(mesh: VirtualMesh, times: int) -> list[PeerId]:
    """Ask at node 0, whose next Forwards cannot be sent; to whom they were tried to be at once."""
    tried: list[PeerId] = []
    send = mesh._send

    def choked(node: VirtualMember, receiver: VirtualMember, message: Message) -> bool:
        if isinstance(message, Forward):
            tried.append(receiver.member.me)
            if len(tried) <= times:
                return False
        return send(node, receiver, message)

    mesh._send = choked  # type: ignore[method-assign]
    mesh.submit(0, REQUEST, PROMPT)
    return list(tried)


# --- Links that break ---------------------------------------------------------------------------


def asking() -> VirtualMesh:
    """Node 0 has asked node 1, the only one with a model, and has the first half of its answer."""
    mesh = VirtualMesh(3, serving=[1])
    mesh.run(GOSSIP_S)
    mesh.submit(0, REQUEST, PROMPT)
    mesh.run(ANSWER_S / 3)
    assert 0 < len(mesh.text(0, REQUEST)) < len(WHOLE)
    return mesh


def test_an_answer_goes_on_where_it_came_from_once_there_is_a_link_again() -> None:
    """As after a relay died and another one took over, or after this machine slept."""
    mesh = asking()
    mesh.kill(1)
    mesh.run(RELINK_S - 1)
    mesh.wake(1)
    mesh.run(1 + ANSWER_S)
    assert mesh.text(0, REQUEST) == WHOLE
    ending = mesh.ending(0, REQUEST)
    assert isinstance(ending, fwd.Answer)
    assert ending.route == "failed-over"
    assert ending.served_by == mesh.nodes[1].member.me


@pytest.mark.parametrize("down_s", [0.01, 2.0])
@pytest.mark.parametrize("loading_s", [0.0, 0.3, 3.0])
def test_an_answer_goes_on_where_it_came_from_after_a_new_start(
    down_s: float, loading_s: float
) -> None:
    """Until gossip tells of the start, its model seems to be there; then, for a while, none is."""
    mesh = asking()
    mesh.kill(1)
    mesh.submit(0, b"s" * 16, PROMPT)
    mesh.run(down_s)
    mesh.restart(1)
    mesh.run(loading_s)
    mesh.load(1)
    mesh.run(GOSSIP_S)
    assert mesh.text(0, REQUEST) == mesh.text(0, b"s" * 16) == WHOLE
    asked = mesh.nodes[0].member.forwarder.explanations.find(REQUEST.hex())
    assert len(asked.attempts) < 10


def test_a_model_that_does_not_come_back_with_its_node_is_not_waited_for_long() -> None:
    mesh = asking()
    mesh.kill(1)
    mesh.restart(1)
    mesh.run(RELINK_S + 1)
    ending = mesh.ending(0, REQUEST)
    assert isinstance(ending, fwd.Failure)
    assert str(ending.error) == "n1 went away in mid-answer"


def test_a_request_waits_for_who_lost_its_link_a_moment_ago() -> None:
    mesh = VirtualMesh(3, serving=[1])
    mesh.run(GOSSIP_S)
    mesh.kill(1)
    mesh.submit(0, REQUEST, PROMPT)
    mesh.run(1)
    assert mesh.nodes[0].events[REQUEST] == []
    mesh.wake(1)
    mesh.run(1 + ANSWER_S)
    assert mesh.text(0, REQUEST) == WHOLE


def test_a_request_waits_for_who_has_a_link_that_is_not_measured_yet() -> None:
    mesh = VirtualMesh(3, serving=[1])
    mesh.run(GOSSIP_S)
    mesh.kill(1)
    mesh.run(2 * RELINK_S)
    asks = mesh.nodes[0]
    mesh.perform(asks, asks.member.link_up(mesh.nodes[1].member.me, "n1", mesh.now))
    assert TOY.name in asks.member.neighbourhood.offered(awaited_since=mesh.now)
    mesh.submit(0, REQUEST, PROMPT)
    assert asks.events[REQUEST] == []
    mesh.wake(1)
    mesh.run(1 + ANSWER_S)
    assert mesh.text(0, REQUEST) == WHOLE


def test_a_link_that_does_not_come_back_is_not_waited_for_long() -> None:
    mesh = asking()
    mesh.kill(1)
    mesh.run(RELINK_S / 2)
    assert not isinstance(mesh.ending(0, REQUEST), fwd.Failure)
    mesh.run(RELINK_S / 2 + 1)
    ending = mesh.ending(0, REQUEST)
    assert isinstance(ending, fwd.Failure)
    assert str(ending.error) == "n1 went away in mid-answer"


def test_an_answer_that_grows_may_lose_any_number_of_links() -> None:
    mesh = asking()
    for _ in range(3):
        before = mesh.text(0, REQUEST)
        mesh.kill(1)
        mesh.run(1)
        mesh.wake(1)
        while mesh.text(0, REQUEST) == before:
            assert not isinstance(mesh.ending(0, REQUEST), fwd.Failure)
            mesh.run(TOKEN_S)
    mesh.run(ANSWER_S)
    assert mesh.text(0, REQUEST) == WHOLE


def test_who_loses_its_links_and_brings_no_token_is_not_asked_for_ever() -> None:
    """Else a request that kills whoever computes it could do so again and again."""
    mesh = asking()
    mesh.kill(1)
    for _ in range(2):
        assert not isinstance(mesh.ending(0, REQUEST), fwd.Failure)
        mesh.run(1)
        mesh.wake(1)
        before = len(mesh.nodes[1].runs)
        while len(mesh.nodes[1].runs) == before:
            mesh.run(TOKEN_S / 4)
        mesh.kill(1)
    assert isinstance(mesh.ending(0, REQUEST), fwd.Failure)


def test_who_said_goodbye_is_not_waited_for() -> None:
    mesh = asking()
    node, peer = mesh.nodes[0], mesh.nodes[1].member.me
    mesh.perform(node, node.member.receive(peer, Goodbye("off to bed"), mesh.now))
    mesh.kill(1)
    assert isinstance(mesh.ending(0, REQUEST), fwd.Failure)
    mesh.submit(0, b"s" * 16, PROMPT)
    assert isinstance(mesh.ending(0, b"s" * 16), fwd.Failure)


def test_what_is_asked_for_another_does_not_wait_for_a_link() -> None:
    """Its origin can ask elsewhere at once, and waits itself if it cannot."""
    mesh = VirtualMesh(3, serving=[1])
    mesh.run(GOSSIP_S)
    mesh.kill(1)
    origin, between = mesh.nodes[2].member.me, mesh.nodes[0]
    asked = Forward(
        *(REQUEST, TOY.name, None, None, "1 2 3", (), 0, Sampling(), (origin,), 1, 60_000, 0)
    )
    effects = between.member.receive(origin, asked, mesh.now)
    assert [type(each.message) for each in effects if isinstance(each, fwd.Send)] == [Refused]
