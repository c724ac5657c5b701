//! A real web server as the place of releases and artifacts: nginx on the loopback interface, TLS on both sides.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rcgen::KeyPair;

use crate::support::authority::{authority, named};
use crate::support::site::{Output, Site, Tree};
use crate::tree::artifacts;
use crate::tree::supply::{mirror, publish, site};

/// An nginx in a directory of its own.
pub struct Nginx {
    dir: tempfile::TempDir,
    port: u16,
    process: Child,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Nginx {
    /// One that accepts only clients with a certificate of its authority, and PUT below `/releases/`.
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        certificates(dir.path());
        fs::create_dir_all(dir.path().join("www/releases")).unwrap();
        Self::run(dir, configuration)
    }

    /// One that is configured so, in `dir`, on the port that it is given.
    pub fn run(dir: tempfile::TempDir, configuration: impl Fn(&Path, u16) -> String) -> Self {
        // a port that was free a moment ago may be taken now
        for _ in 0..10 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let config = dir.path().join("nginx.conf");
            fs::write(&config, configuration(dir.path(), port)).unwrap();
            let mut process = Command::new("nginx")
                .args(["-e", "error.log", "-p"])
                .arg(dir.path())
                .arg("-c")
                .arg(&config)
                .stdin(Stdio::null())
                .spawn()
                .expect("nginx is there: tests/run installs it");
            while process.try_wait().unwrap().is_none() {
                if TcpStream::connect(("127.0.0.1", port)).is_ok() && process.try_wait().unwrap().is_none() {
                    return Self { dir, port, process };
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        panic!("nginx does not start: {}", fs::read_to_string(dir.path().join("error.log")).unwrap_or_default());
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    fn url(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}/{path}", self.port)
    }

    /// A file in its directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn www(&self, path: &str) -> PathBuf {
        self.file("www").join(path)
    }

    /// The options for both sides of TLS, on a command line.
    fn options(&self) -> Vec<String> {
        [("--ca", "ca.pem"), ("--client-cert", "client.pem"), ("--client-key", "client.key")]
            .into_iter()
            .flat_map(|(option, file)| [option.to_owned(), self.file(file).display().to_string()])
            .collect()
    }

    /// The same in `kpull.toml`.
    fn table(&self) -> String {
        [("ca", "ca.pem"), ("client_cert", "client.pem"), ("client_key", "client.key")]
            .map(|(option, file)| format!("{option} = \"{}\"\n", self.file(file).display()))
            .concat()
    }

    fn publish(&self, site: &Site, target: &str) -> Output {
        let options = self.options();
        publish(site, &self.url(target), &options.iter().map(String::as_str).chain(["--json"]).collect::<Vec<_>>())
    }

    /// Method, path and status of what it was asked since line `from` of its log, up to a line that begins with `last`: it
    /// writes that when the client may have its answer already.
    fn asked(&self, from: usize, last: &str) -> Vec<String> {
        for _ in 0..1000 {
            let text = fs::read_to_string(self.file("access.log")).unwrap();
            let lines: Vec<String> = text.lines().skip(from).map(str::to_owned).collect();
            if lines.last().is_some_and(|line| line.starts_with(last)) {
                return lines;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{last} is not the last that nginx was asked: {:?}", fs::read_to_string(self.file("access.log")));
    }

    /// The lines of a log, as soon as it has `count`.
    fn lines(&self, name: &str, count: usize) -> Vec<String> {
        for _ in 0..1000 {
            let text = fs::read_to_string(self.file(name)).unwrap();
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            if lines.len() >= count {
                return lines;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{name} has no {count} lines");
    }
}

/// One process, nothing outside of `dir`; `http` is the configuration of the web server.
pub fn alone(dir: &Path, http: &str) -> String {
    let dir = dir.display();
    let scratch: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("  {name}_temp_path {dir}/{name};\n"))
        .concat();
    format!(
        "daemon off;\nmaster_process off;\npid {dir}/pid;\nerror_log {dir}/error.log;\nevents {{}}\nhttp {{\n{scratch}{http}}}\n"
    )
}

fn configuration(dir: &Path, port: u16) -> String {
    let http = format!(
        "\x20 log_format short '$request_method $uri $status';\n  access_log {dir}/access.log short;\n\
         \x20 log_format bytes '$status $request_length $bytes_sent $connection_requests';\n\
         \x20 access_log {dir}/bytes.log bytes;\n\
         \x20 server {{\n    listen 127.0.0.1:{port} ssl;\n    ssl_certificate {dir}/server.pem;\n\
         \x20   ssl_certificate_key {dir}/server.key;\n    ssl_client_certificate {dir}/ca.pem;\n\
         \x20   ssl_verify_client on;\n    root {dir}/www;\n    client_max_body_size 128m;\n\
         \x20   location /releases/ {{\n      dav_methods PUT;\n      create_full_put_path on;\n    }}\n  }}\n",
        dir = dir.display()
    );
    alone(dir, &http)
}

fn certificates(dir: &Path) {
    let issuer = authority();
    fs::write(dir.join("ca.pem"), issuer.pem()).unwrap();
    for (name, addresses) in [("server", vec!["127.0.0.1".to_owned()]), ("client", Vec::new())] {
        let key = KeyPair::generate().unwrap();
        let certificate = named(name, addresses).signed_by(&key, &issuer).unwrap();
        fs::write(dir.join(format!("{name}.pem")), certificate.pem()).unwrap();
        fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

#[test]
fn a_release_is_published_to_nginx_by_put_and_hosts_get_it_from_there() {
    let (nginx, site) = (Nginx::start(), site("one"));
    nginx.publish(&site, "releases/a").exits(0);
    let asked = nginx.asked(0, "PUT /releases/a/current.toml");
    assert_eq!(asked[0], "GET /releases/a/current.toml 404");
    assert_eq!(asked.last().unwrap(), "PUT /releases/a/current.toml 201");
    assert_eq!(asked.iter().filter(|line| line.starts_with("PUT /releases/a/blobs/")).count(), 5);
    let tree = Tree::new();
    tree.configure(&format!("[[source]]\nhttp = \"{}\"\nretries = 0\n{}", nginx.url("releases/a"), nginx.table()));
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("etc/motd"), "one\n");
    let before = nginx.asked(0, "GET /releases/a/blobs/").len();
    tree.kpull("apply").exits(0);
    assert_eq!(
        nginx.asked(before, "GET /releases/a/current.toml"),
        ["GET /releases/a/current.toml 304"],
        "no news is one request without a body"
    );

    // the log of bytes is written right after the other: both have a line for each request
    let log = nginx.lines("bytes.log", before + 1).pop().unwrap();
    let numbers: Vec<u64> = log.split(' ').map(|number| number.parse().unwrap()).collect();
    let [304, sent, got, 1] = numbers[..] else {
        panic!("a poll with no news is one request of one connection: {log}")
    };
    assert!((1..=1024).contains(&sent) && (1..=1024).contains(&got), "1 KB each way beyond TLS: {sent} {got}");

    let before = nginx.asked(0, "GET ").len();
    assert_eq!(nginx.publish(&site, "releases/a").exits(0).json()[0]["unchanged"], true);
    // the pointer, the blobs, and the pointer that is kept of the release, which is compared by writing it
    let before = before + nginx.asked(before, "PUT /releases/a/releases/1.toml").len();
    site.role("base", "[[file]]\npath = \"/etc/motd\"\ncontent = \"two\\n\"\n").sign();
    nginx.publish(&site, "releases/a").exits(0);
    let asked = nginx.asked(before, "PUT /releases/a/current.toml");
    let puts: Vec<&String> = asked.iter().filter(|line| line.starts_with("PUT")).collect();
    assert_eq!((puts.len(), asked.last().unwrap().as_str()), (5, "PUT /releases/a/current.toml 204"));
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("etc/motd"), "two\n");
}

#[test]
fn without_a_certificate_or_if_nginx_refuses_put_nothing_is_published() {
    let (nginx, site) = (Nginx::start(), site("one"));
    let ca = nginx.file("ca.pem");
    let nobody = publish(&site, &nginx.url("releases/a"), &["--ca", ca.to_str().unwrap(), "--json"]);
    assert!(nobody.exits(1).error()["error"].as_str().unwrap().contains(" 400 "));
    let error = nginx.publish(&site, "elsewhere").exits(1).error();
    assert!(error["error"].as_str().unwrap().ends_with("the server answered 405 Method Not Allowed"), "{error}");
    assert!(error["help"].as_str().unwrap().contains("`dav_methods PUT`"), "{error}");
    assert_eq!(fs::read_dir(nginx.www("releases")).unwrap().count(), 0);
}

#[test]
fn nginx_serves_a_published_directory_unchanged() {
    let (nginx, site) = (Nginx::start(), site("one"));
    publish(&site, nginx.www("b").to_str().unwrap(), &[]).exits(0);
    let tree = Tree::new();
    tree.configure(&format!("[[source]]\nhttp = \"{}\"\n{}", nginx.url("b"), nginx.table()));
    tree.kpull("apply").exits(0);
    assert_eq!(tree.read("etc/motd"), "one\n");
    for round in 0..3 {
        site.role("base", &format!("[[file]]\npath = \"/etc/motd\"\ncontent = \"{round}\\n\"\n")).sign();
        publish(&site, nginx.www("b").to_str().unwrap(), &["--keep", "1", "--grace", "0s"]).exits(0);
        tree.kpull("apply").exits(0);
        assert_eq!(tree.read("etc/motd"), format!("{round}\n"));
    }
    assert_eq!(fs::read_dir(nginx.www("b/releases")).unwrap().count(), 1);
    assert_eq!(fs::read_dir(nginx.www("b/blobs")).unwrap().count(), 5);
}

#[test]
fn a_host_without_internet_access_gets_its_artifacts_from_a_mirror_on_nginx() {
    let nginx = Nginx::start();
    let content = artifacts::bytes(70_000);
    let (publisher, url) = artifacts::published("tool", &content);
    let site = artifacts::site(&[url], &content, "tool = \"/usr/bin/tool\"");
    mirror(&site, &nginx.www("m"), &[]).exits(0);
    let again = tempfile::tempdir().unwrap();
    let options = nginx.options();
    drop(publisher);
    let from = nginx.url("m");
    let more: Vec<&str> = ["--from", &from].into_iter().chain(options.iter().map(String::as_str)).collect();
    mirror(&site, again.path(), &more).exits(0);

    let tree = site.sign().enroll();
    let config = tree.read("etc/kpull/kpull.toml");
    let table = nginx.table();
    let artifacts = format!("{config}\n[artifacts]\nmirrors = [\"{from}\"]\nonly_mirrors = true\n{table}");
    tree.write("etc/kpull/kpull.toml", artifacts);
    tree.kpull("apply").exits(0);
    assert_eq!(fs::read(tree.at("usr/bin/tool")).unwrap(), content);
}

#[test]
fn a_host_puts_its_status_record_on_nginx_and_operators_read_it_there() {
    let nginx = Nginx::start();
    let site = Site::new("test");
    let key: ssh_key::PrivateKey = ssh_key::private::Ed25519Keypair::from_seed(&[1; 32]).into();
    let public = key.public_key().to_openssh().unwrap();
    site.role("base", "").host("h1", &format!("address = \"10.0.0.1\"\nrecipient = {public:?}\nroles = [\"base\"]\n"));
    let tree = site.sign().enroll();
    tree.write("etc/ssh/ssh_host_ed25519_key", key.to_openssh(ssh_key::LineEnding::LF).unwrap().as_bytes());
    let configure = |url: &str| {
        let (source, table) = (site.path(), nginx.table());
        tree.configure(&format!("[[source]]\ndir = {source:?}\n[status]\nhttp = {url:?}\nevery = \"0s\"\n{table}"));
    };
    configure(&nginx.url("releases/fleet/"));
    tree.kpull("apply").exits(0);
    assert_eq!(nginx.asked(0, "PUT "), ["PUT /releases/fleet/h1.status 201"]);
    let (url, options) = (nginx.url("releases/fleet"), nginx.options());
    let mut arguments = vec!["fleet", "--site", site.path().to_str().unwrap(), &url];
    arguments.extend(options.iter().map(String::as_str));
    let text = crate::support::site::kpull(&arguments).exits(0).stdout;
    assert!(text.contains("1 healthy"), "{text}");
    // one that takes no PUT there stops nothing
    configure(&nginx.url("closed"));
    let output = tree.kpull("apply --json").exits(0);
    assert!(output.events("not_reported")[0]["error"].as_str().unwrap().contains("405"), "{}", output.stdout);
}
