//! The commands that the manual, the README and the program's own messages name: each is there, with these flags.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Command;
use clap::error::ErrorKind;

use crate::support::files::files;

/// A command line as it stands in a text.
struct Named {
    place: String,
    line: String,
    /// Whether it is there to be typed as it is, and not only talked about: its arguments are all there too.
    whole: bool,
}

/// All that is wrong about a command line.
fn wrong(named: &Named) -> Option<String> {
    let mut root = kpull::cli::command();
    root.build();
    let words = shlex::split(&named.line)?;
    let message = spelled(&root, &words[1..]).err().or_else(|| {
        let error = root.try_get_matches_from_mut(named.whole.then_some(&words)?).err()?;
        let is_help = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
        (!is_help).then(|| error.to_string().lines().next().unwrap_or_default().to_owned())
    })?;
    Some(format!("{}: {}: {message}", named.place, named.line))
}

/// Whether the commands and flags among these words are there, each with its whole name.
fn spelled(root: &Command, words: &[String]) -> Result<(), String> {
    let mut command = root;
    let mut words = words.iter().map(|word| word.trim_matches(['[', ']', ',', '…']));
    while let Some(word) = words.next() {
        let is_flag = word.starts_with('-') && word != "-" && word != "--";
        if is_flag {
            let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
            let found = command.get_arguments().find(|argument| match name.strip_prefix("--") {
                Some(long) => argument.get_long() == Some(long),
                None => argument.get_short().is_some_and(|short| name == format!("-{short}")),
            });
            let found = found.ok_or_else(|| format!("`kpull {}` has no {name}", command.get_name()))?;
            if found.get_action().takes_values() && value.is_none() {
                words.next();
            }
        } else if command.has_subcommands() {
            // COMMAND stands for any of them
            let is_any = word.chars().all(|one| one.is_ascii_uppercase());
            if is_any || word == kpull::sandbox::COMMAND {
                return Ok(());
            }
            for one in word.split('|') {
                let found = command.find_subcommand(one);
                command = found.ok_or_else(|| format!("there is no command `{one}`"))?;
            }
        }
    }
    Ok(())
}

/// The command lines of kpull in a line of a shell.
fn in_shell(line: &str) -> Vec<String> {
    const ENDS: [&str; 7] = ["&&", "||", "|", ";", ">", ">>", "2>"];
    let words = shlex::split(line).unwrap_or_default();
    let mut found: Vec<Vec<String>> = Vec::new();
    let (mut is_start, mut is_inside) = (true, false);
    for word in words {
        let ends = ENDS.contains(&word.as_str());
        if word == "kpull" && is_start {
            found.push(vec![word]);
            (is_start, is_inside) = (false, true);
            continue;
        }
        if is_inside
            && !ends
            && let Some(last) = found.last_mut()
        {
            last.push(word.trim_end_matches(';').to_owned());
        }
        is_start = ends || word.ends_with(';') || is_start && (word.contains('=') || word == "sudo");
        is_inside &= !is_start;
    }
    found.iter().filter_map(|words| shlex::try_join(words.iter().map(String::as_str)).ok()).collect()
}

/// The command lines in a page of Markdown: in its blocks, and between backticks in its text.
fn in_page(name: &str, text: &str) -> Vec<Named> {
    let mut found = Vec::new();
    let mut fence: Option<&str> = None;
    let mut prose = String::new();
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let line = line.trim();
        let place = || format!("{name}:{}", index + 1);
        if let Some(language) = line.strip_prefix("```") {
            fence = fence.is_none().then_some(language);
            continue;
        }
        let Some(language) = fence else {
            match line.is_empty() || line.starts_with('|') {
                true => prose = line.to_owned(),
                false => prose = format!("{prose} {line}"),
            }
            let is_last =
                text.lines().nth(index + 1).is_none_or(|next| next.is_empty() || next.starts_with(['|', '`']));
            if is_last {
                let codes = between_backticks(&prose);
                found.extend(codes.map(|line| Named { place: place(), line, whole: false }));
                prose.clear();
            }
            continue;
        };
        let typed = match language {
            "console" => line.strip_prefix("$ ").or_else(|| line.strip_prefix("# ")),
            "sh" => Some(line),
            "yaml" => Some(line.trim_start_matches("- ")),
            _ => None,
        };
        let Some(typed) = typed else { continue };
        let mut typed = typed.to_owned();
        while let Some(rest) = typed.strip_suffix('\\') {
            typed = format!("{rest} {}", lines.next().map_or("", |(_, line)| line.trim()));
        }
        let typed = in_shell(&typed).into_iter();
        found.extend(typed.map(|line| Named { place: place(), line, whole: true }));
    }
    found
}

/// The command lines between backticks.
fn between_backticks(text: &str) -> impl Iterator<Item = String> {
    let codes = text.split('`').skip(1).step_by(2).map(str::trim);
    codes.filter(|code| code.starts_with("kpull ")).map(|code| code.replace("\\|", "|"))
}

/// Holds every command line of some files to what there is.
fn hold(from: &[&str], end: &str, read: fn(&str, &str) -> Vec<Named>) -> usize {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let from = from.iter().map(|from| top.join(from));
    let paths: Vec<PathBuf> =
        from.flat_map(|from| if from.is_dir() { files(&from, end) } else { vec![from] }).collect();
    let name = |path: &Path| path.strip_prefix(top).unwrap().display().to_string();
    let named: Vec<Named> =
        paths.iter().flat_map(|path| read(&name(path), &fs::read_to_string(path).unwrap())).collect();
    let wrong: Vec<String> = named.iter().filter_map(wrong).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    named.len()
}

#[test]
fn every_command_in_the_manual_exists_with_its_flags() {
    let count = hold(&["docs/src", "README.md", "CONTRIBUTING.md"], ".md", in_page);
    assert!(count > 200, "{count} commands");
}

#[test]
fn every_command_that_a_message_names_exists_with_its_flags() {
    let by_line = |name: &str, text: &str| {
        let lines = text.lines().enumerate().flat_map(|(index, line)| {
            let place = format!("{name}:{}", index + 1);
            between_backticks(line).map(move |line| Named { place: place.clone(), line, whole: false })
        });
        lines.collect()
    };
    let count = hold(&["src", "src/document/foreign.txt", "src/document/foreign_in_templates.txt"], ".rs", by_line);
    assert!(count > 50, "{count} commands");
}

#[test]
fn a_missing_command_or_flag_is_reported() {
    let reported = |line: &str| {
        let page = format!("# A page\n\n```console\n{line}\nnothing\n```\n");
        in_page("page.md", &page).iter().find_map(wrong)
    };
    for good in
        ["$ kpull plan --site . --host h1 | head", "# kpull gc && kpull apply --full", "$ ls kpull sgin", "kpull sgin"]
    {
        assert_eq!(reported(good), None, "{good}");
    }
    let cases = [
        ("$ kpull sgin --key k", "page.md:4: kpull sgin --key k: there is no command `sgin`"),
        ("# kpull sign --kee k", "page.md:4: kpull sign --kee k: `kpull sign` has no --kee"),
        ("$ A=1 kpull fmt; kpull sgin", "page.md:4: kpull sgin: there is no command `sgin`"),
        ("$ true && kpull keys sgin", "page.md:4: kpull keys sgin: there is no command `sgin`"),
        ("$ kpull fmt --chec", "page.md:4: kpull fmt --chec: `kpull fmt` has no --chec"),
        ("$ kpull hold", ""),
        ("$ kpull explain", "page.md:4: kpull explain: error: the following required arguments were not provided:"),
    ];
    for (line, expected) in cases {
        assert_eq!(reported(line).unwrap_or_default(), expected);
    }
    let prose = in_page("page.md", "Say `kpull\nsgin`, or `kpull COMMAND --help`.\n");
    let reported: Vec<String> = prose.iter().filter_map(wrong).collect();
    assert_eq!(reported, ["page.md:2: kpull sgin: there is no command `sgin`"]);
}
