//! Ports that are bound by a mark: a client has the same server on all of them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use sluice_bench::lab::site::{Method, VIP, VIP6, ipv6_of, server_address};
use sluice_bench::lab::{self, Director, Site, SiteOptions, curl, echo, run};

/// The rules and services of `configs/marks.toml`, by some method.
fn config(site: &Site, method: Method) -> String {
    let mut text = site.config();
    for vip in [IpAddr::from(VIP), VIP6.into()] {
        text += &format!("\n[[mark]]\nvip = \"{vip}\"\nprotocol = \"tcp\"\nports = [80, 443]\nset = 10\n");
    }
    for family in ["ipv4", "ipv6"] {
        text += &format!(
            "\n[[service]]\nmark = 10\nfamily = \"{family}\"\nscheduler = \"rr\"\npersistent = 300\n"
        );
        for number in 1..=3 {
            let address = match family {
                "ipv4" => IpAddr::from(server_address(number)),
                _ => ipv6_of(server_address(number)).into(),
            };
            text +=
                &format!("\n[[service.server]]\naddress = \"{address}\"\nmethod = \"{}\"\n", method.name());
        }
    }
    text
}

/// The servers of some requests to both ports.
fn servers(site: &Site, director: &Director, vip: IpAddr) -> Result<BTreeSet<String>> {
    let mut servers = BTreeSet::new();
    for port in [80, 443, 80] {
        let greetings = curl::greet(&site.client, &SocketAddr::new(vip, port).to_string(), 4)?;
        greetings.all_answered(director).with_context(|| format!("{vip} {port}"))?;
        servers.extend(greetings.answers.into_iter().map(|answer| answer.server));
    }
    Ok(servers)
}

fn one_server_for_both_ports(method: Method) -> Result<()> {
    if !lab::may_run("one_server_for_both_ports") {
        return Ok(());
    }
    let site = Site::new(SiteOptions { ipv6: true, ..SiteOptions::default() })?;
    let _nginx = site.start_nginx()?;
    site.prepare_servers(method)?;
    let director = site.start_director(&config(&site, method))?;
    for (vip, client, template) in
        [(IpAddr::from(VIP), "10.0.0.1:0", "0.0.0.10:0"), (VIP6.into(), "[2001:db8:0::1]:0", "[0:a::]:0")]
    {
        let servers = servers(&site, &director, vip)?;
        ensure!(servers.len() == 1, "{method:?}, {vip}: {servers:?}");
        let connections = director.ipvsadm("-Lnc")?;
        let client = client.replace(":0::", "::");
        let is_template = |line: &&str| line.starts_with("IP  ") && line.contains(&client);
        let line = connections.lines().find(is_template).unwrap_or_default();
        ensure!(line.contains(template), "no template of {client} in:\n{connections}");
    }

    // What no rule marks does not even come by the director.
    for vip in [IpAddr::from(VIP), VIP6.into()] {
        let login = SocketAddr::new(vip, 22);
        echo::serve(&site.director, login)?;
        echo::Session::open(&site.client, login)?.say("hello")?;
    }
    let status = director.sluice("status")?;
    ensure!(status.contains(" punted 0 "), "{status}");
    let (status, log) = director.stop()?;
    ensure!(status.success(), "{status}:\n{log}");
    Ok(())
}

#[test]
fn one_server_for_both_ports_by_nat() -> Result<()> {
    one_server_for_both_ports(Method::Nat)
}

#[test]
fn one_server_for_both_ports_by_fullnat() -> Result<()> {
    one_server_for_both_ports(Method::FullNat)
}

#[test]
fn one_server_for_both_ports_by_dr() -> Result<()> {
    one_server_for_both_ports(Method::Dr)
}

#[test]
fn one_server_for_both_ports_by_tunnel() -> Result<()> {
    one_server_for_both_ports(Method::Tun)
}

/// All of it at run time, saved and restored; listings as Linux 6.1 and ipvsadm 1.31 print them.
#[test]
fn rules_come_and_go_at_run_time() -> Result<()> {
    if !lab::may_run("rules_come_and_go_at_run_time") {
        return Ok(());
    }
    let site = Site::new(SiteOptions::default())?;
    let _nginx = site.start_nginx()?;
    site.prepare_servers(Method::Nat)?;
    let director = site.start_director(&site.config())?;
    let vip = IpAddr::from(VIP);
    let answered = |port: u16| -> Result<bool> {
        let greetings = curl::greet(&site.client, &SocketAddr::new(vip, port).to_string(), 1)?;
        Ok(greetings.failed == 0)
    };
    let rules = "add --vip 192.0.2.10 --proto tcp --port 80,443 --in eth0 --set 10\n";
    director.sluice(&format!("mark {}", rules.trim()))?;
    ensure!(!answered(80)?, "an answer without a service");
    director.ipvsadm("-A -f 10 -s rr -p 300")?;
    for number in 1..=3 {
        director.ipvsadm(&format!("-a -f 10 -r 10.0.2.{number}:0 -m"))?;
    }
    ensure!(servers(&site, &director, vip)?.len() == 1, "more than one server");
    let listed = director.ipvsadm("-Ln")?;
    ensure!(
        listed.contains("FWM  10 rr persistent 300\n  -> 10.0.2.1:0                   Masq    1      0 "),
        "{listed}"
    );
    let listed = director.ipvsadm("-Ln --persistent-conn")?;
    ensure!(listed.contains("  -> 10.0.2.3:0                   1         1           0 "), "{listed}");
    let counted = director.sluice("mark list -n")?;
    ensure!(counted.lines().nth(1).is_some_and(|line| line.starts_with("1    12  ")), "{counted}");

    // A connection outlives its rule, and new ones are not made.
    let kept = SocketAddr::new(vip, 80);
    let mut stream = site.client.enter(|| std::net::TcpStream::connect(kept))??;
    let (saved, services) = (director.sluice("mark save")?, director.ipvsadm("-Sn")?);
    ensure!(saved == rules, "{saved}");
    director.sluice("mark flush")?;
    ensure!(!answered(443)?, "an answer without a rule");
    ask(&mut stream)?;

    director.ipvsadm("-C")?;
    restore(&site, &director, &["ipvsadm", "-R"], &services)?;
    restore(&site, &director, &["mark", "restore"], &saved)?;
    ensure!(
        director.ipvsadm("-Sn")? == services && director.sluice("mark save")? == saved,
        "restored otherwise"
    );
    ensure!(answered(80)? && answered(443)?, "no answer by what was restored");
    ask(&mut stream)?;
    Ok(())
}

/// A request on a connection that stays.
fn ask(stream: &mut std::net::TcpStream) -> Result<()> {
    use std::io::{Read, Write};
    stream.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let mut answer = [0; 512];
    ensure!(stream.read(&mut answer)? > 0, "the connection was closed");
    Ok(())
}

/// Feeds a file to a command by its standard input.
fn restore(site: &Site, director: &Director, words: &[&str], text: &str) -> Result<()> {
    let file = site.dir().join("saved");
    std::fs::write(&file, text)?;
    let mut command = Command::new(lab::sluice_binary()?);
    command.args(words).env("SLUICE_SOCKET", director.socket()).stdin(std::fs::File::open(&file)?);
    run(&mut command).map(drop)
}
