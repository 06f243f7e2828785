//! The traffic source and sink.

use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use sluice_bench::lab::{self, Wire, mac_of, wire};
use sluice_bench::traffic::{Flows, Kind, Sink, Source, SourceOptions};

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 1);

/// From the source straight to the director, where a sink sits in these tests.
fn options(wire: &Wire, kind: Kind) -> SourceOptions {
    SourceOptions {
        netns: wire.source.clone(),
        interface: "eth0".into(),
        source_mac: mac_of(wire::SOURCE),
        destination_mac: mac_of(wire::NEAR),
        client: CLIENT,
        destination: SocketAddrV4::new(wire::VIP, 80),
        kind,
        flows: Flows::count(1000),
        frame_len: 60,
        cpu: 0,
        rate: None,
        packets: None,
    }
}

macro_rules! needs_root {
    () => {
        if !lab::may_run(module_path!()) {
            return Ok(());
        }
    };
}

#[test]
fn a_source_is_fast_and_stops_at_once() -> anyhow::Result<()> {
    needs_root!();
    let wire = Wire::new(1)?;
    let sink = Sink::attach(&wire.director, "eth0", true)?;
    let source = Source::start(options(&wire, Kind::Udp))?;
    let (started, before) = (Instant::now(), sink.total()?);
    std::thread::sleep(Duration::from_millis(500));
    let (elapsed, counted) = (started.elapsed(), sink.total()?.since(before));
    let asked = Instant::now();
    let sent = source.stop()?;
    let stopped = asked.elapsed();
    eprintln!(
        "{:.2} Mpps seen, {sent} made, stopped in {stopped:?}",
        counted.packets as f64 / elapsed.as_secs_f64() / 1e6
    );
    // Far below what it does, for machines that are busy otherwise.
    assert!(counted.packets > 100_000, "{counted:?}");
    assert_eq!(counted.bytes, counted.packets * 60);
    assert!(stopped < Duration::from_millis(200), "{stopped:?}");
    let destinations = sink.by_destination()?;
    assert_eq!(destinations.keys().collect::<Vec<_>>(), [&wire::VIP]);
    Ok(())
}

#[test]
fn a_paced_source_sends_what_was_asked_for() -> anyhow::Result<()> {
    needs_root!();
    let wire = Wire::new(1)?;
    let sink = Sink::attach(&wire.director, "eth0", false)?;
    let paced =
        SourceOptions { rate: NonZeroU32::new(20_000), packets: Some(5_000), ..options(&wire, Kind::TcpSyn) };
    let started = Instant::now();
    assert_eq!(Source::start(paced)?.finish()?, 5_000);
    assert!(started.elapsed() > Duration::from_millis(200), "{:?}", started.elapsed());
    assert_eq!(sink.total()?.packets, 5_000);
    Ok(())
}

#[test]
fn packets_are_whole_and_checksums_right() -> anyhow::Result<()> {
    needs_root!();
    // The kernel of the director is the judge: its own sockets accept nothing with a wrong checksum.
    let wire = Wire::new(1)?;
    wire.director.ip(&["route replace 10.64.0.0/24 via 10.0.1.253"])?;
    // A veth only takes redirected frames when its other end runs XDP; the sink passes on what is not IPv4 to count, so
    // use a source on a veth with GRO, which counts as well.
    lab::run(wire.director.command("ethtool").args(["-K", "eth0", "gro", "on"]))?;
    let udp = wire.director.enter(|| std::net::UdpSocket::bind((wire::VIP, 80)))??;
    udp.set_read_timeout(Some(Duration::from_secs(5)))?;
    for frame_len in [60, 61, 1514] {
        let few = SourceOptions {
            packets: Some(3),
            flows: Flows::count(3),
            frame_len,
            ..options(&wire, Kind::Udp)
        };
        assert_eq!(Source::start(few)?.finish()?, 3);
        for port in 10_000..10_003 {
            let mut datagram = [0; 2000];
            let (len, from) = udp.recv_from(&mut datagram)?;
            assert_eq!((len, from), (frame_len - 42, SocketAddrV4::new(CLIENT, port).into()));
        }
    }
    // TCP: the handshake's answer goes to nobody, but the kernel holds the half-open connection.
    let listener = wire.director.enter(|| std::net::TcpListener::bind((wire::VIP, 80)))??;
    wire.director.sysctl("net.ipv4.tcp_syncookies", "0")?;
    let syn = SourceOptions { packets: Some(1), flows: Flows::count(1), ..options(&wire, Kind::TcpSyn) };
    assert_eq!(Source::start(syn)?.finish()?, 1);
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let table = wire.director.enter(|| {
            let mut text = String::new();
            std::fs::File::open("/proc/thread-self/net/tcp")?.read_to_string(&mut text)?;
            Ok::<_, std::io::Error>(text)
        })??;
        // State 03 is SYN_RECV.
        if table.lines().any(|line| line.split_whitespace().nth(3) == Some("03")) {
            break;
        }
        assert!(Instant::now() < deadline, "the SYN was not accepted:\n{table}");
    }
    listener.set_nonblocking(true)?;
    assert_eq!(listener.accept().map(drop).unwrap_err().kind(), ErrorKind::WouldBlock);
    Ok(())
}
