//! TLS of the provider: an authority and a certificate, made at its start.

use std::io;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

use crate::fault::Fault;

/// What the provider shows of itself in a handshake.
pub(super) struct Identity {
    pub(super) acceptor: TlsAcceptor,
    /// The authority that clients are to trust.
    pub(super) ca_pem: String,
}

impl Identity {
    /// A certificate for the loopback addresses, spoiled as this fault wants it.
    pub(super) fn new(fault: Option<Fault>) -> io::Result<Identity> {
        let (ca_pem, issuer) = authority()?;
        // The certificate of a foreign authority is good in itself: nobody has heard of it.
        let foreign = match fault {
            Some(Fault::TlsForeign) => Some(authority()?.1),
            _ => None,
        };
        let names = match fault {
            Some(Fault::TlsWrongName) => vec!["elsewhere.invalid".to_owned()],
            _ => ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec(),
        };
        let mut params = CertificateParams::new(names).map_err(io::Error::other)?;
        if fault == Some(Fault::TlsExpired) {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2020, 2, 1);
        }
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let issuer = foreign.as_ref().unwrap_or(&issuer);
        let certificate = params.signed_by(&key, issuer).map_err(io::Error::other)?;
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.into())
            .map_err(io::Error::other)?;
        if fault != Some(Fault::TlsNoAlpn) {
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        }
        Ok(Identity { acceptor: TlsAcceptor::from(Arc::new(config)), ca_pem })
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

/// An authority: its certificate for those who trust it, and the right to issue others.
fn authority() -> io::Result<(String, Issuer<'static, KeyPair>)> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "Ringmain simulated authority");
    let key = KeyPair::generate().map_err(io::Error::other)?;
    let pem = params.self_signed(&key).map_err(io::Error::other)?.pem();
    Ok((pem, Issuer::new(params, key)))
}
