//! `[[probe]]`: a health check. It changes nothing; when it fails for too long, the run ends with exit code 3.

use minijinja::value::{Serde, Value};
use reqwest::Url;

use crate::error::visible;
use crate::host::deadline;
use crate::host::process::{Command, Ended, run};
use crate::host::unit_files::is_template;
use crate::host::web::{self, Question, Reply};
use crate::kind::etcd_key::client_pair;
use crate::kind::prelude::*;
use crate::template::Expression;
use crate::text::shortened;

/// How long one attempt may take.
const ONE_TRY: Duration = Duration::from_secs(5);

/// How many bytes of a body `expect_body` searches.
const SEARCHED: usize = 64 * 1024;

/// The largest body for `expect`, in bytes.
const LARGEST_BODY: usize = 1024 * 1024;

/// How many bytes of a body are read for its first line.
const GLANCE: usize = 1024;

/// How many characters of an answer a message contains.
const SHOWN: usize = 120;

/// The longest first line of an answer that is reported, in characters.
const LONGEST_LINE: usize = 60;

/// The names that `expect` can use for an HTTP answer.
const OF_WEB: &[&str] = &["status", "body", "json"];

/// The names that `expect` can use for a program.
const OF_COMMAND: &[&str] = &["code", "output", "lines"];

/// Fields of `[[probe]]`. Exactly one of `tcp`, `http`, `https`, `unit` and `command` is set.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProbeFields {
    /// Its name. Default: what it checks.
    name: Option<String>,
    /// `HOST:PORT` that must accept a connection.
    tcp: Option<String>,
    /// An `http://` address that must answer.
    http: Option<String>,
    /// An `https://` address that must answer.
    https: Option<String>,
    /// A unit that must be active.
    unit: Option<String>,
    /// A program, with its arguments, that must succeed.
    command: Option<Vec<String>>,
    /// PEM file with the only authorities that are trusted for the server's certificate. Default: the system's.
    ca: Option<AbsolutePath>,
    /// PEM file with a client certificate.
    client_cert: Option<AbsolutePath>,
    /// PEM file with the key of `client_cert`.
    client_key: Option<AbsolutePath>,
    /// The expected status, or a list of them. Default: 200 to 399.
    expect_status: Option<Statuses>,
    /// A text that the first 64 KiB of the answer must contain.
    expect_body: Option<String>,
    /// An expression that must be true of the answer: over `status`, `body` and `json`, or `code`, `output` and `lines`.
    expect: Option<String>,
    /// Whether a run that changed something executes it at its end, and fails if it fails. If false, only `kpull verify` runs it. Default:
    /// true.
    decides: Option<bool>,
    /// Ids of resources that kpull does not change until the probe passes.
    #[serde(default)]
    before: Vec<String>,
    /// How long it may fail before the failure counts. Default: `30s`.
    within: Option<HumanDuration>,
    /// The pause between two attempts. Default: `1s`.
    every: Option<HumanDuration>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a status like 200, or a list of them")]
enum Statuses {
    One(u16),
    Some(Vec<u16>),
}

impl Fields for ProbeFields {
    fn build(mut self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        let given = [
            ("tcp", self.tcp.is_some()),
            ("http", self.http.is_some()),
            ("https", self.https.is_some()),
            ("unit", self.unit.is_some()),
            ("command", self.command.is_some()),
        ];
        let given: Vec<&str> = given.into_iter().filter_map(|(field, given)| given.then_some(field)).collect();
        let field = match given[..] {
            [field] => field,
            [] => return Err(build.invalid("name", "set one of `tcp`, `http`, `https`, `unit` and `command`")),
            [_, second, ..] => {
                return Err(build.invalid(second, &format!("a probe checks only one thing: remove `{}`", given[0])));
            }
        };
        let is_web = matches!(field, "http" | "https");
        for (field, file) in [("ca", &self.ca), ("client_cert", &self.client_cert), ("client_key", &self.client_key)] {
            build.refuse_if(file.is_some() && self.https.is_none(), field, "only for `https`")?;
        }
        for (field, given) in
            [("expect_status", self.expect_status.is_some()), ("expect_body", self.expect_body.is_some())]
        {
            build.refuse_if(given && !is_web, field, "only for `http` and `https`")?;
        }
        let expect = match (&self.expect, field) {
            (None, _) => None,
            (Some(text), "http" | "https") => Some(Expression::parse(text, OF_WEB)),
            (Some(text), "command") => Some(Expression::parse(text, OF_COMMAND)),
            (Some(_), _) => return Err(build.invalid("expect", "only for `http`, `https` and `command`")),
        };
        let expect = expect.transpose().map_err(|why| build.invalid("expect", &why))?;
        let (target, what) = self.target(field, build)?;
        Ok(vec![Box::new(Probe {
            name: self.name.unwrap_or(target),
            sensitive: build.is_secret(),
            what,
            expect,
            decides: self.decides.unwrap_or(true),
            before: self.before,
            within: self.within.map_or(Duration::from_secs(30), |duration| duration.0),
            every: self.every.map_or(Duration::from_secs(1), |duration| duration.0),
        })])
    }
}

impl ProbeFields {
    /// What `field` names, as a name for the probe and to ask it.
    fn target(&mut self, field: &str, build: &dyn Build) -> Result<(String, ProbeTarget)> {
        Ok(match field {
            "tcp" => {
                let target = self.tcp.take().unwrap_or_default();
                let port =
                    target.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
                if !matches!(port, Some(Ok(1..))) {
                    return Err(build.invalid("tcp", "write it like `127.0.0.1:2379` or `[::1]:2379`"));
                }
                (target.clone(), ProbeTarget::Tcp(target))
            }
            "unit" => {
                let unit = self.unit.take().unwrap_or_default();
                build.refuse_if(!unit.contains('.'), "unit", "write the full name, like `etcd.service`")?;
                let why = "a template unit does not run: name an instance, like `name@instance.service`";
                build.refuse_if(is_template(&unit), "unit", why)?;
                (unit.clone(), ProbeTarget::Unit(unit))
            }
            "command" => {
                let argv = self.command.take().unwrap_or_default();
                build.refuse_if(!is_argv(&argv), "command", "write a program and its arguments")?;
                (argv.join(" "), ProbeTarget::Command(argv))
            }
            _ => {
                let text = self.http.take().or(self.https.take()).unwrap_or_default();
                let url = Url::parse(&text).map_err(|error| build.invalid(field, &error.to_string()))?;
                build.refuse_if(url.scheme() != field, field, &format!("it must start with `{field}://`"))?;
                let has_password = !url.username().is_empty() || url.password().is_some();
                let why = "it must not contain a password, because plans and reports show the address";
                build.refuse_if(has_password, field, why)?;
                let statuses = match self.expect_status.take() {
                    None => Vec::new(),
                    Some(Statuses::One(status)) => vec![status],
                    Some(Statuses::Some(statuses)) => statuses,
                };
                let shown = match build.is_secret() {
                    true => format!("{}/…", url.origin().ascii_serialization()),
                    false => url.to_string(),
                };
                let (ca, body) = (self.ca.take(), self.expect_body.take());
                let client = client_pair(build, (self.client_cert.take(), self.client_key.take()))?;
                let web = Web { shown, url, ca, client, statuses, body };
                (text, ProbeTarget::Web(Box::new(web)))
            }
        })
    }
}

/// A health check.
#[derive(Debug)]
pub struct Probe {
    name: String,
    what: ProbeTarget,
    /// Whether its output is kept out of messages.
    sensitive: bool,
    expect: Option<Expression>,
    /// Whether a run fails if it does not pass.
    pub decides: bool,
    before: Vec<String>,
    within: Duration,
    every: Duration,
}

#[derive(Debug)]
enum ProbeTarget {
    Tcp(String),
    Web(Box<Web>),
    Unit(String),
    Command(Vec<String>),
}

#[derive(Debug)]
struct Web {
    url: Url,
    /// The address in messages: without its path if that contains a secret.
    shown: String,
    ca: Option<AbsolutePath>,
    client: Option<(AbsolutePath, AbsolutePath)>,
    /// Empty: 200 to 399.
    statuses: Vec<u16>,
    body: Option<String>,
}

impl Probe {
    /// Its `https://` address, if it has one.
    pub fn https(&self) -> Option<&Url> {
        match &self.what {
            ProbeTarget::Web(web) => Some(&web.url).filter(|url| url.scheme() == "https"),
            _ => None,
        }
    }

    /// Probes once, for at most a few seconds. Returns the first line of the answer, empty if there is none or it is
    /// sensitive; the error says what is wrong, for people. In a tree every probe passes.
    pub fn ask(&self, host: &Host) -> Result<String, String> {
        if !host.is_live() {
            return Ok(String::new());
        }
        match &self.what {
            ProbeTarget::Tcp(target) => host.web.connect(target, ONE_TRY).map(|()| String::new()),
            ProbeTarget::Web(web) => self.ask_server(web, host),
            ProbeTarget::Unit(name) => {
                let answer = host.systemd().and_then(|systemd| systemd.units(std::slice::from_ref(name)));
                let unit = answer.map_err(|error| error.to_string())?.remove(name).unwrap_or_default();
                match unit.active.as_str() {
                    "active" => Ok(String::new()),
                    "" => Err(format!("{name} does not exist in systemd")),
                    state => Err(format!("{name} is {state} ({})", unit.sub)),
                }
            }
            ProbeTarget::Command(argv) => self.ask_program(argv),
        }
    }

    fn ask_server(&self, web: &Web, host: &Host) -> Result<String, String> {
        let limit = match (&self.expect, &web.body) {
            (Some(_), _) => LARGEST_BODY,
            (None, Some(_)) => SEARCHED,
            (None, None) => GLANCE,
        };
        let Reply { status, body, broken } = host.web.ask(&web.question(host, limit + 1)?)?;
        let is_fine = match &web.statuses[..] {
            // an expression that uses the status decides about it
            [] => (200..400).contains(&status) || self.asks_for("status"),
            statuses => statuses.contains(&status),
        };
        if !is_fine {
            let wanted = match &web.statuses[..] {
                [] => "200 to 399".to_owned(),
                statuses => statuses.iter().map(u16::to_string).collect::<Vec<_>>().join(" or "),
            };
            return Err(format!("{} answered {status} instead of {wanted}", web.shown));
        }
        match broken {
            Some(why) if limit > GLANCE => return Err(visible(&format!("{} stopped answering: {why}", web.shown))),
            // only the first line was needed, for people
            _ => {}
        }
        if let Some(wanted) = &web.body
            && !String::from_utf8_lossy(&body[..body.len().min(SEARCHED)]).contains(wanted.as_str())
        {
            let wanted = if self.sensitive { "what `expect_body` says".to_owned() } else { format!("`{wanted}`") };
            return Err(visible(&format!("{} answered without {wanted}", web.shown)));
        }
        if self.expect.is_some() && body.len() > LARGEST_BODY {
            return Err(format!("{} answered with more than {LARGEST_BODY} bytes, too many for `expect`", web.shown));
        }
        let text = String::from_utf8_lossy(&body);
        let json = serde_json::from_slice::<serde_json::Value>(&body).ok();
        let json = json.map_or(Value::UNDEFINED, |json| Value::from(Serde(json)));
        let values = [("status", Value::from(status)), ("body", Value::from(&*text)), ("json", json)];
        self.hold(values, || format!("{} answered {status} {}", web.shown, first_line(&text)))?;
        Ok(self.shown(&text))
    }

    fn ask_program(&self, argv: &[String]) -> Result<String, String> {
        let output = run(&Command::new(argv, ONE_TRY)).map_err(|error| error.to_string())?;
        let (code, is_late) = match output.ended {
            Ended::Exited(status) => (status.code(), false),
            Ended::TimedOut(_) => (None, true),
        };
        if !output.is_success() && (is_late || !self.asks_for("code")) {
            return Err(output.failure_of(format!("{} failed", argv[0]), self.sensitive).to_string());
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let lines: Vec<Value> = text.lines().map(Value::from).collect();
        let values = [("code", Value::from(code)), ("output", Value::from(&*text)), ("lines", Value::from(lines))];
        let answer = || format!("{} ended with {}; its output: {}", argv[0], output.verdict(), first_line(&text));
        self.hold(values, answer)?;
        Ok(self.shown(&text))
    }

    fn asks_for(&self, name: &str) -> bool {
        self.expect.as_ref().is_some_and(|expect| expect.uses(name))
    }

    /// Checks `expect` for an answer, which `answer` describes in the message.
    fn hold<const N: usize>(
        &self,
        values: [(&'static str, Value); N],
        answer: impl FnOnce() -> String,
    ) -> Result<(), String> {
        let Some(expect) = &self.expect else { return Ok(()) };
        let why = match expect.holds(values) {
            Ok(true) => return Ok(()),
            Ok(false) => String::new(),
            Err(why) => format!(" ({why})"),
        };
        Err(match self.sensitive {
            true => "`expect` is not true (the answer is not shown: it is sensitive)".to_owned(),
            false => visible(&format!("`{}` is not true{why}: {}", expect.text(), answer().trim_end())),
        })
    }

    /// What is reported of a good answer: its first line, unless that is a whole document.
    fn shown(&self, text: &str) -> String {
        let line = first_line(text);
        if self.sensitive || line.chars().count() > LONGEST_LINE { String::new() } else { line }
    }
}

/// The first non-empty line of an answer, shortened, with control characters made visible.
fn first_line(text: &str) -> String {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty());
    shortened(&visible(line.unwrap_or_default()), SHOWN)
}

impl Web {
    /// The HTTP request.
    fn question(&self, host: &Host, most: usize) -> Result<Question, String> {
        let client = self.client.as_ref().map(|(cert, key)| (&**cert, &**key));
        Ok(Question {
            url: self.url.clone(),
            shown: self.shown.clone(),
            json: None,
            headers: Vec::new(),
            tls: web::tls(&host.root, self.ca.as_deref(), client)?,
            connect: ONE_TRY,
            limit: ONE_TRY,
            most,
        })
    }
}

impl Resource for Probe {
    fn about(&self) -> About {
        let after = match &self.what {
            ProbeTarget::Unit(name) => vec![ResourceId::new("unit", name)],
            _ => Vec::new(),
        };
        // it only runs after a change
        let (before, watched) = (self.before.clone(), Some(Vec::new()));
        About { after, before, watched, is_gate: true, ..About::new(ProbeFields::NAME, &self.name, Phase::Probes) }
    }

    fn wait(&self, work: &Work<'_>) -> Result<(), String> {
        deadline::retry(self.within, self.every, || self.ask(work.host).map(drop))
    }

    fn observe(&self, _: &Work<'_>) -> Result<Option<Change>> {
        Ok(None)
    }

    fn apply(&self, _: &Work<'_>, _: &Change) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;
    use crate::kind::testing::{Tree, one, one_secret, refusal};
    use crate::store::Store;

    /// Asks once, on the machine itself.
    fn ask(fields: &str) -> Result<String, String> {
        one("probe", fields).as_kind::<Probe>().unwrap().ask(&Host::open("/".as_ref()).unwrap())
    }

    fn check(fields: &str) -> Result<(), String> {
        ask(fields).map(|_| ())
    }

    /// A server that gives one answer to `count` requests.
    fn serve(answer: &'static str, count: usize) -> (std::net::SocketAddr, std::thread::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            for _ in 0..count {
                let (mut connection, _) = listener.accept().unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    if connection.read(&mut byte).unwrap() == 0 {
                        break;
                    }
                    request.push(byte[0]);
                }
                connection.write_all(answer.as_bytes()).unwrap();
            }
        });
        (address, server)
    }

    #[test]
    fn a_port_that_accepts_connections_is_healthy_and_a_closed_one_is_not() {
        // an address of its own: nobody else takes the port when it is free again
        let listener = TcpListener::bind("127.77.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        check(&format!("tcp = '{address}'")).unwrap();
        drop(listener);
        let why = check(&format!("tcp = '{address}'")).unwrap_err();
        assert!(why.starts_with(&format!("can't connect to {address}: ")), "{why}");
    }

    #[test]
    fn an_answer_is_judged_by_its_status_and_body() {
        let (address, server) = serve("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", 4);
        let url = format!("http://{address}/healthz");
        check(&format!("http = '{url}'\nexpect_body = 'ok'")).unwrap();
        check(&format!("http = '{url}'\nexpect_status = [204, 200]")).unwrap();
        assert_eq!(
            check(&format!("http = '{url}'\nexpect_body = 'fine'")),
            Err(format!("{url} answered without `fine`"))
        );
        assert_eq!(
            check(&format!("http = '{url}'\nexpect_status = 204")),
            Err(format!("{url} answered 200 instead of 204"))
        );
        server.join().unwrap();
    }

    #[test]
    fn an_error_of_the_server_is_none_of_the_usual_statuses() {
        let (address, server) = serve("HTTP/1.1 503 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", 1);
        let why = check(&format!("http = 'http://{address}/'")).unwrap_err();
        assert_eq!(why, format!("http://{address}/ answered 503 instead of 200 to 399"));
        server.join().unwrap();
    }

    #[test]
    fn both_sides_of_tls_show_certificates_from_files() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: String| {
            std::fs::write(dir.path().join(name), text).unwrap();
            dir.path().join(name).display().to_string()
        };
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = params.self_signed(&ca_key).unwrap();
        let issuer = rcgen::Issuer::new(params, &ca_key);
        let issue = |name: &str| {
            let key = rcgen::KeyPair::generate().unwrap();
            (rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap(), key)
        };
        let (server_cert, server_key) = issue("127.0.0.1");
        let (client_cert, client_key) = issue("client");

        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca.der().clone()).unwrap();
        let verifier = rustls::server::WebPkiClientVerifier::builder(roots.into()).build().unwrap();
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(server_key.serialize_der().into());
        let config = rustls::ServerConfig::builder()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![server_cert.der().clone()], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let config = std::sync::Arc::new(config);
        let server = std::thread::spawn(move || {
            for _ in 0..3 {
                let (socket, _) = listener.accept().unwrap();
                let mut tls = rustls::StreamOwned::new(rustls::ServerConnection::new(config.clone()).unwrap(), socket);
                // a refused handshake is what two of the three are for
                if tls.read(&mut [0; 1024]).is_ok_and(|length| length > 0) {
                    tls.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").unwrap();
                    tls.conn.send_close_notify();
                    let _ = tls.flush();
                }
            }
        });

        let url = format!("https = 'https://127.0.0.1:{port}/'");
        let ca = file("ca.pem", ca.pem());
        let client = format!(
            "client_cert = '{}'\nclient_key = '{}'",
            file("client.pem", client_cert.pem()),
            file("client.key", client_key.serialize_pem())
        );
        check(&format!("{url}\nca = '{ca}'\n{client}")).unwrap();
        let why = check(&format!("{url}\nca = '{ca}'")).unwrap_err();
        assert!(why.contains("does not answer"), "a server that wants a certificate gets one: {why}");
        let why = check(&format!("{url}\n{client}")).unwrap_err();
        assert!(why.contains("certificate"), "an authority that nobody named is not trusted: {why}");
        server.join().unwrap();
    }

    #[test]
    fn an_expression_judges_what_a_server_answers() {
        let answer =
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 21\r\n\r\n\n{\"health\": \"\u{1b}[2Jno\"}";
        let (address, server) = serve(answer, 4);
        let url = format!("http://{address}/");
        let expect = |text: &str| ask(&format!("http = '{url}'\nexpect = \"{text}\""));
        assert_eq!(expect("'no' in body and status == 200"), Ok("{\"health\": \"\\u{1b}[2Jno\"}".to_owned()));
        assert_eq!(
            expect("status == 204").unwrap_err(),
            format!("`status == 204` is not true: {url} answered 200 {{\"health\": \"\\u{{1b}}[2Jno\"}}")
        );
        // a control character is no JSON
        let why = expect("json.health == 'no'").unwrap_err();
        assert!(why.starts_with("`json.health == 'no'` is not true (undefined value"), "{why}");
        let both = ask(&format!("http = '{url}'\nexpect_status = 204\nexpect = \"'no' in body\""));
        assert_eq!(both, Err(format!("{url} answered 200 instead of 204")));
        server.join().unwrap();
    }

    #[test]
    fn an_expression_reads_the_health_of_etcd_and_may_want_a_bad_status() {
        let answer = "HTTP/1.1 503 No\r\nConnection: close\r\nContent-Length: 18\r\n\r\n{\"health\": \"true\"}";
        let (address, server) = serve(answer, 2);
        let expect = |text: &str| ask(&format!("http = 'http://{address}/'\nexpect = \"{text}\""));
        assert!(expect("json.health == 'true'").unwrap_err().contains("answered 503 instead of 200 to 399"));
        assert_eq!(expect("json.health == 'true' and status == 503"), Ok("{\"health\": \"true\"}".to_owned()));
        server.join().unwrap();
    }

    #[test]
    fn an_expression_checks_the_output_and_exit_code_of_a_program() {
        let three = "command = ['printf', 'a\\nb\\nc\\n']";
        assert_eq!(ask(&format!("{three}\nexpect = 'lines | length >= 3'")), Ok("a".to_owned()));
        assert_eq!(
            ask(&format!("{three}\nexpect = 'lines | length > 3'")).unwrap_err(),
            "`lines | length > 3` is not true: printf ended with exit status: 0; its output: a"
        );
        let fails = "command = ['sh', '-c', 'echo x; exit 4']";
        assert_eq!(
            ask(&format!("{fails}\nexpect = 'output | trim == \"x\"'")).unwrap_err(),
            "sh failed: exit status: 4\nx"
        );
        ask(&format!("{fails}\nexpect = 'code == 4'")).unwrap();
    }

    #[test]
    fn an_answer_or_condition_with_a_secret_is_not_reported() {
        let host = Host::open("/".as_ref()).unwrap();
        let ask = |expect: &str| {
            let probe = one_secret("probe", &format!("command = ['echo', 'hunter2']\nexpect = \"{expect}\""));
            probe.as_kind::<Probe>().unwrap().ask(&host)
        };
        assert_eq!(ask("output | trim == 'hunter2'"), Ok(String::new()));
        let why = ask("output | trim == 'hunter3'").unwrap_err();
        assert_eq!(why, "`expect` is not true (the answer is not shown: it is sensitive)");
    }

    #[test]
    fn an_address_with_a_secret_in_it_is_shown_without_its_path() {
        let answer = "HTTP/1.1 401 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        let (address, server) = serve(answer, 1);
        let host = Host::open("/".as_ref()).unwrap();
        let ask = |url: &str| {
            one_secret("probe", &format!("name = 'n'\nhttp = '{url}'"))
                .as_kind::<Probe>()
                .unwrap()
                .ask(&host)
                .unwrap_err()
        };
        // hunter2 by a filter of templates
        let why = ask(&format!("http://{address}/2retnuh?key=2retnuh"));
        assert_eq!(why, format!("http://{address}/… answered 401 instead of 200 to 399"));
        server.join().unwrap();
        let why = ask(&format!("http://{address}/2retnuh?key=2retnuh"));
        assert!(why.starts_with(&format!("http://{address}/… does not answer")) && !why.contains("2retnuh"), "{why}");
    }

    #[test]
    fn an_expression_that_can_not_be_read_is_refused_when_the_host_is_resolved() {
        let why = refusal("probe", "http = 'http://x/'\nexpect = 'status =='");
        assert!(why.starts_with("`expect`: syntax error: "), "{why}");
        let why = refusal("probe", "command = ['true']\nexpect = 'line | length > 1'");
        assert_eq!(why, "`expect`: `line` is not known in it: did you mean `lines`?");
        assert!(refusal("probe", "tcp = 'a:1'\nexpect = 'status == 200'").starts_with("`expect`: only for"));
    }

    #[test]
    fn a_file_that_is_missing_is_named() {
        let why = check("https = 'https://127.0.0.1:1/'\nca = '/no/such/ca.pem'").unwrap_err();
        assert_eq!(why, "there is no file /no/such/ca.pem");
    }

    #[test]
    fn a_failed_command_reports_its_last_output() {
        check("command = ['true']").unwrap();
        let why = check("command = ['sh', '-c', 'echo sick; exit 1']").unwrap_err();
        assert_eq!(why, "sh failed: exit status: 1\nsick");
    }

    #[test]
    fn a_probe_is_repeated_until_it_passes_or_its_time_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let (host, store) = (Host::open("/".as_ref()).unwrap(), Store::open(dir.path()).unwrap());
        let work = Work { host: &host, store: &store, catalog: &[] };
        // succeeds from the second time on: making a directory fails when it is there
        let path = dir.path().join("once").display().to_string();
        let late = format!("command = ['sh', '-c', '! mkdir {path}']\nwithin = '60s'\nevery = '1ms'");
        one("probe", &late).as_kind::<Probe>().unwrap().wait(&work).unwrap();
        let never = one("probe", "command = ['false']\nwithin = '0s'");
        assert!(never.as_kind::<Probe>().unwrap().wait(&work).unwrap_err().starts_with("false failed"));
    }

    #[test]
    fn a_tree_is_not_asked() {
        let tree = Tree::new();
        let probe = one("probe", "command = ['false']");
        probe.as_kind::<Probe>().unwrap().wait(&tree.work()).unwrap();
        assert_eq!(tree.summary(&*probe), None);
    }

    #[test]
    fn a_probe_asks_one_thing_and_shows_no_password() {
        assert!(refusal("probe", "name = 'x'").contains("set one of"));
        assert!(
            refusal("probe", "tcp = 'a:1'\nunit = 'b.service'").starts_with("`unit`: a probe checks only one thing")
        );
        assert!(refusal("probe", "https = 'https://me:hunter2@x/'").contains("it must not contain a password"));
        assert!(refusal("probe", "tcp = 'localhost'").starts_with("`tcp`: "));
        assert!(refusal("probe", "tcp = 'a:1'\nca = '/x'").starts_with("`ca`: "));
        assert_eq!(one("probe", "unit = 'etcd.service'").about().key, "etcd.service");
    }
}
