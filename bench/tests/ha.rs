//! Two directors with keepalived: connections outlast the loss of one of them, and the upgrade of its process.
//!
//! `make test-ha` does the same with ten thousand connections, by every method and with every fault.

use std::time::Duration;

use anyhow::{Result, ensure};
use sluice_bench::failover::{Fault, Stand};
use sluice_bench::lab::pair::has_keepalived;
use sluice_bench::lab::{self, Method};

const CONNECTIONS: usize = 300;
const INTERVAL: Duration = Duration::from_millis(100);

fn outlast(test: &str, method: Method, fault: Fault) -> Result<()> {
    if !lab::may_run(test) {
        return Ok(());
    }
    ensure!(has_keepalived(), "keepalived is not there: make deps");
    let mut stand = Stand::new(method, CONNECTIONS, INTERVAL)?;
    let renewal = stand.renew()?;
    // How long it took is for a machine that does nothing else: `make test-ha`.
    ensure!(renewal.resets == 0, "{renewal}\n{}", stand.logs());
    for outcome in stand.suffer(fault)? {
        ensure!(outcome.resets == 0, "{outcome}\n{}", stand.logs());
    }
    Ok(())
}

#[test]
fn nat_outlasts_a_kill() -> Result<()> {
    outlast("nat_outlasts_a_kill", Method::Nat, Fault::Kill)
}

#[test]
fn fullnat_outlasts_a_stop() -> Result<()> {
    outlast("fullnat_outlasts_a_stop", Method::FullNat, Fault::Stop)
}

#[test]
fn dr_outlasts_a_partition() -> Result<()> {
    outlast("dr_outlasts_a_partition", Method::Dr, Fault::Partition)
}

#[test]
fn tun_outlasts_a_cut_link() -> Result<()> {
    outlast("tun_outlasts_a_cut_link", Method::Tun, Fault::Link)
}
