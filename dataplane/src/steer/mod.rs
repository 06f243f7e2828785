//! The XDP program that brings packets to the workers, and its loader.
//!
//! `steer.bpf.c` says which packets those are. One instance is loaded for each
//! interface and attached by a BPF link where the kernel has them (5.9 and
//! later): the kernel detaches it when this process ends, whatever ends it.

mod existing;
mod marks;
mod rules;

use std::collections::BTreeSet;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::{Array, HashMap as BpfHashMap, MapData, MapError};
use aya::programs::ProgramError;
use aya::programs::xdp::{Xdp, XdpMode};
use aya::{Ebpf, EbpfError, include_bytes_aligned};
use thiserror::Error;

pub use rules::{SteeringRules, Target};

use crate::link::Link;
use crate::local::MIN_LOCAL_PORT;
use marks::MarkMaps;
use rules::{EndpointKey, InterfaceValue, RoleKey};

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer.bpf.o"));

/// Name of our program in the kernel.
pub const PROGRAM_NAME: &str = "sluice_steer";

/// How long the kernel may take to let go of what an ended process held.
const DYING: Duration = Duration::from_secs(2);

/// How often loading the program is tried.
const LOAD_ATTEMPTS: u32 = 5;

/// How the driver runs the program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// In the driver, before a socket buffer is made
    Native,
    /// In the stack, after a socket buffer was made: works with any driver,
    /// slower
    Generic,
}

impl Mode {
    /// "native" or "generic"
    pub fn name(self) -> &'static str {
        match self {
            Mode::Native => "native",
            Mode::Generic => "generic",
        }
    }
}

/// What became of an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    /// It is there
    Same,
    /// It is not
    Gone,
    /// There is another one of its name
    Another,
}

/// What the configuration asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ModeChoice {
    /// Native, or generic where the driver has no XDP
    #[default]
    Auto,
    /// Native or fail
    Native,
    /// Generic
    Generic,
}

/// Why the program could not be put on an interface.
#[derive(Debug, Error)]
pub enum SteerError {
    /// No interface of that name
    #[error("interface {0}: no such interface (ip link shows those that there are)")]
    NoInterface(String),
    /// Somebody else's program is attached
    #[error(
        "interface {interface}: the XDP program \"{program}\" (id {id}) of somebody else is attached; \
         detach it first (ip link set dev {interface} xdp off) or leave the interface out"
    )]
    Occupied {
        /// The interface
        interface: String,
        /// Name of the program that is there
        program: String,
        /// Its number
        id: u32,
    },
    /// Another director holds the interface
    #[error(
        "interface {interface}: another running sluice director has its XDP program there (id {id}); \
         stop it first"
    )]
    AnotherDirector {
        /// The interface
        interface: String,
        /// Number of its program
        id: u32,
    },
    /// A system call about the interface failed
    #[error("interface {interface}: {what}: {source}")]
    Interface {
        /// The interface
        interface: String,
        /// What was tried
        what: &'static str,
        /// Why it failed
        source: io::Error,
    },
    /// The program could not be loaded
    #[error("the XDP program could not be loaded (are CAP_BPF and CAP_NET_ADMIN there?): {0}")]
    Load(#[from] EbpfError),
    /// The program could not be attached
    #[error("interface {interface}: the XDP program could not be attached: {reason}")]
    Attach {
        /// The interface
        interface: String,
        /// Why
        reason: String,
    },
    /// A map could not be written
    #[error("interface {interface}: steering map \"{map}\": {source}")]
    Map {
        /// The interface
        interface: String,
        /// Name of the map
        map: &'static str,
        /// Why
        source: MapError,
    },
}

/// The program on one interface. Dropping it detaches the program.
pub struct Steering {
    interface: String,
    index: u32,
    mode: Mode,
    /// Why generic mode is used although native was wanted
    fallback: Option<String>,
    mac: [u8; 6],
    roles: BpfHashMap<MapData, RoleKey, u8>,
    endpoints: BpfHashMap<MapData, EndpointKey, u8>,
    self_map: Array<MapData, InterfaceValue>,
    marks: MarkMaps,
    /// The director's number of the interface
    number: usize,
    in_force: SteeringRules,
    /// Owns the program and with it the attachment.
    _ebpf: Ebpf,
}

impl Steering {
    /// Loads the program and attaches it to `interface`, with rules that match
    /// nothing yet. A stale program of ours is replaced.
    pub fn attach(interface: &str, choice: ModeChoice) -> Result<Self, SteerError> {
        let index = interface_index(interface)?;
        let begun = Instant::now();
        // A director that was killed a moment ago may still be there.
        while let Err(error) = existing::make_room(interface, index) {
            if !matches!(error, SteerError::AnotherDirector { .. }) || begun.elapsed() > DYING {
                return Err(error);
            }
            thread::sleep(Duration::from_millis(20));
        }
        let mac = read_mac(interface)?;

        let mut ebpf = Ebpf::load(OBJECT)?;
        let roles = typed_map(&mut ebpf, interface, "roles")?;
        let endpoints = typed_map(&mut ebpf, interface, "endpoints")?;
        let self_map = typed_map(&mut ebpf, interface, "interface")?;
        let marks = MarkMaps::take(&mut ebpf, interface)?;
        let (mode, fallback) = attach(&mut ebpf, interface, index, choice)?;
        let mut steering = Steering {
            interface: interface.to_owned(),
            index,
            mode,
            fallback,
            mac: [0; 6],
            roles,
            endpoints,
            self_map,
            marks,
            number: 0,
            in_force: SteeringRules::default(),
            _ebpf: ebpf,
        };
        steering.set_interface(mac)?;
        Ok(steering)
    }

    /// Says which of the director's interfaces this is, for mark rules that are
    /// about one; without it, it is the first. To be called before
    /// [`Steering::update`].
    pub fn numbered(mut self, number: usize) -> Self {
        self.number = number;
        self
    }

    /// Name of the interface.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Whether the interface is there, and the one that the program was
    /// attached to. One that was made anew under the same name is not.
    pub fn presence(&self) -> Presence {
        match interface_index(&self.interface) {
            Ok(index) if index == self.index => Presence::Same,
            Ok(_) => Presence::Another,
            Err(_) => Presence::Gone,
        }
    }

    /// How the driver runs the program.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Why the program runs in generic mode although native was tried.
    pub fn fallback_reason(&self) -> Option<&str> {
        self.fallback.as_deref()
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

    /// Follows a change of the interface's MAC; returns whether there was one.
    pub fn refresh_mac(&mut self) -> Result<bool, SteerError> {
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

/// A key that is already absent is as good as removed.
fn gone(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

fn typed_map<T>(ebpf: &mut Ebpf, interface: &str, name: &'static str) -> Result<T, SteerError>
where
    T: TryFrom<aya::maps::Map, Error = MapError>,
{
    let failed = |source| SteerError::Map { interface: interface.to_owned(), map: name, source };
    let map = ebpf.take_map(name).ok_or_else(|| failed(MapError::InvalidName { name: name.to_owned() }))?;
    T::try_from(map).map_err(failed)
}

fn attach(
    ebpf: &mut Ebpf,
    interface: &str,
    index: u32,
    choice: ModeChoice,
) -> Result<(Mode, Option<String>), SteerError> {
    let failed = |error: ProgramError| SteerError::Attach {
        interface: interface.to_owned(),
        reason: crate::error_chain(&error),
    };
    let program = ebpf.program_mut(PROGRAM_NAME).expect("the object file has the program");
    let program = <&mut Xdp>::try_from(program).map_err(failed)?;
    load(program).map_err(failed)?;
    let reason = match choice {
        ModeChoice::Generic => None,
        ModeChoice::Auto | ModeChoice::Native => match program.attach_to_if_index(index, XdpMode::Driver) {
            Ok(_) => return Ok((Mode::Native, None)),
            Err(error) if choice == ModeChoice::Native => return Err(failed(error)),
            Err(error) => Some(crate::error_chain(&error)),
        },
    };
    program.attach_to_if_index(index, XdpMode::Skb).map_err(failed)?;
    Ok((Mode::Generic, reason))
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

fn read_mac(interface: &str) -> Result<[u8; 6], SteerError> {
    Link::new(interface).and_then(|link| link.mac()).map_err(|source| SteerError::Interface {
        interface: interface.to_owned(),
        what: "reading its MAC",
        source,
    })
}

fn interface_index(interface: &str) -> Result<u32, SteerError> {
    let index = Link::new(interface).and_then(|link| link.index());
    index.map_err(|source| match source.raw_os_error() {
        Some(libc::ENODEV) => SteerError::NoInterface(interface.to_owned()),
        _ => SteerError::Interface { interface: interface.to_owned(), what: "looking it up", source },
    })
}
