//! Putting the program on an interface, and taking it off.
//!
//! It is attached without a BPF link, so that it outlives the process: what it
//! then does with packets of services is up to [`WithoutSocket`], and the next
//! director puts its own program in the place of this one without a moment in
//! between. That the owner is alive is told by a socket that it holds.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use aya::programs::ProgramError;
use aya::programs::xdp::Xdp;

use super::existing::{self, Existing};
use super::{Mode, ModeChoice, SteerError};

/// The program on an interface; dropping it takes the program off, unless it
/// is to stay or another one has taken its place.
#[derive(Debug)]
pub(super) struct Attachment {
    index: u32,
    pub(super) mode: Mode,
    /// Why generic mode is used although native was wanted
    pub(super) fallback: Option<String>,
    program: OwnedFd,
    stays: bool,
    _owner: Owner,
}

/// Says to other directors of this network namespace, as abstract names are
/// the namespace's, that an interface has one that is alive.
#[derive(Debug)]
pub(super) struct Owner(#[expect(dead_code, reason = "held, never used")] UnixDatagram);

impl Owner {
    /// Claims an interface, if nobody has.
    pub(super) fn claim(interface: &str, index: u32) -> Result<Self, SteerError> {
        let failed = |source| SteerError::Interface {
            interface: interface.to_owned(),
            what: "claiming it for this director",
            source,
        };
        let name = SocketAddr::from_abstract_name(format!("sluice/interface/{index}")).map_err(failed)?;
        match UnixDatagram::bind_addr(&name) {
            Ok(socket) => Ok(Owner(socket)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let id = existing::attached_program(index).unwrap_or(0);
                Err(SteerError::AnotherDirector { interface: interface.to_owned(), id })
            }
            Err(error) => Err(failed(error)),
        }
    }
}

impl Attachment {
    /// Attaches a loaded program, in the place of a stale one of ours.
    pub(super) fn new(
        program: &Xdp,
        interface: &str,
        index: u32,
        choice: ModeChoice,
        owner: Owner,
    ) -> Result<Self, SteerError> {
        let failed = |reason| SteerError::Attach { interface: interface.to_owned(), reason };
        let of_program = |error: ProgramError| failed(crate::error_chain(&error));
        let program = program.fd().map_err(of_program)?.as_fd().try_clone_to_owned();
        let program = program.map_err(|error| failed(error.to_string()))?;
        let stale = Existing::of(interface, index)?;
        let put = |mode| match stale.replace(index, &program, mode) {
            // A program that a link holds: an older sluice, which is alive.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Err(stale.another_director(interface)),
            result => Ok(result),
        };
        let native = match choice {
            ModeChoice::Generic => None,
            ModeChoice::Auto | ModeChoice::Native => Some(put(Mode::Native)?),
        };
        let (mode, fallback) = match native {
            Some(Ok(())) => (Mode::Native, None),
            Some(Err(error)) if choice == ModeChoice::Native => return Err(failed(error.to_string())),
            other => {
                put(Mode::Generic)?.map_err(|error| failed(error.to_string()))?;
                (Mode::Generic, other.and_then(Result::err).map(|error| error.to_string()))
            }
        };
        Ok(Attachment { index, mode, fallback, program, stays: false, _owner: owner })
    }

    /// Leaves the program where it is when this is dropped.
    pub(super) fn stay(&mut self) {
        self.stays = true;
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if !self.stays {
            // Fails where the interface or the program is gone, or another
            // program is there.
            let _ = existing::detach_if(self.index, self.mode, self.program.as_raw_fd());
        }
    }
}
