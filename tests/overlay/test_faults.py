"""Whatever goes wrong, every request has one ending, and nothing of it stays behind."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.forwarding import effects as fwd
from overlay.forwarding.explanations import Ending
from overlay.forwarding.forwarder import Forwarder
from overlay.forwarding.terms import NO_BOUNDS, Terms
from tests.overlay.faults import FaultyMesh
from tests.overlay.members import ANSWER

WHOLE = "".join(f"<{token}>" for token in ANSWER)
#: Requests of one client share a beginning with another's.
PROMPTS = [tuple(range(start, start + length)) for start in (0, 1000) for length in (96, 320)]
SIZE = 4
FULL, AGAIN = "asks for more than it may", "brings requests again"
MEDDLES = "meddles with others' requests"
#: After nothing goes wrong any more, all answers are there within this time.
ENDED_S = 200.0

nodes = st.integers(0, SIZE - 1)
asks = st.lists(
    st.tuples(st.just("ask"), nodes, st.integers(0, len(PROMPTS) - 1)), min_size=1, max_size=3
)
faults = st.one_of(
    st.tuples(st.just("hang up"), st.integers(0, 9)),
    st.tuples(st.just("cut"), nodes, nodes),
    st.tuples(st.just("sleep"), nodes, st.sampled_from([0.5, 2.0, 10.0, 60.0, 700.0])),
    st.tuples(st.just("crash"), nodes),
    st.tuples(st.just("start"), nodes, st.booleans()),
    st.tuples(st.just("leave"), nodes),
    st.tuples(st.just("engine"), nodes),
    st.tuples(st.just("revoke"), nodes),
    st.tuples(st.just("pause"), nodes, st.booleans()),
    st.tuples(st.just("resume"), nodes),
    st.tuples(st.just("all sleep"), st.sampled_from([10.0, 3600.0])),
)
#: Before a fault a hop takes, or some tokens of an answer; after some of them it is noticed.
before = st.sampled_from([0.0003, 0.0007, 0.0012, 0.0017, 0.05, 0.2, 0.4])
after = st.sampled_from([0.0, 0.0, 0.02, 0.2, 1.0, 5.0, 40.0])
plans = st.lists(st.tuples(asks, before, faults, after), min_size=1, max_size=8)
terms = st.sampled_from(
    [
        NO_BOUNDS,
        NO_BOUNDS,
        Terms(guest_requests=1),
        Terms(guest_tokens_per_minute=400),
        Terms(guest_tokens_per_minute=110),
    ]
)


Step = tuple[object, ...]
Plan = Sequence[tuple[Sequence[Step], float, Step, float]]


class Story:
    """A mesh, what its clients asked, and what becomes of it."""

    def __init__(self, mesh: FaultyMesh) -> None:
        self.mesh = mesh
        #: By request: whose client asked, and how much it had heard when it hung up, if it did.
        self.asked: dict[bytes, tuple[int, int | None]] = {}
        #: Requests whose node was gone before they were answered.
        self.orphans: set[bytes] = set()

    def happen(self, step: Step) -> None:
        mesh = self.mesh
        match step:
            case ("ask", int(index), int(which)) if mesh.nodes[index] in mesh._awake():
                request_id = len(self.asked).to_bytes(16, "big")
                self.asked[request_id] = (index, None)
                mesh.submit(index, request_id, PROMPTS[which])
            case ("hang up", int(which)) if which < len(self.asked):
                request_id = which.to_bytes(16, "big")
                index, heard = self.asked[request_id]
                node = mesh.nodes[index]
                if node in mesh._awake() and heard is None:
                    self.asked[request_id] = (index, len(node.events[request_id]))
                    mesh.perform(node, node.member.cancel(request_id, mesh.now))
            case ("cut", int(a), int(b)) if a != b:
                mesh.cut(a, b)
            case ("sleep", int(index), float(seconds)):
                mesh.sleep(index, seconds)
            case ("crash" | "leave" as how, int(index)) if mesh.nodes[index] in mesh._awake():
                if len(mesh._awake()) > 1:
                    (mesh.leave if how == "leave" else mesh.crash)(index)
                    self.orphans |= {r for r, (whose, _) in self.asked.items() if whose == index}
            case ("start", int(index), bool(serving)):
                mesh.start(index, serving=serving)
            case ("engine", int(index)):
                mesh.kill_engine(index)
            case ("revoke", int(index)) if not mesh.revoked:
                mesh.revoke(index)
            case ("pause", int(index), bool(hand_back)) if mesh.nodes[index] in mesh._awake():
                node = mesh.nodes[index]
                mesh.perform(node, node.member.pause(mesh.now, hand_back=hand_back))
            case ("resume", int(index)) if mesh.nodes[index] in mesh._awake():
                mesh.nodes[index].member.resume(mesh.now)
            case ("all sleep", float(seconds)):
                mesh.sleep_all(seconds)

    def check_endings(self) -> None:
        for request_id, (index, heard) in self.asked.items():
            events = self.mesh.nodes[index].events[request_id]
            endings = [e for e in events if not isinstance(e, fwd.TextDelta)]
            text = self.mesh.text(index, request_id)
            assert WHOLE.startswith(text)
            assert len(endings) <= 1
            assert not endings or events[-1] is endings[0]
            if heard is not None:
                assert len(events) == heard, "nothing comes after a client has hung up"
            elif request_id not in self.orphans:
                assert endings, "every request has an ending"
            if endings and isinstance(endings[0], fwd.Answer):
                assert text == WHOLE

    def check_nothing_stays(self) -> None:
        for node in self.mesh.nodes:
            check_idle(node.member.forwarder)
            assert not node.running


def check_idle(forwarder: Forwarder) -> None:
    assert forwarder.open_requests == 0
    assert forwarder.next_deadline() == math.inf
    assert not forwarder.ledger._sent
    assert not forwarder.ledger._where
    assert not forwarder._runs._jobs
    lending = forwarder.lending
    assert lending.guests == 0
    assert not lending._open
    assert lending._quota is None or not lending._quota._reserved
    assert all(each.ending is not Ending.OPEN for each in forwarder.explanations)


def live_through(mesh: FaultyMesh, plan: Plan, warm: Sequence[int | None]) -> None:
    """``warm``: who has computed each of the prompts before."""
    story = Story(mesh)
    for index, prompt in zip(warm, PROMPTS, strict=True):
        if index is not None and mesh.nodes[index].member.neighbourhood.models:
            mesh.compute(index, prompt)
    mesh.run(5)
    for asked, before_s, fault, after_s in plan:
        for step in asked:
            story.happen(step)
        mesh.run(before_s)
        story.happen(fault)
        mesh.run(after_s)
    mesh.heal()
    healed = mesh.now
    while any(node.member.forwarder.open_requests for node in mesh.nodes):
        assert mesh.now < healed + ENDED_S, "all requests end"
        mesh.run(1)
    mesh.run(1)
    story.check_endings()
    story.check_nothing_stays()


def meshes(*, untidy: float) -> st.SearchStrategy[FaultyMesh]:
    return st.builds(
        FaultyMesh,
        serving=st.tuples(*[st.booleans()] * SIZE).filter(any),
        terms=st.tuples(*[terms] * SIZE),
        apart=st.lists(st.tuples(nodes, nodes).filter(lambda p: p[0] != p[1]), max_size=3),
        seed=st.integers(0, 1 << 16),
        untidy=st.just(untidy),
    )


#: Who has which prompt in its cache.
caches = st.tuples(*[st.none() | nodes] * len(PROMPTS))


@settings(max_examples=20, deadline=None)
@given(meshes(untidy=0.0), plans, caches)
def test_requests_end_and_leave_nothing_behind(
    mesh: FaultyMesh, plan: Plan, warm: Sequence[int | None]
) -> None:
    live_through(mesh, plan, warm)
    assert not mesh.lies
    # A request may come again by another way before all was said of it on the first.
    matters = {n.detail if n.matter == MEDDLES else n.matter for n in mesh.noticed()}
    assert matters <= {"StreamAck", "Cancel", AGAIN, FULL}


@settings(max_examples=20, deadline=None)
@given(meshes(untidy=0.1), plans, caches)
def test_so_they_do_on_a_network_that_loses_doubles_and_mixes_up(
    mesh: FaultyMesh, plan: Plan, warm: Sequence[int | None]
) -> None:
    live_through(mesh, plan, warm)
