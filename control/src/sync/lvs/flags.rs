//! Flags of a connection on the wire (`IP_VS_CONN_F_*`, linux/ip_vs.h).

/// How packets reach the server: one of [`NAT`] to [`BYPASS`].
pub const METHOD: u32 = 0x0007;
/// `IP_VS_CONN_F_MASQ`
pub const NAT: u32 = 0x0000;
/// `IP_VS_CONN_F_LOCALNODE`: the server is the director itself
pub const LOCAL_NODE: u32 = 0x0001;
/// `IP_VS_CONN_F_TUNNEL`
pub const TUNNEL: u32 = 0x0002;
/// `IP_VS_CONN_F_DROUTE`
pub const DIRECT_ROUTE: u32 = 0x0003;
/// `IP_VS_CONN_F_BYPASS`: to where the client wanted, past all servers
pub const BYPASS: u32 = 0x0004;
/// Replies do not pass the director
pub const NO_OUTPUT: u32 = 0x0080;
/// It does not count as active
pub const INACTIVE: u32 = 0x0100;
/// Sequence numbers of what the server sends are changed
pub const OUT_SEQUENCE: u32 = 0x0200;
/// Sequence numbers of what the client sends are changed
pub const IN_SEQUENCE: u32 = 0x0400;
/// Either of the two
pub const SEQUENCES: u32 = IN_SEQUENCE | OUT_SEQUENCE;
/// The client's port is not known yet
pub const NO_CLIENT_PORT: u32 = 0x0800;
/// A persistence template
pub const TEMPLATE: u32 = 0x1000;
/// What a backup heeds (`IP_VS_CONN_F_BACKUP_MASK`)
pub const HEEDED: u32 = METHOD | NO_OUTPUT | INACTIVE | SEQUENCES | NO_CLIENT_PORT | TEMPLATE;
