//! The configuration file as it is written, with the place of every value.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::{Spanned, Value};

use super::health::{HealthCheck, SorryServer};

#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) director: Option<Spanned<Director>>,
    #[serde(default)]
    pub(super) service: Vec<Spanned<Service>>,
    #[serde(default)]
    pub(super) mark: Vec<Spanned<Mark>>,
    pub(super) web: Option<Web>,
    pub(super) sync: Option<Spanned<Sync>>,
    #[serde(default)]
    pub(super) sync_daemon: Vec<Spanned<SyncDaemon>>,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct SyncDaemon {
    pub(super) role: Spanned<String>,
    pub(super) interface: Spanned<String>,
    pub(super) sync_id: Option<Spanned<i64>>,
    pub(super) max_length: Option<Spanned<i64>>,
    pub(super) group: Option<Spanned<String>>,
    pub(super) port: Option<Spanned<i64>>,
    pub(super) ttl: Option<Spanned<i64>>,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct Sync {
    pub(super) listen: Spanned<String>,
    pub(super) peer: Spanned<String>,
    pub(super) key: Spanned<String>,
}

/// Numbers and names are taken loosely here, and keys that must be there are
/// optional: they are checked with all else, so that one run shows every
/// mistake.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct Director {
    pub(super) interfaces: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) workers: Option<Spanned<Vec<Spanned<i64>>>>,
    pub(super) connections_per_worker: Option<Spanned<i64>>,
    #[serde(default)]
    pub(super) local_addresses: Vec<Spanned<String>>,
    pub(super) idle: Option<Spanned<String>>,
    pub(super) xdp_mode: Option<Spanned<String>>,
    pub(super) socket: Option<Spanned<String>>,
    pub(super) api_group: Option<Spanned<String>>,
    pub(super) role: Option<Spanned<String>>,
    pub(super) when_gone: Option<Spanned<String>>,
    pub(super) offload: Option<Spanned<String>>,
    pub(super) offload_flows: Option<Spanned<i64>>,
    pub(super) offload_flows_v6: Option<Spanned<i64>>,
    pub(super) offload_after: Option<Spanned<i64>>,
    pub(super) offload_stale: Option<Spanned<i64>>,
    pub(super) expire_nodest_conn: Option<bool>,
    pub(super) expire_quiescent_template: Option<bool>,
    pub(super) conn_reuse_mode: Option<Spanned<i64>>,
    pub(super) sloppy_tcp: Option<bool>,
    pub(super) ftp_ports: Option<Spanned<Vec<Spanned<i64>>>>,
    pub(super) ftp_passive_ports: Option<Spanned<String>>,
    pub(super) sloppy_sctp: Option<bool>,
    pub(super) drop_entry: Option<Spanned<i64>>,
    pub(super) drop_packet: Option<Spanned<i64>>,
    pub(super) secure_tcp: Option<Spanned<i64>>,
    pub(super) amemthresh: Option<Spanned<i64>>,
    pub(super) am_droprate: Option<Spanned<i64>>,
    pub(super) nat_icmp_send: Option<bool>,
    pub(super) pmtu_disc: Option<bool>,
    pub(super) lblc_expiration: Option<Spanned<i64>>,
    pub(super) lblcr_expiration: Option<Spanned<i64>>,
    pub(super) sync_refresh_period: Option<Spanned<i64>>,
    pub(super) sync_persist_mode: Option<bool>,
    pub(super) sync_sock_size: Option<Spanned<i64>>,
    #[serde(default)]
    pub(super) timeouts: BTreeMap<String, Spanned<i64>>,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct Service {
    pub(super) address: Option<Spanned<String>>,
    pub(super) protocol: Option<Spanned<String>>,
    pub(super) mark: Option<Spanned<i64>>,
    pub(super) family: Option<Spanned<String>>,
    pub(super) scheduler: Option<Spanned<String>>,
    pub(super) one_packet: Option<Spanned<bool>>,
    pub(super) persistent: Option<Spanned<i64>>,
    pub(super) netmask: Option<Spanned<String>>,
    pub(super) engine: Option<Spanned<String>>,
    pub(super) offload: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) timeouts: BTreeMap<String, Spanned<i64>>,
    #[serde(default)]
    pub(super) flags: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) local_addresses: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) server: Vec<Spanned<Server>>,
    #[serde(default)]
    pub(super) check: Vec<Spanned<HealthCheck>>,
    #[serde(default)]
    pub(super) alpha: bool,
    #[serde(default)]
    pub(super) inhibit_on_failure: bool,
    pub(super) quorum: Option<Spanned<i64>>,
    pub(super) hysteresis: Option<Spanned<i64>>,
    #[serde(default)]
    pub(super) quorum_up: Vec<String>,
    #[serde(default)]
    pub(super) quorum_down: Vec<String>,
    pub(super) sorry_server: Option<Spanned<SorryServer>>,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct Server {
    pub(super) address: Option<Spanned<String>>,
    pub(super) method: Option<Spanned<String>>,
    pub(super) tunnel: Option<Spanned<String>>,
    pub(super) tunnel_port: Option<Spanned<i64>>,
    pub(super) tunnel_checksum: Option<Spanned<Value>>,
    pub(super) weight: Option<Spanned<i64>>,
    pub(super) upper_threshold: Option<Spanned<i64>>,
    pub(super) lower_threshold: Option<Spanned<i64>>,
    pub(super) check: Option<Vec<Spanned<HealthCheck>>>,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct Mark {
    pub(super) vip: Option<Spanned<String>>,
    pub(super) protocol: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) ports: Vec<Spanned<Value>>,
    pub(super) from: Option<Spanned<String>>,
    #[serde(rename = "in")]
    pub(super) interface: Option<Spanned<String>>,
    pub(super) set: Option<Spanned<Value>>,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct Web {
    pub(super) listen: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) hosts: Vec<Spanned<String>>,
}
