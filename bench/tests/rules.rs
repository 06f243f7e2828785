//! Services and servers come and go by `ipvsadm` while the director runs.

use anyhow::{Result, ensure};
use sluice_bench::lab::site::{Method, VIP};
use sluice_bench::lab::{self, Site, SiteOptions, curl};

#[test]
fn services_come_and_go_at_run_time() -> Result<()> {
    if !lab::may_run("services_come_and_go_at_run_time") {
        return Ok(());
    }
    let site = Site::new(SiteOptions::default())?;
    let _nginx = site.start_nginx()?;
    let director = site.start_director(&site.config())?;
    let vip = VIP.to_string();
    let asked = |requests| curl::greet(&site.client, &vip, requests);
    ensure!(asked(2)?.answers.is_empty(), "answers without a service");

    director.ipvsadm(&format!("-A -t {VIP}:80 -s rr"))?;
    director.ipvsadm(&format!("-a -t {VIP}:80 -r 10.0.2.1:80 {}", Method::FullNat.option()))?;
    let greetings = asked(4)?;
    greetings.all_answered(&director)?;
    ensure!(greetings.answers.iter().all(|answer| answer.server == "rs1"), "{greetings:?}");

    director.ipvsadm(&format!("-a -t {VIP}:80 -r 10.0.2.2:80 {}", Method::FullNat.option()))?;
    director.ipvsadm(&format!("-d -t {VIP}:80 -r 10.0.2.1:80"))?;
    let greetings = asked(4)?;
    greetings.all_answered(&director)?;
    ensure!(greetings.answers.iter().all(|answer| answer.server == "rs2"), "{greetings:?}");
    let listed = director.ipvsadm("-Ln")?;
    ensure!(listed.contains("10.0.2.2:80") && !listed.contains("10.0.2.1:80"), "{listed}");
    let stats = director.ipvsadm("-Ln --stats")?;
    ensure!(stats.contains("192.0.2.10:80"), "{stats}");

    let again = director.try_ipvsadm(&format!("-A -t {VIP}:80 -s rr"))?;
    ensure!(again.status.code() == Some(255), "{again:?}");
    director.ipvsadm(&format!("-D -t {VIP}:80"))?;
    ensure!(asked(2)?.answers.is_empty(), "answers without a service");
    let saved = director.ipvsadm("-S -n")?;
    ensure!(saved.trim().is_empty(), "{saved}");
    Ok(())
}
