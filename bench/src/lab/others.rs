//! Other forwarders in the director's place, to compare it with: haproxy, nginx and the kernel's own NAT.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Netns;
use super::process::{Process, run, wait_for};

const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// What a forwarder is to do: TCP from a virtual address to servers in turn, all on one port.
#[derive(Clone, Copy, Debug)]
pub struct Forwarding<'a> {
    /// Where it runs.
    pub netns: &'a Netns,
    /// Where its files go.
    pub dir: &'a Path,
    /// The virtual address, which the namespace holds.
    pub vip: Ipv4Addr,
    /// The port.
    pub port: u16,
    /// The servers.
    pub servers: &'a [Ipv4Addr],
}

/// A program that takes connections and opens others for them, stopped when this is dropped.
#[derive(Debug)]
pub struct Proxy {
    _process: Process,
}

impl Proxy {
    /// Starts haproxy in TCP mode, with one thread.
    ///
    /// # Errors
    /// When it is not installed or does not come up.
    pub fn haproxy(forwarding: Forwarding) -> Result<Self> {
        let config = forwarding.dir.join("haproxy.cfg");
        std::fs::write(&config, haproxy_config(forwarding))?;
        let mut command = forwarding.netns.command("haproxy");
        command.arg("-db").arg("-f").arg(&config);
        start(forwarding, &mut command, "haproxy").context("haproxy, of the Debian package of that name")
    }

    /// Starts nginx with its stream module, with one process.
    ///
    /// # Errors
    /// When it is not installed or does not come up.
    pub fn nginx_stream(forwarding: Forwarding) -> Result<Self> {
        if !Path::new(NGINX_STREAM).exists() {
            bail!("no {NGINX_STREAM}: install the Debian package libnginx-mod-stream");
        }
        let dir = forwarding.dir.join("nginx-stream");
        std::fs::create_dir_all(&dir)?;
        let config = dir.join("nginx.conf");
        std::fs::write(&config, nginx_config(forwarding, &dir))?;
        let mut command = forwarding.netns.command("nginx");
        command.arg("-p").arg(&dir).arg("-e").arg(dir.join("error.log")).arg("-c").arg(&config);
        start(forwarding, &mut command, "nginx-stream")
    }
}

fn start(forwarding: Forwarding, command: &mut Command, name: &str) -> Result<Proxy> {
    let log = forwarding.dir.join(format!("{name}.log"));
    let file = std::fs::File::create(&log)?;
    let mut process = Process::start(command.stdout(file.try_clone()?).stderr(file))?;
    let address = SocketAddr::from((forwarding.vip, forwarding.port));
    wait_for(name, Duration::from_secs(10), || {
        if let Some(status) = process.ended()? {
            bail!("{name} ended ({status})");
        }
        forwarding.netns.enter(|| TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok())
    })
    .with_context(|| format!("{name} said: {}", std::fs::read_to_string(&log).unwrap_or_default()))?;
    Ok(Proxy { _process: process })
}

fn haproxy_config(Forwarding { vip, port, servers, .. }: Forwarding) -> String {
    let mut text = format!(
        "global
    nbthread 1
    maxconn 5000
defaults
    mode tcp
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend service
    bind {vip}:{port} backlog 4096
    default_backend servers
backend servers
    balance roundrobin
"
    );
    for (server, number) in servers.iter().zip(1..) {
        let _ = writeln!(text, "    server rs{number} {server}:{port}");
    }
    text
}

fn nginx_config(Forwarding { vip, port, servers, .. }: Forwarding, dir: &Path) -> String {
    let dir = dir.display();
    let servers: String = servers.iter().map(|server| format!("        server {server}:{port};\n")).collect();
    format!(
        "load_module {NGINX_STREAM};
daemon off;
master_process off;
pid {dir}/pid;
error_log {dir}/error.log;
events {{ worker_connections 10000; }}
stream {{
    upstream servers {{
{servers}    }}
    server {{
        listen {vip}:{port} backlog=4096;
        proxy_pass servers;
    }}
}}
"
    )
}

/// Destination NAT by nftables and the kernel's connection tracking, taken off when this is dropped.
#[derive(Debug)]
pub struct Dnat {
    netns: Netns,
}

impl Dnat {
    /// Sets it up.
    ///
    /// # Errors
    /// When nft is not installed, or the kernel has no NAT.
    pub fn start(forwarding: Forwarding) -> Result<Self> {
        let rules = forwarding.dir.join("dnat.nft");
        std::fs::write(&rules, nft_rules(forwarding))?;
        let netns = forwarding.netns;
        run(netns.command("nft").arg("-f").arg(&rules)).context("nft, of the Debian package nftables")?;
        let dnat = Self { netns: netns.clone() };
        // Connections that are over would fill the table, which cannot be made larger for one namespace.
        for state in ["time_wait", "close_wait", "fin_wait", "last_ack", "close"] {
            netns.sysctl(&format!("net.netfilter.nf_conntrack_tcp_timeout_{state}"), "1")?;
        }
        Ok(dnat)
    }
}

impl Drop for Dnat {
    fn drop(&mut self) {
        // Nothing to do about a failure: it goes with its namespace.
        let _ = run(self.netns.command("nft").args(["delete", "table", "ip", "compare"]));
    }
}

fn nft_rules(Forwarding { vip, port, servers, .. }: Forwarding) -> String {
    let map: Vec<_> =
        servers.iter().enumerate().map(|(place, server)| format!("{place} : {server}")).collect();
    format!(
        "table ip compare {{
    chain prerouting {{
        type nat hook prerouting priority dstnat; policy accept;
        ip daddr {vip} tcp dport {port} dnat to numgen inc mod {} map {{ {} }}
    }}
}}
",
        servers.len(),
        map.join(", ")
    )
}

/// The version that a program tells, in the words in which it does.
#[must_use]
pub fn version(program: &str, option: &str) -> Option<String> {
    let output = Command::new(program).arg(option).stdin(Stdio::null()).output().ok()?;
    // nginx tells it on stderr.
    let said = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&said);
    Some(text.lines().next()?.trim().to_owned()).filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_take_turns_by_any_name() {
        let netns = Netns::named("none");
        let servers = [Ipv4Addr::new(10, 0, 2, 1), Ipv4Addr::new(10, 0, 2, 2)];
        let (dir, vip) = (Path::new("/tmp/x"), Ipv4Addr::new(192, 0, 2, 10));
        let forwarding = Forwarding { netns: &netns, dir, vip, port: 80, servers: &servers };
        let nft = nft_rules(forwarding);
        assert!(nft.contains("numgen inc mod 2 map { 0 : 10.0.2.1, 1 : 10.0.2.2 }"), "{nft}");
        let haproxy = haproxy_config(forwarding);
        assert!(
            haproxy.contains("bind 192.0.2.10:80") && haproxy.contains("server rs2 10.0.2.2:80"),
            "{haproxy}"
        );
        let nginx = nginx_config(forwarding, dir);
        assert!(nginx.contains("server 10.0.2.1:80;") && nginx.contains("listen 192.0.2.10:80"), "{nginx}");
        assert_eq!(nginx.matches('{').count(), nginx.matches('}').count());
    }
}
