//! The bare forwarder that directors are measured against.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use sluice_bench::lab::{self, Wire, mac_of, wire};
use sluice_bench::limit::{Limit, LimitOptions};
use sluice_bench::traffic::{Flows, Kind, Sink, Source, SourceOptions};

#[test]
fn what_comes_in_goes_out() -> anyhow::Result<()> {
    if !lab::may_run(module_path!()) {
        return Ok(());
    }
    let wire = Wire::new(1)?;
    let sink = Sink::attach(&wire.sink, "eth0", true)?;
    let limit = Limit::start(LimitOptions {
        netns: wire.director.clone(),
        from: "eth0".into(),
        to: "eth1".into(),
        source: wire::FAR,
        next_hop: wire::SINK,
        cpu: 1,
    })?;
    let source = SourceOptions {
        netns: wire.source.clone(),
        interface: "eth0".into(),
        source_mac: mac_of(wire::SOURCE),
        destination_mac: mac_of(wire::NEAR),
        client: Ipv4Addr::new(10, 64, 0, 1),
        destination: SocketAddrV4::new(wire::VIP, 80),
        kind: Kind::Udp,
        flows: Flows::count(1000),
        frame_len: 60,
        cpu: 0,
        rate: NonZeroU32::new(10_000),
        packets: Some(2_000),
    };
    assert_eq!(Source::start(source.clone())?.finish()?, 2_000);
    let deadline = Instant::now() + Duration::from_secs(5);
    while sink.total()?.packets < 2_000 {
        assert!(Instant::now() < deadline, "{:?} of 2000 arrived", sink.total()?);
        std::thread::sleep(Duration::from_millis(5));
    }
    // More than its memory holds: frames are used again.
    let flood = Source::start(SourceOptions { rate: None, packets: None, ..source })?;
    let (started, before) = (Instant::now(), sink.total()?);
    std::thread::sleep(Duration::from_millis(500));
    let rate = sink.total()?.since(before).packets as f64 / started.elapsed().as_secs_f64();
    flood.stop()?;
    eprintln!("{:.2} Mpps, {} forwarded", rate / 1e6, limit.stop()?);
    assert!(rate > 50_000.0, "{rate}");
    assert_eq!(wire.director.xdp_program("eth0")?, None);
    assert_eq!(wire.director.xdp_program("eth1")?, None);
    Ok(())
}
