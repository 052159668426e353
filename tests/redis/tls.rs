//! TLS: both sides proved, and what is said when one is not.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tollgate::store::redis::connect::Connector;
use tollgate::store::redis::location::{Location, TlsFiles};

use crate::connect::{address, in_cluster};
use crate::servers::{Cluster, Server};

/// An authority, and the certificates of a server and a client that it has signed.
struct Certificates {
    folder: tempfile::TempDir,
}

impl Certificates {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            fs::write(folder.path().join(name), text).unwrap();
            fs::set_permissions(folder.path().join(name), PermissionsExt::from_mode(0o600)).unwrap();
        };
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        put("ca.pem", &authority.pem());
        for (name, host) in [("server", "127.0.0.1"), ("client", "tollgate")] {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
            // OpenSSL takes a certificate that is named as its authority for one that signed itself.
            params.distinguished_name.push(DnType::CommonName, name);
            put(&format!("{name}.pem"), &params.signed_by(&key, &authority).unwrap().pem());
            put(&format!("{name}.key"), &key.serialize_pem());
        }
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The lines of a server that wants clients to prove who they are.
    fn settings(&self) -> Vec<String> {
        let path = |name: &str| self.path(name).display().to_string();
        vec![
            "port 0".to_owned(),
            "tls-port PORT".to_owned(),
            "tls-auth-clients yes".to_owned(),
            format!("tls-ca-cert-file {}", path("ca.pem")),
            format!("tls-cert-file {}", path("server.pem")),
            format!("tls-key-file {}", path("server.key")),
        ]
    }

    fn files(&self) -> TlsFiles {
        let identity = Some((self.path("client.pem"), self.path("client.key")));
        TlsFiles { ca: Some(self.path("ca.pem")), identity }
    }
}

fn lines(settings: &[String]) -> Vec<&str> {
    settings.iter().map(String::as_str).collect()
}

fn over_tls(server: &Server, tls: Option<TlsFiles>) -> Connector {
    Connector::open(Location { tls, ..Location::single(address(&server.address())) }).unwrap()
}

#[tokio::test]
async fn both_sides_are_proved() {
    let certificates = Certificates::new();
    let server = Server::with(&lines(&certificates.settings()));
    let mut connection = over_tls(&server, Some(certificates.files())).primary().await.unwrap();
    let pong: String = redis::cmd("PING").query_async(&mut connection).await.unwrap();
    assert_eq!(pong, "PONG");

    let unproved = TlsFiles { identity: None, ..certificates.files() };
    let others = Certificates::new();
    let other_authority = TlsFiles { ca: Some(others.path("ca.pem")), ..certificates.files() };
    for (tls, part) in
        [(None, "does it want TLS"), (Some(unproved), "127.0.0.1"), (Some(other_authority), "invalid peer certificate")]
    {
        let error = over_tls(&server, tls).primary().await.unwrap_err().to_string();
        assert!(error.contains(part) && error.contains(&server.address()), "{error}");
    }
}

#[tokio::test]
async fn the_name_in_the_certificate_counts() {
    let certificates = Certificates::new();
    let server = Server::with(&lines(&certificates.settings()));
    let elsewhere = address(&format!("localhost:{}", server.port));
    let place = Location { tls: Some(certificates.files()), ..Location::single(elsewhere) };
    let error = Connector::open(place).unwrap().primary().await.unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
}

#[tokio::test]
async fn every_node_of_a_cluster() {
    let certificates = Certificates::new();
    let mut settings = certificates.settings();
    settings.extend(["tls-cluster yes".to_owned(), "tls-replication yes".to_owned()]);
    let cluster = Cluster::start(3, &lines(&settings));
    let place = Location { tls: Some(certificates.files()), ..in_cluster(&cluster.addresses()) };
    let connector = Connector::open(place).unwrap();
    let mut connection = connector.primary().await.unwrap();
    let () = redis::cmd("SET").arg("tg:{tg}:head").arg("x").query_async(&mut connection).await.unwrap();
    let mut spread = connector.spread().await.unwrap();
    for at in 0..16 {
        let () = redis::cmd("SET").arg(format!("tg:use:{at}")).arg(at).query_async(&mut spread).await.unwrap();
    }
}
