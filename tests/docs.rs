//! What the documents say of the project is so.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap()
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The sources of the tests `NAME::…`: `tests/NAME.rs` and `tests/NAME/`, whichever program runs them; or a file of `src/`.
fn sources(name: &str) -> String {
    if name.ends_with(".rs") {
        return read(name);
    }
    let folder = fs::read_dir(root().join("tests").join(name)).into_iter().flatten().map(|entry| entry.unwrap().path());
    let files: Vec<PathBuf> = folder.chain([root().join(format!("tests/{name}.rs"))]).collect();
    files.iter().filter_map(|file| fs::read_to_string(file).ok()).collect()
}

#[test]
fn every_promise_and_every_invariant_names_tests_that_exist() {
    let (semantics, design) = (read("docs/semantics.md"), read("docs/design.md"));
    let invariants = design.split("\n## ").find(|chapter| chapter.starts_with("Invariants")).unwrap();
    let promises = semantics.lines().filter(|line| line.starts_with("| **"));
    let numbered =
        |line: &&str| line.starts_with("| ") && line[2..].starts_with(|letter: char| letter.is_ascii_uppercase());
    let rows: Vec<_> = promises.chain(invariants.lines().filter(numbered)).collect();
    assert!(rows.len() > 50, "{rows:?}");
    for row in rows {
        let named: Vec<_> = quoted(row).filter_map(|quoted| quoted.split_once("::")).collect();
        assert!(!named.is_empty(), "no test is named for this: {row}");
        for (file, test) in named {
            assert!(sources(file).contains(&format!("fn {test}(")), "{file} has no test {test}, named for this: {row}");
        }
    }
}

#[test]
fn every_file_of_tests_is_run() {
    let read = |file: &Path| fs::read_to_string(file).unwrap();
    let programs = ["pure", "system"].map(|name| root().join(format!("tests/{name}.rs")));
    let declared = programs.each_ref().map(|program| read(program)).concat();
    let files = fs::read_dir(root().join("tests")).unwrap().map(|entry| entry.unwrap().path());
    let modules = files.filter(|file| file.extension().is_some_and(|kind| kind == "rs") && !programs.contains(file));
    let lost: Vec<_> = modules
        .filter(|file| !declared.contains(&format!("\nmod {};\n", file.file_stem().unwrap().display())))
        .collect();
    assert!(lost.is_empty(), "modules of no program of tests: {lost:?}");
}

#[test]
fn links_between_the_documents_lead_somewhere() {
    let top = ["README.md", "README.zh.md", "CHANGELOG.md"].map(|file| root().join(file));
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    for path in docs.filter(|path| path.extension().is_some_and(|kind| kind == "md")).chain(top) {
        let text = fs::read_to_string(&path).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap();
            if !target.is_empty() && !target.contains("://") {
                let target = path.parent().unwrap().join(target);
                assert!(target.exists(), "{} links to {link}, which is not there", path.display());
            }
        }
    }
}

/// The names of all packages that the library needs with these features.
fn packages(features: &str) -> BTreeSet<String> {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--no-default-features", "--features", features, "-e", "normal"])
        .args(["--prefix", "none", "--format", "{p}", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let lines = String::from_utf8(tree.stdout).unwrap();
    lines.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn the_client_alone_brings_no_database_no_http_and_no_terminal() {
    let others = ["rusqlite", "axum", "hyper", "ratatui", "clap", "toml", "indicatif", "prometheus"];
    let all = packages("client,server,ctl");
    let client = packages("client");
    assert!(client.contains("grpcio"), "{client:?}");
    for package in others {
        assert!(all.contains(package), "{package} is not there by this name any more");
        assert!(!client.contains(package), "{package} comes with the client");
    }
}

#[test]
fn what_the_map_names_is_there() {
    let map = read("docs/architecture.md");
    let paths: Vec<_> = quoted(&map).filter(|it| it.contains('/') && !it.contains(' ') && !it.contains("N.")).collect();
    assert!(paths.len() > 40, "{paths:?}");
    let missing: Vec<_> = paths.into_iter().filter(|path| !root().join(path).exists()).collect();
    assert!(missing.is_empty(), "not there: {missing:?}");
    let (_, changes) = map.split_once("## Where to change what").unwrap();
    for change in changes.lines().filter(|line| line.starts_with("| ")) {
        assert!(quoted(change).filter(|it| it.contains('/')).count() <= 4, "too many places: {change}");
    }
}

#[test]
fn the_protocol_has_each_key_of_metadata_and_no_other() {
    let keys = |text: &str, before: &str| {
        let found = text.split(before).skip(1).filter_map(|rest| rest.split(['`', '"', ' ']).next());
        found.filter(|key| key.starts_with("contact-")).map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let read_by_server = keys(&read("src/server/metadata.rs"), "\"");
    assert!(read_by_server.len() > 5, "{read_by_server:?}");
    assert_eq!(keys(&read("docs/protocol.md"), "\n| `"), read_by_server);
    assert_eq!(keys(&read("proto/contact.proto"), "//   "), read_by_server);
}
