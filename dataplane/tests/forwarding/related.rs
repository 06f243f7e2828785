//! ICMP errors about connections' packets.

use etherparse::Icmpv4Type;
use etherparse::icmpv4::{DestUnreachableHeader, TimeExceededCode};
use sluice_dataplane::neigh::Egress;
use sluice_dataplane::service::Method;
use sluice_dataplane::stats::DropReason;

use crate::director::packets::{ACK, Datagram, IcmpError, SYN, UdpChecksum, address, tcp, udp};
use crate::director::{
    CLIENT, CLIENT_ROUTER, DNS_VIP, Director, INSIDE, INSIDE_ADDRESS, LIP, Mac, OUTSIDE, Outcome, Routes,
    SERVER, VIP, inside, server_mac,
};

const ALL: [Method; 4] = [Method::Nat, Method::FullNat, Method::DirectRoute, Method::Tunnel];
/// A router between the clients and the director.
const ROUTER: [u8; 4] = [198, 18, 0, 1];
const INNER_ROUTER: [u8; 4] = [10, 0, 2, 253];
const VIP_ADDRESS: [u8; 4] = [192, 0, 2, 10];
const CLIENT_ADDRESS: [u8; 4] = [198, 51, 100, 7];
const RIP: [u8; 4] = [10, 0, 2, 1];

fn too_big(mtu: u16) -> Icmpv4Type {
    Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu })
}

fn kinds() -> [Icmpv4Type; 6] {
    [
        too_big(1400),
        Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Host),
        Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port),
        Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit),
        Icmpv4Type::Unknown { type_u8: 4, code_u8: 0, bytes5to8: [0; 4] },
        Icmpv4Type::Unknown { type_u8: 12, code_u8: 0, bytes5to8: [20, 0, 0, 0] },
    ]
}

fn error(link: (Mac, Mac), ends: ([u8; 4], [u8; 4]), kind: &Icmpv4Type, quoted: &[u8], ttl: u8) -> Vec<u8> {
    let ((from_mac, to_mac), (source, destination)) = (link, ends);
    IcmpError { from_mac, to_mac, source, destination, kind: kind.clone(), quoted, id: 77 }.bytes_with(ttl)
}

/// An error from the clients' side about a packet of the service, and the
/// frame that a server gets.
struct FromClients {
    quoted: Vec<u8>,
    as_sent: Vec<u8>,
    source: [u8; 4],
}

impl FromClients {
    fn of(director: &mut Director, method: Method, reply: &Datagram) -> Self {
        let server = format!("10.0.2.1:{}", reply.source.port());
        match method {
            Method::Nat => FromClients {
                quoted: reply.ip_packet(),
                as_sent: reply.clone().between(&server, CLIENT).ip_packet(),
                source: ROUTER,
            },
            Method::FullNat => FromClients {
                quoted: reply.ip_packet(),
                as_sent: reply.clone().between(&server, &director.local_end().to_string()).ip_packet(),
                source: LIP,
            },
            Method::DirectRoute | Method::Tunnel => {
                FromClients { quoted: reply.ip_packet(), as_sent: reply.ip_packet(), source: ROUTER }
            }
        }
    }

    fn arriving(&self, kind: &Icmpv4Type, quoted: usize) -> Vec<u8> {
        let quoted = &self.quoted[..quoted.min(self.quoted.len())];
        error((CLIENT_ROUTER, OUTSIDE), (ROUTER, VIP_ADDRESS), kind, quoted, 64)
    }

    fn forwarded(&self, method: Method, kind: &Icmpv4Type, quoted: usize) -> Vec<u8> {
        let to = if method.has_replies() { RIP } else { VIP_ADDRESS };
        let quoted = &self.as_sent[..quoted.min(self.as_sent.len())];
        let frame = error((INSIDE, server_mac(1)), (self.source, to), kind, quoted, 63);
        if method == Method::Tunnel { in_tunnel(&frame) } else { frame }
    }
}

/// The packet of a frame behind an outer header as the tunnel makes it, whose
/// identification is not compared.
pub fn in_tunnel(frame: &[u8]) -> Vec<u8> {
    use etherparse::{IpNumber, Ipv4Header};
    let inner = &frame[14..];
    let mut outer =
        Ipv4Header::new(inner.len() as u16, 63, IpNumber::IPV4, INSIDE_ADDRESS, RIP).expect("it fits");
    crate::director::packets::set_tos(&mut outer, inner[1]);
    outer.dont_fragment = false;
    let mut bytes = frame[..14].to_vec();
    bytes.extend(outer.to_bytes());
    bytes.extend(inner);
    without_outer_id(bytes)
}

pub fn without_outer_id(mut frame: Vec<u8>) -> Vec<u8> {
    if frame[23] == 4 {
        frame[18..20].fill(0);
        frame[24..26].fill(0);
    }
    frame
}

fn only_sent(outcome: Outcome, what: &str) -> (usize, Vec<u8>) {
    assert!(outcome.punted.is_empty() && outcome.dropped.is_empty(), "{what}: {outcome:?}");
    let [(interface, frame)] = &outcome.sent[..] else { panic!("{what}: {outcome:?}") };
    (*interface, without_outer_id(frame.clone()))
}

#[test]
fn errors_from_clients_reach_the_server() {
    for method in ALL {
        let mut director = Director::serving(method);
        director.arrive(0, &tcp(CLIENT, VIP, SYN).bytes());
        let reply = tcp(VIP, CLIENT, ACK).length(1500).ttl(50);
        let expected = FromClients::of(&mut director, method, &reply);
        for kind in kinds() {
            let what = format!("{method:?}, {kind:?}");
            let (interface, frame) = only_sent(director.arrive(0, &expected.arriving(&kind, 1500)), &what);
            assert_eq!((interface, frame), (1, expected.forwarded(method, &kind, 1500)), "{what}");
        }
    }
}

/// Routers quote as much as they like, and no transport checksum at times. (Of
/// half of one nothing can be made.)
#[test]
fn as_much_as_is_quoted_is_translated() {
    for method in ALL {
        for length in [24, 27, 28, 36, 38, 40, 41, 100, 1500] {
            let mut director = Director::serving(method);
            director.arrive(0, &tcp(CLIENT, VIP, SYN).bytes());
            let expected = FromClients::of(&mut director, method, &tcp(VIP, CLIENT, ACK).length(700));
            let what = format!("{method:?}, {length} bytes");
            let sent = only_sent(director.arrive(0, &expected.arriving(&too_big(600), length)), &what);
            assert_eq!(sent, (1, expected.forwarded(method, &too_big(600), length)), "{what}");
        }
    }
}

#[test]
fn quoted_datagrams() {
    for method in ALL {
        for checksum in [UdpChecksum::Right, UdpChecksum::None] {
            let mut director = Director::serving(method);
            director.arrive(0, &udp(CLIENT, DNS_VIP).bytes());
            let mut reply = udp(DNS_VIP, CLIENT);
            reply.udp_checksum = checksum;
            reply.ip_options = vec![1; 12];
            let expected = FromClients::of(&mut director, method, &reply);
            let what = format!("{method:?}, {checksum:?}");
            let sent = only_sent(director.arrive(0, &expected.arriving(&too_big(600), 1500)), &what);
            assert_eq!(sent, (1, expected.forwarded(method, &too_big(600), 1500)), "{what}");
        }
    }
}

/// The client sees the packet that it sent, and an error from the VIP.
#[test]
fn errors_from_servers_reach_the_client() {
    for method in [Method::Nat, Method::FullNat] {
        for source in [RIP, INNER_ROUTER] {
            for kind in kinds() {
                let mut director = Director::serving(method);
                let request = tcp(CLIENT, VIP, SYN).length(1000);
                let (_, forwarded) = only_sent(director.arrive(0, &request.bytes()), "the SYN");
                let to = if method == Method::Nat { CLIENT_ADDRESS } else { LIP };
                let arriving = error((server_mac(1), INSIDE), (source, to), &kind, &forwarded[14..], 64);
                let quoted = request.clone().hop().ip_packet();
                let expected =
                    error((OUTSIDE, CLIENT_ROUTER), (VIP_ADDRESS, CLIENT_ADDRESS), &kind, &quoted, 63);
                let what = format!("{method:?}, from {source:?}, {kind:?}");
                assert_eq!(only_sent(director.arrive(1, &arriving), &what), (0, expected), "{what}");
            }
        }
    }
}

/// What befalls a tunnel's packet is told to the client in its own terms.
#[test]
fn errors_about_a_tunnel_are_told_to_the_client() {
    for (kind, told) in [
        (too_big(1400), too_big(1380)),
        (too_big(89), too_big(69)),
        (too_big(88), too_big(88)),
        (too_big(0), too_big(0)),
        (kinds()[1].clone(), kinds()[1].clone()),
        (kinds()[3].clone(), kinds()[3].clone()),
    ] {
        let mut director = Director::serving(Method::Tunnel);
        let request = tcp(CLIENT, VIP, SYN).length(1000);
        let outcome = director.arrive(0, &request.bytes());
        let arriving = error(
            (server_mac(1), INSIDE),
            (INNER_ROUTER, INSIDE_ADDRESS),
            &kind,
            &outcome.sent[0].1[14..],
            64,
        );
        // An error has 576 bytes at most, and the quoted outer header 20.
        let quoted = &request.clone().hop().ip_packet()[..576 - 28 - 20];
        let answer = IcmpError {
            from_mac: OUTSIDE,
            to_mac: CLIENT_ROUTER,
            source: VIP_ADDRESS,
            destination: CLIENT_ADDRESS,
            kind: told,
            quoted,
            id: 2,
        };
        let expected = Outcome::answered(DropReason::TunnelError, 0, answer.bytes());
        assert_eq!(director.arrive(1, &arriving), expected, "{kind:?}");
    }
}

/// Who lets routers fragment need not be told that a tunnel is too narrow.
#[test]
fn a_narrow_tunnel_is_no_news_to_who_lets_fragment() {
    let mut director = Director::serving(Method::Tunnel);
    let request = tcp(CLIENT, VIP, SYN).length(1000).may_be_fragmented();
    let outcome = director.arrive(0, &request.bytes());
    let quoted = &outcome.sent[0].1[14..];
    let ends = (INNER_ROUTER, INSIDE_ADDRESS);
    let mut arriving = error((server_mac(1), INSIDE), ends, &too_big(600), quoted, 64);
    assert_eq!(director.arrive(1, &arriving), Outcome::dropped(DropReason::TunnelError));
    arriving[36] ^= 1;
    assert_eq!(director.arrive(1, &arriving), Outcome::dropped(DropReason::BadChecksum));
}

#[test]
fn what_is_about_no_connection_is_the_kernels() {
    let unreachable = &kinds()[1];
    for method in ALL {
        let mut director = Director::serving(method);
        director.arrive(0, &tcp(CLIENT, VIP, SYN).bytes());
        let reply = |from: &str, to: &str| tcp(from, to, ACK).ip_packet();
        let about =
            |quoted: &[u8]| error((CLIENT_ROUTER, OUTSIDE), (ROUTER, VIP_ADDRESS), unreachable, quoted, 64);
        let known = reply(VIP, CLIENT);
        let mut later = known.clone();
        later[6..8].copy_from_slice(&[0, 1]);
        let mut six = known.clone();
        six[0] = 0x65;
        let mut short = known.clone();
        short[0] = 0x44;
        let mut protocol = known.clone();
        protocol[9] = 47;
        let tunnelled = tcp(CLIENT, VIP, ACK).in_tunnel(VIP_ADDRESS, [10, 0, 2, 3], 0, 1)[14..].to_vec();
        let mut echo = about(&known);
        echo[34] = 8;
        for (what, frame) in [
            ("another client", about(&reply(VIP, "198.51.100.8:40000"))),
            ("another port", about(&reply(VIP, "198.51.100.7:40001"))),
            ("another protocol", about(&udp(VIP, CLIENT).ip_packet())),
            ("the packet to the VIP itself", about(&reply(CLIENT, VIP))),
            ("a later fragment", about(&later)),
            ("IPv6 in it", about(&six)),
            ("a short header in it", about(&short)),
            ("GRE in it", about(&protocol)),
            ("nothing in it", about(&[])),
            ("half a header in it", about(&known[..19])),
            ("no ports in it", about(&known[..20])),
            ("half the ports in it", about(&known[..23])),
            ("a tunnel to another server", about(&tunnelled)),
            ("a tunnel's outer header alone", about(&tunnelled[..20])),
            ("an echo request", echo),
            (
                "to another than the sender",
                error((CLIENT_ROUTER, OUTSIDE), (ROUTER, [192, 0, 2, 11]), unreachable, &known, 64),
            ),
        ] {
            let outcome = director.arrive(0, &frame);
            assert_eq!(outcome, Outcome::punted(0, frame), "{method:?}, {what}");
        }
    }
}

#[test]
fn errors_that_cannot_go_on() {
    for method in ALL {
        let mut director = Director::serving(method);
        director.arrive(0, &tcp(CLIENT, VIP, SYN).bytes());
        let expected = FromClients::of(&mut director, method, &tcp(VIP, CLIENT, ACK).length(700));
        let arriving = expected.arriving(&too_big(600), 1500);
        let mut broken = arriving.clone();
        broken[36] ^= 1;
        if method.has_replies() {
            assert_eq!(director.arrive(0, &broken), Outcome::dropped(DropReason::BadChecksum), "{method:?}");
        } else {
            assert_eq!(director.arrive(0, &broken).sent.len(), 1, "{method:?}");
        }
        // Never answered by another error.
        let kind = too_big(600);
        let last = error(
            (CLIENT_ROUTER, OUTSIDE),
            (ROUTER, VIP_ADDRESS),
            &kind,
            &tcp(VIP, CLIENT, ACK).ip_packet(),
            1,
        );
        assert_eq!(director.arrive(0, &last), Outcome::dropped(DropReason::TtlExceeded), "{method:?}");

        director.publish_hops(Routes::new(2));
        assert_eq!(director.arrive(0, &arriving), Outcome::dropped(DropReason::Unresolved), "{method:?}");
        assert_eq!(director.events().len(), 1, "the next hop is asked for");
        director.publish_hops(
            Routes::over(3, Egress::new(0, OUTSIDE), Egress { vlan: Some(9), ..inside() }).all_known(),
        );
        assert_eq!(director.arrive(0, &arriving).sent.len(), 1, "{method:?}");
    }
}

/// Errors are counted as traffic and leave the connection as it was.
#[test]
fn errors_do_not_touch_the_connection() {
    for method in ALL {
        let mut director = Director::serving(method);
        director.arrive(0, &tcp(CLIENT, VIP, SYN).bytes());
        director.pass(20 * crate::director::SECOND);
        let before = director.only_connection();
        let expected = FromClients::of(&mut director, method, &tcp(VIP, CLIENT, ACK));
        let arriving = expected.arriving(&too_big(600), 1500);
        director.arrive(0, &arriving);
        assert_eq!(director.only_connection(), before, "{method:?}");
        let server = director.server(sluice_dataplane::service::ServerId(0));
        let traffic = &server.counters.share(0).traffic;
        assert_eq!(traffic.in_packets.get(), 2, "{method:?}");
        assert_eq!(traffic.in_bytes.get() - 58, arriving.len() as u64 - 14, "{method:?}");
    }
}

/// Relayed errors are as many as come.
#[test]
fn relayed_errors_are_not_rationed() {
    let mut director = Director::serving(Method::Nat);
    director.arrive(0, &tcp(CLIENT, VIP, SYN).bytes());
    let expected = FromClients::of(&mut director, Method::Nat, &tcp(VIP, CLIENT, ACK));
    let arriving = expected.arriving(&too_big(600), 1500);
    let sent: usize = (0..500).map(|_| director.arrive(0, &arriving).sent.len()).sum();
    assert_eq!(sent, 500);
}

#[test]
fn errors_on_another_queue_reach_their_connection() {
    for queue in 0..3 {
        let mut director = Director::with(3, 100);
        let (http, _) = director.both_services();
        director.add_server(http, SERVER, Method::FullNat, 1);
        director.publish();
        director.arrive_at(1, 0, &[&tcp(CLIENT, VIP, SYN).bytes()]);
        assert_eq!(address(CLIENT).ip().octets(), CLIENT_ADDRESS);
        let expected = FromClients::of(&mut director, Method::FullNat, &tcp(VIP, CLIENT, ACK));
        let outcome = director.arrive_at(queue, 0, &[&expected.arriving(&too_big(900), 1500)]);
        let sent = only_sent(outcome, "an error");
        assert_eq!(sent, (1, expected.forwarded(Method::FullNat, &too_big(900), 1500)), "queue {queue}");
    }
}
