//! Which connections a listing shows.

use super::{ConnectionRecord, Entry};
use crate::neigh::Prefix;
use crate::service::{Method, Protocol};
use crate::wire::Address;

/// Addresses, and a port where one is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Addresses
    pub prefix: Prefix,
    /// Port in host order; `None` for every one
    pub port: Option<u16>,
}

impl Endpoint {
    /// Whether an address and port are among them.
    pub(crate) fn takes(&self, (address, port): (Address, u16)) -> bool {
        self.prefix.contains(address) && self.port.is_none_or(|wanted| wanted == port)
    }
}

/// What a connection has to be for a listing to show it; what is not said
/// matches all. Persistence templates are looked at as connections are.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ConnectionFilter {
    /// Transport protocol; a template of every protocol matches each
    pub protocol: Option<Protocol>,
    /// Client
    pub client: Option<Endpoint>,
    /// VIP
    pub service: Option<Endpoint>,
    /// Mark of the service
    pub mark: Option<u32>,
    /// Real server
    pub server: Option<Endpoint>,
    /// LIP of FULLNAT
    pub local: Option<Endpoint>,
    /// IPVS name of the state
    pub state: Option<String>,
    /// How packets reach the server
    pub method: Option<Method>,
}

impl ConnectionFilter {
    /// Whether a record is wanted.
    pub fn matches(&self, record: &ConnectionRecord) -> bool {
        let takes = |wanted: &Option<Endpoint>, end| wanted.is_none_or(|wanted| wanted.takes(end));
        takes(&self.client, record.client)
            && takes(&self.service, record.service)
            && takes(&self.server, record.server)
            && self.protocol.is_none_or(|protocol| record.any_protocol || record.protocol == protocol)
            && self.method.is_none_or(|method| record.method == method)
            && self.state.as_ref().is_none_or(|state| record.state == state)
            && self.local.is_none_or(|wanted| record.local.is_some_and(|local| wanted.takes(local)))
            && self.mark.is_none_or(|mark| record.mark == Some(mark))
    }

    /// False if the record of an entry certainly does not match: what can be
    /// told without looking anywhere else, so that most of a large table is
    /// passed over quickly.
    #[inline]
    pub fn may_match(&self, entry: &Entry) -> bool {
        let Entry { client, server, .. } = entry;
        let takes = |wanted: &Option<Endpoint>, end| wanted.is_none_or(|wanted| wanted.takes(end));
        takes(&self.client, (client.source, client.source_port))
            && takes(&self.service, (client.destination, client.destination_port))
            // The port that is listed may be another.
            && self.server.is_none_or(|wanted| wanted.prefix.contains(server.source))
            && self.protocol.is_none_or(|protocol| client.protocol == protocol)
            && self.method.is_none_or(|method| entry.method == method)
            && self.state.as_ref().is_none_or(|state| entry.state.name() == state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(text: &str, port: Option<u16>) -> Option<Endpoint> {
        Some(Endpoint { prefix: text.parse().unwrap(), port })
    }

    fn address(last: u8) -> Address {
        Address::from_v4([10, 0, 0, last])
    }

    #[test]
    fn each_part_decides() {
        let record = ConnectionRecord {
            protocol: Protocol::Tcp,
            expires: 7,
            state: "ESTABLISHED",
            client: (address(1), 40_000),
            service: (address(2), 80),
            local: Some((address(4), 5000)),
            server: (address(3), 8080),
            method: Method::FullNat,
            any_protocol: false,
            mark: Some(10),
            engine: None,
        };
        let all = ConnectionFilter::default;
        let cases = [
            (ConnectionFilter { client: end("10.0.0.1/32", None), ..all() }, true),
            (ConnectionFilter { client: end("10.0.0.0/30", Some(40_000)), ..all() }, true),
            (ConnectionFilter { client: end("10.0.0.1/32", Some(1)), ..all() }, false),
            (ConnectionFilter { client: end("10.0.1.0/24", None), ..all() }, false),
            (ConnectionFilter { client: end("::/0", None), ..all() }, false),
            (ConnectionFilter { service: end("10.0.0.2/32", Some(80)), ..all() }, true),
            (ConnectionFilter { service: end("10.0.0.2/32", Some(443)), ..all() }, false),
            (ConnectionFilter { server: end("10.0.0.3/32", Some(8080)), ..all() }, true),
            (ConnectionFilter { server: end("10.0.0.3/32", Some(80)), ..all() }, false),
            (ConnectionFilter { local: end("10.0.0.4/32", None), ..all() }, true),
            (ConnectionFilter { local: end("10.0.0.5/32", None), ..all() }, false),
            (ConnectionFilter { state: Some("ESTABLISHED".into()), ..all() }, true),
            (ConnectionFilter { state: Some("CLOSE".into()), ..all() }, false),
            (ConnectionFilter { method: Some(Method::FullNat), ..all() }, true),
            (ConnectionFilter { method: Some(Method::Nat), ..all() }, false),
            (ConnectionFilter { protocol: Some(Protocol::Tcp), ..all() }, true),
            (ConnectionFilter { protocol: Some(Protocol::Udp), ..all() }, false),
            (ConnectionFilter { mark: Some(10), ..all() }, true),
            (ConnectionFilter { mark: Some(11), ..all() }, false),
            (all(), true),
        ];
        for (filter, expected) in cases {
            assert_eq!(filter.matches(&record), expected, "{filter:?}");
        }
        let everything = ConnectionRecord { any_protocol: true, mark: None, local: None, ..record };
        assert!(ConnectionFilter { protocol: Some(Protocol::Udp), ..all() }.matches(&everything));
        assert!(!ConnectionFilter { mark: Some(10), ..all() }.matches(&everything));
        assert!(!ConnectionFilter { local: end("0.0.0.0/0", None), ..all() }.matches(&everything));
    }
}
