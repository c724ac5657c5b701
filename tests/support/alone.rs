//! A host on its own: its site is a directory of its own, which it signs itself.

use crate::support::lab::{H1, Host, Lab};

const CONFIG: &str =
    "host = \"h1\"\n[trust]\nsite = \"lab\"\nallowed_signers = \"allowed_signers\"\n[[source]]\ndir = \"/srv/site\"\n";

/// A host that has a site of its own in a directory.
pub struct World(pub Lab);

impl World {
    /// One host, without a release yet.
    pub fn new() -> Self {
        Self::on(Lab::new(&[H1]))
    }

    /// The same, in a lab that is there.
    pub fn on(lab: Lab) -> Self {
        let host = lab.host("h1");
        host.copy(env!("CARGO_BIN_EXE_kpull"), "/usr/bin/kpull", 0o755);
        let service = concat!(env!("CARGO_MANIFEST_DIR"), "/kpull.service");
        host.copy(service, "/usr/lib/systemd/system/kpull.service", 0o644);
        host.write("/srv/site/site.toml", "name = \"lab\"\n");
        host.write("/srv/site/host_vars/h1.toml", "address = \"192.168.1.11\"\nroles = [\"app\"]\n");
        host.write("/etc/kpull/kpull.toml", CONFIG);
        host.run(
            "ssh-keygen -q -t ed25519 -N '' -f /root/key && echo \"lab $(cat /root/key.pub)\" > /etc/kpull/allowed_signers &&
            systemctl daemon-reload",
        )
        .ok();
        Self(lab)
    }

    /// The host.
    pub fn host(&self) -> Host<'_> {
        self.0.host("h1")
    }

    /// Signs this role as the next release.
    pub fn release(&self, role: &str) {
        let host = self.host();
        host.write("/srv/site/roles/app/role.toml", format!("summary = \"For a test\"\n{role}"));
        host.run("kpull sign --site /srv/site --key /root/key").ok();
    }

    /// The host is what its release says, and nothing is left to do.
    #[track_caller]
    pub fn is_converged(&self) {
        let plan = self.host().run("kpull plan");
        assert_eq!(plan.code(), 0, "{plan}");
    }

    /// The next run, without help, applies the current release to the host.
    #[track_caller]
    pub fn converges(&self) {
        self.host().run("kpull apply").ok();
        self.is_converged();
    }
}
