//! What is granted to one identity beside its role: which groups it may name, for whom it may submit, how much it may have. Here are the
//! grants of those with certificates; a token has its own.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::authority::Authority;
use super::identity::Identity;
use super::kept::{self, Kept};
use super::limits::{Account, Accounts, Changes, Holder, Limit, Most, Own, changed};
use super::refusal::Refusal;
#[cfg(feature = "cluster")]
use crate::broker::Quota;
use crate::labels::Labels;
use crate::private_file;
use crate::store::{Granted, Shows};
use crate::task::{GroupName, Name, NameOf};

/// In the data folder: what is granted to those whose certificates are of another authority.
const FILE: &str = "grants.json";
/// Most of these, each some hundred bytes of the file that is written with each change.
const MOST_NAMED: usize = 10_000;
/// Most groups, or targets, of one.
pub(super) const MOST_NAMES: usize = 100;

/// What is granted to one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Stored")]
pub(super) struct Grant {
    /// The groups that an agent may name, beside its own ids. The first is its own if it names none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) groups: Vec<String>,
    /// The groups that tasks may be for. Empty: any, and everyone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) targets: Vec<String>,
    /// What an agent is, whatever it says.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub(super) labels: Labels,
    #[serde(skip_serializing_if = "Own::is_empty")]
    pub(super) limits: Own,
}

/// As files have it. Earlier ones had one `group` of a certificate, and the `rate` of a token.
#[derive(Deserialize)]
struct Stored {
    group: Option<String>,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    targets: Vec<String>,
    #[serde(default)]
    labels: Labels,
    rate: Option<u64>,
    #[serde(default)]
    limits: Own,
}

impl From<Stored> for Grant {
    fn from(stored: Stored) -> Grant {
        let Stored { group, mut groups, targets, labels, rate, mut limits } = stored;
        groups.extend(group);
        if let Some(rate) = rate {
            limits.entry(Limit::Submits).or_insert(Most::of(rate));
        }
        Grant { groups, targets, labels, limits }
    }
}

/// What is to change in one.
#[derive(Debug, Clone, Default)]
pub(super) struct Change {
    /// Groups that it may name from now on.
    pub(super) add: Vec<String>,
    /// Groups that it may not name any more.
    pub(super) remove: Vec<String>,
    pub(super) limits: Changes,
}

impl Change {
    /// Whether it has to do with groups.
    pub(super) fn is_of_groups(&self) -> bool {
        !self.add.is_empty() || !self.remove.is_empty()
    }
}

impl Grant {
    /// With these changes.
    pub(super) fn with(&self, change: &Change) -> Result<Grant, Refusal> {
        let mut grant = self.clone();
        grant.groups.retain(|group| !change.remove.contains(group));
        for group in &change.add {
            if !grant.groups.contains(group) {
                grant.groups.push(group.clone());
            }
        }
        check_names(&grant.groups)?;
        grant.limits = changed(&self.limits, &change.limits);
        Ok(grant)
    }
}

/// Whether these may be the groups, or targets, of one.
pub(super) fn check_names(names: &[String]) -> Result<(), Refusal> {
    if names.len() > MOST_NAMES {
        let why = format!("{} groups, and one identity has at most {MOST_NAMES}", names.len());
        return Err(Refusal::NoSuchGrant(why));
    }
    names.iter().try_for_each(|name| GroupName::new(NameOf::Group, name).map(drop))?;
    Ok(())
}

/// Somebody with a certificate, and what is granted to it.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) identity: Identity,
    pub(super) groups: Vec<String>,
    /// What it is, whatever it says.
    pub(super) labels: Labels,
    /// Those that are granted to all with certificates.
    pub(super) common_groups: Arc<[String]>,
    pub(super) account: Arc<Account>,
}

/// The grants of those with certificates. Cheap to clone.
#[derive(Clone)]
pub(super) struct Grants(Arc<Shared>);

struct Shared {
    /// Who issues the certificates, if that is this server: it has their grants.
    authority: Option<Authority>,
    /// Those of another authority, if it is one: by name.
    others: Option<Mutex<BTreeMap<String, Grant>>>,
    kept: Kept,
    common_groups: Arc<[String]>,
    accounts: Accounts,
}

impl Grants {
    /// `others`: certificates of another authority are asked for. `common`: the groups that all with certificates may name. An error says what is wrong with which file.
    pub(super) fn open(
        data: &Path,
        kept: Kept,
        authority: Option<Authority>,
        others: bool,
        common: &[String],
        accounts: Accounts,
    ) -> Result<Grants, String> {
        let read = || entries(data, kept.read(data, FILE)?);
        let others = (others && authority.is_none()).then(read).transpose()?.map(Mutex::new);
        Ok(Grants(Arc::new(Shared { authority, others, kept, common_groups: common.into(), accounts })))
    }

    /// The one that a certificate names, and what is granted to it. `None`: it was revoked.
    pub(super) fn known(&self, identity: Identity) -> Option<Known> {
        let Grant { groups, labels, limits, .. } = match &self.0.authority {
            Some(authority) => authority.lets_in(&identity)?,
            None => self.others().and_then(|all| all.get(identity.name.as_str()).cloned()).unwrap_or_default(),
        };
        let account = self.0.accounts.of(Holder::Certificate(identity.clone()), limits);
        let common_groups = self.0.common_groups.clone();
        Some(Known { identity, groups, labels, common_groups, account })
    }

    /// Whether a certificate that counts, or an invitation that is open, says what is of this key of a label.
    pub(super) fn binds(&self, key: &str) -> bool {
        self.0.authority.as_ref().is_some_and(|authority| authority.binds(key))
    }

    /// What is granted to who has that name in a certificate. Of another authority's everybody may be one.
    pub(super) fn of(&self, name: &str) -> Option<Grant> {
        match &self.0.authority {
            Some(authority) => authority.grant(name),
            None => Some(self.others()?.get(name).cloned().unwrap_or_default()),
        }
    }

    /// Those of another authority to whom something is granted; `None`: there is no such authority.
    pub(super) fn granted(&self) -> Option<Vec<(String, Grant)>> {
        Some(self.others()?.iter().map(|(name, grant)| (name.clone(), grant.clone())).collect())
    }

    /// Grants something else from now on. It waits for the disk. `None`: there is nobody of that name.
    pub(super) fn change(&self, name: &str, change: &Change) -> Result<Option<Grant>, Refusal> {
        let _changing = self.0.kept.changing();
        match (&self.0.authority, self.others()) {
            (Some(authority), _) => authority.change(name, change),
            (None, Some(all)) => {
                let mut next = all.clone();
                drop(all);
                let grant = next.get(name).cloned().unwrap_or_default().with(change)?;
                next.remove(name);
                if grant != Grant::default() {
                    next.insert(name.to_owned(), grant.clone());
                }
                if next.len() > MOST_NAMED {
                    return Err(Refusal::NoSuchGrant(format!("something is granted to {MOST_NAMED} names already")));
                }
                let called = Name::new(NameOf::ClientOrGroup, name)?;
                let row = || Ok(vec![(called, next.get(name).map(serde_json::to_string).transpose()?)]);
                self.0.kept.write((Shows::Certificate, FILE), || serde_json::to_string_pretty(&next), row)?;
                self.others().into_iter().for_each(|mut all| *all = next.clone());
                Ok(Some(grant))
            }
            (None, None) => Ok(None),
        }
    }

    /// Grants what stands in the log of a cluster, and nothing else. Says what that makes for the broker, and who may name other groups than
    /// before. [`Kept::changing`] is held since before the log was read.
    #[cfg(feature = "cluster")]
    pub(super) fn take(&self, granted: &Granted) -> (Vec<Quota>, Vec<String>) {
        let Some(mut all) = self.others() else { return Default::default() };
        let mut next = BTreeMap::new();
        for (name, text) in kept::of(granted, Shows::Certificate) {
            match serde_json::from_str::<Grant>(text) {
                Ok(grant) => drop(next.insert(name.to_string(), grant)),
                Err(why) => log::warn!("what the log of the cluster grants to {name} is not read: {why}"),
            }
        }
        let before = std::mem::replace(&mut *all, next.clone());
        drop(all);
        let (mut quotas, mut regrouped) = (Vec::new(), Vec::new());
        for name in before.keys().chain(next.keys().filter(|name| !before.contains_key(*name))) {
            let [was, is] = [&before, &next].map(|all| all.get(name).cloned().unwrap_or_default());
            if was.limits != is.limits {
                let accounts = self.0.accounts.certified(name);
                quotas.extend(accounts.iter().map(|account| account.change(is.limits.clone())));
            }
            if was.groups != is.groups {
                regrouped.push(name.clone());
            }
        }
        (quotas, regrouped)
    }

    fn others(&self) -> Option<MutexGuard<'_, BTreeMap<String, Grant>>> {
        Some(self.0.others.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn entries(data: &Path, text: Option<Vec<u8>>) -> Result<BTreeMap<String, Grant>, String> {
    let read = text.map_or(Ok(BTreeMap::new()), |text| serde_json::from_slice(&text));
    read.map_err(|e| format!("{}: {e}", data.join(FILE).display()))
}

/// What the file of a server that is alone grants, as it stands in a log.
#[cfg(feature = "cluster")]
pub(super) fn in_file(data: &Path) -> Result<Vec<(Name, String)>, String> {
    let row = |(name, grant): (String, Grant)| {
        let name = Name::new(NameOf::ClientOrGroup, &name).map_err(|e| e.to_string())?;
        Ok((name, serde_json::to_string(&grant).map_err(|e| e.to_string())?))
    };
    let all =
        entries(data, Kept::in_files(data).read(data, FILE)?)?.into_iter().map(row).collect::<Result<_, String>>();
    all.map_err(|why| format!("{}: {why}", data.join(FILE).display()))
}

/// Has the file grant what stood in a log, too.
pub(super) fn put_in_file(data: &Path, granted: &Granted) -> Result<(), String> {
    let mut all = entries(data, Kept::in_files(data).read(data, FILE)?)?;
    for (name, text) in kept::of(granted, Shows::Certificate) {
        let grant = serde_json::from_str(text).map_err(|e| format!("what is granted to {name}: {e}"))?;
        all.insert(name.to_string(), grant);
    }
    if all.is_empty() {
        return Ok(());
    }
    let text = serde_json::to_string_pretty(&all).map_err(|e| e.to_string())?;
    let file = data.join(FILE);
    private_file::write(&file, text).map_err(|e| format!("{}: {e}", file.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use super::super::limits::Limits;
    use super::super::roles::Role;
    use super::*;
    #[cfg(feature = "cluster")]
    use crate::store::Grantee;

    fn open(data: &Path) -> Grants {
        Grants::open(data, Kept::in_files(data), None, true, &[], Accounts::new(Limits::default())).unwrap()
    }

    #[test]
    fn what_is_granted_to_a_name_of_another_authority_is_there_after_a_start() {
        let folder = tempfile::tempdir().unwrap();
        let grants = open(folder.path());
        let change = Change {
            add: vec!["workers".into(), "others".into()],
            remove: vec![],
            limits: Changes::from([(Limit::Streams, Some(Most::of(5)))]),
        };
        grants.change("web", &change).unwrap();
        let change = Change { remove: vec!["others".into()], ..Change::default() };
        let grant = grants.change("web", &change).unwrap().unwrap();
        assert_eq!(grant.groups, ["workers"]);
        let identity = Identity { role: Role::Agent, name: Name::new(NameOf::ClientOrGroup, "web").unwrap() };
        for grants in [grants, open(folder.path())] {
            let known = grants.known(identity.clone()).unwrap();
            assert_eq!(
                (known.groups, known.account.limits().get(Limit::Streams)),
                (vec!["workers".into()], Most::of(5))
            );
        }
        let wrong = Change { add: vec!["a\nb".into()], ..Change::default() };
        assert_eq!(open(folder.path()).change("web", &wrong).unwrap_err().cause(), "NAME_INVALID");
        fs::write(folder.path().join(FILE), "[").unwrap();
        let accounts = Accounts::new(Limits::default());
        assert!(
            Grants::open(folder.path(), Kept::in_files(folder.path()), None, true, &[], accounts)
                .err()
                .unwrap()
                .contains(FILE)
        );
    }

    #[cfg(feature = "cluster")]
    #[test]
    fn what_the_log_of_a_cluster_grants_counts_and_says_who_is_to_be_looked_at_anew() {
        let folder = tempfile::tempdir().unwrap();
        let accounts = Accounts::new(Limits::default());
        let kept = Kept::in_log(Default::default());
        let grants = Grants::open(folder.path(), kept, None, true, &[], accounts).unwrap();
        let name = |name: &str| Name::new(NameOf::ClientOrGroup, name).unwrap();
        let granted = |all: &[(&str, &str)]| -> Granted {
            let row =
                |(of, text): &(&str, &str)| (Grantee { shows: Shows::Certificate, name: name(of) }, (*text).into());
            all.iter().map(row).collect()
        };
        let known = grants.known(Identity { role: Role::Agent, name: name("web") }).unwrap();
        let (quotas, regrouped) =
            grants.take(&granted(&[("web", r#"{"groups":["workers"],"limits":{"window":3}}"#), ("db", "{}")]));
        assert_eq!(quotas.iter().map(|quota| quota.window).collect::<Vec<_>>(), [3]);
        assert_eq!(known.account.quota().window, 3);
        assert_eq!(regrouped, ["web"]);
        assert_eq!(grants.of("web").unwrap().groups, ["workers"]);
        let (quotas, regrouped) = grants.take(&granted(&[("web", r#"{"groups":["workers"]}"#)]));
        assert_eq!((quotas.len(), regrouped.len()), (1, 0));
        let (quotas, regrouped) = grants.take(&granted(&[]));
        assert_eq!((quotas.len(), regrouped), (0, vec!["web".to_owned()]));
        assert_eq!(grants.change("web", &Change::default()).unwrap_err().cause(), "NO_LEADER");

        put_in_file(folder.path(), &granted(&[("web", r#"{"groups":["workers"]}"#)])).unwrap();
        assert_eq!(open(folder.path()).of("web").unwrap().groups, ["workers"]);
        assert_eq!(in_file(folder.path()).unwrap(), [(name("web"), r#"{"groups":["workers"]}"#.to_owned())]);
    }

    #[test]
    fn what_earlier_files_say_is_read() {
        let grant: Grant = serde_json::from_str(r#"{"group":"workers"}"#).unwrap();
        assert_eq!(grant.groups, ["workers"]);
        let grant: Grant = serde_json::from_str(r#"{"groups":["a","b"],"rate":100}"#).unwrap();
        assert_eq!((grant.groups.len(), grant.limits[&Limit::Submits]), (2, Most::of(100)));
        let text = serde_json::to_string(&grant).unwrap();
        assert_eq!(serde_json::from_str::<Grant>(&text).unwrap(), grant);
    }
}
