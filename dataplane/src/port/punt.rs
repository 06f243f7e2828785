//! The way back to the kernel for frames that XDP redirected and nobody claims.
//!
//! A frame is written to a TAP device, whose ingress has a classifier that
//! moves it to the interface it came from. Where the classifier cannot be
//! used the frame appears on the TAP instead, which is as good unless the
//! kernel filters by reverse path strictly.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use aya::programs::{SchedClassifier, TcAttachType, tc};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use thiserror::Error;

use crate::link::{self, Link};

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/punt.bpf.o"));

/// Why there is no punt path.
#[derive(Debug, Error)]
#[error("interface {interface}: the TAP device that leads back to the kernel: {what}: {source}")]
pub struct PuntError {
    interface: String,
    what: &'static str,
    source: io::Error,
}

/// The way back for one interface. The device is gone when this is dropped.
pub(super) struct Punt {
    tap: File,
    /// Owns the classifier
    _classifier: Option<Ebpf>,
    /// Why frames appear on the TAP and not on their interface
    fallback: Option<String>,
    generic: bool,
}

impl Punt {
    /// A TAP for frames of `interface`, with number `index` and address `mac`.
    ///
    /// With `generic` XDP no classifier is used: the frame would come past the
    /// steering program again and go round for ever.
    pub(super) fn open(interface: &str, generic: bool) -> Result<Self, PuntError> {
        let failed = |what| move |source| PuntError { interface: interface.to_owned(), what, source };
        let link = Link::new(interface).map_err(failed("looking the interface up"))?;
        let index = link.index().map_err(failed("looking the interface up"))?;
        let mac = link.mac().map_err(failed("reading the interface's MAC"))?;
        let tap = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")
            .map_err(failed("opening /dev/net/tun (is the tun module loaded?)"))?;
        let name = create(&tap).map_err(failed("creating it (is CAP_NET_ADMIN there?)"))?;
        // Without the classifier, the stack takes only frames for the TAP's
        // own MAC.
        set_up(&name, mac).map_err(failed("bringing it up"))?;
        let (classifier, fallback) = if generic {
            (None, Some("XDP runs in generic mode".to_owned()))
        } else {
            match redirect(&name, index) {
                Ok(ebpf) => (Some(ebpf), None),
                Err(reason) => (None, Some(reason)),
            }
        };
        Ok(Punt { tap, _classifier: classifier, fallback, generic })
    }

    /// Why frames appear on the TAP rather than on their interface.
    pub(super) fn fallback_reason(&self) -> Option<&str> {
        self.fallback.as_deref()
    }

    /// Whether the interface has generic XDP.
    pub(super) fn generic(&self) -> bool {
        self.generic
    }

    /// Gives a frame to the kernel.
    pub(super) fn write(&mut self, frame: &[u8]) -> bool {
        self.tap.write(frame).is_ok_and(|n| n == frame.len())
    }
}

fn redirect(tap: &str, index: u32) -> Result<Ebpf, String> {
    let chain = |error: &dyn std::error::Error| crate::error_chain(error);
    let mut ebpf = EbpfLoader::new()
        .override_global("interface_index", &index, true)
        .load(OBJECT)
        .map_err(|e| chain(&e))?;
    // Fails when there is one already, which a new device has not.
    tc::qdisc_add_clsact(tap).map_err(|e| chain(&e))?;
    let program = ebpf.program_mut("sluice_punt").ok_or("the object file lacks the program")?;
    let program = <&mut SchedClassifier>::try_from(program).map_err(|e| chain(&e))?;
    program.load().map_err(|e| chain(&e))?;
    program.attach(tap, TcAttachType::Ingress).map_err(|e| chain(&e))?;
    Ok(ebpf)
}

/// Makes a TAP with a name that the kernel chooses.
#[allow(unsafe_code)]
fn create(tap: &File) -> io::Result<String> {
    // SAFETY: an all-zero ifreq is valid; TUNSETIFF reads it and writes the
    // name of the device to it; the descriptor is open.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        link::set_name(&mut request, b"slpunt%d");
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as i16;
        if libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF as _, &mut request) < 0 {
            return Err(io::Error::last_os_error());
        }
        let name: Vec<u8> = request.ifr_name.iter().take_while(|c| **c != 0).map(|c| *c as u8).collect();
        String::from_utf8(name).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
    }
}

fn set_up(name: &str, mac: [u8; 6]) -> io::Result<()> {
    // The kernel would send router solicitations into a device that nobody
    // reads. Not having IPv6 is fine.
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
    let link = Link::new(name)?;
    link.set_mac(mac)?;
    link.set_up()
}
