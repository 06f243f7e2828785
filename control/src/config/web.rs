//! The web page and metrics: `[web]`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use toml::Spanned;

use super::check::Check;
use super::file;

/// Where the web page and metrics are served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Web {
    /// Address and port; `None` for nowhere
    pub listen: Option<SocketAddr>,
    /// Names by which browsers may ask for it on loopback, beside `localhost`
    pub hosts: Vec<String>,
}

impl Default for Web {
    fn default() -> Self {
        Web {
            listen: Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), DEFAULT_PORT)),
            hosts: Vec::new(),
        }
    }
}

/// The port where the configuration names none.
pub const DEFAULT_PORT: u16 = 9180;

impl Check<'_> {
    pub(super) fn web(&mut self, file: Option<&file::Web>) -> Web {
        let default = Web::default();
        let Some(file) = file else { return default };
        let listen = match &file.listen {
            None => default.listen,
            Some(text) => self.listen(text),
        };
        let mut hosts = Vec::new();
        for host in &file.hosts {
            let name = host.as_ref();
            let fits = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
            if name.is_empty() || name.len() > 253 || !name.chars().all(fits) {
                self.problem(
                    host.span(),
                    format!("{name:?} is no name of a host"),
                    "write a name without a port, as in \"director1.example\"",
                );
            }
            hosts.push(name.to_ascii_lowercase());
        }
        Web { listen, hosts }
    }

    fn listen(&mut self, text: &Spanned<String>) -> Option<SocketAddr> {
        if text.as_ref() == "off" {
            return None;
        }
        let parsed = text.as_ref().parse::<SocketAddr>().ok().filter(|address| address.port() != 0);
        if parsed.is_none() {
            self.problem(
                text.span(),
                format!("{:?} is not an address and port", text.as_ref()),
                format!("write IP:PORT, as in \"127.0.0.1:{DEFAULT_PORT}\" or \"[::1]:{DEFAULT_PORT}\", or \"off\""),
            );
        }
        parsed
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::Config;

    const DIRECTOR: &str = "[director]\ninterfaces = [\"eth0\"]\nworkers = [0]\n";

    fn parse(web: &str) -> Result<super::Web, String> {
        Config::parse(&format!("{DIRECTOR}{web}"), Path::new("x.toml"))
            .map(|config| config.web)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn it_is_on_loopback_unless_said_otherwise() {
        for (text, listen) in [
            ("", Some("127.0.0.1:9180")),
            ("[web]\n", Some("127.0.0.1:9180")),
            ("[web]\nlisten = \"[::1]:80\"\n", Some("[::1]:80")),
            ("[web]\nlisten = \"off\"\n", None),
        ] {
            let expected = listen.map(|listen| listen.parse().unwrap());
            assert_eq!(parse(text).unwrap().listen, expected, "{text}");
        }
        assert_eq!(parse("[web]\nhosts = [\"D1.example\"]\n").unwrap().hosts, ["d1.example"]);
    }

    #[test]
    fn mistakes_are_shown_with_their_place() {
        let error = parse("[web]\nlisten = \"9180\"\nhosts = [\"a b\"]\n").unwrap_err();
        assert_eq!(
            error,
            "x.toml:5:10: \"9180\" is not an address and port\n    \
             hint: write IP:PORT, as in \"127.0.0.1:9180\" or \"[::1]:9180\", or \"off\"\n\
             x.toml:6:10: \"a b\" is no name of a host\n    \
             hint: write a name without a port, as in \"director1.example\""
        );
    }
}
