//! Releases from a web server or CDN: plain files below one address.

use reqwest::Url;

use super::{Poll, RELEASE, RELEASE_MAX, Source, Tree, digest, segments, too_big};
use crate::error::{Error, Result};
use crate::net::{self, Client, Conditions, Kind};

/// A directory on a web server.
pub(super) struct Http {
    files: Files,
}

/// Fetches single files.
#[derive(Clone)]
struct Files {
    base: Url,
    client: Client,
}

/// The state whose `release.toml` was fetched; the other files are fetched when they are read.
struct HttpTree {
    files: Files,
    release: Vec<u8>,
}

/// What to call the directory at `base`.
pub(super) fn name(base: &Url) -> String {
    format!("http {}", net::shown(base))
}

impl Http {
    /// The directory at `base`.
    pub(super) fn new(base: &str, net: &net::Loaded) -> Result<Self> {
        Ok(Self { files: Files { base: net::parse(base)?, client: Client::with(net)? } })
    }
}

impl Files {
    fn url(&self, names: &[&str]) -> Result<Url> {
        let mut url = self.base.clone();
        match url.path_segments_mut() {
            Ok(mut path) => path.pop_if_empty().extend(names),
            Err(()) => return Err(Error::new(format!("`{}` has no path", net::shown(&self.base)))),
        };
        Ok(url)
    }
}

/// A mark says which bytes `release.toml` had, and the server's own name for them if it gave one.
fn split(mark: &str) -> (&str, Option<&str>) {
    mark.split_once(' ').map_or((mark, None), |(digest, etag)| (digest, Some(etag)))
}

impl Source for Http {
    fn name(&self) -> String {
        name(&self.files.base)
    }

    fn poll(&mut self, mark: Option<&str>) -> Result<Poll> {
        let known = mark.map(split);
        let url = self.files.url(&[RELEASE])?;
        let etag = known.and_then(|(_, etag)| etag);
        let reply = self.files.client.get(url.as_str(), &Conditions { etag, from: None })?;
        match reply.kind {
            Kind::NotModified => return Ok(Poll::Unchanged),
            Kind::Missing => {
                return Err(Error::new(format!("there is no {}", net::shown(&url)))
                    .help("publish a release there, or correct `http`: it is the address of the directory"));
            }
            Kind::Ok | Kind::Partial => {}
        }
        let etag = reply.etag.clone();
        let release = net::read_all(reply, RELEASE_MAX)?;
        let digest = digest(&[Some(&release)]);
        if known.is_some_and(|(before, _)| before == digest) {
            return Ok(Poll::Unchanged);
        }
        let mark = etag.map_or_else(|| digest.clone(), |etag| format!("{digest} {etag}"));
        Ok(Poll::News(Box::new(HttpTree { files: self.files.clone(), release }), mark))
    }
}

impl Tree for HttpTree {
    fn read(&self, path: &str, max: u64) -> Result<Option<Vec<u8>>> {
        let names = segments(path)?;
        if path == RELEASE {
            // The bytes that the mark stands for, even when the server has newer ones by now.
            if self.release.len() as u64 > max {
                return Err(too_big(&net::shown(&self.files.base), path, max));
            }
            return Ok(Some(self.release.clone()));
        }
        let reply = self.files.client.get(self.files.url(&names)?.as_str(), &Conditions::default())?;
        if reply.kind == Kind::Missing {
            return Ok(None);
        }
        net::read_all(reply, max).map(Some)
    }

    fn list(&self) -> Result<Option<Vec<String>>> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::net::testing::{Answer, Server};

    /// A server whose `release.toml` can be replaced, with or without `ETag`.
    fn server(with_etags: bool) -> (Server, Arc<Mutex<String>>) {
        let release = Arc::new(Mutex::new("first".to_owned()));
        let kept = release.clone();
        let server = Server::plain(move |request| {
            let release = kept.lock().unwrap().clone();
            let etag = format!("\"{release}\"");
            match request.path.as_str() {
                "/sites/a/release.toml" if with_etags && request.header("if-none-match") == Some(&etag) => {
                    Answer::new(304, "").with("ETag", etag)
                }
                "/sites/a/release.toml" if with_etags => Answer::new(200, release).with("ETag", etag),
                "/sites/a/release.toml" => Answer::new(200, release),
                "/sites/a/roles/a%20b%25%3F/role.toml" => Answer::new(200, "role"),
                _ => Answer::new(404, "nothing here"),
            }
        });
        (server, release)
    }

    fn source(server: &Server, path: &str) -> Http {
        let options = net::Options { retries: Some(0), ..net::Options::default() };
        Http::new(&server.url(path), &options.load().unwrap()).unwrap()
    }

    fn news(source: &mut Http, mark: Option<&str>) -> (Box<dyn Tree>, String) {
        match source.poll(mark).unwrap() {
            Poll::News(tree, mark) => (tree, mark),
            Poll::Unchanged => panic!("no news"),
        }
    }

    #[test]
    fn an_unchanged_poll_is_one_request_and_no_body() {
        let (server, release) = server(true);
        let mut source = source(&server, "sites/a");
        let (tree, mark) = news(&mut source, None);
        assert!(matches!(source.poll(Some(&mark)).unwrap(), Poll::Unchanged));
        assert_eq!(server.seen().len(), 2);
        assert_eq!(server.seen()[1].header("if-none-match"), Some("\"first\""));
        *release.lock().unwrap() = "second".into();
        assert_eq!(tree.read(RELEASE, 9).unwrap().as_deref(), Some(&b"first"[..]), "a tree is one state");
        let (tree, _) = news(&mut source, Some(&mark));
        assert_eq!(tree.read(RELEASE, 9).unwrap().as_deref(), Some(&b"second"[..]));
        assert!(tree.read(RELEASE, 5).is_err());
    }

    #[test]
    fn a_server_without_etags_has_no_news_either_when_the_bytes_are_the_same() {
        let (server, release) = server(false);
        let mut source = source(&server, "sites/a/");
        let (_, mark) = news(&mut source, None);
        assert!(matches!(source.poll(Some(&mark)).unwrap(), Poll::Unchanged));
        *release.lock().unwrap() = "second".into();
        news(&mut source, Some(&mark));
    }

    #[test]
    fn files_are_fetched_when_read_with_every_name_encoded() {
        let (server, _) = server(true);
        let (tree, _) = news(&mut source(&server, "sites/a"), None);
        assert_eq!(tree.read("roles/a b%?/role.toml", 4).unwrap().as_deref(), Some(&b"role"[..]));
        assert!(tree.read("roles/a b%?/role.toml", 3).is_err());
        assert!(tree.read("none", 100).unwrap().is_none());
        assert!(tree.read("../b/release.toml", 100).is_err());
        assert!(tree.list().unwrap().is_none());
    }

    #[test]
    fn a_missing_release_says_where_it_should_be() {
        let (server, _) = server(true);
        let error = source(&server, "sites/b").poll(None).err().unwrap();
        assert_eq!(error.to_string(), format!("there is no {}", server.url("sites/b/release.toml")));
    }

    #[test]
    fn a_release_that_is_too_big_is_not_read() {
        let server = Server::plain(|_| Answer::new(200, vec![b' '; RELEASE_MAX as usize + 1]));
        let error = source(&server, "").poll(None).err().unwrap();
        assert!(error.to_string().ends_with("release.toml has more than 8388608 bytes"), "{error}");
    }
}
