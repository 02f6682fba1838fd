"""Every bound in Hearth, in one place, each with its reason."""

from __future__ import annotations

from typing import Final

# --- Bytes ------------------------------------------------------------------------------------

#: A message on a link. A prompt of 128k tokens packs to about 400 KB; gossip deltas stay far below.
MESSAGE_BYTES_MAX: Final = 1 << 20
#: A message from a peer that has shown no certificate yet: hello, join and their answers.
STRANGER_MESSAGE_BYTES_MAX: Final = 8 << 10
#: A request that is forwarded may come in so slowly: a quarter of a megabit a second is less than
#: any uplink that serves. 24,000 tokens take ACCEPT_S then, which all requests have.
FORWARD_BYTES_PER_S: Final = 32 << 10
#: A gossip delta per message, so that a new member's first round does not stall a slow link.
DELTA_BYTES_MAX: Final = 64 << 10
#: The key and the value of one gossiped record, so that a few always fit into a delta.
RECORD_KEY_BYTES_MAX: Final = 32
RECORD_VALUE_BYTES_MAX: Final = 16 << 10
#: The records of one origin, as they are on the wire: RECORDS_PER_ORIGIN_MAX blocks take 0.7 MB; a
#: card, a chain and all revocations less than as much again.
ORIGIN_BYTES_MAX: Final = 2 << 20
#: The records of all origins; beyond that each may have what is its share of this (128 KiB: a full
#: summary; of 370 members or less each may have that and its TOMBSTONES_MAX). Python takes four
#: times as much for them, and three times as much again to find blocks by.
REPLICAS_BYTES_MAX: Final = 128 << 20
#: A sealed announcement on the LAN: a string of a TXT record has 255 bytes, and ``p=`` takes two.
ANNOUNCEMENT_BYTES_MAX: Final = 253
#: What a peer may have read of its messages per second, and at once after a quiet time: 32 long
#: prompts of OPEN_REQUESTS_PER_PEER_MAX come to 13 MB, a new member's first gossip to less.
PEER_BYTES_PER_S: Final = 16 << 20
PEER_BYTES_BURST: Final = 64 << 20
#: What a peer that is slowed may have arrived and not read yet.
PARKED_BYTES_MAX: Final = 32 << 20
#: What all peers that are slowed may have arrived and not read yet; of more than that, whoever has
#: the most is cut, in the branch that has the most.
ALL_PARKED_BYTES_MAX: Final = 128 << 20
#: What was sent to all peers since the latest ping that each has answered, and may lie here unread;
#: of more than that, whoever has the most is cut, in the branch that has the most.
ALL_UNREAD_BYTES_MAX: Final = 128 << 20
#: A message through a relay, which wraps it: its own envelope, PeerId, number and seal.
RELAYED_MESSAGE_BYTES_MAX: Final = MESSAGE_BYTES_MAX - 1024
#: What a member has relayed of one other's messages per second, and at once after a quiet time:
#: some answers and prompts, and a new member's first gossip, on the uplink of a home.
RELAY_BYTES_PER_S: Final = 1 << 20
RELAY_BYTES_BURST: Final = 8 << 20
#: What waits to go through a relay to one receiver: two seconds of what is granted, so that an
#: Accepted behind it comes within ACCEPT_S. The windows of ordinary answers fill far less.
RELAY_QUEUE_BYTES_MAX: Final = 2 << 20
#: An answer of a router that is asked to pass a port on: descriptions of 10 to 50 KB.
GATEWAY_ANSWER_BYTES_MAX: Final = 256 << 10
#: An HTTP request body.
HTTP_BODY_BYTES_MAX: Final = 8 << 20
#: The bodies of all HTTP requests that are open; beyond that each may have what is its share of
#: this (512 KiB: a long prompt).
HTTP_BODIES_BYTES_MAX: Final = 256 << 20

# --- Counts -----------------------------------------------------------------------------------

#: Members of one mesh that a node keeps records of, and links with.
MEMBERS_MAX: Final = 1024
#: All whom a member let in, and whom those let in, have one in so many of the places of all whom
#: its own inviter let in. The founder's are MEMBERS_MAX. Links have places of their own: were those
#: and the others one member's inventions, a third would be left.
PLACES_PER_BRANCH_PLACE: Final = 3
#: Connections that have shown no certificate, at one time.
STRANGERS_MAX: Final = 64
#: Of these, from one network address.
STRANGERS_PER_ADDRESS_MAX: Final = 16
#: Connections that have not said anything whole, at one time; but not more than a quarter of the
#: descriptors that the system grants. The oldest gives way: of a thousand that come in a second, a
#: member's has some seconds to say hello.
CALLERS_MAX: Final = 4096
#: Of these, from one network address: each can have libzmq keep some 25 MB of made-up metadata.
CALLERS_PER_ADDRESS_MAX: Final = 64
#: Attempts to dial that are under way: a member can make up any number of others, with addresses,
#: and each takes half a dozen file descriptors until it has failed.
DIALS_AT_ONCE_MAX: Final = 32
#: Attempts that begin per second, and at once after a quiet time.
DIALS_PER_S: Final = 16
DIALS_BURST: Final = 64
#: Names of addresses that are looked up at one time, each in a thread of its own.
LOOKUPS_MAX: Final = 32
#: Connections from one network address per second, and at once after a quiet time: a household of
#: friends behind one address dials again when the network comes back.
HANDSHAKES_PER_S: Final = 4
HANDSHAKES_BURST: Final = 128
#: Messages of a peer that are read per second, and at once after a quiet time. 32 answers of 100
#: tokens per second, one frame each, are 3,200; gossip and pings are some 10; a link can do 20,000.
PEER_MESSAGES_PER_S: Final = 5000
PEER_MESSAGES_BURST: Final = 10_000
#: Of all in the branch of one whom the founder let in, so much more is read than of a peer; of a
#: branch within that one, by the square of it, and so on.
BRANCH_SURPLUS: Final = 0.5
#: Token frames and acknowledgements in one message: two steps of an engine that answers the most
#: requests that one peer may have open.
BATCH_FRAMES_MAX: Final = 64
#: So many of these count as one message: reading a message costs as much as so many in it.
BATCH_FRAMES_PER_MESSAGE: Final = 8
#: Of gossip, each origin's delta counts as a message, and so do so many of its records, or so many
#: entries of a digest. In a mesh of a thousand, two exchanges a second with one peer are 3,000.
CHANGES_PER_MESSAGE: Final = 16
ENTRIES_PER_MESSAGE: Final = 4
#: Records that cannot be read, of an origin that may be made up, count as so many messages: honest
#: members pass none on, and each costs a place, a line for the log, or a signature to be verified.
UNREADABLE_MESSAGES: Final = 64
#: A digest that is asked for, whole or compact, counts as so many at least: who knows a thousand
#: members takes 6 ms to put its own together, and a question may be all but empty.
DIGEST_MESSAGES: Final = 128
#: So many tokens, of a prompt or in frames, count as one message: 131,072 take a node some 12 ms to
#: read, check, hash and pass on, and may come in 128 KiB. 32 such prompts are within the burst.
TOKENS_PER_MESSAGE: Final = 512
#: A request counts as so many: where it goes is decided anew each time, in 0.15 ms, or 4 ms among a
#: thousand nodes that serve the model. Some 300 of them may still come in a second.
FORWARD_MESSAGES: Final = 16
#: So many candidates among which it is decided for a guest's request count as one message of the
#: guest: each takes 4 µs, and where those who are asked refuse, it is decided up to nine times.
#: Where there is none, each peer counts as two.
CANDIDATES_PER_MESSAGE: Final = 8
#: Requests of guests that are passed on to one peer per second, and at once after a quiet time: a
#: quarter of what it would slow this node for, with what follows each. One of many parts counts as
#: more, as it does there.
PASSED_ON_PER_S: Final = 64
PASSED_ON_BURST: Final = 128
#: Messages that are relayed of one member per second, and at once after a quiet time.
RELAY_MESSAGES_PER_S: Final = 2000
RELAY_MESSAGES_BURST: Final = 4000
#: To one member as much is relayed as so many may send: less than it would slow the relay for. Of
#: one branch it is as much as one may send.
RELAY_SENDERS_PER_RECEIVER: Final = 2
#: In all, and of one branch, as much is relayed as so many may send: 32 Mbit/s of an uplink, and a
#: link can do more than twice as many messages. So the relay can do something for its owner, too.
RELAY_SENDERS_IN_ALL: Final = 4
RELAY_SENDERS_PER_BRANCH: Final = 2
#: Members that are dialled back at one time, at their request. Branches share these, too.
DIAL_BACKS_MAX: Final = 12
#: Circuits through one relay whose other end has shown no membership yet: a relay makes up any.
#: Branches share these as they share other places; who is not known to be a member is of the
#: relay's.
CIRCUITS_OPENING_PER_RELAY_MAX: Final = 16
#: Messages of a peer that is slowed that have arrived and are not read yet.
PARKED_MESSAGES_MAX: Final = 10_000
#: Addresses in a card, an invite or a hello.
ADDRESSES_MAX: Final = 8
#: Certificates from a member up to the founder.
CERTIFICATE_CHAIN_MAX: Final = 8
#: Blocks in one node's prefix summary (4,096 blocks of 32 tokens: 131k cached tokens).
SUMMARY_BLOCKS_MAX: Final = 4096
#: Blocks that a node remembers of one peer: halfway from one summary to another, as a message may
#: leave it, a receiver knows some of both.
KNOWN_BLOCKS_PER_PEER_MAX: Final = 2 * SUMMARY_BLOCKS_MAX
#: Blocks of a full summary that may give way to more valuable ones per second: each is a record and
#: a tombstone, so that TOMBSTONES_MAX alone reach back for two to four minutes of this.
SUMMARY_SWAPS_PER_S: Final = 32
#: Tombstones an origin keeps before it collects the older half early: a churning cache makes many.
TOMBSTONES_MAX: Final = 2 * SUMMARY_BLOCKS_MAX
#: Records and tombstones of one origin, as a receiver halfway between two snapshots may hold them.
RECORDS_PER_ORIGIN_MAX: Final = 2 * (SUMMARY_BLOCKS_MAX + TOMBSTONES_MAX)
#: Models in a card, and other names of one model.
MODELS_PER_CARD_MAX: Final = 16
ALIASES_MAX: Final = 8
#: Requests a peer may have open here.
OPEN_REQUESTS_PER_PEER_MAX: Final = 32
#: Of these, requests of guests that a node has passed on to one peer: the other places are for its
#: own.
PASSED_ON_OPEN_MAX: Final = 24
#: Tokens of all guests' open requests and of their answers, 40 bytes each; a character of a prompt
#: as text counts as one, and so do those of an answer that wait, and a request by itself as 1,024.
#: Beyond that each guest may have what is its share of this; and as much again those whose branch
#: does not have most.
GUESTS_TOKENS_MAX: Final = 2 << 20
#: Requests waiting in the engine, besides those that can begin at once, before new ones are
#: refused. A guest's takes the place of the latest of one that has more.
ENGINE_QUEUE_MAX: Final = 64
#: KV cells of a model: llama.cpp rounds less up to this.
CELLS_MIN: Final = 256
#: Tokens of the owner's conversations and answers that are remembered for their next turns, 4 bytes
#: each; and as many of guests'.
REMEMBERED_TOKENS_MAX: Final = 1 << 20
#: Answers remembered after one prompt: those of ``n``, and of asking again.
ANSWERS_PER_PROMPT_MAX: Final = 8
#: Tokens of a prompt that may cross the wire.
PROMPT_TOKENS_MAX: Final = 131_072
#: Messages of a conversation, and parts of each: templates spend some tokens on every message, so
#: that no context has room for more; reading 100,000 takes a third of a second.
PROMPT_MESSAGES_MAX: Final = 8192
#: So many of them, in a forwarded request, count as one message.
PROMPT_MESSAGES_PER_MESSAGE: Final = 64
#: So many log probabilities in a token frame count as one message: a mebibyte of them takes a sixth
#: of a second to read, whether anybody asked for them or not.
LOGPROBS_PER_MESSAGE: Final = 64
#: Forwarding steps of a request.
HOP_LIMIT_DEFAULT: Final = 2
HOP_LIMIT_MAX: Final = 4
#: Token frames that may be under way before the executor waits for an acknowledgement.
STREAM_WINDOW_FRAMES: Final = 64
#: Tokens that waited for the window and leave in one frame: the full windows of 32 answers then
#: take some 300 KB, a third of a second through a relay.
MERGED_TOKENS_MAX: Final = 8
#: Tokens in one frame, each with up to LOGPROBS_MAX alternatives: some hundred bytes for each.
FRAME_TOKENS_MAX: Final = 128
#: Requests of own clients that a node can explain, and as many of peers: some kB each.
EXPLANATIONS_MAX: Final = 512
#: Candidates in an explanation, the cheapest ones; the chosen one and this node come on top.
EXPLAINED_CANDIDATES_MAX: Final = 16
#: Characters that one token of an answer stands for: vocabularies have runs of some hundred spaces.
TOKEN_CHARS_MAX: Final = 1024
#: Characters of an answer in all: 16 for each of PROMPT_TOKENS_MAX tokens, where words have 4 or 5.
ANSWER_CHARS_MAX: Final = 16 * PROMPT_TOKENS_MAX
#: Characters of an answer that wait at a node because whoever asked through it acknowledges none:
#: six times what a fast engine makes of it in half a minute, as each frame counts as some, too.
WAITING_CHARS_MAX: Final = 1 << 18
#: Messages queued for one peer before a link counts as stuck.
SEND_QUEUE_MESSAGES_MAX: Final = 1000
#: Uses that one invite may allow.
INVITE_USES_MAX: Final = 100
#: Invites that a node keeps; those that are over make room for new ones.
INVITES_MAX: Final = 256
#: Revocations that a mesh remembers, and how many of them one member other than the founder may
#: have made: every node passes all on, for as long as the mesh lives. A branch has its share of
#: them, by PLACES_PER_BRANCH_PLACE, but room for one member at least.
REVOCATIONS_MAX: Final = 256
REVOCATIONS_PER_MEMBER_MAX: Final = 32
#: Revocations that others tell of and that are verified in one gossip round, at a tenth to one
#: millisecond each: a member may publish any number that are none.
REVOCATION_CHECKS_PER_ROUND: Final = 64
#: Revocations that are taken from one branch of those whom the founder let in, per second, and at
#: once after a quiet time: with each, every node writes a file, for some 20 ms, and tells all.
REVOCATIONS_PER_BRANCH_PER_S: Final = 1
REVOCATIONS_PER_BRANCH_BURST: Final = 64
#: Chains of origins that are verified in one gossip round: a member may make up any number of both.
CHAIN_CHECKS_PER_ROUND: Final = 64
#: Addresses in a join token, which must stay short enough to paste.
TOKEN_ADDRESSES_MAX: Final = 3
#: Characters of a node's or a model's name.
NAME_CHARS_MAX: Final = 64
#: Characters of a model's description and of an address.
DESCRIPTION_CHARS_MAX: Final = 200
ADDRESS_CHARS_MAX: Final = 256
#: Stop strings of one request, and the characters of each: the engine compares them at every token.
STOP_STRINGS_MAX: Final = 16
STOP_STRING_CHARS_MAX: Final = 256
#: Token ids with a bias in one request.
LOGIT_BIAS_MAX: Final = 1024
#: Alternatives to each token whose log probabilities are told, as at OpenAI.
LOGPROBS_MAX: Final = 20
#: Characters of a grammar or of a JSON schema: the engine reads them before it goes on decoding.
GRAMMAR_CHARS_MAX: Final = 32 << 10
#: Answers to one prompt (``n``): each takes a place in the engine.
ANSWERS_MAX: Final = 8
#: Characters of what a client calls a model: it is remembered, to be explained. All names and
#: aliases are shorter.
ASKED_MODEL_CHARS_MAX: Final = 256
#: Pieces (chunks, or what comes at a time) of a request's body, and one more for each KiB of it:
#: each takes 45 µs to read, however small, and a quarter of a MiB is read without a pause.
HTTP_PIECES_MAX: Final = 1024
#: Open connections to the HTTP API; the longest idle gives way to a new one.
HTTP_CONNECTIONS_MAX: Final = 512

# --- Time -------------------------------------------------------------------------------------

#: A handshake (CURVE and hello, or join) must be done by then.
HANDSHAKE_S: Final = 10.0
#: Between two gossip rounds; each is jittered by up to a fifth.
GOSSIP_INTERVAL_S: Final = 1.0
#: A link is looked at this often, and pinged if nothing was heard on it for as long.
PING_INTERVAL_S: Final = 1.0
#: It is pinged this often whatever is heard, so that the round trip is known as it is now.
RTT_INTERVAL_S: Final = 5.0
#: Tombstones are kept this long at least, so that a node away for less catches up without a reset.
TOMBSTONE_GRACE_S: Final = 600.0
#: Phi at which a peer is judged DOWN (Hayashibara et al. 2004; 8 errs about once in 10^8).
PHI_DOWN: Final = 8.0
#: An origin that no link and no chain has shown to be a member is forgotten after this long: at
#: CHAIN_CHECKS_PER_ROUND, the chains of MEMBERS_MAX take 16 rounds. So is who had a link and told
#: nothing, once that has ended.
UNPROVEN_S: Final = 60.0
#: A DOWN peer's records are forgotten after this long.
FORGET_PEER_S: Final = 24 * 3600.0
#: No sign of life of a forwarded request for this long: route it elsewhere.
STREAM_STALL_S: Final = 30.0
#: An executor that has not said it accepts within this time, for each hop that the request may
#: take, is taken for lost; of long prompts, see FORWARD_BYTES_PER_S.
ACCEPT_S: Final = 3.0
#: The time a request may take in all, unless it says otherwise.
REQUEST_DEADLINE_S: Final = 600.0
#: How long a place among guest_requests is kept for a guest that was refused one, and had fewer.
PLACE_KEPT_S: Final = 30.0
#: The minute of a guest's quota of tokens.
QUOTA_WINDOW_S: Final = 60.0
#: A peer that is slowed for so long is cut and banned.
SLOWED_MAX_S: Final = 5.0
#: A peer that breaks the protocol so often within BREACHES_S is banned: once may be a bug.
BREACHES_MAX: Final = 3
BREACHES_S: Final = 600.0
#: The first ban of a peer; each is twice as long as the one before, up to the longest.
BAN_S: Final = 60.0
BAN_MAX_S: Final = 3600.0
#: A peer that is up, and to which there was no link for so long, is sought through a relay.
RELAY_AFTER_S: Final = 3.0
#: Who lost its link may have another one so soon: its relay died, say, or this machine slept, or
#: left the LAN, and RELAY_AFTER_S had to pass. A new link takes a round trip to be measured. A
#: request that nobody else can take waits for it.
RELINK_S: Final = 8.0
#: Between two checks that a router passes on what comes to it, and so often a member is dialled
#: back at most twice.
DIAL_BACK_INTERVAL_S: Final = 60.0
#: Between two looks at the addresses of this machine, at a fifth of a millisecond each.
INTERFACES_INTERVAL_S: Final = 2.0
#: A router passes a port on for so long if it is not asked again; it is asked three times as often,
#: so that one that was restarted does so again soon.
PORT_LEASE_S: Final = 900
#: After a router could not be found or refused, or was out of order: until it is asked anew.
PORT_RETRY_S: Final = 300.0
#: A router answers within this time.
GATEWAY_ANSWER_S: Final = 5.0
#: Redial backoff: first, and longest.
REDIAL_MIN_S: Final = 0.2
REDIAL_MAX_S: Final = 30.0
#: Invites expire after a day by default, and after a month at the latest.
INVITE_TTL_S: Final = 24 * 3600
INVITE_TTL_MAX_S: Final = 30 * 24 * 3600
#: A stream that has nothing to say sends a comment this often, so that proxies keep it open.
SSE_KEEP_ALIVE_S: Final = 15.0
#: An idle HTTP connection stays open longer than clients' pools (5 s to 60 s) would reuse it.
HTTP_IDLE_S: Final = 75
#: An HTTP request's body must have come by then: 8 MiB at half a megabit per second.
HTTP_BODY_S: Final = 120
#: A client that takes no more of its answer for so long is cut: it may be busy, or a person reading
#: page by page, but must not keep its place for ever.
HTTP_STALL_S: Final = 120
#: Open answers may run on for this long when the API closes.
HTTP_CLOSE_S: Final = 5
#: A membership certificate is valid this long.
CERTIFICATE_TTL_S: Final = 365 * 24 * 3600
#: So long before its membership ends, a member may join the same mesh anew.
RENEWAL_S: Final = 30 * 24 * 3600
#: How far two members' clocks may differ before fresh certificates look forged.
CLOCK_SKEW_S: Final = 600
