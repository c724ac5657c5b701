//! Passes every event on, and remembers what is told once more when the run is over: in metrics, to hooks.

use std::cell::RefCell;
use std::fmt;

use crate::report::{Event, Report};
use crate::store::StayOn;

/// What a run has come to by now.
#[derive(Clone, Debug, Default)]
pub struct Note {
    /// Ids of resources that were changed, those of the way back too.
    pub changed: Vec<String>,
    /// How many of those had moved away from a release that was applied before.
    pub drifted: usize,
    /// Which release was left, for which, and why.
    pub back: Option<StayOn>,
}

/// A listener that passes everything on.
pub struct Notes<'a> {
    to: Box<dyn Report + 'a>,
    note: RefCell<Note>,
}

impl<'a> Notes<'a> {
    /// Passes everything on to `to`.
    pub fn new(to: Box<dyn Report + 'a>) -> Self {
        Self { to, note: RefCell::default() }
    }

    /// What it has heard.
    pub fn note(&self) -> Note {
        self.note.borrow().clone()
    }
}

impl fmt::Debug for Notes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notes").field("note", &self.note).finish_non_exhaustive()
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
            Event::RolledBack { hold } => self.note.borrow_mut().back = Some((*hold).clone()),
            _ => {}
        }
        self.to.event(event);
    }
}
