//! Bearer tokens as they lie in files, for those who use them. None of this prints one.

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use grpcio::{CallOption, MetadataBuilder};

/// How each token begins, so that one which strays is known as what it is.
pub(crate) const PREFIX: &str = "ct1_";

/// A token. Nothing prints it: not `{:?}` either.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// `None`: it is none.
    pub(crate) fn new(text: &str) -> Option<Secret> {
        let digits = text.strip_prefix(PREFIX)?;
        let is_one = digits.len() == 64 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        is_one.then(|| Secret(text.to_owned()))
    }

    /// Whether it is this. In the same time wherever it differs, so that no part of it can be found out by itself.
    #[cfg(feature = "client")]
    pub(crate) fn is(&self, other: &[u8]) -> bool {
        let differs = self.0.bytes().zip(other).fold(0, |differs, (one, other)| differs | (one ^ other));
        self.0.len() == other.len() && differs == 0
    }

    #[cfg(feature = "server")]
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

/// The token in a file, and what is wrong with the file though it can be used: others can read it. An error says what is wrong, and
/// has nothing of what is in the file.
pub(crate) fn read(file: &Path) -> Result<(Secret, Option<String>), String> {
    let shown = file.display();
    let text = fs::read_to_string(file).map_err(|e| format!("the token cannot be read: {shown}: {e}"))?;
    let secret = Secret::new(text.trim());
    let secret =
        secret.ok_or_else(|| format!("{shown} holds no token, which is {PREFIX} and 64 digits and letters"))?;
    let mode = fs::metadata(file).map_or(0, |about| about.permissions().mode());
    let warning = (mode & 0o077 != 0)
        .then(|| format!("others on this machine can read the token in {shown}: chmod 600 it, and make a new one"));
    Ok((secret, warning))
}

/// A call that says whose it is.
pub(crate) fn signed(options: CallOption, token: Option<&Secret>) -> CallOption {
    let Some(Secret(token)) = token else { return options };
    let mut metadata = MetadataBuilder::new();
    for (key, value) in options.get_headers().iter().flat_map(|headers| headers.iter()) {
        // They were taken once, so they are again.
        let _ = match key.ends_with("-bin") {
            true => metadata.add_bytes(key, value),
            false => metadata.add_str(key, std::str::from_utf8(value).unwrap_or_default()),
        };
    }
    let _ = metadata.add_str("authorization", &format!("Bearer {token}"));
    options.headers(metadata.build())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_file_with_a_token_is_read_and_what_is_none_is_not_shown() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let token = format!("{PREFIX}{}", "5e".repeat(32));
        fs::write(file.path(), format!("{token}\n")).unwrap();
        let (secret, warning) = read(file.path()).unwrap();
        assert_eq!((secret.0.as_str(), warning), (token.as_str(), None));
        assert!(!format!("{secret:?}").contains("5e"));
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o640)).unwrap();
        assert!(read(file.path()).unwrap().1.unwrap().contains("chmod 600"));
        for wrong in ["", "ct1_5e5e", &token[1..], &token.to_uppercase(), &format!("{token}{token}")] {
            fs::write(file.path(), wrong).unwrap();
            let error = read(file.path()).unwrap_err();
            assert!(!error.contains("5e5e"), "{error}");
        }
    }

    #[test]
    fn a_signed_call_says_what_it_said_before() {
        let mut metadata = MetadataBuilder::new();
        metadata.add_str("contact-client", "a").unwrap();
        let token = Secret::new(&format!("{PREFIX}{}", "0".repeat(64))).unwrap();
        let signed = signed(CallOption::default().headers(metadata.build()), Some(&token));
        let headers = signed.get_headers().unwrap();
        let said: Vec<_> =
            headers.iter().map(|(key, value)| (key, String::from_utf8_lossy(value).into_owned())).collect();
        assert_eq!(said, [("contact-client", "a".into()), ("authorization", format!("Bearer {}", token.0))]);
    }
}
