//! What IPVS has as sysctls (`net.ipv4.vs`), under the same names and with the
//! same values.

use sluice_dataplane::service::{Defense, Tunables};
use sluice_dataplane::worker::CONNECTIONS_IN_A_PAGE;
use toml::Spanned;

use super::check::Check;
use super::file;

impl Check<'_> {
    pub(super) fn tunables(&mut self, file: &file::Director) -> Tunables {
        let kernel = Tunables::default();
        let seconds = 1..=i64::from(i32::MAX);
        Tunables {
            expire_nodest_conn: file.expire_nodest_conn.unwrap_or(kernel.expire_nodest_conn),
            expire_quiescent_template: file
                .expire_quiescent_template
                .unwrap_or(kernel.expire_quiescent_template),
            conn_reuse_mode: self.number(
                "conn_reuse_mode",
                file.conn_reuse_mode.as_ref(),
                0..=3,
                kernel.conn_reuse_mode,
            ),
            sloppy_tcp: file.sloppy_tcp.unwrap_or(kernel.sloppy_tcp),
            ftp: self.ftp(file),
            sloppy_sctp: file.sloppy_sctp.unwrap_or(kernel.sloppy_sctp),
            drop_entry: self.defense("drop_entry", file.drop_entry.as_ref()),
            drop_packet: self.defense("drop_packet", file.drop_packet.as_ref()),
            secure_tcp: self.defense("secure_tcp", file.secure_tcp.as_ref()),
            amemthresh: self.number(
                "amemthresh",
                file.amemthresh.as_ref(),
                0..=i64::from(i32::MAX),
                kernel.amemthresh,
            ),
            am_droprate: self.number(
                "am_droprate",
                file.am_droprate.as_ref(),
                1..=i64::from(i32::MAX),
                kernel.am_droprate,
            ),
            nat_icmp_send: file.nat_icmp_send.unwrap_or(kernel.nat_icmp_send),
            pmtu_disc: file.pmtu_disc.unwrap_or(kernel.pmtu_disc),
            lblc_expiration: self.number(
                "lblc_expiration",
                file.lblc_expiration.as_ref(),
                seconds.clone(),
                kernel.lblc_expiration,
            ),
            lblcr_expiration: self.number(
                "lblcr_expiration",
                file.lblcr_expiration.as_ref(),
                seconds,
                kernel.lblcr_expiration,
            ),
            // Told less often, a connection with packets could end elsewhere.
            sync_refresh_period: self.number(
                "sync_refresh_period",
                file.sync_refresh_period.as_ref(),
                0..=120,
                kernel.sync_refresh_period,
            ),
            sync_persist_mode: file.sync_persist_mode.unwrap_or(kernel.sync_persist_mode),
            sync_sock_size: self.number(
                "sync_sock_size",
                file.sync_sock_size.as_ref(),
                0..=1 << 30,
                kernel.sync_sock_size,
            ),
        }
    }

    /// Defences for when room is short would be on from the start where all room
    /// is less than counts as short.
    pub(super) fn defenses(&mut self, file: &file::Director, tunables: &Tunables, connections: u64) {
        let enough = u64::from(tunables.amemthresh) * CONNECTIONS_IN_A_PAGE;
        let settings = [
            ("drop_entry", &file.drop_entry, tunables.drop_entry),
            ("drop_packet", &file.drop_packet, tunables.drop_packet),
            ("secure_tcp", &file.secure_tcp, tunables.secure_tcp),
        ];
        for (key, value, defense) in settings {
            if let (Some(value), Defense::WhenShort) = (value, defense)
                && connections <= enough
            {
                self.problem(
                    value.span(),
                    format!("{key} would always be on: there is room for {connections} connections in all"),
                    format!(
                        "lower amemthresh below {}, or raise connections_per_worker",
                        connections / CONNECTIONS_IN_A_PAGE
                    ),
                );
            }
        }
    }

    /// A number within bounds, or the default where there is none.
    fn number(
        &mut self,
        key: &str,
        value: Option<&Spanned<i64>>,
        bounds: std::ops::RangeInclusive<i64>,
        default: u32,
    ) -> u32 {
        let Some(value) = value else { return default };
        let number = Some(*value.as_ref()).filter(|number| bounds.contains(number));
        if number.is_none() {
            self.problem(
                value.span(),
                format!("{key} cannot be {}", value.as_ref()),
                format!("choose {} to {}", bounds.start(), bounds.end()),
            );
        }
        number.and_then(|number| u32::try_from(number).ok()).unwrap_or(default)
    }

    fn defense(&mut self, key: &str, value: Option<&Spanned<i64>>) -> Defense {
        match value.map(|value| *value.as_ref()) {
            None | Some(0) => Defense::Off,
            // The kernel writes 2 itself while the defence is on.
            Some(1 | 2) => Defense::WhenShort,
            Some(3) => Defense::Always,
            Some(other) => {
                self.problem(
                    value.map_or(0..0, Spanned::span),
                    format!("{key} cannot be {other}"),
                    "choose 0 for never, 1 for when room is short, or 3 for always",
                );
                Defense::Off
            }
        }
    }
}
