//! The control half of Sluice: configuration, API, command line, next hops.

pub mod api;
pub mod capture;
pub mod config;
pub mod connections;
pub mod events;
pub mod health;
pub mod import;
mod interface;
pub mod ipvsadm;
pub mod manual;
pub mod marks;
pub mod metrics;
pub mod netlink;
pub mod observe;
mod output;
mod patient;
pub mod realserver;
pub mod reload;
pub mod role;
pub mod rules;
pub mod run;
pub mod save;
pub mod status;
pub mod sync;
pub mod takeover;
pub mod top;
pub mod trace;
pub mod web;

pub mod workers;
