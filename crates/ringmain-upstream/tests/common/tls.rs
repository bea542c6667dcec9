//! A server with TLS, and the authority that vouches for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::{http1, http2};

/// An authority and what it has vouched for, as files.
pub struct Authority {
    pub folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// What a server with TLS speaks.
#[derive(Clone, Copy, PartialEq)]
pub enum Speaks {
    Http1,
    Http2,
}

pub struct Server {
    pub url: String,
    /// Handshakes that went on with an earlier session, as the server saw it.
    pub resumed: Arc<AtomicU64>,
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Authority { folder, issuer }
    }

    pub fn file(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// A certificate for a name, and its key.
    fn vouch(&self, usage: ExtendedKeyUsagePurpose) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// Writes `own.pem` and `own.key` for a client.
    pub fn vouch_for_client(&self) {
        use std::os::unix::fs::PermissionsExt;
        let (certificate, key) = self.vouch(ExtendedKeyUsagePurpose::ClientAuth);
        std::fs::write(self.file("own.pem"), certificate.pem()).unwrap();
        std::fs::write(self.file("own.key"), key.serialize_pem()).unwrap();
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(self.file("own.key"), private).unwrap();
    }

    /// A server; `asks`: it wants to know who calls.
    pub async fn serve(&self, speaks: Speaks, asks: bool) -> Server {
        let (certificate, key) = self.vouch(ExtendedKeyUsagePurpose::ServerAuth);
        let chain = vec![CertificateDer::from(certificate.der().to_vec())];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match asks {
            false => builder.with_no_client_auth(),
            true => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from(self.issuer.der().to_vec())).unwrap();
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = match speaks {
            Speaks::Http1 => vec![b"http/1.1".to_vec()],
            Speaks::Http2 => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        };
        start(config, speaks).await
    }
}

async fn start(config: ServerConfig, speaks: Speaks) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/v1", listener.local_addr().unwrap());
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let resumed = Arc::new(AtomicU64::new(0));
    let count = resumed.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, count) = (acceptor.clone(), count.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let kind = stream.get_ref().1.handshake_kind();
                if kind == Some(rustls::HandshakeKind::Resumed) {
                    count.fetch_add(1, SeqCst);
                }
                match speaks {
                    Speaks::Http1 => {
                        http1::serve(stream, http1::Manners::default(), Arc::default()).await;
                    }
                    Speaks::Http2 => {
                        http2::serve(stream, http2::Manners::default(), Arc::default()).await;
                    }
                }
            });
        }
    });
    Server { url, resumed }
}
