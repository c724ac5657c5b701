//! `[[repository]]`: where a package manager gets packages from, and the keys that it trusts for them.

mod openpgp;

use std::fmt::Write as _;

use crate::kind::prelude::*;

use openpgp::is_armored;

/// Fields of `[[repository]]`. Exactly one of `key` and `key_text` is set. Packages are always verified: there is no field to turn it off.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RepositoryFields {
    /// The name of the repository's files: letters, digits, `-`, `_` and `.`.
    name: String,
    /// The format: `apt`, `dnf` (also for yum and microdnf), or `zypper`.
    format: Format,
    /// Addresses. For `dnf` and `zypper`, they are mirrors of one repository; for `apt`, each is a repository.
    urls: Vec<String>,
    /// The armored or binary OpenPGP keys that sign it: the name of a file in the role's `files/`.
    key: Option<String>,
    /// The armored keys as text.
    key_text: Option<String>,
    /// The fingerprints of all keys in it, each of 40 or 64 hexadecimal digits; spaces don't matter. Any other key is refused.
    fingerprints: Option<Vec<String>>,
    /// For `dnf` and `zypper`: one line that describes the repository. Default: its name.
    description: Option<String>,
    /// For `apt`: its suites, like `bookworm`. A suite that ends in `/` is a directory, and has no components.
    #[serde(default)]
    suites: Vec<String>,
    /// For `apt`: its components. Default: `main`.
    components: Option<Vec<String>>,
    /// For `apt`: its architectures. Default: those of the host.
    #[serde(default)]
    architectures: Vec<String>,
    /// For `apt`: whether to use its source packages too. Default: false.
    #[serde(default)]
    source_packages: bool,
    /// The priority of its packages. For `apt`, the highest wins; 500 is the default, and more than 1000 also allows downgrades. For the others, the
    /// lowest wins; 99 is the default.
    priority: Option<i32>,
}

/// The program that a repository is for.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    Apt,
    Dnf,
    Zypper,
}

/// Where the keys of rpm's repositories are.
pub(super) const KEYS: &str = "/etc/pki/rpm-gpg";

impl Fields for RepositoryFields {
    fn build(self, build: &dyn Build) -> Result<Vec<Box<dyn Resource>>> {
        self.check(build)?;
        let key = self.key(build)?;
        let name = &self.name;
        let key_path = match self.format {
            Format::Apt if is_armored(&key) => format!("/etc/apt/keyrings/{name}.asc"),
            Format::Apt => format!("/etc/apt/keyrings/{name}.gpg"),
            Format::Dnf | Format::Zypper => format!("{KEYS}/RPM-GPG-KEY-{name}"),
        };
        let file = |path: String, content: Arc<[u8]>| {
            let path = AbsolutePath::try_from(path).map_err(|why| build.invalid("name", &why))?;
            Ok::<_, Error>(File::new(Self::NAME, path, content, build.is_secret()))
        };
        // apt verifies as another user, who must be able to read the key
        let wanted = Ownership::of_file(false, None, None, None);
        let mut files = vec![File { wanted, ..file(key_path.clone(), key)? }];
        match self.format {
            Format::Apt => {
                let sources = self.sources(&key_path).into_bytes().into();
                files.push(file(format!("/etc/apt/sources.list.d/{name}.sources"), sources)?);
                if let Some(preferences) = self.preferences() {
                    let preferences = preferences.into_bytes().into();
                    files.push(file(format!("/etc/apt/preferences.d/{name}.pref"), preferences)?);
                }
            }
            Format::Dnf | Format::Zypper => {
                let repo = self.repo(&key_path).into_bytes().into();
                let directory = if self.format == Format::Dnf { "/etc/yum.repos.d" } else { "/etc/zypp/repos.d" };
                files.push(file(format!("{directory}/{name}.repo"), repo)?);
            }
        }
        Ok(files.into_iter().map(|file| Box::new(file) as _).collect())
    }
}

impl RepositoryFields {
    fn check(&self, build: &dyn Build) -> Result<()> {
        let is_name = is_plain(&self.name) && !self.name.starts_with('.');
        let why = "a name has letters, digits, `-`, `_` and `.`, and does not begin with `.`";
        build.refuse_if(!is_name, "name", why)?;
        build.refuse_if(self.urls.is_empty(), "urls", "name at least one address")?;
        let words = [
            ("urls", &self.urls[..]),
            ("suites", &self.suites),
            ("components", self.components.as_deref().unwrap_or_default()),
            ("architectures", &self.architectures),
        ];
        for (field, words) in words {
            let is_bad = !words.iter().all(|word| is_word(word));
            build.refuse_if(is_bad, field, "each entry is one word, without spaces or line breaks")?;
        }
        if let Some(url) = self.urls.iter().find(|url| !url.contains("://") && !url.starts_with("file:/")) {
            let why = format!("`{url}` is not an address: begin with `https://`, `http://` or `file:/`");
            return Err(build.invalid("urls", &why));
        }
        let has_lines = self.description.as_ref().is_some_and(|text| text.chars().any(char::is_control));
        build.refuse_if(has_lines, "description", "a description is one line")?;
        let of_apt = [
            ("suites", !self.suites.is_empty()),
            ("components", self.components.is_some()),
            ("architectures", !self.architectures.is_empty()),
            ("source_packages", self.source_packages),
        ];
        if self.format != Format::Apt {
            let why = "dnf takes the section `main` for its own settings, and ignores it in a repository's file";
            build.refuse_if(self.name == "main", "name", why)?;
            let why = "only repositories of apt have this: remove it";
            return of_apt.into_iter().try_for_each(|(field, is_set)| build.refuse_if(is_set, field, why));
        }
        let why = "repositories of apt do not have this: remove it";
        build.refuse_if(self.description.is_some(), "description", why)?;
        let flat = self.suites.iter().filter(|suite| suite.ends_with('/')).count();
        let is_bad = self.suites.is_empty() || (flat != 0 && flat != self.suites.len());
        let why = "name at least one suite; write a separate [[repository]] for suites that end in `/`";
        build.refuse_if(is_bad, "suites", why)?;
        let has_none = self.components.as_ref().is_some_and(Vec::is_empty);
        build.refuse_if(flat == 0 && has_none, "components", "name at least one component, or omit the field")?;
        let has_components = flat != 0 && self.components.is_some();
        build.refuse_if(has_components, "components", "a suite that ends in `/` has no components: remove them")
    }

    fn key(&self, build: &dyn Build) -> Result<Arc<[u8]>> {
        let (field, key): (_, Arc<[u8]>) = match (&self.key, &self.key_text) {
            (Some(name), None) => ("key", build.file("key", name)?),
            (None, Some(text)) => ("key_text", text.as_bytes().into()),
            (None, None) => {
                let why = "packages are verified: put the repository's key into the role's `files/` and set `key`, or set `key_text`";
                return Err(build.invalid("name", why));
            }
            (Some(_), Some(_)) => return Err(build.invalid("key_text", "set `key` or `key_text`, not both")),
        };
        // the first byte of a packet has its type; that of a public key is 6 (RFC 9580, 4.2)
        let is_binary = field == "key" && matches!(key.first(), Some(0x98..=0x9b | 0xc6));
        let why = "this is not an OpenPGP public key: export one with `gpg --armor --export FINGERPRINT`";
        build.refuse_if(!is_armored(&key) && !is_binary, field, why)?;
        if let Some(pinned) = &self.fingerprints {
            openpgp::check_fingerprints(pinned, &key).map_err(|why| build.invalid("fingerprints", &why))?;
        }
        Ok(key)
    }

    /// The file of apt, in the format of RFC 822 (sources.list(5)).
    fn sources(&self, key: &str) -> String {
        let types = if self.source_packages { "deb deb-src" } else { "deb" };
        let mut text = format!("Types: {types}\nURIs: {}\nSuites: {}\n", self.urls.join(" "), self.suites.join(" "));
        if !self.suites.iter().any(|suite| suite.ends_with('/')) {
            let components = self.components.as_ref().map_or_else(|| "main".to_owned(), |names| names.join(" "));
            let _ = writeln!(text, "Components: {components}");
        }
        if !self.architectures.is_empty() {
            let _ = writeln!(text, "Architectures: {}", self.architectures.join(" "));
        }
        let _ = writeln!(text, "Signed-By: {key}");
        text
    }

    /// The priority for apt (apt_preferences(5)): of all packages from these hosts.
    fn preferences(&self) -> Option<String> {
        let priority = self.priority?;
        let mut hosts: Vec<&str> = self.urls.iter().map(|url| host_of(url)).collect();
        hosts.dedup();
        let entry = |host: &str| format!("Package: *\nPin: origin \"{host}\"\nPin-Priority: {priority}\n");
        Some(hosts.into_iter().map(entry).collect::<Vec<_>>().join("\n"))
    }

    /// The file of dnf and yum (dnf.conf(5)), and of zypper.
    fn repo(&self, key: &str) -> String {
        let description = self.description.as_ref().unwrap_or(&self.name);
        let mut text = format!(
            "[{}]\nname={description}\nbaseurl={}\nenabled=1\ngpgcheck=1\ngpgkey=file://{key}\n",
            self.name,
            self.urls.join("\n        ")
        );
        // without this, zypper installs from the list of the last refresh, however old
        text.push_str(if self.format == Format::Zypper { "autorefresh=1\n" } else { "" });
        if let Some(priority) = self.priority {
            let _ = writeln!(text, "priority={priority}");
        }
        text
    }
}

/// The host of an address, as apt calls a repository's origin: empty for files.
fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    if let Some((address, _)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address;
    }
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    host.rsplit_once(':').filter(|(_, port)| is_port(port)).map_or(host, |(host, _)| host)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::RepositoryFields;
    use crate::kind::testing::{RoleFiles, Tree, build, build_with, refusal};

    const KEY: &str = "key_text = '-----BEGIN PGP PUBLIC KEY BLOCK-----'\n";
    const APT: &str = "name = 'lab'\nformat = 'apt'\nurls = ['https://deb.example.org/debian']\nsuites = ['stable']\n";
    const DNF: &str = "name = 'lab'\nformat = 'dnf'\nurls = ['https://a.example.org/el', 'https://b.example.org/el']\n";

    fn made(fields: &str) -> Tree {
        let tree = Tree::new();
        for resource in build("repository", &format!("{fields}{KEY}")).unwrap() {
            assert!(resource.about().is_of_source(), "it has its turn before the packages: {:?}", resource.about().key);
            tree.converge(&*resource);
        }
        tree
    }

    #[test]
    fn a_repository_of_apt_is_written_with_its_key_and_its_priority() {
        let tree = made(&format!("{APT}components = ['main', 'extra']\narchitectures = ['amd64']\npriority = 990\n"));
        assert_eq!(
            tree.get("/etc/apt/sources.list.d/lab.sources"),
            "Types: deb\nURIs: https://deb.example.org/debian\nSuites: stable\nComponents: main extra\nArchitectures: amd64\n\
            Signed-By: /etc/apt/keyrings/lab.asc\n"
        );
        assert_eq!(tree.get("/etc/apt/keyrings/lab.asc"), "-----BEGIN PGP PUBLIC KEY BLOCK-----");
        let pin = "Package: *\nPin: origin \"deb.example.org\"\nPin-Priority: 990\n";
        assert_eq!(tree.get("/etc/apt/preferences.d/lab.pref"), pin);
    }

    #[test]
    fn a_directory_of_packages_has_no_components_and_no_pin_unless_it_is_asked_for() {
        let tree = made(&APT.replace("['stable']", "['./']\nsource_packages = true"));
        assert_eq!(
            tree.get("/etc/apt/sources.list.d/lab.sources"),
            "Types: deb deb-src\nURIs: https://deb.example.org/debian\nSuites: ./\nSigned-By: /etc/apt/keyrings/lab.asc\n"
        );
        assert!(!tree.path("/etc/apt/preferences.d").exists());
    }

    #[test]
    fn a_repository_of_dnf_is_written_with_its_key() {
        let tree = made(&format!("{DNF}description = 'The lab'\npriority = 10\n"));
        assert_eq!(
            tree.get("/etc/yum.repos.d/lab.repo"),
            "[lab]\nname=The lab\nbaseurl=https://a.example.org/el\n        https://b.example.org/el\nenabled=1\ngpgcheck=1\n\
            gpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-lab\npriority=10\n"
        );
        assert!(tree.path("/etc/pki/rpm-gpg/RPM-GPG-KEY-lab").exists());
    }

    #[test]
    fn a_repository_of_zypper_is_the_same_in_its_own_directory() {
        let tree = made(&DNF.replace("'dnf'", "'zypper'"));
        assert_eq!(
            tree.get("/etc/zypp/repos.d/lab.repo"),
            "[lab]\nname=lab\nbaseurl=https://a.example.org/el\n        https://b.example.org/el\nenabled=1\ngpgcheck=1\n\
            gpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-lab\nautorefresh=1\n"
        );
        assert!(tree.path("/etc/pki/rpm-gpg/RPM-GPG-KEY-lab").exists());
    }

    #[test]
    fn apt_can_read_the_key_of_a_repository_with_a_secret() {
        let tree = Tree::new();
        let role = RoleFiles::default().secret();
        for resource in build_with::<RepositoryFields>(&format!("{APT}{KEY}"), &role).unwrap() {
            tree.converge(&*resource);
        }
        let mode = |path: &str| tree.path(path).metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode("/etc/apt/keyrings/lab.asc"), 0o644);
        assert_eq!(mode("/etc/apt/sources.list.d/lab.sources"), 0o600);
    }

    #[test]
    fn only_a_public_key_is_taken_as_a_binary_one() {
        let is_taken = |packet: &[u8]| {
            let role = RoleFiles::default().with("lab.gpg", packet);
            build_with::<RepositoryFields>(&format!("{APT}key = 'lab.gpg'\n"), &role).is_ok()
        };
        assert!(is_taken(b"\x99\x01\x0d") && is_taken(b"\xc6\x33"));
        // a secret key, a signature, an armored key behind a byte order mark
        for other in [&b"\x95\x03\x98"[..], b"\x89\x01\x33", b"\xef\xbb\xbf-----BEGIN PGP PUBLIC KEY BLOCK-----"] {
            assert!(!is_taken(other), "{other:?}");
        }
    }

    #[test]
    fn a_key_file_has_the_pinned_keys_and_no_other() {
        let armored = include_str!("repository/test-key.asc");
        let key = "9F1D 9ACB 95FF 4135 E716 39C8 61A0 652E 8DB4 69ED";
        let v6 =
            hex::decode("c62a0663877fe31b00000020f94da7bb48d60a61e567706a6587d0331999bb9d891a08242ead84543df895a3")
                .unwrap();
        let of_v6 = "cb186c4f0609a697e4d52dfa6c722b0c1f1e27c18a56708f6525ec27bad9acc9";
        let cut = armored.lines().filter(|line| !line.starts_with("l+oC")).collect::<Vec<_>>().join("\n");
        for (file, pinned, why) in [
            (armored.as_bytes(), &[key][..], None),
            (armored.repeat(2).as_bytes(), &[&key.to_lowercase()], None),
            (&v6, &[of_v6], None),
            (&v6, &[of_v6, key], Some("no key in the key file is 9F1D9ACB95FF4135E71639C861A0652E8DB469ED")),
            (armored.as_bytes(), &[of_v6], Some("the key file has the key 9F1D9ACB95FF4135E71639C861A0652E8DB469ED")),
            (armored.as_bytes(), &[], Some("the key file has the key 9F1D9ACB95FF4135E71639C861A0652E8DB469ED")),
            (armored.as_bytes(), &["8DB469ED"], Some("`8DB469ED` is not a whole fingerprint")),
            (cut.as_bytes(), &[key], Some("it ends in the middle of a packet")),
            (v6.get(..20).unwrap(), &[of_v6], Some("it ends in the middle of a packet")),
            (b"\x99\x00\x01\x03", &[key], Some("a version other than 4 and 6")),
        ] {
            let role = RoleFiles::default().with("lab.gpg", file);
            let built =
                build_with::<RepositoryFields>(&format!("{APT}key = 'lab.gpg'\nfingerprints = {pinned:?}\n"), &role);
            let error = built.err().map(|error| error.to_string());
            match why {
                None => assert_eq!(error, None, "{pinned:?}"),
                Some(why) => assert!(error.as_ref().is_some_and(|error| error.contains(why)), "{pinned:?}: {error:?}"),
            }
        }
    }

    #[test]
    fn the_origin_of_a_pin_is_the_host_alone() {
        for (url, host) in
            [("https://u:p@a.example.org:8080/x", "a.example.org"), ("http://[::1]:80/", "::1"), ("file:/srv", "")]
        {
            assert_eq!(super::host_of(url), host, "{url}");
        }
    }

    #[test]
    fn what_no_package_manager_would_take_or_trust_is_refused_with_its_field() {
        let apt = format!("{APT}{KEY}");
        let dnf = format!("{DNF}{KEY}");
        for (fields, field, why) in [
            (APT.to_owned(), "name", "packages are verified"),
            (format!("{APT}key_text = 'mQINBF'\n"), "key_text", "this is not an OpenPGP public key"),
            (format!("{APT}key_text = '\u{186}'\n"), "key_text", "this is not an OpenPGP public key"),
            (format!("{apt}key = 'k.asc'\n"), "key_text", "set `key` or `key_text`, not both"),
            (apt.replace("'lab'", "'../lab'"), "name", "a name has letters"),
            (apt.replace("['https://deb.example.org/debian']", "[]"), "urls", "name at least one address"),
            (apt.replace("https://deb", "deb"), "urls", "`deb.example.org/debian` is not an address"),
            (
                apt.replace("debian'", "debian\\ntrusted: yes\"").replace("'https", "\"https"),
                "urls",
                "each entry is one word",
            ),
            (apt.replace("['stable']", "[]"), "suites", "name at least one suite"),
            (apt.replace("['stable']", "['stable', './']"), "suites", "for suites that end in `/`"),
            (format!("{apt}components = []\n"), "components", "name at least one component"),
            (apt.replace("['stable']", "['./']\ncomponents = ['main']"), "components", "has no components"),
            (format!("{apt}description = 'x'\n"), "description", "repositories of apt do not have this"),
            (dnf.replace("'lab'", "'main'"), "name", "ignores it in a repository's file"),
            (format!("{dnf}suites = ['stable']\n"), "suites", "only repositories of apt have this"),
            (format!("{dnf}description = \"a\\ngpgcheck=0\"\n"), "description", "a description is one line"),
            (format!("{dnf}state = 'latest'\n"), "state", "unknown key"),
        ] {
            let reported = refusal("repository", &fields);
            assert!(reported.contains(&format!("`{field}`")) && reported.contains(why), "{reported}\n{fields}");
        }
    }
}
