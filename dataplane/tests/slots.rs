//! The rules by which a slot changes hands (`offload/slot.rs`), through every order in
//! which a weakly ordered machine may do what they say (loom). There is no grace here:
//! a slot is given to the next as soon as it is given up.

use loom::sync::Arc;
use loom::thread;

/// In place of the standard library's.
mod atomic {
    pub use loom::sync::atomic::{AtomicU64, Ordering, fence};
}

#[path = "../src/offload/slot.rs"]
#[allow(dead_code, reason = "it is the library's")]
mod slot;

use atomic::{AtomicU64, Ordering};
use slot::{ADDRESSES, NEW, WAY, WHAT};

const GENERATION: u32 = 1;

/// As many words as matter.
const WORDS: usize = ADDRESSES + 1;

type Slot = [AtomicU64; WORDS];

fn slots<const N: usize>() -> Arc<[Slot; N]> {
    Arc::new(std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::new(0))))
}

fn explore(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(test);
}

/// A flow all of whose words say whose it is.
fn words(token: u32) -> [u64; WORDS] {
    [token.into(); WORDS]
}

/// Whether one had a slot that is its own home.
fn has_it_in_force(slot: &Slot, token: u32) -> bool {
    let claimed = slot::claim(slot, token);
    if claimed {
        slot::fill(slot, &words(token));
        slot::publish(slot, slot, 0, slot::term(GENERATION, token));
    }
    claimed
}

fn gives_it_up(slot: &Slot, token: u32) {
    slot::withdraw(slot, slot, 0, token);
    slot::release(slot);
}

/// Does what the program does, and returns whose flow it is.
fn reads(slot: &Slot) -> Option<u32> {
    let term = slot::is_near(slot, 0).then(|| slot::begin(slot, GENERATION)).flatten()?;
    // As in the program, in an order that is not that of writing.
    let read = [ADDRESSES, WHAT, NEW].map(|word| slot[word].load(Ordering::Relaxed));
    if !slot::end(slot, term) {
        return None;
    }
    let token = (1..=2).find(|token| slot::term(GENERATION, *token) == term).expect("it is of one of them");
    assert_eq!(read, [u64::from(token); 3], "the flow of {token}");
    Some(token)
}

#[test]
fn a_reader_sees_one_flow_or_none() {
    explore(|| {
        let slots = slots::<1>();
        let program = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || reads(&slots[0]))
        };
        let next = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || has_it_in_force(&slots[0], 2))
        };
        if has_it_in_force(&slots[0], 1) {
            gives_it_up(&slots[0], 1);
        }
        program.join().expect("it reads");
        if next.join().expect("it writes") {
            assert_eq!(reads(&slots[0]), Some(2), "it is there in the end");
        }
    });
}

#[test]
fn a_slot_is_one_workers() {
    explore(|| {
        let slots = slots::<1>();
        let other = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || slot::claim(&slots[0], 2))
        };
        let one = slot::claim(&slots[0], 1);
        assert_ne!(one, other.join().expect("it claims"));
    });
}

/// Bits of a home are of those behind it, and stay when it changes hands.
#[test]
fn those_behind_a_home_stay_known() {
    explore(|| {
        let slots = slots::<2>();
        let behind = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || {
                assert!(slot::claim(&slots[1], 2));
                slot::fill(&slots[1], &words(2));
                slot::publish(&slots[1], &slots[0], 1, slot::term(GENERATION, 2));
            })
        };
        assert!(has_it_in_force(&slots[0], 1));
        gives_it_up(&slots[0], 1);
        behind.join().expect("it writes");
        assert!(!slot::is_near(&slots[0], 0) && slot::is_near(&slots[0], 1));
        assert_eq!(slot::begin(&slots[1], GENERATION), Some(slot::term(GENERATION, 2)));
        assert_eq!(slots[1][WAY].load(Ordering::Relaxed) & slot::near(0), 0);
    });
}
