//! Files by FTP, with a real server and real clients: by each method, in active and in passive mode.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use sluice_bench::lab::echo::{self, Session};
use sluice_bench::lab::ftp::{Ftp, Mode, PASSIVE_PORTS};
use sluice_bench::lab::site::{Method, VIP, VIP6, ipv6_of, server_address, sha256};
use sluice_bench::lab::{self, Director, Site, SiteOptions, curl, run};

const BLOB: usize = 3_000_000;

/// A site with an FTP server on each real server, and a director in front of them.
struct Files {
    site: Site,
    servers: Vec<Ftp>,
    director: Director,
    host: String,
    sum: String,
}

impl Files {
    fn new(
        vip: IpAddr,
        method: Method,
        of_servers: Family,
        options: SiteOptions,
        more: &str,
    ) -> Result<Self> {
        let service = Site::service_between(vip, "tcp", 21, "rr", method, |address| match of_servers {
            Family::V4 => address.into(),
            Family::V6 => ipv6_of(address).into(),
        });
        let service = service.replace("scheduler = \"rr\"\n", &format!("scheduler = \"rr\"\n{more}"));
        Files::behind(vip, method, options, &service)
    }

    /// The same with a service as in the configuration.
    fn behind(vip: IpAddr, method: Method, options: SiteOptions, service: &str) -> Result<Self> {
        let site = Site::new(options)?;
        let blob = site.make_blob(BLOB)?;
        let servers = site.start_ftp()?;
        site.prepare_servers(method)?;
        let config = format!("{}ftp_passive_ports = \"{PASSIVE_PORTS}\"\n{service}", site.config());
        let director = site.start_director(&config)?;
        let host = match vip {
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) => format!("[{v6}]"),
        };
        Ok(Files { sum: sha256(&blob)?, site, servers, director, host })
    }

    fn url(&self, path: &str) -> String {
        format!("ftp://{}/{path}", self.host)
    }

    /// Files go both ways, several on one control connection.
    fn exchange(&self, mode: Mode) -> Result<()> {
        let client = &self.site.client;
        let files: Vec<_> = (0..3).map(|n| curl::target(self.site.dir(), &format!("{mode:?}-{n}"))).collect();
        let urls = ["blob", "name", "blob"].map(|path| self.url(path));
        mode.download(client, &urls, &files)?;
        ensure!(sha256(&files[0])? == self.sum && sha256(&files[2])? == self.sum, "a download differs");
        let name = std::fs::read_to_string(&files[1])?;
        ensure!(name.starts_with("rs"), "{name:?}");

        let name = format!("{mode:?}");
        mode.upload(client, &self.site.dir().join("blob"), &self.url(&format!("upload/{name}")))?;
        let there: Vec<_> = self.servers.iter().map(|s| s.uploaded(&name)).filter(|p| p.exists()).collect();
        ensure!(there.len() == 1, "{there:?}");
        ensure!(sha256(&there[0])? == self.sum, "the upload differs");
        let list = mode.list(client, &self.url(""))?;
        ensure!(list.contains("blob") && list.contains(&BLOB.to_string()), "{list}");
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Family {
    V4,
    V6,
}

fn transfers(what: &str, vip: IpAddr, method: Method, of_servers: Family, modes: &[Mode]) -> Result<()> {
    if !lab::may_run(what) {
        return Ok(());
    }
    let ipv6 = vip.is_ipv6() || matches!(of_servers, Family::V6);
    let options = SiteOptions { ipv6, ..SiteOptions::default() };
    let files = Files::new(vip, method, of_servers, options, "")?;
    for mode in modes {
        let done = files.exchange(*mode);
        let log = files.director.log();
        done.map_err(|error| error.context(format!("{mode:?}; the director said:\n{log}")))?;
    }
    let (status, log) = files.director.stop()?;
    ensure!(status.success(), "{status}:\n{log}");
    Ok(())
}

#[test]
fn by_nat() -> Result<()> {
    transfers("by_nat", VIP.into(), Method::Nat, Family::V4, &Mode::ALL)
}

#[test]
fn by_fullnat() -> Result<()> {
    transfers("by_fullnat", VIP.into(), Method::FullNat, Family::V4, &Mode::ALL)
}

#[test]
fn by_nat_over_ipv6() -> Result<()> {
    transfers("by_nat_over_ipv6", VIP6.into(), Method::Nat, Family::V6, &[Mode::Epsv, Mode::Eprt])
}

#[test]
fn by_fullnat_over_ipv6() -> Result<()> {
    transfers("by_fullnat_over_ipv6", VIP6.into(), Method::FullNat, Family::V6, &[Mode::Epsv, Mode::Eprt])
}

#[test]
fn from_ipv6_to_ipv4() -> Result<()> {
    transfers("from_ipv6_to_ipv4", VIP6.into(), Method::FullNat, Family::V4, &[Mode::Epsv, Mode::Eprt])
}

#[test]
fn from_ipv4_to_ipv6() -> Result<()> {
    transfers("from_ipv4_to_ipv6", VIP.into(), Method::FullNat, Family::V6, &Mode::ALL)
}

/// Where replies bypass the director, the client's template decides.
fn by_persistence(what: &str, method: Method) -> Result<()> {
    if !lab::may_run(what) {
        return Ok(());
    }
    let options = SiteOptions::default();
    in_all_modes(&Files::new(VIP.into(), method, Family::V4, options, "persistent = 60\n")?)
}

/// A mark binds the control port and those of data connections.
fn by_mark(what: &str, method: Method) -> Result<()> {
    if !lab::may_run(what) {
        return Ok(());
    }
    let mut service = format!(
        "\n[[mark]]\nvip = \"{VIP}\"\nprotocol = \"tcp\"\nports = [20, 21, \"{PASSIVE_PORTS}\"]\nset = 21\n\
         \n[[service]]\nmark = 21\nscheduler = \"rr\"\npersistent = 60\n"
    );
    for number in 1..=3 {
        let (address, method) = (server_address(number), method.name());
        service += &format!("\n[[service.server]]\naddress = \"{address}\"\nmethod = \"{method}\"\n");
    }
    let files = Files::behind(VIP.into(), method, SiteOptions::default(), &service)?;
    in_all_modes(&files)?;
    let connections = files.director.ipvsadm("-Lnc")?;
    ensure!(connections.contains("0.0.0.21:0"), "no template of the mark in:\n{connections}");
    Ok(())
}

#[test]
fn by_dr_and_a_mark() -> Result<()> {
    by_mark("by_dr_and_a_mark", Method::Dr)
}

#[test]
fn by_a_tunnel_and_a_mark() -> Result<()> {
    by_mark("by_a_tunnel_and_a_mark", Method::Tun)
}

fn in_all_modes(files: &Files) -> Result<()> {
    for mode in Mode::ALL {
        let done = files.exchange(mode);
        let log = files.director.log();
        done.map_err(|error| error.context(format!("{mode:?}; the director said:\n{log}")))?;
    }
    Ok(())
}

#[test]
fn by_dr_and_persistence() -> Result<()> {
    by_persistence("by_dr_and_persistence", Method::Dr)
}

#[test]
fn by_a_tunnel_and_persistence() -> Result<()> {
    by_persistence("by_a_tunnel_and_persistence", Method::Tun)
}

/// Data connections arrive on any queue; those of the kernel are untouched; and they are listed as IPVS does.
#[test]
fn beside_other_connections() -> Result<()> {
    if !lab::may_run("beside_other_connections") {
        return Ok(());
    }
    let options = SiteOptions { queues: 2, ..SiteOptions::default() };
    for method in [Method::Nat, Method::FullNat] {
        let files = Files::new(VIP.into(), method, Family::V4, options, "")?;
        let site = &files.site;
        // Beside, among and above the ports of passive mode.
        let mut sessions = Vec::new();
        for port in [22, 1024, 50_500, 60_000] {
            let address = SocketAddr::from((VIP, port));
            echo::serve(&site.director, address)?;
            let mut session = Session::open(&site.client, address)?;
            session.say("before")?;
            sessions.push(session);
        }
        for mode in Mode::ALL {
            files.exchange(mode)?;
            sessions.iter_mut().try_for_each(|session| session.say("between"))?;
        }
        let listed = files.director.ipvsadm("-Lnc")?;
        let data = listed.lines().filter(|line| line.contains(" 192.0.2.10:50")).count();
        let active = listed.lines().filter(|line| line.contains(" 192.0.2.10:20 ")).count();
        ensure!(data >= 8 && active >= 8, "{data} and {active} data connections in:\n{listed}");
    }
    Ok(())
}

/// Another client than curl: it mirrors a directory in parallel connections.
#[test]
fn lftp_mirrors() -> Result<()> {
    if !lab::may_run("lftp_mirrors") {
        return Ok(());
    }
    let files = Files::new(VIP.into(), Method::FullNat, Family::V4, SiteOptions::default(), "")?;
    for passive in ["on", "off"] {
        let into = files.site.dir().join(format!("mirror-{passive}"));
        let script = format!(
            "set net:timeout 5; set net:max-retries 2; set ftp:passive-mode {passive}; open ftp://{VIP}; \
             mirror --parallel=3 / {}; exit",
            into.display()
        );
        let mut command = files.site.client.command("lftp");
        run(command.args(["-c", &script]).env("HOME", files.site.dir()))?;
        ensure!(sha256(&into.join("blob"))? == files.sum, "passive mode {passive}");
    }
    Ok(())
}
