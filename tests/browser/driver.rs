//! The page in a real browser: Chromium, driven by playwright-core in Node.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::common::node;
use crate::common::program::{Program, said};
use crate::common::server::Server;

const CHROMIUMS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome"];

/// A browser, and what drives it.
pub struct Browser {
    folder: PathBuf,
    chromium: PathBuf,
}

impl Browser {
    /// Made in the target folder on first use. `None`, said loudly, where there is no Node, no browser, or no network to get
    /// them with; with `CI=true` that is a failure.
    #[track_caller]
    pub fn ready() -> Option<&'static Browser> {
        static READY: OnceLock<Result<Browser, String>> = OnceLock::new();
        crate::common::or_skipped(READY.get_or_init(prepare))
    }

    /// A picture that a scene has made.
    pub fn picture(&self, name: &str) -> PathBuf {
        self.folder.join(name).with_extension("png")
    }

    /// Starts a scene of `tests/browser/scenes.mjs` on the page of `server`, when no other is being played: a browser wants a
    /// core for itself.
    #[track_caller]
    pub fn plays(&self, scene: &str, server: &Server) -> Scene {
        self.plays_with(scene, server, &[])
    }

    /// The same with more in the environment.
    #[track_caller]
    pub fn plays_with(&self, scene: &str, server: &Server, more: &[(&str, &Path)]) -> Scene {
        self.plays_at(scene, &server.http, more)
    }

    /// The same of a server whose page is at this address.
    #[track_caller]
    pub fn plays_at(&self, scene: &str, http: &str, more: &[(&str, &Path)]) -> Scene {
        static STAGE: Mutex<()> = Mutex::new(());
        let turn = STAGE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut command = Command::new("node");
        command.arg(here("play.mjs")).arg(scene).envs(more.iter().copied());
        command.env("CONTACT_PAGE", format!("http://{http}")).env("CONTACT_CHROMIUM", &self.chromium);
        command.env("CONTACT_MODULES", self.folder.join("node_modules")).env("CONTACT_SHOTS", &self.folder);
        Scene { program: Program::spawn(scene, &mut command).unwrap(), _turn: turn }
    }
}

/// A scene that is being played.
pub struct Scene {
    program: Program,
    _turn: MutexGuard<'static, ()>,
}

impl Scene {
    /// Waits until it says that it is so far.
    #[track_caller]
    pub fn comes_to(&self, point: &str) {
        self.program.out.wait_for(point, |line| line == format!("reached: {point}"));
    }

    /// Waits for its end.
    #[track_caller]
    pub fn ends_well(mut self) {
        // A scene may be long, but none of its steps.
        let mut steps = 0;
        let mut next = |lines: &[String]| {
            let more = lines.len() > steps;
            steps = lines.len();
            more.then(|| lines.last().is_some_and(|line| line != "done"))
        };
        while self.program.out.until("the next step of the scene", &mut next) {}
        assert!(self.program.ended().success());
    }
}

fn here(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser").join(file)
}

/// An error is what keeps a browser from being had.
fn prepare() -> Result<Browser, String> {
    node::ready()?;
    let chromium = chromium()?;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("browser");
    node::modules(&here(""), &folder)?;
    Ok(Browser { folder, chromium })
}

/// `CONTACT_CHROMIUM`, or what is on the PATH, or Debian's package where it can be installed.
fn chromium() -> Result<PathBuf, String> {
    if let Some(chosen) = env::var_os("CONTACT_CHROMIUM") {
        return Ok(chosen.into());
    }
    let on_path = || {
        let path = env::var_os("PATH").unwrap_or_default();
        let places: Vec<PathBuf> = env::split_paths(&path).collect();
        CHROMIUMS.iter().flat_map(|name| places.iter().map(move |place| place.join(name))).find(|file| file.is_file())
    };
    if let Some(found) = on_path() {
        return Ok(found);
    }
    let help = "install Chromium (apt-get install chromium), or name one with CONTACT_CHROMIUM";
    if !rustix::process::geteuid().is_root() {
        return Err(format!("there is no Chromium on the PATH: {help}"));
    }
    let apt = |args: &[&str]| said(Command::new("apt-get").args(args).env("DEBIAN_FRONTEND", "noninteractive"));
    apt(&["update", "-q"])
        .and_then(|_| apt(&["install", "-q", "-y", "--no-install-recommends", "chromium"]))
        .map_err(|why| format!("apt-get could not install chromium: {why}; {help}"))?;
    on_path().ok_or_else(|| format!("apt-get installed no chromium: {help}"))
}
