//! A tree whose `/srv` is a file system of its own, which something is wrong with.

use std::fs;
use std::process::{Command, Stdio};

use crate::support::site::{Output, Site, Tree};

/// A site that changes `/srv/old` and, before that, writes something small elsewhere; then what `more` of a role says.
pub fn changing(old: &str, more: &str) -> (Site, Tree) {
    let site = Site::new("test");
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"base\"]\n");
    site.role(
        "base",
        &format!(
            "[[file]]\npath = \"/etc/motd\"\ncontent = \"x\\n\"\n[[file]]\npath = \"/srv/old\"\nsource = \"old\"\n{more}"
        ),
    );
    let tree = site.file("roles/base/files/old", old).sign().enroll();
    (site, tree)
}

/// Runs `kpull apply` on a tree with a file system of its own at `/srv` and a file `old` in it. Lines of a shell say how it is
/// mounted, damaged and repaired; `$srv` is its path there. After the repair, one more run has to finish the work: nothing may be
/// left to do after it.
///
/// Returns the outcome of the run under the fault, and a list of the content of `/srv` after it, with the content of `old`.
pub fn on_own_file_system(tree: &Tree, mount: &str, spoil: &str, repair: &str) -> (Output, String) {
    fs::create_dir_all(tree.at("srv")).unwrap();
    let script = format!(
        "root=$1 kpull=$2 srv=$1/srv\n{mount}\necho old > \"$srv/old\"\n{spoil}\n\
         code=0\n\"$kpull\" apply --json --root \"$root\" || code=$?\n\
         {{ ls -A \"$srv\"; cat \"$srv/old\"; }} > \"$root/after\"\n{repair}\n\
         {{ \"$kpull\" apply --root \"$root\" && \"$kpull\" plan --root \"$root\" && echo converged; }} > \"$root/next\" 2>&1 || :\n\
         exit $code"
    );
    let rights = if nix::unistd::geteuid().is_root() { "-m" } else { "-rm" };
    let mut unshare = Command::new("unshare");
    unshare.args([rights, "sh", "-euc", &script, "sh"]).arg(tree.path()).arg(env!("CARGO_BIN_EXE_kpull"));
    let output = Output::of(unshare.env("NO_COLOR", "1").stdin(Stdio::null()).output().unwrap());
    assert!(tree.at("next").exists(), "the file system could not be had: {}", output.stderr);
    let next = tree.read("next");
    assert!(next.ends_with("converged\n"), "{next}");
    (output, tree.read("after"))
}
