//! The sites that the demo can show, and what it shows with each.

use clap::ValueEnum;

use crate::author::starts::{self, SiteFiles};

/// A site of the program.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Which {
    /// The shipped cluster: three masters
    Cluster,
    /// Two plain hosts: a web server and its database
    Web,
}

/// A text in a file that is replaced by another.
pub(super) struct Edit {
    /// The file: on a host, or in the site.
    pub file: &'static str,
    pub from: &'static str,
    pub to: &'static str,
}

/// What the demo shows with a site.
pub(super) struct Shown {
    pub name: &'static str,
    pub files: fn() -> SiteFiles,
    /// What the site is, for step 1.
    pub about: &'static str,
    pub hosts: &'static [&'static str],
    /// The secrets that the roles need.
    pub secrets: &'static [&'static str],
    /// A host with a file that someone edits by hand.
    pub drift: (&'static str, Edit),
    /// The change in release 2, and a host that it affects.
    pub change: (&'static str, Edit),
    /// A variable and a role to look at.
    pub look: (&'static str, &'static str),
}

impl Which {
    pub fn shown(self) -> &'static Shown {
        match self {
            Self::Cluster => &CLUSTER,
            Self::Web => &WEB,
        }
    }
}

static CLUSTER: Shown = Shown {
    name: "k8s",
    files: starts::cluster,
    about: "the shipped roles and host_vars. Upstream releases are replaced by stand-ins with the same names, since the demo runs offline; they are pinned by digest like the real ones.",
    hosts: &["master1", "master2", "master3"],
    secrets: &["bootstrap-token", "haproxy-stats", "keepalived"],
    drift: ("master2", Edit { file: "/etc/kubernetes/audit-policy.yaml", from: "level: Metadata", to: "level: None" }),
    change: (
        "master3",
        Edit {
            file: "roles/kube-apiserver/templates/audit-policy.yaml",
            from: "level: Metadata",
            to: "level: Request",
        },
    ),
    look: ("etcd.flags", "base"),
};

static WEB: Shown = Shown {
    name: "web",
    files: starts::web,
    about: "two plain hosts, a web server and its database, in some hundred lines. Packages, running services and probes need a real system; in the demo, kpull writes the files, the links of units and the firewall's zones.",
    hosts: &["web1", "db1"],
    secrets: &["db-password"],
    drift: (
        "web1",
        Edit { file: "/etc/nginx/conf.d/site.conf", from: "default_server", to: "default_server deferred" },
    ),
    change: ("web1", Edit { file: "roles/web/templates/write-page", from: "<p>{{ greeting }}", to: "<p>Good day" }),
    look: ("web.greeting", "web"),
};
