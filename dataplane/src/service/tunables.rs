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
    /// Where FTP is followed
    pub ftp: FtpPorts,
}

/// Control ports that may be configured (`IP_VS_APP_MAX_PORTS`).
pub const MOST_FTP_PORTS: usize = 8;

/// Ports of FTP, all in host order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FtpPorts {
    /// Ports of VIPs whose connections are control connections; 0 for none
    pub control: [u16; MOST_FTP_PORTS],
    /// The first and the last port of servers in passive mode: what comes to
    /// these at the VIP is looked at by workers
    pub passive: (u16, u16),
}

impl Default for FtpPorts {
    /// Port 21, and any port that servers take.
    fn default() -> Self {
        let mut control = [0; MOST_FTP_PORTS];
        control[0] = FTP;
        FtpPorts { control, passive: (1024, u16::MAX) }
    }
}

/// The control port of FTP (RFC 959).
pub const FTP: u16 = 21;

impl FtpPorts {
    /// Whether connections to a port are control connections.
    #[inline]
    pub fn is_control(&self, port: u16) -> bool {
        port != 0 && self.control.contains(&port)
    }

    /// Whether a port may be one of passive mode.
    #[inline]
    pub fn is_passive(&self, port: u16) -> bool {
        (self.passive.0..=self.passive.1).contains(&port)
    }

    /// The port that a server opens data connections from, which is one less
    /// than the control port (RFC 959, section 3.3).
    pub fn active(control: u16) -> u16 {
        control.wrapping_sub(1)
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
        }
    }
}
