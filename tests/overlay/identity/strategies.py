"""Random keys and addresses for property tests of this package and of those above it."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import strategies as st

from overlay.identity.keys import NodeKey
from overlay.identity.multiaddr import Multiaddr


def key(number: int) -> NodeKey:
    """The key that the tests call ``number``."""
    return NodeKey.from_seed(number.to_bytes(32, "big"))


keys = st.binary(min_size=32, max_size=32).map(NodeKey.from_seed)

_labels = st.from_regex(r"[a-z]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
_ports = st.integers(0, 65535)
#: For those to whom one address is like another: made in a tenth of the time.
ip_multiaddrs = st.builds(
    lambda host, port: Multiaddr.of(str(ip_address(host)), port),
    st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16),
    _ports,
)
multiaddrs = st.one_of(
    st.builds(Multiaddr, st.just("ip4"), st.ip_addresses(v=4).map(str), _ports),
    st.builds(Multiaddr, st.just("ip6"), st.ip_addresses(v=6).map(str), _ports),
    st.builds(
        Multiaddr,
        st.sampled_from(["dns", "dns4", "dns6"]),
        st.lists(_labels, min_size=1, max_size=4).map(".".join),
        _ports,
    ),
)
