//! Where it is kept what is granted to whom: a server that is alone has files for that. In a cluster it stands in the log, so that each
//! server knows it, and the one that leads writes it.

use std::path::{Path, PathBuf};
#[cfg(feature = "cluster")]
use std::sync::TryLockError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::executor::block_on;
use log::info;
#[cfg(feature = "cluster")]
use log::warn;

use super::refusal::Refusal;
use super::{ServerError, grants, tokens};
use crate::private_file;
use crate::store::{Granted, Recovered, Shows, Store};
#[cfg(feature = "cluster")]
use crate::store::{Grantee, Handle};
use crate::task::Name;

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Kept {
    place: Place,
    /// One change after another: each waits for the disk, and who calls meanwhile does not.
    changing: Arc<Mutex<()>>,
}

#[derive(Clone)]
enum Place {
    /// This folder.
    Files(PathBuf),
    #[cfg(feature = "cluster")]
    Log(Log),
}

impl Kept {
    pub(super) fn in_files(data: &Path) -> Kept {
        Kept { place: Place::Files(data.into()), changing: Arc::default() }
    }

    #[cfg(feature = "cluster")]
    pub(super) fn in_log(log: Log) -> Kept {
        Kept { place: Place::Log(log), changing: Arc::default() }
    }

    #[cfg(feature = "cluster")]
    pub(super) fn is_in_log(&self) -> bool {
        matches!(self.place, Place::Log(_))
    }

    /// Nobody else changes anything meanwhile.
    pub(super) fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same, unless somebody does.
    #[cfg(feature = "cluster")]
    pub(super) fn try_changing(&self) -> Option<MutexGuard<'_, ()>> {
        match self.changing.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(guard)) => Some(guard.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// The text of that file in the folder `data`, if there is one and it counts.
    pub(super) fn read(&self, data: &Path, file: &str) -> Result<Option<Vec<u8>>, String> {
        let file = data.join(file);
        match self.place {
            Place::Files(_) => read(&file),
            #[cfg(feature = "cluster")]
            Place::Log(_) => {
                // Else it would count again when this server is alone once more, with what was taken back since.
                let unused = file.with_extension("unused");
                match std::fs::rename(&file, &unused) {
                    Ok(()) => {
                        let why = "what a cluster grants stands in its log, and --import takes it over with a store";
                        warn!("{} does not count: {why}; it is called {} now", file.display(), unused.display());
                        Ok(None)
                    }
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
                    Err(e) => Err(format!("{}: {e}", file.display())),
                }
            }
        }
    }

    /// Writes what is granted to those who show that. It waits for the disk. `whole`: the text of the file, with all of them; `changed`: each
    /// that is another one now, or none (`None`), as it stands in a log.
    #[cfg_attr(not(feature = "cluster"), expect(unused_variables, reason = "there is no log"))]
    pub(super) fn write(
        &self,
        (shows, file): (Shows, &str),
        whole: impl FnOnce() -> serde_json::Result<String>,
        changed: impl FnOnce() -> serde_json::Result<Vec<(Name, Option<String>)>>,
    ) -> Result<(), Refusal> {
        match &self.place {
            Place::Files(data) => {
                let file = data.join(file);
                let written = whole().map_err(Into::into).and_then(|text| private_file::write(&file, text));
                written.map_err(|e| Refusal::NotWritten { file, why: e.to_string() })
            }
            #[cfg(feature = "cluster")]
            Place::Log(log) => log.write(shows, changed()),
        }
    }
}

fn read(file: &Path) -> Result<Option<Vec<u8>>, String> {
    match std::fs::read(file) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(format!("{}: {e}", file.display())),
    }
}

/// The log of a cluster, if this server leads it. Cheap to clone.
#[cfg(feature = "cluster")]
#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<Leading>>);

#[cfg(feature = "cluster")]
#[derive(Default)]
struct Leading {
    store: Option<Handle>,
    /// Whether something was to be written of which it is not known whether it stands there.
    in_doubt: bool,
}

#[cfg(feature = "cluster")]
impl Log {
    /// From now on it is written there, and it has to be looked what stands there; `None`: this server leads no more.
    pub(super) fn set(&self, store: Option<Handle>) {
        *self.lock() = Leading { in_doubt: store.is_some(), store };
    }

    /// Whether it has to be looked what stands there: something could not be written, or was all the same. Not again before the next time.
    pub(super) fn was_in_doubt(&self) -> bool {
        std::mem::take(&mut self.lock().in_doubt)
    }

    /// It could not be looked.
    pub(super) fn is_in_doubt(&self) {
        self.lock().in_doubt = true;
    }

    fn lock(&self) -> MutexGuard<'_, Leading> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, shows: Shows, changed: serde_json::Result<Vec<(Name, Option<String>)>>) -> Result<(), Refusal> {
        let store = self.lock().store.clone().ok_or(Refusal::NoLeader)?;
        let changed = changed.map_err(|e| Refusal::NoSuchGrant(e.to_string()))?;
        let changed = changed.into_iter().map(|(name, text)| (Grantee { shows, name }, text)).collect();
        Ok(block_on(store.grant(changed)).inspect_err(|_| self.is_in_doubt())?)
    }
}

/// What stands in the files of a server that is alone. An error says what is wrong with which of them.
#[cfg(feature = "cluster")]
pub(super) fn in_files(data: &Path) -> Result<Granted, String> {
    let all = [(Shows::Token, tokens::in_file(data)?), (Shows::Certificate, grants::in_file(data)?)];
    let of_one =
        |(shows, texts): (_, Vec<_>)| texts.into_iter().map(move |(name, text)| (Grantee { shows, name }, text));
    Ok(all.into_iter().flat_map(of_one).collect())
}

/// Of a server that was one of several and is alone now: what the log granted stands in the files from now on.
pub(super) fn leave_cluster(data: &Path, (store, recovered): &(Store, Recovered)) -> Result<(), ServerError> {
    let granted = &recovered.grants;
    if granted.is_empty() {
        return Ok(());
    }
    let put = tokens::put_in_file(data, granted).and_then(|()| grants::put_in_file(data, granted));
    put.map_err(ServerError::Tokens)?;
    info!("the tokens and grants of the cluster are in files of {} from now on", data.display());
    block_on(store.handle().grant(granted.keys().map(|to| (to.clone(), None)).collect())).map_err(ServerError::Open)
}

/// What is granted to each of those that show that.
pub(super) fn of(granted: &Granted, shows: Shows) -> impl Iterator<Item = (&Name, &str)> {
    granted.iter().filter(move |(to, _)| to.shows == shows).map(|(to, text)| (&to.name, text.as_str()))
}
