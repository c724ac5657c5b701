//! Records the requests of kpull: a forwarder between kpull and nginx that stores requests and counts bytes.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// The recorded traffic.
#[derive(Default, Debug, Clone)]
pub struct Traffic {
    /// All bytes that the client has sent, one connection after the other.
    pub sent: Vec<u8>,
    /// The number of received bytes.
    pub got: u64,
    /// The number of connections.
    pub connections: u64,
}

/// A TCP forwarder that records.
pub struct Forwarder {
    /// The address on which it listens.
    pub at: SocketAddrV4,
    traffic: Arc<Mutex<Traffic>>,
}

fn pump(mut from: TcpStream, mut to: TcpStream, mut seen: impl FnMut(&[u8])) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        seen(&buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

impl Forwarder {
    /// Starts a forwarder to `to`.
    pub fn start(to: SocketAddrV4) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let at = SocketAddrV4::new(Ipv4Addr::LOCALHOST, listener.local_addr().expect("an address").port());
        let traffic = Arc::<Mutex<Traffic>>::default();
        let kept = traffic.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = TcpStream::connect(to).expect("nginx is there");
                kept.lock().expect("a lock").connections += 1;
                let (sent, got) = (kept.clone(), kept.clone());
                let (c, s) = (client.try_clone().expect("a socket"), server.try_clone().expect("a socket"));
                thread::spawn(move || pump(c, s, |bytes| sent.lock().expect("a lock").sent.extend_from_slice(bytes)));
                thread::spawn(move || {
                    pump(server, client, |bytes| got.lock().expect("a lock").got += bytes.len() as u64)
                });
            }
        });
        Self { at, traffic }
    }

    /// Returns the traffic since the last call.
    pub fn take(&self) -> Traffic {
        std::mem::take(&mut self.traffic.lock().expect("a lock"))
    }
}

impl Traffic {
    /// The heads of the requests.
    pub fn heads(&self) -> Vec<String> {
        let text = String::from_utf8(self.sent.clone()).expect("requests without a body are text");
        text.split_inclusive("\r\n\r\n").map(str::to_owned).collect()
    }
}

/// The path of a request.
pub fn path(head: &str) -> &str {
    head.split(' ').nth(1).expect("a request line")
}

/// The same request with another `Host` header and, if it has one, another `If-None-Match`.
pub fn addressed(head: &str, host: SocketAddrV4, etag: &str) -> String {
    let line = |line: &str| match line.split_once(": ").map(|(name, _)| name) {
        Some(name) if name.eq_ignore_ascii_case("host") => format!("{name}: {host}\r\n"),
        Some(name) if name.eq_ignore_ascii_case("if-none-match") => format!("{name}: {etag}\r\n"),
        _ => line.to_owned(),
    };
    head.split_inclusive("\r\n").map(line).collect()
}
