//! TLS for checks.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::check::plain;

/// Where Debian keeps the authorities that it trusts.
pub const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(ring::default_provider()));

/// Shared, so that servers are asked to resume sessions, which costs them less.
static UNVERIFIED: LazyLock<Result<Arc<ClientConfig>, String>> = LazyLock::new(|| {
    let builder =
        ClientConfig::builder_with_provider(Arc::clone(&PROVIDER)).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    let verifier = Arc::new(AnyCertificate(Arc::clone(&PROVIDER)));
    Ok(Arc::new(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()))
});

/// How a check speaks TLS.
#[derive(Clone)]
pub struct Tls {
    name: Option<String>,
    authorities: Option<PathBuf>,
    config: Arc<ClientConfig>,
}

impl Tls {
    /// With the name to ask for (SNI), and the file of the authorities one of
    /// which has to vouch for it. Without a file any certificate will do, as
    /// with keepalived.
    ///
    /// # Errors
    /// When the file cannot be read, or has no certificate in it.
    pub fn new(name: Option<String>, authorities: Option<PathBuf>) -> Result<Self, String> {
        let config = match &authorities {
            Some(file) => Arc::new(verified(file)?),
            None => UNVERIFIED.clone()?,
        };
        Ok(Tls { name, authorities, config })
    }

    /// The same, but the server has to speak HTTP/2 (ALPN `h2`, RFC 9113,
    /// section 3.2).
    pub fn for_http2(mut self) -> Self {
        Arc::make_mut(&mut self.config).alpn_protocols = vec![b"h2".to_vec()];
        self
    }

    /// `host` is the name to ask for where the check names none.
    pub(super) async fn connect(
        &self,
        stream: TcpStream,
        host: Option<&str>,
        address: IpAddr,
    ) -> Result<TlsStream<TcpStream>, String> {
        let host = host.map(|host| host.rsplit_once(':').map_or(host, |(name, _)| name));
        let name = match self.name.as_deref().or(host) {
            Some(name) => {
                ServerName::try_from(name.to_owned()).map_err(|_| format!("{name:?} is not a name"))?
            }
            None => ServerName::from(address),
        };
        let connector = TlsConnector::from(Arc::clone(&self.config));
        connector.connect(name, stream).await.map_err(|error| format!("TLS: {}", plain(&error)))
    }
}

fn verified(file: &Path) -> Result<ClientConfig, String> {
    let text = fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&text).filter_map(Result::ok));
    if roots.is_empty() {
        return Err(format!("{} has no certificate in it", file.display()));
    }
    let builder =
        ClientConfig::builder_with_provider(Arc::clone(&PROVIDER)).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, &self.authorities) == (&other.name, &other.authorities)
    }
}

impl Eq for Tls {}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).field("authorities", &self.authorities).finish()
    }
}

/// Takes any certificate, but the server must have its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
