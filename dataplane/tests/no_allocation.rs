//! Workers allocate and free nothing for packets.

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{Icmpv4Type, IpFragOffset, Ipv4Header};
use sluice_dataplane::capture::CaptureFilter;
use sluice_dataplane::offload::{Board, Room, Share};
use sluice_dataplane::service::{ClientMask, Engine, Method, Persistence, Protocol};

#[allow(dead_code)]
mod director;

use director::packets::{ACK, Datagram, IcmpError, SYN, tcp, udp};
use director::{CLIENT_ROUTER, Director, FRAMES, INSIDE, OUTSIDE, Outcome, Routes, SECOND, server_mac};

struct Watching;

thread_local! {
    static WATCHED: Cell<bool> = const { Cell::new(false) };
}

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);
static FREED: AtomicUsize = AtomicUsize::new(0);

fn watch(on: bool) {
    WATCHED.set(on);
}

/// Counts, and tells of the first few where they come from.
fn seen(counter: &AtomicUsize, what: &str, size: usize) {
    if WATCHED.try_with(Cell::get) != Ok(true) {
        return;
    }
    if counter.fetch_add(1, Relaxed) < 3 {
        watch(false);
        eprintln!("{what} {size} bytes:\n{}", Backtrace::force_capture());
        watch(true);
    }
}

// SAFETY: everything is passed on to the system's allocator as it comes.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        seen(&ALLOCATED, "allocated", layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        seen(&FREED, "freed", layout.size());
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

const METHODS: [Method; 4] = [Method::Nat, Method::FullNat, Method::DirectRoute, Method::Tunnel];
const PERSISTENT: &str = "192.0.2.10:443";
const CALLS: &str = "192.0.2.10:5060";
/// FULLNAT of all ports: each has a pool of local ports of its own.
const ALL_PORTS: &str = "192.0.2.11:0";

fn vip(method: Method) -> String {
    format!("192.0.2.10:{}", 8000 + method as u16)
}

fn serving(workers: usize) -> Director {
    let mut director = Director::with(workers, 5000);
    let mut services = Vec::new();
    for method in METHODS {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            services.push((director.add_service(protocol, &vip(method)), method));
        }
    }
    services.push((director.add_service(Protocol::Tcp, ALL_PORTS), Method::FullNat));
    for (protocol, at) in [(Protocol::Tcp, PERSISTENT), (Protocol::Udp, CALLS)] {
        let id = director.add_service(protocol, at);
        let options = &mut director.service(id).options;
        options.persistence = Some(Persistence { timeout: 60, mask: ClientMask::v4([255; 4]) });
        options.engine = (protocol == Protocol::Udp).then_some(Engine::Sip);
        services.push((id, Method::Nat));
    }
    for (id, method) in services {
        for last in 1..=3 {
            let port = director.service(id).key.port();
            director.add_server(id, &format!("10.0.2.{last}:{port}"), method, 1);
        }
    }
    director.publish();
    director.around = watch;
    director
}

/// The two parts of a packet that is sent in fragments.
fn pieces(packet: &Datagram) -> [Vec<u8>; 2] {
    let whole = packet.bytes();
    let (header, rest) = Ipv4Header::from_slice(&whole[14..]).expect("an IPv4 packet");
    let (first, last) = rest.split_at(512);
    [(first, 0), (last, 64)].map(|(part, offset)| {
        let mut ip = header.clone();
        ip.more_fragments = offset == 0;
        ip.fragment_offset = IpFragOffset::try_new(offset).expect("thirteen bits");
        ip.set_payload_len(part.len()).expect("it fits");
        ip.header_checksum = ip.calc_header_checksum();
        [&whole[..14], &ip.to_bytes(), part].concat()
    })
}

/// What a server says to a packet that was sent to it with the reply's addresses
/// and ports, in IPv4 without options.
fn answer(request: &[u8]) -> Datagram {
    let ip = &request[14..];
    let end = |address: usize, port: usize| {
        let [a, b, c, d] = ip[address..address + 4].try_into().expect("four bytes");
        format!("{a}.{b}.{c}.{d}:{}", u16::from_be_bytes([ip[port], ip[port + 1]]))
    };
    let (from, to) = (end(16, 22), end(12, 20));
    let answer = if ip[9] == 6 { tcp(&from, &to, SYN | ACK) } else { udp(&from, &to) };
    answer.link(server_mac(ip[19]), INSIDE)
}

/// Something of everything, of clients that were not there before.
fn round(director: &mut Director, round: u16) {
    let workers = director.workers.len();
    let client = |n: u16| format!("198.51.{}.{}:{}", 100 + round % 50, 1 + n, 2000 + round);
    let routes = |director: &mut Director, known: bool| {
        let routes = Routes::new(u64::from(round) * 2 + 2 + u64::from(known));
        director.publish_hops(if known { routes.all_known() } else { routes });
    };
    let clean = |outcome: &Outcome| assert!(outcome.dropped.is_empty(), "{outcome:?}");
    for (n, method) in (0..).zip(METHODS) {
        let (from, at) = (client(n), vip(method));
        for (n, first) in [tcp(&from, &at, SYN), udp(&from, &at)].into_iter().enumerate() {
            let outcome = director.arrive(0, &first.bytes());
            clean(&outcome);
            let (_, request) = outcome.sent.first().expect("it is sent on").clone();
            if matches!(method, Method::Nat | Method::FullNat) {
                let reply = answer(&request);
                // By way of every queue.
                for worker in 0..workers {
                    let outcome = director.arrive_at(worker, 1, &[&reply.bytes()]);
                    assert_eq!(outcome.sent.len(), 1, "{outcome:?}");
                }
                let about = answer(&outcome.sent[0].1).ip_packet();
                let error = IcmpError {
                    from_mac: server_mac(1),
                    to_mac: INSIDE,
                    source: [10, 0, 2, 253],
                    destination: [10, 0, 2, 254],
                    kind: Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Host),
                    quoted: &about[..],
                    id: 7,
                };
                director.arrive(1, &error.bytes());
            }
            let next = if n == 0 { tcp(&from, &at, ACK) } else { udp(&from, &at) };
            for worker in 0..workers {
                let outcome = director.arrive_at(worker, 0, &[&next.bytes()]);
                assert_eq!(outcome.sent.len(), 1, "{outcome:?}");
            }
            director.arrive(0, &next.ttl(1).bytes());
        }
        let large = udp(&client(20 + n), &at).may_be_fragmented().payload(vec![7; 1000]);
        let [first, last] = pieces(&large);
        let outcome = director.arrive_at(0, 0, &[&last, &first]);
        assert_eq!(outcome.sent.len(), 2, "{outcome:?}");
        director.arrive(0, &pieces(&large.between(&client(30 + n), &at))[1]);
    }
    for n in 0..20 {
        let at = format!("192.0.2.11:{}", 10_000 + round * 20 + n);
        clean(&director.arrive_at(usize::from(n) % workers, 0, &[&tcp(&client(50), &at, SYN).bytes()]));
    }
    for n in 0..4 {
        clean(&director.arrive(0, &tcp(&client(60 + n % 2), PERSISTENT, SYN).bytes()));
        let call = format!("OPTIONS sip:x@192.0.2.10 SIP/2.0\r\nCall-ID: {round}.{n}@host\r\n\r\n");
        clean(&director.arrive(0, &udp(&client(70 + n), CALLS).payload(call).bytes()));
    }
    // Nobody's, and one whose next hop is not known for a while.
    director.arrive(0, &tcp(&client(80), "192.0.2.10:9", ACK).bytes());
    routes(director, false);
    let waits = tcp(&client(81), &vip(Method::DirectRoute), SYN).link(CLIENT_ROUTER, OUTSIDE);
    assert_eq!(director.arrive(0, &waits.bytes()).held, 1);
    routes(director, true);
    assert_eq!(director.settle().sent.len(), 1);
    director.events();
}

/// Lets all connections end, bit by bit.
fn end(director: &mut Director) {
    for _ in 0..50 {
        director.pass(20 * SECOND);
    }
    assert!(director.workers.iter().all(|worker| worker.connections() == 0), "all have expired");
}

/// Has connections carried from their second packet on.
fn carry(director: &mut Director) -> Arc<Board> {
    let board = Arc::new(Board::in_memory(Room { v4: 500, v6: 500 }, [7; 16]));
    (0..2).for_each(|interface| assert!(board.set_capable(interface, true)));
    for worker in &mut director.workers {
        worker.carry(Share { board: Arc::clone(&board), connections: 500, after: 1, clock: 0 });
    }
    board
}

#[test]
fn nothing_is_allocated_or_freed_for_packets() {
    let kinds = [(1, false, false), (2, false, false), (1, true, false), (2, true, false), (2, false, true)];
    for (workers, looks_on, carried) in kinds {
        let mut director = serving(workers);
        let carrying = carried.then(|| carry(&mut director));
        let round = |director: &mut Director, n| {
            if let Some(board) = &carrying {
                board.set_hops(&director.published().hops.load());
            }
            round(director, n);
            assert_eq!(director.sum(|counters| counters.offloaded.get()) > 0, carried);
        };
        let filter = Arc::new(CaptureFilter::default());
        let capture = |director: &Director| {
            let of = |worker| director.exchange(worker).capture(Arc::clone(&filter), 2048, 2);
            (0..workers).map(|worker| of(worker).expect("room for it")).collect::<Vec<_>>()
        };
        // The second is given up in the middle.
        let mut readers = if looks_on { vec![capture(&director), capture(&director)] } else { Vec::new() };
        // The rings of the ports, which are the test's, grow at first, and their
        // frames are made.
        director.around = |_| {};
        for (worker, interface) in (0..workers).flat_map(|worker| [(worker, 0), (worker, 1)]) {
            director.arrive_at(worker, interface, &[&[0u8; 60][..]; FRAMES]);
        }
        for n in 0..3 {
            round(&mut director, n);
            end(&mut director);
        }
        // More than there were before, at once.
        director.around = watch;
        (3..15).for_each(|n| round(&mut director, n));
        readers.truncate(1);
        for reader in readers.iter_mut().flatten() {
            while reader.read(|_, _| {}).is_some() {}
        }
        end(&mut director);
        round(&mut director, 15);
        end(&mut director);
        let counted = (ALLOCATED.load(Relaxed), FREED.load(Relaxed));
        let kind = format!("with {workers} workers, looked on: {looks_on}, carried: {carried}");
        assert_eq!(counted, (0, 0), "{kind}");
    }
}
