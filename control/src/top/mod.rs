//! `sluice top`: services, servers and workers in the terminal, as they go.

mod draw;
mod format;
mod screen;
#[cfg(test)]
mod tests;

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use crate::api::{Answer, Client, ClientError, Request};
use crate::observe::{Overview, OverviewQuery};
use screen::{Next, Screen};

/// Options of `sluice top`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// The director's socket [default: $SLUICE_SOCKET, else
    /// /run/sluice/sluice.sock]
    #[arg(long)]
    socket: Option<PathBuf>,
    /// Seconds between two looks
    #[arg(short, long, default_value = "1", value_parser = interval)]
    delay: Duration,
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.1..=3600.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "choose 0.1 to 3600 seconds".into())
}

/// Shows the director until `q` is pressed; exits with 1 when there is none
/// to ask, or no terminal to show it on.
pub fn main(arguments: &Arguments) -> ExitCode {
    let client = Client::new(arguments.socket.as_deref());
    let mut screen = Screen::default();
    if !(io::stdout().is_terminal() && io::stdin().is_terminal()) {
        eprintln!("sluice top: this is not a terminal; `sluice status --json' is for programs");
        return ExitCode::FAILURE;
    }
    // What is wrong from the start is said where it stays.
    match overview(&client, screen.query()) {
        Ok(overview) => screen.show(overview, Instant::now()),
        Err(error) => {
            eprintln!("sluice top: {error}");
            return ExitCode::FAILURE;
        }
    }
    let mut terminal = ratatui::init();
    let result = run(&mut terminal, &client, &mut screen, arguments.delay);
    ratatui::restore();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluice top: {error}");
            ExitCode::FAILURE
        }
    }
}

fn overview(client: &Client, query: &OverviewQuery) -> Result<Overview, ClientError> {
    match client.call(&Request::Overview { query: query.clone() })? {
        Answer::Overview(overview) => Ok(*overview),
        answer => Err(ClientError::NotUnderstood { path: client.path().into(), what: format!("{answer:?}") }),
    }
}

fn run(
    terminal: &mut DefaultTerminal,
    client: &Client,
    screen: &mut Screen,
    delay: Duration,
) -> io::Result<()> {
    let mut due = Instant::now() + delay;
    loop {
        terminal.draw(|frame| draw::draw(frame, screen))?;
        let mut look = false;
        if event::poll(due.saturating_duration_since(Instant::now()))? {
            if let Event::Key(key) = event::read()?
                && key.kind == KeyEventKind::Press
            {
                match screen.press(key) {
                    Next::Quit => return Ok(()),
                    Next::Look => look = true,
                    Next::Draw => {}
                }
            }
        } else {
            look = true;
        }
        if look {
            match overview(client, screen.query()) {
                Ok(overview) => screen.show(overview, Instant::now()),
                Err(error) => screen.fail(error.to_string()),
            }
            due = Instant::now() + delay;
        }
    }
}
