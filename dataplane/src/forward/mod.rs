//! Forwarding methods, one file each.
