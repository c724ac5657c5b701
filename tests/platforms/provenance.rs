//! The content of packages, and who vouches for it: the bill of materials, the provenance and its signatures.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::{REPOSITORY, VERSION, ending, ran, stand_in};
use crate::support::lab::Output;

/// A directory with packages of a stand-in, and with keys beside it.
struct Built {
    top: tempfile::TempDir,
    program: PathBuf,
}

impl Built {
    /// Keys, and packages of the formats.
    fn new(formats: &[&str]) -> Self {
        let top = tempfile::tempdir().unwrap();
        let built = Self { program: stand_in(&top.path().join("program"), VERSION, "1"), top };
        let mut signers = String::new();
        for name in ["alice", "bob", "carol", "eve"] {
            let mut keygen = Command::new("ssh-keygen");
            ran(keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]).arg(built.path(name)));
            let key = fs::read_to_string(built.path(&format!("{name}.pub"))).unwrap();
            let options = match name {
                "eve" => continue,
                "carol" => "namespaces=\"packages@kpull\",valid-before=\"20200101\"",
                _ => "namespaces=\"packages@kpull\"",
            };
            signers += &format!("{name} {options} {key}");
        }
        fs::write(built.path("signers"), signers).unwrap();
        built.build("packages", formats);
        built
    }

    fn path(&self, name: &str) -> PathBuf {
        self.top.path().join(name)
    }

    fn packages(&self, name: &str) -> PathBuf {
        self.path("packages").join(name)
    }

    /// The path of the provenance.
    fn provenance(&self) -> PathBuf {
        self.packages(&format!("kpull-{VERSION}-1.amd64.provenance.json"))
    }

    fn build(&self, dir: &str, formats: &[&str]) {
        let mut build = Command::new(format!("{REPOSITORY}/packaging/build"));
        build.args(["--fast", "--builder", "https://ci.example.org/kpull", "--arch", "amd64", "--binary"]);
        build.arg(&self.program).arg(self.path(dir)).args(formats).env("SOURCE_DATE_EPOCH", "1700000000");
        ran(&mut build);
    }

    fn sign(&self, key: &str) -> Output {
        let sign = format!("{REPOSITORY}/packaging/sign");
        Output::of(Command::new(sign).arg(self.path(key)).arg(self.path("packages")))
    }

    /// Two keys of the allowed signers must have signed.
    fn verify(&self, files: &[&str]) -> Output {
        let mut verify = Command::new(format!("{REPOSITORY}/packaging/verify"));
        verify.args(["--modified", "--threshold", "2", "--signers"]).arg(self.path("signers"));
        Output::of(verify.arg(self.path("packages")).args(files))
    }

    /// What `verify` refuses these for.
    #[track_caller]
    fn refused(&self, files: &[&str]) -> String {
        let output = self.verify(files);
        assert_eq!(output.stdout, "");
        output.fails(1).trim_start_matches("packaging/verify: ").trim_end().to_owned()
    }

    /// Signs other bytes as the provenance, with enough keys.
    fn forge(&self, provenance: &str) {
        fs::write(self.provenance(), provenance).unwrap();
        let mut signatures = String::new();
        for key in ["alice", "bob"] {
            signatures += &self.signature(key, "packages@kpull");
        }
        fs::write(self.provenance().with_extension("json.sig"), signatures).unwrap();
    }

    /// A signature over the provenance, for any purpose.
    fn signature(&self, key: &str, namespace: &str) -> String {
        let mut sign = Command::new("ssh-keygen");
        sign.args(["-q", "-Y", "sign", "-n", namespace, "-f"]).arg(self.path(key));
        ran(sign.stdin(fs::File::open(self.provenance()).unwrap()))
    }
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn packages_with_fewer_trusted_signatures_than_the_threshold_are_refused() {
    let built = Built::new(&["tar"]);
    let name = built.provenance().file_name().unwrap().to_str().unwrap().to_owned();
    let few = |count: usize| {
        let signers = built.path("signers");
        format!(
            "{name} has good signatures of {count} keys in {}, and needs 2: packaging/sign adds one",
            signers.display()
        )
    };
    assert_eq!(built.refused(&[]), few(0));
    built.sign("alice").ok();
    assert_eq!(built.refused(&[]), few(1));
    // the same key again, by the script and by hand
    built.sign("alice").ok();
    let signatures = built.provenance().with_extension("json.sig");
    let one = fs::read_to_string(&signatures).unwrap();
    assert_eq!(one.matches("BEGIN SSH SIGNATURE").count(), 1);
    fs::write(&signatures, one.repeat(3)).unwrap();
    assert_eq!(built.refused(&[]), few(1));
    // an unknown key, an expired one, one that signed a release, and no signature at all
    for more in [
        built.signature("eve", "packages@kpull"),
        built.signature("carol", "packages@kpull"),
        built.signature("bob", "release@kpull"),
        "-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----\n".to_owned(),
    ] {
        fs::write(&signatures, one.clone() + &more).unwrap();
        assert_eq!(built.refused(&[]), few(1));
    }
    fs::write(&signatures, one).unwrap();
    built.sign("bob").ok();
    let output = built.verify(&[]).ok();
    assert!(output.starts_with(&format!("{name}: signed by alice,bob, commit ")), "{output}");
    assert!(output.ends_with(", built by https://ci.example.org/kpull"), "{output}");
    // a check against a commit reports that these were not built from it
    let mut verify = Command::new(format!("{REPOSITORY}/packaging/verify"));
    verify.args(["--threshold", "2", "--signers"]).arg(built.path("signers")).arg(built.path("packages"));
    let message = Output::of(&mut verify).fails(1);
    assert!(message.contains("with a program that was not built from it"), "{message}");
}

#[test]
fn missing_altered_and_additional_packages_are_found_before_any_of_them_runs() {
    let built = Built::new(&[]);
    built.sign("alice").ok();
    built.sign("bob").ok();
    built.verify(&[]).ok();
    let statement = read(&built.provenance());
    let names: Vec<&str> =
        statement["subject"].as_array().unwrap().iter().map(|subject| subject["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 4, "{names:?}");
    let provenance = built.provenance().file_name().unwrap().to_str().unwrap().to_owned();
    for name in &names {
        let path = built.packages(name);
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        fs::write(&path, bad).unwrap();
        let differs = format!("{name} does not match {provenance}: its SHA-256 differs");
        assert_eq!(built.refused(&[]), differs);
        assert_eq!(built.refused(&[name]), differs);
        // no signer signs it by mistake either
        let reported = built.sign("alice").fails(1);
        assert_eq!(reported.trim_end(), format!("packaging/sign: {differs}"));
        fs::remove_file(&path).unwrap();
        assert_eq!(built.refused(&[]), format!("{name} is missing: {provenance} names it"));
        // a check of another package alone does not require it
        built.verify(&[names.iter().find(|other| *other != name).unwrap()]).ok();
        fs::write(&path, good).unwrap();
    }
    let more = built.packages("kpull_9.9.9-1_amd64.deb");
    fs::write(&more, "x").unwrap();
    let unsigned = "kpull_9.9.9-1_amd64.deb is in no provenance that enough keys have signed";
    assert!(built.refused(&[]).starts_with(unsigned));
    assert!(built.refused(&["kpull_9.9.9-1_amd64.deb"]).starts_with(unsigned));
    fs::remove_file(more).unwrap();

    // the provenance itself
    let text = fs::read_to_string(built.provenance()).unwrap();
    fs::write(built.provenance(), text.replace("ci.example.org", "ci.example.com")).unwrap();
    assert!(built.refused(&[]).contains("has good signatures of 0 keys"));
    fs::remove_file(built.provenance()).unwrap();
    assert!(built.refused(&[]).contains("has no provenance"));
    // names that lead elsewhere, even where enough have signed them
    for name in ["../signers", "/etc/passwd", "a b", "x\n", ""] {
        let mut forged = statement.clone();
        forged["subject"][0]["name"] = json!(name);
        built.forge(&forged.to_string());
        assert!(built.refused(&[]).ends_with("is not a provenance of packaging/build"), "{name:?}");
    }
    built.forge(&text);
    built.verify(&[]).ok();
}

#[test]
fn the_provenance_is_a_reproducible_slsa_statement_about_every_file() {
    let built = Built::new(&["tar", "deb"]);
    let statement = read(&built.provenance());
    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
    assert_eq!(statement["predicateType"], "https://slsa.dev/provenance/v1");
    let sums = fs::read_to_string(built.packages("SHA256SUMS")).unwrap();
    let mut subjects = BTreeSet::new();
    for subject in statement["subject"].as_array().unwrap() {
        let (name, digest) = (subject["name"].as_str().unwrap(), subject["digest"]["sha256"].as_str().unwrap());
        assert!(sums.contains(&format!("{digest}  {name}\n")), "{name} {digest}: {sums}");
        subjects.insert(name);
    }
    let made: Vec<PathBuf> = [".deb", ".tar.gz"].iter().flat_map(|end| ending(&built.path("packages"), end)).collect();
    assert_eq!(made.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect::<BTreeSet<_>>(), subjects);

    let definition = &statement["predicate"]["buildDefinition"];
    assert_eq!(definition["buildType"], "urn:kpull:packaging-build:1");
    let parameters = definition["externalParameters"].as_object().unwrap();
    for (name, value) in [
        ("version", json!(VERSION)),
        ("revision", json!("1")),
        ("architectures", json!(["amd64"])),
        ("formats", json!(["deb", "tar"])),
        ("fast", json!(true)),
        ("binary", json!(true)),
    ] {
        assert_eq!(parameters[name], value, "{name}");
    }
    assert_eq!(definition["internalParameters"], json!({ "SOURCE_DATE_EPOCH": 1_700_000_000 }));
    let dependencies = definition["resolvedDependencies"].as_array().unwrap();
    let by_name: BTreeMap<&str, &Value> =
        dependencies.iter().map(|one| (one["name"].as_str().unwrap(), &one["digest"])).collect();
    let head = ran(Command::new("git").args(["-C", REPOSITORY, "rev-parse", "HEAD"]));
    assert_eq!(by_name["source"], &json!({ "gitCommit": head.trim() }));
    let digest = |path: &Path| ran(Command::new("sha256sum").arg(path))[..64].to_owned();
    assert_eq!(by_name["Cargo.lock"], &json!({ "sha256": digest(&Path::new(REPOSITORY).join("Cargo.lock")) }));
    assert_eq!(by_name["kpull"], &json!({ "sha256": digest(&built.program) }));
    let builder = &statement["predicate"]["runDetails"]["builder"];
    assert_eq!(builder["id"], "https://ci.example.org/kpull");
    assert_eq!(builder["version"].as_object().unwrap().keys().collect::<Vec<_>>(), ["dpkg-deb", "gzip"]);

    built.build("again", &["deb", "tar"]);
    let again = built.path("again").join(built.provenance().file_name().unwrap());
    assert_eq!(fs::read_to_string(again).unwrap(), fs::read_to_string(built.provenance()).unwrap());
    // signatures of one provenance do not stay beside another
    built.sign("alice").ok();
    built.build("packages", &["tar", "deb"]);
    assert!(built.provenance().with_extension("json.sig").exists());
    built.build("packages", &["tar"]);
    assert!(!built.provenance().with_extension("json.sig").exists());
}

#[test]
fn the_bill_of_materials_has_all_linked_crates_and_required_cyclonedx_fields() {
    let text = ran(Command::new(format!("{REPOSITORY}/packaging/sbom")).env("SOURCE_DATE_EPOCH", "1700000000"));
    let bill: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&bill["bomFormat"], &bill["specVersion"], &bill["version"]),
        (&json!("CycloneDX"), &json!("1.5"), &json!(1))
    );
    assert_eq!(bill["metadata"]["timestamp"], "2023-11-14T22:13:20Z");
    let product = &bill["metadata"]["component"];
    assert_eq!(
        (&product["type"], &product["name"], &product["version"]),
        (&json!("application"), &json!("kpull"), &json!(VERSION))
    );

    let lock = fs::read_to_string(format!("{REPOSITORY}/Cargo.lock")).unwrap();
    let mut refs = BTreeSet::from([product["bom-ref"].as_str().unwrap().to_owned()]);
    let mut crates = BTreeSet::new();
    for component in bill["components"].as_array().unwrap() {
        let field = |name: &str| component[name].as_str().unwrap_or_else(|| panic!("{name} of {component}")).to_owned();
        let (name, version) = (field("name"), field("version"));
        assert!(refs.insert(field("bom-ref")), "twice: {component}");
        assert!(
            component["licenses"][0]["expression"].as_str().is_some_and(|licence| !licence.contains('/')),
            "{component}"
        );
        if name == "rust" {
            assert_eq!(component["type"], "framework");
            continue;
        }
        assert_eq!(component["type"], "library");
        assert_eq!(field("purl"), format!("pkg:cargo/{name}@{}", version.replace('+', "%2B")));
        let hash = &component["hashes"][0];
        assert_eq!(hash["alg"], "SHA-256");
        let checksum = format!(
            "version = \"{version}\"\nsource = \"registry+https://github.com/rust-lang/crates.io-index\"\nchecksum = {}\n",
            hash["content"]
        );
        assert!(lock.contains(&format!("name = \"{name}\"\n{checksum}")), "{component}");
        crates.insert((name, version));
    }
    for dependency in bill["dependencies"].as_array().unwrap() {
        assert!(refs.contains(dependency["ref"].as_str().unwrap()), "{dependency}");
        let on: Vec<&str> = dependency["dependsOn"].as_array().unwrap().iter().map(|on| on.as_str().unwrap()).collect();
        assert!(on.iter().all(|on| refs.contains(*on)), "{dependency}");
        assert_eq!(on.iter().collect::<BTreeSet<_>>().len(), on.len(), "{dependency}");
    }

    let mut linked = BTreeSet::new();
    for target in ["x86_64-unknown-linux-musl", "aarch64-unknown-linux-musl"] {
        let mut tree = Command::new("cargo");
        tree.args([
            "tree",
            "--locked",
            "--edges",
            "normal,no-proc-macro",
            "--prefix",
            "none",
            "--format",
            "{p}",
            "--target",
            target,
        ]);
        for line in ran(tree.current_dir(REPOSITORY)).lines().filter(|line| !line.starts_with("kpull ")) {
            let mut words = line.split(' ');
            let (name, version) = (words.next().unwrap(), words.next().unwrap());
            linked.insert((name.to_owned(), version.trim_start_matches('v').to_owned()));
        }
    }
    assert!(linked.iter().any(|(name, _)| name == "zlib-rs") && !linked.iter().any(|(name, _)| name == "serde_derive"));
    assert_eq!(crates, linked);
}
