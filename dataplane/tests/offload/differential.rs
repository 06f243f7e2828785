//! The same packets through the worker's code and through the program: they give
//! the same bytes, or the program leaves the packet to the worker.
//!
//! `SLUICE_OFFLOAD_PAIRS` sets how many pairs of a rewrite and a packet are tried,
//! and `SLUICE_OFFLOAD_SEED` repeats a run.

use std::collections::BTreeMap;
use std::env;

use sluice_dataplane::conn::{Side, Tuple};
use sluice_dataplane::forward::{self, Rewrite};
use sluice_dataplane::neigh::{HopId, NextHop};
use sluice_dataplane::offload::{Carried, Flow, Key};
use sluice_dataplane::packet::Packet;
use sluice_dataplane::port::memory::MemoryPort;
use sluice_dataplane::port::{Frame, Port};
use sluice_dataplane::service::Protocol;

use crate::director::random::Random;
use crate::kernel::{Program, hops};

const HOPS: u32 = 60;

fn setting(name: &str, otherwise: u64) -> u64 {
    env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn the_program_does_what_the_worker_does() {
    compare(setting("SLUICE_OFFLOAD_PAIRS", 100_000), setting("SLUICE_OFFLOAD_SEED", 1));
}

fn compare(pairs: u64, seed: u64) {
    let Some(program) = Program::load(16) else { return };
    let all = hops(HOPS);
    program.board.set_hops(&all);
    let mut random = Random::new(seed);
    let mut worker = Reference { port: MemoryPort::new(1, 4) };
    let mut counted: BTreeMap<&str, u64> = BTreeMap::new();
    for number in 0..pairs {
        let (tuple, side, rewrite) = random.rewrite();
        let hop_number = random.below(HOPS as usize) as u16;
        let hop = all.hop(HopId(hop_number.into())).expect("there are so many");
        let flow = Flow::new(&rewrite, tuple.is_v4(), hop_number);
        let flow = flow.map(|flow| (Key::of(&tuple), flow));
        // What answers, or is answered, is another flow of the connection.
        let other = flow.map(|(_, flow)| (Key::of(&random.answer(&tuple)), flow));
        let token = (random.below(256) as u32) << 24 | (number as u32 & 0xff_ffff).max(1);
        let held = match (flow, other, side) {
            (Some(flow), Some(other), Side::Server) => Some(program.enter(token, &other, Some(&flow))),
            (Some(flow), other, Side::Client) => {
                let answers = other.filter(|_| !matches!(rewrite, Rewrite::Encapsulate { .. }));
                Some(program.enter(token, &flow, answers.as_ref()))
            }
            _ => None,
        };
        // Several, as one rewrite may be right for one packet by chance.
        let frame = random.frame(&tuple);
        let found = program.run(&frame);
        // Either counts what outer headers are told by for itself.
        let id = found.as_ref().map_or(0, |sent| identification(sent));
        let expected = worker.sends(&frame, &tuple, &rewrite, hop, id).filter(|_| flow.is_some());
        assert!(
            found == expected,
            "pair {number} of seed {seed}: {rewrite:?} by {hop:?}\n    {frame:02x?}\nthe worker sends\n    \
             {expected:02x?}\nand the program\n    {found:02x?}"
        );
        let new = held.as_ref().map_or(Carried::default(), |held| program.board.settle(held));
        let (packets, bytes) = new.of(side);
        let length = Packet::parse(&frame).map_or(0, |packet| u64::from(packet.length));
        let carried = u64::from(found.is_some());
        assert_eq!(new.packets[0] + new.packets[1], packets, "pair {number}: the other side");
        assert_eq!((packets, bytes), (carried, carried * length), "pair {number}: what is counted");
        *counted.entry(kind(&rewrite, found.is_some())).or_default() += 1;
        held.iter().for_each(|held| program.take_out(held));
    }
    println!("{counted:#?}");
    // Each of them was met, or nothing was shown.
    for (what, least) in [
        ("Keep, carried", 60),
        ("Keep, left", 10),
        ("Replace, carried", 60),
        ("Replace, left", 10),
        ("Encapsulate, carried", 60),
        ("Encapsulate, left", 10),
    ] {
        let met = counted.get(what).copied().unwrap_or(0);
        assert!(met * 1000 >= pairs * least, "only {met} of {pairs}: {what}");
    }
    assert_eq!(program.board.taken(), (0, 0));
}

/// That of the IPv4 header of a frame; 0 where there is none.
fn identification(frame: &[u8]) -> u16 {
    let network = if frame[12..14] == [0x81, 0] { 18 } else { 14 };
    match frame[network - 2..network] {
        [8, 0] => u16::from_be_bytes([frame[network + 4], frame[network + 5]]),
        _ => 0,
    }
}

fn kind(rewrite: &Rewrite, carried: bool) -> &'static str {
    match (rewrite, carried) {
        (Rewrite::Keep, true) => "Keep, carried",
        (Rewrite::Keep, false) => "Keep, left",
        (Rewrite::Replace { .. }, true) => "Replace, carried",
        (Rewrite::Replace { .. }, false) => "Replace, left",
        (Rewrite::Encapsulate { .. }, true) => "Encapsulate, carried",
        (Rewrite::Encapsulate { .. }, false) => "Encapsulate, left",
    }
}

/// What the worker does, by its own code.
struct Reference {
    port: MemoryPort,
}

impl Reference {
    /// The frame that it sends for a packet that needs no thinking.
    fn sends(
        &mut self,
        bytes: &[u8],
        tuple: &Tuple,
        rewrite: &Rewrite,
        hop: &NextHop,
        id: u16,
    ) -> Option<Vec<u8>> {
        let packet = Packet::parse(bytes).ok().filter(|packet| packet.tuple == *tuple)?;
        let options = packet.transport - packet.network != if packet.is_v4 { 20 } else { 40 };
        // ACK alone of the flags that decide.
        let plain = packet.tuple.protocol != Protocol::Tcp || packet.flags & 0x17 == 0x10;
        let transport = usize::from(packet.transport);
        // Its checksum is made, over all of the datagram.
        let unsummed = packet.tuple.protocol == Protocol::Udp
            && !packet.is_v4
            && bytes[transport + 6..transport + 8] == [0, 0]
            && matches!(rewrite, Rewrite::Replace { .. });
        if options || !plain || unsummed {
            return None;
        }
        let mut frame = self.port.allocate().expect("one at a time");
        frame.set_len(bytes.len());
        frame.bytes_mut().copy_from_slice(bytes);
        let sent = forward::apply(rewrite, &packet, &mut frame, hop.mtu, id)
            .ok()
            .and_then(|rewritten| forward::put_link_header(&mut frame, rewritten, hop, hop.mac?).ok());
        let sent = sent.map(|()| frame.bytes().to_vec());
        self.port.release(frame);
        sent
    }
}

/// A packet with a tuple that is carried if there is a flow.
pub fn sound_frame(tuple: &Tuple) -> Vec<u8> {
    let mut random = Random::new(1);
    loop {
        let frame = random.frame(tuple);
        let Ok(packet) = Packet::parse(&frame) else { continue };
        let ports = if packet.is_v4 { 34 } else { 54 };
        let plain = tuple.protocol != Protocol::Tcp || packet.flags & 0x17 == 0x10;
        let ttl = frame[if packet.is_v4 { 22 } else { 21 }];
        if packet.tuple == *tuple
            && plain
            && usize::from(packet.transport) == ports
            && ttl > 1
            && packet.length < 1400
        {
            return frame;
        }
    }
}
