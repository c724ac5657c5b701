//! How a role writes modes, entries of access lists, and capabilities.

use crate::host::root::acl::Who;
use crate::host::{Missing, NoAccess};
use crate::kind::prelude::*;

/// A mode, in octal digits or as a change of the mode that is there, as chmod takes it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "String")]
pub(super) enum NewMode {
    /// The whole mode.
    Whole(u32),
    /// Changes, one after the other.
    Changes(Vec<Clause>),
}

/// One change of a mode: `u=rwX`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Clause {
    /// Bits of those whom it is for, `0o700` for the owner.
    whom: u32,
    operator: char,
    rights: Rights,
    /// Setuid, setgid and sticky.
    special: u32,
}

/// The rights to read, write and execute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rights {
    bits: u32,
    /// Whether directories, and files that someone can execute, get execute permission too: `X`.
    if_executable: bool,
}

impl Rights {
    fn parse(text: &str) -> Option<Self> {
        let mut rights = Self { bits: 0, if_executable: false };
        for letter in text.chars() {
            match letter {
                'r' => rights.bits |= 0o4,
                'w' => rights.bits |= 0o2,
                'x' => rights.bits |= 0o1,
                'X' => rights.if_executable = true,
                _ => return None,
            }
        }
        Some(rights)
    }

    /// As bits, for a directory or a file with a mode.
    pub(super) fn bits(self, is_directory: bool, mode: u32) -> u32 {
        self.bits | u32::from(self.if_executable && (is_directory || mode & 0o111 != 0))
    }
}

from_text!(NewMode, |text| {
    if let Ok(mode) = Mode::try_from(text.clone()) {
        return Ok(Self::Whole(mode.0));
    }
    let clause = |part: &str| {
        let at = part.find(['=', '+', '-'])?;
        let (whom, rest) = part.split_at_checked(at)?;
        let mut bits = 0;
        for letter in whom.chars() {
            bits |= match letter {
                'u' => 0o700,
                'g' => 0o070,
                'o' => 0o007,
                'a' => 0o777,
                _ => return None,
            };
        }
        let operator = rest.chars().next()?;
        let letters = rest.get(1..)?;
        let mut special = 0;
        if letters.contains('s') {
            special |= (bits & 0o100) << 5 | (bits & 0o010) << 7;
        }
        if letters.contains('t') {
            special |= 0o1000;
        }
        let rights = Rights::parse(&letters.replace(['s', 't'], ""))?;
        (bits != 0).then_some(Clause { whom: bits, operator, rights, special })
    };
    let clauses: Option<Vec<Clause>> = text.split(',').map(clause).collect();
    clauses.map(Self::Changes).ok_or_else(|| {
        format!("`{text}` is not a mode; write three or four octal digits, like \"0644\", or changes, like \"u=rwX,g=rX,o=\"")
    })
});

impl NewMode {
    /// The mode of what has the mode `now`.
    pub(super) fn of(&self, now: u32, is_directory: bool) -> u32 {
        match self {
            Self::Whole(mode) => *mode,
            Self::Changes(clauses) => clauses.iter().fold(now, |mode, clause| {
                let rights = clause.rights.bits(is_directory, mode) * 0o111;
                let bits = (rights & clause.whom) | clause.special;
                match clause.operator {
                    '+' => mode | bits,
                    '-' => mode & !bits,
                    _ => mode & !clause.whom | bits,
                }
            }),
        }
    }

    /// The mode of directories, if a role sets only that of files: users who can read a file can enter a directory.
    pub(super) fn for_directories(&self) -> Self {
        match self {
            Self::Whole(mode) => Self::Whole(mode | (mode & 0o444) >> 2),
            changes => changes.clone(),
        }
    }
}

/// An entry of an access list: `user:nginx:rX`, `default:group:web:rwX`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "String")]
pub(super) struct AclEntry {
    pub(super) text: String,
    /// Whether it is for what is made in a directory.
    pub(super) is_default: bool,
    pub(super) whom: Whom,
    pub(super) rights: Rights,
}

/// Whom an entry is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Whom {
    User(AccountName),
    Group(AccountName),
    /// One without a name.
    Known(Who),
}

from_text!(AclEntry, |text| {
    let why = |why: &str| {
        format!(
            "`{text}` is not an entry of an access list: {why}; write it like `user:NAME:rX`, `group:NAME:rw` or `default:user:NAME:rX`"
        )
    };
    let mut parts: Vec<&str> = text.split(':').collect();
    let is_default = matches!(parts.first(), Some(&("default" | "d")));
    if is_default {
        parts.remove(0);
    }
    let [kind, name, rights] = parts[..] else { return Err(why("it needs a type, a name and permissions")) };
    let account = || AccountName::try_from(name.to_owned()).map_err(|error| why(&error));
    let whom = match (kind, name) {
        ("user" | "u" | "group" | "g" | "other" | "o", "") if !is_default => {
            return Err(why("set the permissions of the owner, the group and others with `mode`"));
        }
        ("user" | "u", "") => Whom::Known(Who::Owner),
        ("group" | "g", "") => Whom::Known(Who::OwningGroup),
        ("other" | "o", "") => Whom::Known(Who::Other),
        ("mask" | "m", "") => Whom::Known(Who::Mask),
        ("user" | "u", _) => Whom::User(account()?),
        ("group" | "g", _) => Whom::Group(account()?),
        _ => return Err(why("it is for a `user`, a `group` or the `mask`")),
    };
    let rights = Rights::parse(&rights.replace('-', "")).ok_or_else(|| why("permissions are `r`, `w`, `x` and `X`"))?;
    Ok(Self { is_default, whom, rights, text })
});

impl AclEntry {
    /// The account that must exist first.
    pub(super) fn after(&self) -> Option<ResourceId> {
        match &self.whom {
            Whom::User(name) => Some(ResourceId::new("user", name)),
            Whom::Group(name) => Some(ResourceId::new("group", name)),
            Whom::Known(_) => None,
        }
    }

    /// Whom it is for, by number.
    pub(super) fn number(&self, host: &Host) -> Result<Who, NoAccess> {
        let (who, missing) = match &self.whom {
            Whom::Known(who) => return Ok(*who),
            Whom::User(name) => {
                let login = host.with_accounts(|accounts| accounts.login(name))?;
                (login.map(|login| Who::User(login.uid)), Missing::User(name.to_string()))
            }
            Whom::Group(name) => {
                let gid = host.with_accounts(|accounts| accounts.gid(name))?;
                (gid.map(Who::Group), Missing::Group(name.to_string()))
            }
        };
        who.ok_or(NoAccess::Missing(missing))
    }
}

/// Capabilities of a program (capabilities(7)): `cap_net_bind_service=ep`; empty for none.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "String")]
pub(super) struct Capabilities {
    text: String,
    is_effective: bool,
    permitted: u64,
    inheritable: u64,
}

/// The kernel's capabilities, by number.
const NAMES: &str = "chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable \
    net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot \
    sys_ptrace sys_pacct sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease \
    audit_write audit_control setfcap mac_override mac_admin syslog wake_alarm block_suspend audit_read \
    perfmon bpf checkpoint_restore";

/// The version of the kernel's format without a user namespace, and the bit beside it that makes capabilities effective.
const REVISION: u32 = 0x0200_0000;
const EFFECTIVE: u32 = 1;

from_text!(Capabilities, |text| {
    let shape = "write names and flags, like `cap_net_bind_service,cap_net_raw=ep`, or an empty text for none";
    let mut all = Self { is_effective: false, permitted: 0, inheritable: 0, text };
    let mut first = None;
    for clause in all.text.split_whitespace() {
        let (names, flags) =
            clause.split_once(['=', '+']).ok_or_else(|| format!("`{clause}` has no flags: {shape}"))?;
        let mut bits = 0;
        for name in names.split(',') {
            let short = name.to_ascii_lowercase();
            let known = NAMES.split(' ').position(|known| short.strip_prefix("cap_") == Some(known));
            bits |= 1_u64 << known.ok_or_else(|| format!("`{name}` is not a capability (capabilities(7)): {shape}"))?;
        }
        if flags.is_empty() || !flags.chars().all(|flag| "eip".contains(flag)) {
            return Err(format!("`{flags}` are not flags: `e` is effective, `i` inheritable, `p` permitted"));
        }
        all.permitted |= if flags.contains('p') { bits } else { 0 };
        all.inheritable |= if flags.contains('i') { bits } else { 0 };
        // the kernel has one bit for all of them
        let is_effective = flags.contains('e');
        if *first.get_or_insert(is_effective) != is_effective {
            let why = "either all capabilities of a program are effective, or none: set the flag `e` in every clause, or in none";
            return Err(why.to_owned());
        }
        all.is_effective |= is_effective;
    }
    if all.is_effective && all.permitted | all.inheritable == 0 {
        return Err(format!("`{}` permits nothing: add the flag `p`", all.text));
    }
    Ok(all)
});

impl Capabilities {
    /// In the kernel's format; `None` for none.
    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        if self.permitted | self.inheritable == 0 {
            return None;
        }
        let low = |bits: u64| (bits & u64::from(u32::MAX)) as u32;
        let words = [
            REVISION | if self.is_effective { EFFECTIVE } else { 0 },
            low(self.permitted),
            low(self.inheritable),
            low(self.permitted >> 32),
            low(self.inheritable >> 32),
        ];
        Some(words.into_iter().flat_map(u32::to_le_bytes).collect())
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.text.is_empty() { "none" } else { &self.text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_set_or_changed_as_chmod_does() {
        let mode =
            |text: &str, now: u32, is_directory| NewMode::try_from(text.to_owned()).unwrap().of(now, is_directory);
        assert_eq!(mode("0640", 0o777, false), 0o640);
        for (text, now, file, directory) in [
            ("u=rwX,g=rX,o=", 0o666, 0o640, 0o750),
            ("u=rwX,g=rX,o=", 0o4711, 0o4750, 0o4750),
            ("go-w", 0o666, 0o644, 0o644),
            ("a+r,o-x", 0o1301, 0o1744, 0o1744),
            ("ug+X", 0o600, 0o600, 0o710),
            ("u+s,g+s", 0o755, 0o6755, 0o6755),
            ("ug-s,o+t", 0o6755, 0o1755, 0o1755),
        ] {
            assert_eq!((mode(text, now, false), mode(text, now, true)), (file, directory), "{text} of {now:o}");
        }
        let directories = |text: &str| NewMode::try_from(text.to_owned()).unwrap().for_directories().of(0, true);
        assert_eq!((directories("0640"), directories("0604"), directories("u=rX")), (0o750, 0o705, 0o500));
        for bad in ["", "rw", "u", "u=rwq", "x=r", "0888", "u=r,"] {
            assert!(NewMode::try_from(bad.to_owned()).unwrap_err().contains("is not a mode"), "{bad}");
        }
    }

    #[test]
    fn capabilities_are_encoded_as_setcap_does() {
        let encoded = |text: &str| Capabilities::try_from(text.to_owned()).unwrap().encode().map(hex::encode);
        assert_eq!(encoded("cap_net_bind_service=ep").unwrap(), "0100000200040000000000000000000000000000");
        assert_eq!(encoded("CAP_NET_RAW,cap_bpf+eip").unwrap(), "0100000200200000002000008000000080000000");
        assert_eq!(encoded("cap_chown=p cap_kill=i").unwrap(), "0000000201000000200000000000000000000000");
        assert_eq!(encoded(""), None);
        for (bad, why) in [
            ("cap_net_raw", "has no flags"),
            ("net_raw=ep", "`net_raw` is not a capability"),
            ("cap_net_raw=", "are not flags"),
            ("cap_net_raw=e", "permits nothing"),
            ("cap_chown=p cap_kill=ep", "either all capabilities of a program are effective, or none"),
        ] {
            let reported = Capabilities::try_from(bad.to_owned()).unwrap_err();
            assert!(reported.contains(why), "{bad}: {reported}");
        }
    }
}
