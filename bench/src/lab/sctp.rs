//! A real SCTP server and client: tsctp of the usrsctp library, which brings its own stack, so that no kernel module is
//! needed.

use std::fs::{self, File};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Netns;
use super::process::{Process, wait_for};

const TSCTP: &str = "/usr/lib/usrsctp/tsctp";

/// Bytes of a message.
const LENGTH: usize = 1000;

/// How long a transfer may take. The first attempt may have to be made again, after a second.
const TIMEOUT: Duration = Duration::from_secs(20);

/// tsctp as a server that counts what it gets.
#[derive(Debug)]
pub struct SctpServer {
    _process: Process,
    log: PathBuf,
}

impl SctpServer {
    /// Starts it at an address, which a DR or TUN server shares with others.
    ///
    /// # Errors
    /// When it is not installed, or does not come up.
    pub fn start(netns: &Netns, address: IpAddr, port: u16, lab_dir: &Path) -> Result<Self> {
        let log = lab_dir.join(format!("sctp-{}-{port}.log", netns.name()));
        let mut command = netns.command(TSCTP);
        // Its stack writes down each packet.
        command.args(["-L", &address.to_string(), "-p", &port.to_string()]).stdout(File::create(&log)?);
        let mut process =
            Process::start(&mut command).context("tsctp, of the Debian package libusrsctp-examples")?;
        wait_for("tsctp to listen", Duration::from_secs(10), || {
            ensure!(process.ended()?.is_none(), "tsctp ended");
            Ok(fs::read_to_string(&log)?.contains(&format!("bound port:{port}")))
        })?;
        Ok(Self { _process: process, log })
    }

    /// The messages of each association that is over.
    ///
    /// # Errors
    /// When its log cannot be read.
    pub fn received(&self) -> Result<Vec<usize>> {
        let log = fs::read_to_string(&self.log)?;
        // Length, announced, received, bytes, seconds, rate, unordered.
        let lines = log.lines().map(|line| line.split(", ").collect::<Vec<_>>());
        Ok(lines.filter(|words| words.len() == 7).filter_map(|words| words[2].parse().ok()).collect())
    }
}

/// Sends so many messages over an association of its own.
///
/// # Errors
/// When the association does not come about, or does not end in good order.
pub fn send(client: &Netns, from: IpAddr, to: IpAddr, port: u16, messages: usize) -> Result<()> {
    let mut command = client.command(TSCTP);
    command.args(["-L", &from.to_string(), "-p", &port.to_string()]);
    command.args(["-n", &messages.to_string(), "-l", &LENGTH.to_string(), &to.to_string()]);
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let status = Process::start(&mut command)?.wait(TIMEOUT).context("tsctp")?;
    ensure!(status.success(), "tsctp: {status}");
    Ok(())
}
