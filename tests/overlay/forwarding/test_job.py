"""The window of frames: nothing lost, nothing out of order, no frame too long."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from models.engine import Alternative, Chunk, TokenLogprob
from overlay.forwarding.job import FRAME_CHARS, SendWindow
from overlay.limits import FRAME_TOKENS_MAX, LOGPROBS_MAX, MERGED_TOKENS_MAX, WAITING_CHARS_MAX
from tests.overlay.forwarding.world import logprob_of

chunks = st.integers(0, FRAME_TOKENS_MAX).map(
    lambda count: Chunk(b"", tuple(range(count)), "x" * count, (logprob_of(1, 0),) * count)
)


@given(
    st.lists(st.one_of(chunks, st.integers(-1, 40)), max_size=60),
    st.integers(1, 4),
)
def test_frames_carry_everything_in_order(steps: list[Chunk | int], limit: int) -> None:
    """A step is a chunk to send, or an acknowledgement to receive."""
    window = SendWindow(b"id", limit)
    frames = []
    for step in steps:
        frames += window.push(step) if isinstance(step, Chunk) else window.acknowledge(step)
        assert window.sent - window.acked <= limit
    frames += window.flush()
    pushed = [step for step in steps if isinstance(step, Chunk)]
    assert [frame.seq for frame in frames] == list(range(window.sent))
    assert sum((frame.tokens for frame in frames), ()) == sum((c.tokens for c in pushed), ())
    assert "".join(frame.text for frame in frames) == "".join(c.text for c in pushed)
    for frame in frames:
        assert len(frame.tokens) == len(frame.logprobs) <= FRAME_TOKENS_MAX


def test_what_waited_goes_out_together() -> None:
    window = SendWindow(b"id", 1)
    assert len(window.push(Chunk(b"", (1,), "a"))) == 1
    for token in (2, 3):
        assert window.push(Chunk(b"", (token,), "b")) == []
    [frame] = window.acknowledge(0)
    assert (frame.seq, frame.tokens, frame.text) == (1, (2, 3), "bb")


def test_what_is_under_way_stays_small_while_the_window_is_full() -> None:
    window = SendWindow(b"id", 1)
    window.push(Chunk(b"", (0,), "a"))
    for token in range(1, 100):
        assert window.push(Chunk(b"", (token,), "b")) == []
    [frame] = window.acknowledge(0)
    assert frame.tokens == tuple(range(1, 1 + MERGED_TOKENS_MAX))
    # The end need not wait, and takes few frames.
    [frame] = window.flush()
    assert frame.tokens == tuple(range(1 + MERGED_TOKENS_MAX, 100))


def test_a_window_tells_when_too_much_waits() -> None:
    window = SendWindow(b"id", 1)
    window.push(Chunk(b"", (0,), "a"))
    window.push(Chunk(b"", (1,), "b" * (WAITING_CHARS_MAX - FRAME_CHARS - 1)))
    told = [window.overflows]
    window.push(Chunk(b"", (2,), "", (TokenLogprob(b"c", -1.0, ()),)))
    told.append(window.overflows)
    window.acknowledge(0)
    window.acknowledge(1)
    told.append(window.overflows)
    assert told == [False, True, False]
    assert window.waiting_chars == 0


def test_what_has_no_text_takes_room_too() -> None:
    """Tokens of which no text is shown, and alternatives without a piece, a few of each."""
    nothing = TokenLogprob(b"", -1.0, (Alternative(b"", -1.0),) * LOGPROBS_MAX)
    for new in (Chunk(b"", (1,), ""), Chunk(b"", (1,) * 128, "", (nothing,) * 128)):
        window = SendWindow(b"id", 1)
        kept = 0
        while not window.overflows:
            window.push(new)
            kept += 1 + len(new.tokens) + (1 + LOGPROBS_MAX) * len(new.logprobs)
        assert kept < 1.1 * WAITING_CHARS_MAX
