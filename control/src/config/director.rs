//! `[director]`.

use std::collections::HashSet;
use std::path::PathBuf;

use toml::Spanned;

use super::check::{Check, INTERFACE_HINT};
use super::{
    CONNECTIONS, DEFAULT_CONNECTIONS, Director, Idle, MAX_CPU, MAX_INTERFACES, WhenGone, XdpMode, file,
};
use crate::role::Role;

/// Longest path of a Unix socket (`sun_path` less its NUL).
const MAX_SOCKET: usize = 107;

/// Longest name of a group (`LOGIN_NAME_MAX` less its NUL).
const MAX_GROUP: usize = 255;

impl Check<'_> {
    pub(super) fn director(&mut self, spanned: &Spanned<file::Director>) -> Director {
        let file = spanned.as_ref();
        let workers = match &file.workers {
            Some(workers) => {
                let sleepy = file.idle.as_ref().is_some_and(|idle| idle.as_ref() == "sleep");
                self.workers(workers, sleepy)
            }
            None => {
                self.missing(spanned.span(), "workers");
                Vec::new()
            }
        };
        let interfaces = match &file.interfaces {
            Some(interfaces) => self.interfaces(interfaces),
            None => {
                self.missing(spanned.span(), "interfaces");
                Vec::new()
            }
        };
        let connections_per_worker = self.connections(file.connections_per_worker.as_ref());
        let tunables = self.tunables(file);
        if !workers.is_empty() {
            self.defenses(file, &tunables, workers.len() as u64 * u64::from(connections_per_worker));
        }
        Director {
            interfaces,
            workers,
            connections_per_worker,
            local_addresses: self.local_addresses(&file.local_addresses),
            idle: self.choice("idle", file.idle.as_ref(), &[("spin", Idle::Spin), ("sleep", Idle::Sleep)]),
            xdp_mode: self.choice(
                "xdp_mode",
                file.xdp_mode.as_ref(),
                &[("auto", XdpMode::Auto), ("native", XdpMode::Native), ("generic", XdpMode::Generic)],
            ),
            socket: file.socket.as_ref().map(|path| self.socket(path)),
            api_group: file.api_group.as_ref().map(|name| self.api_group(name)),
            role: self.choice(
                "role",
                file.role.as_ref(),
                &[("active", Role::Active), ("backup", Role::Backup)],
            ),
            when_gone: self.choice(
                "when_gone",
                file.when_gone.as_ref(),
                &[("kernel", WhenGone::Kernel), ("drop", WhenGone::Drop)],
            ),
            offload: self.offload(file.offload.as_ref()),
            offload_flows: self.offload_flows(file.offload_flows.as_ref()),
            offload_flows_v6: self.offload_flows_v6(file.offload_flows_v6.as_ref()),
            offload_after: self.offload_after(file.offload_after.as_ref()),
            offload_stale: self.offload_stale(file.offload_stale.as_ref()),
            tunables,
            timeouts: self.timeouts(&file.timeouts),
        }
    }

    fn interfaces(&mut self, names: &Spanned<Vec<Spanned<String>>>) -> Vec<String> {
        let list = names.as_ref();
        if list.is_empty() || list.len() > MAX_INTERFACES {
            self.problem(
                names.span(),
                format!("a director has 1 to {MAX_INTERFACES} interfaces, not {}", list.len()),
                "name the interfaces that clients and real servers are reached by, as in [\"eth0\", \"eth1\"]",
            );
        }
        let mut seen = HashSet::new();
        for name in list {
            let text = name.as_ref();
            self.interface(name, INTERFACE_HINT);
            if !seen.insert(text) {
                self.problem(
                    name.span(),
                    format!("interface {text} is named twice"),
                    "remove one of the two",
                );
            }
        }
        list.iter().map(|name| name.as_ref().clone()).collect()
    }

    /// `sleepy` workers may share a CPU, while one that spins leaves nothing to another.
    fn workers(&mut self, cpus: &Spanned<Vec<Spanned<i64>>>, sleepy: bool) -> Vec<usize> {
        let list = cpus.as_ref();
        if list.is_empty() {
            self.problem(
                cpus.span(),
                "a director needs at least one worker",
                "name the CPU of each worker, as in [1]; `nproc` says how many CPUs there are",
            );
        }
        let mut workers: Vec<usize> = Vec::new();
        for cpu in list {
            match usize::try_from(*cpu.as_ref()) {
                Ok(number) if number <= MAX_CPU => {
                    if !sleepy && workers.contains(&number) {
                        self.problem(
                            cpu.span(),
                            format!("CPU {number} has two workers"),
                            "give each worker a CPU of its own, or let them sleep (idle = \"sleep\")",
                        );
                    }
                    workers.push(number);
                }
                _ => self.problem(
                    cpu.span(),
                    format!("{} is not the number of a CPU", cpu.as_ref()),
                    format!("CPUs are numbered from 0, up to {MAX_CPU}"),
                ),
            }
        }
        workers
    }

    fn connections(&mut self, value: Option<&Spanned<i64>>) -> u32 {
        let Some(value) = value else {
            return DEFAULT_CONNECTIONS;
        };
        match u32::try_from(*value.as_ref()) {
            Ok(number) if CONNECTIONS.contains(&number) => number,
            _ => {
                self.problem(
                    value.span(),
                    format!("connections_per_worker cannot be {}", value.as_ref()),
                    format!("choose {} to {}", CONNECTIONS.start, CONNECTIONS.end - 1),
                );
                DEFAULT_CONNECTIONS
            }
        }
    }

    fn socket(&mut self, path: &Spanned<String>) -> PathBuf {
        let text = path.as_ref();
        if !text.starts_with('/') || text.len() > MAX_SOCKET || text.contains('\0') {
            self.problem(
                path.span(),
                format!("{text:?} cannot be the path of a socket"),
                format!("give an absolute path of at most {MAX_SOCKET} bytes"),
            );
        }
        PathBuf::from(text)
    }
    /// Whether there is such a group is seen at start: the file may be checked on another machine.
    fn api_group(&mut self, name: &Spanned<String>) -> String {
        let text = name.as_ref();
        let odd = |c: char| c == ':' || c == '/' || c.is_whitespace() || c.is_control();
        if text.is_empty() || text.len() > MAX_GROUP || text.contains(odd) {
            self.problem(
                name.span(),
                format!("{text:?} cannot be the name of a group"),
                "`getent group` lists those that there are; leave it out so that only root has access",
            );
        }
        text.clone()
    }
}
