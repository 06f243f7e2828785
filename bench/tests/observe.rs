//! What operators look at: metrics, the web page in a real browser, events, connections, and `sluice top` in a terminal.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sluice_bench::lab::site::{Method, VIP};
use sluice_bench::lab::{self, Browser, Director, Site, SiteOptions, curl, run, wait_for};

const REQUESTS: usize = 30;

fn served(site: &Site) -> Result<Director> {
    let director = site.start_director(&(site.config() + &site.service("tcp", 80, "rr", Method::FullNat)))?;
    let greetings = curl::greet(&site.client, &VIP.to_string(), REQUESTS)?;
    ensure!(greetings.failed == 0, "{} failed", greetings.failed);
    Ok(director)
}

fn get(site: &Site, path: &str) -> Result<String> {
    let url = format!("http://127.0.0.1:9180{path}");
    run(site.director.command("curl").args(["--silent", "--show-error", "--fail", "--max-time", "10", &url]))
}

/// The value of one line of /metrics.
fn metric(text: &str, name: &str) -> Result<f64> {
    let line =
        text.lines().find(|line| line.starts_with(name)).with_context(|| format!("no {name} in {text}"))?;
    Ok(line.rsplit(' ').next().unwrap_or_default().parse()?)
}

#[test]
fn metrics_count_what_was_forwarded() -> Result<()> {
    if !lab::may_run("metrics_count_what_was_forwarded") {
        return Ok(());
    }
    let site = Site::new(SiteOptions::default())?;
    let _nginx = site.start_nginx()?;
    let _director = served(&site)?;
    let text = get(&site, "/metrics")?;
    let service = format!("{{service=\"tcp {VIP}:80\"}}");
    let begun = metric(&text, &format!("sluice_service_scheduled_connections_total{service}"))?;
    ensure!(begun == REQUESTS as f64, "{begun} connections");
    for number in 1..=3 {
        let name = format!(
            "sluice_server_scheduled_connections_total{{service=\"tcp {VIP}:80\",server=\"{}:80\"}}",
            lab::site::server_address(number)
        );
        let given = metric(&text, &name)?;
        ensure!(given > 0.0 && given < begun, "{name} {given}");
    }
    // Each request takes six packets of the client at least: SYN, ACK, request, two ACKs or FINs, last ACK.
    let packets =
        metric(&text, &format!("sluice_service_packets_total{{service=\"tcp {VIP}:80\",direction=\"in\"}}"))?;
    ensure!(packets >= 4.0 * begun, "{packets} packets");
    // Whoever cannot get onto the director cannot look either.
    let url = format!("http://{VIP}:9180/metrics");
    let from_outside = run(site.client.command("curl").args(["--silent", "--max-time", "2", &url]));
    ensure!(from_outside.is_err(), "it is served to the world");
    Ok(())
}

#[test]
fn the_page_shows_it_in_a_browser() -> Result<()> {
    if !lab::may_run("the_page_shows_it_in_a_browser") {
        return Ok(());
    }
    let site = Site::new(SiteOptions::default())?;
    let Some(browser) = Browser::find(&site.director, site.dir()) else {
        lab::skipped("the_page_shows_it_in_a_browser", "needs chromium");
        return Ok(());
    };
    let _nginx = site.start_nginx()?;
    let director = served(&site)?;
    director.ipvsadm(&format!("-A -t {VIP}:8443 -s wlc"))?;
    let url = "http://127.0.0.1:9180/";
    let mut document = String::new();
    wait_for("both services in the page", Duration::from_secs(60), || {
        document = browser.document(url, 5000)?;
        Ok(document.contains(&format!("{VIP}:80")) && document.contains(&format!("{VIP}:8443")))
    })
    .with_context(|| document.clone())?;
    for shown in ["eth0", "eth1", "no other director", "<svg", "Worker"] {
        let shown_there = document.to_lowercase().contains(&shown.to_lowercase());
        ensure!(shown_there, "{shown} is not in {document}");
    }
    let directory = screenshots()?;
    for (name, size) in [("page.png", (1280, 1400)), ("page-phone.png", (390, 1600))] {
        let file = directory.join(name);
        browser.picture(url, 5000, size, &file)?;
        let bytes = std::fs::metadata(&file)?.len();
        ensure!(bytes > 20_000, "{name} of {bytes} bytes is empty");
    }
    Ok(())
}

/// Where pictures are kept, beside the test's own program.
fn screenshots() -> Result<PathBuf> {
    let this = std::env::current_exe()?;
    let target = this.ancestors().nth(3).context("a test lies in TARGET/PROFILE/deps")?;
    let directory = target.join("screenshots");
    std::fs::create_dir_all(&directory)?;
    Ok(directory)
}

#[test]
fn events_and_connections_are_listed() -> Result<()> {
    if !lab::may_run("events_and_connections_are_listed") {
        return Ok(());
    }
    let site = Site::new(SiteOptions::default())?;
    let _nginx = site.start_nginx()?;
    let director = served(&site)?;
    director.ipvsadm(&format!("-A -t {VIP}:8443 -s wlc"))?;
    let events = director.sluice("events")?;
    ensure!(events.contains(&format!("{VIP}:8443")), "{events}");

    let all = director.sluice("connections --count")?;
    ensure!(all.split_whitespace().next() == Some("30"), "{all}");
    let server = lab::site::server_address(1);
    let some = director.sluice(&format!("connections --server {server}"))?;
    ensure!(some.contains(&server.to_string()), "{some}");
    ensure!(!some.contains(&format!("{}:80", lab::site::server_address(2))), "{some}");
    let none = director.sluice("connections --client 198.18.0.1 --count")?;
    ensure!(none.split_whitespace().next() == Some("0"), "{none}");
    Ok(())
}

/// In a terminal of `script`'s making, with the key that ends it typed.
#[test]
fn top_draws_and_ends() -> Result<()> {
    if !lab::may_run("top_draws_and_ends") {
        return Ok(());
    }
    let site = Site::new(SiteOptions::default())?;
    let _nginx = site.start_nginx()?;
    let director = served(&site)?;
    let binary = lab::sluice_binary()?;
    let command = format!("stty cols 120 rows 40; {} top", binary.display());
    let typescript = site.dir().join("typescript");
    let mut child = site
        .director
        .command("script")
        .args(["--quiet", "--return", "--flush", "--command", &command])
        .arg(&typescript)
        .env("SLUICE_SOCKET", director.socket())
        .env("TERM", "xterm-256color")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    let drawn = wait_for("the service on the screen", Duration::from_secs(20), || {
        Ok(std::fs::read(&typescript)
            .is_ok_and(|text| String::from_utf8_lossy(&text).contains(&format!("{VIP}:80"))))
    });
    use std::io::Write;
    child.stdin.take().context("a pipe")?.write_all(b"q")?;
    let status = child.wait()?;
    drawn?;
    ensure!(status.success(), "{status}");
    Ok(())
}
