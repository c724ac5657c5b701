//! Parses unit files for lints: settings, lists of names, command lines.

use crate::host::unit_files::logical_lines;
use crate::text::leading;

/// The settings of a unit with its drop-ins.
#[derive(Debug, Default)]
pub struct UnitText {
    settings: Vec<Setting>,
}

#[derive(Debug)]
struct Setting {
    section: String,
    key: String,
    value: String,
}

/// One command line of a unit.
#[derive(Debug, PartialEq, Eq)]
pub struct Command {
    /// The program as written.
    pub program: String,
    /// Its arguments after unquoting; variables and specifiers are not expanded.
    pub arguments: Vec<String>,
    /// Whether systemd ignores its failure or absence: a `-` before it.
    pub may_fail: bool,
}

impl UnitText {
    /// Reads a unit's file and its drop-ins, in systemd's order.
    pub fn parse<'a>(texts: impl Iterator<Item = &'a str>) -> Self {
        let mut settings: Vec<Setting> = Vec::new();
        for text in texts {
            let mut section = String::new();
            for (_, line) in logical_lines(text) {
                let line = line.trim_end();
                if let Some(name) = line.strip_prefix('[') {
                    section = name.trim_end_matches(']').to_owned();
                } else if let Some((key, value)) = line.split_once('=') {
                    let (key, value) = (key.trim(), value.trim());
                    // an empty value resets a setting, except dependencies
                    if value.is_empty() && section != "Unit" {
                        settings.retain(|before| before.section != section || before.key != key);
                    } else {
                        settings.push(Setting {
                            section: section.clone(),
                            key: key.to_owned(),
                            value: value.to_owned(),
                        });
                    }
                }
            }
        }
        Self { settings }
    }

    /// The words of a list setting.
    pub fn words(&self, section: &str, key: &str) -> impl Iterator<Item = &str> {
        self.values(section, key).flat_map(str::split_whitespace).map(|word| word.trim_matches(['"', '\'']))
    }

    /// The command lines of a setting like `ExecStart=`.
    pub fn commands(&self, key: &str) -> Vec<Command> {
        ["Service", "Socket", "Mount", "Swap"]
            .iter()
            .flat_map(|section| self.values(section, key))
            .flat_map(commands)
            .collect()
    }

    fn values(&self, section: &str, key: &str) -> impl Iterator<Item = &str> {
        let is_meant = move |setting: &&Setting| setting.section == section && setting.key == key;
        self.settings.iter().filter(is_meant).map(|setting| setting.value.as_str())
    }
}

/// The commands in one line, separated by lone semicolons.
fn commands(line: &str) -> Vec<Command> {
    let words = split(line);
    words.split(|word| word == &Word::Separator).filter_map(command).collect()
}

/// An unquoted word of a command line.
#[derive(Debug, PartialEq, Eq)]
enum Word {
    Text(String),
    /// A lone semicolon.
    Separator,
}

fn command(words: &[Word]) -> Option<Command> {
    let mut words = words.iter().filter_map(|word| match word {
        Word::Text(text) => Some(text.as_str()),
        Word::Separator => None,
    });
    let first = words.next()?;
    let (prefix, program) = leading(first, |c| matches!(c, '@' | '-' | ':' | '+' | '!' | '|'));
    if prefix.contains('@') {
        // argv[0]
        words.next();
    }
    let plain = |word: &str| {
        let word = word.replace("%%", "%");
        if prefix.contains(':') { word } else { word.replace("$$", "$") }
    };
    let arguments = words.map(plain).collect();
    Some(Command { program: program.replace("%%", "%"), arguments, may_fail: prefix.contains('-') })
}

/// Splits a command line like systemd.
fn split(line: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let (mut quote, mut is_bare) = (None, true);
    let mut rest = line.chars().peekable();
    let end = |word: &mut Option<String>, is_bare: bool| {
        word.take().map(|word| if is_bare && word == ";" { Word::Separator } else { Word::Text(word) })
    };
    while let Some(c) = rest.next() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => {
                (quote, is_bare) = (Some(c), false);
                word.get_or_insert_default();
            }
            ('\\', _) => {
                is_bare = false;
                let word = word.get_or_insert_default();
                match rest.next() {
                    Some('n') => word.push('\n'),
                    Some('t') => word.push('\t'),
                    Some('s') => word.push(' '),
                    Some(c @ ('\\' | '"' | '\'' | ';')) => word.push(c),
                    Some(other) => word.extend(['\\', other]),
                    None => {}
                }
            }
            (c, None) if c.is_whitespace() => {
                words.extend(end(&mut word, is_bare));
                is_bare = true;
            }
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(end(&mut word, is_bare));
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(texts: &[&str]) -> UnitText {
        UnitText::parse(texts.iter().copied())
    }

    fn start(line: &str) -> Vec<(String, Vec<String>)> {
        let commands = unit(&[&format!("[Service]\nExecStart={line}\n")]).commands("ExecStart");
        commands.into_iter().map(|command| (command.program, command.arguments)).collect()
    }

    #[test]
    fn a_command_line_is_split_as_systemd_splits_it() {
        for (line, program, arguments) in [
            ("/bin/a --x=1 \\\n  # a comment\n  \"--y=a b\" \\\n  '--z'", "/bin/a", vec!["--x=1", "--y=a b", "--z"]),
            ("/bin/a \"a\\\"b\\\\c\" d\\se", "/bin/a", vec!["a\"b\\c", "d e"]),
            ("/bin/a 100%% $$HOME $HOME", "/bin/a", vec!["100%", "$HOME", "$HOME"]),
            ("-:/bin/a $$HOME", "/bin/a", vec!["$$HOME"]),
            ("+@/bin/a b c", "/bin/a", vec!["c"]),
            ("/bin/a --x=\"b c\"", "/bin/a", vec!["--x=b c"]),
            ("/bin/a \"\"", "/bin/a", vec![""]),
            ("/bin/a \\; ';'", "/bin/a", vec![";", ";"]),
        ] {
            let arguments = arguments.into_iter().map(str::to_owned).collect();
            assert_eq!(start(line), [(program.to_owned(), arguments)], "{line}");
        }
        assert_eq!(start("/bin/a b ; /bin/c").len(), 2);
        assert_eq!(start(""), []);
    }

    #[test]
    fn a_drop_in_adds_and_an_empty_value_takes_back() {
        let texts = [
            "[Unit]\nAfter=a.service b.service\n[Service]\nExecStart=/bin/a\n",
            "[Service]\nExecStart=\nExecStart=/bin/b\n[Unit]\nAfter=c.service",
        ];
        let text = unit(&texts);
        assert_eq!(text.words("Unit", "After").collect::<Vec<_>>(), ["a.service", "b.service", "c.service"]);
        assert_eq!(
            text.commands("ExecStart").iter().map(|command| command.program.as_str()).collect::<Vec<_>>(),
            ["/bin/b"]
        );
        assert_eq!(text.words("Install", "After").count(), 0);
    }
}
