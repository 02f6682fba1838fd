from cli.mesh_state import MeshState
from tests.cli.fake_node import GONE_ID, STATUS
from tests.support.recorder import FRIEND_ID, PEER_ID


def test_peers_by_state_with_names() -> None:
    state = MeshState.from_status(STATUS)
    assert (state.up, state.down) == (("bea",), ("carl",))
    assert state.names == {PEER_ID: "laptop", FRIEND_ID: "bea", GONE_ID: "carl"}
    assert state.peers_line == "1 peer up (bea), 1 down"


def test_a_lone_node() -> None:
    assert MeshState.from_status({}).peers_line == "no peers yet"


def test_friends_who_are_still_away() -> None:
    state = MeshState.from_status({"absent": [{"peer_id": FRIEND_ID, "name": "bea"}]})
    assert state.peers_line == "0 peers up, 1 down"


def test_names_cannot_drive_the_terminal() -> None:
    state = MeshState.from_status({"peers": [{"name": "\x1b[2Jx", "state": "UP"}]})
    assert state.up == ("[2Jx",)
