//! Which connections are asked for.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_dataplane::conn::{ConnectionFilter, Endpoint, State};
use sluice_dataplane::neigh::Prefix;

use crate::rules::{Method, Protocol};

/// What a connection has to be; what is not said matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConnectionQuery {
    /// Transport protocol
    pub protocol: Option<Protocol>,
    /// Client
    pub client: Option<EndpointQuery>,
    /// VIP
    pub service: Option<EndpointQuery>,
    /// Mark of the service
    pub mark: Option<u32>,
    /// Real server
    pub server: Option<EndpointQuery>,
    /// LIP of FULLNAT
    pub local: Option<EndpointQuery>,
    /// IPVS name of the state
    pub state: Option<String>,
    /// How packets reach the server
    pub method: Option<Method>,
}

/// Addresses, and a port where one is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct EndpointQuery {
    /// An address, or the first of a network
    pub address: IpAddr,
    /// How many leading bits count
    pub length: u8,
    /// Port in host order; all without it
    pub port: Option<u16>,
}

/// Why a query makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// Neither an address nor a network
    #[error(
        "{0:?} is no address: write ADDRESS, ADDRESS:PORT, [IPV6]:PORT, NETWORK/LENGTH or NETWORK/LENGTH:PORT"
    )]
    NoAddress(String),
    /// More bits than the address has
    #[error("there is no network {0}/{1}: the length is 0 to 32 for IPv4 and 0 to 128 for IPv6")]
    NoNetwork(IpAddr, u8),
    /// No state of that name
    #[error("there is no state {0:?}: there are {states}", states = states().join(", "))]
    NoState(String),
}

impl FromStr for EndpointQuery {
    type Err = QueryError;

    fn from_str(text: &str) -> Result<Self, QueryError> {
        let all = |address: IpAddr| if address.is_ipv4() { 32 } else { 128 };
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(EndpointQuery { address, length: all(address), port: None });
        }
        if let Ok(end) = text.parse::<SocketAddr>() {
            return Ok(EndpointQuery { address: end.ip(), length: all(end.ip()), port: Some(end.port()) });
        }
        let network = text.split_once('/').and_then(|(address, rest)| {
            let (length, port) = match rest.split_once(':') {
                Some((length, port)) => (length, Some(port.parse().ok()?)),
                None => (rest, None),
            };
            Some(EndpointQuery { address: address.parse().ok()?, length: length.parse().ok()?, port })
        });
        let network = network.ok_or_else(|| QueryError::NoAddress(text.into()))?;
        network.endpoint().map(|_| network)
    }
}

impl fmt::Display for EndpointQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let EndpointQuery { address, length, port } = *self;
        let whole = length == if address.is_ipv4() { 32 } else { 128 };
        match port {
            None if whole => address.fmt(f),
            Some(port) if whole => SocketAddr::new(address, port).fmt(f),
            None => write!(f, "{address}/{length}"),
            Some(port) => write!(f, "{address}/{length}:{port}"),
        }
    }
}

impl From<EndpointQuery> for String {
    fn from(end: EndpointQuery) -> String {
        end.to_string()
    }
}

impl TryFrom<String> for EndpointQuery {
    type Error = QueryError;

    fn try_from(text: String) -> Result<Self, QueryError> {
        text.parse()
    }
}

impl EndpointQuery {
    /// What workers look for.
    pub(crate) fn endpoint(self) -> Result<Endpoint, QueryError> {
        let prefix = Prefix::new(self.address.into(), self.length)
            .ok_or(QueryError::NoNetwork(self.address, self.length))?;
        Ok(Endpoint { prefix, port: self.port })
    }
}

impl ConnectionQuery {
    /// What workers look for.
    ///
    /// # Errors
    /// [`QueryError`].
    pub fn filter(&self) -> Result<ConnectionFilter, QueryError> {
        let end = |end: Option<EndpointQuery>| end.map(EndpointQuery::endpoint).transpose();
        if let Some(state) = self.state.as_ref().filter(|state| !states().contains(&state.as_str())) {
            return Err(QueryError::NoState(state.clone()));
        }
        Ok(ConnectionFilter {
            protocol: self.protocol.map(Into::into),
            client: end(self.client)?,
            service: end(self.service)?,
            mark: self.mark,
            server: end(self.server)?,
            local: end(self.local)?,
            state: self.state.clone(),
            method: self.method.map(Into::into),
        })
    }
}

/// The names of all states: those of connections, and that of a template in use.
fn states() -> Vec<&'static str> {
    let mut names: Vec<_> = State::ALL.iter().map(|state| state.name()).collect();
    names.push("ASSURED");
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_written_in_several_ways() {
        let end = |address: &str, length, port| {
            Ok(EndpointQuery { address: address.parse().unwrap(), length, port })
        };
        for (text, expected) in [
            ("192.0.2.10", end("192.0.2.10", 32, None)),
            ("192.0.2.10:80", end("192.0.2.10", 32, Some(80))),
            ("192.0.2.0/24", end("192.0.2.0", 24, None)),
            ("2001:db8::1", end("2001:db8::1", 128, None)),
            ("[2001:db8::1]:80", end("2001:db8::1", 128, Some(80))),
            ("2001:db8::/32", end("2001:db8::", 32, None)),
            ("192.0.2.0/24:80", end("192.0.2.0", 24, Some(80))),
            ("2001:db8::/32:80", end("2001:db8::", 32, Some(80))),
            ("0.0.0.0/0", end("0.0.0.0", 0, None)),
            ("192.0.2.0/33", Err(QueryError::NoNetwork([192, 0, 2, 0].into(), 33))),
            ("example.test", Err(QueryError::NoAddress("example.test".into()))),
            ("", Err(QueryError::NoAddress(String::new()))),
            ("192.0.2.10:99999", Err(QueryError::NoAddress("192.0.2.10:99999".into()))),
        ] {
            let parsed = text.parse::<EndpointQuery>();
            assert_eq!(parsed, expected, "{text}");
            if let Ok(end) = parsed {
                assert_eq!(end.to_string(), text);
            }
        }
    }

    #[test]
    fn a_query_that_makes_no_sense_is_refused() {
        let of = |state: &str| ConnectionQuery { state: Some(state.into()), ..ConnectionQuery::default() };
        assert!(of("ESTABLISHED").filter().is_ok());
        let error = of("OPEN").filter().unwrap_err().to_string();
        assert!(error.contains("SYN_RECV, "), "{error}");
        let address = [192, 0, 2, 0].into();
        let client = Some(EndpointQuery { address, length: 60, port: None });
        let query = ConnectionQuery { client, ..ConnectionQuery::default() };
        assert_eq!(query.filter(), Err(QueryError::NoNetwork(address, 60)));
    }
}
