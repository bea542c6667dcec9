//! One TLS configuration for all connections of an endpoint, with one store of sessions, so that
//! a new connection goes on with the session of an earlier one.

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme,
};

use super::client::Unfit;
use crate::config::{EndpointConfig, Http2};
use crate::key::read_private;

/// Most bytes of a file with certificates.
const CERTIFICATES_BYTES_MAX: u64 = 4 << 20;

thread_local! {
    /// Whether a certificate was proven on this thread since the flag was taken last.
    static PROVEN: Cell<bool> = const { Cell::new(false) };
}

/// The configuration for an endpoint. One that does without TLS trusts nobody.
pub(super) fn client_config(config: &EndpointConfig, is_tls: bool) -> Result<ClientConfig, Unfit> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = match &config.ca_file {
        _ if !is_tls => trust(RootCertStore::empty(), &provider),
        Some(path) => read_authorities(path).and_then(|roots| trust(roots, &provider)),
        None => system_trust(&provider),
    };
    let verifier = verifier.map_err(Unfit::of("ca_file"))?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Unfit::of("base_url")(format!("TLS cannot be set up: {error}")))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Noticing(verifier)));
    let mut tls = match &config.client_cert {
        None => builder.with_no_client_auth(),
        Some(files) => {
            let chain = read_chain(&files.cert).map_err(Unfit::of("client_cert"))?;
            let key = read_key(&files.key).map_err(Unfit::of("client_key"))?;
            let fits = builder.with_client_auth_cert(chain, key);
            let told = |error| format!("{}: {error}", files.cert.display());
            fits.map_err(|error| Unfit::of("client_cert")(told(error)))?
        }
    };
    let protocols: &[&[u8]] = match config.http2 {
        Http2::Negotiated => &[b"h2", b"http/1.1"],
        Http2::PriorKnowledge => &[b"h2"],
        Http2::Off => &[b"http/1.1"],
    };
    tls.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Ok(tls)
}

/// Polls a connect, and tells with its result whether a certificate was proven on the way. Only
/// a full handshake proves one: a resumed session was proven when it was made.
///
/// The proof is given inside the poll, on the polling thread, so it is of this very connection.
pub(super) fn poll_proving<T>(
    proven: &mut bool,
    cx: &mut Context<'_>,
    poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
) -> Poll<T> {
    PROVEN.set(false);
    let polled = poll(cx);
    *proven |= PROVEN.take();
    polled
}

/// A verifier that notices what it proves.
#[derive(Debug)]
struct Noticing(Arc<dyn ServerCertVerifier>);

impl ServerCertVerifier for Noticing {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verdict =
            self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        PROVEN.set(verdict.is_ok());
        verdict
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.0.requires_raw_public_keys()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        self.0.root_hint_subjects()
    }
}

type Verifier = Arc<dyn ServerCertVerifier>;

/// The authorities of the system, read once per process: that takes tens of milliseconds.
fn system_trust(provider: &Arc<CryptoProvider>) -> Result<Verifier, String> {
    static SYSTEM: OnceLock<Verifier> = OnceLock::new();
    if let Some(known) = SYSTEM.get() {
        return Ok(known.clone());
    }
    let read = rustls_platform_verifier::Verifier::new(provider.clone());
    let read = read.map_err(|error| format!("the system's authorities: {error}"))?;
    Ok(SYSTEM.get_or_init(|| Arc::new(read)).clone())
}

fn trust(roots: RootCertStore, provider: &Arc<CryptoProvider>) -> Result<Verifier, String> {
    if roots.is_empty() {
        return Ok(Arc::new(Nobody(provider.clone())));
    }
    let built =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
    built.map(|verifier| verifier as Verifier).map_err(|error| error.to_string())
}

fn read_authorities(path: &Path) -> Result<RootCertStore, String> {
    let shown = path.display();
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(path)? {
        roots.add(certificate).map_err(|error| format!("{shown}: {error}"))?;
    }
    match roots.is_empty() {
        true => Err(format!("{shown}: it holds no certificate")),
        false => Ok(roots),
    }
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = path.display();
    let bytes = fs::metadata(path).map_err(|error| format!("{shown}: {error}"))?.len();
    if bytes > CERTIFICATES_BYTES_MAX {
        return Err(format!("{shown}: {bytes} bytes, at most {CERTIFICATES_BYTES_MAX}"));
    }
    let pem = fs::read(path).map_err(|error| format!("{shown}: {error}"))?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    read.map_err(|error| format!("{shown}: {error}"))
}

/// The certificate that is shown, and those that vouch for it.
fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain = read_certificates(path)?;
    match chain.is_empty() {
        true => Err(format!("{}: it holds no certificate", path.display())),
        false => Ok(chain),
    }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let pem = read_private(path).map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::from_pem_slice(&pem);
    key.map_err(|_| format!("{}: it holds no private key in PEM", path.display()))
}

/// Trusts nobody: for endpoints that do without TLS.
#[derive(Debug)]
struct Nobody(Arc<CryptoProvider>);

impl ServerCertVerifier for Nobody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Err(rustls::CertificateError::UnknownIssuer.into())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::CertificateError::BadSignature.into())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::CertificateError::BadSignature.into())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
