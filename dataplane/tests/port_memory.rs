//! What local ports cost in memory, by what the allocator gave.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use sluice_dataplane::local::LocalPorts;
use sluice_dataplane::service::Protocol;
use sluice_dataplane::wire::Address;

struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator as it comes.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size(), Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const KIB: usize = 1024;

fn server(n: usize) -> (Address, u16) {
    let [.., high, low] = n.to_be_bytes();
    (Address::from_v4([10, 0, high, low]), 80)
}

// One test, as others would be counted with it.
#[test]
fn idle_pools_of_a_lip_take_less_than_64_kib() {
    let mut ports = LocalPorts::new(1, 4);
    let empty = IN_USE.load(Relaxed);
    let lips = [201, 202, 203].map(|last| Address::from_v4([192, 0, 2, last]));

    // All ports of one pair: 8 KiB of bits and what a pool is.
    let mut taken: Vec<u16> = Vec::with_capacity(20_000);
    while let Ok((_, port)) = ports.allocate(&lips[..1], server(0), Protocol::Tcp) {
        taken.push(port);
    }
    let full = IN_USE.load(Relaxed) - empty - taken.capacity() * size_of::<u16>();
    assert!(taken.len() == 16_128 && full < 10 * KIB, "{full} bytes for {} ports", taken.len());
    for port in taken.drain(..) {
        assert!(ports.free(lips[0], port, server(0), Protocol::Tcp));
    }
    drop(taken);

    let mut held = Vec::with_capacity(6000);
    for n in 0..6000 {
        let (lip, port) = ports.allocate(&lips, server(n / 3), Protocol::Tcp).expect("a port");
        held.push((lip, port, server(n / 3)));
    }
    assert_eq!(ports.pools(), 6000);
    for (lip, port, server) in held.drain(..) {
        assert!(ports.free(lip, port, server, Protocol::Tcp));
    }
    drop(held);
    let idle = IN_USE.load(Relaxed) - empty;
    assert!(ports.pools() > 3, "none is kept");
    assert!(idle < lips.len() * 64 * KIB, "{idle} bytes for {} idle pools", ports.pools());
    // And with one LIP, whose spare memory is not shared with others.
    ports.release_idle(0);
    for n in 0..2000 {
        let (lip, port) = ports.allocate(&lips[..1], server(n), Protocol::Tcp).expect("a port");
        assert!(ports.free(lip, port, server(n), Protocol::Tcp));
    }
    let idle = IN_USE.load(Relaxed) - empty;
    assert!(idle < 64 * KIB, "{idle} bytes for {} idle pools", ports.pools());
}
