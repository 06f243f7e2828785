//! An XDP program that may be on an interface already.

use std::io;

use aya::programs::loaded_programs;

use super::{PROGRAM_NAME, SteerError};

/// Detaches a stale program of ours; refuses to touch anybody else's.
///
/// A program of ours that cannot be detached is held by a BPF link, and a
/// link's owner is alive: that is another director.
pub(super) fn make_room(interface: &str, index: u32) -> Result<(), SteerError> {
    let failed = |what| move |source| SteerError::Interface { interface: interface.to_owned(), what, source };
    let id = attached_program(index).map_err(failed("asking for its XDP program"))?;
    if id == 0 {
        return Ok(());
    }
    let name = program_name(id);
    if name != PROGRAM_NAME {
        return Err(SteerError::Occupied { interface: interface.to_owned(), program: name, id });
    }
    match detach(index) {
        Ok(()) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            Err(SteerError::AnotherDirector { interface: interface.to_owned(), id })
        }
        Err(source) => Err(failed("detaching a stale XDP program")(source)),
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

fn attached_program(index: u32) -> io::Result<u32> {
    let info = attached(index)?;
    Ok([info.prog_id, info.drv_prog_id, info.skb_prog_id, info.hw_prog_id]
        .into_iter()
        .find(|id| *id != 0)
        .unwrap_or(0))
}

/// Detaches in the mode that the program was attached in: without a mode the
/// kernel takes the driver's and leaves a generic program in place.
#[allow(unsafe_code)]
fn detach(index: u32) -> io::Result<()> {
    // SAFETY: no function is passed. The library would print to standard error
    // what we say ourselves.
    unsafe { libbpf_sys::libbpf_set_print(None) };
    let info = attached(index)?;
    for (id, flag) in [
        (info.drv_prog_id, libbpf_sys::XDP_FLAGS_DRV_MODE),
        (info.skb_prog_id, libbpf_sys::XDP_FLAGS_SKB_MODE),
    ] {
        if id != 0 {
            // SAFETY: no pointer is passed; descriptor -1 means "none".
            check(unsafe { libbpf_sys::bpf_set_link_xdp_fd(index as i32, -1, flag) })?;
        }
    }
    Ok(())
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
}
