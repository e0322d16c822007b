//! Sets up TLS for pushes: which certificates are trusted, and why one is not.
//!
//! This is the same rustls and cryptography (ring) that ureq uses, configured again because gRPC
//! needs its own connection.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::{AlertDescription, CertificateError, ClientConfig, Error, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt as _;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// Why a file's certificate authorities cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// It cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not a PEM file.
    #[error("{} is not a PEM file: {why}", .path.display())]
    NotPem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: pem::Error,
    },
    /// It contains no certificate.
    #[error("{} contains no certificate", .0.display())]
    Empty(PathBuf),
    /// One of its certificates cannot be used as an authority.
    #[error("{} contains an unusable certificate authority: {why}", .path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        why: Error,
    },
}

/// The most that is read of a file of authorities, in bytes.
const MAX_FILE: u64 = 16 << 20;

/// The certificate authorities that are trusted.
#[derive(Debug, Clone)]
pub enum Trust {
    /// Those of the system, which may include a company's own.
    System,
    /// Only these.
    Own(Vec<CertificateDer<'static>>),
}

impl Trust {
    /// Reads a PEM file of authorities.
    pub fn read(path: &Path) -> Result<Self, TrustError> {
        let failed = |source| TrustError::Read { path: path.into(), source };
        let text = host::files::read_small(path, MAX_FILE).map_err(failed)?;
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
        let found = found.map_err(|why| TrustError::NotPem { path: path.into(), why })?;
        if found.is_empty() {
            return Err(TrustError::Empty(path.into()));
        }
        // Otherwise an unusable one would only show up as a server that is not trusted.
        roots(&found).map_err(|why| TrustError::Unusable { path: path.into(), why })?;
        Ok(Self::Own(found))
    }

    /// For ureq.
    pub fn for_http(&self) -> TlsConfig {
        let roots = match self {
            Self::System => RootCerts::PlatformVerifier,
            Self::Own(found) => {
                let certificate = |c: &CertificateDer<'_>| Certificate::from_der(c).to_owned();
                found.iter().map(certificate).collect::<Vec<_>>().into()
            }
        };
        TlsConfig::builder().root_certs(roots).build()
    }

    /// For HTTP/2, which both sides must negotiate.
    pub fn for_http2(&self) -> Result<Arc<ClientConfig>, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions()?;
        let builder = match self {
            Self::System => builder.with_platform_verifier()?,
            Self::Own(found) => builder.with_root_certificates(roots(found)?),
        };
        let mut config = builder.with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }
}

fn roots(certificates: &[CertificateDer<'static>]) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate.clone())?;
    }
    Ok(roots)
}

/// Explains why a connection failed; for TLS errors, in words that help to fix it.
pub fn explain(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<Error>());
    inner.map_or_else(|| error.to_string(), explain_tls)
}

/// As [`explain`].
pub fn explain_tls(error: &Error) -> String {
    use CertificateError::{
        BadSignature, Expired, ExpiredContext, NotValidForName, NotValidForNameContext,
        NotValidYet, NotValidYetContext, UnknownIssuer,
    };
    let certificate = "the server's certificate";
    match error {
        Error::InvalidCertificate(Expired | ExpiredContext { .. }) => {
            format!("{certificate} has expired")
        }
        Error::InvalidCertificate(NotValidYet | NotValidYetContext { .. }) => {
            format!("{certificate} is not valid yet")
        }
        Error::InvalidCertificate(UnknownIssuer) => {
            format!(
                "{certificate} has an unknown issuer; fix: --push-ca FILE with the issuer's certificate"
            )
        }
        // For example, an authority was recreated under its old name.
        Error::InvalidCertificate(BadSignature) => {
            format!("{certificate} is not signed by the trusted issuer")
        }
        Error::InvalidCertificate(NotValidForNameContext { expected, .. }) => {
            format!("{certificate} is not valid for the host {}", expected.to_str())
        }
        Error::InvalidCertificate(NotValidForName) => {
            format!("{certificate} is not valid for this host")
        }
        Error::InvalidCertificate(other) => format!("{certificate} is not trusted: {other}"),
        Error::InvalidMessage(_) => "the server does not speak TLS".into(),
        Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
            "the server does not speak HTTP/2".into()
        }
        other => format!("TLS with the server failed: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_authorities_are_reported() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let said = || Trust::read(&path).unwrap_err().to_string();
        assert!(said().contains("cannot read"), "{}", said());
        for (text, words) in [
            ("", "contains no certificate"),
            ("-----BEGIN CERTIFICATE-----\n", "is not a PEM file"),
            (
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                "contains an unusable certificate authority",
            ),
        ] {
            std::fs::write(&path, text).unwrap();
            assert!(said().contains(words), "{}", said());
        }
    }
}
