//! Names and flags of schedulers.

/// A scheduler, by its IPVS name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SchedulerKind {
    /// Round robin
    Rr,
    /// Weighted round robin
    Wrr,
    /// Least connections
    Lc,
    /// Weighted least connections
    Wlc,
    /// Source hashing
    Sh,
    /// Destination hashing
    Dh,
    /// Shortest expected delay
    Sed,
    /// Never queue
    Nq,
    /// Locality-based least connections
    Lblc,
    /// Locality-based least connections with replication
    Lblcr,
    /// Maglev hashing
    Mh,
    /// Weighted failover
    Fo,
    /// Weighted overflow
    Ovf,
}

impl SchedulerKind {
    /// Every scheduler.
    pub const ALL: [SchedulerKind; 13] = [
        SchedulerKind::Rr,
        SchedulerKind::Wrr,
        SchedulerKind::Lc,
        SchedulerKind::Wlc,
        SchedulerKind::Sh,
        SchedulerKind::Dh,
        SchedulerKind::Sed,
        SchedulerKind::Nq,
        SchedulerKind::Lblc,
        SchedulerKind::Lblcr,
        SchedulerKind::Mh,
        SchedulerKind::Fo,
        SchedulerKind::Ovf,
    ];

    /// The name that `ipvsadm -s` takes.
    pub fn name(self) -> &'static str {
        match self {
            SchedulerKind::Rr => "rr",
            SchedulerKind::Wrr => "wrr",
            SchedulerKind::Lc => "lc",
            SchedulerKind::Wlc => "wlc",
            SchedulerKind::Sh => "sh",
            SchedulerKind::Dh => "dh",
            SchedulerKind::Sed => "sed",
            SchedulerKind::Nq => "nq",
            SchedulerKind::Lblc => "lblc",
            SchedulerKind::Lblcr => "lblcr",
            SchedulerKind::Mh => "mh",
            SchedulerKind::Fo => "fo",
            SchedulerKind::Ovf => "ovf",
        }
    }

    /// The scheduler of an `ipvsadm -s` name.
    pub fn from_name(name: &str) -> Option<Self> {
        SchedulerKind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// Flags of a scheduler (`ipvsadm -b`): bit 0 is `flag-1`, bit 2 is `flag-3`
/// (`IP_VS_SVC_F_SCHED1` to `3`).
///
/// sh and mh give the first two a meaning; all others take flags and do
/// nothing with them, as in IPVS.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct SchedulerFlags(u8);

impl SchedulerFlags {
    /// Bits 0 to 2; others are left out.
    pub fn new(bits: u8) -> Self {
        SchedulerFlags(bits & 0b111)
    }

    /// `flag-1`, which is `sh-fallback` and `mh-fallback`: another server
    /// where the hashed one takes no connections.
    #[inline]
    pub fn fallback(self) -> bool {
        self.0 & 1 != 0
    }

    /// `flag-2`, which is `sh-port` and `mh-port`: the client's port is hashed
    /// with its address.
    #[inline]
    pub fn port(self) -> bool {
        self.0 & 2 != 0
    }
}
