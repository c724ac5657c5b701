//! A site that is not at the top of its repository: several of them may share one.

use super::{Poll, Source};
use crate::document::Tree;
use crate::error::Result;

/// A directory of what another source hands out.
pub(super) struct Below {
    source: Box<dyn Source>,
    path: String,
}

/// What to call the directory `path` of the source that is called `name`.
pub(super) fn name(name: &str, path: &str) -> String {
    format!("{name} in {path}/")
}

impl Below {
    /// The directory `path`, which is checked, of a source.
    pub(super) fn new(source: Box<dyn Source>, path: &str) -> Self {
        Self { source, path: path.to_owned() }
    }
}

impl Source for Below {
    fn name(&self) -> String {
        name(&self.source.name(), &self.path)
    }

    fn poll(&mut self, mark: Option<&str>) -> Result<Poll> {
        Ok(match self.source.poll(mark)? {
            Poll::Unchanged => Poll::Unchanged,
            Poll::News(whole, mark) => Poll::News(Box::new(Part { whole, prefix: format!("{}/", self.path) }), mark),
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
