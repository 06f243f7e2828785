//! The longest polls of a worker with one service of many servers, for each scheduler: the arguments are the number of
//! servers, that of rounds, and the names of schedulers (all without). Microseconds are printed, as told in
//! `bench/README.md`.

use anyhow::{Context, Result};
use sluice_bench::pipeline::crowd::{Task, longest_polls};
use sluice_dataplane::service::SchedulerKind;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let servers = arguments.next().context("the number of servers")?.parse()?;
    let rounds = arguments.next().context("the number of rounds")?.parse()?;
    let names: Vec<String> = arguments.collect();
    let kinds = SchedulerKind::ALL.into_iter();
    print!("{:>6}", "");
    Task::ALL.iter().for_each(|task| print!(" {:>9}", format!("{task:?}")));
    println!();
    for kind in kinds.filter(|kind| names.is_empty() || names.iter().any(|name| name == kind.name())) {
        print!("{:>6}", kind.name());
        longest_polls(kind, servers, rounds).iter().for_each(|longest| print!(" {longest:>9.0}"));
        println!();
    }
    Ok(())
}
