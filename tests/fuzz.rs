//! Replays the fuzzer's corpora: what once led the parsers to a place of their own still does no harm there.

#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::panic::catch_unwind;
use std::path::Path;

use crate::support::sample;

#[test]
fn no_input_in_the_corpora_causes_a_crash() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut replayed = Vec::new();
    for (name, target) in targets::TARGETS {
        let corpus = corpora.join(name);
        let inputs = fs::read_dir(&corpus).unwrap_or_else(|error| panic!("{}: {error}", corpus.display()));
        let mut count = 0;
        for input in inputs {
            let path = input.unwrap().path();
            let content = fs::read(&path).unwrap();
            assert!(catch_unwind(|| target(&content)).is_ok(), "{} causes a panic, see above", path.display());
            count += 1;
        }
        assert!(count > 0, "{} is empty", corpus.display());
        replayed.push(format!("{name} {count}"));
    }
    // not `println`, which a passing test does not show
    writeln!(std::io::stderr(), "inputs replayed: {}", replayed.join(", ")).unwrap();
}

/// Characters of two, three and four bytes, and some that are not seen: a mark at the start of a file, one that turns the direction
/// of writing, one that belongs to the letter before it.
const SITES: usize = 100;
const STRANGE: [&str; 10] = ["ü", "für alle", "—", "→", "\u{feff}", "日本語", "🦀", "\u{202e}", "e\u{301}", "\u{a0}"];

#[test]
fn text_of_any_language_anywhere_in_a_site_causes_no_crash() {
    let files = kpull::document::Files::in_directory(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
    let texts: Vec<(&str, &str)> =
        files.iter().filter_map(|(path, content)| Some((path, std::str::from_utf8(content).ok()?))).collect();
    // the same each time
    let mut seed = 0x9e37_79b9_u32;
    let mut random = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 17;
        seed ^= seed << 5;
        usize::try_from(seed).unwrap() % below
    };
    for _ in 0..SITES / sample::one_in() {
        let mut input = String::new();
        for (path, text) in &texts {
            writeln!(input, "%% {path}").unwrap();
            let mut text = (*text).to_owned();
            while random(8) == 0 {
                let strange = STRANGE[random(STRANGE.len())];
                // a comment and a text leave it a site; anything anywhere seldom does
                let ends = |sign: char| text.match_indices(sign).map(|(at, _)| at).collect::<Vec<_>>();
                let (places, piece) = match random(16) {
                    0 => (text.char_indices().map(|(at, _)| at).collect(), strange.to_owned()),
                    1..6 => (ends('"'), strange.to_owned()),
                    _ => (ends('\n'), format!(" # {strange}= {strange}")),
                };
                if !places.is_empty() {
                    let (before, behind) = text.split_at_checked(places[random(places.len())]).unwrap();
                    text = format!("{before}{piece}{behind}");
                }
            }
            input += &text;
        }
        assert!(catch_unwind(|| targets::site(input.as_bytes())).is_ok(), "this site does harm, see above:\n{input}");
    }
}

#[test]
fn the_fuzzer_runs_every_target_and_the_tests_replay_it() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    let mut files: Vec<String> = fs::read_dir(sources)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    files.sort();
    let names: Vec<&str> = targets::TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(files, names);
}
