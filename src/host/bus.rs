//! The system bus: one connection for all D-Bus calls, each with a timeout.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_core::Stream;
use zbus::proxy::MethodFlags;
use zbus::wire::DynamicDeserialize;
use zbus::{Connection, DynamicType, MatchRule, MessageStream, OwnedObjectPath, OwnedVariant, Proxy};

use crate::error::{Result, error};

/// Timeout of a call: reloading all unit files, or a large rule set, takes seconds on a slow host.
const ANSWER: Duration = Duration::from_secs(120);

/// How long PID 1 may take to reconnect to a bus that was restarted.
const RETURN: Duration = Duration::from_secs(10);

/// What can be sent over the bus.
pub trait Sent: serde::Serialize + DynamicType {}
impl<T: serde::Serialize + DynamicType> Sent for T {}

/// What can be received over it.
pub trait Received: for<'d> DynamicDeserialize<'d> {}
impl<T: for<'d> DynamicDeserialize<'d>> Received for T {}

/// A connection to the system bus, shared by its clones. It is replaced when the bus is restarted.
#[derive(Clone)]
pub struct Bus {
    connection: Rc<RefCell<Connection>>,
}

/// An interface of an object of a service on the bus.
#[derive(Clone, Copy)]
pub struct Object<'a> {
    /// The service's name.
    pub service: &'a str,
    /// The object's path.
    pub path: &'a str,
    /// The interface.
    pub interface: &'a str,
}

impl<'a> Object<'a> {
    /// The object at `path` with the interface that is named like its service.
    pub const fn of(service: &'a str, path: &'a str) -> Self {
        Self { service, path, interface: service }
    }
}

/// PID 1, which is subscribed to again when the bus was restarted.
pub const MANAGER: Object<'static> = Object {
    interface: "org.freedesktop.systemd1.Manager",
    ..Object::of("org.freedesktop.systemd1", "/org/freedesktop/systemd1")
};

impl Bus {
    /// Connects to the system bus.
    pub fn connect() -> Result<Self> {
        let connected = connect().map_err(|error| match is_starved(&error) {
            true => error!(LIMIT, "can't start a thread").because(error).help(
                "kpull has reached its limit of processes: raise TasksMax= of kpull.service, or end other processes",
            ),
            false => error!(UNIT, "can't reach the D-Bus system bus").because(error).help(
                "kpull manages units and firewalld over it: run as root on a host with systemd and start the bus (`systemctl start dbus.socket`), or work on a tree with `--root DIR`",
            ),
        })?;
        Ok(Self { connection: Rc::new(RefCell::new(connected)) })
    }

    /// Calls a method and waits for its answer. This does not start a service that isn't running. When the bus goes away in the
    /// meantime, the method is called once more: it may have been executed, but every method that kpull calls can be repeated safely.
    pub fn call<B: Sent, R: Received>(&self, object: Object<'_>, method: &str, arguments: &B) -> zbus::Result<R> {
        let flags = MethodFlags::NO_AUTO_START;
        self.with_connection(|connection| zbus::block_on(ask(connection, object, method, flags, arguments)))
    }

    /// The properties of all interfaces of an object of systemd.
    pub fn properties(&self, path: &str) -> zbus::Result<Properties> {
        let object = Object { path, interface: "org.freedesktop.DBus.Properties", ..MANAGER };
        // the empty name means all of them
        self.call(object, "GetAll", &("",))
    }

    /// The properties of the unit that this process runs in.
    pub fn own_unit(&self) -> zbus::Result<Properties> {
        let path: OwnedObjectPath = self.call(MANAGER, "GetUnitByPID", &(std::process::id(),))?;
        self.properties(path.as_str())
    }

    /// [`Bus::call`] for a service that the bus starts when it is needed.
    pub fn call_started<B: Sent, R: Received>(
        &self,
        object: Object<'_>,
        method: &str,
        arguments: &B,
    ) -> zbus::Result<R> {
        let flags = MethodFlags::empty();
        self.with_connection(|connection| zbus::block_on(ask(connection, object, method, flags, arguments)))
    }

    /// Uses the connection; repeats that with a new one when the bus goes away in the meantime.
    fn with_connection<T>(&self, f: impl Fn(&Connection) -> zbus::Result<T>) -> zbus::Result<T> {
        let known = self.connection.borrow().clone();
        match f(&known) {
            Err(error) if is_lost(&error) => {
                log::debug!("the connection to the system bus was closed: {error}");
                let fresh = connect()?;
                await_manager(&fresh);
                *self.connection.borrow_mut() = fresh.clone();
                f(&fresh)
            }
            done => done,
        }
    }

    /// Calls a method whose outcome a later signal of the same object reports. `outcome` gets the answer and each signal, and
    /// returns the outcome if the signal has it; `None` if none came within `limit`.
    pub fn call_and_wait<B: Sent, R: Received, S: Received, T>(
        &self,
        object: Object<'_>,
        method: &str,
        arguments: &B,
        signal: &str,
        limit: Duration,
        outcome: impl Fn(&R, S) -> Option<T>,
    ) -> zbus::Result<Option<T>> {
        // a reload of all units sends a signal for each: a full queue would block the answer behind them
        const QUEUE: std::num::NonZeroUsize = std::num::NonZeroUsize::new(4096).expect("not zero");
        let wait = async |connection: &Connection| {
            let rule = MatchRule::builder()
                .msg_type(zbus::message::Type::Signal)
                .sender(object.service)
                .path(object.path)
                .interface(object.interface)
                .member(signal)
                .build()?;
            // subscribe before the call: a quick job ends before its answer is read
            let mut signals = MessageStream::for_match_rule(rule, connection, Some(QUEUE)).await?;
            let answer: R = ask(connection, object, method, MethodFlags::NO_AUTO_START, arguments).await?;
            let wait = async {
                while let Some(message) = poll_fn(|context| Pin::new(&mut signals).poll_next(context)).await {
                    if let Some(outcome) = outcome(&answer, message?.body().deserialize()?) {
                        return Ok(outcome);
                    }
                }
                Err(lost())
            };
            within(limit, wait).await?.transpose()
        };
        self.with_connection(|connection| zbus::block_on(wait(connection)))
    }
}

fn connect() -> zbus::Result<Connection> {
    check_threads()?;
    zbus::block_on(within(ANSWER, Connection::system()))?.unwrap_or_else(|| Err(timed_out()))
}

/// An error if three more threads can't be started: one serves the connection, and the library panics without it; one is the timer;
/// one may still be ending.
fn check_threads() -> io::Result<()> {
    let start = |_| {
        let (sender, receiver) = mpsc::channel::<()>();
        let thread = std::thread::Builder::new().spawn(move || receiver.recv().ok())?;
        Ok((sender, thread))
    };
    let started: io::Result<Vec<_>> = (0..3).map(start).collect();
    for (sender, thread) in started? {
        drop(sender);
        let _ = thread.join();
    }
    Ok(())
}

async fn ask<B: Sent, R: Received>(
    connection: &Connection,
    object: Object<'_>,
    method: &str,
    flags: MethodFlags,
    arguments: &B,
) -> zbus::Result<R> {
    let proxy = Proxy::new(connection, object.service, object.path, object.interface).await?;
    let answer = within(ANSWER, proxy.call_with_flags(method, flags, arguments)).await;
    answer?.unwrap_or_else(|| Err(timed_out()))?.ok_or(zbus::Error::InvalidReply)
}

/// Waits until PID 1 is on the bus again, and subscribes this connection to its signals.
fn await_manager(connection: &Connection) {
    let end = Instant::now() + RETURN;
    let ask = || ask::<_, ()>(connection, MANAGER, "Subscribe", MethodFlags::NO_AUTO_START, &());
    let subscribe = || zbus::block_on(ask());
    while subscribe().is_err_and(|error| is_absent(&error)) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The current time of systemd's monotonic clock, in microseconds.
pub fn monotonic() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000)
}

/// Values by their names.
pub type Properties = HashMap<String, OwnedVariant>;

/// The value of this name; its default if there is none of this type.
pub fn get<T: TryFrom<OwnedVariant> + Default>(properties: &Properties, name: &str) -> T {
    properties.get(name).and_then(|value| T::try_from(value.clone()).ok()).unwrap_or_default()
}

/// The service's own message about a failure.
pub fn reason(error: &zbus::Error) -> String {
    match error {
        zbus::Error::MethodError(_, Some(detail), _) => last_exception(detail),
        other => other.to_string(),
    }
}

/// The exception at the end of a Python traceback, which some services return; any other text as it is.
fn last_exception(text: &str) -> String {
    match text.rsplit_once("Traceback (most recent call last):") {
        // every line except the exception's own is indented
        Some((_, traceback)) => {
            let indented = |line: &&str| line.trim().is_empty() || line.starts_with(char::is_whitespace);
            let exception: Vec<&str> = traceback.lines().skip_while(indented).collect();
            exception.join("\n").trim_end().to_owned()
        }
        None => text.to_owned(),
    }
}

/// The name of a service's own error.
pub fn error_name(error: &zbus::Error) -> &str {
    match error {
        zbus::Error::MethodError(name, _, _) => name.as_str(),
        _ => "",
    }
}

/// Whether the service went away before it could answer.
pub fn has_left(error: &zbus::Error) -> bool {
    is_absent(error) || matches!(error, zbus::Error::FDO(inner) if matches!(**inner, zbus::fdo::Error::NoReply(_)))
}

/// Whether the service is not on the bus.
pub fn is_absent(error: &zbus::Error) -> bool {
    use zbus::fdo::Error::{NameHasNoOwner, ServiceUnknown};
    matches!(error, zbus::Error::FDO(inner) if matches!(**inner, ServiceUnknown(_) | NameHasNoOwner(_)))
}

/// Whether the service is too old to know the method.
pub fn is_unknown_method(error: &zbus::Error) -> bool {
    matches!(error, zbus::Error::FDO(inner) if matches!(**inner, zbus::fdo::Error::UnknownMethod(_)))
}

/// Whether the service refuses the arguments.
pub fn is_invalid(error: &zbus::Error) -> bool {
    matches!(error, zbus::Error::FDO(inner) if matches!(**inner, zbus::fdo::Error::InvalidArgs(_)))
}

/// Whether the bus itself went away.
fn is_lost(error: &zbus::Error) -> bool {
    matches!(error, zbus::Error::InputOutput(_)) && !is_starved(error)
}

/// Whether no more threads can be started.
fn is_starved(error: &zbus::Error) -> bool {
    matches!(error, zbus::Error::InputOutput(error) if error.kind() == io::ErrorKind::WouldBlock)
}

fn lost() -> zbus::Error {
    zbus::Error::InputOutput(Arc::new(io::Error::new(
        io::ErrorKind::ConnectionReset,
        "the connection to the system bus was closed",
    )))
}

fn timed_out() -> zbus::Error {
    zbus::Error::Failure(format!("no answer within {} s", ANSWER.as_secs()))
}

/// The output of `future`; `None` if it isn't ready within `limit`. An error if the timer thread can't be started.
async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> io::Result<Option<T>> {
    let deadline = Instant::now() + limit;
    let mut future = pin!(future);
    // dropped at the end of this function, which ends the timer thread
    let mut alarm: Option<mpsc::Sender<()>> = None;
    poll_fn(|context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Ok(Some(output)));
        }
        if Instant::now() >= deadline {
            return Poll::Ready(Ok(None));
        }
        if alarm.is_none() {
            let (sender, receiver) = mpsc::channel();
            alarm = Some(sender);
            let waker = context.waker().clone();
            let started = std::thread::Builder::new().spawn(move || {
                let _ = receiver.recv_timeout(limit);
                waker.wake();
            });
            if let Err(error) = started {
                return Poll::Ready(Err(error));
            }
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_traceback_only_the_last_exception_is_reported_with_all_its_lines() {
        let inner = "  File \"/usr/lib/python2.7/site-packages/dbus/service.py\", line 707, in _message_cb\n    retval = f()\n           ^^^\n";
        let traceback = format!("Traceback (most recent call last):\n{inner}");
        for (text, exception) in [
            (
                format!("{traceback}TypeError: More items found in D-Bus signature\n"),
                "TypeError: More items found in D-Bus signature",
            ),
            (
                format!(
                    "{traceback}KeyError: 1\n\nDuring handling of the above exception, another exception occurred:\n\n{traceback}FirewallError: INVALID_RULE: Wrong reject type x.\nUse one of: y."
                ),
                "FirewallError: INVALID_RULE: Wrong reject type x.\nUse one of: y.",
            ),
            (format!("org.freedesktop.DBus.Python.ValueError: {traceback}\nValueError: no"), "ValueError: no"),
            ("INVALID_ZONE: x".to_owned(), "INVALID_ZONE: x"),
        ] {
            assert_eq!(last_exception(&text), exception);
        }
    }

    #[test]
    fn a_wait_ends_with_what_it_waited_for_or_with_its_limit() {
        assert_eq!(zbus::block_on(within(Duration::from_secs(600), async { 7 })).unwrap(), Some(7));
        assert_eq!(zbus::block_on(within(Duration::from_millis(1), std::future::pending::<()>())).unwrap(), None);
    }
}
