//! Receipts: the proof of a client that it was given a task. They need no state, so they are good after a restart, too.

use std::fs::File;
use std::hash::Hasher as _;
use std::io::{self, Read as _};
use std::path::Path;

use rand::RngExt as _;
use siphasher::sip128::{Hasher128 as _, SipHasher24};

use crate::private_file;
use crate::task::{Name, TaskId};

/// Its length, in bytes, and that of the key.
const LENGTH: usize = 16;

/// Makes receipts, and knows its own. Cheap to clone.
///
/// SipHash-2-4 with 128 bits is a keyed hash for short input: whoever does not have the key can neither make nor guess a receipt. One
/// takes some 30 ns, where HMAC-SHA256 takes 400.
#[derive(Clone)]
pub(super) struct Receipts(SipHasher24);

/// The receipts of one client: all but the delivery is in it already.
#[derive(Clone)]
pub(super) struct OfClient(SipHasher24);

/// Has the servers of a cluster know one another's receipts: the key of this data folder becomes theirs.
#[cfg(feature = "cluster")]
pub(super) fn set_key(data: &Path, key: [u8; LENGTH]) -> io::Result<()> {
    std::fs::create_dir_all(data)?;
    let path = data.join("receipt-key");
    if std::fs::read(&path).is_ok_and(|there| there == key) { Ok(()) } else { private_file::write(&path, key) }
}

/// The key of a data folder, if it has one.
#[cfg(feature = "cluster")]
pub(super) fn key(data: &Path) -> Option<[u8; LENGTH]> {
    std::fs::read(data.join("receipt-key")).ok()?.try_into().ok()
}

impl Receipts {
    /// With the key of this data folder, which is made when it is missing: for its owner alone, and never changed.
    pub(super) fn open(data: &Path) -> io::Result<Receipts> {
        let path = data.join("receipt-key");
        let mut key = [0; LENGTH];
        match File::open(&path) {
            Ok(mut file) => file.read_exact(&mut key)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                key = rand::rng().random();
                private_file::write(&path, key)?;
            }
            Err(error) => return Err(error),
        }
        Ok(Receipts::with(&key))
    }

    fn with(key: &[u8; LENGTH]) -> Receipts {
        Receipts(SipHasher24::new_with_key(key))
    }

    /// Those of a client that is known as `identity`, for the tasks of a group.
    pub(super) fn of(&self, group: &Name, identity: &str) -> OfClient {
        let mut hasher = self.0;
        for part in [group.as_str(), identity] {
            hasher.write_u64(part.len() as u64);
            hasher.write(part.as_bytes());
        }
        OfClient(hasher)
    }
}

impl OfClient {
    /// The receipt of a delivery.
    pub(super) fn make(&self, task: TaskId, attempt: u32) -> [u8; LENGTH] {
        let mut hasher = self.0;
        hasher.write_u64(task);
        hasher.write_u32(attempt);
        hasher.finish128().as_bytes()
    }

    /// Whether it is the receipt of that delivery.
    pub(super) fn is_good(&self, receipt: &[u8], task: TaskId, attempt: u32) -> bool {
        let good = self.make(task, attempt);
        // In the same time wherever it differs, so that no part of it can be found out by itself.
        receipt.len() == LENGTH
            && receipt.iter().zip(good).fold(0, |differs, (one, other)| differs | (one ^ other)) == 0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use super::*;
    use crate::task::NameOf;

    fn name(name: &str) -> Name {
        Name::new(NameOf::Group, name).unwrap()
    }

    #[test]
    fn a_receipt_is_good_for_its_delivery_group_and_identity_alone() {
        let receipts = Receipts::with(&[7; LENGTH]);
        let of = |group: &str, identity: &str| receipts.of(&name(group), identity);
        let receipt = of("g", "").make(5, 1);
        assert!(of("g", "").is_good(&receipt, 5, 1));
        for (group, identity, task, attempt) in [("h", "", 5, 1), ("g", "g", 5, 1), ("g", "", 6, 1), ("g", "", 5, 2)] {
            assert!(!of(group, identity).is_good(&receipt, task, attempt), "{group} {identity} {task} {attempt}");
        }
        assert_ne!(of("gh", "").make(5, 1), of("g", "h").make(5, 1), "where one part ends is told, too");
        for other in [&receipt[1..], &[], &[0; LENGTH], &[&receipt[..], &[0]].concat()] {
            assert!(!of("g", "").is_good(other, 5, 1), "{other:?}");
        }
        for bit in 0..8 * LENGTH {
            let mut forged = receipt;
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(!of("g", "").is_good(&forged, 5, 1));
        }
        assert!(!Receipts::with(&[8; LENGTH]).of(&name("g"), "").is_good(&receipt, 5, 1), "of another server");
    }

    #[test]
    fn the_key_of_a_folder_stays_and_is_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Receipts::open(folder.path()).unwrap().of(&name("g"), "").make(1, 1);
        let receipt = open();
        assert_eq!(open(), receipt);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = fs::metadata(folder.path().join("receipt-key")).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        let other = tempfile::tempdir().unwrap();
        assert_ne!(Receipts::open(other.path()).unwrap().of(&name("g"), "").make(1, 1), receipt);
        fs::write(other.path().join("receipt-key"), "short").unwrap();
        assert!(Receipts::open(other.path()).is_err());
    }
}
