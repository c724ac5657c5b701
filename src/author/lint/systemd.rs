//! Parses unit files for lints: settings, lists of names, command lines.

use crate::host::unit_files::logical_lines;
use crate::text::leading;

/// The settings of a unit with its drop-ins: section, key and value.
#[derive(Debug, Default)]
pub struct UnitText(Vec<(String, String, String)>);

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
        let mut settings: Vec<(String, String, String)> = Vec::new();
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
                        settings.retain(|(other, name, _)| *other != section || name != key);
                    } else {
                        settings.push((section.clone(), key.to_owned(), value.to_owned()));
                    }
                }
            }
        }
        Self(settings)
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
            .flat_map(split)
            .filter_map(command)
            .collect()
    }

    fn values(&self, section: &str, key: &str) -> impl Iterator<Item = &str> {
        let found = self.0.iter().filter(move |(within, name, _)| within == section && name == key);
        found.map(|(.., value)| value.as_str())
    }
}

/// A command by its unquoted words.
fn command(words: Vec<String>) -> Option<Command> {
    let mut words = words.iter();
    let (prefix, program) = leading(words.next()?, |c| matches!(c, '@' | '-' | ':' | '+' | '!' | '|'));
    if prefix.contains('@') {
        // argv[0]
        words.next();
    }
    let plain = |word: &String| {
        let word = word.replace("%%", "%");
        if prefix.contains(':') { word } else { word.replace("$$", "$") }
    };
    let arguments = words.map(plain).collect();
    Some(Command { program: program.replace("%%", "%"), arguments, may_fail: prefix.contains('-') })
}

/// Splits a line into commands, which lone semicolons separate, and these into unquoted words, like systemd.
fn split(line: &str) -> Vec<Vec<String>> {
    let (mut commands, mut words) = (Vec::new(), Vec::new());
    let mut word: Option<String> = None;
    let (mut quote, mut is_unquoted) = (None, true);
    let mut rest = line.chars();
    let mut end = |word: Option<String>, is_unquoted: bool| match word {
        Some(word) if is_unquoted && word == ";" => commands.push(std::mem::take(&mut words)),
        word => words.extend(word),
    };
    while let Some(c) = rest.next() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => {
                (quote, is_unquoted) = (Some(c), false);
                word.get_or_insert_default();
            }
            ('\\', _) => {
                is_unquoted = false;
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
                end(word.take(), is_unquoted);
                is_unquoted = true;
            }
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    end(word, is_unquoted);
    commands.push(words);
    commands
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
