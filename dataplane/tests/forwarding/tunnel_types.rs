//! Tunnels of each type and family, against packets that IPVS sent.

use std::net::SocketAddr;

use sluice_dataplane::neigh::Egress;
use sluice_dataplane::service::{Encapsulation, Method, Protocol};
use sluice_dataplane::stats::DropReason;

use crate::director::packets::{SYN, ethernet, tcp};
use crate::director::packets_v6::{ethernet as ethernet6, tcp6};
use crate::director::{
    CLIENT, CLIENT_ROUTER, CLIENT6, Director, OUTSIDE, Routes, SERVER, SERVER6, VIP, VIP6, inside,
};

const RECORDED: &str = include_str!("../data/tunnels.txt");

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal"))
        .collect()
}

fn encapsulation(options: &str) -> Encapsulation {
    let checksum = options.ends_with("csum");
    match () {
        () if options.contains("gue") => Encapsulation::Gue { port: 6080, checksum },
        () if options.contains("gre") => Encapsulation::Gre { checksum },
        () => Encapsulation::Ipip,
    }
}

/// The word at an offset, as a sum.
fn word(packet: &[u8], at: usize) -> u32 {
    u32::from(packet[at]) << 8 | u32::from(packet[at + 1])
}

/// Makes a word and the checksum over it those of another packet.
fn take_over(packet: &mut [u8], from: &[u8], at: usize, checksum: usize) {
    let mut sum = (0xffff - word(packet, checksum)) + (0xffff - word(packet, at)) + word(from, at);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    packet[at..at + 2].copy_from_slice(&from[at..at + 2]);
    packet[checksum..checksum + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

/// All is the same but what the kernel draws by lot: the outer identification,
/// and the source port of GUE.
#[test]
fn packets_are_those_of_ipvs() {
    let mut compared = 0;
    for line in RECORDED.lines().filter(|line| !line.starts_with('#')) {
        let [server, input, output] = line.split(" | ").collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        let (server, options) = server.split_once(' ').unwrap_or((server, ""));
        let (input, mut expected) = (bytes(input), bytes(output));
        let is_v4 = input[0] >> 4 == 4;
        let port = word(&input, if is_v4 { 22 } else { 42 }) as u16;
        let vip: SocketAddr = (if is_v4 { VIP } else { VIP6 }).parse().expect("an address");
        let server = SocketAddr::new(server.parse().expect("an address"), port);

        let mut director = Director::new();
        let service = director.add_service(Protocol::Udp, &SocketAddr::new(vip.ip(), port).to_string());
        let id = director.add_server(service, &server.to_string(), Method::Tunnel, 1);
        director.server(id).encapsulation = encapsulation(options);
        director.publish();
        let frame = match is_v4 {
            true => ethernet(CLIENT_ROUTER, OUTSIDE, &[], &input),
            false => ethernet6(CLIENT_ROUTER, OUTSIDE, &input),
        };
        let outcome = director.arrive(0, &frame);
        assert_eq!(outcome.sent.len(), 1, "{line}: {outcome:?}");
        let sent = &outcome.sent[0].1[14..];

        let mut udp = 40;
        if server.is_ipv4() {
            udp = 20;
            take_over(&mut expected, sent, 4, 10);
        }
        if options.contains("gue") {
            let port = word(sent, udp);
            assert!((32_768..60_999).contains(&port), "{line}: from port {port}");
            if options.ends_with("csum") {
                take_over(&mut expected, sent, udp, udp + 6);
            } else {
                expected[udp..udp + 2].copy_from_slice(&sent[udp..udp + 2]);
            }
        }
        assert_eq!(sent, expected, "{line}");
        compared += 1;
    }
    assert_eq!(compared, 36);
}

/// Each connection has its port, and keeps it.
#[test]
fn gue_spreads_connections_over_ports() {
    let mut director = Director::new();
    let service = director.add_service(Protocol::Tcp, VIP);
    let id = director.add_server(service, SERVER, Method::Tunnel, 1);
    director.server(id).encapsulation = Encapsulation::Gue { port: 6080, checksum: false };
    director.publish();
    let mut ports = std::collections::BTreeSet::new();
    for client in 1..=100 {
        let from = |director: &mut Director| {
            let packet = tcp(&format!("198.51.100.7:{client}"), VIP, SYN);
            word(&director.arrive(0, &packet.bytes()).sent[0].1, 34)
        };
        let first = from(&mut director);
        assert_eq!(from(&mut director), first);
        ports.insert(first);
    }
    assert!(ports.len() > 90, "{} ports", ports.len());
}

/// The MTUs that IPVS tells: those of `__ip_vs_get_out_rt` and its sister.
#[test]
fn larger_headers_leave_less_room() {
    let gue = |checksum| Encapsulation::Gue { port: 6080, checksum };
    let gre = |checksum| Encapsulation::Gre { checksum };
    for (encapsulation, overhead) in
        [(Encapsulation::Ipip, 0), (gue(false), 12), (gue(true), 12), (gre(false), 4), (gre(true), 8)]
    {
        for (server, header) in [(SERVER, 20), (SERVER6, 40)] {
            let largest = 1500 - header - overhead;
            for (vip, length) in [(VIP, largest), (VIP6, largest), (VIP, largest + 1), (VIP6, largest + 1)] {
                let mut director = Director::new();
                let service = director.add_service(Protocol::Tcp, vip);
                let id = director.add_server(service, server, Method::Tunnel, 1);
                director.server(id).encapsulation = encapsulation;
                director.publish();
                director.publish_hops(
                    Routes::over(2, Egress::new(0, OUTSIDE), Egress { mtu: 1500, ..inside() }).all_known(),
                );
                let frame = match vip {
                    VIP => tcp(CLIENT, vip, SYN).length(length).bytes(),
                    _ => tcp6(CLIENT6, vip, SYN).length(length).bytes(),
                };
                let outcome = director.arrive(0, &frame);
                if length == largest {
                    assert_eq!(outcome.sent[0].1.len(), 1514, "{encapsulation:?} to {server}");
                } else {
                    assert_eq!(outcome.dropped, [DropReason::TooBig], "{encapsulation:?} to {server}");
                    let answer = &outcome.sent[0].1;
                    // The MTU ends the ICMP header.
                    let mtu = word(answer, if vip == VIP { 14 + 20 + 6 } else { 14 + 40 + 6 });
                    assert_eq!(mtu, largest as u32, "{encapsulation:?} to {server}");
                }
            }
        }
    }
}
