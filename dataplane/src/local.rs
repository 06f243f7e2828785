//! LIP and port allocation for FULLNAT.
