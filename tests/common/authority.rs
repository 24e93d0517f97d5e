//! Certificates for tests.

use std::fs;
use std::path::{Path, PathBuf};

use contact::client::Tls;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType,
    date_time_ymd,
};
use tempfile::TempDir;

/// An authority, and the certificates it has issued, in a folder.
pub struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// From when until when a certificate is valid.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Valid {
    Now,
    Before,
    Later,
}

impl Authority {
    pub fn new() -> Authority {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, format!("authority {}", folder.path().display()));
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Authority { folder, issuer }
    }

    /// Its own certificate.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate and its key, in files of that name.
    pub fn issue(&self, file: &str, names: Vec<SanType>, server: bool, valid: Valid) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = names;
        params.extended_key_usages =
            vec![if server { ExtendedKeyUsagePurpose::ServerAuth } else { ExtendedKeyUsagePurpose::ClientAuth }];
        (params.not_before, params.not_after) = match valid {
            Valid::Now => (date_time_ymd(2020, 1, 1), date_time_ymd(2120, 1, 1)),
            Valid::Before => (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1)),
            Valid::Later => (date_time_ymd(2110, 1, 1), date_time_ymd(2120, 1, 1)),
        };
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let at = |ending: &str| self.folder.path().join(format!("{file}.{ending}"));
        fs::write(at("pem"), certificate.pem()).unwrap();
        fs::write(at("key"), key.serialize_pem()).unwrap();
        (at("pem"), at("key"))
    }

    /// A certificate of a server, for 127.0.0.1.
    pub fn server(&self, file: &str) -> (PathBuf, PathBuf) {
        self.issue(file, vec![SanType::IpAddress([127, 0, 0, 1].into())], true, Valid::Now)
    }

    /// How the client of this identity speaks with a server of this authority.
    pub fn client(&self, uri: &str) -> Tls {
        let file = uri.replace(['/', ':'], "-");
        let identity = self.issue(&file, vec![SanType::URI(uri.try_into().unwrap())], false, Valid::Now);
        Tls { ca: self.ca(), identity: Some(identity) }
    }

    /// The arguments by which contact-server speaks TLS, and asks for certificates of this authority.
    pub fn args(&self) -> Vec<String> {
        let (cert, key) = self.server("server");
        let text = |path: &Path| path.display().to_string();
        vec![
            "--tls-cert".into(),
            text(&cert),
            "--tls-key".into(),
            text(&key),
            "--tls-client-ca".into(),
            text(&self.ca()),
        ]
    }
}
