//! Passes every event on, and remembers what metrics and hooks need when the run is over.

use std::cell::RefCell;

use crate::document::ResourceId;
use crate::report::{Event, Report};
use crate::store::StayOn;

/// The result of a run so far.
#[derive(Clone, Debug, Default)]
pub struct Note {
    /// Ids of resources that were changed, also by a rollback.
    pub changed: Vec<ResourceId>,
    /// How many of those had drifted from a release that was applied before.
    pub drifted: usize,
    /// The rollback, if there was one.
    pub back: Option<StayOn>,
}

/// A receiver that passes every event on.
pub struct Notes<'a> {
    to: Box<dyn Report + 'a>,
    note: RefCell<Note>,
}

impl<'a> Notes<'a> {
    /// Passes every event on to `to`.
    pub fn new(to: Box<dyn Report + 'a>) -> Self {
        Self { to, note: RefCell::default() }
    }

    /// What it has seen.
    pub fn note(&self) -> Note {
        self.note.borrow().clone()
    }
}

impl Report for Notes<'_> {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Done(summary) => {
                let mut note = self.note.borrow_mut();
                note.changed.extend(summary.changed.iter().cloned());
                note.drifted += summary.drifted;
            }
            Event::RolledBack(stay) => self.note.borrow_mut().back = Some((*stay).clone()),
            _ => {}
        }
        self.to.event(event);
    }
}
