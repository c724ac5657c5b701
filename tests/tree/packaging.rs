//! What `packaging/` has for fresh machines is what kpull reads.

use std::process::Command;

use serde_json::{Value, json};
use ssh_key::HashAlg;

use crate::support::site::{Output, Site, Tree, key};

const CLOUD_INIT: &str = include_str!("../../packaging/cloud-init.yaml");
const IGNITION: &str = include_str!("../../packaging/ignition.ign");
const CONTAINERFILE: &str = include_str!("../../packaging/Containerfile");
const FILES: &str = include_str!("../../packaging/files");
const SERVICE: &str = include_str!("../../kpull.service");
const TIMER: &str = include_str!("../../packaging/kpull.timer");

const ADDRESS: &str = "https://releases.example.org/k8s";

fn site() -> Site {
    let site = Site::new("k8s");
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"base\"]\n").role("base", "").sign();
    site
}

#[test]
fn the_commands_of_cloud_init_enroll_a_machine() {
    let config: Value = serde_saphyr::from_str(CLOUD_INIT).unwrap();
    assert!(CLOUD_INIT.starts_with("#cloud-config\n"));
    let file = &config["write_files"][0];
    assert_eq!(config["runcmd"][0][0], file["path"]);
    assert_eq!(file["permissions"], "0700");

    let script = file["content"].as_str().unwrap();
    let (site, tree) = (site(), Tree::new());
    let fingerprint = key().public_key().fingerprint(HashAlg::Sha256).to_string();
    let (before, rest) = script.split_once("SHA256:").unwrap();
    let rest = rest.split_once('\n').unwrap().1;
    let script = format!("{before}{fingerprint}\n{rest}").replace(ADDRESS, site.path().to_str().unwrap());
    assert!(script.contains(&format!("enroll {}", site.path().display())), "{script}");
    // of the machine's own programs, stand-ins that only say that they were asked
    let prelude = r#"
curl() { echo "curl $*"; : > kpull.deb; }
sha256sum() { read -r sum file && echo "sha256sum $* $file"; }
dpkg() { echo "dpkg $*"; }
hostname() { echo h1; }
systemctl() { echo "systemctl $*"; }
kpull() { "$KPULL" "$@" --root "$ROOT"; }
"#;
    let shell = Command::new("sh")
        .args(["-c", &format!("{prelude}{script}")])
        .env("KPULL", env!("CARGO_BIN_EXE_kpull"))
        .env("ROOT", tree.path())
        .env("TMPDIR", tree.path())
        .output()
        .unwrap();
    let text = Output::of(shell).exits(0).stdout;
    for line in ["sha256sum --check --quiet kpull.deb", "dpkg --install kpull.deb", "h1 is enrolled to the site k8s"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(text.ends_with("systemctl enable --now kpull.timer\n"), "{text}");
    tree.kpull("plan").exits(0);
}

#[test]
fn ignition_writes_the_shipped_units_and_an_enrollment_that_kpull_accepts() {
    let config: Value = serde_json::from_str(IGNITION).unwrap();
    let units = config["systemd"]["units"].as_array().unwrap();
    let unit = |name: &str| units.iter().find(|unit| unit["name"] == name).unwrap();
    // /usr is not writable where Ignition is used, and on Flatcar /usr/local is below it
    let program = "/opt/bin/kpull";
    assert_eq!(unit("kpull.service")["contents"], SERVICE.replace("/usr/bin/kpull", program));
    assert_eq!(unit("kpull.timer")["contents"], TIMER);
    assert_eq!(unit("kpull.timer")["enabled"], true);

    // only root may look into them, here as after `kpull enroll`
    let (site, tree, enrolled) = (site(), Tree::new(), Tree::new());
    let fingerprint = key().public_key().fingerprint(HashAlg::Sha256);
    let address = site.path().display();
    enrolled.kpull(&format!("enroll {address} --site k8s --host h1 --fingerprint {fingerprint}")).exits(0);
    let mode_by_enroll = |path: &str| enrolled.mode(&path[1..]);
    let directories = config["storage"]["directories"].as_array().unwrap();
    assert_eq!(directories[..], [json!({ "path": "/etc/kpull", "mode": mode_by_enroll("/etc/kpull") })]);
    let mut paths = Vec::new();
    for file in config["storage"]["files"].as_array().unwrap() {
        let path = file["path"].as_str().unwrap();
        paths.push(path);
        if let Some(data) = file["contents"]["source"].as_str().unwrap().strip_prefix("data:,") {
            assert_eq!(file["mode"], mode_by_enroll(path), "{path}");
            let text = decode(data).replace(&format!("http = {ADDRESS:?}"), &format!("dir = {:?}", site.path()));
            tree.write(&path[1..], text);
        } else {
            assert!(file["contents"]["verification"]["hash"].as_str().unwrap().starts_with("sha256-"), "{path}");
            assert_eq!(file["mode"], 0o755, "{path}");
        }
    }
    assert_eq!(paths, [program, "/etc/kpull/kpull.toml", "/etc/kpull/allowed_signers"]);
    assert!(tree.read("etc/kpull/kpull.toml").contains(site.path().to_str().unwrap()));
    tree.kpull("self-test").exits(0);
    // the key in there is an example
    let refused = tree.kpull("plan --host h1").exits(4).stderr;
    assert!(refused.contains("sign"), "{refused}");
    let signer = key().public_key().to_openssh().unwrap();
    let signers = tree.read("etc/kpull/allowed_signers");
    let (options, _) = signers.split_once("ssh-ed25519").unwrap();
    tree.write("etc/kpull/allowed_signers", format!("{options}{signer}\n"));
    tree.kpull("plan --host h1").exits(0);
}

/// The text of a `data:,` address.
fn decode(data: &str) -> String {
    let mut parts = data.split('%');
    let mut bytes = parts.next().unwrap().as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
        bytes.extend(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).unwrap()
}

#[test]
fn the_image_is_built_from_the_content_of_the_tarball() {
    let copied: Vec<_> = CONTAINERFILE.lines().filter_map(|line| line.strip_prefix("COPY ")).collect();
    assert!(!copied.is_empty());
    for line in copied {
        let (source, target) = line.split_once(' ').unwrap();
        assert_eq!(format!("/{source}"), target);
        let packed = FILES.lines().filter(|line| !line.starts_with('#') && !line.ends_with(" deb"));
        assert!(packed.into_iter().any(|line| line.contains(&format!(" {target}"))), "{target} is not in the tarball");
    }
}
