//! A data plane of one worker on a port in memory, and the client and the
//! servers of the recordings on both sides of it.

use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use etherparse::PacketBuilder;
use sluice_control::api::DataPlane;
use sluice_control::capture::CapturePart;
use sluice_control::observe::Observatory;
use sluice_control::role::Role;
use sluice_control::trace::Asked;
use sluice_dataplane::capture::CaptureFilter;
use sluice_dataplane::conn::{ConnectionFilter, ConnectionRecord, Tuple};
use sluice_dataplane::neigh::{Egress, NextHopsBuilder, Prefix};
use sluice_dataplane::port::memory::MemoryPort;
use sluice_dataplane::service::ServiceTable;
use sluice_dataplane::stats::WorkerCounters;
use sluice_dataplane::worker::{Exchange, Published, Settings, Slice, Worker};
use tokio::sync::mpsc;

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 1);
const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const CLIENT_SIDE: usize = 0;
const SERVER_SIDE: usize = 1;
const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 1, 0xff], [2, 0, 0, 0, 2, 0xff]];

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

struct Inner {
    worker: Worker<MemoryPort>,
    published: Arc<Published>,
    exchanges: Arc<[Exchange]>,
    counters: Arc<WorkerCounters>,
}

/// The worker. Control publishes on its thread, the test sends packets on its
/// own.
#[derive(Clone)]
pub struct MemoryPlane(Arc<Mutex<Inner>>, Arc<Observatory>, [String; 2]);

impl Default for MemoryPlane {
    fn default() -> Self {
        let published = Arc::new(Published::default());
        let mut hops = NextHopsBuilder::new(1);
        for (interface, network) in [(0u8, [10, 0, 1]), (1, [10, 0, 2])] {
            let egress = hops.egress(Egress::new(interface, MACS[usize::from(interface)]));
            let [a, b, c] = network;
            hops.connected(Prefix::new(Ipv4Addr::new(a, b, c, 0).into(), 24).unwrap(), egress);
            for last in 1..=4 {
                let mac = [2, 0, 0, 0, interface + 1, last];
                hops.neighbour(egress, Ipv4Addr::new(a, b, c, last).into(), Some(mac));
            }
        }
        published.hops.store(Arc::new(hops.build()));
        let exchanges = Exchange::of_all(1, 1000, [3; 16]);
        let counters = Arc::new(WorkerCounters::default());
        let settings = Settings { worker: 0, workers: 1, connections: 1000, seed: [3; 16] };
        let port = MemoryPort::new(2, 256);
        let worker =
            Worker::new(settings, port, Arc::clone(&published), Arc::clone(&exchanges), counters.clone(), 0);
        let inner = Arc::new(Mutex::new(Inner { worker, published, exchanges, counters }));
        MemoryPlane(inner, Arc::default(), ["eth0".into(), "eth1".into()])
    }
}

impl DataPlane for MemoryPlane {
    fn publish(&self, table: Arc<ServiceTable>) {
        let mut inner = self.0.lock().unwrap();
        inner.published.services.store(table);
        inner.worker.poll(0);
    }

    fn adopted_generation(&self) -> u64 {
        self.0.lock().unwrap().counters.generation.get()
    }

    fn connections(&self, filter: ConnectionFilter) -> mpsc::Receiver<Vec<ConnectionRecord>> {
        let mut inner = self.0.lock().unwrap();
        let mut slices = inner.exchanges[0].list(Arc::new(filter), 64).expect("no other command");
        let mut records = Vec::new();
        loop {
            inner.worker.poll(0);
            match slices.next_slice() {
                Slice::Of(slice) => records.push(slice),
                Slice::NotYet => {}
                Slice::End => break,
            }
        }
        let (sender, receiver) = mpsc::channel(records.len().max(1));
        records.into_iter().for_each(|slice| sender.try_send(slice).unwrap());
        receiver
    }

    fn adopted(&self) {}

    /// Nothing of ipvsadm looks into packets.
    fn capture(&self, _: CaptureFilter, _: usize) -> Option<mpsc::Receiver<CapturePart>> {
        None
    }

    fn trace(&self, _: &Tuple, interface: Option<usize>, _: Option<u32>) -> Asked {
        Asked {
            interfaces: self.interfaces().to_vec(),
            interface: interface.unwrap_or(CLIENT_SIDE),
            wanted: None,
            queue: None,
            questions: Vec::new(),
        }
    }

    fn interfaces(&self) -> &[String] {
        &self.2
    }

    fn status(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    fn role(&self) -> Role {
        match self.0.lock().unwrap().published.standby.load(Ordering::Relaxed) {
            true => Role::Backup,
            false => Role::Active,
        }
    }

    fn set_role(&self, role: Role) {
        self.0.lock().unwrap().published.standby.store(role == Role::Backup, Ordering::Relaxed);
    }

    fn observatory(&self) -> &Arc<Observatory> {
        &self.1
    }
}

impl MemoryPlane {
    /// What the director sends when a frame arrives.
    fn arrive(&self, interface: usize, frame: &[u8]) -> Vec<(usize, Vec<u8>)> {
        let mut inner = self.0.lock().unwrap();
        assert!(inner.worker.port_mut().inject(interface, frame));
        while inner.worker.poll(0) > 0 {}
        let port = inner.worker.port_mut();
        let sent = |port: &mut MemoryPort, side| port.take_sent(side).map(|frame| (side, frame));
        std::iter::from_fn(|| sent(port, CLIENT_SIDE).or_else(|| sent(port, SERVER_SIDE))).collect()
    }

    /// A packet of the client to the VIP; the name of the server that gets it,
    /// or what the client's system call says of the answer.
    fn send(&self, frame: &[u8]) -> String {
        match &self.arrive(CLIENT_SIDE, frame)[..] {
            [(SERVER_SIDE, frame)] => format!("rs{}", frame[33]),
            // Destination unreachable.
            [(CLIENT_SIDE, frame)] if frame[23] == 1 && frame[34] == 3 => "ECONNREFUSED".into(),
            other => panic!("{other:x?}"),
        }
    }

    /// Opens a TCP connection to port 80 from a client port.
    pub fn connect(&self, port: u16) -> String {
        let server = self.send(&tcp(CLIENT_SIDE, (CLIENT, port), (VIP, 80), SYN));
        if let Some(number) = server.strip_prefix("rs") {
            let rip = Ipv4Addr::new(10, 0, 2, number.parse().unwrap());
            self.arrive(SERVER_SIDE, &tcp(SERVER_SIDE, (rip, 80), (CLIENT, port), SYN | ACK));
            self.send(&tcp(CLIENT_SIDE, (CLIENT, port), (VIP, 80), ACK));
        }
        server
    }

    /// Resets a connection.
    pub fn reset(&self, port: u16) {
        self.send(&tcp(CLIENT_SIDE, (CLIENT, port), (VIP, 80), RST));
    }

    /// Sends a datagram of one byte to port 53 from a client port.
    pub fn datagram(&self, port: u16) -> String {
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 1, 1], MACS[CLIENT_SIDE]);
        let builder = builder.ipv4(CLIENT.octets(), VIP.octets(), 64).udp(port, 53);
        let mut frame = Vec::new();
        builder.write(&mut frame, b"x").unwrap();
        self.send(&frame)
    }
}

fn tcp(side: usize, from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), flags: u8) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, side as u8 + 1, 1], MACS[side]);
    let mut builder = builder.ipv4(from.0.octets(), to.0.octets(), 64).tcp(from.1, to.1, 1, 1000);
    builder = if flags & SYN != 0 { builder.syn() } else { builder };
    builder = if flags & RST != 0 { builder.rst() } else { builder };
    builder = if flags & ACK != 0 { builder.ack(1) } else { builder };
    let mut frame = Vec::new();
    builder.write(&mut frame, &[]).unwrap();
    frame
}
