//! The child's side: it confines itself, then answers requests until the parent ends.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Instant;

use super::confine::{Confined, confine, end_with_parent};
use super::wire::{self, Answer, CHUNK, Fault, Job, Request, Setup, Tag};
use crate::document::Tree;
use crate::error::{Error, Exit, Result, code, error};
use crate::host::process::keep_private;
use crate::host::process::launch;
use crate::host::web::{self, Ask as _};
use crate::net::{self, Client, Conditions, Download, Kind};
use crate::source::{self, Poll, Source};

/// The directory that this process was started in. Its own path can lead through directories that this process can't enter, and
/// libraries that make paths absolute would use it.
const HERE: &str = "/proc/self/cwd";

/// The job of this process.
enum Work {
    Source { source: Box<dyn Source>, tree: Option<Box<dyn Tree>> },
    Web(Client),
}

/// Runs this process as the child of another kpull, which talks to it over standard input and output.
pub fn main() -> Exit {
    launch::close_inherited();
    // its own children, such as ssh, prompt at no terminal, and end with it
    if launch::leave_terminal().is_err() {
        return Exit::Failed;
    }
    keep_private();
    let io = (io::stdin().as_fd().try_clone_to_owned(), io::stdout().as_fd().try_clone_to_owned());
    let (Ok(from), Ok(to)) = io else { return Exit::Failed };
    // an error can't be reported once the parent has ended
    serve(&mut File::from(from), &mut File::from(to)).map_or(Exit::Failed, |()| Exit::Done)
}

fn serve(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let setup: Setup = wire::read_json(from, Tag::Request)?;
    let mut work = match set_up(setup) {
        Ok((work, confined)) => {
            wire::write_json(to, Tag::Answer, &Answer::Ready(confined))?;
            work
        }
        Err(error) => return wire::write_json(to, Tag::Answer, &Answer::Failed(Fault::from(&error))),
    };
    loop {
        let request = match wire::read(from, &[Tag::Request]) {
            Err(why) if why.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            request => wire::parse(&request?.1)?,
        };
        let (answer, body) = work.answer(request).unwrap_or_else(|error| (Answer::Failed(Fault::from(&error)), None));
        wire::write_json(to, Tag::Answer, &answer)?;
        if let Some(body) = body {
            send(to, body)?;
        }
    }
}

/// Confines this process before anything starts a thread.
fn set_up(setup: Setup) -> Result<(Work, Confined)> {
    let confined = match &setup.confinement {
        Some(confinement) => confine(confinement)?,
        None => {
            end_with_parent()?;
            Confined::default()
        }
    };
    let work = match setup.job {
        Job::Source(config) => {
            Work::Source { source: source::open_with(&config, &setup.net, Path::new(HERE))?, tree: None }
        }
        Job::Web => Work::Web(Client::with(&setup.net)?),
    };
    Ok((work, confined))
}

impl Work {
    fn answer(&mut self, request: Request) -> Result<(Answer, Option<Box<dyn Read>>)> {
        match (self, request) {
            (Self::Source { source, tree }, Request::Poll { cursor }) => match source.poll(cursor.as_deref())? {
                Poll::Unchanged => Ok((Answer::Unchanged, None)),
                Poll::News(news, cursor) => {
                    *tree = Some(news);
                    Ok((Answer::News { cursor }, None))
                }
            },
            (Self::Source { tree: Some(tree), .. }, Request::Read { path, max }) => Ok(whole(tree.read(&path, max)?)),
            (Self::Source { tree: Some(tree), .. }, Request::Object { id, max }) => Ok(whole(tree.object(&id, max)?)),
            (Self::Source { tree: Some(tree), .. }, Request::List) => {
                // no path has a NUL in it
                Ok(whole(tree.list()?.map(|paths| paths.join("\0").into_bytes())))
            }
            (Self::Web(client), Request::Get { url, from, state }) => {
                let conditions = Conditions { etag: None, from, state: state.as_deref() };
                let Download { kind, length, state, body } = client.get(&url, &conditions)?.into();
                Ok((Answer::Body { kind, length, state }, Some(body)))
            }
            (Self::Web(client), Request::Fetch { url, max, within }) => {
                let until = Instant::now().checked_add(within).unwrap_or_else(Instant::now);
                let reply = client.until(until).get(&url, &Conditions::default())?;
                let found = reply.kind != Kind::Missing;
                Ok(whole(found.then(|| net::read_all(reply, max)).transpose()?))
            }
            (Self::Web(client), Request::Post { url, body }) => {
                client.post_json(&url, body)?;
                Ok((Answer::Nothing, None))
            }
            (Self::Web(client), Request::Put { url, body }) => {
                client.put(&net::parse(&url)?, body.into_bytes(), None)?;
                Ok((Answer::Nothing, None))
            }
            (Self::Web(_), Request::Ask(question)) => {
                let web::Reply { status, body, broken } =
                    web::Here.ask(&question).map_err(|what| Error::new(code::SANDBOX, what))?;
                Ok((Answer::Replied { status, broken }, Some(Box::new(io::Cursor::new(body)))))
            }
            (Self::Web(_), Request::Connect { target, limit }) => {
                web::Here.connect(&target, limit).map_err(|what| Error::new(code::SANDBOX, what))?;
                Ok((Answer::Nothing, None))
            }
            _ => Err(error!(SANDBOX, "a process got a request that its job does not include")),
        }
    }
}

fn whole(bytes: Option<Vec<u8>>) -> (Answer, Option<Box<dyn Read>>) {
    match bytes {
        Some(bytes) => {
            let length = Some(bytes.len() as u64);
            (Answer::Body { kind: Kind::Ok, length, state: None }, Some(Box::new(io::Cursor::new(bytes))))
        }
        None => (Answer::Nothing, None),
    }
}

/// Sends a body, or the failure that cut it off.
fn send(to: &mut impl Write, mut body: Box<dyn Read>) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match body.read(&mut buffer) {
            Ok(count) => {
                wire::write(to, Tag::Body, &buffer[..count])?;
                if count == 0 {
                    return Ok(());
                }
            }
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            Err(why) => {
                return wire::write_json(to, Tag::Answer, &Answer::Failed(Fault::from(&net::from_io(why))));
            }
        }
    }
}
