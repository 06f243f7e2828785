//! A TCP server that sends back what it gets, one line at a time: stands in for a login on the director itself.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Netns;

/// Starts the server inside; it ends with the process.
///
/// # Errors
/// When the address cannot be had.
pub fn serve(netns: &Netns, address: SocketAddr) -> Result<()> {
    let listener = netns
        .enter(|| TcpListener::bind(address))?
        .with_context(|| format!("cannot listen on {address} in {}", netns.name()))?;
    std::thread::Builder::new().name("echo".into()).spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that breaks off is none of the server's business.
            let _ = std::thread::Builder::new().spawn(move || answer(stream));
        }
    })?;
    Ok(())
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    for line in BufReader::new(stream.try_clone()?).lines() {
        stream.write_all((line? + "\n").as_bytes())?;
    }
    Ok(())
}

/// A connection to the server.
#[derive(Debug)]
pub struct Session {
    stream: BufReader<TcpStream>,
}

impl Session {
    /// Connects from inside a namespace.
    ///
    /// # Errors
    /// When no connection comes about in 3 seconds.
    pub fn open(netns: &Netns, server: SocketAddr) -> Result<Self> {
        let stream = netns
            .enter(|| TcpStream::connect_timeout(&server, Duration::from_secs(3)))?
            .with_context(|| format!("cannot connect to {server}"))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends a line and waits for it to come back.
    ///
    /// # Errors
    /// When it does not come back in 5 seconds, or as another one.
    pub fn say(&mut self, words: &str) -> Result<()> {
        self.stream.get_mut().write_all(format!("{words}\n").as_bytes())?;
        let mut back = String::new();
        self.stream.read_line(&mut back).context("no echo")?;
        ensure!(back.trim_end() == words, "said {words:?} and heard {back:?}");
        Ok(())
    }
}
