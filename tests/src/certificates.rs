//! Creates certificate authorities and server certificates for tests, valid and invalid ones.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;

/// A certificate authority that is in no trust store.
#[derive(Debug)]
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// Now.
    Now,
    /// Expired in 2001.
    Past,
    /// Valid from 2200 on.
    Future,
}

impl Authority {
    /// Creates an authority with this name.
    ///
    /// # Panics
    /// When the system has no source of randomness.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("an authority"))
    }

    /// Writes the authority's certificate to a file, as PEM.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) {
        std::fs::write(path, self.0.pem()).expect("the folder is ours");
    }

    /// A TLS server configuration with a certificate for `name`, a host name or an address.
    ///
    /// # Panics
    /// When `name` is neither.
    #[must_use]
    pub fn server(&self, name: &str, validity: Validity, protocols: &[&str]) -> Arc<ServerConfig> {
        let mut params = CertificateParams::new([name.to_string()]).expect("a name");
        match validity {
            Validity::Now => {}
            Validity::Past => {
                params.not_before = date_time_ymd(2000, 1, 1);
                params.not_after = date_time_ymd(2001, 1, 1);
            }
            Validity::Future => params.not_before = date_time_ymd(2200, 1, 1),
        }
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key of ours");
        let config = ServerConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().expect("versions");
        let config = config.with_no_client_auth();
        let mut config =
            config.with_single_cert(vec![certificate.into()], key).expect("a certificate of ours");
        config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

/// The certificate a server presents, which can be changed while it runs. `None` means no TLS.
#[derive(Debug, Clone)]
pub struct PresentedCertificate(Arc<Mutex<Option<Arc<ServerConfig>>>>);

impl PresentedCertificate {
    /// Starts with this certificate.
    #[must_use]
    pub fn new(certificate: Option<Arc<ServerConfig>>) -> Self {
        Self(Arc::new(Mutex::new(certificate)))
    }

    /// Replaces the certificate for future connections.
    pub fn change(&self, certificate: Arc<ServerConfig>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(certificate);
    }

    /// The certificate presented now.
    #[must_use]
    pub fn get(&self) -> Option<Arc<ServerConfig>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
