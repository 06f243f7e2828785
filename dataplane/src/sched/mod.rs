//! Schedulers, one file each.
