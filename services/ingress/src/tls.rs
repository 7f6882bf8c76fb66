//! TLS of the ingress, with files that may change at run time.

use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, version};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use runtime::settings::Settings;

mod reloader;

pub(crate) use reloader::TlsReloader;

/// Longest file of certificates or keys, in bytes; a chain has some kilobytes, a bundle of authorities some hundred.
pub const PEM_BYTES_MAX: u64 = 1_024 * 1_024;
/// The protocol for ALPN.
const PROTOCOL: &[u8] = b"http/1.1";

/// The TLS files, and their contents at the start.
#[derive(Clone, Debug)]
pub struct TlsConfig {
    /// The three files.
    pub(crate) files: TlsFiles,
    /// `TLS_FILES_LOOK_SECONDS`: time between two checks of the files; 10.
    pub(crate) check_period: Duration,
    /// The configuration from their contents.
    pub(crate) first: Arc<ServerConfig>,
    /// The digest of their contents.
    pub(crate) first_digest: Digest,
}

/// The TLS files.
#[derive(Clone, Debug)]
pub(crate) struct TlsFiles {
    /// `TLS_CERT_FILE`: the certificate chain, our own certificate first.
    chain: PathBuf,
    /// `TLS_KEY_FILE`: the key of the first certificate.
    key: PathBuf,
    /// `TLS_CLIENT_CA_FILE`: the authorities of client certificates; without it, none is required.
    client_ca: Option<PathBuf>,
}

/// The contents of the files. The key is never shown.
pub(crate) struct Bytes {
    chain: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

/// A digest of all files.
pub(crate) type Digest = [u8; 32];

/// The variable of the file, and the problem.
pub(crate) type Problem = (&'static str, String);

const CERT: &str = "TLS_CERT_FILE";
const KEY: &str = "TLS_KEY_FILE";
const CLIENT_CA: &str = "TLS_CLIENT_CA_FILE";

// === impl TlsConfig ===

impl TlsConfig {
    /// Reads the settings and the files; mistakes go to `settings`. None without TLS.
    pub(crate) fn read(settings: &mut Settings<'_>) -> Option<Self> {
        let chain = settings.optional("TLS_CERT_FILE",
            "certificate chain (PEM) of the HTTP API, which then speaks TLS; needs `TLS_KEY_FILE`; read again when it changes",
        );
        let key = settings.optional(
            "TLS_KEY_FILE",
            "private key (PEM: PKCS#8, PKCS#1 or SEC1) of the certificate in `TLS_CERT_FILE`",
        );
        let client_ca = settings.optional(
            "TLS_CLIENT_CA_FILE",
            "authorities (PEM) for client certificates, which every caller then needs; none if empty",
        );
        let [chain, key, client_ca] = [chain, key, client_ca].map(|path| path.map(PathBuf::from));
        let check_period = settings.seconds(
            "TLS_FILES_LOOK_SECONDS",
            10,
            1..=3_600,
            "time between two checks of the TLS files",
        );
        let (chain, key) = match (chain, key, &client_ca) {
            (Some(chain), Some(key), _) => (chain, key),
            (None, None, None) => return None,
            (Some(_), None, _) => {
                settings.mistake(KEY, "is needed with TLS_CERT_FILE");
                return None;
            }
            (None, ..) => {
                settings.mistake(CERT, "is needed with TLS_KEY_FILE and TLS_CLIENT_CA_FILE");
                return None;
            }
        };
        let files = TlsFiles { chain, key, client_ca };
        let read = files.read().and_then(|bytes| Ok((bytes.digest(), bytes.server_config()?)));
        match read {
            Ok((first_digest, first)) => Some(Self { files, check_period, first, first_digest }),
            Err((variable, problem)) => {
                settings.mistake(variable, &problem);
                None
            }
        }
    }
}

// === impl TlsFiles ===

impl TlsFiles {
    /// Reads the files.
    pub(crate) fn read(&self) -> Result<Bytes, Problem> {
        let client_ca = self.client_ca.as_deref().map(|path| read(CLIENT_CA, path));
        Ok(Bytes {
            chain: read(CERT, &self.chain)?,
            key: read(KEY, &self.key)?,
            client_ca: client_ca.transpose()?,
        })
    }
}

fn read(variable: &'static str, path: &Path) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    let read =
        std::fs::File::open(path).and_then(|file| file.take(PEM_BYTES_MAX + 1).read_to_end(&mut bytes));
    match read {
        Ok(_) if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > PEM_BYTES_MAX => {
            Err((variable, format!("has more than {PEM_BYTES_MAX} bytes")))
        }
        Ok(_) => Ok(bytes),
        Err(error) => Err((variable, format!("cannot be read: {error}"))),
    }
}

// === impl Bytes ===

impl Bytes {
    pub(crate) fn digest(&self) -> Digest {
        let mut context = aws_lc_rs_digest();
        for part in [Some(&self.chain), Some(&self.key), self.client_ca.as_ref()].into_iter().flatten() {
            // Includes the length, so that bytes moved from one file to the next change the digest.
            context.update(&part.len().to_be_bytes());
            context.update(part);
        }
        let mut digest = Digest::default();
        digest.copy_from_slice(context.finish().as_ref());
        digest
    }

    /// The configuration for TLS 1.2 and 1.3. Problems contain no byte of a file.
    pub(crate) fn server_config(&self) -> Result<Arc<ServerConfig>, Problem> {
        let chain = certificates(CERT, &self.chain)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|_| (KEY, "holds no private key in PEM (PKCS#8, PKCS#1 or SEC1)".to_owned()))?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])
            .map_err(|error| (CERT, format!("cannot be used: {error}")))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(authorities) => {
                let mut roots = RootCertStore::empty();
                for authority in certificates(CLIENT_CA, authorities)? {
                    roots.add(authority).map_err(|error| (CLIENT_CA, format!("cannot be used: {error}")))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(
                    verifier.map_err(|error| (CLIENT_CA, format!("cannot be used: {error}")))?,
                )
            }
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                (KEY, "is not the key of the certificate in TLS_CERT_FILE".to_owned())
            }
            error => (CERT, format!("cannot be used: {error}")),
        })?;
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(Arc::new(config))
    }
}

fn certificates(variable: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err((variable, "holds no certificate in PEM".to_owned())),
    }
}

fn aws_lc_rs_digest() -> ::aws_lc_rs::digest::Context {
    ::aws_lc_rs::digest::Context::new(&::aws_lc_rs::digest::SHA256)
}
