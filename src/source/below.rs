//! A site in a subdirectory of its repository, which several sites may share.

use super::{Poll, Source};
use crate::document::Tree;
use crate::error::Result;

/// A directory of another source.
pub(super) struct Below {
    source: Box<dyn Source>,
    path: String,
}

/// The name of the directory `path` of the source `name`.
pub(super) fn name(name: &str, path: &str) -> String {
    format!("{name} in {path}/")
}

impl Below {
    /// The directory `path` of a source; the path is checked already.
    pub(super) fn new(source: Box<dyn Source>, path: &str) -> Self {
        Self { source, path: path.to_owned() }
    }
}

impl Source for Below {
    fn name(&self) -> String {
        name(&self.source.name(), &self.path)
    }

    fn poll(&mut self, cursor: Option<&str>) -> Result<Poll> {
        Ok(match self.source.poll(cursor)? {
            Poll::Unchanged => Poll::Unchanged,
            Poll::News(whole, cursor) => {
                Poll::News(Box::new(Part { whole, prefix: format!("{}/", self.path) }), cursor)
            }
        })
    }
}

/// The part of a tree below a directory.
struct Part {
    whole: Box<dyn Tree>,
    /// The directory, with a `/` at its end.
    prefix: String,
}

impl Tree for Part {
    fn read(&self, path: &str, max: u64) -> Result<Option<Vec<u8>>> {
        self.whole.read(&format!("{}{path}", self.prefix), max)
    }

    fn list(&self) -> Result<Option<Vec<String>>> {
        let inside = |path: String| path.strip_prefix(&self.prefix).map(str::to_owned);
        Ok(self.whole.list()?.map(|paths| paths.into_iter().filter_map(inside).collect()))
    }
}
