//! What local ports cost in memory, by what the kernel gave.

use std::fs;

use sluice_dataplane::local::LocalPorts;
use sluice_dataplane::service::Protocol;
use sluice_dataplane::wire::Address;

const KIB: usize = 1024;

/// Memory of this process that is there, and of no file.
fn resident() -> usize {
    let maps = fs::read_to_string("/proc/self/smaps_rollup").expect("what the kernel gave");
    let line = maps.lines().find_map(|line| line.strip_prefix("Anonymous:")).expect("a line of it");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * KIB
}

fn server(n: usize) -> (Address, u16) {
    let [.., high, low] = n.to_be_bytes();
    (Address::from_v4([10, 0, high, low]), 80)
}

/// A worker with nothing to do.
fn rest(ports: &mut LocalPorts) {
    (0..1000).for_each(|_| ports.tidy());
}

// One test, as others would be counted with it.
#[test]
fn idle_pools_of_a_lip_take_less_than_64_kib() {
    let mut held = vec![(Address::default(), 0, server(0)); 6000];
    let mut taken = vec![0; 20_000];
    held.clear();
    taken.clear();
    let mut ports = LocalPorts::new(1, 4);
    resident();
    let empty = resident();
    let lips = [201, 202, 203].map(|last| Address::from_v4([192, 0, 2, last]));

    // All ports of one pair: 8 KiB of bits and what a pool is, in whole pages.
    while let Ok((_, port)) = ports.allocate(&lips[..1], server(0), Protocol::Tcp) {
        taken.push(port);
    }
    let full = resident() - empty;
    assert!(taken.len() == 16_128 && full < 32 * KIB, "{full} bytes for {} ports", taken.len());
    for port in taken.drain(..) {
        assert!(ports.free(lips[0], port, server(0), Protocol::Tcp));
    }

    for n in 0..6000 {
        let (lip, port) = ports.allocate(&lips, server(n / 3), Protocol::Tcp).expect("a port");
        held.push((lip, port, server(n / 3)));
    }
    assert_eq!(ports.pools(), 6000);
    let used = resident() - empty;
    assert!(used >= 6000 * KIB, "{used} bytes");
    for (lip, port, server) in held.drain(..) {
        assert!(ports.free(lip, port, server, Protocol::Tcp));
    }
    rest(&mut ports);
    let idle = resident() - empty;
    assert!(ports.pools() > 3, "none is kept");
    assert!(idle < lips.len() * 64 * KIB, "{idle} bytes for {} idle pools", ports.pools());
    // And with one LIP, whose memory is not shared with others.
    ports.release_idle(0);
    for n in 0..2000 {
        let (lip, port) = ports.allocate(&lips[..1], server(n), Protocol::Tcp).expect("a port");
        assert!(ports.free(lip, port, server(n), Protocol::Tcp));
    }
    rest(&mut ports);
    let idle = resident() - empty;
    assert!(idle < 64 * KIB, "{idle} bytes for {} idle pools", ports.pools());
}
