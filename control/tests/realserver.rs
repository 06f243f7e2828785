//! `sluice realserver` on a real kernel, in namespaces.

mod netns;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command as Process;
use std::time::Duration;

use netns::Netns;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, sendto, socket,
};
use sluice_control::realserver::{Command, Method, Target, run};

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 254);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 1);
const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const OTHER_VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0x254);
const SERVER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1);
const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 0x10);
const PORT: u16 = 7777;

/// A director's end of a wire (10.0.2.254) and a server (10.0.2.1 on eth0).
struct Lab {
    director: Netns,
    server: Netns,
}

impl Lab {
    fn new() -> Self {
        let director = Netns::new();
        let server = Netns::new();
        director.ip(&format!("link add lan0 type veth peer name eth0 netns {}", server.id()));
        director.ip("addr add 10.0.2.254/24 dev lan0");
        director.ip("addr add 2001:db8:2::254/64 dev lan0 nodad");
        director.ip("link set lan0 up");
        server.ip("addr add 10.0.2.1/24 dev eth0");
        server.ip("addr add 2001:db8:2::1/64 dev eth0 nodad");
        server.ip("link set eth0 up");
        director.wait_up("lan0");
        server.wait_up("eth0");
        Lab { director, server }
    }

    /// Runs a subcommand on the server: exit status 0 or not, and its output.
    fn run(
        &self,
        command: fn(Target) -> Command,
        vip: impl Into<IpAddr>,
        method: Method,
    ) -> Result<(bool, String), String> {
        let vip = vip.into();
        self.server.run(move || {
            let target = Target { vip, method, dev: "eth0".to_owned() };
            let mut out = Vec::new();
            let ok = run(&command(target), &mut out).map_err(|error| error.to_string())?;
            Ok((ok, String::from_utf8(out).unwrap()))
        })
    }

    fn sysctls(&self) -> Vec<String> {
        self.server.run(|| {
            ["all", "lo", "eth0"]
                .iter()
                .flat_map(|dev| {
                    ["arp_ignore", "arp_announce", "rp_filter"].map(|key| {
                        fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{dev}/{key}")).unwrap()
                    })
                })
                .map(|text| text.trim().to_owned())
                .collect()
        })
    }

    /// What `ip` prints on the server.
    fn shown(&self, arguments: &str) -> String {
        let words: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
        self.server
            .run(move || String::from_utf8(Process::new("ip").args(words).output().unwrap().stdout).unwrap())
    }

    fn vip_on_lo(&self) -> bool {
        self.shown("-4 addr show dev lo").contains("192.0.2.10/32")
    }

    /// Sends a wrapped UDP packet with a text to a VIP by way of `outer`.
    fn send_wrapped(&self, outer: Ipv4Addr, vip: Ipv4Addr, text: &'static str) {
        self.send_marked(outer, vip, [0, 0], text);
    }

    /// The same, with the type of service of outer and inner header.
    fn send_marked(&self, outer: Ipv4Addr, vip: Ipv4Addr, tos: [u8; 2], text: &'static str) {
        self.director.run(move || {
            let inner = ipv4(17, tos[1], CLIENT, vip, &udp(text));
            let packet = ipv4(4, tos[0], CLIENT, outer, &inner);
            let raw =
                socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Raw).unwrap();
            let to = SockaddrIn::from(SocketAddrV4::new(outer, 0));
            sendto(raw.as_raw_fd(), &packet, &to, MsgFlags::empty()).unwrap();
        });
    }

    /// Sends a UDP packet with a text to a VIP within a header to an address of
    /// the server, both of either family, with the type of service of both.
    fn send_between(&self, outer: IpAddr, vip: IpAddr, tos: [u8; 2], text: &'static str) {
        self.director.run(move || {
            let (number, inner) = match vip {
                IpAddr::V4(v4) => (4, ipv4(17, tos[1], CLIENT, v4, &udp(text))),
                IpAddr::V6(v6) => (41, ipv6(17, tos[1], CLIENT6, v6, &udp_v6(CLIENT6, v6, text))),
            };
            let raw = |family| socket(family, SockType::Raw, SockFlag::empty(), SockProtocol::Raw).unwrap();
            let no_flags = MsgFlags::empty();
            match outer {
                IpAddr::V4(v4) => {
                    let to = SockaddrIn::from(SocketAddrV4::new(v4, 0));
                    let packet = ipv4(number, tos[0], CLIENT, v4, &inner);
                    sendto(raw(AddressFamily::Inet).as_raw_fd(), &packet, &to, no_flags).unwrap()
                }
                IpAddr::V6(v6) => {
                    let to = SockaddrIn6::from(SocketAddrV6::new(v6, 0, 0, 0));
                    let packet = ipv6(number, tos[0], CLIENT6, v6, &inner);
                    sendto(raw(AddressFamily::Inet6).as_raw_fd(), &packet, &to, no_flags).unwrap()
                }
            }
        });
    }

    /// A socket of the server.
    fn bind(&self, address: impl Into<IpAddr>) -> UdpSocket {
        let address = address.into();
        let socket = self.server.run(move || UdpSocket::bind((address, PORT)).unwrap());
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket
    }
}

/// An IPv4 packet (RFC 791).
fn ipv4(protocol: u8, tos: u8, source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let length = (20 + payload.len()) as u16;
    let mut packet = vec![0x45, tos, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0];
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet.extend(source.octets());
    packet.extend(destination.octets());
    let sum: u32 = packet.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    packet[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    packet.extend(payload);
    packet
}

/// An IPv6 packet (RFC 8200).
fn ipv6(next: u8, class: u8, source: Ipv6Addr, destination: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    let mut packet = (6 << 28 | u32::from(class) << 20).to_be_bytes().to_vec();
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, 64]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}

/// A UDP datagram over IPv6, which has to have a checksum.
fn udp_v6(source: Ipv6Addr, destination: Ipv6Addr, text: &str) -> Vec<u8> {
    let mut datagram = udp(text);
    let mut summed = [source.octets(), destination.octets()].concat();
    summed.extend([0, 0, 0, datagram.len() as u8, 0, 0, 0, 17]);
    summed.extend(&datagram);
    if !summed.len().is_multiple_of(2) {
        summed.push(0);
    }
    let mut sum: u32 = summed.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    datagram[6..8].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    datagram
}

/// A UDP datagram (RFC 768) without checksum.
fn udp(text: &str) -> Vec<u8> {
    let length = (8 + text.len()) as u16;
    let mut datagram = Vec::new();
    for field in [5555, PORT, length, 0] {
        datagram.extend(field.to_be_bytes());
    }
    datagram.extend(text.as_bytes());
    datagram
}

fn next(socket: &UdpSocket) -> (String, IpAddr) {
    let mut buffer = [0; 100];
    let (length, from) = socket.recv_from(&mut buffer).expect("a packet");
    (String::from_utf8(buffer[..length].to_vec()).unwrap(), from.ip())
}

#[test]
fn dr_is_set_up_once_and_undone() {
    if !netns::possible("dr_is_set_up_once_and_undone") {
        return;
    }
    let lab = Lab::new();
    lab.server.run(|| fs::write("/proc/sys/net/ipv4/conf/eth0/arp_ignore", "2").unwrap());
    let before = lab.sysctls();
    assert!(!lab.run(Command::Status, VIP, Method::Dr).unwrap().0);
    for _ in 0..2 {
        assert_eq!(lab.run(Command::Up, VIP, Method::Dr), Ok((true, "192.0.2.10 dr eth0: up\n".into())));
    }
    assert!(lab.vip_on_lo());
    let rp = [&before[2], &before[5], &before[8]];
    assert_eq!(lab.sysctls(), ["1", "2", rp[0], "1", "2", rp[1], "2", "2", rp[2]], "stricter ones are kept");
    assert_eq!(lab.run(Command::Status, VIP, Method::Dr), Ok((true, "192.0.2.10 dr eth0: up\n".into())));

    // The server does not answer ARP for the VIP.
    lab.director.ip("route add 192.0.2.0/24 dev lan0");
    lab.director.run(|| {
        fs::write("/proc/sys/net/ipv4/neigh/lan0/retrans_time_ms", "20").unwrap();
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        _ = socket.send_to(b"x", (VIP, PORT));
    });
    let director_sees = || {
        lab.director.run(|| {
            String::from_utf8(
                Process::new("ip").args(["neigh", "show", "192.0.2.10"]).output().unwrap().stdout,
            )
            .unwrap()
        })
    };
    netns::eventually("nobody answers for the VIP", || director_sees().contains("FAILED"));

    lab.server.ip("addr del 192.0.2.10/32 dev lo");
    assert_eq!(
        lab.run(Command::Status, VIP, Method::Dr),
        Ok((false, "192.0.2.10 dr eth0: up in part\n    192.0.2.10 is not on lo\n".into()))
    );
    lab.run(Command::Up, VIP, Method::Dr).unwrap();
    assert!(lab.vip_on_lo());
    assert_eq!(lab.run(Command::Down, VIP, Method::Dr), Ok((true, "192.0.2.10 dr eth0: down\n".into())));
    assert_eq!(
        lab.run(Command::Down, VIP, Method::Dr),
        Ok((true, "192.0.2.10 dr eth0: was not up\n".into()))
    );
    assert!(!lab.vip_on_lo());
    assert_eq!(lab.sysctls(), before);
}

#[test]
fn tunnelled_packets_reach_the_vip() {
    if !netns::possible("tunnelled_packets_reach_the_vip") {
        return;
    }
    let lab = Lab::new();
    lab.server.run(|| fs::write("/proc/sys/net/ipv4/conf/eth0/rp_filter", "1").unwrap());
    let before = lab.sysctls();
    for _ in 0..2 {
        assert_eq!(lab.run(Command::Up, VIP, Method::Tun), Ok((true, "192.0.2.10 tun eth0: up\n".into())));
    }
    assert_eq!(lab.run(Command::Status, VIP, Method::Tun), Ok((true, "192.0.2.10 tun eth0: up\n".into())));
    assert_eq!(lab.sysctls()[8], "2", "the reverse-path filter is loose");
    let vip = lab.bind(VIP);
    let own = lab.bind(SERVER);
    lab.send_wrapped(SERVER, VIP, "wrapped");
    assert_eq!(next(&vip), ("wrapped".into(), CLIENT.into()));

    // Other traffic passes.
    lab.director.run(|| UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"plain", (SERVER, PORT)).unwrap());
    assert_eq!(next(&own), ("plain".into(), CLIENT.into()));

    // Neither what is for other addresses inside, nor what was sent to an
    // address that the machine had not when it was set up.
    lab.server.ip("addr add 10.0.2.3/24 dev eth0");
    lab.send_wrapped(SERVER, SERVER, "not a VIP");
    lab.send_wrapped(Ipv4Addr::new(10, 0, 2, 3), VIP, "new address");
    lab.send_wrapped(SERVER, VIP, "last");
    assert_eq!(next(&vip).0, "last");
    lab.director.run(|| UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"last", (SERVER, PORT)).unwrap());
    assert_eq!(next(&own).0, "last");
    let (ok, text) = lab.run(Command::Status, VIP, Method::Tun).unwrap();
    assert!(!ok && text.contains("10.0.2.3 is new to the decapsulator"), "{text}");
    lab.run(Command::Up, VIP, Method::Tun).unwrap();
    lab.send_wrapped(Ipv4Addr::new(10, 0, 2, 3), VIP, "known address");
    assert_eq!(next(&vip).0, "known address");

    // Congestion that the tunnel has seen reaches those who understand it. The
    // kernel drops what we give a wrong checksum.
    for ect in [1, 2, 3] {
        lab.send_marked(SERVER, VIP, [0x03, 0xb8 | ect], "marked");
        assert_eq!(next(&vip).0, "marked");
    }
    lab.send_marked(SERVER, VIP, [0x03, 0xb8], "deaf");
    lab.send_wrapped(SERVER, VIP, "after it");
    assert_eq!(next(&vip).0, "after it");

    // A second VIP shares the program, which goes with the last one.
    lab.run(Command::Up, OTHER_VIP, Method::Tun).unwrap();
    let other = lab.bind(OTHER_VIP);
    lab.send_wrapped(SERVER, OTHER_VIP, "second");
    assert_eq!(next(&other).0, "second");
    lab.run(Command::Down, VIP, Method::Tun).unwrap();
    assert!(!lab.vip_on_lo());
    lab.send_wrapped(SERVER, OTHER_VIP, "still");
    assert_eq!(next(&other).0, "still");
    assert_eq!(lab.sysctls()[8], "2");
    assert!(lab.shown("link show dev eth0").contains("xdp"));
    lab.run(Command::Down, OTHER_VIP, Method::Tun).unwrap();
    assert!(!lab.shown("link show dev eth0").contains("xdp"));
    assert_eq!(lab.sysctls(), before);
}

/// A server does not answer for an address on lo that it is asked for by
/// another interface, whatever its settings.
#[test]
fn an_ipv6_vip_is_not_announced() {
    if !netns::possible("an_ipv6_vip_is_not_announced") {
        return;
    }
    let lab = Lab::new();
    let before = lab.sysctls();
    for _ in 0..2 {
        let said = "2001:db8:f::10 dr eth0: up\n".to_owned();
        assert_eq!(lab.run(Command::Up, VIP6, Method::Dr), Ok((true, said.clone())));
        assert_eq!(lab.run(Command::Status, VIP6, Method::Dr), Ok((true, said)));
    }
    assert!(lab.shown("-6 addr show dev lo").contains("2001:db8:f::10/128"));
    assert_eq!(lab.sysctls(), before, "ARP is no concern of IPv6");
    let vip = lab.bind(VIP6);

    lab.director.ip("route add 2001:db8:f::/64 dev lan0");
    lab.director.run(|| {
        fs::write("/proc/sys/net/ipv6/neigh/lan0/retrans_time_ms", "20").unwrap();
        let socket = UdpSocket::bind("[::]:0").unwrap();
        _ = socket.send_to(b"x", (VIP6, PORT));
    });
    let neighbour = || {
        lab.director.run(|| {
            let output = Process::new("ip").args(["-6", "neigh", "show", "2001:db8:f::10"]).output();
            String::from_utf8(output.unwrap().stdout).unwrap()
        })
    };
    netns::eventually("nobody answers for the VIP", || neighbour().contains("FAILED"));

    // What comes with the server's MAC is taken.
    let mac = lab.shown("-br link show dev eth0").split_whitespace().nth(2).unwrap().to_owned();
    lab.director.ip(&format!("neigh replace 2001:db8:f::10 lladdr {mac} dev lan0"));
    lab.director.run(|| UdpSocket::bind("[::]:0").unwrap().send_to(b"routed", (VIP6, PORT)).unwrap());
    assert_eq!(next(&vip), ("routed".into(), CLIENT6.into()));

    let down = |said: &str| Ok((true, format!("2001:db8:f::10 dr eth0: {said}\n")));
    assert_eq!(lab.run(Command::Down, VIP6, Method::Dr), down("down"));
    assert_eq!(lab.run(Command::Down, VIP6, Method::Dr), down("was not up"));
    assert!(!lab.shown("-6 addr show dev lo").contains("2001:db8:f::10"));
}

#[test]
fn either_family_comes_out_of_either() {
    if !netns::possible("either_family_comes_out_of_either") {
        return;
    }
    let lab = Lab::new();
    for vip in [IpAddr::from(VIP), VIP6.into()] {
        assert_eq!(lab.run(Command::Up, vip, Method::Tun), Ok((true, format!("{vip} tun eth0: up\n"))));
        let socket = lab.bind(vip);
        let client: IpAddr = if vip.is_ipv4() { CLIENT.into() } else { CLIENT6.into() };
        for outer in [IpAddr::from(SERVER), SERVER6.into()] {
            lab.send_between(outer, vip, [0, 0], "wrapped");
            assert_eq!(next(&socket), ("wrapped".into(), client), "{vip} in {outer}");
            // Congestion reaches those who understand it, and costs the others
            // their packet (RFC 6040).
            for inner in [0xb9, 0xb8, 0xba] {
                lab.send_between(outer, vip, [0x03, inner], if inner & 3 == 0 { "deaf" } else { "marked" });
            }
            assert_eq!(next(&socket).0, "marked", "{vip} in {outer}");
            assert_eq!(next(&socket).0, "marked", "{vip} in {outer}");
        }
        // What is for another address inside stays wrapped.
        let own: IpAddr = if vip.is_ipv4() { SERVER.into() } else { SERVER6.into() };
        let other = lab.bind(own);
        lab.send_between(SERVER6.into(), own, [0, 0], "not a VIP");
        lab.director.run(move || {
            let any = if own.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            UdpSocket::bind(any).unwrap().send_to(b"plain", (own, PORT)).unwrap()
        });
        assert_eq!(next(&other).0, "plain");
    }
    lab.run(Command::Down, VIP6, Method::Tun).unwrap();
    assert!(lab.shown("link show dev eth0").contains("xdp"));
    lab.run(Command::Down, VIP, Method::Tun).unwrap();
    assert!(!lab.shown("link show dev eth0").contains("xdp"));
}

#[test]
fn generic_mode_takes_over_where_native_cannot() {
    if !netns::possible("generic_mode_takes_over_where_native_cannot") {
        return;
    }
    let lab = Lab::new();
    // Too large for one page, which is what native veth needs.
    lab.director.ip("link set lan0 mtu 9000");
    lab.server.ip("link set eth0 mtu 9000");
    let (_, text) = lab.run(Command::Up, VIP, Method::Tun).unwrap();
    assert!(text.starts_with("warning: the driver of eth0 does not run the decapsulator"), "{text}");
    assert!(lab.run(Command::Status, VIP, Method::Tun).unwrap().0);
    let vip = lab.bind(VIP);
    lab.send_wrapped(SERVER, VIP, "generic");
    assert_eq!(next(&vip), ("generic".into(), CLIENT.into()));
    lab.run(Command::Down, VIP, Method::Tun).unwrap();
    assert!(!lab.shown("link show dev eth0").contains("xdp"));
}

#[test]
fn refusals_change_nothing() {
    if !netns::possible("refusals_change_nothing") {
        return;
    }
    let lab = Lab::new();
    let before = lab.sysctls();
    let refused = |vip: IpAddr, method, dev: &str| {
        let target = Target { vip, method, dev: dev.to_owned() };
        lab.server.run(move || run(&Command::Up(target), &mut Vec::new()).unwrap_err().to_string())
    };
    assert!(refused("::ffff:192.0.2.10".parse().unwrap(), Method::Dr, "eth0").contains("cannot be a VIP"));
    assert!(refused("fe80::1".parse().unwrap(), Method::Dr, "eth0").contains("cannot be a VIP"));
    lab.server.run(|| fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "1").unwrap());
    assert_eq!(
        refused(VIP6.into(), Method::Dr, "eth0"),
        "IPv6 is off on eth0; switch it on: sysctl -w net.ipv6.conf.eth0.disable_ipv6=0"
    );
    lab.server.run(|| fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "0").unwrap());
    assert_eq!(
        refused(VIP.into(), Method::Dr, "eth7"),
        "there is no interface \"eth7\"; `ip link` lists those that exist"
    );
    assert!(refused(VIP.into(), Method::Dr, "lo").contains("do not come in by lo"));
    assert!(refused("127.0.0.1".parse().unwrap(), Method::Dr, "eth0").contains("cannot be a VIP"));
    assert_eq!(
        refused(SERVER.into(), Method::Tun, "eth0"),
        "10.0.2.1 is an address of eth0, so this machine answers ARP for it; remove it there first: \
         ip address del 10.0.2.1 dev eth0"
    );
    // Somebody else's XDP program.
    lab.server.run(foreign::attach);
    let error = refused(VIP.into(), Method::Tun, "eth0");
    assert!(error.starts_with("eth0 has the XDP program \"somebody_elses\" (id "), "{error}");
    assert!(lab.shown("link show dev eth0").contains("xdp"), "it is left alone");
    let (ok, text) = lab.run(Command::Status, VIP, Method::Tun).unwrap();
    assert!(!ok && text.contains("somebody_elses"), "{text}");
    lab.run(Command::Down, VIP, Method::Tun).unwrap();
    assert!(lab.shown("link show dev eth0").contains("xdp"), "it is left alone");
    assert!(!lab.vip_on_lo());
    assert_eq!(lab.sysctls(), before);
}

/// An XDP program that passes everything, compiled on the spot.
mod foreign {
    use std::io::Write;
    use std::process::{Command, Stdio};

    const SOURCE: &str = "__attribute__((section(\"xdp\"), used)) int somebody_elses(void *c) { return 2; }\n\
                          char l[] __attribute__((section(\"license\"), used)) = \"GPL\";\n";

    /// Attaches it to eth0, for as long as eth0 lives.
    pub fn attach() {
        let directory = tempfile::tempdir().unwrap();
        let object = directory.path().join("foreign.o");
        let mut clang = Command::new("clang")
            .args(["-O2", "-g", "-target", "bpf", "-x", "c", "-c", "-", "-o"])
            .arg(&object)
            .stdin(Stdio::piped())
            .spawn()
            .expect("clang");
        clang.stdin.take().unwrap().write_all(SOURCE.as_bytes()).unwrap();
        assert!(clang.wait().unwrap().success());
        let mut object = aya::Ebpf::load_file(&object).unwrap();
        let program: &mut aya::programs::Xdp =
            object.program_mut("somebody_elses").unwrap().try_into().unwrap();
        program.load().unwrap();
        program.attach("eth0", aya::programs::xdp::XdpMode::default()).unwrap();
        // Kept attached until the namespace goes.
        std::mem::forget(object);
    }
}
