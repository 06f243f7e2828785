//! Checks that ask a server of direct routing or a tunnel for the VIP itself,
//! as clients' packets do.
//!
//! The director has the VIP too, so no route leads to a server's. A check of
//! this kind is a connection to the server's own address, by which the kernel
//! routes it; two small classifiers on the director's interfaces (`vip.bpf.c`)
//! put the VIP in its place on the way out, and back on the way in. They know
//! its packets by the local port, which it has for itself while it lasts. They
//! are there from the first such check on, and go with the process.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use aya::maps::{HashMap, MapData};
use aya::programs::{SchedClassifier, TcAttachType, tc};
use aya::{Ebpf, EbpfLoader};
use nix::net::if_::if_nametoindex;
use sluice_dataplane::error_chain;
use sluice_dataplane::wire::Address;
use tokio::time::Instant;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/vip.bpf.o"));

const MAP: &str = "sluice_vip";
const PROGRAMS: [(&str, TcAttachType); 2] =
    [("sluice_vip_out", TcAttachType::Egress), ("sluice_vip_in", TcAttachType::Ingress)];

/// `BPF_NOEXIST` (include/uapi/linux/bpf.h): another socket has the port, by another address.
const NEW_ONLY: u64 = 1;

/// Between two attempts to load the classifiers.
const RETRY: Duration = Duration::from_secs(5);

/// Where `struct flow` of `vip.bpf.c` has them.
const TUNNEL: usize = 32;
const SEEN: usize = 36;
const FLOW: usize = 40;

/// Port and protocol, as `struct key` of `vip.bpf.c`.
type Key = [u8; 4];

/// What a server is asked for in place of its own address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Through {
    /// The address that is asked for
    pub(super) vip: IpAddr,
    /// Whether packets are wrapped for the server, rather than sent to its MAC address as they are
    pub(super) tunnel: bool,
}

impl Through {
    /// An address of no interest of the family, to bind to.
    pub(super) fn any(self) -> SocketAddr {
        let ip: IpAddr = match self.vip {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        SocketAddr::new(ip, 0)
    }
}

/// The classifiers, as far as they are needed.
pub(super) struct Passages {
    interfaces: Vec<String>,
    state: RefCell<State>,
}

enum State {
    /// None was asked for yet
    Unused,
    Loaded(Box<Loaded>),
    /// They could not be loaded, and when that was
    Failed(Instant, String),
}

struct Loaded {
    ebpf: Ebpf,
    flows: HashMap<MapData, Key, [u8; FLOW]>,
    /// The number of each interface that has them; 0 if it is not there
    attached: Vec<u32>,
}

/// A port whose packets go to a server for the VIP, until this is dropped.
pub(super) struct Passage<'a> {
    passages: &'a Passages,
    key: Key,
}

impl Passages {
    /// On the director's interfaces.
    pub(super) fn new(interfaces: Vec<String>) -> Self {
        Passages { interfaces, state: RefCell::new(State::Unused) }
    }

    /// Has packets of a local port to `server` go there for the VIP.
    ///
    /// # Errors
    /// `AddrInUse` if another check has the port, and others when the kernel refuses the classifiers.
    pub(super) fn open(
        &self,
        protocol: u8,
        port: u16,
        server: IpAddr,
        through: Through,
    ) -> io::Result<Passage<'_>> {
        let mut state = self.state.borrow_mut();
        match &*state {
            State::Failed(at, _) if at.elapsed() < RETRY => {}
            State::Unused | State::Failed(..) => {
                *state = match Loaded::new(&self.interfaces) {
                    Ok(loaded) => State::Loaded(Box::new(loaded)),
                    Err(why) => {
                        let why = format!("no check can ask for the VIP: {why}");
                        tracing::error!("{why}");
                        State::Failed(Instant::now(), why)
                    }
                };
            }
            State::Loaded(_) => {}
        }
        let loaded = match &mut *state {
            State::Loaded(loaded) => loaded,
            State::Failed(_, why) => return Err(io::Error::other(why.clone())),
            State::Unused => return Err(io::ErrorKind::NotFound.into()),
        };
        let [high, low] = port.to_be_bytes();
        let key = [high, low, protocol, 0];
        let mut flow = [0; FLOW];
        flow[..16].copy_from_slice(&Address::from(server).bytes());
        flow[16..TUNNEL].copy_from_slice(&Address::from(through.vip).bytes());
        flow[TUNNEL..SEEN].copy_from_slice(&u32::from(through.tunnel).to_ne_bytes());
        match loaded.flows.insert(key, flow, NEW_ONLY) {
            Ok(()) => Ok(Passage { passages: self, key }),
            Err(_) if loaded.flows.get(&key, 0).is_ok() => Err(io::ErrorKind::AddrInUse.into()),
            Err(error) => Err(io::Error::other(error_chain(&error))),
        }
    }

    /// Attaches the classifiers to interfaces that were gone meanwhile.
    pub(super) fn refresh(&self) {
        if let State::Loaded(loaded) = &mut *self.state.borrow_mut() {
            loaded.attach(&self.interfaces);
        }
    }
}

impl Passage<'_> {
    /// Whether a packet went this way.
    pub(super) fn was_taken(&self) -> bool {
        match &*self.passages.state.borrow() {
            State::Loaded(loaded) => {
                loaded.flows.get(&self.key, 0).is_ok_and(|flow| flow[SEEN..].iter().any(|byte| *byte != 0))
            }
            _ => false,
        }
    }
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        if let State::Loaded(loaded) = &mut *self.passages.state.borrow_mut() {
            // It cannot be gone: nobody else removes it.
            let _ = loaded.flows.remove(&self.key);
        }
    }
}

impl Loaded {
    fn new(interfaces: &[String]) -> Result<Self, String> {
        let mut ebpf = EbpfLoader::new().load(OBJECT).map_err(|error| error_chain(&error))?;
        let map = ebpf.take_map(MAP).ok_or("the object file lacks the map")?;
        let flows = HashMap::try_from(map).map_err(|error| error_chain(&error))?;
        for (name, _) in PROGRAMS {
            classifier(&mut ebpf, name)?.load().map_err(|error| error_chain(&error))?;
        }
        let mut loaded = Loaded { ebpf, flows, attached: vec![0; interfaces.len()] };
        loaded.attach(interfaces);
        if loaded.attached.iter().all(|index| *index == 0) {
            return Err("the classifiers could be attached to none of the director's interfaces".into());
        }
        Ok(loaded)
    }

    fn attach(&mut self, interfaces: &[String]) {
        for (name, attached) in interfaces.iter().zip(&mut self.attached) {
            let index = if_nametoindex(name.as_str()).unwrap_or(0);
            if index == *attached || index == 0 {
                *attached = index;
                continue;
            }
            match attach(&mut self.ebpf, name) {
                Ok(()) => *attached = index,
                Err(why) => {
                    tracing::warn!(interface = name, why, "checks of a VIP cannot go out by this interface");
                }
            }
        }
    }
}

fn classifier<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier, String> {
    let program = ebpf.program_mut(name).ok_or("the object file lacks a program")?;
    program.try_into().map_err(|error: aya::programs::ProgramError| error_chain(&error))
}

fn attach(ebpf: &mut Ebpf, interface: &str) -> Result<(), String> {
    // Before Linux 6.6 they are attached by this, and stay when a process is killed. It may be there already, and
    // what was left by another process may be not.
    let _ = tc::qdisc_add_clsact(interface);
    for (name, direction) in PROGRAMS {
        let _ = tc::qdisc_detach_program(interface, direction, name);
        classifier(ebpf, name)?.attach(interface, direction).map_err(|error| error_chain(&error))?;
    }
    Ok(())
}
