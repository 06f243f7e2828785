//! Where FTP is followed.

/// The control port of FTP (RFC 959).
pub const FTP: u16 = 21;

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
