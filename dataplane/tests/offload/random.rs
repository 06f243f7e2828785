//! Connections and packets made by chance, repeatable by their seed.

use sluice_dataplane::conn::{Entry, Side, Tuple};
use sluice_dataplane::forward::{self, Plan, Rewrite};
use sluice_dataplane::service::{Encapsulation, Method, Protocol, ServerId};
use sluice_dataplane::wire::{Address, checksum};

use crate::director::random::Random;

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number of which some are more likely: those where arithmetic goes wrong.
    fn word(&mut self) -> u16 {
        if self.chance(20) { self.of(&[0, 1, 0xffff, 0xfffe, 0x8000, 0x00ff]) } else { self.next() as u16 }
    }

    fn address(&mut self, is_v4: bool) -> Address {
        let bytes: [u8; 16] = std::array::from_fn(|_| self.word() as u8);
        if is_v4 {
            Address::from_v4([10, bytes[1], bytes[2], bytes[3]])
        } else {
            let mut bytes = bytes;
            bytes[0] = 0x20;
            Address::from_v6(bytes)
        }
    }

    /// What is done to the packets from a side of some connection, and how they
    /// arrive.
    pub fn rewrite(&mut self) -> (Tuple, Side, Rewrite) {
        let is_v4 = self.chance(60);
        let method =
            self.of(&[Method::Nat, Method::FullNat, Method::FullNat, Method::DirectRoute, Method::Tunnel]);
        // A tunnel leads to either family, and FULLNAT now and then.
        let other = self.chance(if method == Method::Tunnel { 50 } else { 3 });
        let server_is_v4 =
            if matches!(method, Method::Tunnel | Method::FullNat) { is_v4 != other } else { is_v4 };
        let client = Tuple {
            source: self.address(is_v4),
            destination: self.address(is_v4),
            source_port: self.word(),
            destination_port: self.word(),
            protocol: self.of(&[Protocol::Tcp, Protocol::Udp]),
        };
        let server = (self.address(server_is_v4), self.word());
        let local = (self.address(server_is_v4), self.word());
        let plan = Plan::new(method, client, server, local);
        let entry = Entry::new(client, plan.server, plan.deltas(), ServerId(0), method);
        let side = if method.has_replies() && self.chance(50) { Side::Server } else { Side::Client };
        let encapsulation = match self.below(5) {
            0 => Encapsulation::Gue { port: self.word(), checksum: false },
            1 => Encapsulation::Gue { port: self.word(), checksum: true },
            2 => Encapsulation::Gre { checksum: false },
            3 => Encapsulation::Gre { checksum: true },
            _ => Encapsulation::Ipip,
        };
        let outer = self.address(server_is_v4);
        let rewrite = forward::rewrite(&entry, side, outer, encapsulation, self.chance(50));
        let tuple = if side == Side::Client { entry.client } else { entry.server };
        (tuple, side, rewrite)
    }

    /// A tuple of packets the other way.
    pub fn answer(&mut self, tuple: &Tuple) -> Tuple {
        let is_v4 = tuple.is_v4();
        loop {
            let (source, destination) = (self.address(is_v4), self.address(is_v4));
            let answer = Tuple { source, destination, source_port: self.word(), ..*tuple };
            if answer != *tuple {
                return answer;
            }
        }
    }

    /// A packet with a tuple, in a frame; most are whole and sound.
    pub fn frame(&mut self, tuple: &Tuple) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 0xa, 2, 0, 0, 0, 0, 0xc];
        let tags = if self.chance(30) { 1 + self.below(3) } else { 0 };
        for _ in 0..tags {
            frame.extend(self.of(&[0x8100u16, 0x88a8]).to_be_bytes());
            frame.extend(self.word().to_be_bytes());
        }
        let is_v4 = tuple.is_v4();
        frame.extend(if is_v4 { 0x0800u16 } else { 0x86dd }.to_be_bytes());
        let network = frame.len();
        let room = self.of(&[0, 1, 18, 40, 500, 1300]);
        let segment = self.segment(tuple, room);
        let ttl = if self.chance(3) { self.below(3) as u8 } else { self.next() as u8 };
        if is_v4 {
            let flags = if self.chance(50) { 0x4000u16 } else { 0 };
            frame.extend([0x45, self.next() as u8]);
            frame.extend((20 + segment.len() as u16).to_be_bytes());
            frame.extend(self.word().to_be_bytes());
            frame.extend(flags.to_be_bytes());
            frame.extend([ttl, tuple.protocol.number(), 0, 0]);
            frame.extend(tuple.source.v4_bytes());
            frame.extend(tuple.destination.v4_bytes());
        } else {
            frame.extend([0x60 | self.next() as u8 & 0xf, self.next() as u8, 0, 0]);
            frame.extend((segment.len() as u16).to_be_bytes());
            frame.extend([tuple.protocol.number(), ttl]);
            frame.extend(tuple.source.bytes());
            frame.extend(tuple.destination.bytes());
        }
        frame.extend(segment);
        if self.chance(25) {
            self.spoil(&mut frame, network);
        }
        if is_v4 && !self.chance(2) {
            let sum = {
                frame[network + 10..network + 12].fill(0);
                !checksum::sum(0, &frame[network..network + 20])
            };
            frame[network + 10..network + 12].copy_from_slice(&sum.to_be_bytes());
        }
        if self.chance(25) {
            // As short frames are padded, and others need not be.
            frame.extend((0..1 + self.below(30)).map(|i| i as u8));
        }
        if self.chance(3) {
            let length = self.below(frame.len() - 13) + 14;
            frame.truncate(length);
        }
        frame
    }

    fn segment(&mut self, tuple: &Tuple, data: usize) -> Vec<u8> {
        let mut segment = Vec::new();
        segment.extend(tuple.source_port.to_be_bytes());
        segment.extend(tuple.destination_port.to_be_bytes());
        match tuple.protocol {
            Protocol::Tcp => {
                let options = self.of(&[0usize, 12]);
                segment.extend(self.next().to_be_bytes());
                let flags = if self.chance(80) { self.of(&[0x10, 0x18]) } else { self.next() as u8 };
                segment.extend([((20 + options) as u8 / 4) << 4, flags]);
                segment.extend(self.word().to_be_bytes());
                segment.extend(self.word().to_be_bytes());
                segment.extend([0; 2]);
                segment.extend((0..options).map(|_| 1));
            }
            _ => {
                segment.extend((8 + data as u16).to_be_bytes());
                segment.extend(self.word().to_be_bytes());
            }
        }
        segment.extend((0..data).map(|_| self.next() as u8));
        segment
    }

    /// Makes something of it that needs thinking, or is broken.
    fn spoil(&mut self, frame: &mut [u8], network: usize) {
        // From the type of what is in the frame to the transport header.
        let span = frame.len().min(network + 54) - 12;
        let at = match self.below(6) {
            // Length of the header, fragment, protocol.
            0 => network,
            1 => network + 6 + self.below(2),
            2 => network + self.of(&[9, 6]),
            // Length of the packet.
            3 => network + 2 + self.below(4),
            _ => 12 + self.below(span),
        };
        let bit = 1 << self.below(8);
        if let Some(byte) = frame.get_mut(at) {
            *byte = if self.chance(50) { *byte ^ bit } else { self.next() as u8 };
        }
    }
}
