//! Which certificate does the server show?

use crate::config::ServerConfig as Config;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// Why the certificate cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
#[error("tls_invalid: {}: {error}; give server.tls_cert and server.tls_key two PEM files that belong together", path.display())]
pub struct TlsError {
    path: PathBuf,
    error: String,
}

/// TLS with a certificate that can be exchanged while the server runs. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Tls {
    cert: PathBuf,
    key: PathBuf,
    current: Arc<RwLock<Arc<ServerConfig>>>,
}

impl Tls {
    /// TLS as it is configured; none if it is not.
    pub(crate) fn of(config: &Config) -> Result<Option<Tls>, TlsError> {
        match (&config.tls_cert, &config.tls_key) {
            (None, None) => Ok(None),
            (Some(cert), Some(key)) => {
                let current = Arc::new(RwLock::new(Arc::new(load(cert, key)?)));
                Ok(Some(Tls { cert: cert.clone(), key: key.clone(), current }))
            }
            (Some(path), None) | (None, Some(path)) => {
                Err(TlsError { path: path.clone(), error: "the other file is missing".to_owned() })
            }
        }
    }

    /// Reads the files again. If they cannot be used, the certificate in use stays.
    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        let fresh = Arc::new(load(&self.cert, &self.key)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    pub(crate) async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let current = Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner));
        TlsAcceptor::from(current).accept(stream).await
    }
}

fn load(cert: &Path, key: &Path) -> Result<ServerConfig, TlsError> {
    let unusable =
        |path: &Path, error: &dyn std::fmt::Display| TlsError { path: path.to_owned(), error: error.to_string() };
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unusable(cert, &error))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, &error))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private))
        .map_err(|error| unusable(cert, &error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
