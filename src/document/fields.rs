//! Types that fields of several kinds share: modes, paths, durations. Each refuses invalid values.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::de::{self, DeserializeOwned, Deserializer, Visitor};
use serde::{Deserialize, forward_to_deserialize_any};

use crate::text::from_text;

/// An absolute path without `.`, `..` or a slash at its end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
pub struct AbsolutePath(PathBuf);

from_text!(AbsolutePath, |text| {
    let path = Path::new(&text);
    // PATH_MAX includes the terminating NUL
    if text.len() >= nix::libc::PATH_MAX as usize {
        return Err(format!("a path has at most {} bytes, and this one has {}", nix::libc::PATH_MAX - 1, text.len()));
    }
    if !path.is_absolute() {
        return Err(format!("`{text}` is not an absolute path"));
    }
    let plain: PathBuf = path.components().collect();
    let straight = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !straight || text.contains('\0') || plain.as_os_str() != text.as_str() || text == "/" {
        return Err(format!("`{text}` must be written without `.`, `..`, double slashes or a trailing slash"));
    }
    Ok(Self(plain))
});

impl std::ops::Deref for AbsolutePath {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl AsRef<Path> for AbsolutePath {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl fmt::Display for AbsolutePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

/// Permission bits, written as `"0644"`: a string, since a TOML number would be decimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
pub struct Mode(pub u32);

from_text!(Mode, |text| {
    let octal = matches!(text.len(), 3 | 4) && text.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
    match u32::from_str_radix(&text, 8) {
        Ok(bits) if octal => Ok(Self(bits)),
        _ => Err(format!("`{text}` is not a mode; write it as three or four octal digits, like \"0644\"")),
    }
});

/// The name of a user or group of a host, from its files, its packages or a directory service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
pub struct AccountName(String);

from_text!(AccountName, |text| {
    let reason = if text.is_empty() || text == "." || text == ".." {
        "it is empty"
    } else if text.bytes().all(|digit| digit.is_ascii_digit()) {
        "it is a number; write the name (`getent passwd NUMBER`, `getent group NUMBER`)"
    } else if text.starts_with(['-', '+', '~']) {
        "it begins with `-`, `+` or `~`"
    } else if text.contains(|c: char| matches!(c, ':' | ',' | '/') || c.is_control()) || text.trim() != text {
        "it has `:`, `,`, `/`, a control character, or white space around it"
    } else if text.len() > LONGEST_NAME {
        "it has more than 255 bytes"
    } else {
        return Ok(Self(text));
    };
    Err(format!("`{text}` is not an account name: {reason}"))
});

/// The maximum length of an account name in bytes.
const LONGEST_NAME: usize = 255;

impl AccountName {
    /// The error message if no user or group of this name can be created; `None` if every `useradd` accepts it.
    pub fn why_not_new(&self) -> Option<String> {
        let name = self.0.strip_suffix('$').unwrap_or(&self.0);
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        let is_good = !name.is_empty()
            && name.chars().all(is_plain)
            && !name.bytes().all(|digit| digit.is_ascii_digit())
            && self.0.len() <= 32;
        (!is_good).then(|| {
            format!(
                "`{self}` can't be the name of a new account: it has at most 32 letters (a to z), digits, `_`, `.` and `-`, not only digits, optionally followed by `$`"
            )
        })
    }
}

impl std::ops::Deref for AccountName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The longest [`HumanDuration`], a year, so that adding one to the current time can't overflow.
pub const LONGEST_DURATION: Duration = Duration::from_secs(366 * 24 * 3600);

/// A duration, written as `"90s"`, `"2m"` or `"500ms"`; at most [`LONGEST_DURATION`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
pub struct HumanDuration(pub Duration);

from_text!(HumanDuration, |text| {
    let duration = text.parse::<jiff::SignedDuration>().ok().and_then(|duration| Duration::try_from(duration).ok());
    match duration {
        Some(duration) if duration <= LONGEST_DURATION => Ok(Self(duration)),
        Some(_) => Err(format!("`{text}` is longer than a year")),
        None => Err(format!("`{text}` is not a duration; write it like \"90s\", \"2m\" or \"500ms\"")),
    }
});

/// Whether a text is made of letters and digits of ASCII, `.`, `_` and `-`, and not empty.
pub fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

/// Whether a text is one word: not empty, and without white space and control characters.
pub fn is_word(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(|c| c.is_whitespace() || c.is_control())
}

/// Whether a list is a program and its arguments.
pub fn is_argv(words: &[String]) -> bool {
    words.first().is_some_and(|program| !program.is_empty()) && !words.iter().any(|word| word.contains('\0'))
}

/// A lifetime, written as `"365d"` or like a [`HumanDuration`]; at most ten years. A day has 24 hours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "String")]
pub struct Lifetime(pub jiff::SignedDuration);

from_text!(Lifetime, |text| {
    const LONGEST: i64 = 3660;
    let days = text.strip_suffix('d').and_then(|days| days.parse::<i64>().ok());
    let lifetime = match days {
        Some(days) if (1..=LONGEST).contains(&days) => jiff::SignedDuration::from_hours(24 * days),
        Some(_) => return Err(format!("`{text}` is not between 1 and {LONGEST} days")),
        None => jiff::SignedDuration::try_from(HumanDuration::try_from(text)?.0).map_err(|error| error.to_string())?,
    };
    match lifetime <= jiff::SignedDuration::from_hours(24 * LONGEST) {
        true => Ok(Self(lifetime)),
        false => Err(format!("a lifetime has at most {LONGEST} days")),
    }
});

impl std::str::FromStr for Lifetime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.to_owned().try_into()
    }
}

/// The names of `T`'s fields, as serde knows them; none for a type that isn't a struct.
pub fn names_of<T: DeserializeOwned>() -> &'static [&'static str] {
    struct Names<'a>(&'a mut &'static [&'static str]);

    impl<'de> Deserializer<'de> for Names<'_> {
        type Error = de::value::Error;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
            Err(de::Error::custom("only the names are wanted"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, Self::Error> {
            *self.0 = fields;
            self.deserialize_any(visitor)
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
            unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    let mut names: &'static [&'static str] = &[];
    let _ = T::deserialize(Names(&mut names));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_could_be_spelled_in_two_ways_is_refused() {
        let why = |bad: &str| AbsolutePath::try_from(bad.to_owned()).unwrap_err();
        assert_eq!(why("etc/x"), "`etc/x` is not an absolute path");
        for bad in ["/etc/../x", "/etc//x", "/etc/x/", "/", "/etc/./x", "/etc/x\0"] {
            let reported = format!("`{bad}` must be written without `.`, `..`, double slashes or a trailing slash");
            assert_eq!(why(bad), reported);
        }
        assert_eq!(why(&format!("/{}", "x".repeat(4095))), "a path has at most 4095 bytes, and this one has 4096");
        assert_eq!(&*AbsolutePath::try_from("/etc/x".to_owned()).unwrap(), Path::new("/etc/x"));
    }

    #[test]
    fn a_mode_is_three_or_four_octal_digits() {
        assert_eq!(Mode::try_from("0644".to_owned()), Ok(Mode(0o644)));
        for bad in ["644 ", "0o644", "0888", "07777", "+644"] {
            let reported = format!("`{bad}` is not a mode; write it as three or four octal digits, like \"0644\"");
            assert_eq!(Mode::try_from(bad.to_owned()), Err(reported));
        }
    }

    #[test]
    fn an_account_can_have_any_existing_name_and_a_new_one_what_useradd_accepts() {
        let name = |text: &str| AccountName::try_from(text.to_owned());
        for good in ["root", "Debian-exim", "first.last", "WORKSTATION$", "_apt", "0day", "systemd-network"] {
            assert_eq!(name(good).unwrap().why_not_new(), None, "{good}");
        }
        let long = "a".repeat(33);
        for old in ["ann@corp.example", "CORP\\ann", "domain users", "jürgen", &long, "$"] {
            let why = name(old).unwrap().why_not_new().unwrap();
            assert!(why.starts_with(&format!("`{old}` can't be the name of a new account: ")), "{why}");
        }
        for (bad, why) in [
            ("", "it is empty"),
            ("1000", "it is a number"),
            ("-G", "it begins with"),
            ("+nis", "it begins with"),
            ("a:b", "it has `:`"),
            ("a,b", "it has `:`"),
            ("../x", "it has `:`"),
            ("ann ", "it has `:`"),
            ("a\nb", "it has `:`"),
        ] {
            let error = name(bad).unwrap_err();
            assert!(error.starts_with(&format!("`{bad}` is not an account name: {why}")), "{error}");
        }
        assert!(name(&"a".repeat(256)).unwrap_err().ends_with("more than 255 bytes"));
    }

    #[test]
    fn a_duration_has_a_unit() {
        assert_eq!(HumanDuration::try_from("2m".to_owned()), Ok(HumanDuration(Duration::from_secs(120))));
        for bad in ["60", "-1s", "soon"] {
            let reported = format!("`{bad}` is not a duration; write it like \"90s\", \"2m\" or \"500ms\"");
            assert_eq!(HumanDuration::try_from(bad.to_owned()), Err(reported));
        }
        assert_eq!(HumanDuration::try_from("8785h".to_owned()), Err("`8785h` is longer than a year".to_owned()));
    }

    #[test]
    fn a_lifetime_may_be_in_days() {
        let day = jiff::SignedDuration::from_hours(24);
        assert_eq!(Lifetime::try_from("60d".to_owned()), Ok(Lifetime(day * 60)));
        assert_eq!(Lifetime::try_from("24h".to_owned()), Ok(Lifetime(day)));
        for (bad, why) in [
            ("0d", "is not between 1 and 3660 days"),
            ("3661d", "is not between 1 and 3660 days"),
            ("-1d", "is not between 1 and 3660 days"),
            ("99999999h", "is longer than a year"),
            ("soon", "is not a duration; write it like \"90s\", \"2m\" or \"500ms\""),
        ] {
            assert_eq!(Lifetime::try_from(bad.to_owned()), Err(format!("`{bad}` {why}")));
        }
    }

    #[test]
    fn the_names_of_a_kind_s_fields_are_known_without_a_value() {
        #[derive(Deserialize)]
        struct Two {
            #[allow(dead_code)]
            one: u8,
            #[allow(dead_code)]
            two: u8,
        }
        assert_eq!(names_of::<Two>(), ["one", "two"]);
    }
}
