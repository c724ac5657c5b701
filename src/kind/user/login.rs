//! Whether a user can log in: its password, whether it is locked, and when its account expires.

use jiff::civil::Date;

use crate::host::account_files::{Login as State, Tables};
use crate::host::accounts;
use crate::host::useradd;
use crate::kind::prelude::*;

/// The day on which a locked account is expired: the first one that every program takes for a date.
const LOCKED: u32 = 1;

/// What `/etc/shadow` has for a user without a password.
fn none() -> State {
    State { password: "!*".to_owned(), expires: None }
}

/// The first day on which a user can't log in any more, like `2027-01-31`; or `never`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
pub struct Expiry(Option<u32>);

from_text!(Expiry, |text| {
    if text == "never" {
        return Ok(Self(None));
    }
    let date = text.parse::<Date>().ok().filter(|_| text.len() == "2027-01-31".len());
    let days = date.map(|date| date.duration_since(Date::constant(1970, 1, 1)).as_hours() / 24);
    match days.and_then(|days| u32::try_from(days).ok()).filter(|days| *days > LOCKED) {
        Some(days) => Ok(Self(Some(days))),
        None => Err(format!("`{text}` is not a date after 1970; write it like 2027-01-31, or \"never\"")),
    }
});

/// How a user logs in; `None` for what stays unchanged.
#[derive(Debug, Default)]
pub struct Login {
    pub(in crate::kind) user: String,
    /// The hash of its password; to restore, what `/etc/shadow` had.
    pub(in crate::kind) hash: Option<String>,
    pub(in crate::kind) locked: Option<bool>,
    pub(in crate::kind) expires: Option<Expiry>,
    /// Whether this restores a prior state: then a user that no longer exists needs nothing.
    pub(in crate::kind) is_restored: bool,
}

/// Whether a text is a hash that `crypt` supports, and fits into `/etc/shadow`.
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
    pub fn restored(user: &str, password: Option<Vec<u8>>, locked: Option<bool>, expires: Option<i64>) -> Self {
        let expires = expires.map(|day| Expiry(u32::try_from(day).ok()));
        let hash = password.map(|password| String::from_utf8_lossy(&password).into_owned());
        Self { user: user.to_owned(), hash, locked, expires, is_restored: true }
    }

    fn wanted(&self, old: &State) -> State {
        let hash = old.hash();
        // without a password, there is nothing to unlock, and the empty one would need none
        let has_password = !hash.is_empty() && !hash.starts_with('*');
        let is_locked = old.password.starts_with('!');
        let locks = self.locked.unwrap_or(is_locked && has_password);
        let password = match (&self.hash, locks) {
            (Some(hash), true) => format!("!{}", hash.trim_start_matches('!')),
            (Some(hash), false) => hash.clone(),
            (None, true) if is_locked => old.password.clone(),
            (None, true) => format!("!{hash}"),
            (None, false) if has_password => hash.to_owned(),
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
        if self.hash.is_some() && old.hash() != new.hash() {
            parts.push(if self.is_restored { "restore the password" } else { "set the password" }.to_owned());
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
        // the user itself adds the line
        Ok(tables.has_local_user(&self.user).then(|| tables.login(&self.user).unwrap_or_else(none)))
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
            after: vec![ResourceId::new("user", &self.user)],
            is_discreet: true,
            is_sensitive: true,
            watched: Some(accounts::watched()),
            ..About::new("login", &*self.user, Phase::Accounts).recorded()
        }
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        match self.known(work)? {
            None if self.is_restored => Ok(None),
            // a user that is created in the same run has no password yet
            known => Ok(Change::of(self.differences(&known.unwrap_or_else(none)))),
        }
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        let Some(old) = self.known(work)? else {
            return Err(error!(ACCOUNT, "the login of {} can't be changed here", self.user)
                .because("it is not in /etc/passwd: another service (LDAP, systemd-homed, …) manages it")
                .help("change it there, or omit `password_hash`, `locked` and `expires`"));
        };
        let new = self.wanted(&old);
        work.host.change_accounts(
            || useradd::set_login(&self.user, &old, &new),
            |tables| {
                tables.set_login(&self.user, &new);
                Ok(())
            },
        )
    }

    fn prior_state(&self, _: &Claim, work: &Work<'_>) -> Result<PriorState> {
        let mut prior = PriorState::Login { user: self.user.clone(), password: None, locked: None, expires: None };
        self.refine(&mut prior, work)?;
        Ok(prior)
    }

    fn refine(&self, prior: &mut PriorState, work: &Work<'_>) -> Result<bool> {
        let PriorState::Login { password, locked, expires, .. } = prior else { return Ok(false) };
        let known = self.known(work)?.unwrap_or_else(none);
        let mut is_new = false;
        if self.hash.is_some() && password.is_none() {
            // the lock of an earlier release is not what was there before
            let is_ours = *locked == Some(false) && !known.hash().is_empty();
            let former = if is_ours { known.hash() } else { &known.password };
            *password = Some(work.store.save(former.as_bytes())?);
            is_new = true;
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::testing::{RoleFiles, Tree, build_with, fails, refusal};
    use crate::kind::user::UserFields;

    const HASH: &str = "$6$salt$of.a/password";

    /// A tree with a user whose line in `/etc/shadow` goes on like this.
    fn tree(shadow: &str) -> Tree {
        let tree = Tree::new();
        tree.put("/etc/passwd", "ann:x:1000:1000::/home/ann:/bin/sh\n");
        tree.put("/etc/group", "ann:x:1000:\n");
        tree.put("/etc/shadow", &format!("ann:{shadow}\n"));
        tree
    }

    fn login(fields: &str) -> Box<dyn Resource> {
        let role = RoleFiles::default().secret();
        build_with::<UserFields>(&format!("name = 'ann'\n{fields}"), &role).unwrap().remove(1)
    }

    /// What is left of the line once the password and the day of expiry are known.
    fn after(shadow: &str, fields: &str) -> (String, String) {
        let tree = tree(shadow);
        let summary = tree.converge(&*login(fields)).summary;
        let line = tree.get("/etc/shadow");
        let words: Vec<&str> = line.trim_end().split(':').collect();
        (summary, format!("{}:{}", words[1], words[7]))
    }

    #[test]
    fn a_password_is_set_by_its_hash_and_a_lock_stays() {
        let hash = format!("password_hash = '{HASH}'");
        let set = |shadow: &str| after(shadow, &hash);
        let new = ("set the password".to_owned(), format!("{HASH}:"));
        assert_eq!(set("!*:1:0:9:7:::"), new);
        assert_eq!(set("!:1::::::"), new);
        assert_eq!(set("*:1"), new);
        assert_eq!(set("$6$x$old:1:0:9:7:::"), new);
        assert_eq!(set("!$6$x$old:1:0:9:7:::"), ("set the password".to_owned(), format!("!{HASH}:")));
        let locked = after("$6$x$old:1:0:9:7::20000:", &format!("{hash}\nlocked = true"));
        assert_eq!(locked, ("set the password, lock".to_owned(), format!("!{HASH}:1")));
    }

    #[test]
    fn a_lock_expires_the_account_too_and_is_taken_off_as_a_whole() {
        assert_eq!(after("$6$x$y:1::::::", "locked = true"), ("lock".to_owned(), "!$6$x$y:1".to_owned()));
        assert_eq!(after("!$6$x$y:1::::::", "locked = true"), ("lock".to_owned(), "!$6$x$y:1".to_owned()));
        assert_eq!(after("!$6$x$y:1:::::1:", "locked = false"), ("unlock".to_owned(), "$6$x$y:".to_owned()));
        assert_eq!(after("!$6$x$y:1::::::", "locked = false"), ("unlock".to_owned(), "$6$x$y:".to_owned()));
        assert_eq!(after("!*:1:::::1:", "locked = false"), ("unlock".to_owned(), "!*:".to_owned()));
        // an empty password would let anybody in
        assert_eq!(tree("!:1::::::").summary(&*login("locked = false")), None);
    }

    #[test]
    fn an_account_expires_on_its_day_and_the_password_stays() {
        let until = |shadow: &str, day: &str| after(shadow, &format!("expires = {day}"));
        assert_eq!(until("$6$x$y:1::::::", "2027-01-31").0, "expires 2027-01-31");
        assert_eq!(until("$6$x$y:1::::::", "2027-01-31").1, "$6$x$y:20849");
        assert_eq!(until("$6$x$y:1:::::20849:", "'never'"), ("never expires".to_owned(), "$6$x$y:".to_owned()));
        assert_eq!(tree("$6$x$y:1:::::20849:").summary(&*login("expires = '2027-01-31'")), None);
    }

    #[test]
    fn the_former_password_is_restored_with_its_lock() {
        let hash = format!("password_hash = '{HASH}'");
        let restored = |shadow: &str, releases: &[&str]| {
            let tree = tree(shadow);
            let mut prior = None;
            for release in releases {
                let login = login(release);
                let claim = Claim::thing("login", "ann");
                match &mut prior {
                    None => prior = Some(login.prior_state(&claim, &tree.work()).unwrap()),
                    Some(prior) => drop(login.refine(prior, &tree.work()).unwrap()),
                }
                tree.converge(&*login);
            }
            let prior = prior.unwrap();
            assert!(!serde_json::to_string(&prior).unwrap().contains("$6$"), "only the saved content has it");
            let change = tree.converge(&*prior.resource(tree.work().store).unwrap().unwrap());
            assert!(!change.summary.contains('$') && change.summary.contains("restore the password"), "{change:?}");
            tree.get("/etc/shadow").split(':').nth(1).unwrap().to_owned()
        };
        for former in ["$6$x$old", "!$6$x$old", "!", "*", "!*"] {
            assert_eq!(restored(&format!("{former}:1::::::"), &[&hash]), former);
        }
        let locked = format!("{hash}\nlocked = true");
        assert_eq!(restored("$6$x$old:1::::::", &["locked = true", &locked]), "$6$x$old");
        assert_eq!(restored("$6$x$old:1::::::", &[&hash, &locked]), "$6$x$old");
        assert_eq!(restored("!$6$x$old:1:::::1:", &[&format!("{hash}\nlocked = false")]), "!$6$x$old");
    }

    #[test]
    fn the_hash_is_in_no_summary_and_no_diff() {
        let change = tree("!*:1").converge(&*login(&format!("password_hash = '{HASH}'")));
        assert!(!change.summary.contains('$') && change.diff.is_none());
        assert!(login("locked = true").about().is_discreet);
    }

    #[test]
    fn a_hash_comes_from_a_secret_and_a_password_is_none() {
        let why = refusal("user", &format!("name = 'ann'\npassword_hash = '{HASH}'"));
        assert!(why.starts_with("`password_hash`: anyone who reads the site"), "{why}");
        let role = RoleFiles::default().secret();
        for text in ["hunter2", "$6$a b$c", "$6$a:b$c", "$x"] {
            let why = fails::<UserFields>(&format!("name = 'ann'\npassword_hash = '{text}'"), &role);
            assert!(why.starts_with("`password_hash`: this is not a password hash") && !why.contains(text), "{why}");
        }
        for placeholder in ["<secret ann>", "$6$s$h\\n", "$y$j9T$abc$def"] {
            let fields = format!("name = 'ann'\npassword_hash = \"{placeholder}\"");
            assert!(build_with::<UserFields>(&fields, &role).is_ok(), "{placeholder}");
        }
    }

    #[test]
    fn what_can_not_be_a_day_or_contradicts_itself_is_refused() {
        for (fields, why) in [
            ("expires = 'soon'", "`soon` is not a date after 1970"),
            ("expires = 1970-01-02", "is not a date after 1970"),
            ("expires = 2027-01-31T10:00:00", "is not a date after 1970"),
            ("expires = 2027-01-31\nlocked = true", "`expires`: a locked account is expired: remove"),
        ] {
            let refused = refusal("user", &format!("name = 'ann'\n{fields}"));
            assert!(refused.contains(why), "{refused}");
        }
        let refused = refusal("user", "name = 'root'\nlocked = true");
        assert!(refused.starts_with("`locked`: root can't be removed or locked"), "{refused}");
    }
}
