//! `packaging/repository`: hosts install kpull from its output, and refuse changes by others.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use kpull::net::server::Server;

use super::{REPOSITORY, VERSION, ending, ran, stand_in};
use crate::support::lab::{H1, Lab, Output};
use crate::support::web::web;

pub const KEY: &str = "releases@example.org";
const FABRIC: &str = "192.168.1.254";

/// A releaser's directory: a key of gpg, and packages and repositories that are made with it.
pub struct Releaser(tempfile::TempDir);

impl Releaser {
    pub fn new() -> Self {
        let releaser = Self(tempfile::tempdir().unwrap());
        // its agent has a socket in there, whose path may not be long
        ran(Command::new("mkdir").args(["-m", "700"]).arg(releaser.path("gnupg")));
        let generate =
            ["--batch", "--quiet", "--passphrase", "", "--quick-generate-key", KEY, "rsa3072", "sign", "never"];
        ran(releaser.with_key(Command::new("gpg").args(generate)));
        releaser
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn with_key<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("GNUPGHOME", self.path("gnupg"))
    }

    /// Packages of this program for an architecture, signed.
    fn build(&self, program: &Path, arch: &str, revision: &str) {
        let mut build = Command::new(format!("{REPOSITORY}/packaging/build"));
        build.args(["--sign", KEY, "--arch", arch, "--fast", "--binary"]).arg(program).arg(self.path("packages"));
        let path = format!("{}:{}", self.path("bin").display(), std::env::var("PATH").unwrap());
        ran(self.with_key(build.env("REVISION", revision).env("PATH", path)));
    }

    /// What becomes of the packages.
    fn repository(&self) -> Command {
        let mut repository = Command::new(format!("{REPOSITORY}/packaging/repository"));
        repository.args(["--sign", KEY, "--url", "http://192.168.1.254/"]);
        repository.arg(self.path("web")).arg(self.path("packages"));
        self.with_key(&mut repository);
        repository
    }
}

impl Drop for Releaser {
    fn drop(&mut self) {
        let _ = self.with_key(Command::new("gpgconf").args(["--kill", "all"])).status();
    }
}

/// The line of docs/src/usage/installing.md that installs kpull by this package manager, for the repository of a test.
fn line(manager: &str) -> String {
    let page = std::fs::read_to_string(format!("{REPOSITORY}/docs/src/usage/installing.md")).unwrap();
    let line = page.lines().find(|line| line.starts_with("# curl ") && line.contains(manager)).expect("such a line");
    line.trim_start_matches("# ").replace("https://packages.example.org", "http://192.168.1.254")
}

#[test]
fn one_line_installs_kpull_from_a_signed_repository_and_a_changed_one_is_refused() {
    let releaser = Releaser::new();
    let program = releaser.path("kpull");
    Output::of(Command::new("strip").arg("-o").arg(&program).arg(env!("CARGO_BIN_EXE_kpull"))).ok();
    releaser.build(&program, "amd64", "1");
    ran(&mut releaser.repository());

    let lab = Lab::new(&[H1]);
    let host = lab.host("h1");
    let files = releaser.path("web");
    let listen = move || Server::on(TcpListener::bind((FABRIC, 80)).unwrap(), None, web(files)).unwrap();
    let server = lab.in_network(listen);

    // apt: nothing but what the line says trusts the key
    host.run(&line("apt-get")).ok();
    assert_eq!(host.run("dpkg-query -W kpull").ok(), format!("kpull\t{VERSION}-1"));
    assert_eq!(host.run("kpull --version").ok(), format!("kpull {VERSION}"));
    // a later build
    releaser.build(&program, "amd64", "2");
    ran(&mut releaser.repository());
    host.run("apt-get -q update && apt-get -qq install kpull").ok();
    assert_eq!(host.run("dpkg-query -W kpull").ok(), format!("kpull\t{VERSION}-2"));
    host.run(&format!("apt-get -qq --allow-downgrades install kpull={VERSION}-1 && apt-get -qq purge kpull")).ok();

    // dnf, for which Debian's shell and certificates are not there
    let base = "Name: base\nVersion: 1\nRelease: 1\nSummary: x\nLicense: MIT\nBuildArch: noarch\nProvides: /bin/sh\n%description\nx\n%files\n";
    host.write("/srv/base.spec", base);
    host.run("rpmbuild --quiet -bb --define '_topdir /tmp/rpm' --define '_rpmdir /srv/made' /srv/base.spec && rpm -i /srv/made/noarch/base-1-1.noarch.rpm")
        .ok();
    host.run(&line("dnf")).ok();
    assert_eq!(host.run("rpm -q kpull").ok(), format!("kpull-{VERSION}-2.x86_64"));
    assert_eq!(host.run("rpm -q gpg-pubkey | wc -l").ok(), "1", "the key of the repository is rpm's now");
    host.run("dnf -q -y remove kpull").ok();

    // a package is changed, and everything that describes it but the signatures
    let change = |script: &str| {
        ran(Command::new("bash").args(["-euc", script]).current_dir(releaser.path("web")));
        host.run("dnf -q clean all && apt-get clean && rm -rf /var/lib/apt/lists/*").ok();
    };
    let refused = |command: &str, why: &str| {
        let output = host.run(&format!("{command} 2>&1"));
        assert!(output.code() != 0 && output.stdout.contains(why), "{output}");
        host.run("test ! -e /usr/bin/kpull").ok();
    };
    let (apt, dnf) = ("apt-get -q update && apt-get -qq install kpull", "dnf -y install kpull");
    let update = "apt-get -q update --error-on=any";
    change("cp -r . ../good; for deb in apt/pool/*.deb; do echo more >> $deb; done");
    refused(apt, "File has unexpected size");
    // the list that contains the package too
    change(
        "cd apt && apt-ftparchive packages pool > dists/stable/main/binary-amd64/Packages &&
        gzip -9nkf dists/stable/main/binary-amd64/Packages",
    );
    refused(update, "File has unexpected size");
    // and the file that describes the list, under the existing signature
    change(
        "cd apt && apt-ftparchive release dists/stable | sed '/InRelease$/d; /Release.gpg$/d; / Release$/d' > ../Release &&
        sums=$(sed -n '/^MD5Sum:/,$p' ../Release) &&
        awk -v sums=\"$sums\" '/^MD5Sum:/ { print sums; skip = 1 } /^-----BEGIN PGP SIGNATURE/ { skip = 0 } !skip' dists/stable/InRelease > ../InRelease &&
        mv ../InRelease dists/stable/InRelease",
    );
    refused(update, "BADSIG");
    change("rm apt/dists/stable/InRelease apt/dists/stable/Release.gpg");
    refused(update, "is not signed");

    change(
        "mkdir ../other && createrepo_c --quiet --no-database --outputdir ../other rpm && cp ../other/repodata/*.xml* rpm/repodata/",
    );
    refused(dnf, "repomd.xml GPG signature verification error");
    change("rm rpm/repodata/repomd.xml.asc");
    refused(dnf, "repomd.xml.asc");
    // even where the list itself is not checked
    change("rpmsign --delsign rpm/*.x86_64.rpm 2>/dev/null; createrepo_c --quiet --no-database rpm");
    refused(&format!("{dnf} --setopt=kpull.repo_gpgcheck=0"), "is not signed");

    change("cp -rT ../good .");
    host.run(apt).ok();
    host.run(dnf).ok();
    lab.in_network(move || drop(server));
}

#[test]
fn both_architectures_are_signed_and_offered_and_published_files_never_change() {
    let releaser = Releaser::new();
    let program = stand_in(&releaser.path("packages-of"), VERSION, "1");
    releaser.build(&program, "amd64", "1");
    // by its header for arm64; the qemu that runs it there is the program itself
    let mut bytes = std::fs::read(&program).unwrap();
    bytes[18..20].copy_from_slice(&[0xb7, 0]);
    let arm64 = releaser.path("arm64");
    std::fs::write(&arm64, bytes).unwrap();
    let qemu = "mkdir bin && printf '#!/bin/sh\\nshift\\nexec %s \"$@\"\\n' \"$1\" > bin/qemu-aarch64-static && chmod 755 bin/*";
    ran(Command::new("sh").args(["-euc", qemu, "sh"]).arg(&program).current_dir(releaser.path("")));
    releaser.build(&arm64, "arm64", "1");
    let packages = releaser.path("packages");
    // every file is in the sums, and the sums and each file are signed
    ran(Command::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(&packages));
    let names: Vec<String> =
        ending(&packages, "").iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    let sums = std::fs::read_to_string(packages.join("SHA256SUMS")).unwrap();
    for name in names.iter().filter(|name| !name.ends_with(".asc")) {
        assert!(name == "SHA256SUMS" || sums.contains(&format!("  {name}\n")), "{name} is not in {sums}");
        if name.ends_with(".rpm") {
            let signed = super::rpm(&packages.join(name), &["--qf", "%{RSAHEADER:pgpsig}"]);
            assert!(signed.concat().starts_with("RSA/"), "{name}: {signed:?}");
            assert_eq!(super::too_new(&packages.join(name)), [""; 0]);
        } else {
            let mut verify = Command::new("gpg");
            verify.args(["--batch", "--quiet", "--verify", &format!("{name}.asc"), name]).current_dir(&packages);
            ran(releaser.with_key(&mut verify));
        }
    }

    ran(&mut releaser.repository());
    let web = releaser.path("web");
    for arch in ["amd64", "arm64"] {
        let list = std::fs::read_to_string(web.join(format!("apt/dists/stable/main/binary-{arch}/Packages"))).unwrap();
        assert_eq!(list.matches("Package: kpull\n").count(), 1, "{list}");
        assert!(list.contains(&format!("Filename: pool/kpull_{VERSION}-1_{arch}.deb\n")), "{list}");
    }
    ran(&mut releaser.repository());
    // another package by the same name
    let other = stand_in(&releaser.path("other"), VERSION, "2");
    releaser.build(&other, "amd64", "1");
    let refused = Output::of(&mut releaser.repository()).fails(1);
    assert!(refused.contains("has another kpull") && refused.contains("REVISION"), "{refused}");
    // an unsigned one
    for path in ending(&packages, ".x86_64.rpm") {
        ran(Command::new("rpmsign").arg("--delsign").arg(path));
    }
    let refused = Output::of(&mut releaser.repository()).fails(1);
    assert!(refused.contains(&format!("kpull-{VERSION}-1.x86_64.rpm is not signed by {KEY}")), "{refused}");
}
