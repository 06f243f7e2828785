//! Servers of direct routing and of tunnels are asked for the VIP itself: one that does not have it is down, though it
//! answers at its own address.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sluice_bench::lab::site::{Method, VIP, VIP6, ipv6_of, server_address};
use sluice_bench::lab::{self, Director, Netns, Site, SiteOptions, curl, run, sluice_binary, wait_for};

const PATIENCE: Duration = Duration::from_secs(15);

const CHECK: &str = "interval = 0.2\njitter = 0.02\ntimeout = 1\nvip = true\n";

fn config(site: &Site, vip: IpAddr, method: Method, server: impl Fn(u8) -> IpAddr) -> String {
    let mut text = site.config();
    let kinds = [
        (80, "tcp", "kind = \"http\"\npath = \"/.health.html\"\nmatches = \"^OK$\"\n"),
        (53, "udp", "kind = \"dns\"\nname = \"whoami.lab\"\nrecord = \"TXT\"\n"),
    ];
    for (port, protocol, check) in kinds {
        let address = SocketAddr::new(vip, port);
        text += &format!(
            "[[service]]\naddress = \"{address}\"\nprotocol = \"{protocol}\"\nscheduler = \"rr\"\n\
             [[service.check]]\n{check}{CHECK}"
        );
        for number in [1, 2] {
            let (address, method) = (server(number), method.name());
            text += &format!("[[service.server]]\naddress = \"{address}\"\nmethod = \"{method}\"\n");
        }
    }
    text
}

/// State and reason of each server of each service.
fn states(director: &Director) -> Result<Vec<(String, String)>> {
    let mut states = Vec::new();
    for line in director.sluice("health --json")?.lines() {
        let service: serde_json::Value = serde_json::from_str(line)?;
        for server in service["servers"].as_array().context("no servers")? {
            let text = |key: &str| server[key].as_str().unwrap_or("?").to_owned();
            states.push((text("state"), text("reason")));
        }
    }
    Ok(states)
}

fn wait_states(director: &Director, wanted: [&str; 2]) -> Result<()> {
    wait_for(&format!("{wanted:?}"), PATIENCE, || {
        let states = states(director)?;
        let expected = wanted.iter().chain(&wanted);
        Ok(states.iter().map(|(state, _)| state.as_str()).eq(expected.copied()))
    })
    .with_context(|| format!("{:?}; the director said:\n{}", states(director), director.log()))
}

fn realserver(server: &Netns, what: &str, method: Method, vip: IpAddr) -> Result<()> {
    let mut command = server.command(&sluice_binary()?.display().to_string());
    command.args(["realserver", what, "--vip", &vip.to_string(), "--method", method.name(), "--dev", "eth0"]);
    run(&mut command).map(drop)
}

/// What `control/docs/methods.md` says to type where there is no `sluice realserver`.
fn by_hand(server: &Netns, vip: IpAddr) -> Result<()> {
    for interface in ["all", "eth0"] {
        server.sysctl(&format!("net.ipv4.conf.{interface}.arp_ignore"), "1")?;
        server.sysctl(&format!("net.ipv4.conf.{interface}.arp_announce"), "2")?;
    }
    let bits = if vip.is_ipv4() { 32 } else { 128 };
    server.ip(&[format!("address add {vip}/{bits} dev lo")])
}

fn without_the_vip(name: &str, vip: IpAddr, method: Method, hand: bool) -> Result<()> {
    if !lab::may_run(name) {
        return Ok(());
    }
    let server = |number| match vip {
        IpAddr::V4(_) => IpAddr::from(server_address(number)),
        IpAddr::V6(_) => ipv6_of(server_address(number)).into(),
    };
    let site = Site::new(SiteOptions { ipv6: vip.is_ipv6(), ..SiteOptions::default() })?;
    let nginx = site.start_nginx()?;
    nginx.iter().try_for_each(|nginx| nginx.set_health("OK"))?;
    let _dns = site.start_dns()?;
    let [first, second] = [&site.servers[0], &site.servers[1]];
    let up = |netns| if hand { by_hand(netns, vip) } else { realserver(netns, "up", method, vip) };
    up(second)?;
    let director = site.start_director(&config(&site, vip, method, server))?;
    // The first one answers at its own address and does not have the VIP.
    let own = format!("http://{}/.health.html", SocketAddr::new(server(1), 80));
    ensure!(run(site.director.command("curl").args(["-s", "-m", "5", "--", &own]))?.contains("OK"));
    wait_states(&director, ["down", "up"])?;
    let host = if vip.is_ipv4() { vip.to_string() } else { format!("[{vip}]") };
    let greetings = curl::greet(&site.client, &host, 10)?;
    let served: Vec<_> = greetings.answers.iter().map(|answer| answer.server.as_str()).collect();
    ensure!(greetings.failed == 0 && served.iter().all(|server| *server == "rs2"), "{served:?}");
    up(first)?;
    wait_states(&director, ["up", "up"])?;
    if hand {
        let bits = if vip.is_ipv4() { 32 } else { 128 };
        second.ip(&[format!("address del {vip}/{bits} dev lo")])?;
    } else {
        realserver(second, "down", method, vip)?;
    }
    wait_states(&director, ["up", "down"])?;
    let (status, log) = director.stop()?;
    ensure!(status.success(), "{status}:\n{log}");
    Ok(())
}

#[test]
fn direct_routing_without_the_vip() -> Result<()> {
    without_the_vip("direct_routing_without_the_vip", VIP.into(), Method::Dr, true)
}

#[test]
fn direct_routing_without_the_vip_by_ipv6() -> Result<()> {
    without_the_vip("direct_routing_without_the_vip_by_ipv6", VIP6.into(), Method::Dr, true)
}

#[test]
fn a_tunnel_without_the_vip() -> Result<()> {
    without_the_vip("a_tunnel_without_the_vip", VIP.into(), Method::Tun, false)
}

#[test]
fn a_tunnel_without_the_vip_by_ipv6() -> Result<()> {
    without_the_vip("a_tunnel_without_the_vip_by_ipv6", VIP6.into(), Method::Tun, false)
}

/// What goes to a server by an interface that is not the director's goes to its own address, and says nothing of the VIP.
#[test]
fn a_check_that_goes_another_way_fails() -> Result<()> {
    if !lab::may_run("a_check_that_goes_another_way_fails") {
        return Ok(());
    }
    let site = Site::new(SiteOptions::default())?;
    let nginx = site.start_nginx()?;
    nginx.iter().try_for_each(|nginx| nginx.set_health("OK"))?;
    site.prepare_servers(Method::Dr)?;
    let config = config(&site, VIP.into(), Method::Dr, |number| server_address(number).into());
    let director = site.start_director(&config.replace("[\"eth0\", \"eth1\"]", "[\"eth0\"]"))?;
    wait_states(&director, ["down", "down"])?;
    let states = states(&director)?;
    let other = states.iter().find(|(_, reason)| !reason.contains("does not lead out of an interface"));
    ensure!(other.is_none(), "{states:?}");
    Ok(())
}
