//! Arrows go down only: each module may use those below it in [`FLOORS`], and
//! methods never use each other.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// From the ground up. Modules on one line do not use each other.
const FLOORS: [&[&str]; 18] = [
    &["error"],
    &["random", "progress", "memory", "threads", "paths", "pattern", "notice", "allocator", "exit"],
    &["input"],
    &["json"],
    &["checkpoint"],
    &["text"],
    &["spec"],
    &["forward"],
    &["model"],
    &["quant"],
    &["kernels"],
    &["runtime"],
    &["eval"],
    &["recipe"],
    &["export", "report"],
    &["compress"],
    &["pipeline"],
    &["cli"],
];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The top-level module of a file: its folder, or its own name.
fn module(file: &Path) -> String {
    let first = file.strip_prefix(source()).unwrap().components().next().unwrap();
    first.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned()
}

/// Every `crate::name` in a file, comments aside.
fn used(text: &str) -> BTreeSet<String> {
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let name = |rest: &str| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let grouped = code.split("crate::{").skip(1).flat_map(|rest| rest.split('}').next().unwrap().split(',').map(|n| name(n.trim())));
    let single = code.split("crate::").skip(1).map(name);
    // `crate::Error` and `crate::Result` are names of `error`.
    grouped.chain(single).filter(|n| n.chars().next().is_some_and(char::is_lowercase)).collect()
}

#[test]
fn modules_use_only_what_is_below_them() {
    let floor = |name: &str| FLOORS.iter().position(|f| f.contains(&name)).unwrap_or_else(|| panic!("{name} has no floor"));
    let mut all = Vec::new();
    files(&source(), &mut all);
    assert!(all.len() > 40, "the source was not found");
    let mut wrong = Vec::new();
    for file in all.iter().filter(|f| !["main", "lib"].contains(&module(f).as_str())) {
        let here = module(file);
        for other in used(&std::fs::read_to_string(file).unwrap()) {
            if other != here && floor(&other) >= floor(&here) {
                wrong.push(format!("{}: {here} uses {other}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What methods share lies in `solve`.
#[test]
fn methods_do_not_use_each_other() {
    for folder in ["quantize", "sparsify"] {
        let dir = source().join("compress").join(folder);
        let names: Vec<String> =
            std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned()).collect();
        for method in names.iter().filter(|n| *n != "mod") {
            let text = std::fs::read_to_string(dir.join(format!("{method}.rs"))).unwrap();
            for other in names.iter().filter(|n| *n != method && *n != "mod") {
                for import in [format!("{folder}::{other}"), format!("super::{other}")] {
                    assert!(!text.contains(&import), "{method} uses {other}");
                }
                // Types are named as their files are, and can be had from the folder.
                let type_name = other.replace('_', "");
                let siblings = text.lines().filter(|line| line.starts_with("use super::"));
                let mut words = siblings.flat_map(|line| line.split(|c: char| !c.is_alphanumeric()));
                assert!(!words.any(|word| word.eq_ignore_ascii_case(&type_name)), "{method} uses {other}");
            }
        }
    }
}

/// Unsafe code stays in kernels, in the map of files, in the end of the program, and where numbers
/// of libtorch's tensors are borrowed.
#[test]
fn unsafe_code_stays_where_it_is_allowed() {
    let allowed = [
        "src/kernels/",
        "src/checkpoint/mapped.rs",
        "src/allocator.rs",
        "src/exit.rs",
        "src/compress/tensors.rs",
        "src/compress/calibrate.rs",
        "src/compress/solve/relative_error.rs",
        "src/compress/train/optimizer.rs",
    ];
    let mut all = Vec::new();
    files(&source(), &mut all);
    for file in all {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(&file).unwrap();
        let has = text.lines().any(|l| !l.trim_start().starts_with("//") && l.contains("unsafe"));
        assert!(!has || allowed.iter().any(|place| name.contains(place)), "{name} has unsafe code");
    }
}
