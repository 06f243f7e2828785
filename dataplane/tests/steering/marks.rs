//! What the program redirects for its mark.

use std::sync::Arc;
use std::time::Instant;

use sluice_dataplane::conn::Tuple;
use sluice_dataplane::link::Link;
use sluice_dataplane::port::afxdp::AfXdpPort;
use sluice_dataplane::service::{Family, MarkCounters, MarkRule, MarkRules, Protocol};
use sluice_dataplane::steer::{Loaded, ModeChoice, Steering, SteeringRules, Target};

use crate::director::mark_rule;
use crate::director::packets::{ACK, SYN, sctp, tcp, udp};
use crate::director::packets_v6::tcp6;
use crate::kernel;

const PASS: u32 = 2;
const REDIRECT: u32 = 4;
const CLIENT: &str = "198.51.100.7:40000";

fn rules(rules: Vec<MarkRule>) -> Arc<MarkRules> {
    let counted = rules.into_iter().map(|rule| (rule, Arc::new(MarkCounters::new(1)))).collect();
    Arc::new(MarkRules::new(counted).unwrap())
}

fn steering(marks: &[(u32, Family)], mark_rules: &[&Arc<MarkRules>]) -> SteeringRules {
    SteeringRules {
        marks: marks.iter().copied().collect(),
        mark_rules: mark_rules.iter().map(|rules| Arc::clone(rules)).collect(),
        ..SteeringRules::default()
    }
}

/// A fragment of a packet of two to a port that no rule is about.
fn v6_fragment(destination: &str, place: usize) -> Vec<u8> {
    let packet = tcp6("[2001:db8::7]:1", &format!("[{destination}]:22"), SYN).length(200);
    packet.pieces_behind(0, 96, 1).swap_remove(place)
}

/// The program on an interface, with a socket to redirect to.
struct Stage {
    steering: Steering,
    program: std::os::fd::OwnedFd,
    mac: [u8; 6],
    _port: AfXdpPort,
}

impl Stage {
    fn new(interface: &str, number: usize) -> Self {
        let steering = Loaded::load(interface).unwrap().numbered(number).attach(ModeChoice::Auto).unwrap();
        let program = kernel::program(kernel::attached(interface));
        let mac = Link::new(interface).unwrap().mac().unwrap();
        let port = AfXdpPort::open(&[(interface.to_owned(), steering.mode())], 0, 1500).unwrap();
        Stage { steering, program, mac, _port: port }
    }

    fn verdict(&self, mut frame: Vec<u8>) -> u32 {
        frame[..6].copy_from_slice(&self.mac);
        kernel::run(&self.program, &frame)
    }

    fn syn(&self, destination: &str) -> u32 {
        self.verdict(tcp(CLIENT, destination, SYN).bytes())
    }
}

#[test]
fn packets_that_a_rule_marks_for_a_service_are_redirected() {
    if !kernel::enter_namespace() {
        return;
    }
    kernel::make_veth();
    let mut stage = Stage::new("west", 0);
    let marking = rules(vec![
        mark_rule("192.0.2.10/32", &[(80, 80), (443, 443), (8000, 8100)], 10),
        MarkRule { protocol: None, ..mark_rule("192.0.2.64/26", &[], 10) },
        mark_rule("192.0.2.65/32", &[(22, 22)], 0),
        MarkRule { source: Some("198.51.100.0/24".parse().unwrap()), ..mark_rule("192.0.2.12/32", &[], 10) },
        MarkRule { source: Some("198.51.100.8/32".parse().unwrap()), ..mark_rule("192.0.2.13/32", &[], 10) },
        mark_rule("192.0.2.14/32", &[], 11),
        MarkRule { mask: 0xf, ..mark_rule("192.0.2.15/32", &[], 10) },
        MarkRule { mask: 0, ..mark_rule("192.0.2.15/32", &[(443, 443)], 0x20) },
        mark_rule("2001:db8:f::/48", &[(80, 80)], 10),
        mark_rule("::/0", &[(443, 443)], 10),
    ]);
    let served = [(10, Family::V4), (0x2a, Family::V4), (10, Family::V6)];
    stage.steering.update(&steering(&served, &[&marking])).unwrap();
    let fragment = |packet: crate::director::packets::Datagram| {
        let mut frame = packet.bytes();
        frame[21] = 100;
        frame
    };
    for (what, frame, expected) in [
        ("a port", tcp(CLIENT, "192.0.2.10:80", SYN).bytes(), REDIRECT),
        ("no SYN", tcp(CLIENT, "192.0.2.10:443", ACK).bytes(), REDIRECT),
        ("below a range", tcp(CLIENT, "192.0.2.10:7999", SYN).bytes(), PASS),
        ("its first", tcp(CLIENT, "192.0.2.10:8000", SYN).bytes(), REDIRECT),
        ("its last", tcp(CLIENT, "192.0.2.10:8100", SYN).bytes(), REDIRECT),
        ("above it", tcp(CLIENT, "192.0.2.10:8101", SYN).bytes(), PASS),
        ("ssh to the VIP", tcp(CLIENT, "192.0.2.10:22", SYN).bytes(), PASS),
        ("another protocol", udp(CLIENT, "192.0.2.10:80").bytes(), PASS),
        ("another address", tcp(CLIENT, "192.0.2.11:80", SYN).bytes(), PASS),
        ("the first of a prefix", tcp(CLIENT, "192.0.2.64:1", SYN).bytes(), REDIRECT),
        ("the last, by UDP", udp(CLIENT, "192.0.2.127:53").bytes(), REDIRECT),
        ("beyond it", tcp(CLIENT, "192.0.2.128:1", SYN).bytes(), PASS),
        ("what a later rule takes out", tcp(CLIENT, "192.0.2.65:22", SYN).bytes(), PASS),
        ("what it leaves", tcp(CLIENT, "192.0.2.65:23", SYN).bytes(), REDIRECT),
        ("that by UDP", udp(CLIENT, "192.0.2.65:22").bytes(), REDIRECT),
        ("a source", tcp(CLIENT, "192.0.2.12:80", SYN).bytes(), REDIRECT),
        ("another source", tcp("198.51.101.7:1", "192.0.2.12:80", SYN).bytes(), PASS),
        ("another than the only source", tcp(CLIENT, "192.0.2.13:80", SYN).bytes(), PASS),
        ("a mark that no service has", tcp(CLIENT, "192.0.2.14:80", SYN).bytes(), PASS),
        ("a part of a mark", tcp(CLIENT, "192.0.2.15:80", SYN).bytes(), REDIRECT),
        ("two parts", tcp(CLIENT, "192.0.2.15:443", SYN).bytes(), REDIRECT),
        ("IPv6, a prefix", tcp6("[2001:db8::7]:1", "[2001:db8:f::77]:80", SYN).bytes(), REDIRECT),
        ("IPv6, a wider one", tcp6("[2001:db8::7]:1", "[2001:db8:f::77]:443", SYN).bytes(), REDIRECT),
        ("IPv6, ssh", tcp6("[2001:db8::7]:1", "[2001:db8:f::77]:22", SYN).bytes(), PASS),
        ("IPv4, not in ::/0", tcp(CLIENT, "203.0.113.1:443", SYN).bytes(), PASS),
        ("SCTP by a rule of any protocol", sctp(CLIENT, "192.0.2.65:22", &[1]).bytes(), REDIRECT),
        ("SCTP by one of TCP", sctp(CLIENT, "192.0.2.10:80", &[1]).bytes(), PASS),
        ("IPv6, a first fragment", v6_fragment("2001:db8:f::77", 0), REDIRECT),
        ("IPv6, a later one", v6_fragment("2001:db8:f::77", 1), REDIRECT),
        ("a fragment", fragment(tcp(CLIENT, "192.0.2.10:81", SYN)), REDIRECT),
        ("a fragment of another protocol", fragment(udp(CLIENT, "192.0.2.10:80")), PASS),
        ("a fragment from another source", fragment(udp("198.51.101.7:1", "192.0.2.12:80")), PASS),
        ("a fragment to another address", fragment(tcp(CLIENT, "192.0.2.11:80", SYN)), PASS),
    ] {
        assert_eq!(stage.verdict(frame), expected, "{what}");
    }
    // A mark that becomes a service's, and one that no longer is.
    stage.steering.update(&steering(&[(11, Family::V4)], &[&marking])).unwrap();
    assert_eq!(["192.0.2.14:80", "192.0.2.10:80"].map(|at| stage.syn(at)), [REDIRECT, PASS]);
    stage.steering.update(&SteeringRules::default()).unwrap();
    assert_eq!(["192.0.2.14:80", "192.0.2.10:80"].map(|at| stage.syn(at)), [PASS, PASS]);
}

#[test]
fn errors_about_marked_packets_are_redirected() {
    use crate::director::packets::IcmpError;
    use etherparse::{Icmpv4Type, icmpv4::DestUnreachableHeader};
    if !kernel::enter_namespace() {
        return;
    }
    kernel::make_veth();
    let mut stage = Stage::new("west", 0);
    let marking = rules(vec![mark_rule("192.0.2.10/32", &[(80, 80)], 10)]);
    stage.steering.update(&steering(&[(10, Family::V4)], &[&marking])).unwrap();
    let error = |quoted: &[u8]| {
        let kind = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Host);
        let (source, destination) = ([198, 51, 100, 254], [192, 0, 2, 10]);
        IcmpError { from_mac: [2, 0, 0, 0, 0, 9], to_mac: [0; 6], source, destination, kind, quoted, id: 1 }
            .bytes()
    };
    let about = |source: &str| error(&tcp(source, CLIENT, ACK).ip_packet());
    assert_eq!(stage.verdict(about("192.0.2.10:80")), REDIRECT);
    assert_eq!(stage.verdict(about("192.0.2.10:22")), PASS);

    // Packet too big, about an answer of the service or of another port.
    let marking = rules(vec![mark_rule("2001:db8:f::/48", &[(80, 80)], 10)]);
    stage.steering.update(&steering(&[(10, Family::V6)], &[&marking])).unwrap();
    let about = |port: u16| {
        let quoted = tcp6(&format!("[2001:db8:f::10]:{port}"), "[2001:db8:c::7]:40000", ACK).ip_packet();
        let mut frame = tcp6("[2001:db8::fe]:1", "[2001:db8:f::10]:1", ACK).bytes();
        frame.truncate(54);
        frame[20] = 58;
        frame.extend([2, 0, 0, 0, 0, 0, 5, 0]);
        frame.extend(quoted);
        frame
    };
    assert_eq!([80, 22].map(|port| stage.verdict(about(port))), [REDIRECT, PASS]);
}

#[test]
fn a_rule_may_be_about_one_interface() {
    if !kernel::enter_namespace() {
        return;
    }
    kernel::make_veth();
    let marking = rules(vec![
        MarkRule { interfaces: 0b10, ..mark_rule("192.0.2.10/32", &[(80, 80)], 10) },
        MarkRule { interfaces: 0b01, ..mark_rule("192.0.2.10/32", &[(81, 81)], 10) },
    ]);
    for (interface, number, expected) in [("west", 0, [PASS, REDIRECT]), ("east", 1, [REDIRECT, PASS])] {
        let mut stage = Stage::new(interface, number);
        stage.steering.update(&steering(&[(10, Family::V4)], &[&marking])).unwrap();
        assert_eq!(["192.0.2.10:80", "192.0.2.10:81"].map(|at| stage.syn(at)), expected, "{interface}");
    }
}

/// Former rules go on beside the present ones, of which none changes what the
/// others say.
#[test]
fn former_rules_are_followed_too() {
    if !kernel::enter_namespace() {
        return;
    }
    kernel::make_veth();
    let mut stage = Stage::new("west", 0);
    let former = rules(vec![mark_rule("192.0.2.10/32", &[(80, 81)], 10)]);
    let present =
        rules(vec![mark_rule("192.0.2.10/32", &[(80, 443)], 10), mark_rule("192.0.2.10/32", &[(80, 90)], 0)]);
    let served = [(10, Family::V4)];
    let ports = ["192.0.2.10:80", "192.0.2.10:82", "192.0.2.10:443", "192.0.2.10:444"];
    stage.steering.update(&steering(&served, &[&present, &former])).unwrap();
    assert_eq!(ports.map(|at| stage.syn(at)), [REDIRECT, PASS, REDIRECT, PASS]);
    stage.steering.update(&steering(&served, &[&present])).unwrap();
    assert_eq!(ports.map(|at| stage.syn(at)), [PASS, PASS, REDIRECT, PASS]);
}

/// As many rules as there may be for an address, with the last one deciding;
/// the other half of the map, in turn, and other rules of before stay right.
#[test]
fn as_many_rules_as_there_may_be() {
    if !kernel::enter_namespace() {
        return;
    }
    kernel::make_veth();
    let mut stage = Stage::new("west", 0);
    let many = |port: u16| {
        let most = MarkRules::MOST_STEPS_OF_ONE as u16;
        let mut all: Vec<_> = (1..most).map(|n| mark_rule("192.0.2.10/32", &[(n, n)], 11)).collect();
        all.push(mark_rule("192.0.2.10/32", &[(port, port)], 10));
        all.extend((1..=250).map(|n| mark_rule(&format!("192.0.3.{n}/32"), &[(n, n)], 10)));
        rules(all)
    };
    let served = [(10, Family::V4)];
    let ports = [1000, 1001, 1002].map(|port| format!("192.0.2.10:{port}"));
    let lists = [1000, 1001, 1002].map(many);
    for (place, list) in lists.iter().enumerate() {
        let begun = Instant::now();
        stage.steering.update(&steering(&served, &[list])).unwrap();
        let took = begun.elapsed();
        let verdicts = [0, 1, 2].map(|n| stage.syn(&ports[n]));
        assert_eq!(verdicts, [0, 1, 2].map(|n| if n == place { REDIRECT } else { PASS }), "{took:?}");
        assert_eq!(["192.0.3.250:250", "192.0.3.250:249"].map(|at| stage.syn(at)), [REDIRECT, PASS]);
    }
    // There is room for two such lists; the present one comes first.
    let all: Vec<_> = lists.iter().collect();
    stage.steering.update(&steering(&served, &all)).unwrap();
    assert_eq!([0, 1, 2].map(|n| stage.syn(&ports[n])), [REDIRECT, REDIRECT, PASS]);
}

/// Addresses of services are not looked at for marks, and mark services not for
/// addresses.
#[test]
fn marks_stand_beside_addresses() {
    if !kernel::enter_namespace() {
        return;
    }
    kernel::make_veth();
    let mut stage = Stage::new("west", 0);
    let marking = rules(vec![mark_rule("192.0.2.10/32", &[(443, 443)], 10)]);
    let mut rules = steering(&[(10, Family::V4)], &[&marking]);
    let address = sluice_dataplane::wire::Address::from_v4([192, 0, 2, 10]);
    rules.services.insert(Target { address, port: 80, protocol: Protocol::Tcp });
    stage.steering.update(&rules).unwrap();
    let ports = ["192.0.2.10:80", "192.0.2.10:443", "192.0.2.10:22"];
    assert_eq!(ports.map(|at| stage.syn(at)), [REDIRECT, REDIRECT, PASS]);
    rules.mark_rules.clear();
    stage.steering.update(&rules).unwrap();
    assert_eq!(ports.map(|at| stage.syn(at)), [REDIRECT, PASS, PASS]);
}

/// The program and the workers agree on each packet, whatever the rules are.
#[test]
fn the_program_marks_as_the_workers_do() {
    if !kernel::enter_namespace() {
        return;
    }
    kernel::make_veth();
    let mut stage = Stage::new("west", 1);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |bound: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % bound
    };
    let (mut redirected, mut packets) = (0, 0);
    for round in 0..30 {
        let mut list = Vec::new();
        for _ in 0..below(30) {
            let host = below(4);
            let destination = match below(8) {
                0 => "192.0.2.0/24".to_owned(),
                1 => "0.0.0.0/0".to_owned(),
                2 => "::/0".to_owned(),
                3 => format!("2001:db8:f::{host}/128"),
                _ => format!("192.0.2.{host}/32"),
            };
            let v6 = destination.contains(':');
            let source = match below(4) {
                0 if v6 => Some("2001:db8:c::/48"),
                0 => Some("198.51.100.0/25"),
                _ => None,
            };
            let first = below(6) as u16;
            let ports = [(first, first + below(3) as u16), (9, 9)];
            list.push(MarkRule {
                source: source.map(|source| source.parse().unwrap()),
                protocol: [None, Some(Protocol::Tcp), Some(Protocol::Udp)][below(3) as usize],
                interfaces: 1 + below(3),
                mask: [u32::MAX, 0, 3, 6][below(4) as usize],
                ..mark_rule(&destination, &ports[..below(3) as usize], below(8) as u32)
            });
        }
        let marking = rules(list);
        let served: Vec<_> = [Family::V4, Family::V6]
            .into_iter()
            .flat_map(|family| (1..4).map(move |mark| (mark, family)))
            .collect();
        stage.steering.update(&steering(&served, &[&marking])).unwrap();
        for _ in 0..200 {
            let (host, port, client) = (below(5), below(11), below(256));
            let (frame, tuple) = match below(3) {
                0 => {
                    let (from, to) = (
                        format!("[2001:db8:{}::7]:1", ["c", "d"][client as usize % 2]),
                        format!("[2001:db8:f::{host}]:{port}"),
                    );
                    (tcp6(&from, &to, SYN).bytes(), (from, to, Protocol::Tcp))
                }
                other => {
                    let (from, to) = (format!("198.51.100.{client}:1"), format!("192.0.2.{host}:{port}"));
                    match other {
                        1 => (tcp(&from, &to, SYN).bytes(), (from, to, Protocol::Tcp)),
                        _ => (udp(&from, &to).bytes(), (from, to, Protocol::Udp)),
                    }
                }
            };
            let [source, destination] = [&tuple.0, &tuple.1].map(|text| crate::director::socket(text));
            let key = Tuple {
                source: source.ip().into(),
                destination: destination.ip().into(),
                source_port: source.port(),
                destination_port: destination.port(),
                protocol: tuple.2,
            };
            let wanted = (1..4).contains(&marking.mark(&key, 1));
            let verdict = stage.verdict(frame);
            assert_eq!(
                verdict,
                if wanted { REDIRECT } else { PASS },
                "round {round}: {tuple:?} by {marking:#?}"
            );
            packets += 1;
            redirected += u32::from(wanted);
        }
    }
    assert!(packets / 10 < redirected && redirected < packets * 9 / 10, "{redirected} of {packets}");
}
