//! Malformed, truncated, bit-flipped and random frames: a worker never panics,
//! loses no frame, counts each of them once, and carries on with the
//! connections that it has. ICMP and ICMPv6 errors with what they quote,
//! extension headers and fragments are among them.
//!
//! `SLUICE_FUZZ_SEED` repeats a run, and `SLUICE_FUZZ_FRAMES` sets its length.

#[path = "director/mod.rs"]
#[allow(dead_code, reason = "the forwarding tests use all of it")]
mod director;
#[path = "fuzz/parts.rs"]
mod parts;
#[path = "fuzz/parts_v6.rs"]
mod parts_v6;

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};

use director::packets::{ACK, Datagram, SYN, UdpChecksum, ethernet, sctp, tcp, udp};
use director::random::Random;
use director::{CLIENT_ROUTER, Director, FRAMES, INSIDE, OUTSIDE, Outcome, Routes, SECOND, server_mac};
use sluice_dataplane::service::{Encapsulation, Method, Protocol, ServerId, ServiceId};
use sluice_dataplane::stats::DropReason;

/// Frames that arrive together, most times.
const BURST: usize = 64;

const METHODS: [Method; 4] = [Method::Nat, Method::FullNat, Method::DirectRoute, Method::Tunnel];

/// A connection that must outlive the run. Frames that hold the address of its
/// client or of its server anywhere are left out ([`of_a_witness`]): they might
/// close it rightly.
struct Witness {
    client: String,
    vip: String,
    protocol: Protocol,
    method: Method,
    /// What the server sends to: the client, or a LIP and port
    replies_to: String,
    /// Packets of either side, and what has to come of them
    expected: Vec<(Datagram, Vec<u8>)>,
}

fn vip(method: usize, protocol: Protocol) -> String {
    format!("192.0.2.{}:{}", 10 + method, port(protocol))
}

fn port(protocol: Protocol) -> u16 {
    match protocol {
        Protocol::Tcp => 80,
        Protocol::Udp => 53,
        Protocol::Sctp => 2905,
    }
}

const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// Methods and protocols that go together, with the number of the method.
fn services() -> impl Iterator<Item = (usize, Method, Protocol)> {
    let all = METHODS.into_iter().enumerate().flat_map(|(n, method)| PROTOCOLS.map(|p| (n, method, p)));
    all.filter(|(_, method, protocol)| (*method, *protocol) != (Method::FullNat, Protocol::Sctp))
}

/// A service of each method and protocol, with one server.
fn serve_by(director: &mut Director, server: u8) {
    for (n, method, protocol) in services() {
        let service = director.add_service(protocol, &vip(n, protocol));
        director.add_server(service, &format!("10.0.2.{server}:{}", port(protocol)), method, 1);
    }
}

/// Services of IPv6, and those between families, with server 2 each. Tunnels are
/// of all types.
fn serve_ipv6(director: &mut Director) {
    for protocol in PROTOCOLS {
        let port = port(protocol);
        let (four, six) = (format!("10.0.2.2:{port}"), format!("[2001:db8:2::2]:{port}"));
        let mut add = |vip: &str, server: &str, method| {
            if (method, protocol) == (Method::FullNat, Protocol::Sctp) {
                return;
            }
            let service = director.add_service(protocol, vip);
            let id = director.add_server(service, server, method, 1);
            director.server(id).encapsulation = match (server == six, protocol) {
                (true, Protocol::Tcp) => Encapsulation::Gue { port: 6080, checksum: true },
                (true, Protocol::Udp) => Encapsulation::Gre { checksum: true },
                (false, _) | (true, Protocol::Sctp) => Encapsulation::Ipip,
            };
        };
        for (n, method) in METHODS.into_iter().enumerate() {
            add(&parts_v6::vip(n, protocol), &six, method);
        }
        add(&parts_v6::vip(4, protocol), &four, Method::FullNat);
        add(&parts_v6::vip(5, protocol), &four, Method::Tunnel);
        add(&vip(4, protocol), &six, Method::FullNat);
    }
}

fn witnesses(director: &mut Director) -> Vec<Witness> {
    let mut all = Vec::new();
    for (n, method, protocol) in services() {
        let client = format!("203.0.113.{}:4000", 50 + all.len());
        let vip = vip(n, protocol);
        let make = |flags| match protocol {
            Protocol::Tcp => tcp(&client, &vip, flags),
            Protocol::Udp => udp(&client, &vip),
            Protocol::Sctp => sctp(&client, &vip, if flags == SYN { &[1] } else { &[10] }),
        };
        for flags in [SYN, ACK] {
            let outcome = director.arrive(0, &make(flags).bytes());
            assert_eq!(outcome.sent.len(), 1, "{method:?}: {outcome:?}");
        }
        if protocol == Protocol::Sctp && method == Method::Nat {
            // COOKIE ACK: without it the association would not live for long.
            let server = format!("10.0.2.1:{}", port(protocol));
            director.arrive(1, &sctp(&server, &client, &[11]).link(server_mac(1), INSIDE).bytes());
        }
        all.push(Witness { replies_to: client.clone(), client, vip, protocol, method, expected: Vec::new() });
    }
    let list = director.list();
    for witness in all.iter_mut().filter(|w| w.method == Method::FullNat) {
        let client = director::packets::address(&witness.client);
        let of = |record: &&sluice_dataplane::conn::ConnectionRecord| {
            record.client.0 == (*client.ip()).into() && record.protocol == witness.protocol
        };
        let (lip, port) = list.iter().find(of).expect("it was made").local.expect("a local end");
        witness.replies_to = format!("{lip}:{port}");
    }
    for witness in &mut all {
        witness.expected = witness.packets();
    }
    all
}

impl Witness {
    fn server(&self) -> String {
        format!("10.0.2.1:{}", port(self.protocol))
    }

    /// Packets of either side, and what has to come of them. Tunnels count
    /// their packets, so identifications are not compared.
    fn packets(&self) -> Vec<(Datagram, Vec<u8>)> {
        let make = |from: &str, to: &str| match self.protocol {
            Protocol::Tcp => tcp(from, to, ACK),
            Protocol::Udp => udp(from, to),
            Protocol::Sctp => sctp(from, to, &[0]),
        };
        let request = make(&self.client, &self.vip);
        let on = request.clone().hop().link(INSIDE, server_mac(1));
        let mut packets = vec![match self.method {
            Method::Nat | Method::FullNat => (request, on.between(&self.replies_to, &self.server()).bytes()),
            Method::DirectRoute => (request, on.bytes()),
            Method::Tunnel => {
                let frame = on.in_tunnel(director::INSIDE_ADDRESS, [10, 0, 2, 1], 0, 0);
                (request, without_outer_id(frame))
            }
        }];
        if self.method.has_replies() {
            let reply = make(&self.server(), &self.replies_to).link(server_mac(1), INSIDE);
            let on = reply.clone().between(&self.vip, &self.client).hop().link(OUTSIDE, CLIENT_ROUTER);
            packets.push((reply, on.bytes()));
        }
        packets
    }

    /// The connection forwards as it did.
    fn check(&self, director: &mut Director) {
        for (n, (packet, expected)) in self.expected.iter().enumerate() {
            let outcome = director.arrive(n, &packet.bytes());
            let Outcome { sent, punted, dropped, held: 0 } = outcome else { panic!("{outcome:?}") };
            let [(interface, frame)] = &sent[..] else {
                panic!("{}: {sent:?} {punted:?} {dropped:?}", self.client)
            };
            assert_eq!(*interface, 1 - n, "{}", self.client);
            let frame =
                if self.method == Method::Tunnel { without_outer_id(frame.clone()) } else { frame.clone() };
            assert_eq!(frame, *expected, "{:?} {}", self.method, self.client);
        }
    }
}

fn without_outer_id(mut frame: Vec<u8>) -> Vec<u8> {
    frame[18..20].fill(0);
    frame[24..26].fill(0);
    frame
}

/// A valid packet as a starting point, of connections that exist, are made by
/// it, or cannot be; and the interface that it comes by.
fn valid(random: &mut Random) -> (usize, Datagram) {
    let protocol = random.of(&PROTOCOLS);
    let method = random.below(METHODS.len() + 1);
    // Few clients, so that frames meet the connections of earlier ones.
    let client = format!("198.51.100.{}:{}", random.below(16), 1000 + random.below(16));
    let server = format!("10.0.2.2:{}", port(protocol));
    let (interface, from, to) = match random.below(8) {
        0..5 => (0, client, vip(method, protocol)),
        5 => (1, server, client),
        // A LIP port that a fuzzed connection may have.
        6 => (1, server, format!("10.0.2.200:{}", 1024 + random.below(300))),
        _ => (random.below(2), client, format!("192.0.2.{}:{}", random.below(20), random.below(100))),
    };
    let mut packet = match protocol {
        Protocol::Tcp => {
            let flags = random.byte();
            tcp(&from, &to, random.of(&[SYN, SYN, SYN, SYN, ACK, ACK, ACK, ACK, flags]))
        }
        Protocol::Udp => udp(&from, &to),
        Protocol::Sctp => {
            let (first, second) = (random.below(16) as u8, random.byte());
            sctp(&from, &to, &[random.of(&[1, 1, 0, first]), second][..random.below(3)])
        }
    };
    if interface == 1 {
        packet = packet.link(server_mac(2), INSIDE);
    }
    if random.chance(20) {
        packet.vlans = (0..1 + random.below(2)).map(|_| random.below(4096) as u16).collect();
    }
    if random.chance(10) {
        packet.ip_options = vec![1; 4 * (1 + random.below(10))];
    }
    if random.chance(10) {
        packet.ttl = random.of(&[0, 1, 2, 255]);
    }
    if random.chance(10) {
        packet.udp_checksum = UdpChecksum::None;
    }
    packet.tos = if random.chance(20) { random.byte() } else { 0 };
    packet.dont_fragment = random.chance(80);
    let length = match random.below(10) {
        0 => 1400 + random.below(200),
        1 => random.below(8),
        _ => random.below(100),
    };
    (interface, packet.payload(vec![0x5a; length]))
}

/// One frame to be fuzzed with.
fn frame(random: &mut Random) -> (usize, Vec<u8>) {
    if random.chance(3) {
        let length = random.below(1800);
        return (random.below(2), (0..length).map(|_| random.byte()).collect());
    }
    if random.chance(40) {
        return parts_v6::frame(random);
    }
    let (interface, packet) = valid(random);
    if random.chance(3) {
        // IPv6, ARP, ICMP and whatever else there may be behind the right MACs.
        let body: Vec<u8> = (0..random.below(120)).map(|_| random.byte()).collect();
        let mut frame = ethernet(CLIENT_ROUTER, OUTSIDE, &[], &body);
        let kind =
            random.of(&[[0x86, 0xdd], [0x08, 0x06], [0x08, 0x00], [0x81, 0x00], [0x88, 0xa8], [0, 40]]);
        frame[12..14].copy_from_slice(&kind);
        if kind == [0x86, 0xdd] && frame.len() > 54 {
            frame[14] = 0x60;
            let length = (frame.len() - 54) as u16;
            frame[18..20].copy_from_slice(&length.to_be_bytes());
            frame[20] = random.of(&[6, 17, 58, 0, 43, 44, 60]);
        }
        return (interface, frame);
    }
    match random.below(10) {
        0 => return (interface, parts::error(random, packet)),
        1 => return (interface, parts::fragment(random, packet)),
        _ => {}
    }
    let network = 14 + 4 * packet.vlans.len();
    let mut frame = packet.bytes();
    for _ in 0..random.of(&[0, 1, 1, 1, 2, 5]) {
        mutate(random, &mut frame, network);
    }
    (interface, frame)
}

fn mutate(random: &mut Random, frame: &mut Vec<u8>, network: usize) {
    if frame.is_empty() {
        return;
    }
    let mut set = |at: usize, byte: u8| {
        if let Some(old) = frame.get_mut(at) {
            *old = byte;
        }
    };
    match random.below(12) {
        // Lengths and offsets, where mistakes are made: IHL, total length,
        // fragment, protocol, TCP offset, UDP length, VLAN type.
        0 => set(network, 0x40 | random.byte() & 0x0f),
        1 => set(network, random.byte()),
        2 => {
            set(network + 2, random.of(&[0, 0, 0, 5, 6, 0xff]));
            set(network + 3, random.byte());
        }
        3 => {
            set(network + 6, random.byte());
            set(network + 7, random.of(&[0, 1, 0xff]));
        }
        4 => set(network + 9, random.of(&[1, 4, 6, 17, 41, 47, 132])),
        5 => set(network + 32, random.byte()),
        6 => {
            set(network + 24, random.of(&[0, 0, 1, 0xff]));
            set(network + 25, random.byte());
        }
        7 => {
            set(network.saturating_sub(2), random.of(&[0x81, 0x88, 0x86, 0x08]));
            set(network.saturating_sub(1), random.of(&[0x00, 0xa8, 0xdd, 0x06]));
        }
        8 => {
            let at = random.below(frame.len());
            frame[at] ^= 1 << random.below(8);
            return;
        }
        9 => {
            let length = random.below(frame.len() + 1);
            frame.truncate(length);
            return;
        }
        10 => {
            let more = random.below(64);
            frame.extend((0..more).map(|_| 0xa5));
        }
        _ => {
            let (from, to) = (random.below(frame.len()), random.below(frame.len()));
            let length = random.below(frame.len() - from.max(to) + 1);
            frame.copy_within(from..from + length, to);
        }
    }
    // Mostly with a right header checksum, or nothing behind it would be
    // reached.
    if random.chance(85) {
        fill_checksum(frame, network);
    }
}

fn fill_checksum(frame: &mut [u8], network: usize) {
    let Some(first) = frame.get(network) else { return };
    let end = network + usize::from(first & 0x0f) * 4;
    if end < network + 12 || end > frame.len() {
        return;
    }
    frame[network + 10..network + 12].fill(0);
    let words = frame[network..end].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame[network + 10..network + 12].copy_from_slice(&sum.to_be_bytes());
}

/// Whether a frame could be a witness's: it names one of their addresses.
fn of_a_witness(frame: &[u8]) -> bool {
    frame.windows(4).any(|bytes| matches!(bytes, [203, 0, 113, 50..=60]) || bytes == [10, 0, 2, 1])
}

/// Every frame that arrived is accounted for by exactly one counter.
fn check_accounts(director: &Director) {
    let at_home: usize = director.workers.iter().map(|worker| worker.port().frames_at_home()).sum();
    let away = (FRAMES * director.workers.len() - at_home) as u64;
    let held = director.sum(|c| c.held.get());
    assert!(away >= held, "{away} frames away, {held} held");
    let unsent = away - held;
    let drops: u64 = DropReason::ALL.iter().map(|reason| director.sum(|c| c.dropped(*reason))).sum();
    let gone = director.sum(|c| c.transmitted.get() + c.punted.get()) + drops;
    let come = director.sum(|c| c.received.get() + c.answered.get() + c.fragmented.get());
    assert_eq!(come, gone + held + unsent, "come = gone + held + unsent");
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

#[test]
fn no_frame_harms_a_worker() {
    fuzz(1, 3_000_000);
}

/// Frames go round from worker to worker.
#[test]
fn no_frame_harms_one_of_three_workers() {
    fuzz(3, 500_000);
}

fn fuzz(workers: usize, frames: u64) {
    let seed = number("SLUICE_FUZZ_SEED").unwrap_or(0x51ce_0001).max(1);
    let frames = number("SLUICE_FUZZ_FRAMES").unwrap_or(frames);
    let mut random = Random(seed);

    let mut director = Director::with(workers, 1200 / workers);
    serve_by(&mut director, 1);
    director.publish();
    let witnesses = witnesses(&mut director);
    // From here on new connections go to server 2, in services of all methods.
    for (id, (_, method, protocol)) in (0..).zip(services()) {
        director.server(ServerId(id)).weight = 0;
        director.add_server(ServiceId(id), &format!("10.0.2.2:{}", port(protocol)), method, 1);
    }
    serve_ipv6(&mut director);
    director.publish();

    let mut arrived = 0;
    let mut generation = 1;
    let mut checked = 0;
    while arrived < frames {
        // A flood of one packet fills a slow transmit ring.
        let burst: Vec<(usize, Vec<u8>)> = if random.chance(2) {
            vec![frame(&mut random); 10 * BURST]
        } else {
            std::iter::repeat_with(|| frame(&mut random)).take(BURST).collect()
        };
        let burst: Vec<_> = burst.into_iter().filter(|(_, frame)| !of_a_witness(frame)).collect();
        arrived += burst.len() as u64;
        let worker = random.below(workers);
        let seconds = random.of(&[0, 0, 0, 0, 0, 0, 0, 1, 7]);
        let new_routes = random.chance(1).then(|| random.chance(95));
        let ring = if random.chance(if burst.len() > BURST { 50 } else { 10 }) { 5 } else { usize::MAX };
        let result = catch_unwind(AssertUnwindSafe(|| {
            if let Some(known) = new_routes {
                generation += 1;
                let routes = Routes::new(generation).known(1);
                director.publish_hops(if known { routes.known(2).known(3) } else { routes });
            }
            director.workers.iter_mut().for_each(|worker| worker.port_mut().limit_transmit_ring(ring));
            for (interface, frame) in &burst {
                assert!(director.workers[worker].port_mut().inject(*interface, frame), "no frame is free");
            }
            director.now += seconds * SECOND;
            director.settle();
            check_accounts(&director);
            director.workers.iter_mut().for_each(|worker| worker.port_mut().limit_transmit_ring(usize::MAX));
            director.settle();
            // Before the first of them times out.
            if director.now - checked > 200 * SECOND {
                checked = director.now;
                witnesses.iter().for_each(|witness| witness.check(&mut director));
            }
        }));
        if let Err(cause) = result {
            eprintln!("SLUICE_FUZZ_SEED={seed}, {workers} workers, after {arrived} frames, in this burst:");
            for (interface, frame) in &burst {
                let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
                eprintln!("{interface} {hex}");
            }
            std::panic::resume_unwind(cause);
        }
    }

    witnesses.iter().for_each(|witness| witness.check(&mut director));
    let drops = DropReason::ALL.iter().map(|reason| (*reason, director.sum(|c| c.dropped(*reason))));
    let drops: Vec<_> = drops.filter(|(_, count)| *count > 0).collect();
    println!(
        "{arrived} frames: {} sent, {} of them errors and {} pieces, {} punted, {} handed over, {} connections; dropped {drops:?}",
        director.sum(|c| c.transmitted.get()),
        director.sum(|c| c.answered.get()),
        director.sum(|c| c.fragmented.get()),
        director.sum(|c| c.punted.get()),
        director.sum(|c| c.handed.get()),
        director.sum(|c| c.connections.get()),
    );
    // The run must have reached what it is about.
    for reason in [
        DropReason::Truncated,
        DropReason::Malformed,
        DropReason::BadChecksum,
        DropReason::TtlExceeded,
        DropReason::TooBig,
        DropReason::TunnelError,
        DropReason::Untranslatable,
        DropReason::FragmentQueueFull,
        DropReason::TableFull,
        DropReason::Unresolved,
        DropReason::TransmitFull,
    ] {
        let occurred = drops.iter().any(|(known, _)| *known == reason);
        assert!(occurred || frames < 500_000, "{reason:?} did not occur");
    }

    // All connections end, and every frame is back.
    director.publish_hops(Routes::new(generation + 1).all_known());
    director.settle();
    director.pass(1000 * SECOND);
    while director.workers.iter().any(|worker| worker.connections() > 0) {
        director.settle();
    }
    assert!(director.workers.iter().all(|worker| worker.port().frames_at_home() == FRAMES));
}
