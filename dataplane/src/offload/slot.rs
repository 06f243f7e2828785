//! How a slot passes from hand to hand: the part of the tables that threads, and
//! the program, meet in.
//!
//! A slot is a few words, of which the first, its *term*, says whose it is:
//!
//! | term | means |
//! |---|---|
//! | 0 | nobody's |
//! | token, no generation | somebody's who has it, and not in force |
//! | token and generation | in force while that is the generation of `state` |
//!
//! ```text
//!   0 --claim--> token --fill, publish--> token, generation --withdraw--> token --release--> 0
//! ```
//!
//! Any worker may [`claim`] a slot that is nobody's, by compare and exchange. From
//! then on that one alone writes its words, until it [`release`]s it. The exceptions
//! are `closed`, which the program sets, [`CARRIED`], to which it adds and of which its
//! owner takes, and `near`, which belongs to those behind: a bit of it says that a slot of the window has a flow whose home
//! this one is, and is set and cleared by whoever has that slot. So a search looks at
//! the home and at those that `near` names, of which there mostly are none: a flow that
//! goes leaves no gap that a search would have to be told of, and a key that is not
//! there costs one cache line.
//!
//! # Why a reader sees no mixture
//!
//! The program reads the term, then the flow, then the term again, and does nothing
//! if that changed. Terms are not used twice as long as a program may be at one (a
//! worker's token comes back after 2^24 of its connections). [`publish`] stores the term
//! after all else (release), so that a reader with the term has the words of its flow, or
//! later ones. Before it writes a word, [`claim`] has a release fence behind its change of
//! the term: a reader with a word of the next flow reads at the end a term which is not
//! the one that it began with.
//!
//! The readers' side of it is that loads are done in order, the term's, the flow's, the
//! term's. On x86 they are. Elsewhere the program has an atomic instruction with a
//! result between them, which the kernel's JITs make a full barrier. A test runs both
//! sides through all that a weakly ordered machine may do (`tests/slots.rs`).
//!
//! That makes what is done to a packet right at any time. What remains is where it is
//! counted: a program that stands still between the last look at the term and its
//! addition counts it for whoever has the slot then. So a slot is released only some
//! time after it was taken out of force (`GRACE` of `worker/offload.rs`).

use super::atomic::{AtomicU64, Ordering, fence};

/// Words of a slot of IPv4, and of IPv6
pub const WORDS_V4: usize = 8;
pub const WORDS_V6: usize = 16;

/// A flow is in its home or in one of some slots behind it.
pub const WINDOW: usize = 16;

/// How far behind its home the slot of a window is: 0, 1, 3, 6, 10 and so on. In a row,
/// flows of neighbouring homes would be in each other's way, and a table that is half
/// full would have no place for one in a thousand.
pub const fn offset(number: usize) -> u32 {
    (number * (number + 1) / 2) as u32
}

/// Slots behind a home that its window reaches to.
pub const REACH: u32 = offset(WINDOW - 1);

/// Generation in the first half, token in the second
pub const TERM: usize = 0;
/// Ports as they arrive, protocol, kind, rounds, closed
pub const WHAT: usize = 1;
/// Peer, next hop, `near`
pub const WAY: usize = 2;
/// New ports, and deltas of both checksums
pub const NEW: usize = 3;
/// What was carried since its worker looked last: packets from bit 38 on, and their bytes
/// below, in one word that is taken at once. There is room for what 40 Gbit/s are in
/// 50 seconds, and 10 million packets a second in six, and a worker looks within two.
pub const CARRIED: usize = 4;
/// Whose it is: connection and server, for its worker alone
pub const OWNER: usize = 5;
/// The addresses begin here: those that it has, and the new ones
pub const ADDRESSES: usize = 6;

/// A packet in [`CARRIED`]
pub const PACKET: u64 = 1 << 38;

/// `closed`
pub const CLOSED: u64 = u64::from_ne_bytes([0, 0, 0, 0, 0, 0, 0, 0xff]);
/// In `rounds`: what was carried last has moved the connection's timer, or nothing was
/// yet.
pub const SETTLED: u8 = 0x80;
/// `near`
const NEAR: u64 = u64::from_ne_bytes([0, 0, 0, 0, 0, 0, 0xff, 0xff]);

/// The term of a connection in a generation.
pub fn term(generation: u32, token: u32) -> u64 {
    word_of([generation, token])
}

/// A term that is never in force.
fn owned(token: u32) -> u64 {
    term(0, token)
}

/// The generation of a term.
pub fn generation(term: u64) -> u32 {
    halves(term)[0]
}

/// Two halves as they lie in memory.
pub fn word_of([first, second]: [u32; 2]) -> u64 {
    let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

/// And back.
pub fn halves(word: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
    [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
}

/// The bit of `near` for a slot of the window.
pub fn near(number: usize) -> u64 {
    let [a, b] = (1u16 << number).to_ne_bytes();
    u64::from_ne_bytes([0, 0, 0, 0, 0, 0, a, b])
}

/// Takes a slot that is nobody's; whether it was. The token is not 0.
pub fn claim(slot: &[AtomicU64], token: u32) -> bool {
    let term = &slot[TERM];
    if term.load(Ordering::Relaxed) != 0 {
        return false;
    }
    let claimed = term.compare_exchange(0, owned(token), Ordering::Acquire, Ordering::Relaxed).is_ok();
    // What is written from here on is not seen by those who do not see this.
    fence(Ordering::Release);
    claimed
}

/// Writes what a slot is to have: words as in the slot, of which the term and `near`
/// are left out. For who has it, while it is not in force.
pub fn fill(slot: &[AtomicU64], words: &[u64]) {
    for (at, (to, word)) in slot.iter().zip(words).enumerate() {
        match at {
            TERM => {}
            WAY => {
                let keeping = |old: u64| Some(old & NEAR | word & !NEAR);
                // Always `Ok`, as that is `Some`.
                let _ = to.fetch_update(Ordering::Relaxed, Ordering::Relaxed, keeping);
            }
            _ => to.store(*word, Ordering::Relaxed),
        }
    }
}

/// Puts a slot in force, by its number in the window of its home. For who has it.
pub fn publish(slot: &[AtomicU64], home: &[AtomicU64], number: usize, term: u64) {
    slot[TERM].store(term, Ordering::Release);
    home[WAY].fetch_or(near(number), Ordering::Relaxed);
}

/// Takes it out of force. For who has it, who has it still.
pub fn withdraw(slot: &[AtomicU64], home: &[AtomicU64], number: usize, token: u32) {
    slot[TERM].store(owned(token), Ordering::Release);
    home[WAY].fetch_and(!near(number), Ordering::Relaxed);
}

/// Gives up a slot that is not in force.
pub fn release(slot: &[AtomicU64]) {
    slot[TERM].store(0, Ordering::Release);
}

/// Takes what was carried: packets and bytes. For who has it.
pub fn take(slot: &[AtomicU64]) -> (u64, u64) {
    // Mostly there is nothing, and a look is cheaper than to have the line.
    match slot[CARRIED].load(Ordering::Relaxed) {
        0 => (0, 0),
        _ => {
            let carried = slot[CARRIED].swap(0, Ordering::Relaxed);
            (carried / PACKET, carried % PACKET)
        }
    }
}

/// Whether anything was carried that was not taken yet.
pub fn has_carried(slot: &[AtomicU64]) -> bool {
    slot[CARRIED].load(Ordering::Relaxed) != 0
}

/// `rounds`: how often its worker looked since a packet was carried, and [`SETTLED`].
pub fn rounds(what: u64) -> u8 {
    what.to_ne_bytes()[6]
}

/// That in its place in the word.
pub const fn at_rounds(rounds: u8) -> u64 {
    u64::from_ne_bytes([0, 0, 0, 0, 0, 0, rounds, 0])
}

/// Whether there may be a flow in a slot of the window.
pub fn is_near(home: &[AtomicU64], number: usize) -> bool {
    home[WAY].load(Ordering::Relaxed) & near(number) != 0
}

/// Begins to read a slot: its term, if that is of a generation.
pub fn begin(slot: &[AtomicU64], of: u32) -> Option<u64> {
    Some(slot[TERM].load(Ordering::Acquire)).filter(|term| generation(*term) == of)
}

/// Ends reading a slot: whether what was read since is of one flow.
pub fn end(slot: &[AtomicU64], term: u64) -> bool {
    fence(Ordering::Acquire);
    slot[TERM].load(Ordering::Relaxed) == term
}
