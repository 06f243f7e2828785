//! Handing a port's sockets to another process.
//!
//! Closing a socket and opening another one on its queue takes the kernel tens
//! of milliseconds, in which nothing comes or goes: it waits until no CPU uses
//! the first (`xsk_release` in `net/xdp/xsk.c`), and a driver without copies
//! stops and starts the queue. So a process that takes this one's place is given
//! the sockets themselves, with the memory of their frames. It maps both while
//! this process goes on ([`Port::prepare`]); then this one leaves off and says
//! which frames are free ([`Port::lend`]), and that one goes on
//! ([`Port::assume`]). What came meanwhile waits in the rings.

use std::os::fd::OwnedFd;

use super::sockets::Sockets;
use super::{AfXdpPort, RECEIVE_RING, RING};
#[cfg(doc)]
use crate::port::Port;

/// A port's sockets and memory, for another process.
#[derive(Debug)]
pub struct Offered {
    /// How it is made
    pub layout: Layout,
    /// The file that its frames are in
    pub memory: OwnedFd,
    /// A socket for each interface
    pub sockets: Vec<OwnedFd>,
}

/// How a port is made. Only one that is made the same can take its sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Its queue of each interface
    pub queue: usize,
    /// Frames in its memory
    pub frames: usize,
    /// Bytes from one frame to the next
    pub chunk: usize,
    /// Elements of each ring on the receive side, and on the transmit side
    pub rings: [u32; 2],
    /// Names of the interfaces, in order
    pub interfaces: Vec<String>,
}

/// How far a port was when its process left off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// A bit for each frame, from the lowest of each byte on: whether it is free.
    /// The kernel has the others.
    pub free: Vec<u8>,
    /// For each interface, frames in its fill ring, and frames sent and not yet
    /// completed
    pub with_kernel: Vec<[usize; 2]>,
}

impl AfXdpPort {
    /// How this port is made.
    fn layout(&self) -> Layout {
        Layout {
            queue: self.queue,
            frames: self.frames.count(),
            chunk: self.frames.chunk(),
            rings: [RECEIVE_RING, RING],
            interfaces: self.interfaces.iter().map(|interface| interface.name.clone()).collect(),
        }
    }

    /// What another process needs to take the sockets; nothing if one of them is
    /// closed, or the memory cannot be shared.
    pub(super) fn offered(&self) -> Option<Offered> {
        let share = |interface: &super::Interface| interface.sockets.as_ref()?.share().ok();
        Some(Offered {
            layout: self.layout(),
            memory: self.frames.file()?.try_clone_to_owned().ok()?,
            sockets: self.interfaces.iter().map(share).collect::<Option<_>>()?,
        })
    }

    /// Leaves off: nothing here touches a socket or a frame until they are opened
    /// anew. Nothing if the worker has not given back every frame, or a socket is
    /// closed.
    pub(super) fn leave(&mut self) -> Option<Left> {
        if self.outstanding > 0 || self.interfaces.iter().any(|interface| interface.sockets.is_none()) {
            return None;
        }
        let mut free = vec![0; self.frames.count().div_ceil(8)];
        for frame in self.free.drain(..) {
            let index = self.frames.index(&frame);
            free[index / 8] |= 1 << (index % 8);
        }
        let mut with_kernel = Vec::new();
        for interface in &mut self.interfaces {
            with_kernel.extend(interface.sockets.as_ref().map(Sockets::with_kernel));
            interface.left = interface.sockets.take();
        }
        self.punts_hold = true;
        Some(Left { free, with_kernel })
    }

    /// Maps what another process offers. It goes on with it until it leaves off.
    pub(super) fn map(&mut self, offered: Offered) -> Result<(), String> {
        if self.interfaces.iter().any(|interface| interface.sockets.is_some()) {
            return Err("this process has sockets of its own".to_owned());
        }
        let Offered { layout, memory, sockets } = offered;
        let ours = self.layout();
        if layout != ours || sockets.len() != ours.interfaces.len() {
            return Err(format!("it has {layout:?}, and this process {ours:?}"));
        }
        let failed = |what: &str, error: std::io::Error| format!("{what}: {error}");
        // They are the other process's from here on.
        self.free.clear();
        self.frames.share(memory).map_err(|error| failed("its memory", error))?;
        for (interface, socket) in self.interfaces.iter_mut().zip(sockets) {
            let taken = Sockets::taken(&interface.name, layout.queue, socket);
            interface.left = Some(taken.map_err(|error| failed(&interface.name, error))?);
        }
        Ok(())
    }

    /// Goes on where the other process left off.
    pub(super) fn go_on(&mut self, left: &Left) -> Result<(), String> {
        let complete = self.interfaces.iter().all(|interface| interface.left.is_some());
        if !complete || left.with_kernel.len() != self.interfaces.len() {
            return Err("the sockets of the other process are not here".to_owned());
        }
        if left.free.len() != self.frames.count().div_ceil(8) {
            return Err("the other process has another number of frames".to_owned());
        }
        self.free.clear();
        for index in 0..self.frames.count() {
            if left.free[index / 8] & 1 << (index % 8) != 0 {
                self.free.extend(self.frames.handle(index));
            }
        }
        for (interface, with_kernel) in self.interfaces.iter_mut().zip(&left.with_kernel) {
            interface.sockets = interface.left.take();
            if let Some(sockets) = &mut interface.sockets {
                sockets.go_on(*with_kernel);
            }
        }
        self.punts_hold = false;
        Ok(())
    }
}
