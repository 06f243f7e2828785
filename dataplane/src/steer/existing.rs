//! An XDP program that may be on an interface already.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use aya::programs::loaded_programs;

use super::{Mode, PROGRAM_NAME, SteerError};

/// A stale program of ours on an interface, or none.
pub(super) struct Existing {
    info: libbpf_sys::xdp_link_info,
}

impl Existing {
    /// What is there.
    ///
    /// # Errors
    /// When that is somebody else's.
    pub(super) fn of(interface: &str, index: u32) -> Result<Self, SteerError> {
        let failed =
            |what| move |source| SteerError::Interface { interface: interface.to_owned(), what, source };
        let info = attached(index).map_err(failed("asking for its XDP program"))?;
        let id = id(&info);
        let name = if id == 0 { PROGRAM_NAME.to_owned() } else { program_name(id) };
        if name != PROGRAM_NAME {
            return Err(SteerError::Occupied { interface: interface.to_owned(), program: name, id });
        }
        Ok(Existing { info })
    }

    /// Puts a program in its place: at once where it has the same mode, else
    /// after it was taken off, since the kernel has no two modes at a time.
    pub(super) fn replace(&self, index: u32, program: &OwnedFd, mode: Mode) -> io::Result<()> {
        let other = match mode {
            Mode::Native => (self.info.skb_prog_id, Mode::Generic),
            Mode::Generic => (self.info.drv_prog_id, Mode::Native),
        };
        if other.0 != 0 {
            set(index, -1, flag(other.1))?;
        }
        set(index, program.as_raw_fd(), flag(mode))
    }

    /// That it is not stale after all.
    pub(super) fn another_director(&self, interface: &str) -> SteerError {
        SteerError::AnotherDirector { interface: interface.to_owned(), id: id(&self.info) }
    }
}

fn program_name(id: u32) -> String {
    let found = loaded_programs().filter_map(Result::ok).find(|program| program.id() == id);
    match found {
        Some(program) if !program.name().is_empty() => String::from_utf8_lossy(program.name()).into_owned(),
        _ => "unnamed".to_owned(),
    }
}

#[allow(unsafe_code)]
fn attached(index: u32) -> io::Result<libbpf_sys::xdp_link_info> {
    let mut info = libbpf_sys::xdp_link_info::default();
    let size = std::mem::size_of_val(&info);
    // SAFETY: `info` outlives the call, which writes at most `size` bytes to it.
    check(unsafe { libbpf_sys::bpf_get_link_xdp_info(index as i32, &mut info, size as u64, 0) })?;
    Ok(info)
}

/// Number of the program on an interface, 0 if there is none.
pub(super) fn attached_program(index: u32) -> io::Result<u32> {
    attached(index).map(|info| id(&info))
}

fn id(info: &libbpf_sys::xdp_link_info) -> u32 {
    [info.prog_id, info.drv_prog_id, info.skb_prog_id, info.hw_prog_id]
        .into_iter()
        .find(|id| *id != 0)
        .unwrap_or(0)
}

fn flag(mode: Mode) -> u32 {
    match mode {
        Mode::Native => libbpf_sys::XDP_FLAGS_DRV_MODE,
        Mode::Generic => libbpf_sys::XDP_FLAGS_SKB_MODE,
    }
}

/// Attaches a program, or detaches with descriptor -1. Without a mode the
/// kernel would take the driver's and leave a generic program in place.
#[allow(unsafe_code)]
fn set(index: u32, program: RawFd, flag: u32) -> io::Result<()> {
    // SAFETY: no function is passed. The library would print to standard error
    // what we say ourselves.
    unsafe { libbpf_sys::libbpf_set_print(None) };
    // SAFETY: no pointer is passed.
    check(unsafe { libbpf_sys::bpf_set_link_xdp_fd(index as i32, program, flag) })
}

/// Detaches the program with this descriptor, and no other.
#[allow(unsafe_code)]
pub(super) fn detach_if(index: u32, mode: Mode, program: RawFd) -> io::Result<()> {
    type Options = libbpf_sys::bpf_xdp_set_link_opts;
    // Up to the last field: the library refuses padding that is not zero.
    let size = std::mem::offset_of!(Options, old_fd) + size_of::<RawFd>();
    let options = Options { sz: size as libbpf_sys::size_t, old_fd: program };
    // SAFETY: the options outlive the call.
    check(unsafe { libbpf_sys::bpf_set_link_xdp_fd_opts(index as i32, -1, flag(mode), &options) })
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
}
