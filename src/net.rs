//! HTTP(S) for all of kpull: one client with limits on time and size, and with retries.

mod address;
mod client;
#[expect(
    clippy::disallowed_methods,
    reason = "below the state directory, which is nobody's but ours, or an operator's own command"
)]
pub mod download;
mod failure;
mod options;
mod reply;
pub mod server;
#[cfg(test)]
pub(crate) mod testing;
pub mod writeback;

use std::io::Read;

use crate::error::Result;
pub(crate) use address::read;
pub use address::{below, parse, server_of, shown};
pub use client::{Client, Conditions};
pub(crate) use client::{Request, direct};
pub(crate) use failure::{Failure, Retryable, is_tls, retry};
pub use options::{LoadedOptions, Options};
pub use reply::{Kind, Reply, from_io, read_all};
pub(crate) use reply::{Pace, STEADY, too_slow};

/// A download.
pub struct Download {
    /// The kind of the answer.
    pub kind: Kind,
    /// The remaining bytes of the body, if the server sent that.
    pub length: Option<u64>,
    /// See [`Reply::state`].
    pub state: Option<String>,
    /// The body. Read failures are [`crate::Error`]s inside an [`std::io::Error`].
    pub body: Box<dyn Read>,
}

/// Downloads files: in this process, or in one without rights.
pub trait Get: std::fmt::Debug {
    /// Requests the body at an address.
    fn get(&self, url: &str, conditions: &Conditions<'_>) -> Result<Download>;
}

impl Get for Options {
    fn get(&self, url: &str, conditions: &Conditions<'_>) -> Result<Download> {
        Ok(Client::new(self)?.get(url, conditions)?.into())
    }
}

impl From<Reply> for Download {
    fn from(reply: Reply) -> Self {
        let (kind, length, state) = (reply.kind, reply.length, reply.state().map(str::to_owned));
        Self { kind, length, state, body: Box::new(reply) }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::failure::{LONGEST_RETRY_AFTER, pause, retry_after, spread};
    use super::testing::{Answer, Authority, Server};
    use super::*;
    use crate::error::Error;

    fn once() -> Options {
        Options { retries: Some(0), ..Options::default() }
    }

    fn get(options: &Options, url: &str) -> Result<Reply> {
        Client::new(options)?.get(url, &Conditions::default())
    }

    fn body(options: &Options, url: &str) -> Vec<u8> {
        read_all(get(options, url).unwrap(), 1000).unwrap()
    }

    fn problem(options: &Options, url: &str) -> Error {
        get(options, url).err().unwrap()
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    /// After how many seconds a body is given up that comes like this, second by second; `None` when it is not within an hour.
    fn given_up(bytes: impl Fn(u64) -> u64) -> Option<u64> {
        let mut pace = Pace::new(Duration::from_secs(20));
        let began = pace.last;
        (1..3600).find(|second| pace.check_at(bytes(*second), began + Duration::from_secs(*second)).is_err())
    }

    #[test]
    fn an_answer_that_comes_by_drops_is_given_up_after_a_minute_whatever_its_size() {
        assert_eq!(given_up(|_| 1500), Some(63));
        assert_eq!(given_up(|_| 1000), Some(20), "which is not even waited for");
        assert_eq!(given_up(|_| STEADY), None);
        // a pause is nothing bad
        assert_eq!(given_up(|second| if second % 60 < 15 { 1100 } else { 2 * STEADY }), None);
    }

    #[test]
    fn an_answer_can_not_live_on_what_it_has_sent_quickly_before() {
        let quick_then_drops = |second| if second <= 100 { 100 * STEADY } else { 1500 };
        assert_eq!(given_up(quick_then_drops), Some(163));
    }

    #[test]
    fn only_the_pinned_authority_is_trusted() {
        let (ours, other) = (Authority::new(), Authority::new());
        let server = Server::secure(ours.server("127.0.0.1", None), |_| Answer::new(200, "hello"));
        let url = server.url("a");
        assert_eq!(body(&Options { ca: Some(ours.file()), ..once() }, &url), b"hello");
        for options in [Options { ca: Some(other.file()), ..once() }, once()] {
            let error = problem(&options, &url);
            assert!(error.to_string().contains(": TLS failed: the server's certificate is not valid: "), "{error}");
            assert!(error.advice().unwrap().contains("ca = \"FILE\""));
        }
        assert_eq!(server.seen().len(), 1);
    }

    #[test]
    fn a_certificate_for_another_name_is_refused_by_name() {
        let authority = Authority::new();
        let server = Server::secure(authority.server("elsewhere", None), |_| Answer::new(200, ""));
        let error = problem(&Options { ca: Some(authority.file()), ..once() }, &server.url(""));
        assert!(error.to_string().contains("elsewhere"), "{error}");
        assert!(error.advice().unwrap().contains("the name that the certificate was issued for"));
    }

    #[test]
    fn a_server_that_wants_a_client_certificate_gets_it() {
        let authority = Authority::new();
        let tls = authority.server("127.0.0.1", Some(&authority));
        let server = Server::secure(tls, |_| Answer::new(200, "hello"));
        let mut options = Options { ca: Some(authority.file()), ..once() };
        let error = problem(&options, &server.url(""));
        assert!(error.advice().unwrap().contains("client_cert"), "{error}: {:?}", error.advice());
        let (certificate, key) = authority.issue("host1");
        options = Options { client_cert: Some(certificate), client_key: Some(key), ..options };
        assert_eq!(body(&options, &server.url("")), b"hello");
    }

    #[test]
    fn credentials_come_from_a_file_and_are_sent() {
        let server = Server::plain(|_| Answer::new(200, ""));
        let token = file("hunter2\n");
        get(&Options { bearer: Some(token.path().into()), ..once() }, &server.url("")).unwrap();
        let pair = file("me:pass:word\n");
        get(&Options { basic: Some(pair.path().into()), ..once() }, &server.url("")).unwrap();
        let seen = server.seen();
        assert_eq!(seen[0].header("authorization"), Some("Bearer hunter2"));
        assert_eq!(seen[1].header("authorization"), Some("Basic bWU6cGFzczp3b3Jk"));
    }

    #[test]
    fn a_file_that_is_missing_or_wrong_is_named_and_its_contents_are_not() {
        let wrong = file("hunter2");
        let authority = Authority::new();
        let path = wrong.path().to_path_buf();
        let none = PathBuf::from("/nonexistent/file");
        for (options, expected) in [
            (Options { bearer: Some(none.clone()), ..once() }, "`bearer`: /nonexistent/file can't be read"),
            (Options { ca: Some(none), ..once() }, "`ca`: /nonexistent/file can't be read"),
            (Options { basic: Some(path.clone()), ..once() }, "contains no `:`"),
            (Options { ca: Some(path.clone()), ..once() }, "contains no certificate"),
            (
                Options { client_cert: Some(path.clone()), client_key: Some(path.clone()), ..once() },
                "contains no certificate",
            ),
            (
                Options { client_cert: Some(authority.issue("a").0), client_key: Some(path), ..once() },
                "contains no private key",
            ),
        ] {
            let error = Client::new(&options).err().unwrap();
            assert!(error.to_string().contains(expected), "{error}");
            assert!(!error.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn the_key_of_another_certificate_is_refused() {
        let authority = Authority::new();
        let ((certificate, _), (_, key)) = (authority.issue("a"), authority.issue("b"));
        let error = Client::new(&Options { client_cert: Some(certificate), client_key: Some(key), ..once() });
        assert_eq!(error.err().unwrap().advice().map(|help| help.contains("must be the key of")), Some(true));
    }

    #[test]
    fn a_redirect_from_https_to_http_is_refused() {
        let authority = Authority::new();
        let plain = Server::plain(|_| Answer::new(200, "tampered"));
        let to = plain.url("b");
        let server = Server::secure(authority.server("127.0.0.1", None), move |_| {
            Answer::new(302, "").with("Location", to.clone())
        });
        let error = problem(&Options { ca: Some(authority.file()), ..once() }, &server.url("a"));
        assert!(error.to_string().contains("redirects from https to http://127.0.0.1"), "{error}");
        assert!(plain.seen().is_empty());
    }

    #[test]
    fn a_redirect_leads_to_no_other_scheme_and_not_round_and_round() {
        let file = Server::plain(|_| Answer::new(301, "").with("Location", "file:///etc/passwd"));
        assert!(problem(&once(), &file.url("")).to_string().ends_with("redirects to a file address"));
        let circle = Server::plain(|_| Answer::new(307, "").with("Location", "/again"));
        assert!(problem(&once(), &circle.url("")).to_string().ends_with("more than 5 redirects"));
        assert_eq!(circle.seen().len(), 6);
    }

    #[test]
    fn credentials_follow_a_redirect_on_the_same_server_only() {
        let other = Server::plain(|_| Answer::new(200, "there"));
        let to = other.url("c");
        let server = Server::plain(move |request| match request.path.as_str() {
            "/a" => Answer::new(302, "").with("Location", "/b"),
            _ => Answer::new(302, "").with("Location", to.clone()),
        });
        let token = file("hunter2");
        assert_eq!(body(&Options { bearer: Some(token.path().into()), ..once() }, &server.url("a")), b"there");
        assert_eq!(server.seen()[1].header("authorization"), Some("Bearer hunter2"));
        assert_eq!(other.seen()[0].header("authorization"), None);
    }

    /// A server that answers `status` until it was asked three times.
    fn recovering(status: u16) -> Server {
        let asked = AtomicUsize::new(0);
        Server::plain(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
            0 | 1 => Answer::new(status, "").with("Retry-After", "0"),
            _ => Answer::new(200, "at last"),
        })
    }

    #[test]
    fn what_may_pass_is_tried_again_and_what_will_not_is_not() {
        for status in [408, 425, 429, 500, 503] {
            let server = recovering(status);
            assert_eq!(body(&Options::default(), &server.url("")), b"at last", "{status}");
        }
        for status in [400, 401, 403, 405] {
            let server = recovering(status);
            let error = problem(&Options::default(), &server.url("x?token=hunter2"));
            assert!(error.to_string().starts_with(&format!("GET {}: the server answered {status}", server.url("x"))));
            assert!(!error.to_string().contains("hunter2"));
            assert_eq!(server.seen().len(), 1, "{status}");
        }
    }

    #[test]
    fn retries_end_with_the_last_failure() {
        let server = recovering(502);
        let error = problem(&Options { retries: Some(1), ..Options::default() }, &server.url(""));
        assert!(error.to_string().contains("502 Bad Gateway"), "{error}");
        assert_eq!(server.seen().len(), 2);
    }

    #[test]
    fn pauses_grow_to_a_bound_and_keep_half_of_their_length() {
        for (made, most) in [(0, 250), (1, 500), (2, 1000), (5, 5000), (40, 5000)] {
            let pause = u64::try_from(pause(made).as_millis()).unwrap();
            assert!((most / 2..=most).contains(&pause), "{made}: {pause}");
        }
    }

    #[test]
    fn a_fleet_does_not_retry_at_the_same_moment() {
        let requested = Duration::from_secs(20);
        let pauses: Vec<Duration> = (0..64).map(|_| spread(requested)).collect();
        assert!(pauses.iter().all(|pause| (requested..=requested * 3 / 2).contains(pause)), "{pauses:?}");
        let (first, last) = (pauses.iter().min().unwrap(), pauses.iter().max().unwrap());
        assert!(*last - *first > Duration::from_secs(2), "{pauses:?}");
        assert_eq!(spread(Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn a_missing_server_and_a_silent_one_are_distinguished() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let silent = problem(&Options { timeout: Some(1), ..once() }, &url);
        assert!(silent.to_string().ends_with("timeout, no answer in time"), "{silent}");
        drop(listener);
        let away = problem(&once(), &url);
        assert!(away.to_string().contains(": no connection: "), "{away}");
        assert!(away.to_string().contains("refused"), "{away}");
    }

    #[test]
    fn a_name_that_cannot_be_resolved_is_reported_as_such() {
        // No label may be this long, so nobody is asked.
        let error = problem(&once(), &format!("http://{}.invalid/", "a".repeat(64)));
        assert!(error.to_string().contains("the host's name can't be resolved"), "{error}");
    }

    #[test]
    fn a_proxy_is_used_unless_the_host_is_excepted() {
        let proxy = Server::plain(|_| Answer::new(200, ""));
        // The variables are those of a process, so another test runs in one that has them.
        let run = |except: &str| {
            std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "net::tests::credentials_come_from_a_file_and_are_sent"])
                .envs([("HTTP_PROXY", proxy.url("").as_str()), ("http_proxy", &proxy.url("")), ("NO_PROXY", except)])
                .envs([("no_proxy", except)])
                .output()
                .unwrap()
        };
        assert!(run("127.0.0.1").status.success());
        assert!(proxy.seen().is_empty());
        assert!(!run("").status.success());
        assert!(proxy.seen()[0].path.starts_with("http://127.0.0.1:"), "{:?}", proxy.seen());
    }

    #[test]
    fn plain_http_behind_an_https_address_is_reported_as_tls() {
        let authority = Authority::new();
        let server = Server::plain(|_| Answer::new(200, ""));
        let url = server.url("").replace("http:", "https:");
        let error = problem(&Options { ca: Some(authority.file()), ..once() }, &url);
        assert!(error.to_string().contains(": TLS failed: "), "{error}");
    }

    #[test]
    fn conditions_are_sent_and_their_answers_known() {
        let server = Server::plain(|request| match (request.path.as_str(), request.header("range")) {
            ("/none", _) => Answer::new(404, "a page"),
            ("/gone", _) => Answer::new(410, "a page"),
            ("/wrong", _) => Answer::new(206, "ello").with("Content-Range", "bytes 1-4/5"),
            ("/whole", _) => Answer::new(206, "hello").with("Content-Range", "bytes 0-4/5"),
            ("/short", Some(_)) => Answer::new(416, "").with("Content-Range", "bytes */5"),
            (_, Some("bytes=3-")) => Answer::new(206, "lo").with("Content-Range", "bytes 3-4/5"),
            _ if request.header("if-none-match") == Some("\"x\"") => Answer::new(304, ""),
            _ => Answer::new(200, "hello").with("ETag", "\"x\""),
        });
        let client = Client::new(&once()).unwrap();
        let ask = |path: &str, etag, from| client.get(&server.url(path), &Conditions { etag, from, state: None });
        let whole = ask("a", None, None).unwrap();
        assert_eq!((whole.kind, whole.etag.as_deref(), whole.length), (Kind::Ok, Some("\"x\""), Some(5)));
        assert_eq!(ask("a", Some("\"x\""), None).unwrap().kind, Kind::NotModified);
        assert_eq!(ask("none", None, None).unwrap().kind, Kind::Missing);
        assert_eq!(ask("gone", None, None).unwrap().kind, Kind::Missing);
        let part = ask("a", None, Some(3)).unwrap();
        assert_eq!(part.kind, Kind::Partial);
        assert_eq!(read_all(part, 2).unwrap(), b"lo");
        assert!(ask("wrong", None, Some(3)).err().unwrap().to_string().contains("another part"));
        for path in ["whole", "short"] {
            let all = ask(path, None, Some(3)).unwrap();
            assert_eq!(all.kind, Kind::Ok, "{path}");
            assert_eq!(read_all(all, 5).unwrap(), b"hello", "{path}");
        }
    }

    #[test]
    fn a_body_over_the_limit_is_refused_announced_or_not() {
        let server = Server::plain(|request| Answer {
            announced: request.path == "/announced",
            ..Answer::new(200, vec![0; 100_000])
        });
        for path in ["announced", "silent"] {
            let error = read_all(get(&once(), &server.url(path)).unwrap(), 99_999).unwrap_err();
            assert_eq!(error.to_string(), format!("{} has more than 99999 bytes", server.url(path)));
            assert_eq!(read_all(get(&once(), &server.url(path)).unwrap(), 100_000).unwrap().len(), 100_000);
        }
    }

    #[test]
    fn a_body_that_breaks_off_is_an_error() {
        let server =
            Server::plain(|_| Answer { announced: false, ..Answer::new(200, "half") }.with("Content-Length", "1000"));
        let error = read_all(get(&once(), &server.url("a")).unwrap(), 1000).unwrap_err();
        assert!(
            error.to_string().starts_with(&format!("GET {}: the answer was interrupted", server.url("a"))),
            "{error}"
        );
    }

    #[test]
    fn retry_after_is_read_as_seconds_or_as_a_date() {
        let date = Arc::new("Wed, 21 Oct 2065 07:28:00 GMT");
        let server = Server::plain(move |request| {
            let after = if request.path == "/date" { date.to_string() } else { "7".into() };
            Answer::new(200, "").with("Retry-After", after)
        });
        assert_eq!(retry_after(&get(&once(), &server.url("date")).unwrap().body), Some(LONGEST_RETRY_AFTER));
        assert_eq!(retry_after(&get(&once(), &server.url("seconds")).unwrap().body), Some(Duration::from_secs(7)));
    }
}
