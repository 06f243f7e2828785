//! A director without packets, and enough of a shell to run recorded command
//! lines against it over its socket.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use sluice_control::api::fake::FakePlane;
use sluice_control::api::{DataPlane, Director, Listener, serve};
use sluice_control::ipvsadm::{Environment, Resolver, called};
use sluice_control::rules::{Protocol, Rules};
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::recording::Outcome;

/// A running director.
pub struct Stage {
    socket: PathBuf,
    files: BTreeMap<String, String>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    _directory: TempDir,
}

impl Stage {
    /// With the refusals of this version, or with all of IPVS.
    pub fn new(refusing: bool) -> Self {
        let rules = move || if refusing { Rules::new(1) } else { Rules::without_refusals(1) };
        Stage::with(rules, FakePlane::default)
    }

    /// With this version's refusals, and workers that forward.
    pub fn on(plane: impl DataPlane + Send + 'static) -> Self {
        Stage::with(|| Rules::new(1), || plane)
    }

    /// The rules and the data plane are made on the control thread.
    fn with<D: DataPlane + 'static>(
        rules: impl FnOnce() -> Rules + Send + 'static,
        plane: impl FnOnce() -> D + Send + 'static,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("sluice.sock");
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let path = socket.clone();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut rules = rules();
                rules.set_interfaces(vec!["eth0".into(), "eth1".into(), "lan0".into()]);
                let director = Director::new(rules, plane());
                let listener = Listener::bind(&path).unwrap();
                ready.send(()).unwrap();
                tokio::select! {
                    () = serve(director, listener) => {}
                    _ = stopped => {}
                }
            });
        });
        is_ready.recv().unwrap();
        Stage {
            socket,
            files: BTreeMap::new(),
            stop: Some(stop),
            thread: Some(thread),
            _directory: directory,
        }
    }

    /// Runs a command line of programs that are ours, with pipes and
    /// redirections; `None` for anything else.
    pub fn shell(&mut self, command: &str, input: &str) -> Option<Outcome> {
        let stages: Vec<_> = command.split(" | ").map(|stage| stage.trim()).collect();
        let ours = |stage: &&str| stage.starts_with("ipvsadm") || stage.starts_with("grep ");
        if !stages.iter().all(ours) {
            return None;
        }
        if command == "ipvsadm -C" {
            // cli_basic saved before it cleared, without recording that.
            self.run("ipvsadm -Sn >/tmp/saved", "");
        }
        let mut input = input.to_owned();
        let mut all = Outcome::default();
        for stage in stages {
            let (stdout, stderr, status) = match stage.strip_prefix("grep ") {
                Some(pattern) => {
                    let matching: Vec<_> = input.lines().filter(|line| line.contains(pattern)).collect();
                    (matching.iter().map(|line| format!("{line}\n")).collect(), String::new(), 0)
                }
                None => self.run(stage, &input),
            };
            all.stderr.extend(stderr.lines().map(str::to_owned));
            all.status = status;
            input = stdout;
        }
        all.stdout = input.lines().map(str::to_owned).collect();
        Some(all)
    }

    /// Where the director listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    fn run(&mut self, command: &str, input: &str) -> (String, String, u8) {
        let mut input = input.to_owned();
        let mut save_as = None;
        let mut words = Vec::new();
        for word in split(command) {
            if let Some(file) = word.strip_prefix('<') {
                input = self.files[file].clone();
            } else if let Some(file) = word.strip_prefix('>') {
                save_as = Some(file.to_owned());
            } else {
                words.push(word);
            }
        }
        let program = words.remove(0);
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut environment = Environment {
            stdin: &mut input.as_bytes(),
            stdout: &mut stdout,
            stderr: &mut stderr,
            names: &RecordedNames,
            socket: Some(self.socket.clone()),
        };
        let status = called(&program, &words, &mut environment);
        let mut stdout = String::from_utf8(stdout).unwrap();
        if let Some(file) = save_as {
            self.files.insert(file, std::mem::take(&mut stdout));
        }
        (stdout, String::from_utf8(stderr).unwrap(), status)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// Words as a shell splits them, with quotes.
fn split(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in command.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            (None, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// The names that the machine of the recordings knew.
pub struct RecordedNames;

const HOSTS: [(&str, [u8; 4]); 5] = [
    ("localhost", [127, 0, 0, 1]),
    ("www.example.test", [10, 9, 9, 1]),
    ("rs1.example.test", [10, 9, 9, 2]),
    ("both.example.test", [10, 9, 9, 3]),
    ("averyveryveryverylongname.of.a.server.example.test", [10, 9, 9, 4]),
];

const SERVICES: [(&str, u16, &[Protocol]); 4] = [
    ("http", 80, &[Protocol::Tcp]),
    ("http-alt", 8080, &[Protocol::Tcp, Protocol::Udp]),
    ("domain", 53, &[Protocol::Tcp, Protocol::Udp]),
    ("sip", 5060, &[Protocol::Tcp, Protocol::Udp]),
];

impl Resolver for RecordedNames {
    fn address_of(&self, host: &str) -> Option<Ipv4Addr> {
        HOSTS.iter().find(|(name, _)| *name == host).map(|(_, address)| (*address).into())
    }

    fn name_of(&self, address: IpAddr) -> Option<String> {
        HOSTS.iter().find(|(_, octets)| IpAddr::from(*octets) == address).map(|(name, _)| (*name).into())
    }

    fn port_of(&self, service: &str, protocol: Protocol) -> Option<u16> {
        let known = |(name, _, protocols): &&(&str, u16, &[Protocol])| {
            *name == service && protocols.contains(&protocol)
        };
        SERVICES.iter().find(known).map(|(_, port, _)| *port)
    }

    fn service_of(&self, port: u16, protocol: Protocol) -> Option<String> {
        let known = |(_, number, protocols): &&(&str, u16, &[Protocol])| {
            *number == port && protocols.contains(&protocol)
        };
        SERVICES.iter().find(known).map(|(name, ..)| (*name).into())
    }
}
