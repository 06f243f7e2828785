//! The sysctls of IPVS (`net.ipv4.vs.*`) that a director has as settings.

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
}

impl Default for Tunables {
    /// As in the kernel.
    fn default() -> Self {
        Tunables {
            expire_nodest_conn: false,
            expire_quiescent_template: false,
            conn_reuse_mode: 1,
            sloppy_tcp: false,
        }
    }
}
