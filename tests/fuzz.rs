//! Replays the fuzzer's corpora: what once led the parsers to a place of their own still does no harm there.

#[path = "../fuzz/src/lib.rs"]
mod fuzz;

use std::fs;
use std::io::Write as _;
use std::panic::catch_unwind;
use std::path::Path;

#[test]
fn nothing_in_the_corpora_does_harm() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut replayed = Vec::new();
    for (name, target) in fuzz::TARGETS {
        let corpus = corpora.join(name);
        let inputs = fs::read_dir(&corpus).unwrap_or_else(|error| panic!("{}: {error}", corpus.display()));
        let mut count = 0;
        for input in inputs {
            let path = input.unwrap().path();
            let content = fs::read(&path).unwrap();
            assert!(catch_unwind(|| target(&content)).is_ok(), "{} does harm, see above", path.display());
            count += 1;
        }
        assert!(count > 0, "{} is empty", corpus.display());
        replayed.push(format!("{name} {count}"));
    }
    // not `println`, which nobody sees of a test that passes
    writeln!(std::io::stderr(), "inputs replayed: {}", replayed.join(", ")).unwrap();
}

#[test]
fn every_target_is_run_by_the_fuzzer_and_replayed() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    let mut files: Vec<String> = fs::read_dir(sources)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    files.sort();
    let names: Vec<&str> = fuzz::TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(files, names);
}
