//! arm64: the static program under QEMU's user mode, and what confines it on Debian's kernel in a machine of its own.
//!
//! The user mode has no seccomp and no Landlock, and starts no further program of arm64 where the kernel does not know it:
//! sources that are asked over a network are left to the machine.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

use crate::platforms::kernels::a_tree_that_changes;
use crate::support::machine::{Machine, cache, made_by, need, run};
use crate::support::site::{Output, Site, Tree, key};

const TARGET: &str = "aarch64-unknown-linux-musl";

/// This build's program for arm64, and the suite `sandbox`, made once.
fn programs() -> &'static [PathBuf; 2] {
    static PROGRAMS: OnceLock<[PathBuf; 2]> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        need(&[
            ("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"),
            ("aarch64-linux-gnu-ld", "libc6-dev-arm64-cross"),
            ("qemu-aarch64", "qemu-user"),
        ]);
        if !sysroot().join("lib/rustlib").join(TARGET).exists() {
            run("rustup", ["target", "add", TARGET]);
        }
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args([
            "build",
            "--target",
            TARGET,
            "--bin",
            "kpull",
            "--test",
            "sandbox",
            "--message-format=json-render-diagnostics",
        ]);
        // variables of the cargo that runs this test would cause a rebuild
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"].iter().any(|of| name.starts_with(of)) {
                cargo.env_remove(&*name);
            }
        }
        cargo.current_dir(env!("CARGO_MANIFEST_DIR")).env("CARGO_TARGET_DIR", cache().join("target-aarch64"));
        cargo.envs([("CARGO_PROFILE_DEV_DEBUG", "0"), ("CARGO_INCREMENTAL", "0")]);
        cargo.env("CC_aarch64_unknown_linux_musl", "aarch64-linux-gnu-gcc");
        cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER", "rust-lld");
        let text = Output::of(cargo.output().expect("start cargo")).exits(0).stdout;
        let made: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        ["kpull", "sandbox"].map(|name| {
            let of_it = |line: &&Value| line["target"]["name"] == name && line["executable"].is_string();
            made.iter().find(of_it).unwrap_or_else(|| panic!("no {name}"))["executable"].as_str().unwrap().into()
        })
    })
}

fn sysroot() -> PathBuf {
    let message = Command::new("rustc").args(["--print", "sysroot"]).output().expect("start rustc");
    String::from_utf8(message.stdout).unwrap().trim().into()
}

/// Runs the program in the user mode; words after a blank are arguments.
fn kpull(arguments: &str, more: &[&str]) -> Output {
    let mut command = Command::new("qemu-aarch64");
    command.arg(&programs()[0]).args(arguments.split(' ')).args(more).env("NO_COLOR", "1");
    Output::of(command.output().unwrap())
}

#[test]
fn trees_are_created_changed_and_undone_as_on_amd64() {
    let here = a_tree_that_changes(Tree::kpull);
    let there = a_tree_that_changes(|tree, arguments| kpull(arguments, &["--root", tree.path().to_str().unwrap()]));
    assert_eq!(there, here);
}

#[test]
fn a_site_is_checked_signed_and_verified() {
    let site = Site::new("test");
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"app\"]\n");
    site.role("app", "[[file]]\npath = \"/etc/arch\"\ncontent = \"{{ facts.arch }}\\n\"\n");
    let keys = Tree::new();
    let at = ["--site", site.path().to_str().unwrap()];
    kpull("check", &at).exits(0);
    let sign = format!("sign --key {}", keys.key());
    kpull(&sign, &at).exits(0);

    let tree = Tree::new();
    let root = ["--root", tree.path().to_str().unwrap()];
    let fingerprint = key().public_key().fingerprint(ssh_key::HashAlg::Sha256);
    let enroll = format!("enroll {} --site test --host h1 --fingerprint {fingerprint}", site.path().display());
    kpull(&enroll, &root).exits(0);
    kpull("apply", &root).exits(0);
    assert_eq!(tree.read("etc/arch"), "arm64\n");
    site.role("app", "");
    kpull(&sign, &at).exits(0);
    site.role("app", "# changed on its way\n");
    kpull("apply", &root).exits(4);
    assert_eq!(tree.read("etc/arch"), "arm64\n");
}

#[test]
fn on_an_arm64_kernel_sources_are_confined_and_the_demo_runs_for_any_user() {
    need(&[("qemu-system-aarch64", "qemu-system-arm"), ("mmdebstrap", "mmdebstrap"), ("cpio", "cpio")]);
    let made = made_by("arm64-kernel");
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    for name in ["bin", "proc", "sys", "dev", "tmp", "etc"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    fs::copy(made.join("busybox"), root.join("bin/busybox")).unwrap();
    for (program, name) in programs().iter().zip(["kpull", "sandbox"]) {
        let place = root.join("bin").join(name);
        run("aarch64-linux-gnu-strip", [Path::new("-o"), &place, program]);
    }
    fs::write(root.join("init"), INIT).unwrap();
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755)).unwrap();
    let initrd = dir.path().join("initrd");
    run("sh", ["-euc", &format!("cd {}; find . | cpio -o -H newc --quiet > {}", root.display(), initrd.display())]);

    let output = Machine {
        program: "qemu-system-aarch64",
        options: ["-machine", "virt", "-cpu", "cortex-a72"].map(str::to_owned).into(),
        kernel: made.join("kernel"),
        initrd,
        append: "console=ttyAMA0 quiet panic=-1".to_owned(),
    }
    .run();
    assert!(output.contains("machine aarch64\r\n"), "{output}");
    for step in ["sandbox-as-root", "sandbox-as-somebody", "demo-as-root", "demo-as-somebody"] {
        assert!(output.contains(&format!("\n{step} ended with 0\r\n")), "{step}: {output}");
    }
    assert_eq!(output.matches("\n0 failed\r\n").count(), 2, "{output}");
}

const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mkdir -p /usr/bin /usr/sbin /sbin
/bin/busybox --install -s
export PATH=/bin:/usr/bin:/sbin:/usr/sbin NO_COLOR=1
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs -o mode=1777 tmp /tmp
ip link set lo up
echo '127.0.0.1 localhost' > /etc/hosts
printf 'root:x:0:0::/:/bin/sh\nsomebody:x:1000:1000::/tmp:/bin/sh\n' > /etc/passwd
touch /etc/shadow
chmod 600 /etc/shadow
step() { name=$1; shift; "$@" 2>&1; echo "$name ended with $?"; }
echo "machine $(uname -m)"
step sandbox-as-root sandbox
step sandbox-as-somebody su -s /bin/sh somebody -c sandbox
step demo-as-root kpull demo --dir /tmp/root
step demo-as-somebody su -s /bin/sh somebody -c 'kpull demo --dir /tmp/somebody'
poweroff -f
"#;
