//! The `[[sync_daemon]]` tables: pairing with a Linux director.

use std::net::IpAddr;

use toml::Spanned;

use super::check::Check;
use super::file;
use crate::rules::{Daemon, DaemonRole};

impl Check<'_> {
    pub(super) fn daemons(&mut self, files: &[Spanned<file::SyncDaemon>]) -> Vec<Daemon> {
        let mut daemons: Vec<Daemon> = Vec::new();
        for spanned in files {
            let Some(daemon) = self.daemon(spanned.as_ref()) else { continue };
            if daemons.iter().any(|other| other.role == daemon.role) {
                self.problem(
                    spanned.as_ref().role.span(),
                    format!("there are two sync daemons as {}", spanned.as_ref().role.as_ref()),
                    "leave one master and one backup at the most",
                );
            }
            daemons.push(daemon);
        }
        daemons
    }

    fn daemon(&mut self, file: &file::SyncDaemon) -> Option<Daemon> {
        let role = match file.role.as_ref().as_str() {
            "master" => Some(DaemonRole::Master),
            "backup" => Some(DaemonRole::Backup),
            other => {
                self.problem(
                    file.role.span(),
                    format!("role cannot be {other:?}"),
                    "write \"master\", which tells of connections, or \"backup\", which takes them",
                );
                None
            }
        };
        let interface = self
            .interface(&file.interface, "name the one that the other director is reached by, as in \"eth1\"");
        let group = file.group.as_ref().and_then(|text| {
            let group = text.as_ref().parse::<IpAddr>().ok().filter(IpAddr::is_multicast);
            if group.is_none() {
                self.problem(
                    text.span(),
                    format!("group cannot be {:?}", text.as_ref()),
                    "write a multicast address, as in \"224.0.0.81\" or \"ff02::81\"",
                );
            }
            group
        });
        Some(Daemon {
            sync_id: self.small("sync_id", file.sync_id.as_ref(), 0, u8::MAX),
            max_length: self.small("max_length", file.max_length.as_ref(), 1, u16::MAX),
            port: self.small("port", file.port.as_ref(), 1, u16::MAX),
            ttl: self.small("ttl", file.ttl.as_ref(), 1, u8::MAX),
            role: role?,
            interface,
            group,
        })
    }

    fn small<T: TryFrom<i64> + Into<i64> + Copy>(
        &mut self,
        key: &str,
        value: Option<&Spanned<i64>>,
        least: i64,
        most: T,
    ) -> Option<T> {
        let value = value?;
        let number = T::try_from(*value.as_ref()).ok().filter(|number| (*number).into() >= least);
        if number.is_none() {
            self.problem(
                value.span(),
                format!("{key} cannot be {}", value.as_ref()),
                format!("choose {least} to {}", most.into()),
            );
        }
        number
    }
}
