//! Which packets a capture is of.

use super::{Ends, Fate, Sight};
use crate::conn::{ConnectionFilter, ConnectionRecord, Endpoint};
use crate::stats::DropReason;
use crate::wire::Address;

/// What a packet has to be to be copied; what is not said matches all.
///
/// A packet is shown both as it was received and as it is sent if either
/// matches, or its connection does: a filter for a client finds what the server
/// says to a local address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CaptureFilter {
    /// The packet's connection. Of a packet that has none, the ends that it would
    /// give one are looked at; its state, method and LIP are nothing then.
    pub connection: ConnectionFilter,
    /// Where the packet is from, as received or as sent
    pub source: Option<Endpoint>,
    /// Where it goes, likewise
    pub destination: Option<Endpoint>,
    /// One of both, or of its connection's ends
    pub address: Option<Endpoint>,
    /// A port of any of them, in host order
    pub port: Option<u16>,
    /// Whether packets are shown as they were received
    pub before: bool,
    /// Whether packets are shown as they are sent
    pub after: bool,
    /// Which are shown for having been dropped
    pub drops: Drops,
    /// One of so many received packets is looked at, with all that comes of it; 0
    /// is as 1
    pub sample: u32,
}

/// Which dropped packets are shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Drops {
    /// Those and all others
    #[default]
    Also,
    /// No others
    Only,
    /// No others, and only those that were dropped for this reason
    For(DropReason),
}

impl Default for CaptureFilter {
    /// All packets, before and after.
    fn default() -> Self {
        CaptureFilter {
            connection: ConnectionFilter::default(),
            source: None,
            destination: None,
            address: None,
            port: None,
            before: true,
            after: true,
            drops: Drops::Also,
            sample: 1,
        }
    }
}

/// What is known of a packet when all was done with it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Facts<'a> {
    /// Its ends as it was received
    pub(crate) received: Option<Ends>,
    /// Its ends as it is sent
    pub(crate) sent: Option<Ends>,
    /// Its connection
    pub(crate) connection: Option<&'a ConnectionRecord>,
    /// The mark of the service that it would begin a connection of
    pub(crate) mark: Option<u32>,
}

/// Whether a packet is wanted at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Passed(());

type End = (Address, u16);

impl Facts<'_> {
    fn any_end(&self, takes: impl Fn(End) -> bool) -> bool {
        let of_packet = |ends: Option<Ends>| ends.is_some_and(|e| takes(e.source) || takes(e.destination));
        let of_connection = |c: &ConnectionRecord| {
            takes(c.client) || takes(c.service) || takes(c.server) || c.local.is_some_and(&takes)
        };
        of_packet(self.received) || of_packet(self.sent) || self.connection.is_some_and(of_connection)
    }
}

impl CaptureFilter {
    /// Whether a packet is one of the wanted.
    pub(crate) fn passes(&self, facts: &Facts) -> Option<Passed> {
        let is = |wanted: &Option<Endpoint>, end: fn(&Ends) -> End| {
            let takes = |wanted: &Endpoint| {
                let all = facts.received.iter().chain(&facts.sent);
                all.map(end).any(|end| wanted.takes(end))
            };
            wanted.as_ref().is_none_or(takes)
        };
        let matches = is(&self.source, |ends| ends.source)
            && is(&self.destination, |ends| ends.destination)
            && self.address.is_none_or(|wanted| facts.any_end(|end| wanted.takes(end)))
            && self.port.is_none_or(|wanted| facts.any_end(|(_, port)| port == wanted))
            && self.is_of_connection(facts);
        matches.then_some(Passed(()))
    }

    fn is_of_connection(&self, facts: &Facts) -> bool {
        let wanted = &self.connection;
        if let Some(connection) = facts.connection {
            return wanted.matches(connection);
        }
        if *wanted == ConnectionFilter::default() {
            return true;
        }
        let Some(received) = facts.received else { return false };
        let takes = |wanted: Option<Endpoint>, end: Option<End>| {
            wanted.is_none_or(|wanted| end.is_some_and(|end| wanted.takes(end)))
        };
        takes(wanted.client, Some(received.source))
            && takes(wanted.service, Some(received.destination))
            && takes(wanted.server, facts.sent.map(|ends| ends.destination))
            && takes(wanted.local, facts.sent.map(|ends| ends.source))
            && wanted.protocol.is_none_or(|protocol| protocol.number() == received.protocol)
            && wanted.mark.is_none_or(|mark| facts.mark == Some(mark))
            && wanted.method.is_none()
            && wanted.state.is_none()
    }

    /// Whether this sight of a packet that passed is wanted.
    pub(crate) fn shows(&self, _: Passed, sight: Sight) -> bool {
        let reason = match sight {
            Sight::Before(Fate::Dropped(reason)) | Sight::Dropped(reason) => Some(reason),
            Sight::Before(_) | Sight::After | Sight::Answer => None,
        };
        match (self.drops, sight) {
            (Drops::For(wanted), _) => reason == Some(wanted),
            (Drops::Only, _) => reason.is_some(),
            (Drops::Also, Sight::Before(_) | Sight::Dropped(_)) => self.before,
            (Drops::Also, Sight::After | Sight::Answer) => self.after,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::{Method, Protocol};

    fn end(text: &str) -> End {
        let (address, port) = text.rsplit_once(':').unwrap();
        (address.parse::<std::net::IpAddr>().unwrap().into(), port.parse().unwrap())
    }

    fn ends(source: &str, destination: &str) -> Option<Ends> {
        Some(Ends { source: end(source), destination: end(destination), protocol: 6 })
    }

    fn wanted(prefix: &str, port: Option<u16>) -> Option<Endpoint> {
        Some(Endpoint { prefix: prefix.parse().unwrap(), port })
    }

    fn fullnat() -> ConnectionRecord {
        ConnectionRecord {
            protocol: Protocol::Tcp,
            expires: 0,
            state: "ESTABLISHED",
            client: end("198.51.100.7:40000"),
            service: end("192.0.2.10:80"),
            local: Some(end("10.0.2.200:5000")),
            server: end("10.0.2.1:8080"),
            method: Method::FullNat,
            any_protocol: false,
            mark: Some(7),
            engine: None,
        }
    }

    /// What passes of a request and its reply by FULLNAT, and of a packet that no
    /// connection is begun for.
    fn passing(filter: &CaptureFilter) -> [bool; 3] {
        let record = fullnat();
        let of_connection = |received, sent| Facts { received, sent, connection: Some(&record), mark: None };
        let request = ends("198.51.100.7:40000", "192.0.2.10:80");
        let facts = [
            of_connection(request, ends("10.0.2.200:5000", "10.0.2.1:8080")),
            of_connection(
                ends("10.0.2.1:8080", "10.0.2.200:5000"),
                ends("192.0.2.10:80", "198.51.100.7:40000"),
            ),
            Facts { received: request, mark: Some(9), ..Facts::default() },
        ];
        facts.map(|facts| filter.passes(&facts).is_some())
    }

    #[test]
    fn each_part_decides_whichever_way_a_packet_goes() {
        let all = CaptureFilter::default;
        let of = |connection| CaptureFilter { connection, ..all() };
        let any = ConnectionFilter::default;
        let cases = [
            (all(), [true, true, true]),
            (CaptureFilter { source: wanted("198.51.100.7/32", None), ..all() }, [true, false, true]),
            (CaptureFilter { source: wanted("192.0.2.10/32", None), ..all() }, [false, true, false]),
            (CaptureFilter { source: wanted("10.0.2.1/32", Some(8080)), ..all() }, [false, true, false]),
            (CaptureFilter { source: wanted("10.0.2.1/32", Some(80)), ..all() }, [false; 3]),
            (CaptureFilter { destination: wanted("10.0.2.0/24", None), ..all() }, [true, true, false]),
            (CaptureFilter { address: wanted("198.51.100.0/24", None), ..all() }, [true; 3]),
            (CaptureFilter { address: wanted("10.0.2.1/32", None), ..all() }, [true, true, false]),
            (CaptureFilter { address: wanted("2001:db8::/32", None), ..all() }, [false; 3]),
            (CaptureFilter { port: Some(80), ..all() }, [true; 3]),
            (CaptureFilter { port: Some(8080), ..all() }, [true, true, false]),
            (CaptureFilter { port: Some(22), ..all() }, [false; 3]),
            (of(ConnectionFilter { client: wanted("198.51.100.7/32", None), ..any() }), [true; 3]),
            (of(ConnectionFilter { client: wanted("10.0.2.1/32", None), ..any() }), [false; 3]),
            (of(ConnectionFilter { service: wanted("192.0.2.10/32", Some(80)), ..any() }), [true; 3]),
            (of(ConnectionFilter { server: wanted("10.0.2.1/32", None), ..any() }), [true, true, false]),
            (of(ConnectionFilter { local: wanted("10.0.2.200/32", None), ..any() }), [true, true, false]),
            (of(ConnectionFilter { protocol: Some(Protocol::Tcp), ..any() }), [true; 3]),
            (of(ConnectionFilter { protocol: Some(Protocol::Udp), ..any() }), [false; 3]),
            (of(ConnectionFilter { mark: Some(7), ..any() }), [true, true, false]),
            (of(ConnectionFilter { mark: Some(9), ..any() }), [false, false, true]),
            (of(ConnectionFilter { method: Some(Method::FullNat), ..any() }), [true, true, false]),
            (of(ConnectionFilter { state: Some("CLOSE".into()), ..any() }), [false; 3]),
        ];
        for (filter, expected) in cases {
            assert_eq!(passing(&filter), expected, "{filter:?}");
        }
    }

    /// A packet that is scheduled by itself leaves no connection behind.
    #[test]
    fn without_a_connection_the_sent_packet_tells_the_server() {
        let (received, sent) =
            (ends("198.51.100.7:40000", "192.0.2.10:80"), ends("198.51.100.7:40000", "10.0.2.1:80"));
        let facts = Facts { received, sent, ..Facts::default() };
        let of = |server: &str| CaptureFilter {
            connection: ConnectionFilter { server: wanted(server, None), ..ConnectionFilter::default() },
            ..CaptureFilter::default()
        };
        assert!(of("10.0.2.1/32").passes(&facts).is_some());
        assert!(of("10.0.2.2/32").passes(&facts).is_none());
        assert!(of("0.0.0.0/0").passes(&Facts::default()).is_none(), "what is not IP has no server");
        assert!(CaptureFilter::default().passes(&Facts::default()).is_some());
    }

    #[test]
    fn sights_are_chosen() {
        let gone = DropReason::NoServer;
        let sights = [
            Sight::Before(Fate::Sent),
            Sight::Before(Fate::Dropped(gone)),
            Sight::After,
            Sight::Answer,
            Sight::Dropped(gone),
        ];
        let all = CaptureFilter::default();
        let cases = [
            (all.clone(), [true; 5]),
            (CaptureFilter { after: false, ..all.clone() }, [true, true, false, false, true]),
            (CaptureFilter { before: false, ..all.clone() }, [false, false, true, true, false]),
            (CaptureFilter { drops: Drops::Only, ..all.clone() }, [false, true, false, false, true]),
            (CaptureFilter { drops: Drops::For(gone), ..all.clone() }, [false, true, false, false, true]),
            (CaptureFilter { drops: Drops::For(DropReason::NoRoute), ..all.clone() }, [false; 5]),
        ];
        for (filter, expected) in cases {
            assert_eq!(sights.map(|sight| filter.shows(Passed(()), sight)), expected, "{filter:?}");
        }
    }
}
