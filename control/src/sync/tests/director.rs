//! Directors on ports in memory.

use std::sync::atomic::AtomicBool;

use crossbeam::channel::{Receiver, Sender, unbounded};
use sluice_dataplane::conn::Tuple;
use sluice_dataplane::ftp::Role;
use sluice_dataplane::neigh::{Egress, NextHopsBuilder};
use sluice_dataplane::port::BURST;
use sluice_dataplane::port::memory::MemoryPort;
use sluice_dataplane::service::{Method, Protocol, ServiceKey};
use sluice_dataplane::stats::WorkerCounters;
use sluice_dataplane::sync::{Importer, Session, Source};
use sluice_dataplane::wire::{Address, ethernet, ipv4};
use sluice_dataplane::worker::{Settings as WorkerSettings, Slice, Worker};
use zerocopy::IntoBytes;

use super::*;
use crate::rules::{self, Rules, Server, ServiceName, ServiceSettings};

/// Connections that each worker has room for.
const ROOM: usize = 20_000;

/// As random as in a real director: hashes of patterns have patterns.
const SEED: [u8; 16] = *b"\x8c\x19\xe3\x5b\x70\xf2\x4d\xa6\x31\x97\x0e\xd8\x62\xbb\x05\xfa";

const VIP: [u8; 4] = [192, 0, 2, 10];
const RIP: [u8; 4] = [10, 0, 2, 1];
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PORT: u16 = 80;
const CLIENT_PORT: u16 = 4000;

/// A client's address and port.
pub(in crate::sync) type ConnectionEnd = (Address, u16);

/// That of a connection, and its state.
type Connection = (ConnectionEnd, &'static str);

/// The client of a connection.
pub(in crate::sync) fn client(number: u32) -> ConnectionEnd {
    let [_, a, b, c] = number.to_be_bytes();
    (Address::from_v4([10, a, b, c]), CLIENT_PORT)
}

pub(in crate::sync) fn session(number: u32, state: State) -> Session {
    let (vip, (source, source_port)) = (Address::from_v4(VIP), client(number));
    let protocol = Protocol::Tcp;
    Session {
        client: Tuple { source, destination: vip, source_port, destination_port: PORT, protocol },
        service: ServiceKey::Address { protocol, address: vip, port: PORT },
        server: (Address::from_v4(RIP), PORT),
        local: None,
        method: Method::DirectRoute,
        state,
        expires: 900,
        packets: 1,
        persistent: false,
        ftp: Role::None,
        control: None,
        carried: false,
    }
}

/// A packet of a connection's client.
fn frame(number: u32, flags: u8) -> Vec<u8> {
    let [_, a, b, c] = number.to_be_bytes();
    let link = ethernet::Header { destination: MAC, source: [2, 0, 0, 0, 9, 9], kind: ethernet::IPV4.into() };
    let mut ip = ipv4::Header {
        version_ihl: 0x45,
        tos: 0,
        total_length: ((ipv4::LEN + tcp::LEN) as u16).into(),
        id: 0.into(),
        flags_offset: ipv4::DONT_FRAGMENT.into(),
        ttl: 64,
        protocol: Protocol::Tcp.number(),
        checksum: 0.into(),
        source: [10, a, b, c],
        destination: VIP,
    };
    ip.fill_checksum();
    let header = tcp::Header {
        source: CLIENT_PORT.into(),
        destination: PORT.into(),
        sequence: 0.into(),
        acknowledgment: 0.into(),
        offset: 5 << 4,
        flags,
        window: 1000.into(),
        checksum: 0.into(),
        urgent: 0.into(),
    };
    [link.as_bytes(), ip.as_bytes(), header.as_bytes()].concat()
}

/// Workers on ports in memory, with one service by direct routing.
pub(in crate::sync) struct Director {
    pub(in crate::sync) plane: Plane,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    packets: Vec<Sender<(u32, u8)>>,
}

impl Director {
    pub(in crate::sync) fn new(workers: usize) -> Self {
        Director::hasty(workers, 1)
    }

    /// One whose connections age so many times as fast as they should.
    pub(in crate::sync) fn hasty(workers: usize, speed: u64) -> Self {
        Director::with(workers, speed, |_| {}, |_| {})
    }

    /// One whose service and rules are changed.
    pub(in crate::sync) fn with(
        workers: usize,
        speed: u64,
        settings: impl FnOnce(&mut ServiceSettings),
        change: impl FnOnce(&mut Rules),
    ) -> Self {
        let mut rules = Rules::new(workers);
        let name = ServiceName::Address { protocol: rules::Protocol::Tcp, address: VIP.into(), port: PORT };
        let mut plain = ServiceSettings::plain("rr", name.family());
        settings(&mut plain);
        rules.add_service(name, plain).unwrap();
        rules.add_server(&name, Server::plain(RIP.into(), PORT, rules::Method::Dr, 1)).unwrap();
        change(&mut rules);
        let mut hops = NextHopsBuilder::new(1);
        let egress = hops.egress(Egress::new(0, MAC));
        hops.neighbour(egress, Address::from_v4(RIP), Some([2, 0, 0, 0, 2, 1]));
        hops.connected("10.0.0.0/8".parse().unwrap(), egress);
        let published = Arc::new(Published::default());
        published.services.store(Arc::new(rules.table(1)));
        published.hops.store(Arc::new(hops.build()));
        let exchanges = Exchange::of_all(workers, ROOM, SEED);
        let plane = Plane { exchanges, published, clock: Instant::now() };
        let stop = Arc::new(AtomicBool::new(false));
        let (mut threads, mut packets) = (Vec::new(), Vec::new());
        for worker in 0..workers {
            let settings = WorkerSettings { worker, workers, connections: ROOM, seed: [worker as u8; 16] };
            let (plane, stop, (sender, arriving)) = (plane.clone(), Arc::clone(&stop), unbounded());
            packets.push(sender);
            threads.push(thread::spawn(move || work(settings, &plane, &stop, &arriving, speed)));
        }
        Director { plane, stop, threads, packets }
    }

    /// Lets a packet of a connection arrive.
    pub(in crate::sync) fn packet(&self, number: u32, flags: u8) {
        self.packets[number as usize % self.packets.len()].send((number, flags)).unwrap();
    }

    /// Gives it connections of its own.
    pub(in crate::sync) fn take(&self, records: impl IntoIterator<Item = Record>) {
        let hops = Arc::clone(&self.plane.published.hops.load());
        let services = Arc::clone(&self.plane.published.services.load());
        let mut importer = Importer::new(self.plane.exchanges.clone(), Source::Former, hops);
        for record in records {
            importer.add(record, &services);
            wait_for("room", || importer.pump());
        }
        importer.flush();
        wait_for("room", || importer.pump());
        let mark = importer.mark();
        wait_for("the workers", || importer.has_done(&mark));
    }

    /// All connections, with the names of their states.
    pub(in crate::sync) fn connections(&self) -> Vec<Connection> {
        let mut all = Vec::new();
        for exchange in self.plane.exchanges.iter() {
            let mut listing = exchange.list(Arc::default(), 4).unwrap();
            loop {
                match listing.next_slice() {
                    Slice::Of(records) => {
                        all.extend(records.into_iter().map(|record| (record.client, record.state)));
                    }
                    Slice::NotYet => thread::sleep(Duration::from_micros(200)),
                    Slice::End => break,
                }
            }
        }
        all.sort_unstable();
        all
    }
}

fn work(
    settings: WorkerSettings,
    plane: &Plane,
    stop: &AtomicBool,
    arriving: &Receiver<(u32, u8)>,
    speed: u64,
) {
    let now = || plane.clock.elapsed().as_nanos() as u64 * speed;
    let (published, exchanges) = (plane.published.clone(), plane.exchanges.clone());
    let counters = Arc::new(WorkerCounters::default());
    let mut port = MemoryPort::new(1, 16 * BURST);
    port.discard_sent();
    let mut worker = Worker::new(settings, port, published, exchanges, counters, now());
    while !stop.load(Relaxed) {
        for (number, flags) in arriving.try_iter().take(BURST) {
            assert!(worker.port_mut().inject(0, &frame(number, flags)), "there are frames for a burst");
        }
        if worker.poll(now()) == 0 {
            thread::sleep(Duration::from_micros(200));
        }
    }
}

impl Drop for Director {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

/// Waits until two directors have the same.
pub(in crate::sync) fn wait_for_equality(one: &Director, other: &Director) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (here, there) = (one.connections(), other.connections());
        if here == there {
            return;
        }
        let differing = |these: &[Connection], those: &[Connection]| -> Vec<Connection> {
            these
                .iter()
                .filter(|this| those.binary_search(this).is_err())
                .take(5)
                .copied()
                .collect::<Vec<_>>()
        };
        assert!(
            Instant::now() < deadline,
            "{} and {} connections; only here {:?}, only there {:?}",
            here.len(),
            there.len(),
            differing(&here, &there),
            differing(&there, &here)
        );
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits for what takes milliseconds on an idle machine.
pub(in crate::sync) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come");
        thread::sleep(Duration::from_micros(500));
    }
}
