//! The client side of a run: a new connection, a full TLS handshake, and kpull's pauses between attempts.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, StreamOwned};
use socket2::{Domain, Socket, Type};

use crate::chance::Chance;

/// As in kpull's `net.rs`.
const TIMEOUT: Duration = Duration::from_secs(20);
const RETRIES: u32 = 3;

/// The server that hosts poll.
pub struct Server {
    /// Its address.
    pub at: SocketAddrV4,
    /// The TLS configuration; `None` for plain HTTP.
    pub tls: Option<Arc<ClientConfig>>,
}

/// Bytes on the wire, TLS included.
#[derive(Default)]
pub struct Wire {
    /// From hosts.
    pub sent: AtomicU64,
    /// To hosts.
    pub got: AtomicU64,
    /// Attempts that failed.
    pub failed: AtomicU64,
}

struct Counted<'a> {
    socket: TcpStream,
    wire: &'a Wire,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.socket.read(buffer)?;
        self.wire.got.fetch_add(count as u64, Relaxed);
        Ok(count)
    }
}

impl Write for Counted<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.socket.write(buffer)?;
        self.wire.sent.fetch_add(count as u64, Relaxed);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// The connection of one run.
pub struct Connection<'a> {
    server: &'a Server,
    wire: &'a Wire,
    from: Ipv4Addr,
    stream: Option<Box<dyn Stream + 'a>>,
}

/// A response of a server.
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The `ETag` header; empty if there is none.
    pub etag: String,
}

impl<'a> Connection<'a> {
    /// A connection from the host's own address, which the first request opens.
    pub fn new(server: &'a Server, wire: &'a Wire, from: Ipv4Addr) -> Self {
        Self { server, wire, from, stream: None }
    }

    fn open(&self) -> io::Result<Box<dyn Stream + 'a>> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddrV4::new(self.from, 0).into())?;
        socket.connect_timeout(&self.server.at.into(), TIMEOUT)?;
        let socket = TcpStream::from(socket);
        socket.set_read_timeout(Some(TIMEOUT))?;
        socket.set_nodelay(true)?;
        let counted = Counted { socket, wire: self.wire };
        let Some(tls) = &self.server.tls else { return Ok(Box::new(counted)) };
        let name = std::net::IpAddr::from(*self.server.at.ip()).into();
        let client = ClientConnection::new(tls.clone(), name).map_err(io::Error::other)?;
        Ok(Box::new(StreamOwned::new(client, counted)))
    }

    fn attempt(&mut self, request: &str) -> io::Result<Answer> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.open()?,
        };
        stream.write_all(request.as_bytes())?;
        let (mut buffer, mut head) = ([0; 16 << 10], Vec::new());
        let end = loop {
            let count = stream.read(&mut buffer)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            head.extend_from_slice(&buffer[..count]);
            if let Some(end) = head.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end + 4;
            }
        };
        let text = String::from_utf8_lossy(&head[..end]).into_owned();
        let field = |name: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once(": "));
            lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned()).unwrap_or_default()
        };
        let mut left = field("content-length").parse::<usize>().unwrap_or(0).saturating_sub(head.len() - end);
        while left > 0 {
            match stream.read(&mut buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => left = left.saturating_sub(count),
            }
        }
        if field("connection") != "close" {
            self.stream = Some(stream);
        }
        let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Answer { status, etag: field("etag") })
    }

    /// Sends a request with kpull's number of retries and its pauses, divided by `speed`.
    pub fn ask(&mut self, request: &str, chance: &mut Chance, speed: u64) -> Option<Answer> {
        for made in 0..=RETRIES {
            match self.attempt(request) {
                Ok(answer) if answer.status < 500 => return Some(answer),
                _ => self.wire.failed.fetch_add(1, Relaxed),
            };
            if made < RETRIES {
                let most = 250_u64 << made;
                thread::sleep(Duration::from_millis((most / 2 + chance.up_to(most / 2)) / speed));
            }
        }
        None
    }
}
