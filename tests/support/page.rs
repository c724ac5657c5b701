//! A page of the manual whose commands are run, and whose output is what they print.

use std::fs;
use std::path::Path;

use regex::Regex;

/// Where the commands of a page run.
pub trait World {
    /// Runs a command; what it printed.
    fn run(&mut self, prompt: &str, command: &str) -> String;

    /// Writes a file that the page shows, by the path in its first line.
    fn write(&mut self, path: &str, text: &str);

    /// What the page shows in place of what differs each time.
    fn real(&mut self) -> &mut Vec<(&'static str, String)>;
}

/// Runs all commands and writes all files of a page, and compares it with their output; with `KPULL_BLESS`, writes the page anew. The
/// page with this output.
pub fn run(path: &str, prompts: &[&str], world: &mut impl World) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/src/usage").join(path);
    let page = fs::read_to_string(&path).unwrap();
    let mut made = String::new();
    let mut lines = page.lines().peekable();
    while let Some(line) = lines.next() {
        made.push_str(line);
        made.push('\n');
        let Some(kind) = line.strip_prefix("```").filter(|kind| !kind.is_empty()) else { continue };
        let mut block = Vec::new();
        while let Some(line) = lines.next_if(|line| *line != "```") {
            block.push(line);
        }
        if kind == "console" {
            let commands = block.iter().filter_map(|line| line.split_once(' '));
            for (prompt, command) in commands.filter(|(prompt, _)| prompts.contains(prompt)) {
                let real = with_real(command, world.real());
                let text = world.run(prompt, &real);
                let shown = world.real().iter().fold(text, |text, (shown, real)| text.replace(real, shown));
                made.push_str(&format!("{prompt} {command}\n"));
                made.extend(same_each_time(&shown).lines().flat_map(|line| [line, "\n"]));
            }
        } else {
            let path = block[0].trim_start_matches(['#', '<', '!', '-', ' ']).trim_end_matches([' ', '-', '>']);
            let is_comment_of_page = block[0].starts_with("<!--");
            let text = format!("{}\n", block[usize::from(is_comment_of_page)..].join("\n"));
            let text = with_real(&text, world.real());
            world.write(path, &text);
            made.extend(block.iter().flat_map(|line| [line, "\n"]));
        }
    }
    if std::env::var_os("KPULL_BLESS").is_some() {
        fs::write(&path, &made).unwrap();
    }
    assert!(page == made, "KPULL_BLESS=1 writes the page anew\n{}", differences(&page, &made));
    made
}

fn with_real(text: &str, real: &[(&'static str, String)]) -> String {
    real.iter().fold(text.to_owned(), |text, (shown, real)| text.replace(shown, real))
}

/// Removes what differs each time: times, durations and ages.
fn same_each_time(text: &str) -> String {
    let rules = [
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "2026-11-27T20:00:00Z"),
        // a process's number is longer or shorter, and the line broken elsewhere
        (
            r"(?s)\S+ \S+ \[emerg\] .{0,120}?shop\.conf:\d",
            "[emerg] unexpected end of file in /etc/nginx/conf.d/shop.conf:2",
        ),
        (r"\b\d+\.\d\d s\b", "0.05 s"),
        (r"\b\d+ (s|min) ago\b", "1 s ago"),
        (r"in \d+ (s|min)\b", "in 40 s"),
        (r"SHA256:[A-Za-z0-9+/]{43}", "SHA256:KEY"),
        (r"\(\d+ bytes\)", "(4000 bytes)"),
        (r"[ \t]+\n", "\n"),
    ];
    let text = rules
        .iter()
        .fold(text.to_owned(), |text, (rule, same)| Regex::new(rule).unwrap().replace_all(&text, *same).into_owned());
    text.trim_end().to_owned()
}

/// The page as it is, and as the commands make it.
fn differences(page: &str, made: &str) -> String {
    similar::TextDiff::from_lines(page, made).unified_diff().header("the page", "its commands").to_string()
}
