//! `[[etcd_member]]`: how a member of etcd joins its cluster: as a founder, as an additional member, or as a member that
//! has lost its data.
//!
//! At its first start, etcd must know whether its cluster is `new` or `existing`, and who its members are. A fixed `new`
//! is wrong after that: a member that lost its disk would form a cluster of its own, or never rejoin. So kpull finds out
//! when it matters, and writes the answer to a file for etcd's unit.

use std::fmt::Write as _;
use std::time::Instant;

use reqwest::Url;

use crate::error::{Exit, nearest};
use crate::host::deadline;
use crate::host::etcd::{Api, Client, Cluster, Failure, Member};
use crate::kind::etcd_key::{PAUSE, cluster};
use crate::kind::prelude::*;
use crate::net;

/// The prefix of the line with the peer URL that the cluster knows.
const KNOWN_AS: &str = "# the cluster knows it as ";

/// Fields of `[[etcd_member]]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EtcdMemberFields {
    /// The member's name.
    name: String,
    /// The URL at which the other members reach it.
    peer_url: String,
    /// etcd's data directory.
    data: AbsolutePath,
    /// Peer URLs of all members of the site by name, including this one.
    members: BTreeMap<String, String>,
    /// Names of the members that create a new cluster together if none exists. Default: all of `members`.
    founders: Option<Vec<String>>,
    /// Client URLs of the other members. Default: none.
    #[serde(default)]
    endpoints: Vec<String>,
    /// PEM file with the authority of the members' certificates.
    ca: AbsolutePath,
    /// PEM file with a client certificate. Default: none.
    client_cert: Option<AbsolutePath>,
    /// PEM file with the key of `client_cert`.
    client_key: Option<AbsolutePath>,
    /// The file to write for etcd's unit, which loads it with `EnvironmentFile=`.
    env: AbsolutePath,
    /// How long to wait for a cluster that cannot accept a member now. Default: `60s`.
    within: Option<HumanDuration>,
}

impl Fields for EtcdMemberFields {
    fn build(self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        for (name, url) in &self.members {
            let why = format!("`{name}` is not a name: use letters, digits, `.`, `_` and `-`");
            build.refuse_if(!is_plain(name), "members", &why)?;
            let why = format!("write them like `https://HOST:2380`, and not `{url}`");
            build.refuse_if(!is_peer_url(url), "members", &why)?;
            if let Some((other, _)) = self.members.iter().find(|(other, same)| *same == url && *other != name) {
                return Err(build.invalid("members", &format!("`{other}` and `{name}` are both at {url}")));
            }
        }
        match self.members.get(&self.name) {
            None => {
                let why = match nearest(&self.name, self.members.keys().map(String::as_str)) {
                    Some(near) => format!("`members` has no `{}`; did you mean `{near}`?", self.name),
                    None => format!("`members` has no `{}`", self.name),
                };
                return Err(build.invalid("name", &why));
            }
            Some(url) if *url != self.peer_url => {
                return Err(build.invalid("peer_url", &format!("`members` has {url} for `{}`", self.name)));
            }
            Some(_) => {}
        }
        let mut founders = self.members.clone();
        if let Some(names) = self.founders {
            let unknown = names.iter().find(|name| !founders.contains_key(*name));
            if let Some(name) = unknown {
                return Err(build.invalid("founders", &format!("`members` has no `{name}`")));
            }
            founders.retain(|name, _| names.contains(name));
        }
        build.refuse_if(founders.is_empty(), "founders", "a new cluster needs a founder: name at least one")?;
        Ok(vec![Box::new(EtcdMember {
            cluster: cluster(build, &self.endpoints, &self.ca, (self.client_cert, self.client_key))?,
            name: self.name,
            peer_url: self.peer_url,
            data: self.data,
            members: self.members,
            founders,
            env: self.env,
            within: self.within.map_or(Duration::from_secs(60), |duration| duration.0),
        })])
    }
}

/// The peer URL by which the cluster knows the member, from its file.
fn known_as(env: &str) -> Option<&str> {
    env.lines().find_map(|line| line.strip_prefix(KNOWN_AS))
}

/// Whether it is a peer URL in etcd's own notation.
fn is_peer_url(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ":/.-_[]".contains(c);
    text.chars().all(is_plain) && !text.ends_with('/') && net::parse(text).is_ok_and(|url| url.path() == "/")
}

/// Why a step can't be made yet.
fn obstacle(step: Result<(), Failure>) -> Option<String> {
    step.err().map(|why| why.to_string())
}

/// How a member joins its cluster.
#[derive(Debug)]
pub struct EtcdMember {
    name: String,
    peer_url: String,
    data: AbsolutePath,
    members: BTreeMap<String, String>,
    founders: BTreeMap<String, String>,
    cluster: Cluster,
    env: AbsolutePath,
    within: Duration,
}

/// The content of the file for etcd's unit.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Env {
    /// Whether the cluster exists.
    exists: bool,
    /// Names and peer URLs of its members.
    members: Vec<(String, String)>,
    /// The peer URL by which the cluster knows this member, if certain.
    known_as: Option<String>,
}

impl Env {
    fn text(&self) -> String {
        let mut text = "# Written by kpull. etcd reads it when it starts for the first time.\n".to_owned();
        if let Some(url) = &self.known_as {
            let _ = writeln!(text, "{KNOWN_AS}{url}");
        }
        let members: Vec<String> = self.members.iter().map(|(name, url)| format!("{name}={url}")).collect();
        let state = if self.exists { "existing" } else { "new" };
        let _ = writeln!(text, "ETCD_INITIAL_CLUSTER={}\nETCD_INITIAL_CLUSTER_STATE={state}", members.join(","));
        text
    }
}

/// The next step, in the order in which they follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Operation {
    /// Nothing.
    Nothing,
    /// Remove the member that this one was before it lost its data.
    Remove(Member),
    /// Add it.
    Add,
    /// Update its peer URL in the cluster.
    Move(Member),
    /// Write the file: the last step.
    Write(Env),
    /// Wait, and why.
    Wait(String),
}

/// What the cluster answers when it is asked for its members.
type Answer = Result<Vec<Member>, Failure>;

impl EtcdMember {
    /// The next step, by its data, its file and the answer of the other members, who are asked only if that
    /// matters.
    fn operation(&self, has_data: bool, env: &str, ask: impl FnOnce() -> Answer) -> Result<Operation> {
        if has_data && self.is_known_here(env) {
            return Ok(Operation::Nothing);
        }
        let operation = match (has_data, ask()) {
            (true, answer) => self.operation_with_data(known_as(env), answer)?,
            (false, Ok(list)) => self.operation_without_data(&list),
            (false, Err(Failure::Silent(why))) => {
                if env.lines().any(|line| line == "ETCD_INITIAL_CLUSTER_STATE=existing") {
                    let file = &self.env;
                    Operation::Wait(format!(
                        "it was about to join a running cluster, but no cluster is running now (to create a new one, remove {file}): {why}"
                    ))
                } else if self.founders.contains_key(&self.name) {
                    Operation::Write(self.founding())
                } else {
                    Operation::Wait(why)
                }
            }
            // the cluster exists: never create a second one
            (false, Err(Failure::Unable(why) | Failure::Refused(why))) => Operation::Wait(why),
        };
        Ok(match operation {
            Operation::Write(wanted) if wanted.text() == env => Operation::Nothing,
            operation => operation,
        })
    }

    /// For a member that was started before: the cluster must know its peer URL.
    fn operation_with_data(&self, known_as: Option<&str>, answer: Answer) -> Result<Operation> {
        let (members, known_here) = (self.members.clone().into_iter().collect(), Some(self.peer_url.clone()));
        let certain = Env { exists: true, members, known_as: known_here };
        let list = match answer {
            Ok(list) => list,
            // it can't start at a peer URL that the cluster does not know
            Err(why) if known_as.is_some() && !self.cluster.endpoints.is_empty() => {
                return Ok(Operation::Wait(why.to_string()));
            }
            // unknown, and it may be the first to start: the next run asks again
            Err(_) => return Ok(Operation::Write(Env { known_as: None, ..certain })),
        };
        let is_here = |member: &&Member| member.peer_urls == [self.peer_url.as_str()];
        match list.iter().find(|member| member.name == self.name) {
            Some(member) if is_here(&member) => Ok(Operation::Write(certain)),
            Some(member) => Ok(Operation::Move(member.clone())),
            // it has started, but has not reported its name yet
            None if list.iter().any(|member| is_here(&member)) => Ok(Operation::Write(certain)),
            None => {
                let Self { name, data, .. } = self;
                Err(error!(ETCD, "the cluster has no member {name}, but {data} contains data of a member")
                    .because("it was removed from the cluster, or the data belongs to another cluster")
                    .help(format!(
                        "run `etcdctl member list`; if you don't need the data, move {data} away, and the member joins again"
                    )))
            }
        }
    }

    /// For a member without data, in a cluster that answers.
    fn operation_without_data(&self, list: &[Member]) -> Operation {
        let ours: Vec<&Member> = list.iter().filter(|member| self.is(member)).collect();
        if let Some(lost) = ours.iter().find(|member| member.has_started()) {
            return self.unless_others_wait(list, Operation::Remove((*lost).clone()));
        }
        match ours.first() {
            None => self.unless_others_wait(list, Operation::Add),
            Some(first) => {
                let founding = self.founding();
                let founders: BTreeMap<_, _> = founding.members.iter().cloned().collect();
                let listed: BTreeMap<_, _> = list
                    .iter()
                    .flat_map(|member| member.peer_urls.iter().map(|url| (member.name.clone(), url.clone())))
                    .collect();
                // named before its first start: the founders are starting
                if !first.name.is_empty() && founders == listed {
                    Operation::Write(founding)
                } else {
                    Operation::Write(self.joining(list))
                }
            }
        }
    }

    /// Whether a member of the cluster is this one, by its name or its peer URL.
    fn is(&self, member: &Member) -> bool {
        member.name == self.name || member.peer_urls.contains(&self.peer_url)
    }

    /// Members change one at a time.
    fn unless_others_wait(&self, list: &[Member], operation: Operation) -> Operation {
        match list.iter().find(|member| !self.is(member) && !member.has_started()) {
            None => operation,
            Some(other) => {
                let name = if other.name.is_empty() { "a member that was added" } else { &other.name };
                Operation::Wait(format!(
                    "{name} ({}) has not started yet, and members change one at a time",
                    other.peer_urls.join(", ")
                ))
            }
        }
    }

    fn founding(&self) -> Env {
        let known_as = Some(self.peer_url.clone());
        Env { exists: false, members: self.founders.clone().into_iter().collect(), known_as }
    }

    /// The current members and this one, whatever their names: etcd compares the URLs.
    fn joining(&self, list: &[Member]) -> Env {
        let mut members = vec![(self.name.clone(), self.peer_url.clone())];
        for member in list {
            for url in member.peer_urls.iter().filter(|url| **url != self.peer_url && is_peer_url(url)) {
                let listed = self.members.iter().find(|(_, known)| *known == url).map(|(name, _)| name);
                let name = match listed {
                    _ if is_plain(&member.name) => member.name.clone(),
                    Some(name) => name.clone(),
                    // nothing in it can start another member or line
                    None => format!("member-{}", member.id.replace(|c: char| !c.is_ascii_alphanumeric(), "")),
                };
                members.push((name, url.clone()));
            }
        }
        members.sort();
        Env { exists: true, members, known_as: Some(self.peer_url.clone()) }
    }

    /// Created atomically with its first entry; `member/` alone also exists after a failed start.
    fn wal(&self) -> PathBuf {
        self.data.join("member/wal")
    }

    /// Whether it was started before.
    fn has_data(&self, work: &Work<'_>) -> Result<bool> {
        Ok(work.host.root.meta(&self.wal())?.is_some())
    }

    /// Whether its file says that the cluster knows its peer URL.
    fn is_known_here(&self, env: &str) -> bool {
        known_as(env) == Some(&self.peer_url)
    }

    /// Observes the host, and asks the other members if necessary.
    fn next_operation(&self, work: &Work<'_>) -> Result<Operation> {
        let members = || work.host.etcd(&self.cluster)?.members();
        self.operation(self.has_data(work)?, &work.host.root.text(&self.env)?, members)
    }

    /// The step in a few words.
    fn summary(&self, operation: &Operation) -> Option<String> {
        Some(match operation {
            Operation::Nothing => return None,
            Operation::Remove(_) => "join the running cluster (lost its data)".to_owned(),
            Operation::Add => "join the running cluster".to_owned(),
            Operation::Move(member) => format!("peer URL {} → {}", member.peer_urls.join(", "), self.peer_url),
            Operation::Write(Env { exists: false, members, .. }) => match members.len() {
                1 => "start a new cluster".to_owned(),
                count => format!("start a new cluster of {count}"),
            },
            Operation::Write(_) => "record its state in the cluster".to_owned(),
            Operation::Wait(_) => "join the cluster when it accepts the member".to_owned(),
        })
    }

    /// Removes the member that this one was. Returns why that can't be done yet; an error if that needs action.
    fn remove(&self, work: &Work<'_>, client: &Client, lost: &Member) -> Result<Option<String>> {
        let endpoints = lost.client_urls.iter().filter_map(|url| Url::parse(url).ok()).collect();
        let itself = Cluster { endpoints, ..self.cluster.clone() };
        if work.host.etcd(&itself)?.members().is_ok() {
            let at = lost.client_urls.join(", ");
            let error = error!(ETCD, "{} has no data on this host, but it is running and answers at {at}", self.name);
            return Err(error.help(
                "if that is another host, set another `name` and `peer_url` on this one; if it is this host's own etcd, whose data was removed while it was running, stop it",
            ));
        }
        // only a quorum read shows that the others can do without it
        if let Err(why) = client.get(Api::V3, "/kpull/quorum") {
            return Ok(Some(format!("most members must be up: {why}")));
        }
        Ok(obstacle(client.remove_member(lost)))
    }

    fn waiting(&self, why: &str) -> Error {
        let is_founder = self.founders.contains_key(&self.name);
        let help = match is_founder {
            true => "start most of the other members; the next run continues from here",
            false => "start the cluster on its founders first; the next run tries again",
        };
        error!(ETCD, "{} waits for a running cluster to join", self.name).because(why).exit(Exit::Unhealthy).help(help)
    }
}

impl Resource for EtcdMember {
    fn about(&self) -> About {
        About::new(EtcdMemberFields::NAME, &self.name, Phase::Units).claiming([Claim::path(&self.env)])
    }

    fn watched_inputs(&self, work: &Work<'_>) -> Result<Option<Vec<WatchedInput>>> {
        let Some(host) = work.live() else { return Ok(Some(Vec::new())) };
        // the other members are asked until it was started and the cluster knows its peer URL
        if !(self.has_data(work)? && self.is_known_here(&host.root.text(&self.env)?)) {
            return Ok(None);
        }
        Ok(Some(vec![WatchedInput::Place(self.wal()), WatchedInput::Path(self.env.to_path_buf())]))
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        let Some(host) = work.live() else { return Ok(None) };
        let operation = self.next_operation(work)?;
        let diff = match &operation {
            Operation::Write(env) => Diff::of(host.root.text(&self.env)?.as_bytes(), env.text().as_bytes(), false),
            _ => None,
        };
        Ok(self.summary(&operation).map(|summary| Change { diff, ..Change::new(summary) }))
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        let started = Instant::now();
        loop {
            let operation = self.next_operation(work)?;
            let obstacle = match &operation {
                Operation::Nothing => return Ok(()),
                Operation::Write(env) => {
                    let access = Ownership::of_file(false, None, None, None).access(work, &self.env)?;
                    return work.host.root.write(&self.env, env.text().as_bytes(), access);
                }
                Operation::Wait(why) => Some(why.clone()),
                Operation::Remove(lost) => self.remove(work, &*work.host.etcd(&self.cluster)?, lost)?,
                Operation::Add => obstacle(work.host.etcd(&self.cluster)?.add_member(&self.peer_url)),
                Operation::Move(member) => obstacle(work.host.etcd(&self.cluster)?.move_member(member, &self.peer_url)),
            };
            // on to the next step, if this one is done
            let Some(why) = obstacle else { continue };
            if started.elapsed() >= self.within || deadline::is_over() {
                return Err(self.waiting(&why));
            }
            std::thread::sleep(PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Host;
    use crate::kind::testing::{RoleFiles, Tree, build_with, refusal};
    use crate::store::Store;

    const A: &str = "https://10.0.0.1:2380";
    const B: &str = "https://10.0.0.2:2380";

    fn fields(more: &str) -> String {
        format!(
            "name = 'b'\npeer_url = '{B}'\ndata = '/d'\nenv = '/e'\nca = '/ca'\n\
             endpoints = ['https://10.0.0.1:2379']\n{more}\n[members]\na = '{A}'\nb = '{B}'\n"
        )
    }

    fn member(more: &str) -> EtcdMember {
        let mut built = build_with::<EtcdMemberFields>(&fields(more), &RoleFiles::default()).unwrap();
        let built: Box<dyn std::any::Any> = built.remove(0);
        *built.downcast().unwrap()
    }

    /// A member in a list; started ones have a client URL.
    fn listed(name: &str, peer_url: &str, started: bool) -> Member {
        let client_urls = if started { vec![peer_url.replace("2380", "2379")] } else { Vec::new() };
        Member { id: "7".to_owned(), name: name.to_owned(), peer_urls: vec![peer_url.to_owned()], client_urls }
    }

    fn text(operation: Operation) -> String {
        match operation {
            Operation::Write(env) => env.text(),
            operation => panic!("{operation:?}"),
        }
    }

    fn silence() -> Result<Vec<Member>, Failure> {
        Err(Failure::Silent("no connection".to_owned()))
    }

    const NEW: &str = "# Written by kpull. etcd reads it when it starts for the first time.\n\
        # the cluster knows it as https://10.0.0.2:2380\n\
        ETCD_INITIAL_CLUSTER=a=https://10.0.0.1:2380,b=https://10.0.0.2:2380\n\
        ETCD_INITIAL_CLUSTER_STATE=new\n";

    #[test]
    fn the_answer_of_a_member_adds_no_line_to_the_file_of_etcd_s_unit() {
        let evil = |id: &str, name: &str| Member { id: id.to_owned(), ..listed(name, "https://10.0.0.9:2380", true) };
        let own = Member { client_urls: Vec::new(), ..listed("", B, false) };
        for (id, name) in [
            ("7\nLD_PRELOAD=/tmp/x.so", ""),
            ("7", "c\nETCD_DATA_DIR=/x"),
            ("7,x=https://10.0.0.8:2380", ""),
            ("7\\", "c="),
        ] {
            let written = text(member("").operation(false, "", || Ok(vec![own.clone(), evil(id, name)])).unwrap());
            assert_eq!(written.lines().count(), 4, "{written}");
            let members = written.lines().nth(2).unwrap().strip_prefix("ETCD_INITIAL_CLUSTER=").unwrap();
            let plain = |c: char| c.is_ascii_alphanumeric() || "=:/.-_,".contains(c);
            assert!(members.chars().all(plain) && members.matches(',').count() == 1, "{written}");
        }
    }

    #[test]
    fn founders_create_a_cluster_when_no_member_answers_and_others_wait() {
        assert_eq!(text(member("").operation(false, "", silence).unwrap()), NEW);
        assert_eq!(member("").operation(false, NEW, silence).unwrap(), Operation::Nothing);
        let operation = member("founders = ['a']").operation(false, "", silence).unwrap();
        assert_eq!(operation, Operation::Wait("no connection".to_owned()));
    }

    #[test]
    fn an_answer_that_is_not_understood_is_no_reason_for_a_new_cluster() {
        let operation = member("").operation(false, "", || Err(Failure::Unable("TLS failed".to_owned()))).unwrap();
        assert_eq!(operation, Operation::Wait("TLS failed".to_owned()));
    }

    #[test]
    fn a_joining_member_creates_no_cluster_when_the_old_one_is_down() {
        let env = NEW.replace("STATE=new", "STATE=existing");
        assert!(
            matches!(member("").operation(false, &env, silence).unwrap(), Operation::Wait(why) if why.contains("remove /e"))
        );
    }

    #[test]
    fn a_first_start_that_is_going_on_is_joined_as_a_founder() {
        let list = vec![listed("a", A, true), listed("b", B, false)];
        assert_eq!(text(member("").operation(false, "", || Ok(list)).unwrap()), NEW);
    }

    #[test]
    fn a_founder_that_comes_when_the_cluster_has_grown_joins_what_there_is() {
        let list = vec![listed("a", A, true), listed("c", "https://10.0.0.3:2380", true), listed("b", B, false)];
        let text = text(member("").operation(false, "", || Ok(list)).unwrap());
        assert!(text.contains("=a=https://10.0.0.1:2380,b=https://10.0.0.2:2380,c=https://10.0.0.3:2380\n"), "{text}");
        assert!(text.ends_with("STATE=existing\n"), "{text}");
    }

    #[test]
    fn a_run_that_was_killed_after_it_added_the_member_is_finished_by_the_next() {
        let list = vec![listed("a", A, true), listed("", B, false)];
        assert_eq!(
            text(member("").operation(false, "", || Ok(list)).unwrap()),
            NEW.replace("STATE=new", "STATE=existing")
        );
    }

    #[test]
    fn a_member_that_ran_and_has_no_data_is_removed_by_its_name_or_address() {
        for lost in [listed("b", "https://10.9.9.9:2380", true), listed("was-b", B, true)] {
            let list = vec![listed("a", A, true), lost.clone()];
            assert_eq!(member("").operation(false, NEW, || Ok(list)).unwrap(), Operation::Remove(lost));
        }
    }

    #[test]
    fn members_are_changed_only_when_all_others_have_started() {
        let list = vec![listed("a", A, true), listed("", "https://10.0.0.3:2380", false)];
        let why =
            "a member that was added (https://10.0.0.3:2380) has not started yet, and members change one at a time";
        assert_eq!(member("").operation(false, "", || Ok(list)).unwrap(), Operation::Wait(why.to_owned()));
    }

    #[test]
    fn a_member_with_data_whose_address_is_known_asks_no_one() {
        let operation = member("").operation(true, NEW, || panic!("asked")).unwrap();
        assert_eq!(operation, Operation::Nothing);
    }

    #[test]
    fn only_a_member_that_asks_no_one_has_watched_inputs() {
        let dir = tempfile::tempdir().unwrap();
        let (data, env) = (dir.path().join("data"), dir.path().join("env"));
        let toml = fields("").replace("'/d'", &format!("{data:?}")).replace("'/e'", &format!("{env:?}"));
        let member = build_with::<EtcdMemberFields>(&toml, &RoleFiles::default()).unwrap().remove(0);
        let (host, store) = (Host::open("/".as_ref()).unwrap(), Store::open(dir.path()).unwrap());
        let watched_inputs = || member.watched_inputs(&Work { host: &host, store: &store, catalog: &[] }).unwrap();
        std::fs::write(&env, NEW).unwrap();
        assert_eq!(watched_inputs(), None);
        std::fs::create_dir_all(data.join("member/wal")).unwrap();
        assert_eq!(
            watched_inputs(),
            Some(vec![WatchedInput::Place(data.join("member/wal")), WatchedInput::Path(env.clone())])
        );
        std::fs::write(&env, NEW.replace("knows it as https://10.0.0.2", "knows it as https://10.9.9.9")).unwrap();
        assert_eq!(watched_inputs(), None);
    }

    #[test]
    fn a_changed_address_is_updated_in_the_cluster_and_waits_for_it() {
        let old = NEW.replace("knows it as https://10.0.0.2", "knows it as https://10.9.9.9");
        let there = listed("b", "https://10.9.9.9:2380", true);
        let list = vec![listed("a", A, true), there.clone()];
        assert_eq!(member("").operation(true, &old, || Ok(list)).unwrap(), Operation::Move(there));
        assert_eq!(member("").operation(true, &old, silence).unwrap(), Operation::Wait("no connection".to_owned()));
        let list = vec![listed("a", A, true), listed("b", B, true)];
        let text = text(member("").operation(true, &old, || Ok(list)).unwrap());
        assert!(text.contains(KNOWN_AS) && text.ends_with("STATE=existing\n"), "{text}");
    }

    #[test]
    fn a_member_that_runs_already_may_be_the_first_that_comes_up() {
        let env = text(member("").operation(true, "", silence).unwrap());
        assert!(!env.contains(KNOWN_AS), "{env}");
        assert_eq!(member("").operation(true, &env, silence).unwrap(), Operation::Nothing);
    }

    #[test]
    fn data_of_a_removed_member_is_an_error() {
        let error = member("").operation(true, "", || Ok(vec![listed("a", A, true)])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the cluster has no member b, but /d contains data of a member: it was removed from the cluster, or the data belongs to another cluster"
        );
    }

    #[test]
    fn a_mistake_is_refused_with_its_field() {
        for (from, to, why) in [
            ("name = 'b'", "name = 'bb'", "`name`: `members` has no `bb`; did you mean `b`?"),
            (
                "peer_url = 'https://10.0.0.2:2380'",
                "peer_url = 'https://10.0.0.9:2380'",
                "`peer_url`: `members` has https://10.0.0.2:2380 for `b`",
            ),
            (
                "a = 'https://10.0.0.1:2380'",
                &format!("a = '{B}'"),
                "`members`: `b` and `a` are both at https://10.0.0.2:2380",
            ),
            ("ca = '/ca'", "ca = '/ca'\nfounders = ['c']", "`founders`: `members` has no `c`"),
            ("ca = '/ca'", "ca = '/ca'\nfounders = []", "`founders`: a new cluster needs a founder: name at least one"),
            (
                "a = 'https://10.0.0.1:2380'",
                "a = 'x,y'",
                "`members`: write them like `https://HOST:2380`, and not `x,y`",
            ),
        ] {
            assert_eq!(refusal("etcd_member", &fields("").replace(from, to)), why);
        }
    }

    #[test]
    fn a_tree_joins_no_cluster() {
        let tree = Tree::new();
        assert_eq!(tree.summary(&member("")), None);
    }
}
