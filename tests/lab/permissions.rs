//! Permissions of what a package makes, and a directory of the role, on a real host.

use crate::lab::software::offer_script;
use crate::support::alone::World;

/// What the package makes: data, and a program.
const SCRIPT: &str = "mkdir -p /srv/tool/sub /usr/local/lib/tool
echo secret > /srv/tool/sub/data
cp /usr/bin/python3 /usr/local/lib/tool/run";

const ROLE: &str = r#"
[[package]]
name = "tool"
[[user]]
name = "bob"
[[user]]
name = "eve"
"#;

const MORE: &str = r#"
[[permissions]]
path = "/srv/tool"
recursive = true
owner = "bob"
group = "bob"
mode = "u=rwX,go="
acl = ["user:eve:rX"]
[[permissions]]
path = "/usr/local/lib/tool/run"
capabilities = "cap_net_bind_service=ep"
[[tree]]
path = "/srv/web"
source = "web"
owner = "bob"
exclusive = true
"#;

const PATHS: &str = "stat -c '%a %U %G %n' /srv/tool /srv/tool/sub /srv/tool/sub/data";

/// Binds a port that only root, or a program with the capability, may bind.
const BIND: &str =
    "runuser -u eve -- /usr/local/lib/tool/run -c 'import socket; socket.socket().bind((\"127.0.0.1\", 81))'";

#[test]
fn what_a_package_makes_gets_its_permissions_and_loses_them_with_the_role() {
    let world = World::new();
    let host = world.host();
    offer_script(host, "tool", SCRIPT);
    host.write("/srv/site/roles/app/files/web/css/a.css", "a\n");
    host.write("/srv/web/theirs", "theirs\n");
    world.release(&format!("{ROLE}{MORE}"));
    let plan = host.run("kpull plan");
    assert_eq!(plan.code(), 2, "{plan}");
    assert!(plan.stdout.contains("mode or owner, once"), "{plan}");
    world.converges();
    let given = "750 bob bob /srv/tool\n750 bob bob /srv/tool/sub\n640 bob bob /srv/tool/sub/data";
    assert_eq!(host.run(PATHS).ok(), given);
    let read = |user: &str| host.run(&format!("runuser -u {user} -- cat /srv/tool/sub/data")).code();
    assert_eq!((read("bob"), read("eve"), read("nobody")), (0, 0, 1));
    host.run(BIND).ok();
    assert_eq!(
        host.run("stat -c '%a %U %n' /srv/web /srv/web/css/a.css; ls /srv/web").ok(),
        "755 bob /srv/web\n644 bob /srv/web/css/a.css\ncss"
    );
    // what root leaves there, what someone opens, and a program that lost its capability
    host.run("echo x > /srv/tool/new; chmod 666 /srv/tool/sub/data; cp /usr/bin/python3 /usr/local/lib/tool/run; touch /srv/web/css/b").ok();
    assert_ne!(host.run(BIND).code(), 0);
    world.converges();
    assert_eq!(
        host.run(&format!("{PATHS}; stat -c '%a %U' /srv/tool/new; ls /srv/web/css")).ok(),
        format!("{given}\n640 bob\na.css")
    );
    host.run(BIND).ok();
    world.release(ROLE);
    world.converges();
    let before = "755 root root /srv/tool\n755 root root /srv/tool/sub\n644 root root /srv/tool/sub/data";
    assert_eq!(host.run(PATHS).ok(), before);
    assert_eq!((read("eve"), host.run("cat /srv/web/theirs; ls /srv/web").ok()), (0, "theirs\ntheirs".to_owned()));
    assert_ne!(host.run(BIND).code(), 0);
    // nothing makes this path
    world.release("[[permissions]]\npath = \"/srv/none\"\nmode = \"0600\"\n");
    let run = host.run("kpull plan --json");
    assert_eq!(run.code(), 1, "{run}");
    assert!(
        run.stdout.contains("/srv/none does not exist") && run.stdout.contains("name that resource in `after`"),
        "{run}"
    );
    // one that may be missing gets its mode in the run that finds it
    world.release("[[permissions]]\npath = \"/srv/none\"\nmode = \"0600\"\nignore_missing = true\n");
    world.converges();
    host.run("touch /srv/none && chmod 644 /srv/none").ok();
    world.converges();
    assert_eq!(host.run("stat -c %a /srv/none").ok(), "600");
    world.release("");
    world.converges();
    assert_eq!(host.run("stat -c %a /srv/none").ok(), "644");
}
