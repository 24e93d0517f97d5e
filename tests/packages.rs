//! What people download: the tarball, the Debian package and the wheel, installed where nothing else is, and run there.

mod place;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use place::{Debian, Place};

use crate::common::or_skipped;

/// The target folder. Cargo names only a folder in it.
fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap()
}

/// Runs a script to its end. An error is what it says is not to be had; any other failure panics.
fn unless_unavailable(command: &mut Command) -> Result<(), String> {
    const UNAVAILABLE: i32 = 69;
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => Ok(()),
        Some(UNAVAILABLE) => Err(said.trim().to_owned()),
        _ => panic!("{command:?}: {}\n{said}", output.status),
    }
}

/// The folder with the packages, made by the script that makes those of a release, of the programs that all tests run. `None`, said
/// loudly, where a tool for it cannot be had; with `CI=true` that is a failure.
#[track_caller]
fn packages() -> Option<&'static Path> {
    static MADE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let make = || {
        let built = Path::new(env!("CARGO_BIN_EXE_contact-server")).parent().unwrap();
        let profile = if built.ends_with("debug") { "dev" } else { "release" };
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/package");
        unless_unavailable(Command::new(script).arg(profile).env("CARGO_TARGET_DIR", target()))?;
        Ok(built.join("package"))
    };
    or_skipped(MADE.get_or_init(make)).map(PathBuf::as_path)
}

/// A server is started, is given a task, and a client takes it; `path`: where the programs are, if they are not where a shell looks.
#[track_caller]
fn a_task_is_done(place: &Place, path: &str, server: &str) {
    let path = format!("env PATH={path}$PATH");
    let ports = "--listen 127.0.0.1:0 --control 127.0.0.1:0 --http 127.0.0.1:0";
    let server = place.spawn(&format!("{path} {server} {ports}"));
    let line = server.out.wait_for("that it listens", |line| line.starts_with("listening on"));
    let mut addresses = line.split(", ").map(|part| part.rsplit(' ').next().unwrap());
    let (listen, control) = (addresses.next().unwrap(), addresses.next().unwrap());
    let work = "--group workers --exec 'tr a-z A-Z'";
    let _client = place.spawn(&format!("{path} contact-client --server {listen} {work}"));
    let submit = "submit --to workers --wait --timeout 60s hello";
    let said = place.run(&format!("{path} contactctl {submit} --server {control}"));
    assert!(said.contains("HELLO"), "{said}");
    assert!(place.run(&format!("{path} contactctl results --all --server {control}")).contains("HELLO"));
}

#[test]
fn the_tarball_is_unpacked_and_works() {
    let Some(packages) = packages() else { return };
    let place = Place::new(packages);
    place.run("cd $PACKAGES && sha256sum --check --strict SHA256SUMS");
    place
        .run("mkdir -p $ROOT/usr/local && tar -C $ROOT/usr/local --strip-components 1 -xzf $PACKAGES/contact-*.tar.gz");
    a_task_is_done(&place, "$ROOT/usr/local/bin:", "contact-server --data $ROOT/data");
    let there = "cd $ROOT/usr/local && ls share/man/man1/contact-server.1 share/man/man1/contactctl-submit.1 \
                 share/bash-completion/completions/contactctl share/zsh/site-functions/_contact-client \
                 share/fish/vendor_completions.d/contactctl.fish lib/systemd/system/contact-server.service \
                 share/doc/contact-server/LICENSE share/doc/contact-server/README.md";
    place.run(there);
    // It has all settings of a release.
    let file = "share/doc/contact-server/contact.toml";
    let is_it = if cfg!(feature = "cluster") { format!("| cmp - {file}") } else { format!("--config {file}") };
    place.run(&format!("cd $ROOT/usr/local && bin/contact-server --print-config {is_it}"));
}

#[test]
fn the_wheel_is_installed_by_pip_without_a_compiler_and_works() {
    let Some(packages) = packages() else { return };
    let place = Place::new(packages);
    place.run("python3 -m venv $ROOT/opt/contact && $ROOT/opt/contact/bin/pip install --no-index $PACKAGES/contact_server-*.whl");
    a_task_is_done(&place, "$ROOT/opt/contact/bin:", "contact-server --data $ROOT/data");
    place.run("$ROOT/opt/contact/bin/pip uninstall --yes contact-server && ! ls $ROOT/opt/contact/bin/contact*");
}

#[test]
fn the_debian_package_makes_its_user_runs_as_its_unit_says_and_leaves_nothing_when_it_is_purged() {
    let Some(packages) = packages() else { return };
    let Some(debian) = Debian::new(packages) else { return };
    let place = Place::Debian(debian);
    let ours = "find / -xdev -not -path '/proc/*' -not -path '/packages*' -iname '*contact*' | sort";
    assert_eq!(place.run(ours), "");
    place.run("dpkg --install $PACKAGES/contact-server_*.deb");
    assert_eq!(place.run("stat --format '%U %a' /var/lib/contact").trim(), "contact-server 700");
    assert_eq!(place.run("systemctl is-enabled contact-server").trim(), "enabled");
    assert_eq!(place.run("systemd-analyze verify contact-server.service 2>&1"), "");
    let user = place.run("cat /usr/lib/systemd/system/contact-server.service.d/*.conf");
    assert!(user.ends_with("[Service]\nDynamicUser=no\nUser=contact-server\n"), "{user}");
    // As the unit has it: as its user, with its settings.
    let user = "setpriv --reuid=contact-server --regid=contact-server --clear-groups";
    let set = "env CONTACT_CONFIG=/etc/contact/contact.toml CONTACT_DATA=/var/lib/contact";
    a_task_is_done(&place, "", &format!("{user} {set} contact-server"));

    place.run("echo '# mine' >> /etc/contact/contact.toml && dpkg --remove contact-server");
    place.run("test ! -e /usr/bin/contact-server && test -e /var/lib/contact/contact.db");
    place.run("tail -n 1 /etc/contact/contact.toml | grep mine");
    place.run("dpkg --purge contact-server");
    assert_eq!(place.run(ours), "");
    place.run("! getent passwd contact-server && ! getent group contact-server");
}
