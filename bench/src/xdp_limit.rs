//! The most that redirecting in XDP gives: a program that writes the MAC addresses and sends every packet out of another
//! interface. What a director reaches whose established connections are carried in the kernel is measured against this.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use aya::maps::{Array, DevMap};
use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, include_bytes_aligned};

use crate::lab::{Netns, mac_of};

static PROGRAM: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/xdp_limit.bpf.o"));

/// A forwarder in the kernel, taken off when this is dropped.
#[derive(Debug)]
pub struct XdpLimit {
    _program: Ebpf,
}

impl XdpLimit {
    /// Forwards what comes in by `from` to `to`, two interfaces of a namespace; `source` is the address of the latter and
    /// `next_hop` that of the other end.
    ///
    /// # Errors
    /// When an interface is not there, or has an XDP program already.
    pub fn start(netns: &Netns, from: &str, to: &str, source: Ipv4Addr, next_hop: Ipv4Addr) -> Result<Self> {
        netns.enter(|| attach(from, to, source, next_hop))?
    }
}

fn attach(from: &str, to: &str, source: Ipv4Addr, next_hop: Ipv4Addr) -> Result<XdpLimit> {
    let mut program = Ebpf::load(PROGRAM)?;
    let mut header = [0_u8; 16];
    header[..6].copy_from_slice(&mac_of(next_hop));
    header[6..12].copy_from_slice(&mac_of(source));
    let mut headers: Array<_, [u8; 16]> =
        program.map_mut("header").context("no map of headers")?.try_into()?;
    headers.set(0, header, 0)?;
    let mut devices: DevMap<_> = program.map_mut("device").context("no map of devices")?.try_into()?;
    devices.set(0, nix::net::if_::if_nametoindex(to)?, None, 0)?;
    let xdp: &mut Xdp = program.program_mut("xdp_limit").context("no program xdp_limit")?.try_into()?;
    xdp.load()?;
    xdp.attach(from, XdpMode::Driver).with_context(|| format!("cannot attach to {from}"))?;
    Ok(XdpLimit { _program: program })
}
