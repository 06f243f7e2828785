//! `make test-ha`: two directors with keepalived, thousands of connections, and every fault by every method.
//!
//! Prints a line for each and exits with 0 only if no connection broke and none was silent for more than half a second
//! longer than VRRP took. Before that, by every method, another process takes the place of the active director's: there
//! nothing may be forwarded for less than 50 ms.
//!
//! `SLUICE_LAB_OFFLOAD` chooses whether the kernel carries connections (`on`, `off`), as for all tests of the lab.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Parser;
use sluice_bench::failover::{Fault, Stand};
use sluice_bench::lab::{self, Method};

#[derive(Parser)]
#[command(about = "Failover between two directors under load")]
struct Arguments {
    /// Connections that talk all the time
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// How often each says something, in milliseconds
    #[arg(long, default_value_t = 2000)]
    interval: u64,
    /// Only this method: nat, fullnat, dr or tun
    #[arg(long)]
    method: Option<String>,
    /// Only this fault: stop, kill, link or partition
    #[arg(long)]
    fault: Option<String>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("test-ha: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool> {
    lab::exit_cleanly_on_signals(|| eprintln!("test-ha: stopped"))?;
    let methods = chosen("method", arguments.method.as_deref(), &Method::ALL, Method::name)?;
    let faults = chosen("fault", arguments.fault.as_deref(), &Fault::ALL, Fault::name)?;
    let mut all_hold = true;
    for method in methods {
        let mut stand = Stand::new(method, arguments.connections, Duration::from_millis(arguments.interval))?;
        if arguments.fault.is_none() {
            let renewal = stand.renew()?;
            println!("{renewal}");
            if !renewal.holds() {
                eprintln!("{}", stand.logs());
            }
            all_hold &= renewal.holds();
        }
        let (connections, packets) = stand.carried()?;
        println!("ha {} in the kernel connections={connections} packets={packets}", method.name());
        for fault in &faults {
            for outcome in stand.suffer(*fault)? {
                println!("{outcome}");
                if !outcome.holds() {
                    eprintln!("{}", stand.logs());
                }
                all_hold &= outcome.holds();
            }
        }
    }
    println!("test-ha: {}", if all_hold { "PASS" } else { "FAIL" });
    Ok(all_hold)
}

/// Those of a name, or all.
fn chosen<T: Copy>(
    what: &str,
    name: Option<&str>,
    all: &[T],
    name_of: impl Fn(T) -> &'static str,
) -> Result<Vec<T>> {
    let found: Vec<T> =
        all.iter().copied().filter(|one| name.is_none_or(|name| name == name_of(*one))).collect();
    if found.is_empty() {
        let names: Vec<_> = all.iter().map(|one| name_of(*one)).collect();
        bail!("there is no {what} {:?}; choose {}", name.unwrap_or_default(), names.join(", "));
    }
    Ok(found)
}
