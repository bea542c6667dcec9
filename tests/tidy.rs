//! What the house has ruled out, read from the tree itself: edges that point up, `unsafe` outside
//! its crate, a package of the design that nobody uses, a name of one machine.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Every crate and its rank: an edge, of whatever kind, only points to a lower one.
const RANKS: [(&str, u32); 11] = [
    ("ringmain-wire", 0),
    ("ringmain-shm", 1),
    ("ringmain-policy", 1),
    ("ringmain-ring", 2),
    ("ringmain-client", 3),
    ("ringmain-upstream", 3),
    ("ringmain-broker", 4),
    ("ringmain-bench", 5),
    ("ringmain-http", 5),
    ("ringmain-sim", 5),
    ("ringmain", 6),
];

/// The only crate that may hold unsafe code.
const UNSAFE_CRATE: &str = "ringmain-shm";

/// The packages that the design names, and what a source that uses one of them says.
const PACKAGES: [(&str, &[&str], &[&str]); 8] = [
    ("shared_memory", &["shared_memory"], &["shared_memory::", "use shared_memory"]),
    (
        "crossbeam",
        &["crossbeam-utils", "crossbeam-queue", "crossbeam-channel"],
        &["crossbeam_utils::", "crossbeam_queue::", "crossbeam_channel::"],
    ),
    ("nix", &["nix"], &["nix::"]),
    ("memmap2", &["memmap2"], &["memmap2::"]),
    ("tokio", &["tokio"], &["tokio::"]),
    ("reqwest", &["reqwest"], &["reqwest::"]),
    ("bytemuck", &["bytemuck"], &["bytemuck::"]),
    ("parking_lot", &["parking_lot"], &["parking_lot::"]),
];

/// A package of the workspace.
struct Package {
    name: String,
    root: PathBuf,
    /// Names of its dependencies of every kind.
    dependencies: Vec<String>,
}

impl Package {
    /// The Rust sources of the package, not those of packages below it.
    fn sources(&self) -> Vec<PathBuf> {
        let folders = ["src", "tests", "examples", "benches"].map(|name| self.root.join(name));
        let mut files = Vec::new();
        for folder in folders {
            collect(&folder, "rs", &mut files);
        }
        files
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn collect(folder: &Path, extension: &str, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, extension, files);
        } else if path.extension().is_some_and(|found| found == extension) {
            files.push(path);
        }
    }
}

fn packages() -> Vec<Package> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--no-deps", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let package = |package: &Value| Package {
        name: text(&package["name"]),
        root: Path::new(package["manifest_path"].as_str().unwrap()).parent().unwrap().to_owned(),
        dependencies: package["dependencies"]
            .as_array()
            .unwrap()
            .iter()
            .map(|dependency| text(&dependency["name"]))
            .collect(),
    };
    metadata["packages"].as_array().unwrap().iter().map(package).collect()
}

/// The source without comments and without what stands in quotes.
fn code_only(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let skipped = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |at| at + 2),
            'r' if rest.starts_with("r#\"") => rest.find("\"#").map_or(rest.len(), |at| at + 2),
            '\'' if rest.starts_with("'\"'") => 3,
            '\'' if rest.starts_with("'\\\"'") => 4,
            '"' => quoted(rest),
            _ => 0,
        };
        if skipped == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            code.push(' ');
            rest = &rest[skipped..];
        }
    }
    code
}

/// Bytes of the string literal at the start of `rest`.
fn quoted(rest: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in rest.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Whether the word stands in the code by itself.
fn has_word(code: &str, word: &str) -> bool {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|found| found == word)
}

#[test]
fn edges_point_to_a_lower_rank() {
    let ranks = BTreeMap::from(RANKS);
    let packages = packages();
    for package in &packages {
        let rank = ranks.get(package.name.as_str());
        let rank = rank.unwrap_or_else(|| panic!("{} has no rank", package.name));
        for dependency in &package.dependencies {
            if let Some(below) = ranks.get(dependency.as_str()) {
                assert!(below < rank, "{} must not depend on {dependency}", package.name);
            }
        }
    }
    assert_eq!(packages.len(), RANKS.len(), "a crate with a rank is gone");
}

#[test]
fn unsafe_stays_in_its_crate() {
    let mut seen_in_its_crate = false;
    for package in packages() {
        for path in package.sources() {
            let found = has_word(&code_only(&fs::read_to_string(&path).unwrap()), "unsafe");
            if package.name == UNSAFE_CRATE {
                seen_in_its_crate |= found;
            } else {
                assert!(!found, "{} holds unsafe code", path.display());
            }
        }
        if package.name != UNSAFE_CRATE {
            let tops = ["src/lib.rs", "src/main.rs"].map(|top| package.root.join(top));
            for top in tops.iter().filter(|top| top.exists()) {
                let forbidden = fs::read_to_string(top).unwrap();
                let forbidden = forbidden.contains("#![forbid(unsafe_code)]");
                assert!(forbidden, "{} does not forbid unsafe code", top.display());
            }
        }
    }
    assert!(seen_in_its_crate, "the scan finds no unsafe code even where it must be");
}

/// Features of each package in the tree of the product with dependencies of these kinds.
fn features(kinds: &str) -> BTreeMap<String, String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "-p", "ringmain", "--prefix", "none", "-f", "{p}|{f}"])
        .args(["-e", kinds])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().filter_map(|line| line.trim_end_matches(" (*)").split_once('|'));
    lines.map(|(package, features)| (package.to_owned(), features.to_owned())).collect()
}

/// Otherwise `cargo run` after an example or a test builds half of the tree a second time.
#[test]
fn examples_share_their_build_with_the_product() {
    let (with, without) = (features("normal,build,dev"), features("normal,build"));
    assert!(with.len() > without.len() && without.len() > 100, "{with:?}");
    for (package, features) in without {
        assert_eq!(with[&package], features, "dev-dependencies change features of {package}");
    }
}

/// Two functions of the crate with unsafe code are sound by what their users do with the bytes.
#[test]
fn what_lends_shared_bytes_is_called_where_it_was_judged() {
    let users = |uses: &dyn Fn(&str) -> bool| {
        let others = packages().into_iter().filter(|package| package.name != UNSAFE_CRATE);
        let shipped = |package: Package| {
            let folder = package.root.join("src");
            package.sources().into_iter().filter(move |path| path.starts_with(&folder))
        };
        let using = |path: &PathBuf| uses(&code_only(&fs::read_to_string(path).unwrap()));
        others.flat_map(shipped).filter(using).collect::<BTreeSet<_>>()
    };
    let crates =
        |names: &[&str]| names.iter().map(|name| root().join("crates").join(name)).collect();
    // Whoever listens is come to by strangers: applications alone take a writer's word.
    let trusting = users(&|code| has_word(code, "connect_trusting"));
    let judged = ["ringmain-client/src/attach.rs", "ringmain-bench/src/roles/meet.rs"];
    assert_eq!(trusting, crates(&judged), "see `TrustedMap`");
    // Bytes of a stranger, for the HTTP client alone.
    let named = |part: &str| part.contains("ringmain_shm") && has_word(part, "lend");
    let lending = users(&|code| code.split(';').any(named));
    assert_eq!(lending, crates(&["ringmain-broker/src/intake.rs"]), "see the module `lend`");
}

#[test]
fn every_package_of_the_design_is_in_use() {
    let packages = packages();
    for (name, dependencies, words) in PACKAGES {
        let uses = packages.iter().any(|package| {
            let declared =
                package.dependencies.iter().any(|found| dependencies.contains(&found.as_str()));
            let in_source = |path: &PathBuf| {
                let code = code_only(&fs::read_to_string(path).unwrap());
                words.iter().any(|word| code.contains(word))
            };
            let shipped = package.sources().into_iter();
            let mut shipped = shipped.filter(|path| path.starts_with(package.root.join("src")));
            declared && shipped.any(|path| in_source(&path))
        });
        assert!(uses, "no crate declares and uses {name}");
    }
}

#[test]
fn nothing_names_one_machine() {
    // Written in halves, so that this file does not hold what it looks for.
    let banned =
        [concat!("/wo", "rk/"), concat!("/root/.car", "go"), concat!("index.crates", ".io")];
    let mut files = Vec::new();
    for package in packages() {
        files.extend(package.sources());
    }
    for extension in ["md", "toml", "service", "socket"] {
        for folder in ["crates", "packaging", "examples"] {
            collect(&root().join(folder), extension, &mut files);
        }
        let top = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path());
        files.extend(top.filter(|path| path.extension().is_some_and(|e| e == extension)));
    }
    assert!(files.len() > 20, "{files:?}");
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        for word in banned {
            assert!(!text.contains(word), "{} holds {word}", path.display());
        }
    }
}

#[test]
fn the_scan_reads_code_and_not_words_about_it() {
    let code = code_only(
        "a /* unsafe */ \"unsafe \\\" unsafe\" r#\"unsafe \"quoted\"\"# '\"' b // unsafe",
    );
    assert!(!has_word(&code, "unsafe"), "{code}");
    assert!(has_word(&code, "a") && has_word(&code, "b"));
    assert!(has_word(&code_only("let x = unsafe { y };"), "unsafe"));
    assert!(!has_word("#![forbid(unsafe_code)]", "unsafe"));
}
