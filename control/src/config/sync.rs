//! The `[sync]` table: the peer that connections are told to.

use std::net::SocketAddr;
use std::path::PathBuf;

use toml::Spanned;

use super::check::Check;
use super::file;
use crate::sync::Settings;

impl Check<'_> {
    pub(super) fn sync(&mut self, file: Option<&Spanned<file::Sync>>) -> Option<Settings> {
        let file = file?.as_ref();
        let listen = self.end("listen", &file.listen);
        let peer = self.end("peer", &file.peer);
        let key = file.key.as_ref();
        if !key.starts_with('/') || key.contains('\0') {
            self.problem(
                file.key.span(),
                format!("{key:?} cannot be the path of a key"),
                "give an absolute path, as in \"/etc/sluice/sync.key\"; `sluice sync-key FILE` makes a key",
            );
        }
        let (listen, peer) = (listen?, peer?);
        if listen.is_ipv4() != peer.is_ipv4() {
            self.problem(
                file.peer.span(),
                format!("the peer {peer} is of another address family than {listen}"),
                "give both directors addresses of one family",
            );
        }
        if listen.ip() == peer.ip() {
            self.problem(
                file.peer.span(),
                "the peer has the address of this director",
                "listen is this director's own address, peer that of the other one",
            );
        }
        Some(Settings { listen, peer, key: PathBuf::from(key) })
    }

    /// An address and port to listen on or connect to.
    fn end(&mut self, key: &str, text: &Spanned<String>) -> Option<SocketAddr> {
        let end = text.as_ref().parse::<SocketAddr>().ok();
        let end = end.filter(|end| end.port() != 0 && !end.ip().is_unspecified() && !end.ip().is_multicast());
        if end.is_none() {
            self.problem(
                text.span(),
                format!("{key} cannot be {:?}", text.as_ref()),
                "write the IP:PORT of one director, as in \"10.0.9.1:7946\"",
            );
        }
        end
    }
}
