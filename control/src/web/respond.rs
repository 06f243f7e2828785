//! What is answered to a request.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::assets;
use super::scrape::Scrapes;
use crate::events::EventRecord;
use crate::observe::{MAX_LISTED, Observatory, OverviewQuery, POINTS};

/// The body of an answer.
pub(super) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Events of one answer.
const MAX_EVENTS: usize = 500;

/// Overviews that are worked out at a time.
const MAX_OVERVIEWS: usize = 2;

/// Nothing from elsewhere is loaded, nothing is framed, nothing is sent away.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) struct Responder {
    observatory: Arc<Observatory>,
    scrapes: Scrapes,
    overviews: Semaphore,
    /// Names by which it may be asked for; any where that is `None`
    hosts: Option<Vec<String>>,
}

impl Responder {
    pub(super) fn new(observatory: Arc<Observatory>, address: SocketAddr, hosts: Vec<String>) -> Self {
        Responder {
            scrapes: Scrapes::new(Arc::clone(&observatory)),
            observatory,
            overviews: Semaphore::new(MAX_OVERVIEWS),
            hosts: address.ip().is_loopback().then_some(hosts),
        }
    }

    pub(super) async fn respond(&self, request: Request<Incoming>) -> Response<Body> {
        let head = request.method() == Method::HEAD;
        let mut response = self.answer(&request).await;
        let headers = response.headers_mut();
        let mut set = |name, value| headers.insert(name, HeaderValue::from_static(value));
        set(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY);
        set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
        set(header::X_FRAME_OPTIONS, "DENY");
        set(header::REFERRER_POLICY, "no-referrer");
        set(header::CACHE_CONTROL, "no-store");
        // A body that nobody reads would be taken for the next request.
        if !request.body().is_end_stream() {
            set(header::CONNECTION, "close");
        }
        if head {
            response.map(|_| Full::default().map_err(|never| match never {}).boxed_unsync())
        } else {
            response
        }
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            let mut response =
                refuse(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD: nothing can be changed here");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        if !request.body().is_end_stream() {
            return refuse(StatusCode::PAYLOAD_TOO_LARGE, "a request has no body here");
        }
        if !self.is_for_us(request.headers()) {
            return refuse(
                StatusCode::MISDIRECTED_REQUEST,
                "ask by an IP address or localhost, or add the name to hosts of [web]",
            );
        }
        let query = request.uri().query().unwrap_or("");
        match request.uri().path() {
            "/metrics" => self.scrapes.answer(request.headers(), query),
            "/api/overview" => self.overview(query).await,
            "/api/events" => self.events(query),
            path => match assets::find(path) {
                Some((content_type, text)) => content(content_type, text),
                None => refuse(StatusCode::NOT_FOUND, "there is no such page; / is the first"),
            },
        }
    }

    /// Whether the browser means this server, and not a name of its own that
    /// leads here (DNS rebinding). Beyond loopback everybody may ask anyway.
    fn is_for_us(&self, headers: &HeaderMap) -> bool {
        let Some(hosts) = &self.hosts else { return true };
        // Programs that do not say are no browsers.
        let Some(host) = headers.get(header::HOST) else { return true };
        let Ok(host) = host.to_str() else { return false };
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        let name = name.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        name.parse::<IpAddr>().is_ok() || name == "localhost" || hosts.contains(&name)
    }

    async fn overview(&self, query: &str) -> Response<Body> {
        let query = match overview_query(query) {
            Ok(query) => query,
            Err(wrong) => return refuse(StatusCode::BAD_REQUEST, &wrong),
        };
        let Ok(_turn) = self.overviews.acquire().await else {
            return refuse(StatusCode::SERVICE_UNAVAILABLE, "the director is stopping");
        };
        let observatory = Arc::clone(&self.observatory);
        match spawn_blocking(move || serde_json::to_vec(&observatory.overview(&query))).await {
            Ok(Ok(json)) => content("application/json", json),
            Ok(Err(error)) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
            Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    }

    fn events(&self, query: &str) -> Response<Body> {
        let mut after = 0;
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match (&*key, value.parse()) {
                ("after", Ok(number)) => after = number,
                _ => return refuse(StatusCode::BAD_REQUEST, "the query is after=NUMBER"),
            }
        }
        json(&Events { events: self.observatory.events().since(after, MAX_EVENTS) })
    }
}

#[derive(Serialize)]
struct Events {
    events: Vec<EventRecord>,
}

fn overview_query(text: &str) -> Result<OverviewQuery, String> {
    let mut query = OverviewQuery { limit: 25, ..OverviewQuery::default() };
    for (key, value) in form_urlencoded::parse(text.as_bytes()) {
        let number = |most: usize| {
            value.parse::<usize>().map(|n| n.min(most)).map_err(|_| format!("{key} is a number"))
        };
        match &*key {
            "search" => query.search = value.into_owned(),
            "sort" => {
                query.sort = value.parse().map_err(|()| {
                    "sort is one of packets, bits, connections, drops, active and name".to_owned()
                })?;
            }
            "offset" => query.offset = number(usize::MAX)?,
            "limit" => query.limit = number(MAX_LISTED)?,
            "points" => query.points = number(POINTS)?,
            "open" => query.open = Some(value.into_owned()),
            _ => return Err("the query has search, sort, offset, limit, points and open".into()),
        }
    }
    Ok(query)
}

fn json(value: &impl Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(json) => content("application/json", json),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

pub(super) fn content(content_type: &'static str, bytes: impl Into<Bytes>) -> Response<Body> {
    let body = Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

pub(super) fn refuse(status: StatusCode, why: &str) -> Response<Body> {
    let mut response = content("text/plain; charset=utf-8", format!("{why}\n"));
    *response.status_mut() = status;
    response
}
