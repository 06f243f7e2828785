//! Real HTTP load.

use anyhow::{Context, Result, anyhow};

use super::Netns;
use super::process::run;

/// What wrk reported.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WrkReport {
    /// Requests answered, whatever the status.
    pub requests: u64,
    /// Answers other than 2xx and 3xx, and connections that failed to connect, read, write or answer in time.
    pub failed: u64,
    /// Requests a second.
    pub requests_per_second: f64,
}

/// Runs wrk with one thread against a URL. With `new_connections` each request has a connection of its own.
///
/// # Errors
/// When wrk cannot be run, or prints something else than it used to.
pub fn load(
    client: &Netns,
    url: &str,
    seconds: u32,
    connections: u32,
    new_connections: bool,
) -> Result<WrkReport> {
    let mut command = client.command("wrk");
    command.args(["--threads", "1", "--timeout", "5s"]);
    command.args(["--connections", &connections.to_string(), "--duration", &format!("{seconds}s")]);
    if new_connections {
        command.args(["--header", "Connection: close"]);
    }
    let text = run(command.arg(url))?;
    WrkReport::parse(&text)
        .ok_or_else(|| anyhow!("cannot read what wrk printed:\n{text}"))
        .context("wrk 4.1 is needed")
}

impl WrkReport {
    fn parse(text: &str) -> Option<Self> {
        let mut report = Self::default();
        let mut complete = false;
        for line in text.lines().map(str::trim) {
            if let Some(rate) = line.strip_prefix("Requests/sec:") {
                report.requests_per_second = rate.trim().parse().ok()?;
                complete = true;
            } else if let Some((count, _)) = line.split_once(" requests in ") {
                report.requests = count.parse().ok()?;
            } else if let Some(count) = line.strip_prefix("Non-2xx or 3xx responses:") {
                report.failed += count.trim().parse::<u64>().ok()?;
            } else if let Some(errors) = line.strip_prefix("Socket errors:") {
                for error in errors.split(',') {
                    report.failed += error.split_whitespace().nth(1)?.parse::<u64>().ok()?;
                }
            }
        }
        complete.then_some(report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "Running 2s test @ http://192.0.2.10/
  1 threads and 50 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.03ms  212.35us   4.20ms   82.10%
    Req/Sec    48.72k     2.10k   51.00k    75.00%
  97001 requests in 2.00s, 15.91MB read
  Socket errors: connect 1, read 2, write 3, timeout 4
  Non-2xx or 3xx responses: 5
Requests/sec:  48466.51
Transfer/sec:      7.95MB
";

    #[test]
    fn a_report_is_read() {
        let expected = WrkReport { requests: 97001, failed: 15, requests_per_second: 48466.51 };
        assert_eq!(WrkReport::parse(REPORT), Some(expected));
    }

    #[test]
    fn a_report_cut_short_is_refused() {
        assert_eq!(WrkReport::parse("Running 2s test @ http://192.0.2.10/\n"), None);
        assert_eq!(WrkReport::parse("unable to connect"), None);
    }
}
