//! Quadlet files: from these, podman generates the services of containers, pods, networks and volumes whenever systemd reloads its files.

use crate::document::is_sha256;
use crate::host::deadline;
use crate::host::process::{Command, Output, argv, run, run_if_there};
use crate::host::unit_files::{Flaw, QUADLETS, logical_lines};
use crate::kind::prelude::*;

/// The types of Quadlet files.
pub(super) const TYPES: [&str; 6] = ["container", "image", "kube", "network", "pod", "volume"];

/// The program that makes the services, on every system.
const GENERATOR: &str = "/usr/lib/systemd/system-generators/podman-system-generator";

/// Succeeds if the generator `$0` makes a service with the heading `$1`: older ones exit with 0 whatever they find.
const SCRIPT: &str = r#""$0" -dryrun | grep -xF -e "$1" > /dev/null"#;

/// Where the new files are while the generator checks them: SELinux lets it read what is below systemd's own directory.
const STAGE: &str = "/run/systemd/kpull-quadlets";

/// The lists of images that podman has, by storage driver.
const IMAGES: [&str; 2] =
    ["/var/lib/containers/storage/overlay-images/images.json", "/var/lib/containers/storage/vfs-images/images.json"];

/// What podman says when a registry can't be reached, or a connection to it ends.
const UNREACHABLE: [&str; 2] = ["pinging container registry", "reading blob"];

/// How long the generator, or a question to podman, may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long the download of an image may take, unless the role says otherwise: as long as that of a git source.
pub(super) const PULL: Duration = Duration::from_secs(600);

/// The service that podman generates from the Quadlet file with this name; `None` for the name of another file.
pub(super) fn service(name: &str) -> Option<String> {
    match name.rsplit_once('.').filter(|(_, kind)| TYPES.contains(kind))? {
        (stem, "container" | "kube") => Some(format!("{stem}.service")),
        (stem, kind) => Some(format!("{stem}-{kind}.service")),
    }
}

/// The image that the text of a Quadlet file names, with its digest, or the `.image` file that it names instead.
pub(super) fn image(name: &str, text: &str) -> Result<Option<String>, Flaw> {
    let (mut image, mut has_root) = (None, false);
    for (line, text) in logical_lines(text) {
        let Some((key, value)) = text.split_once('=') else { continue };
        let why = match key.trim_end() {
            "Image" if !name.ends_with(".image") && is_image_file(value.trim()) => None,
            "Image" => why_not(value.trim()),
            "ImageTag" => Some("containers would run what has this name, whatever its digest: remove this"),
            "ServiceName" => Some("the service is named after the file: remove this"),
            _ => None,
        };
        if let Some(why) = why {
            return Err(Flaw { line, text: text.trim_end().to_owned(), why });
        }
        match key.trim_end() {
            "Image" => image = Some(value.trim().to_owned()),
            "Rootfs" => has_root = true,
            _ => {}
        }
    }
    if ((name.ends_with(".container") && !has_root) || name.ends_with(".image")) && image.is_none() {
        let (line, text) = (1, text.lines().next().unwrap_or_default().to_owned());
        return Err(Flaw { line, text, why: "the file names no image: add `Image=`" });
    }
    Ok(image)
}

/// Whether this is the name of a `.image` file.
fn is_image_file(image: &str) -> bool {
    image.ends_with(".image") && !image.contains('/')
}

/// Why this does not name one image for ever.
fn why_not(image: &str) -> Option<&'static str> {
    const DIGEST: &str = "the image has no digest, so its name can refer to another image tomorrow: write it like \
        `registry.example.org/web@sha256:…`, with the digest that `skopeo inspect docker://IMAGE` shows";
    let Some((name, _)) = image.rsplit_once("@sha256:").filter(|(_, digest)| is_sha256(digest)) else {
        return Some(DIGEST);
    };
    let is_registry = |host: &str| host.contains(['.', ':']) || host == "localhost";
    if !name.split_once('/').is_some_and(|(host, _)| is_registry(host)) {
        return Some("the image has no registry: add it, like `docker.io/library/nginx@sha256:…`");
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || "._-:/[]".contains(c);
    let is_valid = name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[') && name.chars().all(is_name);
    (!is_valid).then_some("the name of an image consists of letters, digits and `._-:/`")
}

/// The requirements for writing a Quadlet file: podman accepts the file, and has the image.
#[derive(Debug)]
pub(super) struct Quadlet {
    pub(super) name: String,
    pub(super) service: String,
    pub(super) text: String,
    pub(super) image: Option<String>,
    pub(super) authfile: Option<AbsolutePath>,
    pub(super) within: Duration,
}

impl Quadlet {
    fn path(&self) -> PathBuf {
        Path::new(QUADLETS).join(&self.name)
    }

    /// Whether the host has another file, or none.
    fn is_new(&self, root: &Root) -> Result<bool> {
        Ok(root.read(&self.path())?.is_none_or(|(_, content)| content != self.text.as_bytes()))
    }

    /// The `.image` file that names its image.
    pub(super) fn image_file(&self) -> Option<&str> {
        self.image.as_deref().filter(|image| is_image_file(image))
    }

    /// The image, if podman does not have it.
    fn missing_image(&self) -> Result<Option<&str>> {
        let Some(image) = self.image.as_deref().filter(|image| !is_image_file(image)) else { return Ok(None) };
        let found = run_if_there(&Command::new(["podman", "image", "exists", image], PATIENCE))?;
        Ok((!found.is_some_and(|output| output.is_success())).then_some(image))
    }

    /// Lets podman check the new file beside those that the catalog and the host have: they can refer to one another.
    fn check(&self, work: &Work<'_>) -> Result<()> {
        if work.host.root.meta(Path::new(GENERATOR))?.is_none() {
            return Err(error!(UNIT, "{} needs podman 4.4 or newer, which this host does not have", self.name)
                .because(format!("there is no {GENERATOR}"))
                .help("add a [[package]] with `name = \"podman\"`; Debian 12 and Ubuntu 22.04 have an older one"));
        }
        let (root, stage) = (&work.host.root, Path::new(STAGE));
        root.remove_all(stage)?;
        for quadlet in work.catalog.iter().filter_map(Item::as_kind::<Self>).chain([self]) {
            root.write(&stage.join(&quadlet.name), quadlet.text.as_bytes(), Access::of_mode(0o600))?;
        }
        // of several files with one name, the generator takes the first
        let dirs = format!("{STAGE}:{QUADLETS}:/usr/share/containers/systemd");
        let env = vec![("QUADLET_UNIT_DIRS".to_owned(), dirs)];
        let command = Command::new(["sh", "-c", SCRIPT, GENERATOR, &format!("---{}---", self.service)], PATIENCE);
        let output = run(&Command { env, ..command })?;
        root.remove_all(stage)?;
        if output.is_success() {
            return Ok(());
        }
        let output = Output { stderr: self.words(&output.stderr).into_bytes(), ..output };
        let what = format!("podman refuses the new {}, and the old one stays", self.path().display());
        let error = output.failure(what).with_code(code::VALIDATE);
        Err(error.or_help("correct the Quadlet file in the role: `man podman-systemd.unit` lists the keys"))
    }

    /// What the generator says about this file.
    fn words(&self, output: &[u8]) -> String {
        let is_about = |line: &&str| line.contains(&self.name) && !line.contains("Loading source unit file");
        let text = String::from_utf8_lossy(output);
        let lines = text.lines().filter(is_about).map(|line| line.split_once("]: ").map_or(line, |(_, words)| words));
        lines.map(|line| line.replace(STAGE, QUADLETS)).collect::<Vec<_>>().join("\n")
    }

    fn pull(&self, image: &str) -> Result<()> {
        let mut argv = argv(["podman", "pull", "--quiet"]);
        if let Some(authfile) = &self.authfile {
            argv.extend(["--authfile".to_owned(), authfile.to_string()]);
        }
        argv.push(image.to_owned());
        deadline::check_downloads()?;
        let output = run(&Command::new(&argv, self.within.min(deadline::left_for_downloads())))?;
        if output.is_success() {
            return Ok(());
        }
        let what = format!("podman can't pull {image}, and {} is unchanged", self.service);
        let registry = image.split('/').next().unwrap_or_default();
        let help = format!(
            "check the name, the digest, and that `curl https://{registry}/v2/` gets an answer; if the registry requires a \
             login, set `authfile`; if the download takes longer, set `pull_within`, and let all downloads of a run take less than half of TimeoutStartSec= \
             of kpull.service"
        );
        let error = output.failure(what).with_code(code::ARTIFACT).or_help(help);
        let words = output.last_lines();
        let is_unreachable = output.code().is_none() || UNREACHABLE.iter().any(|part| words.contains(part));
        Err(if is_unreachable { error.passing() } else { error })
    }
}

impl Resource for Quadlet {
    fn about(&self) -> About {
        // among the commands: after packages, and certificates and credentials for the registry; before the first unit
        About { covers: vec![self.path()], ..About::new("quadlet", &self.name, Phase::Commands) }
    }

    fn watched_inputs(&self, _: &Work<'_>) -> Result<Option<Vec<WatchedInput>>> {
        let lists = IMAGES.iter().filter(|_| self.image.is_some());
        Ok(Some(lists.map(|list| WatchedInput::Path(list.into())).collect()))
    }

    fn observe(&self, work: &Work<'_>) -> Result<Option<Change>> {
        let Some(host) = work.live() else { return Ok(None) };
        let pull = self.missing_image()?.map(|image| format!("pull {image}"));
        let check = self.is_new(&host.root)?.then(|| "check".to_owned());
        Ok(Change::of(check.into_iter().chain(pull).collect()))
    }

    fn apply(&self, work: &Work<'_>, _: &Change) -> Result<()> {
        self.check(work)?;
        self.missing_image()?.map_or(Ok(()), |image| self.pull(image))
    }
}

#[cfg(test)]
mod tests {
    use crate::kind::testing::{RoleFiles, Tree, build, fails, refusal};
    use crate::kind::unit::{Unit, UnitFields};

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn container(image: &str) -> String {
        format!(
            "name = 'web.container'\ncontent = '''\n[Container]\n{image}\n[Install]\nWantedBy=multi-user.target\n'''"
        )
    }

    #[test]
    fn a_container_is_checked_and_pulled_before_its_file_and_service() {
        let made = build("unit", &container(&format!("Image=example.org:5000/web:1@{DIGEST}"))).unwrap();
        let ids: Vec<_> = made.iter().map(|one| one.about().id()).collect();
        assert_eq!(
            ids,
            ["quadlet:web.container", "unit-file:/etc/containers/systemd/web.container", "unit:web.service"]
        );
        assert!(made[1].about().is_covered_by(&made[0].about()), "the file comes after the image");
        assert_eq!(made[2].about().watches[0].0, ids[1].as_str());
    }

    #[test]
    fn the_service_is_named_after_the_file_and_its_type() {
        for (file, service) in [
            ("a.container", "unit:a.service"),
            ("a.image", "unit:a-image.service"),
            ("a.kube", "unit:a.service"),
            ("a.network", "unit:a-network.service"),
            ("a.pod", "unit:a-pod.service"),
            ("a.volume", "unit:a-volume.service"),
        ] {
            let text = format!("[Container]\nImage=example.org/a@{DIGEST}\n");
            let made = build("unit", &format!("name = '{file}'\ncontent = '''{text}'''")).unwrap();
            assert_eq!(made.last().unwrap().about().id(), service);
        }
    }

    #[test]
    fn a_change_of_a_network_volume_or_image_restarts_nothing() {
        for name in ["a.network", "a.volume", "a.image"] {
            let text = format!("[Image]\nImage=example.org/a@{DIGEST}\n");
            let made = build("unit", &format!("name = '{name}'\ncontent = '''{text}'''")).unwrap();
            assert!(made.last().unwrap().about().watches.is_empty(), "podman keeps what it has");
        }
    }

    #[test]
    fn a_container_is_restarted_for_the_file_that_names_its_image() {
        let made = build("unit", &container("Image=web.image")).unwrap();
        let watches = made.last().unwrap().about().watches;
        assert!(watches.iter().any(|(id, _)| id == "unit-file:/etc/containers/systemd/web.image"), "{watches:?}");
        let refused = |text: &str| refusal("unit", &format!("name = 'a.image'\ncontent = '''[Image]\n{text}\n'''"));
        assert!(refused("Image=web.image").starts_with("`content`: line 2 of a.image: the image has no digest"));
        assert!(refused("AllTags=no").starts_with("`content`: line 1 of a.image: the file names no image"));
        let tag = format!("Image=example.org/a@{DIGEST}\nImageTag=example.org/a:1");
        assert!(refused(&tag).starts_with("`content`: line 3 of a.image: containers would run what has this name"));
    }

    #[test]
    fn a_container_that_starts_at_boot_is_to_run_now() {
        let state = |text: &str| {
            let made = build("unit", &format!("name = 'a.pod'\ncontent = '''{text}'''")).unwrap();
            format!("{:?}", made.last().and_then(|last| last.as_kind::<Unit>()).unwrap().state)
        };
        assert_eq!(state("[Pod]\n[Install]\nWantedBy=multi-user.target\n"), "Running");
        assert_eq!(state("[Pod]\n"), "Any");
    }

    #[test]
    fn in_a_tree_a_container_is_a_file() {
        let tree = Tree::new();
        for one in build("unit", &container(&format!("Image=example.org/web@{DIGEST}"))).unwrap() {
            if tree.summary(&*one).is_some() {
                tree.converge(&*one);
            }
        }
        assert!(tree.get("/etc/containers/systemd/web.container").starts_with("[Container]\nImage=example.org/web@"));
        assert!(!tree.path("/etc/systemd").exists());
    }

    #[test]
    fn an_image_without_a_digest_is_refused_with_its_line() {
        let no_digest = "the image has no digest";
        for (image, why) in [
            ("example.org/web:1", no_digest),
            ("example.org/web@sha256:123", no_digest),
            ("", no_digest),
            ("web.build", no_digest),
            ("example.org/web.image", no_digest),
            (&format!("example.org/web@{}", DIGEST.to_uppercase()), no_digest),
            (&format!("web@{DIGEST}"), "the image has no registry"),
            (&format!("library/web@{DIGEST}"), "the image has no registry"),
            (&format!("\"example.org/web@{DIGEST}"), "the name of an image consists of"),
            (&format!("example.org/%i@{DIGEST}"), "the name of an image consists of"),
            (&format!("-v.x/web a@{DIGEST}"), "the name of an image consists of"),
        ] {
            let refused = refusal("unit", &container(&format!("Image={image}")));
            assert!(refused.starts_with(&format!("`content`: line 2 of web.container: {why}")), "{refused}");
            assert!(refused.ends_with(&format!(": `Image={image}`")), "{refused}");
        }
        let refused = refusal("unit", &container("Exec=sh"));
        assert!(refused.starts_with("`content`: line 1 of web.container: the file names no image"), "{refused}");
        build("unit", &container("Rootfs=/srv/root")).unwrap();
    }

    #[test]
    fn fields_that_do_not_fit_a_quadlet_file_are_refused() {
        let role = RoleFiles::default().with("web", format!("[Container]\nImage=example.org/web@{DIGEST}\n"));
        let why = |more: &str| fails::<UnitFields>(&format!("name = 'web.container'\n{more}"), &role);
        assert!(why("").starts_with("`name`: set `content`, `template` or `source`"), "{}", why(""));
        assert!(why("source = 'web'\nenable = true").starts_with("`enable`: "));
        assert!(why("source = 'web'\ndropins = { 'a.conf' = '[Unit]' }").starts_with("`dropins`: "));
        assert!(why("source = 'web'\nmask = true").starts_with("`mask`: "));
        assert!(
            why("content = '''[Container]\nServiceName=x'''").contains("line 2 of web.container: the service is named")
        );
        assert!(why("content = 'Image=x'").contains("line 1 of web.container: it is before any `[Section]`"));
        let refused = refusal("unit", "name = 'a@.container'\ncontent = '[Container]'");
        assert!(refused.starts_with("`name`: kpull does not support templates of Quadlet files"), "{refused}");
        let refused = refusal("unit", "name = 'a.service'\nauthfile = '/a'");
        assert!(refused.starts_with("`authfile`: "), "{refused}");
        let refused = refusal("unit", "name = 'a.service'\npull_within = '5m'");
        assert!(refused.starts_with("`pull_within`: "), "{refused}");
        let refused = refusal("unit", "name = 'a.build'\ncontent = '[Build]'");
        assert!(refused.contains("build the image elsewhere, push it to a registry"), "{refused}");
        let refused = refusal("unit", "name = 'users/1000/a.container'\ncontent = '[Container]'");
        assert!(refused.contains("write it without a directory; kpull manages"), "{refused}");
    }
}
