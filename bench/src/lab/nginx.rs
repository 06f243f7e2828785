//! A real web server.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Netns;
use super::process::{Process, wait_for};

/// nginx on port 80, and on 443 without TLS. `/` tells the server's name and the client's address, `/blob` is the site's file, `/.health.html` is what
/// [`Nginx::set_health`] last said, and what is PUT to
/// `/upload/NAME` is kept.
#[derive(Debug)]
pub struct Nginx {
    _process: Process,
    dir: PathBuf,
}

impl Nginx {
    /// Starts it and waits until it accepts connections.
    ///
    /// # Errors
    /// When it is not installed, or does not come up; then the error has its log.
    pub fn start(netns: &Netns, name: &str, lab_dir: &Path) -> Result<Self> {
        let dir = lab_dir.join(format!("nginx-{name}"));
        std::fs::create_dir_all(dir.join("upload"))?;
        let config = dir.join("nginx.conf");
        std::fs::write(&config, config_text(name, &dir, lab_dir))?;
        // Errors before the configuration is read would go to the system's log otherwise.
        let log = dir.join("error.log");
        let mut command = netns.command("nginx");
        command.arg("-p").arg(&dir).arg("-e").arg(&log).arg("-c").arg(&config);
        let stderr = std::fs::File::create(dir.join("stderr"))?;
        let mut process =
            Process::start(command.stderr(stderr)).context("nginx, of the Debian package nginx-light")?;
        let said = || {
            let read = |file: &str| std::fs::read_to_string(dir.join(file)).unwrap_or_default();
            format!("nginx said: {}{}", read("stderr"), read("error.log"))
        };
        wait_for(&format!("nginx of {name}"), Duration::from_secs(10), || {
            if let Some(status) = process.ended()? {
                bail!("nginx of {name} ended ({status})");
            }
            let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 80));
            netns.enter(|| TcpStream::connect_timeout(&local, Duration::from_secs(1)).is_ok())
        })
        .with_context(said)?;
        Ok(Self { _process: process, dir })
    }

    /// Makes this the page `/.health.html`; before, there is none.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_health(&self, text: &str) -> Result<()> {
        std::fs::write(self.dir.join(".health.html"), text).context("cannot write the page")
    }

    /// Where it keeps what was PUT to `/upload/NAME`.
    #[must_use]
    pub fn uploaded(&self, name: &str) -> PathBuf {
        self.dir.join("upload").join(name)
    }
}

fn config_text(name: &str, dir: &Path, lab_dir: &Path) -> String {
    let (dir, lab_dir) = (dir.display(), lab_dir.display());
    // One process, no master: nothing is left to run on its own when it is killed.
    format!(
        "daemon off;
master_process off;
pid {dir}/pid;
error_log {dir}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000;
    client_max_body_size 0;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    default_type text/plain;
    server {{
        listen 80 backlog=4096;
        listen [::]:80 backlog=4096 ipv6only=on;
        listen 443;
        listen [::]:443 ipv6only=on;
        location / {{ return 200 \"{name} $remote_addr\\n\"; }}
        location = /.health.html {{ root {dir}; }}
        location = /blob {{ root {lab_dir}; }}
        location /upload/ {{ root {dir}; dav_methods PUT; }}
    }}
}}
"
    )
}
