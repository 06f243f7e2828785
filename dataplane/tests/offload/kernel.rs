//! The program, run on one frame after the other (`BPF_PROG_TEST_RUN`).

#![allow(unsafe_code, reason = "libbpf")]

use std::io::{self, Write};
use std::os::fd::RawFd;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use sluice_dataplane::neigh::{Egress, NextHops, NextHopsBuilder};
use sluice_dataplane::offload::{Board, Entered, Held, Offload, Owner, Room};
use sluice_dataplane::service::ServerId;
use sluice_dataplane::wire::Address;

/// `enum xdp_action`
pub const XDP_DROP: u32 = 1;
pub const XDP_REDIRECT: u32 = 4;

/// Whose flows are entered.
pub const OWNER: Owner = Owner { connection: 0, server: ServerId(0) };

/// A test that measures the memory of the process wants no other beside it.
static BESIDE: RwLock<()> = RwLock::new(());

/// Whether there are other tests beside one.
pub enum Guard {
    Together(#[allow(dead_code, reason = "it is dropped")] RwLockReadGuard<'static, ()>),
    Alone(#[allow(dead_code, reason = "it is dropped")] RwLockWriteGuard<'static, ()>),
}

impl Guard {
    pub fn together() -> Self {
        Guard::Together(BESIDE.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn alone() -> Self {
        Guard::Alone(BESIDE.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The loaded program; nothing goes on with what it does not carry.
pub struct Program {
    _guard: Guard,
    _offload: Offload,
    pub board: Arc<Board>,
    program: RawFd,
}

impl Program {
    /// Loads it with room for so many connections of each family. `None`, and said so, without
    /// root.
    pub fn load(connections: u32) -> Option<Self> {
        Program::load_under(Guard::together(), connections)
    }

    /// Does so with other tests beside it or not.
    pub fn load_under(guard: Guard, connections: u32) -> Option<Self> {
        // SAFETY: takes no pointers.
        if unsafe { libc::geteuid() } != 0 {
            // Not by a macro, whose output the test harness would swallow.
            let _ = writeln!(
                io::stderr(),
                "SKIPPED: {}: needs root, to load an XDP program",
                std::thread::current().name().unwrap_or("offload")
            );
            return None;
        }
        let room = Room { v4: connections, v6: connections };
        let mut offload = Offload::load(room, *b"not very secret!").expect("the kernel takes it");
        let program = offload.program().expect("it is loaded");
        let board = Arc::clone(offload.board());
        board.set_stale(1_000_000_000);
        for worker in 0..256 {
            // Later than it is: it has just said so.
            board.set_alive(worker, i64::MAX as u64 / 2);
        }
        for interface in 0..64 {
            // The loopback, as the packets go nowhere.
            offload.send_to(interface, 1).expect("there is one");
            board.set_capable(interface, true);
        }
        Some(Program { _guard: guard, _offload: offload, board, program })
    }

    /// Enters a flow, in force now.
    pub fn enter(&self, token: u32, client: &Entered, server: Option<&Entered>) -> Held {
        self.board.enter((self.board.generation(), token), OWNER, client, server).expect("there is a place")
    }

    /// Takes it out.
    pub fn take_out(&self, held: &Held) {
        self.board.withdraw(held);
        self.board.release(held);
    }

    /// The frame that it sends; `None` if it leaves the packet to others.
    pub fn run(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let mut frame = frame.to_vec();
        let mut out = vec![0; 4096];
        let (mut length, mut action, mut duration) = (out.len() as u32, 0, 0);
        // SAFETY: the kernel reads the frame and writes at most as many bytes as
        // there is room for, and the numbers.
        let result = unsafe {
            libbpf_sys::bpf_prog_test_run(
                self.program,
                1,
                frame.as_mut_ptr().cast(),
                frame.len() as u32,
                out.as_mut_ptr().cast(),
                &mut length,
                &mut action,
                &mut duration,
            )
        };
        assert_eq!(result, 0, "BPF_PROG_TEST_RUN of {} bytes: {}", frame.len(), io::Error::last_os_error());
        out.truncate(length as usize);
        match action {
            XDP_REDIRECT => Some(out),
            // As the steering program is not there.
            XDP_DROP => {
                assert_eq!(out, frame, "what is not carried is as it was");
                None
            }
            other => panic!("it says {other}"),
        }
    }
}

/// So many next hops, no two of which are alike.
pub fn hops(count: u32) -> Arc<NextHops> {
    let mut builder = NextHopsBuilder::new(1);
    for number in 0..count {
        let [.., a, b] = number.to_be_bytes();
        let egress = Egress {
            vlan: (number % 3 == 1).then_some(100 + number as u16),
            mtu: [1500, 1400, 576, 9000, 100][number as usize % 5],
            ..Egress::new((number % 64) as u8, [2, 0, 0, 1, a, b])
        };
        let egress = builder.egress(egress);
        builder.neighbour(egress, Address::from_v4([10, 9, a, b]), Some([2, 0, 0, 2, a, b]));
    }
    Arc::new(builder.build())
}
