//! Releases from a web server or CDN: plain files below one address, or the layout of `kpull publish`.

use std::collections::HashMap;

use reqwest::Url;
use reqwest::header::CONTENT_TYPE;

use super::{Poll, Source, digest, segments, too_big};
use crate::document::layout::{
    self, LARGEST_MANIFEST, LARGEST_SIGNATURES, MANIFEST, POINTER, POINTER_MAX, Pointer, SIGNATURES,
};
use crate::document::{Tree, is_sha256};
use crate::error::{Error, Exit, Result, code, error};
use crate::magic::{Container, NO_GZIP, NO_PAGE, PAGE};
use crate::net::{self, Client, Conditions, Kind, Reply};

/// The start of a cursor of a published site.
const PUBLISHED: &str = "published ";

/// A place on a web server.
pub(super) struct Http {
    files: Files,
}

/// Fetches single files.
#[derive(Clone)]
struct Files {
    base: Url,
    client: Client,
}

/// The layout of releases on the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// The files of the site's directory.
    Plain,
    /// Files by digest, with a pointer to the newest release.
    Published,
}

/// A state with its `release.toml`; the other files are fetched when they are read.
struct HttpTree {
    files: Files,
    /// The bytes that the cursor is for, even if the server has newer ones now.
    release: Vec<u8>,
    /// What the pointer led to, if there is one.
    published: Option<Published>,
}

/// A release with files by digest.
struct Published {
    pointer: Pointer,
    signatures: Vec<u8>,
    /// The digests in `release.toml`, whose signatures may not be verified yet.
    listed: HashMap<String, String>,
}

impl Layout {
    /// The file that changes with every release, and its size limit.
    fn head(self) -> (&'static str, u64) {
        match self {
            Self::Plain => (MANIFEST, LARGEST_MANIFEST),
            Self::Published => (POINTER, POINTER_MAX),
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Plain => Self::Published,
            Self::Published => Self::Plain,
        }
    }
}

/// The state of an earlier poll: the layout, the digest of its head, and the `ETag` if the server sent one.
#[derive(Debug, PartialEq, Eq)]
struct Cursor {
    layout: Layout,
    digest: String,
    etag: Option<String>,
}

impl Cursor {
    fn parse(text: &str) -> Self {
        let (layout, rest) = match text.strip_prefix(PUBLISHED) {
            Some(rest) => (Layout::Published, rest),
            None => (Layout::Plain, text),
        };
        let (digest, etag) = rest.split_once(' ').map_or((rest, None), |(digest, etag)| (digest, Some(etag)));
        Self { layout, digest: digest.to_owned(), etag: etag.map(str::to_owned) }
    }

    fn to_text(&self) -> String {
        let start = if self.layout == Layout::Published { PUBLISHED } else { "" };
        let etag = self.etag.as_ref().map_or_else(String::new, |etag| format!(" {etag}"));
        format!("{start}{}{etag}", self.digest)
    }
}

/// The name of the source at `base`.
pub(super) fn name(base: &Url) -> String {
    format!("http {}", net::shown(base))
}

impl Http {
    /// The directory at `base`.
    pub(super) fn new(base: &str, net: &net::LoadedOptions) -> Result<Self> {
        Ok(Self { files: Files { base: net::parse(base)?, client: Client::with(net)? } })
    }
}

impl Files {
    fn get(&self, names: &[&str], etag: Option<&str>) -> Result<Reply> {
        let url = net::below(&self.base, names.iter().copied())?;
        self.client.get(url.as_str(), &Conditions { etag, ..Conditions::default() })
    }

    /// A whole file; `None` if it doesn't exist.
    fn whole(&self, names: &[&str], max: u64) -> Result<Option<Vec<u8>>> {
        let reply = self.get(names, None)?;
        if reply.kind == Kind::Missing { Ok(None) } else { net::read_all(reply, max).map(Some) }
    }

    fn blob(&self, sha256: &str, max: u64) -> Result<Option<Vec<u8>>> {
        self.whole(&[layout::BLOBS, sha256], max)
    }

    fn url(&self, name: &str) -> Result<String> {
        Ok(net::shown(&net::below(&self.base, [name])?))
    }

    fn pointer(&self, bytes: &[u8]) -> Result<Pointer> {
        Pointer::parse(&self.url(POINTER)?, bytes)
    }

    /// The current pointer, if it differs from `before`.
    fn pointer_after(&self, before: &Pointer) -> Result<Option<(Pointer, Cursor)>> {
        let reply = self.get(&[POINTER], None)?;
        if reply.kind == Kind::Missing {
            return Ok(None);
        }
        let (cursor, bytes) = read_head(Layout::Published, reply)?;
        let pointer = self.pointer(&bytes)?;
        Ok((pointer != *before).then_some((pointer, cursor)))
    }

    /// The release of a pointer; `None` if it doesn't exist.
    fn follow(&self, pointer: &Pointer) -> Result<Option<HttpTree>> {
        let Some(release) = self.blob(&pointer.manifest, LARGEST_MANIFEST)? else { return Ok(None) };
        let Some(signatures) = self.blob(&pointer.signatures, LARGEST_SIGNATURES)? else { return Ok(None) };
        let published = Published { pointer: pointer.clone(), signatures, listed: listed(&release) };
        Ok(Some(HttpTree { files: self.clone(), release, published: Some(published) }))
    }

    /// [`Files::follow`], repeated if the release was replaced meanwhile.
    fn news(&self, mut pointer: Pointer, mut cursor: Cursor) -> Result<(HttpTree, Cursor)> {
        let mut found = self.follow(&pointer)?;
        if found.is_none()
            && let Some(next) = self.pointer_after(&pointer)?
        {
            (pointer, cursor) = next;
            found = self.follow(&pointer)?;
        }
        let tree = found.ok_or_else(|| {
            let what = format!("{}: the release that {POINTER} names does not exist", net::shown(&self.base));
            Error::refused(code::HTTP, what).help("publish it again with `kpull publish`, or complete the copy")
        })?;
        Ok((tree, cursor))
    }
}

/// Reads the head of a layout, and makes its cursor.
fn read_head(layout: Layout, reply: Reply) -> Result<(Cursor, Vec<u8>)> {
    let (etag, url) = (reply.etag.clone(), net::shown(reply.url()));
    let page = || error!(HTTP, "{url} is not a release: {PAGE}").help(NO_PAGE);
    let is_page = reply.header(&CONTENT_TYPE).is_some_and(|kind| kind.starts_with("text/html"));
    let bytes = match net::read_all(reply, layout.head().1) {
        // a long page is not read to its end
        Err(error) if is_page && error.exit_code() == Exit::Refused => return Err(page()),
        read => read?,
    };
    // neither can be a release
    match Container::of(bytes.get(..Container::HEAD).unwrap_or(&bytes)) {
        Some(Container::Page) => return Err(page()),
        Some(Container::Gzip) => {
            return Err(error!(HTTP, "{url} is not a release: the server has compressed it with gzip").help(NO_GZIP));
        }
        _ => {}
    }
    Ok((Cursor { layout, digest: digest(&[Some(&bytes)]), etag }, bytes))
}

impl Source for Http {
    fn name(&self) -> String {
        name(&self.files.base)
    }

    fn poll(&mut self, cursor: Option<&str>) -> Result<Poll> {
        let known = cursor.map(Cursor::parse);
        let first = known.as_ref().map_or(Layout::Published, |known| known.layout);
        for layout in [first, first.other()] {
            let known = known.as_ref().filter(|known| known.layout == layout);
            let reply = self.files.get(&[layout.head().0], known.and_then(|known| known.etag.as_deref()))?;
            match reply.kind {
                Kind::NotModified => return Ok(Poll::Unchanged),
                Kind::Missing => continue,
                Kind::Ok | Kind::Partial | Kind::Changed | Kind::NoPart => {}
            }
            let (cursor, bytes) = read_head(layout, reply)?;
            if known.is_some_and(|known| known.digest == cursor.digest) {
                return Ok(Poll::Unchanged);
            }
            let (tree, cursor) = match layout {
                Layout::Plain => (HttpTree { files: self.files.clone(), release: bytes, published: None }, cursor),
                Layout::Published => self.files.news(self.files.pointer(&bytes)?, cursor)?,
            };
            return Ok(Poll::News(Box::new(tree), cursor.to_text()));
        }
        Err(error!(HTTP, "there is neither {} nor {MANIFEST}", self.files.url(POINTER)?)
            .help("publish a release there, or correct `http`: it is the address of the directory"))
    }
}

/// Digests by path, from lines in the form that `kpull sign` writes, one for each file. This is cheap for any input, and `trust`
/// verifies the result like everything from a source.
fn listed(release: &[u8]) -> HashMap<String, String> {
    let line = |line: &str| {
        let (path, rest) = line.split_once(" = { sha256 = \"")?;
        let (sha256, _) = rest.split_once('"')?;
        let path = serde_json::from_str(path).ok()?;
        is_sha256(sha256).then(|| (path, sha256.to_owned()))
    };
    String::from_utf8_lossy(release).lines().filter_map(line).collect()
}

impl Tree for HttpTree {
    fn read(&self, path: &str, max: u64) -> Result<Option<Vec<u8>>> {
        let names = segments(path)?;
        let published = self.published.as_ref();
        let fetched = match path {
            MANIFEST => Some(&self.release),
            SIGNATURES => published.map(|published| &published.signatures),
            _ => None,
        };
        if let Some(bytes) = fetched {
            return match bytes.len() as u64 > max {
                true => Err(too_big(&net::shown(&self.files.base), path, max)),
                false => Ok(Some(bytes.clone())),
            };
        }
        let Some(Published { pointer, listed, .. }) = published else { return self.files.whole(&names, max) };
        let Some(sha256) = listed.get(path) else { return Ok(None) };
        if let Some(content) = self.files.blob(sha256, max)? {
            return Ok(Some(content));
        }
        let Some((next, _)) = self.files.pointer_after(pointer)? else { return Ok(None) };
        let (base, was) = (net::shown(&self.files.base), pointer.serial);
        Err(error!(HTTP, "{base}: release {was} was replaced by {} while it was fetched", next.serial)
            .help("the next run selects the new one; `kpull publish --grace` sets how long old releases stay"))
    }

    fn list(&self) -> Result<Option<Vec<String>>> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::net::testing::{Answer, Server};
    use crate::trust::{Listed, Manifest};

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

    fn news(source: &mut Http, cursor: Option<&str>) -> (Box<dyn Tree>, String) {
        match source.poll(cursor).unwrap() {
            Poll::News(tree, cursor) => (tree, cursor),
            Poll::Unchanged => panic!("no news"),
        }
    }

    #[test]
    fn an_unchanged_poll_is_one_request_and_no_body() {
        let (server, release) = server(true);
        let mut source = source(&server, "sites/a");
        let (tree, cursor) = news(&mut source, None);
        assert!(matches!(source.poll(Some(&cursor)).unwrap(), Poll::Unchanged));
        let seen = server.seen();
        let paths: Vec<&str> = seen.iter().map(|seen| seen.path.as_str()).collect();
        assert_eq!(paths, ["/sites/a/current.toml", "/sites/a/release.toml", "/sites/a/release.toml"]);
        assert_eq!(seen[2].header("if-none-match"), Some("\"first\""));
        *release.lock().unwrap() = "second".into();
        assert_eq!(tree.read(MANIFEST, 9).unwrap().as_deref(), Some(&b"first"[..]), "a tree is one state");
        let (tree, _) = news(&mut source, Some(&cursor));
        assert_eq!(tree.read(MANIFEST, 9).unwrap().as_deref(), Some(&b"second"[..]));
        let error = tree.read(MANIFEST, 5).unwrap_err();
        assert!(error.to_string().ends_with("release.toml has more than 5 bytes"), "{error}");
    }

    #[test]
    fn a_server_without_etags_has_no_news_either_when_the_bytes_are_the_same() {
        let (server, release) = server(false);
        let mut source = source(&server, "sites/a/");
        let (_, cursor) = news(&mut source, None);
        assert!(matches!(source.poll(Some(&cursor)).unwrap(), Poll::Unchanged));
        *release.lock().unwrap() = "second".into();
        news(&mut source, Some(&cursor));
    }

    #[test]
    fn files_are_fetched_when_read_with_every_name_encoded() {
        let (server, _) = server(true);
        let (tree, _) = news(&mut source(&server, "sites/a"), None);
        assert_eq!(tree.read("roles/a b%?/role.toml", 4).unwrap().as_deref(), Some(&b"role"[..]));
        let error = tree.read("roles/a b%?/role.toml", 3).unwrap_err();
        assert!(error.to_string().ends_with("/role.toml has more than 3 bytes"), "{error}");
        assert!(tree.read("none", 100).unwrap().is_none());
        let error = tree.read("../b/release.toml", 100).unwrap_err();
        assert_eq!(error.to_string(), "`../b/release.toml` is not a path inside a site");
        assert!(tree.list().unwrap().is_none());
    }

    #[test]
    fn a_missing_release_is_reported_with_its_address() {
        let (server, _) = server(true);
        let error = source(&server, "sites/b").poll(None).err().unwrap();
        assert_eq!(
            error.to_string(),
            format!("there is neither {} nor release.toml", server.url("sites/b/current.toml"))
        );
    }

    #[test]
    fn a_web_page_and_what_a_server_compressed_unasked_are_no_release() {
        let page = "\n<!DOCTYPE html>\n<title>Log in</title>";
        let login = Server::plain(move |_| Answer::new(200, page).with("Content-Type", "text/html"));
        let to = login.url("login");
        let redirecting = Server::plain(move |_| Answer::new(302, "").with("Location", to.clone()));
        let plain = Server::plain(move |request| match request.path.as_str() {
            "/release.toml" => Answer::new(200, page),
            _ => Answer::new(404, ""),
        });
        for (server, shown) in [
            (&login, login.url("current.toml")),
            (&plain, plain.url("release.toml")),
            (&redirecting, login.url("login")),
        ] {
            let error = source(server, "").poll(None).err().unwrap();
            assert_eq!(error.to_string(), format!("{shown} is not a release: {PAGE}"));
            assert_eq!(error.advice(), Some(NO_PAGE));
        }
        let long =
            Server::plain(|_| Answer::new(200, vec![b' '; 5000]).with("Content-Type", "text/html; charset=utf-8"));
        let error = source(&long, "").poll(None).err().unwrap();
        assert_eq!(error.to_string(), format!("{} is not a release: {PAGE}", long.url("current.toml")));
        let gzip = Server::plain(|_| Answer::new(200, *b"\x1f\x8b\x08\0").with("Content-Encoding", "gzip"));
        let error = source(&gzip, "").poll(None).err().unwrap();
        assert!(error.to_string().ends_with("is not a release: the server has compressed it with gzip"), "{error}");
        assert_eq!(error.advice(), Some(NO_GZIP));
    }

    #[test]
    fn a_release_that_is_too_big_is_not_read() {
        let server = Server::plain(|request| match request.path.as_str() {
            "/release.toml" => Answer::new(200, vec![b' '; LARGEST_MANIFEST as usize + 1]),
            _ => Answer::new(404, ""),
        });
        let error = source(&server, "").poll(None).err().unwrap();
        assert!(error.to_string().ends_with("release.toml has more than 8388608 bytes"), "{error}");
    }

    /// What a server has, by path.
    type Shared = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

    /// A server with `ETag`s, and what it has.
    fn serving() -> (Server, Shared) {
        let files = Shared::default();
        let kept = files.clone();
        let server = Server::plain(move |request| {
            let Some(content) = kept.lock().unwrap().get(&request.path).cloned() else { return Answer::new(404, "") };
            let etag = format!("\"{}\"", Listed::of(&content).sha256);
            match request.header("if-none-match") == Some(&etag) {
                true => Answer::new(304, ""),
                false => Answer::new(200, content).with("ETag", etag),
            }
        });
        (server, files)
    }

    /// Puts a release of one file there.
    fn publish(files: &Shared, serial: u64, content: &str) -> Pointer {
        let site = [("site.toml".to_owned(), content.as_bytes().into())].into_iter().collect();
        let created = "2026-11-24T03:50:00Z".parse().unwrap();
        let manifest = Manifest::of(&site, "lab", serial, created, created).to_toml();
        let digest = |text: &str| Listed::of(text.as_bytes()).sha256;
        let pointer = Pointer::new("lab".into(), serial, digest(&manifest), digest("signatures"));
        let mut files = files.lock().unwrap();
        for blob in [content, &manifest, "signatures"] {
            files.insert(format!("/blobs/{}", digest(blob)), blob.into());
        }
        files.insert("/current.toml".into(), pointer.to_toml().into());
        pointer
    }

    #[test]
    fn a_published_site_is_read_by_digest_and_no_news_is_one_request() {
        let (server, files) = serving();
        publish(&files, 1, "one");
        let mut source = source(&server, "");
        let (tree, cursor) = news(&mut source, None);
        assert_eq!(tree.read("site.toml", 3).unwrap().unwrap(), b"one");
        let error = tree.read("site.toml", 2).unwrap_err();
        assert!(error.to_string().ends_with(" has more than 2 bytes"), "{error}");
        assert_eq!(tree.read(SIGNATURES, 64).unwrap().unwrap(), b"signatures");
        let error = tree.read(SIGNATURES, 5).unwrap_err();
        assert!(error.to_string().ends_with(" has more than 5 bytes"), "{error}");
        assert!(tree.read("roles/none", 64).unwrap().is_none(), "what is not listed does not exist");
        let error = tree.read("../blobs", 64).unwrap_err();
        assert_eq!(error.to_string(), "`../blobs` is not a path inside a site");
        let before = server.seen().len();
        assert!(matches!(source.poll(Some(&cursor)).unwrap(), Poll::Unchanged));
        assert_eq!(server.seen().len(), before + 1);
        assert_eq!(server.seen()[before].path, "/current.toml");
        publish(&files, 2, "two");
        let (tree, _) = news(&mut source, Some(&cursor));
        assert_eq!(tree.read("site.toml", 3).unwrap().unwrap(), b"two");
    }

    #[test]
    fn digests_are_found_whatever_files_are_called_and_whatever_stands_around_them() {
        let names =
            ["site.toml", "roles/x/files/it's", "roles/x/files/\"q\" = { sha256 = \"", "roles/x/files/å \u{1f512}"];
        let files = names.iter().map(|name| ((*name).to_owned(), name.as_bytes().into())).collect();
        let created = "2026-11-24T03:50:00Z".parse().unwrap();
        let manifest = Manifest::of(&files, "lab", 1, created, created);
        let found = listed(manifest.to_toml().as_bytes());
        let expected = manifest.files.iter().map(|(path, listed)| (path.clone(), listed.sha256.clone())).collect();
        assert_eq!(found, expected);
        for hostile in ["\"a\" = { sha256 = \"../../x\", size = 1 }", "[[[[[[[[", "\"a = { sha256 = \"", "\0\n\u{ff}"] {
            assert!(listed(hostile.as_bytes()).is_empty(), "{hostile:?}");
        }
    }

    #[test]
    fn a_site_that_changes_its_layout_is_found_again() {
        let (server, files) = serving();
        files.lock().unwrap().insert("/release.toml".into(), b"plain".to_vec());
        let mut source = source(&server, "");
        let (_, plain) = news(&mut source, None);
        files.lock().unwrap().clear();
        publish(&files, 1, "one");
        let (_, published) = news(&mut source, Some(&plain));
        assert!(published.starts_with(PUBLISHED));
        files.lock().unwrap().clear();
        files.lock().unwrap().insert("/release.toml".into(), b"plain".to_vec());
        let (tree, cursor) = news(&mut source, Some(&published));
        assert_eq!((tree.read(MANIFEST, 9).unwrap().unwrap().as_slice(), cursor), (&b"plain"[..], plain));
    }

    #[test]
    fn the_pointer_is_asked_once_more_when_a_release_is_replaced_meanwhile() {
        let (server, files) = serving();
        let old = publish(&files, 1, "one");
        let pointer = old.to_toml();
        let late = Mutex::new(Some((files.clone(), old)));
        // the first answer is the old pointer; right after it the release is replaced, and the old one is missing
        let between = Server::plain(move |request| {
            if request.path == "/current.toml"
                && let Some((files, old)) = late.lock().unwrap().take()
            {
                files.lock().unwrap().remove(&format!("/blobs/{}", old.manifest));
                publish(&files, 2, "two");
                return Answer::new(200, pointer.clone());
            }
            match files.lock().unwrap().get(&request.path) {
                Some(content) => Answer::new(200, content.clone()),
                None => Answer::new(404, ""),
            }
        });
        drop(server);
        let mut source = source(&between, "");
        let (tree, cursor) = news(&mut source, None);
        assert_eq!(tree.read("site.toml", 3).unwrap().unwrap(), b"two");
        assert!(matches!(source.poll(Some(&cursor)).unwrap(), Poll::Unchanged), "the cursor is that of the new one");
    }

    #[test]
    fn a_missing_file_is_reported_with_whether_its_release_was_replaced() {
        let (server, files) = serving();
        publish(&files, 1, "one");
        let (tree, _) = news(&mut source(&server, ""), None);
        let blob = format!("/blobs/{}", Listed::of(b"one").sha256);
        files.lock().unwrap().remove(&blob);
        assert!(tree.read("site.toml", 3).unwrap().is_none());
        publish(&files, 2, "two");
        let error = tree.read("site.toml", 3).unwrap_err();
        assert_eq!(error.to_string(), format!("{}: release 1 was replaced by 2 while it was fetched", server.url("")));
    }

    #[test]
    fn a_pointer_that_leads_nowhere_or_is_none_is_refused() {
        let (server, files) = serving();
        let pointer = publish(&files, 1, "one");
        files.lock().unwrap().remove(&format!("/blobs/{}", pointer.signatures));
        let refusal = || source(&server, "").poll(None).err().unwrap();
        assert_eq!(
            refusal().to_string(),
            format!("{}: the release that current.toml names does not exist", server.url(""))
        );
        files.lock().unwrap().insert("/current.toml".into(), b"<release>".to_vec());
        assert!(refusal().to_string().contains("current.toml does not point to a release: "), "{}", refusal());
        files.lock().unwrap().insert("/current.toml".into(), vec![b' '; 5000]);
        assert!(refusal().to_string().ends_with("current.toml has more than 4096 bytes"), "{}", refusal());
    }
}
