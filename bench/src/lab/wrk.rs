//! Real HTTP load.

use std::path::Path;
use std::process::Command;

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
    let text = run(command(client, seconds, connections, new_connections).arg(url))?;
    WrkReport::parse(&text)
        .ok_or_else(|| anyhow!("cannot read what wrk printed:\n{text}"))
        .context("wrk 4.1 is needed")
}

fn command(client: &Netns, seconds: u32, connections: u32, new_connections: bool) -> Command {
    let mut command = client.command("wrk");
    command.args(["--threads", "1", "--timeout", "5s"]);
    command.args(["--connections", &connections.to_string(), "--duration", &format!("{seconds}s")]);
    if new_connections {
        command.args(["--header", "Connection: close"]);
    }
    command
}

/// What wrk measured, with the distribution of latencies.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Distribution {
    /// Requests answered, whatever the status.
    pub requests: u64,
    /// Answers of 400 and above, and connections that failed to connect, read, write or answer in time.
    pub failed: u64,
    /// Requests a second.
    pub requests_per_second: f64,
    /// From sending a request to the end of its answer, in microseconds: of half of the requests at most, of 99 % and of
    /// 99.9 %.
    pub latency_us: [f64; 3],
}

// wrk itself prints no percentile between 99 and 100.
const SCRIPT: &str = r#"
done = function(summary, latency, requests)
    local e = summary.errors
    io.write(string.format("measured %d %d %d %d %d %d\n", summary.requests,
        e.connect + e.read + e.write + e.status + e.timeout, summary.duration,
        latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
"#;

/// Runs wrk as [`load`] does, and has it tell the distribution of latencies. Its script goes to `dir`.
///
/// # Errors
/// When wrk cannot be run, or prints something else than it used to.
pub fn distribution(
    client: &Netns,
    dir: &Path,
    url: &str,
    seconds: u32,
    connections: u32,
    new_connections: bool,
) -> Result<Distribution> {
    let script = dir.join("percentiles.lua");
    std::fs::write(&script, SCRIPT)?;
    let text =
        run(command(client, seconds, connections, new_connections).arg("--script").arg(&script).arg(url))?;
    Distribution::parse(&text)
        .ok_or_else(|| anyhow!("cannot read what wrk printed:\n{text}"))
        .context("wrk 4.1 is needed")
}

impl Distribution {
    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| line.strip_prefix("measured "))?;
        let numbers: Option<Vec<f64>> = line.split_whitespace().map(|word| word.parse().ok()).collect();
        let &[requests, failed, duration, p50, p99, p999] = numbers?.as_slice() else { return None };
        Some(Self {
            requests: requests as u64,
            failed: failed as u64,
            requests_per_second: requests * 1e6 / Some(duration).filter(|duration| *duration > 0.0)?,
            latency_us: [p50, p99, p999],
        })
    }
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
    fn a_distribution_is_read() {
        let expected = Distribution {
            requests: 97001,
            failed: 3,
            requests_per_second: 48500.5,
            latency_us: [1030.0, 4200.0, 9000.0],
        };
        let text = format!("{REPORT}measured 97001 3 2000000 1030 4200 9000\n");
        assert_eq!(Distribution::parse(&text), Some(expected));
        assert_eq!(Distribution::parse(REPORT), None);
        assert_eq!(Distribution::parse("measured 1 0 0 1 1 1\n"), None);
    }

    #[test]
    fn a_report_cut_short_is_refused() {
        assert_eq!(WrkReport::parse("Running 2s test @ http://192.0.2.10/\n"), None);
        assert_eq!(WrkReport::parse("unable to connect"), None);
    }
}
