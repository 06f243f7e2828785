//! What `ipvsadm` changed is written back to the file, and what other directors were told is imported.

use anyhow::{Context, Result, ensure};
use sluice_bench::lab::site::{LIP, VIP};
use sluice_bench::lab::{self, Site, SiteOptions};

const COMMENT: &str = "# the shop, which nobody is to forget";

#[test]
fn what_was_changed_at_run_time_is_saved() -> Result<()> {
    if !lab::may_run("what_was_changed_at_run_time_is_saved") {
        return Ok(());
    }
    let site = Site::new(SiteOptions::default())?;
    let config = format!(
        "{}\n{COMMENT}\n[[service]]\naddress = \"{VIP}:80\"\nprotocol = \"tcp\"\nscheduler = \"wrr\" # by weight\n\
         [[service.check]]\nkind = \"tcp\"\ninterval = 0.1\nfall = 1\n\
         [[service.server]]\naddress = \"10.0.2.1\"\nmethod = \"nat\"\nweight = 3\n\
         [[service]]\naddress = \"{VIP}:81\"\nprotocol = \"tcp\"\n",
        site.config()
    );
    let director = site.start_director(&config)?;
    // Nobody listens there, and what the check makes of that is not to be saved.
    lab::wait_for("the server to be out", std::time::Duration::from_secs(15), || {
        Ok(!director.ipvsadm("-Ln")?.contains("10.0.2.1:80"))
    })?;
    ensure!(director.sluice("save --dry-run")?.contains("has all of it already"));

    for line in [
        format!("-e -t {VIP}:80 -r 10.0.2.1 -m -w 5"),
        format!("-D -t {VIP}:81"),
        format!("-A -u {VIP}:53 -s mh -b mh-port -p 60 -M 255.255.255.0"),
        format!("-P -u {VIP}:53 -z {LIP}"),
        format!("-a -u {VIP}:53 -r 10.0.2.2:5353 -b -w 2 -x 10 -y 5"),
        format!("-a -u {VIP}:53 -r 10.0.2.3 -i --tun-type gue --tun-port 6080 --tun-remcsum"),
        "-A -f 7 -s rr".to_owned(),
        "-a -f 7 -r 10.0.2.2 -g".to_owned(),
        "--set 1000 0 70".to_owned(),
    ] {
        director.ipvsadm(&line)?;
    }
    director.sluice(&format!("mark add --vip {VIP} --proto tcp --port 443 --set 7"))?;
    let before = director.ipvsadm("-S -n")?;

    let dry = director.sluice("save --dry-run")?;
    ensure!(std::fs::read_to_string(director.config())? == config, "a dry run wrote");
    ensure!(dry.contains(&format!("+ service udp {VIP}:53")), "{dry}");
    ensure!(dry.contains(&format!("- service tcp {VIP}:81")), "{dry}");
    director.sluice("save")?;
    let reload = director.sluice("reload --dry-run")?;
    ensure!(reload.trim() == "nothing differs", "{reload}");
    let text = std::fs::read_to_string(director.config())?;
    ensure!(text.contains(COMMENT) && text.contains("\"wrr\" # by weight"), "{text}");
    ensure!(text.contains("weight = 5") && !text.contains("weight = 0"), "{text}");

    let (status, log) = director.stop()?;
    ensure!(status.success(), "{log}");
    // Without its check the server stays in, whoever listens.
    let (head, rest) = text.split_once("[[service.check]]").context("no check")?;
    let (_, tail) = rest.split_once("[[service.server]]").context("no server")?;
    let director = site.start_director(&format!("{head}[[service.server]]{tail}"))?;
    let lines = |text: &str| -> Vec<String> { text.lines().map(str::to_owned).collect() };
    let mut expected = lines(&before);
    expected.push(format!("-a -t {VIP}:80 -r 10.0.2.1:80 -m -w 5"));
    let mut after = lines(&director.ipvsadm("-S -n")?);
    expected.sort();
    after.sort();
    ensure!(after == expected, "{after:#?}, not {expected:#?}");
    let timeouts = director.ipvsadm("-L --timeout")?;
    ensure!(timeouts.contains("1000 120 70"), "{timeouts}");
    ensure!(director.sluice("mark save")?.contains("--port 443 --set 7"));

    // What it prints makes the same director elsewhere.
    let (saved, file) = (site.dir().join("table.save"), site.dir().join("imported.toml"));
    std::fs::write(&saved, director.ipvsadm("-S -n")?)?;
    let imported = director.sluice(&format!("import ipvsadm {}", saved.display()))?;
    std::fs::write(&file, &imported)?;
    ensure!(director.sluice(&format!("check {}", file.display()))?.contains("valid"), "{imported}");
    Ok(())
}
