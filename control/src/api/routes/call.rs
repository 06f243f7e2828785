//! The parts of a request in HTTP's terms.

use std::fmt::Display;
use std::net::SocketAddr;
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Route;
use crate::rules::{Family, Protocol, ServiceName};

/// What a part of a path cannot have as it is (`pchar` of RFC 3986, section 3.3).
const ENCODED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':').remove(b',');

/// Why a request makes no sense; the text is for whoever made it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(in crate::api) struct Malformed(pub(in crate::api) String);

/// A request, but for its method and the fixed parts of its path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::api) struct Call {
    /// What stands in place of the placeholders of its path
    pub(in crate::api) values: Vec<String>,
    /// Without the `?`
    pub(in crate::api) query: String,
    /// JSON, or empty
    pub(in crate::api) body: Vec<u8>,
}

impl Call {
    /// From what came in.
    ///
    /// # Errors
    /// When the path is not text.
    pub(in crate::api) fn from_parts(
        values: &[&str],
        query: Option<&str>,
        body: Vec<u8>,
    ) -> Result<Self, Malformed> {
        let text = |value: &&str| {
            let decoded = percent_decode_str(value).decode_utf8();
            decoded.map(Into::into).map_err(|_| Malformed(format!("{value:?} in the path is not UTF-8")))
        };
        let values = values.iter().map(text).collect::<Result<_, _>>()?;
        Ok(Call { values, query: query.unwrap_or_default().into(), body })
    }

    /// The path and query by which it goes.
    pub(in crate::api) fn target(&self, route: &Route) -> String {
        let mut values = self.values.iter();
        let mut target = String::new();
        for part in route.path.split('/').skip(1) {
            target.push('/');
            match super::placeholder(part).and_then(|_| values.next()) {
                Some(value) => target.extend(utf8_percent_encode(value, ENCODED)),
                None => target += part,
            }
        }
        if !self.query.is_empty() {
            target.push('?');
            target += &self.query;
        }
        target
    }

    /// Without any parts.
    pub(super) fn plain() -> Self {
        Call::default()
    }

    /// To a service.
    pub(super) fn to(service: &ServiceName) -> Self {
        let (kind, name) = match *service {
            ServiceName::Address { protocol, address, port } => {
                (protocol.name(), SocketAddr::new(address, port).to_string())
            }
            ServiceName::Mark { mark, family: Family::Ipv4 } => ("mark", mark.to_string()),
            ServiceName::Mark { mark, family: Family::Ipv6 } => ("mark6", mark.to_string()),
        };
        Call { values: vec![kind.into(), name], ..Call::default() }
    }

    /// With one more part of the path.
    pub(super) fn value(mut self, value: impl Display) -> Self {
        self.values.push(value.to_string());
        self
    }

    /// With a query; none of its values may be a structure.
    pub(super) fn with_query(mut self, query: &impl Serialize) -> Self {
        self.query = serde_urlencoded::to_string(query).unwrap_or_default();
        self
    }

    /// With a body.
    pub(super) fn with_body(mut self, body: &impl Serialize) -> Self {
        // Only maps with keys that are not text cannot be written.
        self.body = serde_json::to_vec(body).unwrap_or_default();
        self
    }

    /// The service that is named by the first two parts.
    pub(super) fn service(&self) -> Result<ServiceName, Malformed> {
        let [kind, name, ..] = self.values.as_slice() else {
            return Err(Malformed("a service is named by two parts of the path".into()));
        };
        let address = |protocol| {
            let end = name.parse::<SocketAddr>().ok()?;
            Some(ServiceName::Address { protocol, address: end.ip(), port: end.port() })
        };
        let mark = |family| {
            let digits = name.bytes().all(|byte| byte.is_ascii_digit());
            Some(ServiceName::Mark { mark: name.parse().ok().filter(|_| digits)?, family })
        };
        let service = match kind.as_str() {
            "tcp" => address(Protocol::Tcp),
            "udp" => address(Protocol::Udp),
            "sctp" => address(Protocol::Sctp),
            "mark" => mark(Family::Ipv4),
            "mark6" => mark(Family::Ipv6),
            _ => None,
        };
        service.ok_or_else(|| {
            Malformed(format!(
                "{kind}/{name} cannot name a service: write tcp/ADDRESS:PORT, udp/ADDRESS:PORT, \
                 sctp/ADDRESS:PORT, mark/NUMBER or mark6/NUMBER, an IPv6 address as %5B2001:db8::1%5D"
            ))
        })
    }

    /// The part of the path at a place, as what it is to be.
    pub(super) fn part<T: FromStr>(&self, place: usize, expected: &str) -> Result<T, Malformed> {
        let text = self.values.get(place).map(String::as_str).unwrap_or_default();
        text.parse().map_err(|_| Malformed(format!("{text:?} in the path is not {expected}")))
    }

    /// The query.
    pub(super) fn query<T: DeserializeOwned>(&self) -> Result<T, Malformed> {
        serde_urlencoded::from_str(&self.query).map_err(|error| Malformed(format!("the query: {error}")))
    }

    /// The body.
    pub(super) fn body<T: DeserializeOwned>(&self) -> Result<T, Malformed> {
        if self.body.iter().all(u8::is_ascii_whitespace) {
            return Err(Malformed("this needs a body, which is JSON".into()));
        }
        serde_json::from_slice(&self.body).map_err(|error| Malformed(format!("the body: {error}")))
    }
}
