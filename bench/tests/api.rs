//! The API as operators' programs use it: curl on the Unix socket, and who may.

use std::fs::{Permissions, set_permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::process::{Output, Stdio};

use anyhow::{Context, Result, ensure};
use sluice_bench::lab::site::{Method, VIP};
use sluice_bench::lab::{self, Director, Site, SiteOptions, curl, sluice_binary};

/// A group that every Debian has, and its number there.
const GROUP: (&str, &str) = ("daemon", "1");

/// Users as options of setpriv: root, nobody, and nobody as a member of the group beside its own one.
const ROOT: &[&str] = &["--reuid=0", "--regid=0", "--clear-groups"];
const NOBODY: &[&str] = &["--reuid=65534", "--regid=65534", "--clear-groups"];
const MEMBER: &[&str] = &["--reuid=65534", "--regid=65534", "--groups=1"];

fn of(site: &Site, who: &[&str], director: &Director, program: &[&str]) -> Result<Output> {
    let mut command = site.director.command("setpriv");
    command.args(who).args(program).env("SLUICE_SOCKET", director.socket());
    Ok(command.stdout(Stdio::piped()).stderr(Stdio::piped()).output()?)
}

/// Status, and body or what curl said.
fn ask(
    site: &Site,
    who: &[&str],
    director: &Director,
    (method, path): (&str, &str),
    body: &str,
) -> Result<(u16, String)> {
    let socket = director.socket().to_str().context("a path that is text")?;
    let url = format!("http://sluice{path}");
    let mut words = vec!["curl", "--silent", "--show-error", "--globoff", "--max-time", "20"];
    words.extend(["--unix-socket", socket, "--request", method, "--write-out", "%{http_code}", &url]);
    if !body.is_empty() {
        words.extend(["--data-raw", body]);
    }
    let Output { stdout, stderr, .. } = of(site, who, director, &words)?;
    let text = String::from_utf8(stdout)?;
    let (body, status) = text.split_at(text.len().saturating_sub(3));
    Ok((status.parse().unwrap_or(0), format!("{body}{}", String::from_utf8_lossy(&stderr))))
}

#[test]
fn curl_does_what_the_commands_do() -> Result<()> {
    if !lab::may_run("curl_does_what_the_commands_do") {
        return Ok(());
    }
    let site = Site::new(SiteOptions::default())?;
    let _nginx = site.start_nginx()?;
    let director = site.start_director(&site.config())?;
    let asked = |call, body: &str| ask(&site, ROOT, &director, call, body);
    let service = format!(
        r#"{{"service":{{"address":{{"protocol":"tcp","address":"{VIP}","port":80}}}},"settings":{{"scheduler":"rr"}}}}"#
    );
    let (path, server) = (format!("/v1/services/tcp/{VIP}:80"), lab::site::server_address(1));
    ensure!(asked(("POST", "/v1/services"), &service)? == (204, String::new()));
    let servers = format!("{path}/servers");
    let answer =
        asked(("POST", &servers), &format!(r#"{{"address":"{server}","port":80,"method":"fullnat"}}"#))?;
    ensure!(answer.0 == 204, "{answer:?}");
    let greetings = curl::greet(&site.client, &VIP.to_string(), 10)?;
    ensure!(greetings.failed == 0, "{} failed", greetings.failed);

    let (status, listing) = asked(("GET", &path), "")?;
    let listing: serde_json::Value = serde_json::from_str(&listing)?;
    ensure!(status == 200 && listing["traffic"]["connections"] == 10, "{listing}");
    let ten = format!("/v1/connections?service={VIP}:80&count");
    let found = asked(("GET", &ten), "")?;
    ensure!(found == (200, "{\"count\":10}\n".into()), "{found:?}");
    let (status, lines) = asked(("GET", "/v1/connections?limit=3"), "")?;
    ensure!(status == 200 && lines.lines().count() == 3, "{lines}");
    let (status, document) = asked(("GET", "/openapi.json"), "")?;
    ensure!(status == 200 && document == director.sluice("openapi")?);
    let (status, reloaded) = asked(("POST", "/v1/reload?dry_run"), "")?;
    ensure!(status == 200 && reloaded.contains(r#""action":"remove""#), "{reloaded}");
    ensure!(asked(("DELETE", &path), "")?.0 == 204);
    ensure!(asked(("GET", &path), "")?.0 == 404);
    ensure!(director.ipvsadm("-Sn")?.is_empty());
    Ok(())
}

#[test]
fn only_root_and_members_of_the_group_are_answered() -> Result<()> {
    if !lab::may_run("only_root_and_members_of_the_group_are_answered") {
        return Ok(());
    }
    let site = Site::new(SiteOptions::default())?;
    set_permissions(site.dir(), Permissions::from_mode(0o755))?;
    let director = site.start_director(&site.config())?;
    ensure!(director.socket().metadata()?.mode() & 0o7777 == 0o600);
    let role = ("GET", "/v1/role");
    ensure!(ask(&site, ROOT, &director, role, "")?.0 == 200);
    for who in [NOBODY, MEMBER] {
        let refused = ask(&site, who, &director, role, "")?;
        ensure!(refused.0 == 0, "the file lets {who:?} in: {refused:?}");
    }
    // Whatever becomes of the file, the director looks at who it is.
    set_permissions(director.socket(), Permissions::from_mode(0o666))?;
    for who in [NOBODY, MEMBER] {
        let refused = ask(&site, who, &director, role, "")?;
        ensure!(refused.0 == 403 && refused.1.contains("permission_denied"), "{refused:?}");
    }
    let (status, log) = director.stop()?;
    ensure!(status.success(), "{log}");

    let open = site.config().replacen("[director]", &format!("[director]\napi_group = \"{}\"", GROUP.0), 1);
    let director = site.start_director(&open)?;
    let metadata = director.socket().metadata()?;
    ensure!((metadata.mode() & 0o7777, metadata.gid().to_string().as_str()) == (0o660, GROUP.1));
    ensure!(ask(&site, NOBODY, &director, role, "")?.0 == 0);
    ensure!(ask(&site, MEMBER, &director, role, "")? == (200, "{\"role\":\"active\"}\n".into()));
    let timeouts = r#"{"tcp":1000,"tcp_fin":0,"udp":0}"#;
    ensure!(ask(&site, MEMBER, &director, ("PUT", "/v1/timeouts"), timeouts)?.0 == 204);
    ensure!(director.ipvsadm("-L --timeout")?.contains("1000 120 300"));
    // A member could otherwise have the director give up its queues.
    let refused = ask(&site, MEMBER, &director, ("POST", "/v1/takeover"), r#"{"interfaces":["eth0"]}"#)?;
    ensure!(refused.0 == 403, "{refused:?}");
    set_permissions(director.socket(), Permissions::from_mode(0o666))?;
    ensure!(ask(&site, NOBODY, &director, role, "")?.0 == 403);
    let sluice = sluice_binary()?.display().to_string();
    let applet = of(&site, NOBODY, &director, &[&sluice, "ipvsadm", "-Ln"])?;
    let said = String::from_utf8_lossy(&applet.stderr);
    ensure!(said.contains("Permission denied (you must be root)") && !applet.status.success(), "{said}");
    Ok(())
}

#[test]
fn clients_that_hang_hold_up_neither_packets_nor_others() -> Result<()> {
    if !lab::may_run("clients_that_hang_hold_up_neither_packets_nor_others") {
        return Ok(());
    }
    let site = Site::new(SiteOptions::default())?;
    let _nginx = site.start_nginx()?;
    let director = site.start_director(&(site.config() + &site.service("tcp", 80, "rr", Method::FullNat)))?;
    let hanging = [
        "G",
        "GET /v1/status HTTP/1.1\r\nx: ",
        "POST /v1/services HTTP/1.1\r\ncontent-length: 9999\r\n\r\n{",
        "GET /v1/events?follow HTTP/1.1\r\n\r\n",
        "GET /v1/connections HTTP/1.1\r\n\r\n",
    ];
    let mut held = Vec::new();
    for bytes in hanging.iter().cycle().take(60) {
        let mut stream = UnixStream::connect(director.socket())?;
        stream.write_all(bytes.as_bytes())?;
        held.push(stream);
    }
    let greetings = curl::greet(&site.client, &VIP.to_string(), 30)?;
    ensure!(greetings.failed == 0, "{} failed", greetings.failed);
    ensure!(director.sluice("connections --count")?.starts_with("30"));
    drop(held);
    let (status, log) = director.stop()?;
    ensure!(status.success(), "{log}");
    Ok(())
}
