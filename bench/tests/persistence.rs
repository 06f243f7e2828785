//! A client stays with its server while a template remembers it.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use sluice_bench::lab::site::{Method, VIP};
use sluice_bench::lab::{self, Site, SiteOptions, curl};

#[test]
fn a_client_keeps_its_server_on_every_port() -> Result<()> {
    if !lab::may_run("a_client_keeps_its_server_on_every_port") {
        return Ok(());
    }
    let site = Site::new(SiteOptions::default())?;
    let _nginx = site.start_nginx()?;
    let director = site.start_director(&site.config())?;
    director.ipvsadm(&format!("-A -t {VIP}:0 -s rr -p 60"))?;
    for number in 1..=3 {
        let option = Method::FullNat.option();
        director.ipvsadm(&format!("-a -t {VIP}:0 -r 10.0.2.{number}:0 {option}"))?;
    }
    let greetings = curl::greet(&site.client, &VIP.to_string(), 6)?;
    greetings.all_answered(&director)?;
    let servers: BTreeSet<_> = greetings.answers.iter().map(|answer| &answer.server).collect();
    ensure!(servers.len() == 1, "{servers:?}");

    let connections = director.ipvsadm("-Lnc")?;
    let template = connections.lines().find(|line| line.contains("10.0.0.1:0 ")).unwrap_or_default();
    ensure!(template.contains("192.0.2.10:0"), "no template in:\n{connections}");
    let listed = director.ipvsadm("-Ln --persistent-conn")?;
    ensure!(listed.contains("persistent 60"), "{listed}");
    Ok(())
}
