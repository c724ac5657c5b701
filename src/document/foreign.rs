//! Names from other tools or an earlier kpull, and what to write instead.

/// Foreign names, the name in kpull, and advice. The first entry whose own name is valid at the place applies.
const NAMES: &[(&[&str], &str, &str)] = &[
    (
        &["service", "services", "systemd", "systemd_service", "systemd_unit", "daemon", "socket"],
        "unit",
        "a service is a [[unit]]: `name = \"NAME.service\"`, with `enable` and `state`",
    ),
    (
        &["cron", "cronjob", "crontab", "timer", "at", "schedule"],
        "unit",
        "a scheduled job is a [[unit]] NAME.timer, with `OnCalendar=` in its [Timer], and the [[unit]] NAME.service that it starts",
    ),
    (
        &[
            "container",
            "podman_container",
            "docker_container",
            "quadlet",
            "podman",
            "docker",
            "docker_compose",
            "compose",
            "pod",
        ],
        "unit",
        "a container is a [[unit]]: `name = \"NAME.container\"`, with a Quadlet file as `content`",
    ),
    (
        &["mkfs", "filesystems", "blockdev", "format", "ext4", "xfs"],
        "filesystem",
        "that is a [[filesystem]]: `device` and `type`",
    ),
    (&["swapfile", "swap_file", "swapon"], "swap", "that is a [[swap]]: `file` and `size`"),
    (
        &["seboolean", "selboolean", "setsebool", "seport", "sefcontext", "semanage"],
        "selinux",
        "that is a [[selinux]]: `boolean`, or `port` or `fcontext` with its `type`",
    ),
    (&["mounts", "fstab", "automount"], "mount", "that is a [[mount]]: `where` and `what`"),
    (
        &["hostname", "timezone", "locale", "locale_gen", "keymap", "timedatectl", "localectl"],
        "system",
        "that is a [[system]]: `hostname`, `timezone`, `locale` or `keymap`",
    ),
    (
        &["authorized_key", "authorized_keys", "ssh_authorized_key", "sudo", "sudoers"],
        "user",
        "that is a field of a [[user]]: `authorized_keys`, `sudo`",
    ),
    (&["acl", "capabilities", "posix_acl", "chmod", "chown"], "permissions", "that is a [[permissions]]: `path`"),
    (
        &["apt_repository", "yum_repository", "yumrepo", "zypper_repository", "apt_key", "repo"],
        "repository",
        "that is a [[repository]]: `name`, `format`, `urls` and its key",
    ),
    (&["copy", "cookbook_file"], "file", "that is a [[file]]: `path`, and `content` or `source`"),
    (
        &["lineinfile", "replace", "file_line"],
        "line",
        "a line in a shared file is a [[line]]: `path`, `line`, and `regex` for the line to replace",
    ),
    (
        &["ini_file", "ini_setting", "augeas", "json_file", "yaml_file", "option"],
        "setting",
        "a value in a configuration file is a [[setting]]: `path`, `key` and `value`",
    ),
    (&["blockinfile", "lines"], "block", "lines in a shared file are a [[block]]: `path`, `name` and `content`"),
    (&["hosts", "hosts_file"], "block", "lines of /etc/hosts are a [[block]] with `path = \"/etc/hosts\"`"),
    (&["link", "ln", "hardlink"], "symlink", "that is a [[symlink]]: `path` and `target`"),
    (&["dir", "folder", "mkdir"], "directory", "that is a [[directory]]"),
    (
        &["apt", "dnf", "yum", "rpm", "deb", "pkg", "zypper", "apt_package", "yum_package"],
        "package",
        "that is a [[package]]: `name` or `names`",
    ),
    (
        &["shell", "exec", "execute", "run", "script", "cmd", "bash", "raw", "powershell"],
        "command",
        "that is a [[command]]: `run = [\"PROGRAM\", \"ARGUMENT\"]`, with `creates`, `unless` or `only_if`",
    ),
    (
        &["get_url", "unarchive", "archive", "download", "remote_file", "binary", "tarball"],
        "artifact",
        "a downloaded file is an [[artifact]]: `kpull pin` writes its pin, `install` sets the paths",
    ),
    (
        &["git", "vcsrepo", "clone", "subversion", "git_repo"],
        "checkout",
        "a commit of a git repository is a [[checkout]]: `path`, `url` and `commit`",
    ),
    (&["remove", "delete", "tidy"], "absent", "a path that must not exist is an [[absent]]: `path`"),
    (
        &["firewalld", "iptables", "ufw", "port", "ports", "firewall_rule", "firewalld_zone"],
        "firewall",
        "that is a [[firewall]]: `services`, `ports`, or `allow` with addresses",
    ),
    (&["modprobe", "kernel_module", "kmod"], "module", "that is a [[module]]: `name`"),
    (
        &["healthcheck", "health_check", "health", "check", "uri", "wait_for"],
        "probe",
        "that is a [[probe]]: `name`, and `tcp`, `http`, `https`, `unit` or `command`",
    ),
    (
        &["cert", "tls", "x509_certificate", "openssl_certificate", "acme_certificate"],
        "certificate",
        "that is a [[certificate]], of an authority that `kpull pki init` creates",
    ),
    (&["k8s", "kubernetes", "kubectl", "manifest", "helm"], "kube_object", "that is a [[kube_object]]: `manifest`"),
    (&["account"], "user", "that is a [[user]]"),
    (&["vault", "password"], "secret", "`kpull secret set NAME` encrypts it, and a [[secret]] writes it to a file"),
    (
        &["task", "tasks", "handlers", "handler", "resource", "play"],
        "requires",
        "each resource is a table of its kind: [[file]], [[template]], [[unit]], [[package]], …; a [[unit]] lists in `restart_when` the resources that restart it",
    ),
    (&["defaults", "variables", "parameters", "values"], "vars", "variables are under [vars]"),
    (&["defaults", "values", "environment"], "flags", "flags are under [flags]"),
    (
        &["dependencies", "depends", "depends_on", "include", "includes", "import", "roles"],
        "requires",
        "that is `requires`",
    ),
    (&["description", "title", "doc"], "summary", "that is `summary`"),
    (&["ip", "addr", "ansible_host", "ip_address", "hostname", "fqdn"], "address", "that is `address`"),
    (&["key", "public_key", "host_key", "ssh_key"], "recipient", "that is `recipient`"),
    (&["repo", "repository", "remote"], "url", "that is `url`"),
    (&["version", "revision", "rev", "ref", "tag", "branch"], "commit", "that is `commit`, the full commit id"),
    (&["src"], "template", "that is `template`, a file in the role's templates/"),
    (&["src"], "source", "that is `source`, a file in the role's files/"),
    (&["src", "to"], "target", "that is `target`"),
    (&["dest", "destination", "filename", "file", "target"], "path", "that is `path`"),
    (&["path", "mountpoint", "dest"], "where", "that is `where`"),
    (&["src", "device", "source"], "what", "that is `what`"),
    (&["dev", "what", "path"], "device", "that is `device`"),
    (&["fstype", "setype", "fs_type"], "type", "that is `type`"),
    (&["perm", "perms", "permission", "permissions", "chmod"], "mode", "that is `mode`, like \"0644\""),
    (&["enabled", "autostart", "boot"], "enable", "that is `enable`"),
    (&["masked"], "mask", "that is `mask`"),
    (
        &["user", "scope", "rootless"],
        "authfile",
        "`User=` in the file of the unit sets the user of its process; kpull manages no units and containers of a user's own systemd",
    ),
    (&["ensure", "present", "latest"], "state", "that is `state`"),
    (&["cmd", "command", "argv"], "run", "that is `run = [\"PROGRAM\", \"ARGUMENT\"]`"),
    (&["chdir", "workdir", "working_directory"], "cwd", "that is `cwd`"),
    (&["onlyif"], "only_if", "that is `only_if`"),
    (&["regexp", "match", "pattern"], "regex", "that is `regex`"),
    (&["insertafter"], "insert_after", "that is `insert_after`; for the end of the file, omit it"),
    (
        &["insertbefore"],
        "insert_before",
        "that is `insert_before`; for the beginning of the file, `insert_at = \"begin\"`",
    ),
    (
        &["daemon_reload", "daemon_reexec"],
        "restart_when",
        "remove it: kpull reloads systemd when a unit file has changed",
    ),
    (
        &["subscribe", "watch", "onchanges", "listen"],
        "restart_when",
        "that is `restart_when`: ids of resources whose change restarts this unit",
    ),
    (
        &["subscribe", "refreshonly", "onchanges", "listen"],
        "on_change_of",
        "that is `on_change_of`: ids of resources whose change runs this command",
    ),
    (
        &["notifies", "handler", "watch_in", "listen_in", "onchanges_in"],
        "notify",
        "that is `notify`: `restart:UNIT`, `reload:UNIT` or `run:COMMAND`",
    ),
    (
        &["loop", "with_items", "with_dict", "with_list", "with_fileglob", "foreach", "count"],
        "for_each",
        "that is `for_each`",
    ),
    (&["connections"], "mirrors", "remove it: a download uses one connection; list more `mirrors`"),
    (
        &["bearer", "basic"],
        "mirrors",
        "remove it: credentials would be sent to every server that artifacts.toml names; use a client certificate, or a mirror without authentication, because artifacts are verified by their digest",
    ),
    (&["if", "condition", "only_when"], "when", "that is `when`, an expression"),
    (&["require", "requires", "depends_on", "dependencies"], "after", "that is `after = [\"KIND:KEY\"]`"),
    (
        &["register", "become", "delegate_to", "run_once", "changed_when", "failed_when", "ignore_errors", "tags"],
        "after",
        "remove it: kpull runs as root, and computes a host's catalog before it changes anything",
    ),
];

/// What to write instead of a name, where these names are valid.
pub fn advice(name: &str, known: &[&str]) -> Option<&'static str> {
    NAMES.iter().find(|(words, own, _)| words.contains(&name) && known.contains(own)).map(|(.., advice)| *advice)
}

/// Names in templates.
const IN_TEMPLATES: &[(&[&str], &str)] = &[
    (
        &["inventory_hostname", "inventory_hostname_short", "nodename"],
        "the name of this host in the site is `host.name`",
    ),
    (&["ansible_host", "ansible_default_ipv4", "ansible_default_ipv6"], "the address of this host is `host.address`"),
    (&["ansible_hostname", "ansible_fqdn", "ansible_nodename"], "the kernel's host name is `facts.hostname`"),
    (&["ansible_os_family"], "that is `facts.os.family`: `debian` or `rhel`"),
    (&["ansible_distribution"], "that is `facts.os.id`"),
    (&["ansible_distribution_version", "ansible_distribution_major_version"], "that is `facts.os.version`"),
    (&["ansible_architecture"], "that is `facts.arch`: `amd64` or `arm64`"),
    (&["ansible_processor_vcpus", "ansible_processor_cores", "ansible_processor_count"], "that is `facts.cores`"),
    (&["ansible_memtotal_mb", "ansible_memory_mb"], "that is `facts.memory`, in MiB"),
    (&["ansible_interfaces"], "that is `facts.interfaces`, with the addresses of each"),
    (&["ansible_selinux"], "that is `facts.selinux`"),
    (&["ansible_facts", "ansible_local", "grains"], "properties of a host are in `facts`"),
    (&["hostvars"], "each host is in `hosts`: `(hosts | selectattr(\"name\", \"eq\", \"NAME\") | first).vars`"),
    (
        &["groups", "ansible_play_hosts", "play_hosts"],
        "that is `hosts | in_group(\"NAME\")`; the groups of this host are `host.groups`",
    ),
    (&["group_names"], "the groups of this host are `host.groups`"),
    (&["role_names", "ansible_role_names"], "the roles of this host are `host.roles`"),
    (&["ansible_managed"], "write the text itself, such as `# managed by kpull`"),
    (&["omit"], "to omit a field on some hosts, write a second resource with `when`"),
    (
        &["lookup", "query", "q"],
        "name a file of the role in `source` or `template`; a secret is `secret(\"NAME\")`, a file of pki/ is `pki_file(\"NAME\")`",
    ),
    (
        &["now", "ansible_date_time", "strftime", "to_datetime"],
        "templates have no access to the time: the file would differ in each run",
    ),
    (&["random", "shuffle", "lipsum"], "templates have no random values: the file would differ in each run"),
    (
        &["password_hash", "vault", "unvault"],
        "store the hash as a secret: `kpull secret set NAME`, and `secret(\"NAME\")`",
    ),
    (&["fileglob", "realpath", "expanduser", "expandvars"], "templates can't read files of a host"),
    (&["ipaddr6"], "that is `ipv6`"),
    (&["yaml", "toyaml"], "that is `to_yaml` or `to_nice_yaml`"),
    (&["json", "tojson_pretty"], "that is `tojson` or `to_nice_json`"),
    (&["undef"], "list the variable under `required`: a host with the role must then set it"),
];

/// What to write in a template instead of the name of a variable, filter or function.
pub fn in_templates(name: &str) -> Option<&'static str> {
    IN_TEMPLATES.iter().find(|(words, _)| words.contains(&name)).map(|(_, advice)| *advice)
}

#[cfg(test)]
mod tests {
    use super::{IN_TEMPLATES, NAMES, advice};
    use crate::kind::KINDS;

    #[test]
    fn what_is_known_to_kpull_is_called_foreign_nowhere_that_it_is_known() {
        for (words, own, _) in NAMES {
            assert!(!words.contains(own), "{own}");
        }
        let kinds: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
        for (typed, own) in
            [("service", "unit"), ("copy", "file"), ("cron", "timer"), ("fstab", "mount"), ("lineinfile", "line")]
        {
            assert!(advice(typed, &kinds).is_some_and(|advice| advice.contains(own)), "{typed}");
        }
        assert_eq!(advice("service", &["path"]), None, "only where it can stand");
        assert!(IN_TEMPLATES.iter().all(|(words, _)| !words.is_empty()));
    }
}
