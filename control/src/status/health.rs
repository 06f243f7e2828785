//! `sluice status --healthy`: what keepalived's track script runs.
//!
//! keepalived runs a script once a second at most. With `--watch` the script
//! looks on for nearly all of that second, so that the end of a director, which
//! closes its socket, is known within milliseconds.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::fail;
use crate::api::{Answer, Client, ClientError, Request, Session};

/// A director that takes longer to answer is not well.
const PATIENCE: Duration = Duration::from_secs(1);

/// Between two questions while watching.
const INTERVAL: Duration = Duration::from_millis(50);

/// Exits with 0 if the director is healthy, and stays so for the time given.
pub(super) fn main(client: Client, watch: Option<Duration>) -> ExitCode {
    let until = watch.map(|watch| Instant::now() + watch);
    let result =
        client.session(PATIENCE).and_then(|session| look(session, until)).or_else(|error| match error {
            // Another process may have taken its place, which listens by then.
            ClientError::Lost { .. } => client.session(PATIENCE).and_then(|session| look(session, until)),
            error => Err(error),
        });
    match result {
        Ok(problems) if problems.is_empty() => ExitCode::SUCCESS,
        Ok(problems) => {
            problems.iter().for_each(|problem| eprintln!("sluice status: {problem}"));
            ExitCode::FAILURE
        }
        Err(error) => fail(error.to_string()),
    }
}

/// The first problems that the director has within the time.
fn look(mut session: Session, until: Option<Instant>) -> Result<Vec<String>, ClientError> {
    loop {
        let problems = match session.call(&Request::Status)? {
            Answer::Status(status) => problems(&status),
            answer => vec![format!("the director's answer makes no sense: {answer:?}")],
        };
        let left = until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
        if !problems.is_empty() || left.is_zero() {
            return Ok(problems);
        }
        session.wait_for_end(left.min(INTERVAL))?;
    }
}

fn problems(status: &Value) -> Vec<String> {
    let Some(problems) = status["problems"].as_array() else {
        return vec!["the director does not say whether it is healthy".to_owned()];
    };
    problems.iter().map(|problem| problem.as_str().unwrap_or("an unknown problem").to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_director_that_says_so_is_healthy() {
        assert_eq!(problems(&serde_json::json!({ "problems": [] })), [""; 0]);
        assert_eq!(problems(&serde_json::json!({ "problems": ["it is stopping"] })), ["it is stopping"]);
        assert_eq!(problems(&serde_json::json!({})).len(), 1);
    }
}
