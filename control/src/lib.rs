//! The control half of Sluice: configuration, API, command line, next hops.

pub mod api;
pub mod config;
pub mod ipvsadm;
pub mod marks;
pub mod netlink;
pub mod realserver;
pub mod reload;
pub mod role;
pub mod rules;
pub mod run;
pub mod status;

pub mod workers;
