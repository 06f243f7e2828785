//! `bench-wire` in a hurry: it measures what it is asked to, and writes what it promises.

use std::process::Command;

use sluice_bench::lab;

const PROGRAM: &str = env!("CARGO_BIN_EXE_bench-wire");

/// Forwards by the kernel's own routing, the virtual address being somewhere behind it.
const PEER: &str =
    "ip address del $WIRE_VIP/32 dev lo && ip route add $WIRE_VIP via ${WIRE_SERVERS%% *} && exec sleep 60";

#[test]
fn figures_are_taken_and_written() -> anyhow::Result<()> {
    if !lab::may_run(module_path!()) {
        return Ok(());
    }
    let dir = std::env::temp_dir().join(format!("sluice-wire-{}", std::process::id()));
    let output = dir.join("wire.json");
    let keys = ["limit_mpps", "fullnat_60k_mpps", "tun_1k_mpps", "new_flow_mpps", "peer_1k_mpps"];
    let mut command = Command::new(PROGRAM);
    command.args(["--rounds", "1", "--seconds", "0.1", "--new-flow-seconds", "0.1", "--peer", PEER]);
    command.arg("--output").arg(&output);
    for key in keys {
        command.args(["--figure", key]);
    }
    let text = lab::run(&mut command)?;
    let json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&output)?)?;
    let svg = std::fs::read_to_string(output.with_extension("svg"))?;
    std::fs::remove_dir_all(&dir)?;
    for key in keys {
        assert!(json[key].as_f64().is_some_and(|rate| rate > 0.01), "{key}: {json}");
        assert_eq!(json["rounds"][key].as_array().map(Vec::len), Some(1), "{key}: {json}");
    }
    assert_eq!(json["rounds"].as_object().map(serde_json::Map::len), Some(keys.len()), "{json}");
    assert!(text.contains("fullnat, 60k flows"), "{text}");
    assert!(svg.starts_with("<svg"), "{svg}");
    Ok(())
}

#[test]
fn unknown_figures_are_refused() -> anyhow::Result<()> {
    let output = Command::new(PROGRAM).args(["--figure", "dr_2k_mpps"]).output()?;
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr)?;
    assert!(said.contains("no figure dr_2k_mpps") && said.contains("dr_1k_mpps"), "{said}");
    Ok(())
}
