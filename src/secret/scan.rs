//! Literals in a site that look like secrets: what should have been `{{ secret("NAME") }}`.
//!
//! It looks for what is a secret by its form (private keys, tokens of well-known services), and for names like `password`
//! that are given a value which looks made up by a machine, or by somebody who was asked for a password.

use std::ops::Range;
use std::sync::Arc;

use crate::document::Files;
use crate::error::{Error, Place, code};
use crate::text::{around, leading, trailing};

/// What takes a line, or the one after it, out of the search.
const ESCAPE: &str = "kpull: not a secret";

/// An error for each literal in the site that looks like a secret. What it shows of the file has no secret in it.
pub fn scan(files: &Files) -> Vec<Error> {
    let mut errors = Vec::new();
    for (path, content) in files.iter().filter(|(path, _)| !path.starts_with("secrets/") && !path.starts_with("keys/"))
    {
        let Ok(text) = std::str::from_utf8(content) else { continue };
        let found = findings(text);
        if found.is_empty() {
            continue;
        }
        let hidden: Arc<str> = hide(text, found.iter().map(|(range, _)| range)).into();
        errors.extend(found.into_iter().map(|(span, what)| {
            // a key is many lines, and its first one says what it is
            let end = hidden.get(span.clone()).and_then(|shown| shown.find('\n')).map_or(span.end, |length| span.start + length);
            let place = Place { file: path.to_owned(), text: hidden.clone(), span: span.start..end };
            Error::new(code::LITERAL, format!("{what} stands in the site, for whoever can read it"))
                .at(place, "looks like a secret")
                .help(format!(
                    "change it, since it may be known by now; then `kpull secret set NAME`, and write {{{{ secret(\"NAME\") }}}} here. If it is none, end the line with `# {ESCAPE}`"
                ))
        }));
    }
    errors
}

/// The text with `*` for what was found; as long as before.
fn hide<'a>(text: &str, ranges: impl Iterator<Item = &'a Range<usize>>) -> String {
    let ranges: Vec<_> = ranges.collect();
    let is_found = |at: usize| ranges.iter().any(|range| range.contains(&at));
    text.char_indices()
        .map(|(at, c)| if c != '\n' && is_found(at) { "*".repeat(c.len_utf8()) } else { c.to_string() })
        .collect()
}

/// What looks like a secret, where, and what it is called; in the order of the text.
fn findings(text: &str) -> Vec<(Range<usize>, String)> {
    let mut found = Vec::new();
    let (mut start, mut escaped_before, mut covered) = (0, false, 0);
    for whole in text.split_inclusive('\n') {
        let line = whole.trim_end_matches(['\n', '\r']);
        let escaped = line.contains(ESCAPE);
        let in_line = || in_line(line).map(|(range, what)| (range.start + start..range.end + start, what));
        let looked_at = !escaped && !escaped_before && start >= covered;
        if let Some((range, what)) = looked_at.then(|| key_block(text, start, line).or_else(in_line)).flatten() {
            covered = range.end;
            found.push((range, what));
        }
        escaped_before = escaped && line.trim_start().starts_with(['#', '/', '-', '<', ';']);
        start += whole.len();
    }
    found
}

/// A private key in PEM that starts in this line, to its end.
fn key_block(text: &str, start: usize, line: &str) -> Option<(Range<usize>, String)> {
    let (before, behind) = line.split_once("-----BEGIN ")?;
    let (label, _) = behind.split_once("-----").filter(|(label, _)| label.contains("PRIVATE KEY"))?;
    let start = start + before.len();
    let rest = text.get(start..)?;
    let length = rest.split_once("-----END ").map_or(line.len() - before.len(), |(body, end)| {
        body.len() + end.split_once("-----").map_or(0, |(label, _)| "-----END -----".len() + label.len())
    });
    // only the words, as in a check whether a file is one
    let block = rest.get(..length)?;
    let body = block.lines().skip(1).count() > 0 || block.contains("\\n");
    body.then(|| (start..start + length, format!("a private key ({label})")))
}

fn in_line(line: &str) -> Option<(Range<usize>, String)> {
    known_form(line)
        .or_else(|| user_password(line))
        .or_else(|| directive(line))
        .or_else(|| assigned(line))
        .or_else(|| bootstrap_token(line))
}

/// A token of Kubernetes: six letters and digits, a dot, sixteen more; or the first field of a file of tokens.
fn bootstrap_token(line: &str) -> Option<(Range<usize>, String)> {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_joined = |c: char| is_word(c) || c == '.';
    let what = "a bootstrap token";
    let dotted = around(line, ".").find_map(|(before, behind)| {
        let ((before, first), (second, behind)) = (trailing(before, is_part), leading(behind, is_part));
        let alone = !before.ends_with(is_joined) && !behind.starts_with(is_joined);
        let is_token = alone && first.len() == 6 && second.len() == 16 && looks_random(second);
        is_token.then(|| before.len()..line.len() - behind.len())
    });
    if let Some(range) = dotted {
        return Some((range, what.to_owned()));
    }
    let (field, user) = line.split_once(',')?;
    let (before, token) = trailing(field, |c| c.is_ascii_alphanumeric());
    let is_token = token.len() >= 16 && looks_random(token) && user.starts_with("kubelet-bootstrap");
    is_token.then(|| (before.len()..field.len(), what.to_owned()))
}

/// A password behind a word that a service's configuration has for it, however short it is.
fn directive(line: &str) -> Option<(Range<usize>, String)> {
    let words = ["auth_pass", "stats auth", "requirepass", "masterauth"];
    words.into_iter().find_map(|word| {
        let (_, behind) = line.split_once(word).filter(|(before, _)| !before.ends_with(is_word))?;
        let (blank, value) = leading(behind, |c| matches!(c, ' ' | '\t'));
        let (value, rest) = leading(value, |c| !c.is_whitespace());
        // of USER:PASSWORD only the second is one
        let value = if word == "stats auth" { value.split_once(':')?.1 } else { value };
        let is_secret = !blank.is_empty() && !value.is_empty() && is_literal(value);
        is_secret.then(|| (before_rest(line, value, rest), format!("the value of `{word}`")))
    })
}

/// Where in a line a value stands that only `rest` comes behind.
fn before_rest(line: &str, value: &str, rest: &str) -> Range<usize> {
    let end = line.len() - rest.len();
    end - value.len()..end
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

/// A token that is known by how it starts.
fn known_form(line: &str) -> Option<(Range<usize>, String)> {
    type Known = (&'static str, usize, fn(char) -> bool, &'static str);
    let upper = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit();
    let known: [Known; 10] = [
        ("AGE-SECRET-KEY-1", 40, upper, "an age private key"),
        ("AKIA", 16, upper, "an AWS access key"),
        ("ASIA", 16, upper, "an AWS access key"),
        ("ghp_", 30, |c| c.is_ascii_alphanumeric(), "a GitHub token"),
        ("github_pat_", 30, is_word, "a GitHub token"),
        ("glpat-", 16, is_word, "a GitLab token"),
        ("xoxb-", 20, is_word, "a Slack token"),
        ("xoxp-", 20, is_word, "a Slack token"),
        ("Bearer ", 16, |c| is_word(c) || "._~+/=".contains(c), "a bearer token"),
        ("bearer ", 16, |c| is_word(c) || "._~+/=".contains(c), "a bearer token"),
    ];
    known.into_iter().find_map(|(start, least, is_part, what)| {
        around(line, start).find_map(|(before, behind)| {
            let (tail, rest) = leading(behind, is_part);
            let alone = !before.ends_with(is_word) && !rest.starts_with(is_word);
            let made_up = !start.ends_with(' ') || looks_random(tail);
            (alone && tail.len() >= least && made_up).then(|| (before.len()..line.len() - rest.len(), what.to_owned()))
        })
    })
}

/// `USER:PASSWORD` where a program takes one: an address, etcdctl, curl.
fn user_password(line: &str) -> Option<(Range<usize>, String)> {
    let is_pair = |text: &str| {
        text.split_once(':').is_some_and(|(user, password)| {
            !user.is_empty()
                && password.len() >= 4
                && user.chars().all(|c| is_word(c) || c == '.')
                && is_literal(password)
        })
    };
    let options = [("ETCDCTL_USER", "ETCDCTL_USER"), ("etcdctl", "--user"), ("curl", "--user"), ("curl", " -u ")];
    for (program, option) in options {
        if let Some((_, behind)) = line.split_once(option).filter(|_| line.contains(program)) {
            let value = behind.trim_start_matches(['"', '\'', ' ', '=']);
            let (value, rest) = leading(value, |c| !matches!(c, ' ' | '"' | '\'' | '\t' | ',' | ']'));
            if is_pair(value) {
                return Some((before_rest(line, value, rest), "a password".to_owned()));
            }
        }
    }
    around(line, "://").find_map(|(_, behind)| {
        let (authority, _) = leading(behind, |c| !c.is_whitespace() && !"/\"'?#".contains(c));
        let (pair, _) = authority.rsplit_once('@').filter(|(pair, _)| is_pair(pair))?;
        let start = line.len() - behind.len();
        Some((start..start + pair.len(), "a password in an address".to_owned()))
    })
}

/// How sure a name makes one that its value is a secret.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Name {
    /// `password`: whatever it is.
    Password,
    /// `token`, `secret`, `api_key`: if it looks made up by a machine.
    Key,
}

fn name_of(word: &str) -> Option<Name> {
    let word = word.to_ascii_lowercase().replace(['-', '.'], "_");
    let ends = |ends: &[&str]| {
        ends.iter().any(|end| word.ends_with(end) || word.strip_suffix('s').is_some_and(|word| word.ends_with(end)))
    };
    if word.contains("public") || word.contains("pub_") || word.contains("digest") || word.contains("fingerprint") {
        return None;
    }
    if ends(&["password", "passwd", "passphrase"]) {
        return Some(Name::Password);
    }
    ends(&["token", "secret", "_key", "apikey", "secretkey", "accesskey", "privatekey", "credential"])
        .then_some(Name::Key)
}

/// A value that is given to a name, as `NAME = VALUE`, `NAME: VALUE` or `--NAME VALUE`.
fn assigned(line: &str) -> Option<(Range<usize>, String)> {
    for (at, sign) in line.char_indices().filter(|(_, c)| matches!(c, '=' | ':' | ' ')) {
        let (before, behind) = line.split_at_checked(at)?;
        let before = before.trim_end();
        let (_, word) = trailing(before.strip_suffix(['"', '\'']).unwrap_or(before), |c| is_word(c) || c == '.');
        if sign == ' ' && !word.starts_with("--") {
            continue;
        }
        let Some(name) = name_of(word) else { continue };
        let tail = behind.strip_prefix(sign)?.trim_start_matches([' ', '\t', '=', '[']);
        let quoted = ['"', '\''].into_iter().find_map(|quote| Some((quote, tail.strip_prefix(quote)?)));
        let (value, rest) = match quoted {
            Some((quote, tail)) => leading(tail, |c| c != quote),
            None => leading(tail, |c| !matches!(c, ' ' | '\t' | ',' | ';' | '}' | ')' | '"' | '\'')),
        };
        let is_secret = match name {
            Name::Password => is_password(value, quoted.is_some()),
            Name::Key => is_literal(value) && looks_random(value),
        };
        if is_secret {
            let what = format!("the value of `{}`", word.trim_start_matches('-'));
            return Some((before_rest(line, value, rest), what));
        }
    }
    None
}

/// Whether it is there as it is: no expression, no variable, no place where the secret would be.
fn is_literal(value: &str) -> bool {
    let elsewhere = ["{{", "}}", "${", "$(", "{%", "<"].iter().any(|mark| value.contains(mark))
        || value.starts_with(['/', '.', '~', '$', '%', '@', '&', '*'])
        || value.contains("://");
    let public =
        ["ssh-", "ecdsa-", "sk-ssh-", "age1", "sha256:", "SHA256:"].iter().any(|start| value.starts_with(start));
    let is_file = value.rsplit_once('.').is_some_and(|(stem, end)| {
        let known =
            ["pem", "key", "crt", "cert", "json", "toml", "yaml", "yml", "conf", "env", "age", "pub", "txt", "service"];
        !stem.is_empty() && known.contains(&end)
    });
    !elsewhere && !public && !is_file && !value.contains('/') | looks_random(value)
}

fn is_password(value: &str, quoted: bool) -> bool {
    let many = value.chars().any(|c| !c.is_ascii_alphabetic() && c != '_' && c != '-');
    let words = [
        "required",
        "disabled",
        "enabled",
        "prompt",
        "optional",
        "sufficient",
        "requisite",
        "without-password",
        "prohibit-password",
    ];
    value.len() >= 6
        && is_literal(value)
        && !value.contains(char::is_whitespace)
        && !value.contains(['(', ')'])
        && !words.contains(&value)
        && (quoted || many)
}

/// Whether a text looks like random bytes written as text, and not like words.
fn looks_random(text: &str) -> bool {
    let is_part = |part: &str| {
        let has = |of: fn(&char) -> bool| part.chars().filter(of).count();
        let (digits, letters) = (has(char::is_ascii_digit), has(char::is_ascii_alphabetic));
        part.len() >= 8 && digits >= 2 && letters >= 2
    };
    text.len() >= 16
        && !text.contains(char::is_whitespace)
        && entropy(text) >= 3.0
        && text.split(|c: char| !c.is_ascii_alphanumeric()).any(is_part)
}

/// Shannon's, in bits a byte.
fn entropy(text: &str) -> f64 {
    let mut counts = [0_u32; 256];
    text.bytes().for_each(|byte| counts[usize::from(byte)] += 1);
    #[allow(clippy::cast_precision_loss, reason = "a line of a text is short")]
    let length = text.len() as f64;
    counts
        .iter()
        .filter(|&&count| count > 0)
        .map(|&count| f64::from(count) / length)
        .map(|share| -share * share.log2())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found in a text, as (place, what it is called, what is hidden).
    fn found(text: &str) -> Vec<(String, String)> {
        let files: Files = [("roles/r/role.toml".to_owned(), text.as_bytes().into())].into_iter().collect();
        let errors = scan(&files);
        errors
            .iter()
            .map(|error| {
                (error.place().unwrap().to_string(), error.to_string().split(" stands in").next().unwrap().to_owned())
            })
            .collect()
    }

    #[test]
    fn what_is_a_secret_by_its_form_is_found_where_it_is() {
        let age = format!("x = \"AGE-SECRET-KEY-1{}\"", "QPZRY9X8".repeat(7));
        for (text, secret, what) in [
            (age.as_str(), "AGE-", "an age private key"),
            ("key = 'AKIAIOSFODNN7EXAMPLE'", "AKIA", "an AWS access key"),
            ("Authorization: Bearer 9f86d081884c7d659a2feaa0c55ad015", "Bearer", "a bearer token"),
            ("ExecStart=/bin/etcdctl --user root:Tr0ub4dor get x", "root:", "a password"),
            ("Environment=ETCDCTL_USER=root:Tr0ub4dor", "root:", "a password"),
            ("url = \"https://me:Tr0ub4dor@example.org/\"", "me:", "a password in an address"),
            ("db_password = \"hunter2\"", "hunter2", "the value of `db_password`"),
            ("PGPASSWORD=hunter2", "hunter2", "the value of `PGPASSWORD`"),
            ("env = { PGPASSWORD = \"correcthorse\" }", "correct", "the value of `PGPASSWORD`"),
            ("{\"token\": \"9f86d081884c7d659a2feaa0c55ad015\"}", "9f86", "the value of `token`"),
            ("token: abcdef.0123456789abcdef", "abcdef.", "the value of `token`"),
            ("run = ['x', '--token 9f86d081884c7d659a2f']", "9f86", "the value of `token`"),
            ("encryption_key = \"c2VjcmV0IGtleSBmb3IgZXRjZCAxMjM0NTY=\"", "c2V", "the value of `encryption_key`"),
            ("tokens = [\"9f86d081884c7d659a2feaa0c55ad015\"]", "9f86", "the value of `tokens`"),
            ("    auth_pass 1066", "1066", "the value of `auth_pass`"),
            ("    stats auth Admin:Password", "Password", "the value of `stats auth`"),
            ("requirepass hunter2", "hunter2", "the value of `requirepass`"),
            ("kubeadm join --x c5a2c5.81f2d3b4a59687e0", "c5a2c5", "a bootstrap token"),
            ("8981b594122ebed7596f1d3b69c78223,kubelet-bootstrap,10001,\"g\"", "8981", "a bootstrap token"),
            ("export BOOTSTRAP_TOKEN=\"8981b594122ebed7596f1d3b69c78223\"", "8981", "the value of `BOOTSTRAP_TOKEN`"),
        ] {
            let place = format!("roles/r/role.toml:1:{}", text.find(secret).unwrap() + 1);
            assert_eq!(found(text), [(place, what.to_owned())], "{text}");
        }
    }

    #[test]
    fn what_is_none_is_left_alone() {
        for text in [
            "password = \"{{ secret('db') }}\"",
            "password = \"${DB_PASSWORD}\"",
            "db_password_file = \"/run/credentials/app.service/db\"",
            "tls_key = \"/etc/etcd/pki/server.key\"",
            "client_key = \"server-1234567890ab.key\"",
            "cluster_token = \"k8s-etcd-cluster-2024\"",
            "host_key = \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB1234\"",
            "recipient = \"age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p\"",
            "sha256 = \"9f86d081884c7d659a2feaa0c55ad0159f86d081884c7d659a2feaa0c55ad015\"",
            "public_key = \"9f86d081884c7d659a2feaa0c55ad015\"",
            "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
            "grep -q -- '-----BEGIN PRIVATE KEY-----' file",
            "password: the one that you were given",
            "auth required pam_unix.so password",
            "token = \"{{ bootstrap_token }}\"",
            "name = \"db-password\"\ncredential = \"db\"",
            "etcdctl --user root:$PASSWORD get x",
            "docker run --user 1000:1000 image",
            "url = \"https://{{ user }}:{{ password }}@example.org\"",
            "Authorization: Bearer {{ secret('token') }}",
            "PasswordAuthentication no",
            "auth_pass {{ secret('vrrp') }}",
            "auth_type PASS",
            "stats auth {{ user }}:{{ secret('stats') }}",
            "stats auth admin:$PASSWORD",
            "{{ token }},kubelet-bootstrap,10001,\"g\"",
            "image = 'libfoo.1234567890abcdef.so'",
            "abcdef.configurationname",
            "monkey = \"9f86d081884c7d659a2feaa0c55ad015\"",
        ] {
            assert_eq!(found(text), [], "{text}");
        }
    }

    #[test]
    fn what_stands_beside_letters_of_any_language_is_found_and_the_letters_are_none() {
        for (text, secret, what) in [
            ("# für → db_password = 'hunter2'", "hunter2", "the value of `db_password`"),
            ("\u{feff}db_password = 'hünter2'", "hünter2", "the value of `db_password`"),
            ("ü https://me:Trübadour@example.org/ü", "me:", "a password in an address"),
            ("—abcdef.0123456789abcdef—", "abcdef.", "a bootstrap token"),
            ("→8981b594122ebed7596f1d3b69c78223,kubelet-bootstrap", "8981", "a bootstrap token"),
            ("ü\tauth_pass ü1066", "ü1066", "the value of `auth_pass`"),
        ] {
            let column = text.split(secret).next().unwrap().chars().count() + 1;
            assert_eq!(found(text), [(format!("roles/r/role.toml:1:{column}"), what.to_owned())], "{text}");
        }
        for text in [
            "# für alle",
            "# für alle: x",
            "a — b = c",
            "x→=y",
            "\u{feff}address = '10.0.0.1'",
            "ü.ü,ü",
            "key=ü",
            "--ü ü",
        ] {
            assert_eq!(found(text), [], "{text}");
        }
    }

    #[test]
    fn a_private_key_is_one_finding_and_nothing_of_it_is_shown() {
        let text = "[[file]]\ncontent = '''\n-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\n-----END OPENSSH PRIVATE KEY-----\n'''\npassword = 'hunter2'\n";
        let found = found(text);
        assert_eq!(found[0], ("roles/r/role.toml:3:1".to_owned(), "a private key (OPENSSH PRIVATE KEY)".to_owned()));
        assert_eq!(found[1].0, "roles/r/role.toml:7:13");
        assert_eq!(found.len(), 2);
        let files: Files = [("site.toml".to_owned(), text.as_bytes().into())].into_iter().collect();
        for error in scan(&files) {
            let shown = format!("{:?}", miette::Report::new(error));
            assert!(!shown.contains("hunter2") && !shown.contains("b3Blbn"), "{shown}");
        }
    }

    #[test]
    fn a_comment_takes_its_line_out_or_the_one_after_it() {
        assert_eq!(found("password = 'hunter2' # kpull: not a secret\n"), []);
        assert_eq!(found("# kpull: not a secret\npassword = 'hunter2'\n"), []);
        assert_eq!(found("a = 1 # kpull: not a secret\npassword = 'hunter2'\n").len(), 1);
    }

    #[test]
    fn the_shipped_site_has_none() {
        let site = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let errors = scan(&Files::in_directory(site).unwrap());
        assert!(errors.is_empty(), "{errors:?}");
    }
}
