//! The lab itself: what it builds works, and nothing of it stays.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sluice_bench::lab::{self, Site, SiteOptions, curl, run, site};

#[test]
fn servers_answer_the_client_over_the_router_and_nothing_stays() -> anyhow::Result<()> {
    if !lab::may_run(module_path!()) {
        return Ok(());
    }
    let started = Instant::now();
    let site = Site::new(SiteOptions::default())?;
    eprintln!("built in {:?}", started.elapsed());
    let name = site.client.name().trim_end_matches("cl").to_owned();
    let nginx = site.start_nginx()?;
    let dns = site.start_dns()?;
    eprintln!("servers after {:?}", started.elapsed());

    let before = site.director.counters("eth1")?;
    let greetings = curl::greet(&site.client, "10.0.2.2", 3)?;
    assert_eq!(greetings.failed, 0);
    for greeting in &greetings.answers {
        assert_eq!((greeting.server.as_str(), greeting.client), ("rs2", site::CLIENT.into()));
    }
    let server = std::net::SocketAddr::from((site::server_address(3), 53));
    assert_eq!(lab::ask_name(&site.client, server, Duration::from_secs(1))?, "rs3");
    assert!(site.director.counters("eth1")?.since(before).tx_packets <= 4, "the router has a leg of its own");

    let blob = site.make_blob(1_000_000)?;
    let got = curl::target(site.dir(), "x");
    curl::download(&site.client, "http://10.0.2.1/blob", &got)?;
    assert_eq!(site::sha256(&got)?, site::sha256(&blob)?);
    curl::upload(&site.client, &blob, "http://10.0.2.1/upload/up")?;
    assert_eq!(site::sha256(&nginx[0].uploaded("up"))?, site::sha256(&blob)?);

    let dir = site.dir().to_owned();
    drop((nginx, dns));
    let started = Instant::now();
    drop(site);
    eprintln!("removed in {:?}", started.elapsed());
    assert!(!dir.exists());
    assert!(!run(Command::new("ip").args(["netns", "list"]))?.contains(&name));
    Ok(())
}

#[test]
fn nothing_stays_after_kill() -> anyhow::Result<()> {
    if !lab::may_run(module_path!()) {
        return Ok(());
    }
    // This test's own program, running nothing but the holder below.
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--exact", "hold_a_lab", "--ignored", "--nocapture"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().expect("piped")));
    let held = lines
        .find_map(|line| line.ok()?.rsplit_once("holding ").map(|(_, name)| name.trim().to_owned()))
        .expect("the holder says what it holds");
    assert!(run(Command::new("ip").args(["netns", "list"]))?.contains(&held));
    child.kill()?;
    child.wait()?;
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let left = run(Command::new("ip").args(["netns", "list"]))?;
        let dir = std::env::temp_dir().join(&held);
        if !left.contains(&held) && !dir.exists() {
            return Ok(());
        }
        assert!(Instant::now() < deadline, "left behind: {left}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
#[ignore = "not a test: holds a lab until it is killed"]
fn hold_a_lab() -> anyhow::Result<()> {
    let site = Site::new(SiteOptions::default())?;
    let _nginx = site.start_nginx()?;
    println!("holding {}", site.client.name().trim_end_matches("-cl"));
    loop {
        std::thread::park();
    }
}
