//! Paths in the names of units.

/// A path as a part of a unit's name, as `systemd-escape --path` writes it.
pub fn escaped(path: &str) -> String {
    let mut name = String::new();
    for (at, byte) in path.trim_matches('/').bytes().enumerate() {
        match byte {
            b'/' => name.push('-'),
            b'.' if at == 0 => name.push_str("\\x2e"),
            _ if byte.is_ascii_alphanumeric() || b":_.".contains(&byte) => name.push(byte.into()),
            _ => name.push_str(&format!("\\x{byte:02x}")),
        }
    }
    name
}

/// The path in a unit's name, without its suffix.
pub fn unescaped(name: &str) -> String {
    let mut path = vec![b'/'];
    let mut rest = name.as_bytes();
    while let [first, more @ ..] = rest {
        let code = name_code(rest);
        match (first, code) {
            (b'\\', Some(byte)) => {
                path.push(byte);
                rest = rest.get(4..).unwrap_or_default();
            }
            _ => {
                path.push(if *first == b'-' { b'/' } else { *first });
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&path).into_owned()
}

/// The byte that `\\xNN` stands for.
fn name_code(text: &[u8]) -> Option<u8> {
    let digits = std::str::from_utf8(text.strip_prefix(b"\\x")?.get(..2)?).ok()?;
    u8::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_path_is_that_of_systemd_escape() {
        for (path, name) in [
            ("/srv/my-data", "srv-my\\x2ddata"),
            ("/.a/b c/", "\\x2ea-b\\x20c"),
            ("/a.b_c:d", "a.b_c:d"),
            ("/gr\u{fc}n", "gr\\xc3\\xbcn"),
        ] {
            assert_eq!(escaped(path), name);
            assert_eq!(unescaped(name), path.trim_end_matches('/'));
        }
        assert_eq!(unescaped("a\\xzz-b\\x"), "/a\\xzz/b\\x");
    }
}
