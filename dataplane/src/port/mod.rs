//! Where frames come from and go to.
//!
//! A worker has one port: queue *q* of every interface of the director, over
//! one frame memory, so that a frame received on one interface is sent on
//! another without a copy.

pub mod afxdp;
pub mod memory;
mod punt;

use std::time::Duration;

use afxdp::{Left, Offered};

/// Frames that are received, looked up and acted on together.
pub const BURST: usize = 64;

/// Bytes that must be free behind a frame's data: an outer IPv4 header and a
/// VLAN tag may be put in front, which moves the data back.
pub const TAIL_ROOM: usize = 64;

/// A frame with an Ethernet header at its start, owned by whoever holds it.
pub trait Frame {
    /// The data.
    fn bytes(&self) -> &[u8];
    /// The data, to be changed.
    fn bytes_mut(&mut self) -> &mut [u8];
    /// Most bytes that the data can grow to.
    fn capacity(&self) -> usize;
    /// Grows or shrinks the data at its end. New bytes have any value.
    ///
    /// # Panics
    /// When `len` exceeds [`Frame::capacity`].
    fn set_len(&mut self, len: usize);
}

/// Queue *q* of each interface, as one worker sees them.
///
/// Interfaces are numbered from 0 in the order of the configuration.
pub trait Port {
    /// What this port's frames are.
    type Frame: Frame;

    /// How many interfaces there are.
    fn interfaces(&self) -> usize;

    /// Appends at most `BURST` received frames to `burst` and returns how many.
    fn receive(&mut self, interface: usize, burst: &mut Vec<Self::Frame>) -> usize;

    /// Takes frames from the front of `frames` to be sent, as many as the ring
    /// has room for, and returns how many; the others stay.
    fn transmit(&mut self, interface: usize, frames: &mut Vec<Self::Frame>) -> usize;

    /// An empty frame for a packet of our own, if there is one.
    fn allocate(&mut self) -> Option<Self::Frame>;

    /// Gives a frame back unsent.
    fn release(&mut self, frame: Self::Frame);

    /// Takes sent frames back, and gives free ones to the receive side.
    fn reclaim(&mut self);

    /// Leaves a frame to the kernel, as if XDP had passed it on `interface`.
    /// Returns false when the kernel did not take it.
    fn punt(&mut self, interface: usize, frame: Self::Frame) -> bool;

    /// The name of an interface that does not work any more.
    fn failed(&self) -> Option<&str> {
        None
    }

    /// Closes all interfaces: nothing comes and goes until they are opened anew.
    fn close(&mut self);

    /// Opens all interfaces anew, after one of them came back. The worker must
    /// have given back every frame.
    ///
    /// # Errors
    /// A text for the operator; the port can be tried again later.
    fn reopen(&mut self) -> Result<(), String> {
        Ok(())
    }

    /// Whether no interface is open.
    fn is_closed(&self) -> bool {
        false
    }

    /// What another process needs to go on with the interfaces as they are
    /// ([`Offered`]); nothing if they can only be closed and opened.
    fn offer(&self) -> Option<Offered> {
        None
    }

    /// Leaves the interfaces to the process that has what was offered. The worker
    /// must have given back every frame; nothing comes and goes until
    /// [`Port::reopen`]. Nothing if that cannot be.
    fn lend(&mut self) -> Option<Left> {
        None
    }

    /// Gets ready to go on with what another process offers, which has it yet.
    /// All frames are given up; nothing may be open.
    ///
    /// # Errors
    /// Why that cannot be, for the operator.
    fn prepare(&mut self, _offered: Offered) -> Result<(), String> {
        Err("this port cannot be handed over".to_owned())
    }

    /// Goes on where the other process left off, after [`Port::prepare`].
    ///
    /// # Errors
    /// Why that cannot be, for the operator.
    fn assume(&mut self, _left: &Left) -> Result<(), String> {
        Err("this port cannot be handed over".to_owned())
    }

    /// Sleeps until a frame may have come, at most `limit`.
    fn wait(&mut self, limit: Duration);
}
