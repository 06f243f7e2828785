//! The kernel's part of a director: the program that carries connections, run on
//! each frame before workers have it (`BPF_PROG_TEST_RUN`). So what is tried of
//! workers is tried of both together, from the second packet of a connection on.

use std::sync::Arc;

use sluice_dataplane::neigh::NextHops;
use sluice_dataplane::offload::Share;
use sluice_dataplane::port::memory::MemoryPort;
use sluice_dataplane::worker::Worker;

use super::kernel::Program;
use super::{INSIDE, Mac, OUTSIDE};

/// Connections that can be carried at a time, of each family.
const CONNECTIONS: u32 = 256;

/// What is added to the tests' time: later than it is on any machine, so that
/// workers are never taken for dead.
const CLOCK: u64 = i64::MAX as u64 / 2;

/// What the kernel is given to run: no less and no more.
const LENGTHS: std::ops::Range<usize> = 60..3000;

/// Environment variable by which tests run with the program, if it is "on".
const WANTED: &str = "SLUICE_TEST_OFFLOAD";

/// Whether tests are to run with the program.
pub fn wanted() -> bool {
    std::env::var(WANTED).as_deref() == Ok("on")
}

/// The program with what workers ask of it.
pub struct Kernel {
    program: Program,
    hops: Arc<NextHops>,
    /// Packets that it carried
    pub carried: u64,
}

impl Kernel {
    /// The program, if it is wanted.
    pub fn new(workers: &mut [Worker<MemoryPort>]) -> Option<Self> {
        if !wanted() {
            return None;
        }
        let program = Program::load(CONNECTIONS)?;
        for worker in workers {
            let board = Arc::clone(&program.board);
            worker.carry(Share { board, connections: CONNECTIONS as usize, after: 1, clock: CLOCK });
        }
        Some(Kernel { program, hops: Arc::default(), carried: 0 })
    }

    /// Before workers are told of next hops.
    pub fn set_hops(&mut self, hops: &Arc<NextHops>) {
        self.program.board.set_hops(hops);
        self.hops = Arc::clone(hops);
    }

    /// What control does when connections may go another way.
    pub fn invalidate(&mut self) {
        self.program.board.invalidate();
    }

    /// A frame that arrived, as it is sent and by which interface, if the program
    /// carries it.
    pub fn carry(&mut self, interface: usize, frame: &[u8]) -> Option<(usize, Vec<u8>)> {
        let ours: Mac = if interface == 0 { OUTSIDE } else { INSIDE };
        if !LENGTHS.contains(&frame.len()) || frame[..6] != ours {
            return None;
        }
        let sent = self.program.run(frame)?;
        let is_of = |mac: Option<Mac>| mac.is_some_and(|mac| sent[..6] == mac);
        let hop = self.hops.hops().find(|(_, hop)| is_of(hop.mac) && sent[6..12] == hop.source_mac);
        let (_, hop) = hop.expect("a frame is sent to one of the next hops");
        self.carried += 1;
        Some((hop.interface.into(), sent))
    }
}
