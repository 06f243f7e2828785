//! `bench-apps` in a hurry: it measures what it is asked to, and writes what it promises.

use std::path::Path;
use std::process::Command;

use sluice_bench::lab;

const TEST: &str = "bench-apps";

#[test]
fn forwarders_are_measured_and_written() -> anyhow::Result<()> {
    if !lab::may_run(module_path!()) {
        return Ok(());
    }
    let needs = ["/usr/sbin/haproxy", "/usr/sbin/nft", "/usr/lib/nginx/modules/ngx_stream_module.so"];
    let mut forwarders = vec!["sluice-fullnat"];
    if needs.iter().all(|path| Path::new(path).exists()) {
        forwarders.extend(["nftables", "haproxy", "nginx-stream"]);
    } else {
        lab::skipped(TEST, "has only sluice to measure: the others come by `bench/deps.sh bench`");
    }
    let output = std::env::temp_dir().join(format!("sluice-apps-{}.json", std::process::id()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench-apps"));
    command.args(["--rounds", "1", "--seconds", "1", "--output"]).arg(&output);
    for forwarder in &forwarders {
        command.args(["--forwarder", forwarder]);
    }
    let text = lab::run(&mut command)?;
    let json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&output)?)?;
    std::fs::remove_file(&output)?;
    for forwarder in forwarders {
        let name = forwarder.replace('-', "_");
        for figure in ["connections_per_s", "requests_per_s", "p50_us", "p99_us", "p999_us"] {
            let key = format!("{name}_{figure}");
            assert!(json[&key].as_f64().is_some_and(|value| value > 1.0), "{key}: {json}\n{text}");
        }
    }
    Ok(())
}
