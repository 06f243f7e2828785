//! What the tests need of the kernel: a network namespace of their own, and XDP
//! programs that are attached to it by somebody else.

#![allow(unsafe_code, reason = "system calls and libbpf")]

use std::ffi::CString;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::programs::{Xdp, loaded_programs};
use libbpf_sys::{XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE};

/// Moves this thread into a new network namespace, which ends with it and takes
/// everything in it along. False, and said so, where that is not allowed.
pub fn enter_namespace() -> bool {
    // SAFETY: both calls take no pointers.
    let entered = unsafe { libc::geteuid() == 0 && libc::unshare(libc::CLONE_NEWNET) == 0 };
    if !entered {
        // Not by a macro, whose output the test harness would swallow.
        let _ = writeln!(
            io::stderr(),
            "SKIPPED: {}: needs root, to make a network namespace and to load XDP programs",
            std::thread::current().name().unwrap_or("steering")
        );
    }
    entered
}

/// Runs `ip` in the namespace of this thread.
pub fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip, of the package iproute2");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A pair of virtual Ethernet interfaces, `west` and `east`, that are up.
pub fn make_veth() {
    ip("link add west type veth peer name east");
    ip("link set west up");
    ip("link set east up");
}

pub fn index_of(interface: &str) -> i32 {
    let name = CString::new(interface).expect("no NUL");
    // SAFETY: the name is NUL-terminated and outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    assert_ne!(index, 0, "interface {interface}");
    index as i32
}

/// Lets a socket receive what comes by one interface only.
pub fn bind_to_interface(socket: &impl AsRawFd, interface: &str) {
    // SAFETY: the kernel reads as many bytes of the name as it has.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTODEVICE,
            interface.as_ptr().cast(),
            interface.len() as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "binding to {interface}: {}", io::Error::last_os_error());
}

/// Number of the XDP program on an interface, 0 if there is none.
pub fn attached(interface: &str) -> u32 {
    let mut info = libbpf_sys::xdp_link_info::default();
    let size = size_of_val(&info);
    // SAFETY: `info` outlives the call, which writes at most `size` bytes to it.
    let result = unsafe { libbpf_sys::bpf_get_link_xdp_info(index_of(interface), &mut info, size as u64, 0) };
    assert_eq!(result, 0, "asking for the XDP program of {interface}");
    info.prog_id
}

/// Waits until no program is on an interface, which the kernel may bring about a
/// moment after the last descriptor was closed.
pub fn wait_until_detached(interface: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while attached(interface) != 0 {
        assert!(Instant::now() < deadline, "an XDP program stays on {interface}");
        std::thread::yield_now();
    }
}

/// A descriptor of a loaded program, by its number.
pub fn program(id: u32) -> OwnedFd {
    let info = loaded_programs().filter_map(Result::ok).find(|info| info.id() == id).expect("it is loaded");
    info.fd().expect("a descriptor").as_fd().try_clone_to_owned().expect("a copy of it")
}

/// What a program says to a frame (`BPF_PROG_TEST_RUN`), received on queue 0.
pub fn run(program: &OwnedFd, frame: &[u8]) -> u32 {
    let mut frame = frame.to_vec();
    let (mut action, mut duration) = (0, 0);
    // SAFETY: the kernel reads the frame, and writes the two numbers and
    // nothing else, as no room for the frame that comes out is given.
    let result = unsafe {
        libbpf_sys::bpf_prog_test_run(
            program.as_raw_fd(),
            1,
            frame.as_mut_ptr().cast(),
            frame.len() as u32,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            &mut action,
            &mut duration,
        )
    };
    assert_eq!(result, 0, "BPF_PROG_TEST_RUN of {} bytes: {}", frame.len(), io::Error::last_os_error());
    action
}

/// How a program is attached.
#[derive(Clone, Copy, Debug)]
pub enum By {
    Driver,
    Generic,
}

/// Attaches a program without a link: it stays when its loader is gone.
pub fn attach(interface: &str, program: &OwnedFd, by: By) {
    let flags = match by {
        By::Driver => XDP_FLAGS_DRV_MODE,
        By::Generic => XDP_FLAGS_SKB_MODE,
    };
    // SAFETY: no pointers; the descriptor is open.
    let result = unsafe { libbpf_sys::bpf_set_link_xdp_fd(index_of(interface), program.as_raw_fd(), flags) };
    assert_eq!(result, 0, "attaching to {interface}");
}

/// The director's own program, as a dead director would have left it.
pub fn load_ours() -> OwnedFd {
    let object = std::fs::read(concat!(env!("OUT_DIR"), "/steer.bpf.o")).expect("the object file");
    let mut ebpf = Ebpf::load(&object).expect("it loads");
    let program: &mut Xdp = ebpf.program_mut("sluice_steer").expect("it is there").try_into().expect("XDP");
    program.load().expect("it loads");
    program.fd().expect("loaded").as_fd().try_clone_to_owned().expect("a copy of it")
}

/// A program of somebody else, that passes everything.
pub fn load_stranger(name: &str) -> OwnedFd {
    // r0 = XDP_PASS; exit
    let instructions: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 2, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];
    let name = CString::new(name).expect("no NUL");
    let attributes = libbpf_sys::bpf_load_program_attr {
        prog_type: libbpf_sys::BPF_PROG_TYPE_XDP,
        name: name.as_ptr(),
        insns: instructions.as_ptr().cast(),
        insns_cnt: instructions.len() as u64,
        license: c"GPL".as_ptr(),
        ..Default::default()
    };
    // SAFETY: everything that the attributes point to outlives the call, and the
    // instructions are as many as they say; a new descriptor is returned.
    unsafe {
        let fd = libbpf_sys::bpf_load_program_xattr(&attributes, std::ptr::null_mut(), 0);
        assert!(fd >= 0, "loading a program: {}", io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd)
    }
}
