//! A real FTP server, vsftpd, and a real client, curl.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Netns;
use super::process::{Process, run, wait_for};

/// The ports that the server takes in passive mode.
pub const PASSIVE_PORTS: &str = "50000-50999";

/// vsftpd on port 21, for anybody. It serves `/blob`, the site's file, and takes what is put into `/upload`. Data
/// connections of another address than the control connection's are refused, as is its default.
#[derive(Debug)]
pub struct Ftp {
    _process: Process,
    root: PathBuf,
}

impl Ftp {
    /// Starts it and waits until it accepts connections.
    ///
    /// # Errors
    /// When it is not installed, or does not come up; then the error has its log.
    pub fn start(netns: &Netns, name: &str, lab_dir: &Path, ipv6: bool) -> Result<Self> {
        let dir = lab_dir.join(format!("ftp-{name}"));
        let (root, empty) = (dir.join("root"), dir.join("empty"));
        let upload = root.join("upload");
        std::fs::create_dir_all(&upload)?;
        std::fs::create_dir_all(&empty)?;
        // It does not run as root once a client is there.
        std::fs::set_permissions(&upload, PermissionsExt::from_mode(0o777))?;
        std::fs::set_permissions(&root, PermissionsExt::from_mode(0o555))?;
        std::fs::copy(lab_dir.join("blob"), root.join("blob")).context("the site's blob")?;
        std::fs::write(root.join("name"), format!("{name}\n"))?;
        let config = dir.join("vsftpd.conf");
        std::fs::write(&config, config_text(&dir, &root, &empty, ipv6))?;
        let log = dir.join("stderr");
        let mut command = netns.command("vsftpd");
        command.arg(&config).stderr(std::fs::File::create(&log)?);
        command.stdout(std::fs::File::create(dir.join("stdout"))?);
        let mut process =
            Process::start(&mut command).context("vsftpd, of the Debian package of that name")?;
        wait_for(&format!("vsftpd of {name}"), Duration::from_secs(10), || {
            if let Some(status) = process.ended()? {
                bail!("vsftpd of {name} ended ({status})");
            }
            let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 21));
            netns.enter(|| TcpStream::connect_timeout(&local, Duration::from_secs(1)).is_ok())
        })
        .with_context(|| {
            let read = |file: &str| std::fs::read_to_string(dir.join(file)).unwrap_or_default();
            format!("vsftpd said: {}{}", read("stdout"), read("stderr"))
        })?;
        Ok(Self { _process: process, root })
    }

    /// Where it keeps what was put into `/upload`.
    #[must_use]
    pub fn uploaded(&self, name: &str) -> PathBuf {
        self.root.join("upload").join(name)
    }
}

fn config_text(dir: &Path, root: &Path, empty: &Path, ipv6: bool) -> String {
    let (dir, root, empty) = (dir.display(), root.display(), empty.display());
    let listen = if ipv6 { "listen=NO\nlisten_ipv6=YES" } else { "listen=YES\nlisten_ipv6=NO" };
    let (first, last) = PASSIVE_PORTS.split_once('-').unwrap_or_default();
    // The user must have a home directory, whatever it is: nobody has none. Neither sandbox nor namespaces of its own: it is in one already.
    format!(
        "{listen}
background=NO
one_process_model=YES
seccomp_sandbox=NO
isolate=NO
isolate_network=NO
secure_chroot_dir={empty}
vsftpd_log_file={dir}/log
local_enable=NO
anonymous_enable=YES
no_anon_password=YES
ftp_username=daemon
anon_root={root}
write_enable=YES
anon_upload_enable=YES
anon_other_write_enable=YES
anon_umask=022
anon_world_readable_only=NO
connect_from_port_20=YES
pasv_min_port={first}
pasv_max_port={last}
"
    )
}

/// How the client asks for data connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By `PASV`.
    Pasv,
    /// By `EPSV`.
    Epsv,
    /// By `PORT`.
    Port,
    /// By `EPRT`.
    Eprt,
}

impl Mode {
    /// All four.
    pub const ALL: [Self; 4] = [Self::Pasv, Self::Epsv, Self::Port, Self::Eprt];

    const fn options(self) -> &'static [&'static str] {
        match self {
            Self::Pasv => &["--disable-epsv", "--no-ftp-skip-pasv-ip"],
            Self::Epsv => &[],
            Self::Port => &["--ftp-port", "-", "--disable-eprt"],
            Self::Eprt => &["--ftp-port", "-"],
        }
    }

    fn command(self, client: &Netns) -> std::process::Command {
        let mut command = client.command("curl");
        command.args(["--silent", "--show-error", "--fail", "--globoff"]);
        command.args(["--max-time", "60", "--connect-timeout", "5"]).args(self.options());
        command
    }

    /// Downloads files on one control connection, each into a file of the same place in `into`.
    ///
    /// # Errors
    /// When curl fails, with what it said.
    pub fn download(self, client: &Netns, urls: &[String], into: &[PathBuf]) -> Result<()> {
        let mut command = self.command(client);
        for (url, file) in urls.iter().zip(into) {
            command.arg("--output").arg(file).arg(url);
        }
        run(&mut command).map(drop)
    }

    /// Uploads a file.
    ///
    /// # Errors
    /// When curl fails, with what it said.
    pub fn upload(self, client: &Netns, file: &Path, url: &str) -> Result<()> {
        run(self.command(client).arg("--upload-file").arg(file).arg(url)).map(drop)
    }

    /// Lists a directory.
    ///
    /// # Errors
    /// When curl fails, with what it said.
    pub fn list(self, client: &Netns, url: &str) -> Result<String> {
        run(self.command(client).arg(url))
    }
}
