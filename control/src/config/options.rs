//! What IPVS has as sysctls, and one-packet scheduling and persistence of a
//! `[[service]]`.

use std::net::Ipv4Addr;

use sluice_dataplane::service::{
    ClientMask, FtpPorts, MOST_FTP_PORTS, Persistence, Protocol, ServiceOptions, Tunables,
};

use super::check::Check;
use super::file;

/// Longest persistence timeout, in seconds: what ipvsadm takes (31 days).
const MAX_PERSISTENCE: u32 = 31 * 86_400;

impl Check<'_> {
    pub(super) fn tunables(&mut self, file: &file::Director) -> Tunables {
        let kernel = Tunables::default();
        let conn_reuse_mode = file.conn_reuse_mode.as_ref().map_or(kernel.conn_reuse_mode, |value| {
            let mode = u32::try_from(*value.as_ref()).ok().filter(|mode| *mode <= 3);
            if mode.is_none() {
                self.problem(
                    value.span(),
                    format!("conn_reuse_mode cannot be {}", value.as_ref()),
                    "choose 0 to 3",
                );
            }
            mode.unwrap_or(kernel.conn_reuse_mode)
        });
        Tunables {
            expire_nodest_conn: file.expire_nodest_conn.unwrap_or(kernel.expire_nodest_conn),
            expire_quiescent_template: file
                .expire_quiescent_template
                .unwrap_or(kernel.expire_quiescent_template),
            conn_reuse_mode,
            sloppy_tcp: file.sloppy_tcp.unwrap_or(kernel.sloppy_tcp),
            ftp: self.ftp(file),
        }
    }

    fn ftp(&mut self, file: &file::Director) -> FtpPorts {
        let mut ftp = FtpPorts::default();
        if let Some(ports) = &file.ftp_ports {
            ftp.control = [0; MOST_FTP_PORTS];
            if ports.as_ref().len() > MOST_FTP_PORTS {
                self.problem(
                    ports.span(),
                    format!("{} ftp_ports are too many", ports.as_ref().len()),
                    format!("name {MOST_FTP_PORTS} at most"),
                );
            }
            for (place, port) in ftp.control.iter_mut().zip(ports.as_ref()) {
                // Data connections of active mode come from the port below.
                match u16::try_from(*port.as_ref()).ok().filter(|port| *port >= 2) {
                    Some(port) => *place = port,
                    None => self.problem(
                        port.span(),
                        format!("{} is no port of FTP", port.as_ref()),
                        "choose 2 to 65535; the port below it is for data",
                    ),
                }
            }
        }
        if let Some(range) = &file.ftp_passive_ports {
            let ends = range.as_ref().split_once('-').and_then(|(first, last)| {
                Some((first.trim().parse::<u16>().ok()?, last.trim().parse::<u16>().ok()?))
            });
            match ends.filter(|(first, last)| (1024..=*last).contains(first)) {
                Some(ends) => ftp.passive = ends,
                None => self.problem(
                    range.span(),
                    format!("{:?} is no range of passive ports", range.as_ref()),
                    "write FIRST-LAST with ports from 1024 on, as in \"50000-50999\"",
                ),
            }
        }
        ftp
    }

    pub(super) fn options(&mut self, service: &file::Service, protocol: Option<Protocol>) -> ServiceOptions {
        let one_packet = service.one_packet.as_ref().is_some_and(|value| *value.as_ref());
        if let (true, Some(Protocol::Tcp), Some(value)) = (one_packet, protocol, &service.one_packet) {
            self.problem(
                value.span(),
                "one_packet is for UDP services only",
                "remove it, or make the protocol \"udp\"",
            );
        }
        ServiceOptions { one_packet, persistence: self.persistence(service) }
    }

    fn persistence(&mut self, service: &file::Service) -> Option<Persistence> {
        let mask = service.netmask.as_ref().and_then(|text| {
            let mask = text.as_ref().parse::<Ipv4Addr>().ok();
            if mask.is_none() {
                self.problem(
                    text.span(),
                    format!("{:?} is not an IPv4 netmask", text.as_ref()),
                    "write it as in \"255.255.255.0\"",
                );
            }
            if service.persistent.is_none() {
                self.problem(
                    text.span(),
                    "a netmask is for persistent services only",
                    "remove it, or add persistent = 300",
                );
            }
            mask
        });
        let seconds = service.persistent.as_ref()?;
        let timeout = u32::try_from(*seconds.as_ref()).ok().filter(|s| (1..=MAX_PERSISTENCE).contains(s));
        if timeout.is_none() {
            self.problem(
                seconds.span(),
                format!("persistent cannot be {} seconds", seconds.as_ref()),
                format!("choose 1 to {MAX_PERSISTENCE}"),
            );
        }
        let mask = mask.map_or(ClientMask::HOST, |mask| ClientMask::v4(mask.octets()));
        Some(Persistence { timeout: timeout?, mask })
    }
}
