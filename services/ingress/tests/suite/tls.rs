//! TLS with the ingress's certificate: accepted versions, refused connections, and a certificate that changes.

use crate::raw_http::{CLAIM, Server, created};
use crate::support::Step;
use ingress::Config;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use runtime::settings::Settings;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A certificate authority and the certificates that it signed, in a separate directory.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Self { issuer, folder: tempfile::tempdir().unwrap() };
        authority.write("ca.pem", &authority.issuer.pem());
        authority
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// Signs a certificate for `host`; returns chain and key as PEM.
    fn sign(&self, host: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// Writes a new certificate for `host` to the files that the ingress reads.
    fn renew(&self, host: &str) {
        let (chain, key) = self.sign(host);
        self.write("chain.pem", &chain);
        self.write("key.pem", &key);
    }

    fn settings(&self, with_client_ca: bool) -> Vec<(String, String)> {
        let files =
            [("TLS_CERT_FILE", "chain.pem"), ("TLS_KEY_FILE", "key.pem"), ("TLS_CLIENT_CA_FILE", "ca.pem")];
        let files = files.iter().take(if with_client_ca { 3 } else { 2 });
        files.map(|(name, file)| ((*name).to_owned(), self.path(file).display().to_string())).collect()
    }

    async fn server(&self, with_client_ca: bool, script: impl IntoIterator<Item = Step>) -> Server {
        let settings = self.settings(with_client_ca);
        let settings = settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let settings: Vec<_> = settings.chain([("TLS_FILES_LOOK_SECONDS", "1")]).collect();
        Server::start(&settings, script).await
    }

    /// Connects as a client that trusts this authority and expects `host`.
    async fn connect(
        &self,
        server: &Server,
        host: &'static str,
        versions: &[&'static SupportedProtocolVersion],
        own: Option<(String, String)>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                use rustls_pki_types::pem::PemObject as _;
                let chain = CertificateDer::from_pem_slice(chain.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![chain], key).unwrap()
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let stream = TcpStream::connect(server.address).await.unwrap();
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(host).unwrap(), stream).await
    }
}

/// The answer to one claim, after which the connection is closed.
async fn claim(mut stream: TlsStream<TcpStream>) -> std::io::Result<String> {
    let request = CLAIM.replace("Host: b", "Host: b\r\nConnection: close");
    stream.write_all(request.as_bytes()).await?;
    let mut all = String::new();
    stream.read_to_string(&mut all).await?;
    Ok(all)
}

const BOTH: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];

#[tokio::test]
async fn tls_1_2_and_1_3_are_served_with_hsts() {
    let authority = Authority::new();
    authority.renew("broker.example");
    let server = authority.server(false, [created()]).await;
    for versions in [&BOTH[..1], &BOTH[1..]] {
        let stream = authority.connect(&server, "broker.example", versions, None).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"http/1.1".as_slice()));
        let all = claim(stream).await.unwrap();
        assert!(all.starts_with("HTTP/1.1 201 "), "{all}");
        assert!(all.contains("strict-transport-security: max-age="), "{all}");
    }
    // A client without TLS gets no HTTP answer, and a client that does not trust the authority ends the handshake.
    let mut plain = server.client().await;
    plain.write(CLAIM).await;
    assert!(!plain.rest_if_any().await.contains("HTTP/1.1"));
    assert!(Authority::new().connect(&server, "broker.example", BOTH, None).await.is_err());
    while server.rig.value("broker_http_tls_handshakes_failed_total") < 2.0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn client_ca_requires_a_client_certificate() {
    let authority = Authority::new();
    authority.renew("broker.example");
    let server = authority.server(true, [created()]).await;
    let own = authority.sign("lab.example");
    let stream = authority.connect(&server, "broker.example", BOTH, Some(own)).await.unwrap();
    assert!(claim(stream).await.unwrap().starts_with("HTTP/1.1 201 "));
    for own in [None, Some(Authority::new().sign("lab.example"))] {
        // In TLS 1.3 the refusal comes after the client considers the handshake complete.
        let refused = match authority.connect(&server, "broker.example", BOTH, own).await {
            Ok(stream) => claim(stream).await,
            Err(error) => Err(error),
        };
        assert!(refused.is_err(), "{refused:?}");
    }
    assert_eq!(server.rig.workers.seen().len(), 1);
}

#[tokio::test]
async fn certificate_is_reloaded_and_a_bad_one_is_reported() {
    let authority = Authority::new();
    authority.renew("old.example");
    let server = authority.server(false, [created()]).await;
    let reaches = async |host| authority.connect(&server, host, BOTH, None).await.is_ok();
    assert!(reaches("old.example").await && !reaches("new.example").await);
    authority.renew("new.example");
    until(&authority, &server, "new.example").await;
    // The certificate is written before its key.
    authority.write("chain.pem", &authority.sign("next.example").0);
    while server.rig.value("broker_http_tls_files_bad") == 0.0 {
        tokio::task::yield_now().await;
    }
    assert!(reaches("new.example").await);
    let ready = server.rig.ask("GET", "/readyz", &[]).await.json();
    assert_eq!(ready["notes"]["tls"], "the TLS files cannot be used; the previous ones stay in use");
    assert_eq!(ready["checks"]["tls"], "ok");
    authority.renew("next.example");
    until(&authority, &server, "next.example").await;
    assert_eq!(server.rig.value("broker_http_tls_files_bad"), 0.0);
}

/// Waits until the server presents the certificate of `host`.
async fn until(authority: &Authority, server: &Server, host: &'static str) {
    while authority.connect(server, host, BOTH, None).await.is_err() {
        tokio::task::yield_now().await;
    }
}

/// The errors in these settings.
fn mistakes(more: &[(&str, &PathBuf)]) -> Vec<String> {
    let mut env: BTreeMap<String, String> = [("BROKER_API_TOKEN", "a"), ("BROKER_ADMIN_TOKEN", "b")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    env.extend(more.iter().map(|(name, path)| ((*name).to_owned(), path.display().to_string())));
    let mut settings = Settings::new(&env);
    let config = Config::read(&mut settings);
    settings.finish(config).map_or_else(|mistakes| mistakes.0, |_| Vec::new())
}

#[test]
fn tls_mistakes_are_reported_without_key_material() {
    let authority = Authority::new();
    authority.renew("broker.example");
    authority.write("other-key.pem", &authority.sign("broker.example").1);
    authority.write("empty.pem", "");
    let [chain, key, other, empty, ca] =
        ["chain.pem", "key.pem", "other-key.pem", "empty.pem", "ca.pem"].map(|name| authority.path(name));
    let folder = authority.folder.path().to_owned();
    let missing = authority.path("missing.pem");
    let cert = |path| ("TLS_CERT_FILE", path);
    let private = |path| ("TLS_KEY_FILE", path);
    let client_ca = |path| ("TLS_CLIENT_CA_FILE", path);
    assert_eq!(mistakes(&[cert(&chain), private(&key), client_ca(&ca)]), Vec::<String>::new());
    for (more, mistake) in [
        (vec![cert(&chain)], "TLS_KEY_FILE is needed with TLS_CERT_FILE"),
        (vec![private(&key)], "TLS_CERT_FILE is needed with"),
        (vec![client_ca(&ca)], "TLS_CERT_FILE is needed with"),
        (vec![cert(&missing), private(&key)], "TLS_CERT_FILE cannot be read"),
        (vec![cert(&chain), private(&missing)], "TLS_KEY_FILE cannot be read"),
        (vec![cert(&chain), private(&other)], "TLS_KEY_FILE is not the key of the certificate"),
        (vec![cert(&empty), private(&key)], "TLS_CERT_FILE holds no certificate"),
        (vec![cert(&key), private(&chain)], "TLS_CERT_FILE holds no certificate"),
        (vec![cert(&chain), private(&chain)], "TLS_KEY_FILE holds no private key"),
        (vec![cert(&chain), private(&key), client_ca(&empty)], "TLS_CLIENT_CA_FILE holds no certificate"),
        (vec![cert(&folder), private(&key)], "TLS_CERT_FILE cannot be read"),
    ] {
        let found = mistakes(&more);
        assert!(found.len() == 1 && found[0].starts_with(mistake), "{mistake}: {found:?}");
        assert!(!found[0].contains("PRIVATE"), "{found:?}");
    }
}
