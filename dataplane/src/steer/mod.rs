//! The XDP program that brings packets to the workers, and its loader.
//!
//! `steer.bpf.c` says which packets those are. One instance is loaded for each
//! interface. It is taken off when the director stops; should that be killed,
//! it stays, and what it redirected goes the way of [`WithoutSocket`] until a
//! director is there again.

mod attachment;
mod existing;
mod loaded;
mod marks;
mod rules;
mod wanted;

use std::io;
use std::time::Duration;

use aya::EbpfError;
use aya::maps::MapError;
use thiserror::Error;

pub use loaded::Loaded;
pub use rules::{SteeringRules, Target};
pub use wanted::Wanted;

use crate::link::Link;
use attachment::Attachment;

/// Name of our program in the kernel.
pub const PROGRAM_NAME: &str = "sluice_steer";

/// How long the kernel may take to let go of what an ended process held.
const DYING: Duration = Duration::from_secs(2);

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

/// What becomes of packets of services on a queue where no worker has a socket:
/// because the director crashed, or opens its sockets anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WithoutSocket {
    /// The kernel has them: it resets connections that it does not know
    #[default]
    Kernel,
    /// They are dropped, to be sent again until there is a director again
    Drop,
}

/// The program on one interface. Dropping it takes the program off.
pub struct Steering {
    attachment: Attachment,
    loaded: Loaded,
}

impl Steering {
    /// Loads the program and attaches it to `interface`, with rules that match
    /// nothing yet. A stale program of ours is replaced.
    pub fn attach(interface: &str, choice: ModeChoice) -> Result<Self, SteerError> {
        Loaded::load(interface)?.attach(choice)
    }

    /// Name of the interface.
    pub fn interface(&self) -> &str {
        &self.loaded.interface
    }

    /// Whether the interface is there, and the one that the program was
    /// attached to. One that was made anew under the same name is not.
    pub fn presence(&self) -> Presence {
        match interface_index(&self.loaded.interface) {
            Ok(index) if index == self.loaded.index => Presence::Same,
            Ok(_) => Presence::Another,
            Err(_) => Presence::Gone,
        }
    }

    /// How the driver runs the program.
    pub fn mode(&self) -> Mode {
        self.attachment.mode
    }

    /// Why the program runs in generic mode although native was tried.
    pub fn fallback_reason(&self) -> Option<&str> {
        self.attachment.fallback.as_deref()
    }

    /// The program.
    pub fn program(&mut self) -> &mut Loaded {
        &mut self.loaded
    }

    /// Leaves all frames to the workers.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn without_offload(&mut self) -> Result<(), SteerError> {
        self.loaded.set_offload(None)
    }

    /// As [`Loaded::update`].
    pub fn update(&mut self, rules: &SteeringRules) -> Result<(), SteerError> {
        self.loaded.update(rules)
    }

    /// Follows a change of the interface's MAC; returns whether there was one.
    pub fn refresh_mac(&mut self) -> Result<bool, SteerError> {
        self.loaded.refresh_mac()
    }

    /// Leaves the interface to a director that takes this one's place: the
    /// program stays, and drops what it has redirected so far, until that one
    /// puts its own there. Established connections are carried on for as long as what
    /// is returned is there. To be called before sockets are closed.
    pub fn hand_over(self) -> Result<Loaded, SteerError> {
        let Steering { mut attachment, mut loaded } = self;
        attachment.stay();
        loaded.set_without_socket(WithoutSocket::Drop)?;
        Ok(loaded)
    }
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
