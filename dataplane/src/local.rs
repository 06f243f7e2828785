//! LIP and port allocation for FULLNAT.
pub const MIN_LOCAL_PORT: u16 = 1024;
