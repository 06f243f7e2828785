//! What would become of a packet, asked of a worker, which changes nothing for
//! it.
//!
//! Whoever asks makes a [`Question`], which has the place for the answer: the
//! worker takes and frees no memory.

use std::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Release},
};
use std::sync::{Arc, Mutex};

use crate::conn::{ConnectionRecord, Side, Tuple};
use crate::neigh::NextHops;
use crate::service::{Family, ServerId, ServiceId, ServiceKey, ServiceTable};
use crate::stats::DropReason;
use crate::wire::Address;

/// A packet that begins a connection, or would if there were none: a SYN, a UDP
/// datagram or an INIT.
#[derive(Debug)]
pub struct Question {
    /// Its ends
    pub tuple: Tuple,
    /// The number of the director's interface that it came by
    pub interface: usize,
    /// The mark that it is taken to have, 0 for none; that of mark rules without it
    pub mark: Option<u32>,
    answer: Mutex<Option<Answer>>,
    answered: AtomicBool,
}

/// What would become of it, by the tables of one worker.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The services that the worker goes by
    pub services: Arc<ServiceTable>,
    /// Its next hops
    pub hops: Arc<NextHops>,
    /// Another worker that most likely has the packet's connection, to which it
    /// would be handed
    pub elsewhere: Option<usize>,
    /// One in so many packets that begin a connection is dropped for lack of room
    /// (`drop_packet`); 0 for none
    pub drop_rate: u32,
    /// What comes of it
    pub outcome: Outcome,
}

/// What would become of a packet.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It belongs to a connection
    Connection {
        /// That
        record: ConnectionRecord,
        /// Its server
        server: ServerId,
        /// Who of it would have sent the packet
        side: Side,
        /// Why it would not be sent on, if so
        refused: Option<DropReason>,
    },
    /// It is the data connection of an FTP session, which is expected
    Expected,
    /// It is left to the kernel, or goes round the other workers before
    Kernel(Unclaimed),
    /// It is handed to the worker that keeps the client's template
    Handed {
        /// To which
        keeper: usize,
        /// Of a service
        service: ServiceId,
    },
    /// It begins a connection
    New {
        /// Of this service
        service: ServiceId,
        /// To this server
        server: ServerId,
        /// Where the server gets its packets
        destination: (Address, u16),
        /// The persistence template that decides, if one does
        template: Option<ConnectionRecord>,
        /// Whether one is made for the client
        makes_template: bool,
    },
    /// It is dropped
    Dropped {
        /// Why
        reason: DropReason,
        /// The service that it is for
        service: ServiceId,
    },
}

/// Why a worker leaves a packet to the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unclaimed {
    /// No service takes it
    NoService,
    /// Another director is the active one, and begins connections
    Standby,
    /// FULLNAT does not forward SCTP
    SctpByFullNat,
}

impl Question {
    /// A question that is not answered yet.
    pub fn new(tuple: Tuple, interface: usize, mark: Option<u32>) -> Arc<Self> {
        Arc::new(Question {
            tuple,
            interface,
            mark,
            answer: Mutex::new(None),
            answered: AtomicBool::new(false),
        })
    }

    /// Puts the answer there. Only the worker that was asked calls this, once.
    pub(crate) fn put(&self, answer: Answer) {
        // Nobody else has it before the flag is raised.
        if let Ok(mut place) = self.answer.try_lock() {
            *place = Some(answer);
        }
        self.answered.store(true, Release);
    }

    /// The service that would begin a connection with it.
    pub fn service(&self, services: &ServiceTable) -> Option<ServiceId> {
        let Some(mark) = self.mark else {
            return services.find_for(&self.tuple, self.interface);
        };
        let Tuple { protocol, destination, destination_port, .. } = self.tuple;
        let family = Family::of(destination);
        let of_mark = services.id_of(&ServiceKey::Mark { mark, family });
        of_mark
            .or_else(|| services.find(protocol, destination, destination_port))
            .or_else(|| services.find_ftp(&self.tuple))
    }

    /// The answer, if it is there. It is given once.
    pub fn take(&self) -> Option<Answer> {
        if !self.answered.load(Acquire) {
            return None;
        }
        self.answer.try_lock().ok()?.take()
    }
}
