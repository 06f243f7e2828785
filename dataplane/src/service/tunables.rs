//! The sysctls of IPVS (`net.ipv4.vs.*`) that a director has as settings.

use super::FtpPorts;

/// What operators tune, for all services.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tunables {
    /// Connections of a removed server end, so that clients are told or
    /// scheduled anew; else their packets are dropped until they expire
    pub expire_nodest_conn: bool,
    /// A template of a server with weight 0 is used no more
    pub expire_quiescent_template: bool,
    /// When a SYN for a connection that is there opens a new one: never with
    /// 0, else in TIME_WAIT and CLOSE, and with bit 1 set in FIN_WAIT where
    /// replies bypass the director
    pub conn_reuse_mode: u32,
    /// TCP connections begin with any packet but RST
    pub sloppy_tcp: bool,
    /// Where FTP is followed
    pub ftp: FtpPorts,
    /// SCTP connections begin with any packet but ABORT
    pub sloppy_sctp: bool,
    /// When connections that look unused are ended to make room
    pub drop_entry: Defense,
    /// When one in so many packets that begin a connection is dropped
    pub drop_packet: Defense,
    /// When TCP connections are established only with the server's consent
    pub secure_tcp: Defense,
    /// Room for connections, over all workers, below which it is short: in
    /// pages of 4 KiB, as the kernel counts free memory
    pub amemthresh: u32,
    /// With `drop_packet` always on: one in how many packets is dropped
    pub am_droprate: u32,
    /// A NAT server that sends a packet of no connection is told so
    pub nat_icmp_send: bool,
    /// A tunnel takes over "do not fragment", so that clients learn of its MTU
    pub pmtu_disc: bool,
    /// How long lblc keeps a destination, in seconds
    pub lblc_expiration: u32,
    /// How long lblcr keeps a set of servers as it is, in seconds
    pub lblcr_expiration: u32,
    /// In how many seconds other directors are told again of connections that had
    /// packets; 0 is [`SYNC_REFRESH`]
    pub sync_refresh_period: u32,
    /// A sync daemon tells of persistent services' templates only
    pub sync_persist_mode: bool,
    /// Bytes of a sync daemon's socket buffer; 0 leaves it as it is
    pub sync_sock_size: u32,
}

/// Seconds in which other directors are told again of connections that had packets,
/// if nothing else is set.
pub const SYNC_REFRESH: u32 = 30;

impl Tunables {
    /// In how many seconds other directors are told again of connections that had
    /// packets.
    pub fn sync_refresh(&self) -> u32 {
        match self.sync_refresh_period {
            0 => SYNC_REFRESH,
            seconds => seconds,
        }
    }
}

/// When a defence against overload is on.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Defense {
    /// Never (0)
    #[default]
    Off,
    /// While room for connections is short (1, which the kernel shows as 2
    /// while it is on)
    WhenShort,
    /// Always (3)
    Always,
}

impl Defense {
    /// Whether it is on.
    #[inline]
    pub fn is_on(self, short: bool) -> bool {
        match self {
            Defense::Off => false,
            Defense::WhenShort => short,
            Defense::Always => true,
        }
    }
}

impl Default for Tunables {
    /// As in the kernel.
    fn default() -> Self {
        Tunables {
            expire_nodest_conn: false,
            expire_quiescent_template: false,
            conn_reuse_mode: 1,
            sloppy_tcp: false,
            ftp: FtpPorts::default(),
            sloppy_sctp: false,
            drop_entry: Defense::Off,
            drop_packet: Defense::Off,
            secure_tcp: Defense::Off,
            amemthresh: 1024,
            am_droprate: 10,
            nat_icmp_send: false,
            pmtu_disc: true,
            lblc_expiration: 86_400,
            lblcr_expiration: 86_400,
            sync_refresh_period: 0,
            sync_persist_mode: false,
            sync_sock_size: 0,
        }
    }
}
