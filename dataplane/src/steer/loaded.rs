//! The program with its maps, before it is on its interface.

use std::collections::BTreeSet;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::{Array, HashMap as BpfHashMap, MapData, MapError, ProgramArray, XskMap};
use aya::programs::xdp::Xdp;
use aya::programs::{ProgramError, ProgramFd};
use aya::{Ebpf, include_bytes_aligned};

use super::attachment::{Attachment, Owner};
use super::marks::MarkMaps;
use super::rules::{EndpointKey, InterfaceValue, RoleKey};
use super::{
    DYING, ModeChoice, PROGRAM_NAME, SteerError, Steering, SteeringRules, WithoutSocket, interface_index,
    read_mac,
};
use crate::local::MIN_LOCAL_PORT;
use crate::port::afxdp;

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer.bpf.o"));

/// The map of sockets, as the library that opens them looks for it.
const SOCKETS: &str = "xsks_map";

/// What goes on with frames that the program for flows does not carry.
const REST: &str = "sluice_rest";

/// How often loading the program is tried.
const LOAD_ATTEMPTS: u32 = 5;

/// `enum xdp_action`
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;

/// A program for an interface that is not attached to it yet, so that it can
/// have its rules from the first packet on.
pub struct Loaded {
    pub(super) interface: String,
    pub(super) index: u32,
    mac: [u8; 6],
    roles: BpfHashMap<MapData, RoleKey, u8>,
    endpoints: BpfHashMap<MapData, EndpointKey, u8>,
    self_map: Array<MapData, InterfaceValue>,
    marks: MarkMaps,
    /// Of one program, that which carries flows
    offload: ProgramArray<MapData>,
    /// The director's number of the interface
    number: usize,
    in_force: SteeringRules,
    without_socket: WithoutSocket,
    /// Owns the program
    ebpf: Ebpf,
}

impl Loaded {
    /// Loads the program for an interface, with rules that match nothing yet.
    pub fn load(interface: &str) -> Result<Self, SteerError> {
        let index = interface_index(interface)?;
        let mac = read_mac(interface)?;
        let mut ebpf = Ebpf::load(OBJECT)?;
        let roles = typed_map(&mut ebpf, interface, "roles")?;
        let endpoints = typed_map(&mut ebpf, interface, "endpoints")?;
        let self_map = typed_map(&mut ebpf, interface, "interface")?;
        let marks = MarkMaps::take(&mut ebpf, interface)?;
        let offload = typed_map(&mut ebpf, interface, "offload")?;
        for name in [PROGRAM_NAME, REST] {
            load(program(&mut ebpf, interface, name)?).map_err(|error| attach_error(interface, error))?;
        }
        let mut loaded = Loaded {
            interface: interface.to_owned(),
            index,
            mac,
            roles,
            endpoints,
            self_map,
            marks,
            offload,
            number: 0,
            in_force: SteeringRules::default(),
            without_socket: WithoutSocket::default(),
            ebpf,
        };
        loaded.set_interface(mac)?;
        Ok(loaded)
    }

    /// Attaches it, in the place of a stale program of ours.
    pub fn attach(mut self, choice: ModeChoice) -> Result<Steering, SteerError> {
        let begun = Instant::now();
        // A director that was killed a moment ago may still be there.
        let owner = loop {
            match Owner::claim(&self.interface, self.index) {
                Err(SteerError::AnotherDirector { .. }) if begun.elapsed() < DYING => {
                    thread::sleep(Duration::from_millis(5));
                }
                claimed => break claimed?,
            }
        };
        let program = program(&mut self.ebpf, &self.interface, PROGRAM_NAME)?;
        let attachment = Attachment::new(program, &self.interface, self.index, choice, owner)?;
        Ok(Steering { attachment, loaded: self })
    }

    /// Name of the interface.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// The kernel's number of the interface.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Enters the sockets that this process has on the interface, which it opened
    /// while another program was there, so that attaching this one loses nothing.
    pub fn admit_sockets(&mut self) -> Result<(), SteerError> {
        let interface = self.interface.clone();
        let failed = |source| SteerError::Map { interface: interface.clone(), map: SOCKETS, source };
        let map = self
            .ebpf
            .map_mut(SOCKETS)
            .ok_or_else(|| failed(MapError::InvalidName { name: SOCKETS.into() }))?;
        let mut sockets = XskMap::try_from(map).map_err(failed)?;
        for (queue, socket) in afxdp::sockets_of(&self.interface) {
            sockets.set(queue, socket, 0).map_err(failed)?;
        }
        Ok(())
    }

    /// Says what becomes of packets where there is no socket.
    pub fn set_without_socket(&mut self, what: WithoutSocket) -> Result<(), SteerError> {
        self.without_socket = what;
        self.set_interface(self.mac)
    }

    /// Says which of the director's interfaces this is, for mark rules that are
    /// about one; without it, it is the first. To be called before
    /// [`Loaded::update`].
    pub fn numbered(mut self, number: usize) -> Self {
        self.number = number;
        self
    }

    /// Brings the maps to `rules`: what is new is entered before what is gone
    /// is removed, so that traffic of unchanged services never misses.
    pub fn update(&mut self, rules: &SteeringRules) -> Result<(), SteerError> {
        let interface = &self.interface;
        let failed = |map| move |source| SteerError::Map { interface: interface.clone(), map, source };
        let (roles, old_roles) = (rules.roles(), self.in_force.roles());
        let (endpoints, old_endpoints) = (rules.endpoints(), self.in_force.endpoints());
        for (key, role) in &roles {
            if old_roles.get(key) != Some(role) {
                self.roles.insert(key, role, 0).map_err(failed("roles"))?;
            }
        }
        for key in endpoints.difference(&old_endpoints) {
            self.endpoints.insert(key, 1, 0).map_err(failed("endpoints"))?;
        }
        for key in old_endpoints.difference(&endpoints).collect::<BTreeSet<_>>() {
            gone(self.endpoints.remove(key)).map_err(failed("endpoints"))?;
        }
        for key in old_roles.keys().filter(|key| !roles.contains_key(key)) {
            gone(self.roles.remove(key)).map_err(failed("roles"))?;
        }
        self.marks.update(rules, self.number).map_err(|(map, source)| failed(map)(source))?;
        self.in_force = rules.clone();
        self.set_interface(self.mac)
    }

    /// What frames go on with that the program for flows does not carry.
    pub(crate) fn rest(&mut self) -> Result<&ProgramFd, SteerError> {
        let interface = self.interface.clone();
        let program = program(&mut self.ebpf, &interface, REST)?;
        program.fd().map_err(|error| attach_error(&interface, error))
    }

    /// Lets a program look at frames for our MAC first, or none.
    pub(crate) fn set_offload(&mut self, program: Option<&ProgramFd>) -> Result<(), SteerError> {
        let changed = match program {
            Some(program) => self.offload.set(0, program, 0),
            None => gone(self.offload.clear_index(&0)),
        };
        changed.map_err(|source| SteerError::Map {
            interface: self.interface.clone(),
            map: "offload",
            source,
        })
    }

    /// Follows a change of the interface's MAC; returns whether there was one.
    pub(super) fn refresh_mac(&mut self) -> Result<bool, SteerError> {
        let mac = read_mac(&self.interface)?;
        if mac == self.mac {
            return Ok(false);
        }
        self.set_interface(mac)?;
        Ok(true)
    }

    fn set_interface(&mut self, mac: [u8; 6]) -> Result<(), SteerError> {
        let (first, last) = self.in_force.passive_ports;
        let value = InterfaceValue {
            mac,
            first_local_port: MIN_LOCAL_PORT.to_be_bytes(),
            passive_ports: [first, last].map(u16::to_be_bytes),
            marks: u32::from(!self.marks.is_empty()),
            without_socket: match self.without_socket {
                WithoutSocket::Kernel => XDP_PASS,
                WithoutSocket::Drop => XDP_DROP,
            },
        };
        self.self_map.set(0, value, 0).map_err(|source| SteerError::Map {
            interface: self.interface.clone(),
            map: "interface",
            source,
        })?;
        self.mac = mac;
        Ok(())
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, interface: &str, name: &str) -> Result<&'a mut Xdp, SteerError> {
    let program = ebpf.program_mut(name).expect("the object file has the program");
    <&mut Xdp>::try_from(program).map_err(|error| attach_error(interface, error))
}

fn attach_error(interface: &str, error: ProgramError) -> SteerError {
    SteerError::Attach { interface: interface.to_owned(), reason: crate::error_chain(&error) }
}

/// A key that is already absent is as good as removed.
pub(super) fn gone(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

pub(super) fn typed_map<T>(ebpf: &mut Ebpf, interface: &str, name: &'static str) -> Result<T, SteerError>
where
    T: TryFrom<aya::maps::Map, Error = MapError>,
{
    let failed = |source| SteerError::Map { interface: interface.to_owned(), map: name, source };
    let map = ebpf.take_map(name).ok_or_else(|| failed(MapError::InvalidName { name: name.to_owned() }))?;
    T::try_from(map).map_err(failed)
}

/// Loads the program, again where the verifier gave up for a signal, as libbpf
/// does too (`do_check` in `kernel/bpf/verifier.c`).
fn load(program: &mut Xdp) -> Result<(), ProgramError> {
    for _ in 1..LOAD_ATTEMPTS {
        match program.load() {
            Err(ProgramError::LoadError { io_error, .. }) if io_error.kind() == io::ErrorKind::WouldBlock => {
            }
            result => return result,
        }
    }
    program.load()
}
