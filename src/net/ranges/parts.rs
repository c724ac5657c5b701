//! The parts of a file that are being fetched: a window over it, filled by some connections, and emptied in order.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::place::Place;
use crate::error::{Error, code};
use crate::net::{Again, Client, Failure, Reply, from_io};

/// Bytes of a part.
pub(super) const PART: u64 = 512 << 10;
/// Bytes that a connection hands over at once.
const PIECE: usize = 16 << 10;

/// A window over a file of `total` bytes, and who fills it.
pub(super) struct Parts {
    client: Client,
    total: u64,
    /// Parts that are there at once: what is kept in memory.
    window: usize,
    state: Mutex<State>,
    changed: Condvar,
}

/// What is shared by the connections and the reader.
pub(super) struct State {
    /// In their order, without gaps.
    parts: VecDeque<Part>,
    /// The first byte behind them.
    next: u64,
    /// Those of use. The first is the one to go back to.
    pub places: Vec<Place>,
    /// Connections that there should be, the one that the reader has among them.
    pub wanted: usize,
    /// The most that there may be: what a server refused is not asked for again.
    pub most: usize,
    /// Whether the reader has one of its own.
    leads: bool,
    /// Connections that work on parts, or wait for one.
    pub working: usize,
    /// Those that wait for one.
    idle: usize,
    /// Connections that there ever were.
    ever: usize,
    /// Bytes that have come.
    pub arrived: u64,
    /// Pieces that were read: the same memory goes round.
    used: Vec<Vec<u8>>,
    /// Why nobody can go on.
    failure: Option<Error>,
}

struct Part {
    /// What has come of it, and the reader has not.
    pieces: VecDeque<Vec<u8>>,
    /// How much of the first of them the reader has.
    taken: usize,
    from: u64,
    /// How far it has come.
    at: u64,
    end: u64,
    /// Who fetches it; nobody when that has failed, or when all is there.
    owner: Option<usize>,
    /// Whether a server has agreed to hand it out.
    agreed: bool,
}

impl Part {
    fn is_whole(&self) -> bool {
        self.at == self.end
    }
}

/// What lies ahead of the reader's own connection.
pub(super) enum Ahead {
    /// Nothing for this many bytes.
    Free(u64),
    /// What others have fetched.
    Part,
    /// Nothing up to the end: there are no others any more.
    Alone,
}

/// What the reader gets out of the window.
pub(super) enum Taken {
    Bytes(usize),
    /// Nothing yet.
    Wait,
    /// Nothing any more: no connection is left.
    Left,
}

/// What a connection is to fetch, and from where.
struct Task {
    from: u64,
    end: u64,
    place: Place,
}

impl Parts {
    pub fn new(client: Client, total: u64, places: Vec<Place>, most: usize) -> Arc<Self> {
        let state = State {
            parts: VecDeque::new(),
            next: total,
            places,
            wanted: 1,
            most,
            leads: true,
            working: 0,
            idle: 0,
            ever: 0,
            arrived: 0,
            used: Vec::new(),
            failure: None,
        };
        Arc::new(Self { client, total, window: most, state: Mutex::new(state), changed: Condvar::new() })
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the file fetched from byte `from` on, beside the reader's own connection.
    pub fn start(self: &Arc<Self>, from: u64) {
        self.lock().next = from;
        self.want(2);
    }

    /// Has `wanted` connections from here on, or fewer when there can't be as many.
    pub fn want(self: &Arc<Self>, wanted: usize) {
        let mut state = self.lock();
        state.wanted = wanted.min(state.most);
        self.changed.notify_all();
        while state.working < state.wanted.saturating_sub(usize::from(state.leads)) && state.wanted > 1 {
            let (parts, me) = (self.clone(), state.ever);
            if std::thread::Builder::new().spawn(move || parts.work(me)).is_err() {
                state.fewer();
                return;
            }
            state.ever += 1;
            state.working += 1;
        }
    }

    /// What the reader's own connection, which is at byte `at`, comes to next. When nobody has agreed to what it comes to, it
    /// goes on, and nobody else does.
    pub fn ahead(&self, at: u64) -> Ahead {
        let mut state = self.lock();
        let (from, agreed) = state.parts.front().map_or((state.next, false), |first| (first.from, first.agreed));
        if state.wanted < 2 || from < at || (from == at && !agreed) {
            state.clear();
            state.wanted = 1;
            self.changed.notify_all();
            return Ahead::Alone;
        }
        if from > at { Ahead::Free(from - at) } else { Ahead::Part }
    }

    /// From now on the reader has a connection of its own, or none.
    pub fn leads(&self, leads: bool) {
        self.lock().leads = leads;
    }

    /// Ends all of it.
    pub fn end(&self) {
        let mut state = self.lock();
        state.clear();
        state.wanted = 0;
        self.changed.notify_all();
    }

    /// The next bytes, as far as they have come.
    pub fn take(&self, buffer: &mut [u8]) -> Result<Taken, Error> {
        let mut state = self.lock();
        if let Some(error) = state.failure.take() {
            return Err(error);
        }
        let mut count = 0;
        while let Some(first) = state.parts.front_mut() {
            let Some(piece) = first.pieces.front() else { break };
            let bytes = &piece[first.taken..];
            let fits = bytes.len().min(buffer.len() - count);
            buffer[count..count + fits].copy_from_slice(&bytes[..fits]);
            first.taken += fits;
            count += fits;
            if first.taken < piece.len() {
                break;
            }
            first.taken = 0;
            let (piece, is_done) = (first.pieces.pop_front(), first.pieces.is_empty() && first.is_whole());
            state.used.extend(piece);
            if is_done {
                state.parts.pop_front();
                self.changed.notify_all();
            }
        }
        if count > 0 {
            return Ok(Taken::Bytes(count));
        }
        if state.working > 0 {
            return Ok(Taken::Wait);
        }
        state.clear();
        Ok(Taken::Left)
    }

    /// Waits until something has happened, and no longer than `most`.
    pub fn wait(&self, most: Duration) {
        let state = self.lock();
        let has_news = state.failure.is_some() || state.working == 0;
        if !has_news && state.parts.front().is_none_or(|first| first.pieces.is_empty()) {
            drop(self.changed.wait_timeout(state, most).unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Takes the part that all others wait for from a connection that has held it up; whether there was one. Near the end of the file they
    /// wait because nothing is left for them.
    pub fn pass_slow(&self) -> bool {
        let mut state = self.lock();
        let are_waiting = state.next < self.total && state.working > 1 && state.idle == state.working - 1;
        match state.parts.front_mut() {
            Some(first) if are_waiting && first.owner.is_some() && !first.is_whole() => first.owner = None,
            _ => return false,
        }
        state.working -= 1;
        state.most = state.working;
        state.wanted = state.working;
        self.changed.notify_all();
        true
    }

    /// The life of a connection.
    fn work(&self, me: usize) {
        while let Some(task) = self.task(me) {
            let Task { from, end, mut place } = task;
            let goes_on = match place.ask(&self.client, from, Some(end), self.total) {
                Ok(reply) => self.agree(me, &place) && self.fetch(me, reply, end - from, &place),
                Err(failure) => self.fail(me, &place, failure),
            };
            if !goes_on {
                return;
            }
        }
    }

    /// What to fetch next, as soon as there is room for it; nothing for a connection that is not wanted any more.
    fn task(&self, me: usize) -> Option<Task> {
        let mut state = self.lock();
        loop {
            let left_over = state.parts.iter().position(|part| part.owner.is_none() && !part.is_whole());
            let is_one_too_many = state.working > state.wanted.saturating_sub(usize::from(state.leads)).max(1);
            if state.wanted == 0 || is_one_too_many || (state.wanted == 1 && (left_over.is_none() || state.leads)) {
                state.working -= 1;
                self.changed.notify_all();
                return None;
            }
            if left_over.is_none() && state.next < self.total && state.parts.len() < self.window {
                let (from, end) = (state.next, self.total.min(state.next + PART));
                let pieces = VecDeque::new();
                state.parts.push_back(Part { pieces, taken: 0, from, at: from, end, owner: None, agreed: false });
                state.next = end;
                continue;
            }
            if let Some(index) = left_over {
                let part = &mut state.parts[index];
                part.owner = Some(me);
                let (from, end) = (part.at, part.end);
                let place = (me + 1) % state.places.len().max(1);
                let place = state.places.get(place)?.clone();
                return Some(Task { from, end, place });
            }
            state.idle += 1;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    /// Writes down that a server hands out this connection's part; whether it still is its.
    fn agree(&self, me: usize, place: &Place) -> bool {
        let mut state = self.lock();
        if let Some(known) = state.places.iter_mut().find(|known| known.url == place.url) {
            *known = place.clone();
        }
        state.own(me).map(|part| part.agreed = true).is_some()
    }

    /// Reads the `left` bytes of a part; whether to go on with another.
    fn fetch(&self, me: usize, mut reply: Reply, mut left: u64, place: &Place) -> bool {
        while left > 0 {
            let wanted = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
            let mut piece = self.lock().used.pop().unwrap_or_default();
            piece.resize(wanted, 0);
            if let Err(why) = reply.read_exact(&mut piece) {
                return self.fail(me, place, Failure { error: from_io(why), again: Again::Later(None) });
            }
            left -= wanted as u64;
            let mut state = self.lock();
            state.arrived += wanted as u64;
            let Some(part) = state.own(me) else { return false };
            part.at += wanted as u64;
            part.pieces.push_back(piece);
            if left == 0 {
                part.owner = None;
            }
            self.changed.notify_all();
        }
        // its end has to be seen, for the connection to be used again
        let _ = reply.read(&mut [0]);
        true
    }

    /// What becomes of a connection that has failed: it tries another place, or ends and is not missed. Whether it goes on.
    fn fail(&self, me: usize, place: &Place, failure: Failure) -> bool {
        let mut state = self.lock();
        let Some(part) = state.own(me) else { return false };
        part.owner = None;
        log::debug!("{}", failure.error);
        let is_useless = matches!(failure.again, Again::Never) || !place.works;
        self.changed.notify_all();
        if is_useless && state.places.len() > 1 {
            state.places.retain(|known| known.url != place.url);
            return true;
        }
        if failure.error.code() == code::CHANGED && !state.leads {
            state.failure = Some(failure.error);
        }
        state.working -= 1;
        state.fewer();
        false
    }
}

impl State {
    /// The part that this connection fetches; none when somebody has taken it away, who has counted that.
    fn own(&mut self, me: usize) -> Option<&mut Part> {
        self.parts.iter_mut().find(|part| part.owner == Some(me))
    }

    /// No more connections than work now.
    fn fewer(&mut self) {
        self.most = self.wanted.min((self.working + usize::from(self.leads)).max(1));
        self.wanted = self.most;
    }

    /// Forgets all parts, and sends those away who fetch them.
    fn clear(&mut self) {
        self.working -= self.parts.iter().filter(|part| part.owner.is_some()).count();
        self.parts.clear();
        self.next = u64::MAX;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Options;

    /// Three connections: the first fetches the only part, and two wait for one.
    fn held_up() -> Arc<Parts> {
        let client = Client::new(&Options::default()).unwrap();
        let parts = Parts::new(client, 4 * PART, Vec::new(), 4);
        let mut state = parts.lock();
        let pieces = VecDeque::new();
        state.parts.push_back(Part { pieces, taken: 0, from: 0, at: 1, end: PART, owner: Some(0), agreed: true });
        (state.next, state.working, state.idle) = (PART, 3, 2);
        drop(state);
        parts
    }

    #[test]
    fn a_part_for_which_all_others_wait_is_taken_from_the_connection_that_has_it() {
        let parts = held_up();
        assert!(parts.pass_slow());
        let mut state = parts.lock();
        assert_eq!((state.working, state.most, state.wanted), (2, 2, 2), "and that connection is not missed");
        assert_eq!((state.parts[0].owner, state.parts[0].at), (None, 1), "somebody goes on from where it was");
        assert!(state.own(0).is_none());
    }

    #[test]
    fn nobody_is_passed_who_holds_nobody_up() {
        type Make = fn(&mut State);
        let cases: [(&str, Make); 5] = [
            ("near the end they wait because nothing is left", |state| state.next = 4 * PART),
            ("one of the others has something to do", |state| state.idle = 1),
            ("there are no others", |state| (state.working, state.idle) = (1, 0)),
            ("all of it has come", |state| state.parts[0].at = PART),
            ("nobody has it", |state| state.parts[0].owner = None),
        ];
        for (case, make) in cases {
            let parts = held_up();
            make(&mut parts.lock());
            assert!(!parts.pass_slow(), "{case}");
            let state = parts.lock();
            assert_eq!(state.most, 4, "{case}");
        }
    }
}
