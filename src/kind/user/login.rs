//! Whether a user can log in: its password, whether it is locked, and when its account expires.

use jiff::civil::Date;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::error::{Error, Result, code};
use crate::host::account_files::{Login as State, Tables};
use crate::host::accounts::FILES;
use crate::host::useradd;
use crate::kind::prior_state::PriorState;
use crate::kind::{About, Change, Claim, Phase, Resource, Restorable, WatchedInput, Work};

/// The day on which a locked account has expired: the first one that every program takes for a date.
const LOCKED: u32 = 1;

/// The first day on which nobody can log in any more, like `2027-01-31`; or `never`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "String")]
pub struct Expiry(Option<u32>);

impl TryFrom<String> for Expiry {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == "never" {
            return Ok(Self(None));
        }
        let date = text.parse::<Date>().ok().filter(|_| text.len() == "2027-01-31".len());
        let days = date.map(|date| date.duration_since(Date::constant(1970, 1, 1)).as_hours() / 24);
        match days.and_then(|days| u32::try_from(days).ok()).filter(|days| *days > LOCKED) {
            Some(days) => Ok(Self(Some(days))),
            None => Err(format!("`{text}` is no date after 1970; write it like 2027-01-31, or \"never\"")),
        }
    }
}

/// How a user logs in; `None` for what stays as it is.
#[derive(Debug, Default)]
pub struct Login {
    pub(in crate::kind) user: String,
    /// The hash of its password.
    pub(in crate::kind) hash: Option<String>,
    pub(in crate::kind) locked: Option<bool>,
    pub(in crate::kind) expires: Option<Expiry>,
    /// Whether this restores a prior state: then a user that no longer exists needs nothing.
    pub(in crate::kind) is_restored: bool,
}

/// Whether a text is a hash that `crypt` knows, and fits into `/etc/shadow`.
pub(super) fn is_hash(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, ':' | '!' | '*');
    text.starts_with('$') && text.matches('$').count() >= 3 && text.chars().all(is_plain)
}

impl Login {
    /// A user that can't log in.
    pub(in crate::kind) fn locked(user: &str) -> Self {
        Self { user: user.to_owned(), locked: Some(true), is_restored: true, ..Self::default() }
    }

    /// A login to restore; `expires` is a day, or a negative number for none.
    pub(in crate::kind) fn restored(user: &str, locked: Option<bool>, expires: Option<i64>) -> Self {
        let expires = expires.map(|day| Expiry(u32::try_from(day).ok()));
        Self { user: user.to_owned(), hash: None, locked, expires, is_restored: true }
    }

    fn wanted(&self, old: &State) -> State {
        let bare = old.password.trim_start_matches('!');
        // without a password, there is nothing to unlock, and the empty one would need none
        let has_password = !bare.is_empty() && !bare.starts_with('*');
        let is_locked = old.password.starts_with('!');
        let locks = self.locked.unwrap_or(is_locked && has_password);
        let password = match (&self.hash, locks) {
            (Some(hash), true) => format!("!{hash}"),
            (Some(hash), false) => hash.clone(),
            (None, true) if is_locked => old.password.clone(),
            (None, true) => format!("!{bare}"),
            (None, false) if has_password => bare.to_owned(),
            (None, false) => old.password.clone(),
        };
        let expires = match (self.locked, self.expires) {
            (Some(true), _) => Some(LOCKED),
            (_, Some(Expiry(day))) => day,
            (Some(false), None) if old.expires.is_some_and(|day| day <= LOCKED) => None,
            (_, None) => old.expires,
        };
        State { password, expires }
    }

    /// The differences, as text without the hash.
    fn differences(&self, old: &State) -> Vec<String> {
        let new = self.wanted(old);
        let mut parts = Vec::new();
        let bare = |state: &State| state.password.trim_start_matches('!').to_owned();
        if self.hash.is_some() && bare(old) != bare(&new) {
            parts.push("set the password".to_owned());
        }
        let is_locked = |state: &State| state.password.starts_with('!');
        let (was, is) = (is_locked(old) && old.expires == Some(LOCKED), self.locked == Some(true));
        match (was, is) {
            (false, true) => parts.push("lock".to_owned()),
            (true, false) if new != *old => parts.push("unlock".to_owned()),
            _ if is_locked(old) && !is_locked(&new) && self.hash.is_none() => parts.push("unlock".to_owned()),
            _ => {}
        }
        if !is && !was && old.expires != new.expires {
            parts.push(match new.expires {
                Some(day) => format!("expires {}", date(day)),
                None => "never expires".to_owned(),
            });
        }
        if parts.is_empty() && *old != new {
            parts.push("correct the login".to_owned());
        }
        parts
    }

    fn known(&self, work: &Work<'_>) -> Result<Option<State>> {
        let tables = Tables::read(&work.host.root)?;
        match tables.login(&self.user) {
            _ if !tables.has_local_user(&self.user) => Ok(None),
            Some(login) => Ok(Some(login)),
            // the user itself adds the line
            None => Ok(Some(State { password: "!*".to_owned(), expires: None })),
        }
    }
}

fn date(day: u32) -> String {
    let epoch = Date::constant(1970, 1, 1);
    let date = epoch.checked_add(jiff::SignedDuration::from_hours(24 * i64::from(day)));
    date.map_or_else(|_| format!("on day {day}"), |date| date.to_string())
}

impl Resource for Login {
    fn about(&self) -> About {
        About {
            after: vec![format!("user:{}", self.user)],
            is_discreet: true,
            is_sensitive: true,
            ..About::new("login", &*self.user, Phase::Accounts)
        }
    }

    fn watched_inputs(&self, _: &Work<'_>) -> Result<Option<Vec<WatchedInput>>> {
        Ok(Some(FILES.iter().map(|path| WatchedInput::Path(path.into())).collect()))
    }

    fn restorable(&self) -> Option<&dyn Restorable> {
        Some(self)
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        match self.known(work)? {
            Some(known) => Ok(Change::of(self.differences(&known))),
            None if self.is_restored => Ok(None),
            // its user is created in the same run
            None => Ok(Change::of(self.differences(&State { password: "!*".to_owned(), expires: None }))),
        }
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        let Some(old) = self.known(work)? else {
            return Err(Error::new(code::ACCOUNT, format!("the login of {} can't be changed here", self.user))
                .because("it is not in /etc/passwd: another service (LDAP, systemd-homed, …) has it")
                .help("change it there, or leave `password_hash`, `locked` and `expires` out"));
        };
        let new = self.wanted(&old);
        if work.host.is_live() {
            return useradd::set_login(&self.user, &old, &new);
        }
        let mut tables = Tables::read(&work.host.root)?;
        tables.set_login(&self.user, &new);
        tables.write(&work.host.root)
    }
}

impl Restorable for Login {
    fn prior_state(&self, _: &Claim, work: &Work<'_>) -> Result<PriorState> {
        let mut prior = PriorState::Login { user: self.user.clone(), locked: None, expires: None };
        self.refine(&mut prior, work)?;
        Ok(prior)
    }

    fn refine(&self, prior: &mut PriorState, work: &Work<'_>) -> Result<bool> {
        let PriorState::Login { locked, expires, .. } = prior else { return Ok(false) };
        let known = self.known(work)?.unwrap_or_default();
        let mut is_new = false;
        if self.locked.is_some() && locked.is_none() {
            *locked = Some(known.password.starts_with('!') && known.expires == Some(LOCKED));
            is_new = true;
        }
        if (self.expires.is_some() || self.locked.is_some()) && expires.is_none() {
            *expires = Some(known.expires.map_or(-1, i64::from));
            is_new = true;
        }
        Ok(is_new)
    }
}
