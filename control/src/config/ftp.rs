//! Where FTP is followed: `ftp_ports` and `ftp_passive_ports` of `[director]`.

use sluice_dataplane::service::{FtpPorts, MOST_FTP_PORTS};

use super::check::Check;
use super::file;

impl Check<'_> {
    pub(super) fn ftp(&mut self, file: &file::Director) -> FtpPorts {
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
}
