//! Starts, stops and suspends a real nginx with one worker, and measures the processor time of the worker.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// An nginx that serves `DIR/www` over http and https.
pub struct Nginx {
    dir: PathBuf,
    process: Child,
    /// The address for http.
    pub plain: SocketAddrV4,
    /// The address for https.
    pub tls: SocketAddrV4,
}

fn free() -> SocketAddrV4 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, listener.local_addr().expect("an address").port())
}

fn spawn(dir: &Path, at: SocketAddrV4) -> Child {
    let mut process = Command::new("nginx")
        .arg("-e")
        .arg(dir.join("error.log"))
        .arg("-c")
        .arg(dir.join("nginx.conf"))
        .spawn()
        .expect("nginx");
    while TcpStream::connect(at).is_err() {
        assert!(process.try_wait().expect("a child").is_none(), "nginx does not start, see {}", dir.display());
        std::thread::sleep(Duration::from_millis(5));
    }
    process
}

impl Nginx {
    /// Starts nginx with the configuration that the documentation shows.
    pub fn start(dir: &Path) -> Self {
        let (plain, tls, at) = (free(), free(), dir.display());
        let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {at}/temp;\n"))
            .concat();
        let config = format!(
            "daemon off; worker_processes 1; worker_rlimit_nofile 20000; pid {at}/pid; error_log {at}/error.log;\n\
             events {{ worker_connections 16384; }}\nhttp {{\n{temp}access_log off; sendfile on; tcp_nopush on; root {at}/www;\n\
             server {{ listen {plain} backlog=4096; }}\n\
             server {{ listen {tls} ssl backlog=4096; ssl_certificate {at}/tls.pem; ssl_certificate_key {at}/tls.key; ssl_protocols TLSv1.2 TLSv1.3; }}\n}}\n"
        );
        fs::write(dir.join("nginx.conf"), config).expect("nginx.conf");
        Self { dir: dir.to_owned(), process: spawn(dir, plain), plain, tls }
    }

    fn worker(&self) -> u32 {
        let master = self.process.id();
        let children = fs::read_to_string(format!("/proc/{master}/task/{master}/children")).expect("children of nginx");
        children.split_whitespace().next().expect("a worker").parse().expect("a number")
    }

    /// The processor time of the current worker, in seconds.
    pub fn seconds(&self) -> f64 {
        let text = fs::read_to_string(format!("/proc/{}/schedstat", self.worker())).expect("schedstat");
        text.split(' ').next().expect("a field").parse::<f64>().expect("nanoseconds") / 1e9
    }

    fn signal(&self, id: u32, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(id).expect("an id")), signal).expect("nginx runs");
    }

    /// Stops nginx, so that the kernel refuses connections.
    pub fn stop(&mut self) {
        self.signal(self.process.id(), Signal::SIGTERM);
        self.process.wait().expect("nginx ends");
    }

    /// Starts nginx again.
    pub fn again(&mut self) {
        self.process = spawn(&self.dir, self.plain);
    }

    /// Suspends the worker: the kernel accepts connections, and nginx does not answer.
    pub fn hold(&self) {
        self.signal(self.worker(), Signal::SIGSTOP);
    }

    /// Resumes the worker.
    pub fn release(&self) {
        self.signal(self.worker(), Signal::SIGCONT);
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.stop();
    }
}
