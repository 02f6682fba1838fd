from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import ConfigError, Malformed
from overlay.identity.multiaddr import Multiaddr, parse_announced, parse_listen
from tests.overlay.identity.strategies import multiaddrs


@given(multiaddrs)
def test_text_and_packed_forms_round_trip(address: Multiaddr) -> None:
    assert Multiaddr.parse(str(address)) == address
    packed = address.pack()
    assert Multiaddr.unpack_from(b"xx" + packed + b"yy", 2) == (address, 2 + len(packed))


@given(multiaddrs)
def test_a_packed_address_that_is_cut_is_none(address: Multiaddr) -> None:
    packed = address.pack()
    for length in range(len(packed)):
        with pytest.raises(Malformed):
            Multiaddr.unpack_from(packed[:length])


def with_a_slip(text: str, at: int, char: str) -> str:
    at %= len(text)
    return text[:at] + char + text[at + 1 :]


slips = st.builds(with_a_slip, multiaddrs.map(str), st.integers(0, 99), st.text(max_size=1))


@given(st.text(max_size=60) | slips)
def test_any_text_is_an_address_or_malformed(text: str) -> None:
    try:
        address = Multiaddr.parse(text)
    except Malformed:
        return
    assert Multiaddr.parse(str(address)) == address


def with_a_spot(data: bytes, at: int, byte: int) -> bytes:
    at %= len(data)
    return data[:at] + bytes([byte]) + data[at + 1 :]


spotted = st.builds(
    with_a_spot, multiaddrs.map(Multiaddr.pack), st.integers(0, 99), st.integers(0, 255)
)


@given(st.binary(max_size=40) | spotted)
def test_any_bytes_are_an_address_or_malformed(data: bytes) -> None:
    try:
        address, end = Multiaddr.unpack_from(data)
    except Malformed:
        return
    assert end <= len(data)
    packed = address.pack()
    assert Multiaddr.unpack_from(packed) == (address, len(packed))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/ip4/192.0.2.7",
        "/ip4/192.0.2.7/udp/7710",
        "/ip4/192.0.2.300/tcp/7710",
        "/ip4/192.0.2.7/tcp/65536",
        "/ip4/192.0.2.7/tcp/-1",
        "/ip4/192.0.2.7/tcp/٧",
        "/ip6/fe80::1%eth0/tcp/7710",
        "/ip6/192.0.2.7/tcp/7710",
        "/dns4//tcp/7710",
        "/dns4/a b/tcp/7710",
        "/dns/192.0.2.300/tcp/7710",
        "/dns/" + "a." * 127 + "/tcp/7710",
        "/onion/abc/tcp/7710",
        "/ip4/192.0.2.7/tcp/7710/p2p/x",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(Malformed):
        Multiaddr.parse(text)


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("/ip4/127.0.0.1/tcp/7710", True),
        ("/ip4/127.8.0.9/tcp/7710", True),
        ("/ip6/::1/tcp/7710", True),
        ("/ip4/192.0.2.7/tcp/7710", False),
        ("/ip6/2001:db8::7/tcp/7710", False),
        ("/dns/localhost/tcp/7710", False),
    ],
)
def test_which_addresses_lead_back_to_who_dials_them(text: str, loopback: bool) -> None:
    assert Multiaddr.parse(text).is_loopback is loopback


def test_endpoints() -> None:
    assert Multiaddr.of("192.0.2.7", 7710).endpoint == "tcp://192.0.2.7:7710"
    assert Multiaddr.of("2001:DB8::7", 7710).endpoint == "tcp://[2001:db8::7]:7710"
    assert Multiaddr.of("Laptop.Example.", 7710).endpoint == "tcp://laptop.example:7710"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:7710", "/ip4/127.0.0.1/tcp/7710"),
        ("localhost:0", "/ip4/127.0.0.1/tcp/0"),
        ("[::1]:7710", "/ip6/::1/tcp/7710"),
        (":7710", "/ip4/0.0.0.0/tcp/7710"),
        ("/ip6/::/tcp/1", "/ip6/::/tcp/1"),
    ],
)
def test_where_to_listen(text: str, expected: str) -> None:
    assert str(parse_listen(text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7710",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:http",
        "::1:7710",
        "::1]:7710",
        "[::1]",
        "/ip4/x",
    ],
)
def test_where_not_to_listen(text: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot listen on .* 127\.0\.0\.1:7710$"):
        parse_listen(text)


def test_who_gave_brackets_is_told_of_the_port_that_is_missing() -> None:
    with pytest.raises(ConfigError, match="a port is missing"):
        parse_listen("[::1]")


def test_listening_needs_an_address_of_this_machine() -> None:
    with pytest.raises(ConfigError, match="not a name"):
        parse_listen("example.org:7710")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("home.example.org:7710", "/dns/home.example.org/tcp/7710"),
        ("localhost:1", "/dns/localhost/tcp/1"),
        ("192.0.2.7:7710", "/ip4/192.0.2.7/tcp/7710"),
        ("[2001:db8::7]:7710", "/ip6/2001:db8::7/tcp/7710"),
        ("/dns4/home.example.org/tcp/7710", "/dns4/home.example.org/tcp/7710"),
    ],
)
def test_what_to_announce(text: str, expected: str) -> None:
    assert str(parse_announced(text)) == expected


@pytest.mark.parametrize("text", ["", ":7710", "home.example.org", "192.0.2.7:0", "::1:7710", "/x"])
def test_what_not_to_announce(text: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot announce .* home\.example\.org:7710$"):
        parse_announced(text)
