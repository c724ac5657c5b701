//! Finds literals in a site that look like secrets, and should be `{{ secret("NAME") }}`.
//!
//! It looks for secrets by their form (private keys, tokens of well-known services), and for names like `password` with a value that
//! looks like a password or like random characters.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use fancy_regex::Regex;

use crate::document::Files;
use crate::error::{Error, Place, error, starred};
use crate::text::leading;

/// The comment that exempts a line, or the line after it.
const ESCAPE: &str = "kpull: not a secret";

/// A form of secrets: its name in messages, if the pattern has no group `name`; a pattern of the secret as a whole word, or a longer
/// pattern with the secret in the group `secret`; a condition for the group `value`, or the whole secret.
struct Shape(&'static str, &'static str, fn(&str) -> bool);

/// The first match applies, since one finding for each line is enough.
const SHAPES: &[Shape] = &[
    Shape("an age private key", "AGE-SECRET-KEY-1[A-Z0-9]{40,}", |_| true),
    Shape("an AWS access key", "A[KS]IA[A-Z0-9]{16,}", |_| true),
    Shape("a GitHub token", "gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_-]{30,}", |_| true),
    Shape("a GitLab token", "glpat-[A-Za-z0-9_-]{16,}", |_| true),
    Shape("a Slack token", "xox[abeprs]-[A-Za-z0-9_-]{20,}", |_| true),
    Shape("a Google API key", "AIza[A-Za-z0-9_-]{35}", |_| true),
    Shape("a Stripe key", "[rs]k_live_[A-Za-z0-9]{20,}", |_| true),
    Shape("an npm token", "npm_[A-Za-z0-9]{36}", |_| true),
    Shape("a Vault token", r"hvs\.[A-Za-z0-9_-]{24,}", |_| true),
    Shape("a bearer token", "[Bb]earer (?<value>[A-Za-z0-9._~+/=-]{16,})", looks_random),
    // options with USER:PASSWORD
    Shape(
        "a password",
        r#"(?:ETCDCTL_USER|etcdctl.*--user|curl.*(?:--user| -u ))["' =]*(?<secret>[A-Za-z0-9._-]+:(?<value>[^ "'\t,\]]{4,}))"#,
        is_literal,
    ),
    Shape("a password in an address", r#"://(?<secret>[A-Za-z0-9._-]+:(?<value>[^\s/"'?#]{4,}))@"#, is_literal),
    // after the keyword in the configuration of a service, however short
    Shape("", r"(?<![A-Za-z0-9_-])(?<name>auth_pass|requirepass|masterauth)[ \t]+(?<secret>\S+)", is_literal),
    Shape("", r"(?<![A-Za-z0-9_-])(?<name>stats auth)[ \t]+[^\s:]*:(?<secret>\S+)", is_literal),
    // of Kubernetes: six letters and digits, a dot, sixteen more; or the first field of a file of tokens
    Shape(
        "a bootstrap token",
        r"(?<![A-Za-z0-9._-])(?<secret>[a-z0-9]{6}\.(?<value>[a-z0-9]{16}))(?![A-Za-z0-9._-])",
        looks_random,
    ),
    Shape("a bootstrap token", "^[^,]*?(?<secret>[A-Za-z0-9]{16,}),kubelet-bootstrap", looks_random),
];

/// The compiled [`SHAPES`].
static RULES: LazyLock<Vec<(&Shape, Regex)>> = LazyLock::new(|| {
    let compiled = |shape @ Shape(_, pattern, _): &'static Shape| {
        let pattern = match pattern.contains("(?<secret>") {
            true => (*pattern).to_owned(),
            false => format!("(?<![A-Za-z0-9_-])(?<secret>{pattern})(?![A-Za-z0-9_-])"),
        };
        Some((shape, Regex::new(&pattern).ok()?))
    };
    SHAPES.iter().filter_map(compiled).collect()
});

/// A name with a value: a password is always a secret, the value of any other name if it looks random.
static NAME: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let passwords = "(?<password>password|passwd|passphrase)";
    let others = "token|secret|[._-]key|(?:api|secret|access|private)key|credential";
    let sign = r#"["']?\s*[=:]|(?<blank>[ \t])"#;
    Regex::new(&format!("(?i)(?<name>[a-z0-9._-]*(?:{passwords}|{others})s?)(?:{sign})")).ok()
});

/// A private key in PEM that begins in the first line, up to the end of that line if the key has no end.
static PRIVATE_KEY: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let begin = r"\A[^\n]*?(?<secret>-----BEGIN (?<label>[^\n]*?PRIVATE KEY[^\n]*?)-----";
    Regex::new(&format!(r"{begin}(?:(?s:.)*?-----END [^\n]*?-----|[^\n]*))")).ok()
});

/// An error for each literal in the site that looks like a secret. Secrets are redacted in the text that it shows.
pub fn scan(files: &Files) -> Vec<Error> {
    let mut errors = Vec::new();
    for (path, content) in files.iter().filter(|(path, _)| !path.starts_with("secrets/") && !path.starts_with("keys/"))
    {
        let Ok(text) = std::str::from_utf8(content) else { continue };
        let found = findings(text);
        if found.is_empty() {
            continue;
        }
        let pieces: Vec<_> = found.iter().map(|(piece, _)| piece.clone()).collect();
        let hidden: Arc<str> = starred(text, &pieces).into();
        errors.extend(found.into_iter().map(|(span, what)| {
            // of a key, only the first line
            let end = hidden.get(span.clone()).and_then(|shown| shown.find('\n')).map_or(span.end, |length| span.start + length);
            let place = Place { file: path.to_owned(), text: hidden.clone(), span: span.start..end };
            error!(LITERAL, "{what} is in the site, where anyone with access can read it")
                .at(place, "looks like a secret")
                .help(format!(
                    "change the secret, because it may be compromised; then run `kpull secret set NAME`, and write {{{{ secret(\"NAME\") }}}} here. If it is not a secret, end the line with `# {ESCAPE}`"
                ))
        }));
    }
    errors
}

/// What looks like a secret, with its range and name, in the order of the text.
fn findings(text: &str) -> Vec<(Range<usize>, String)> {
    let mut found: Vec<(Range<usize>, String)> = Vec::new();
    let (mut start, mut is_exempt) = (0, false);
    for whole in text.split_inclusive('\n') {
        let line = whole.trim_end_matches(['\n', '\r']);
        let has_escape = line.contains(ESCAPE);
        let is_covered = found.last().is_some_and(|(range, _)| range.end > start);
        if !has_escape && !is_exempt && !is_covered {
            let rest = text.get(start..).unwrap_or_default();
            let finding = private_key(line, rest).or_else(|| assigned(line)).or_else(|| by_form(line));
            found.extend(finding.map(|(range, what)| (range.start + start..range.end + start, what)));
        }
        is_exempt = has_escape && line.trim_start().starts_with(['#', '/', '-', '<', ';']);
        start += whole.len();
    }
    found
}

/// A private key that begins in this line; `text` starts with the line.
fn private_key(line: &str, text: &str) -> Option<(Range<usize>, String)> {
    let found = PRIVATE_KEY.as_ref().filter(|_| line.contains("PRIVATE KEY"))?.captures(text).ok()??;
    let (key, label) = (found.name("secret")?, found.name("label")?);
    // without a body, it is only a mention of the header
    let has_body = key.as_str().contains('\n') || key.as_str().contains("\\n");
    has_body.then(|| (key.range(), format!("a private key ({})", label.as_str())))
}

/// A secret by one of the [`SHAPES`].
fn by_form(line: &str) -> Option<(Range<usize>, String)> {
    RULES.iter().find_map(|(Shape(what, _, is_real), regex)| {
        regex.captures_iter(line).flatten().find_map(|found| {
            let secret = found.name("secret")?;
            let what = found.name("name").map_or((*what).to_owned(), |name| value_of(name.as_str()));
            is_real(found.name("value").unwrap_or(secret).as_str()).then(|| (secret.range(), what))
        })
    })
}

/// A value that is assigned to a name, as `NAME = VALUE`, `NAME: VALUE` or `--NAME VALUE`.
fn assigned(line: &str) -> Option<(Range<usize>, String)> {
    NAME.as_ref()?.captures_iter(line).flatten().find_map(|found| {
        let name = found.name("name")?.as_str();
        let is_option = found.name("blank").is_none() || name.starts_with("--");
        let is_public = ["public", "pub_", "pub-", "pub.", "digest", "fingerprint"]
            .iter()
            .any(|word| name.to_ascii_lowercase().contains(word));
        let behind = line.get(found.get(0)?.end()..)?.trim_start_matches([' ', '\t', '=', '[']);
        let quoted =
            ['"', '\''].into_iter().find_map(|quote| Some(leading(behind.strip_prefix(quote)?, |c| c != quote)));
        let (value, rest) = quoted.unwrap_or_else(|| leading(behind, |c| !" \t,;})\"'".contains(c)));
        let is_secret = match found.name("password") {
            Some(_) => is_password(value, quoted.is_some()),
            None => is_literal(value) && looks_random(value),
        };
        let end = line.len() - rest.len();
        (is_option && !is_public && is_secret).then(|| (end - value.len()..end, value_of(name.trim_start_matches('-'))))
    })
}

fn value_of(name: &str) -> String {
    format!("the value of `{name}`")
}

/// Whether a value is a literal: no expression, no variable, no path to a file with the secret.
fn is_literal(value: &str) -> bool {
    let elsewhere = ["{{", "}}", "${", "$(", "{%", "<", "://"].iter().any(|sign| value.contains(sign))
        || value.starts_with(['/', '.', '~', '$', '%', '@', '&', '*']);
    let public =
        ["ssh-", "ecdsa-", "sk-ssh-", "age1", "sha256:", "SHA256:"].iter().any(|start| value.starts_with(start));
    let is_file = value.rsplit_once('.').is_some_and(|(stem, end)| {
        let known =
            ["pem", "key", "crt", "cert", "json", "toml", "yaml", "yml", "conf", "env", "age", "pub", "txt", "service"];
        !stem.is_empty() && known.contains(&end)
    });
    !elsewhere && !public && !is_file && (!value.contains('/') || looks_random(value))
}

fn is_password(value: &str, quoted: bool) -> bool {
    let many = value.chars().any(|c| !c.is_ascii_alphabetic() && c != '_' && c != '-');
    let words = "required disabled enabled prompt optional sufficient requisite without-password prohibit-password";
    value.len() >= 6
        && is_literal(value)
        && !value.contains(char::is_whitespace)
        && !value.contains(['(', ')'])
        && !words.split(' ').any(|word| word == value)
        && (quoted || many)
}

/// Whether a text looks like encoded random bytes rather than words.
fn looks_random(text: &str) -> bool {
    let is_part = |part: &str| {
        let has = |of: fn(&char) -> bool| part.chars().filter(of).count();
        part.len() >= 8 && has(char::is_ascii_digit) >= 2 && has(char::is_ascii_alphabetic) >= 2
    };
    text.len() >= 16
        && !text.contains(char::is_whitespace)
        && text.bytes().collect::<HashSet<_>>().len() >= 8
        && text.split(|c: char| !c.is_ascii_alphanumeric()).any(is_part)
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
                (
                    error.place().unwrap().to_string(),
                    error.to_string().split(" is in the site").next().unwrap().to_owned(),
                )
            })
            .collect()
    }

    #[test]
    fn what_is_a_secret_by_its_form_is_found_where_it_is() {
        let age = format!("x = \"AGE-SECRET-KEY-1{}\"", "QPZRY9X8".repeat(7));
        for (text, secret, what) in [
            (age.as_str(), "AGE-", "an age private key"),
            ("key = 'AKIAIOSFODNN7EXAMPLE'", "AKIA", "an AWS access key"),
            ("x ghs_16C7e42F292c6912E7710c838347Ae178B4a y", "ghs_", "a GitHub token"),
            ("x = 'github_pat_11ABCDEFG0abcdefghijkl_mnopqrstuvwxyz'", "github_pat_", "a GitHub token"),
            ("x = 'glpat-aBcDeFgHiJkLmNoPqRsT'", "glpat-", "a GitLab token"),
            ("x = 'xoxb-123456789012-abcdefghijkl'", "xoxb-", "a Slack token"),
            ("x = 'AIzaSyA1234567890abcdefghijklmnopqrstuv'", "AIza", "a Google API key"),
            ("x = 'sk_live_4eC39HqLyjWDarjtT1zdp7dc'", "sk_live_", "a Stripe key"),
            ("x = 'npm_0123456789abcdefghijklmnopqrstuvwxyz'", "npm_", "an npm token"),
            ("x = 'hvs.CAESIJ1234567890abcdefghijklmnop'", "hvs.", "a Vault token"),
            ("curl -s --user me:Tr0ub4dor https://x", "me:", "a password"),
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
            "my-glpat-aBcDeFgHiJkLmNoPqRsT",
            "AKIAIOSFODNN7EXAMPLEs",
            "my_auth_pass hunter2",
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
