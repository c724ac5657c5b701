//! Who asks what probes ask: a process without rights, also where it shows a client certificate.

use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use kpull::net::server::{Answer, Server};
use rcgen::KeyPair;
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::support::authority::{authority, named};
use crate::support::child;
use crate::support::lab::{H1, Lab, fabric_of};

/// The requests that a server received, and `/proc/PID/status` of the process that sent them.
type Asked = Arc<Mutex<Vec<(String, Option<String>)>>>;

#[test]
fn an_unprivileged_process_runs_a_probe_and_gets_only_what_that_probe_needs() {
    let lab = Lab::new(&[H1]);
    let (host, fabric) = (lab.host("h1"), fabric_of(H1.1));
    let (issuer, key) = (authority(), KeyPair::generate().unwrap());
    let certificate = named("web", vec![fabric.clone()]).signed_by(&key, &issuer).unwrap();
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let tls = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], der)
        .unwrap();
    // no other run on this machine has such a command line
    let mark = format!("mark-{}", std::process::id());
    let seen: Asked = Arc::default();
    let (address, kept, word) = (fabric.clone(), seen.clone(), mark.clone());
    let servers = lab.in_network(move || {
        let serve = |port: u16, tls| {
            let (kept, word) = (kept.clone(), word.clone());
            let listener = TcpListener::bind((address.as_str(), port)).unwrap();
            Server::on(listener, tls, move |request| {
                kept.lock().unwrap().push((request.path.clone(), child::status(&word)));
                match request.path.as_str() {
                    "/endless" => Answer::new(200, vec![b'\n'; 4 << 20]),
                    "/away" => Answer::new(302, "").with("Location", "/health"),
                    _ => Answer::new(200, "fine\n"),
                }
            })
            .unwrap()
        };
        [serve(8443, Some(Arc::new(tls))), serve(8080, None)]
    });
    let role = format!(
        r#"
summary = "For a test"
[[probe]]
name = "secure"
https = "https://{fabric}:8443/health"
ca = "/srv/ca.pem"
client_cert = "/srv/cert.pem"
client_key = "/srv/key.pem"
expect_body = "fine"
[[probe]]
name = "plain"
http = "http://{fabric}:8080/endless"
[[probe]]
name = "away"
http = "http://{fabric}:8080/away"
expect_status = 302
[[probe]]
name = "port"
tcp = "{fabric}:8080"
[[probe]]
name = "too much"
http = "http://{fabric}:8080/endless"
expect = "body == ''"
decides = false
[[probe]]
name = "closed"
tcp = "{fabric}:8081"
decides = false
"#
    );
    crate::lab::sign_on(host, &role, "");
    host.write("/srv/ca.pem", issuer.pem());
    host.write("/srv/cert.pem", certificate.pem());
    host.write("/srv/key.pem", key.serialize_pem());
    host.run(&format!("chmod 600 /srv/key.pem && cp /etc/kpull/kpull.toml /etc/kpull/{mark}.toml")).ok();
    host.run(&format!("kpull apply --config /etc/kpull/{mark}.toml")).ok();
    let asked = |wanted: &[&str]| {
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        let mut paths: Vec<&str> = seen.iter().map(|(path, _)| path.as_str()).collect();
        paths.sort_unstable();
        assert_eq!(paths, wanted);
        for (path, status) in &seen {
            let status = status.as_deref().unwrap_or_else(|| panic!("{path}: root's process asks by itself"));
            child::expect_none_of_roots_rights(path, status);
        }
    };
    asked(&["/away", "/endless", "/health"]);
    let table = host.run(&format!("kpull verify --config /etc/kpull/{mark}.toml")).stdout;
    asked(&["/away", "/endless", "/endless", "/health"]);
    for expected in ["answered with more than 1048576 bytes", &format!("can't connect to {fabric}:8081: ")] {
        assert!(table.contains(expected), "{table}");
    }
    assert!(table.contains("4 healthy, 2 not"), "{table}");
    drop(servers);
}
