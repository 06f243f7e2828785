//! `make test-operate`: the stories of operating a director, a line for each: `operate NAME PASS ...` or
//! `operate NAME FAIL ...`. It exits with 0 if all hold.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use sluice_bench::operate::{self, STORIES};

/// Run the stories of operating a director.
#[derive(Debug, Parser)]
#[command(name = "test-operate")]
struct Arguments {
    /// Stories that have one of these in their names; all if there is none
    names: Vec<String>,
    /// Only say which stories there are
    #[arg(long)]
    list: bool,
    /// Where the tests' words go, a file for each story
    #[arg(long, default_value = "target/operate")]
    logs: PathBuf,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("test-operate: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool> {
    let wanted = |name: &str| {
        arguments.names.is_empty() || arguments.names.iter().any(|part| name.contains(part.as_str()))
    };
    let stories: Vec<_> = STORIES.iter().copied().filter(|story| wanted(story.name)).collect();
    ensure!(!stories.is_empty(), "there is no such story; --list says which there are");
    if arguments.list {
        stories.iter().for_each(|story| println!("{:<16} {}", story.name, story.shows));
        return Ok(true);
    }
    operate::build(&stories)?;
    let logs: &Path = &arguments.logs;
    std::fs::create_dir_all(logs).with_context(|| format!("cannot create {}", logs.display()))?;
    let mut held = 0;
    for story in &stories {
        let log = logs.join(format!("{}.log", story.name));
        let begun = Instant::now();
        match story.run(&log) {
            Ok(figures) => {
                held += 1;
                let figures: String = figures.iter().map(|figure| format!("; {figure}")).collect();
                let seconds = begun.elapsed().as_secs_f64();
                println!("operate {} PASS {}{figures} ({seconds:.0} s)", story.name, story.shows);
            }
            Err(why) => println!("operate {} FAIL {why} (see {})", story.name, log.display()),
        }
    }
    println!("operate: {held} of {} stories hold", stories.len());
    Ok(held == stories.len())
}
