//! Node, and the packages that npm gets for it.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::program::said;

/// The oldest that all the packages run on.
const OLDEST: u32 = 20;

/// An error says why there is none.
pub fn ready() -> Result<(), String> {
    let version = said(Command::new("node").arg("--version"))
        .map_err(|why| format!("there is no Node {OLDEST} or later (nodejs.org): {why}"))?;
    let major = version.trim_start_matches('v').split('.').next().and_then(|major| major.parse::<u32>().ok());
    match major.is_some_and(|major| major >= OLDEST) {
        true => Ok(()),
        false => Err(format!("node is {}; it takes {OLDEST} or later (nodejs.org)", version.trim())),
    }
}

/// What the lockfile in `sources` names, in `folder`, which is one of the target folder: the sources stay as they are.
pub fn modules(sources: &Path, folder: &Path) -> Result<(), String> {
    let lock = fs::read(sources.join("package-lock.json")).unwrap();
    let made_from = folder.join("made-from");
    if fs::read(&made_from).is_ok_and(|made_from| made_from == lock) {
        return Ok(());
    }
    fs::create_dir_all(folder).unwrap();
    for file in ["package.json", "package-lock.json"] {
        fs::copy(sources.join(file), folder.join(file)).unwrap();
    }
    let npm = said(Command::new("npm").args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(folder));
    npm.map_err(|why| format!("npm could not get what {} names: {why}", sources.display()))?;
    fs::write(made_from, lock).unwrap();
    Ok(())
}
