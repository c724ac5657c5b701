//! What several roles of a host have in common, and the ids by which resources name one another.

use serde_json::json;

use crate::support::site::{Output, Site, kpull};

/// A site with a host that has the roles `one` and `two`.
fn two(one: &str, two: &str) -> Site {
    let site = Site::new("test");
    site.role("one", one).role("two", two).host("h1", "address = \"10.0.0.1\"\nroles = [\"one\", \"two\"]\n");
    site
}

fn check(site: &Site) -> Output {
    kpull(&["check", "--json", "--site", site.path().to_str().unwrap()])
}

/// What `check` says is wrong with the two roles: place, error and advice.
#[track_caller]
fn refused(one: &str, second: &str) -> [String; 3] {
    let error = check(&two(one, second)).exits(1).error();
    let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
    [format!("{}:{}:{}", text("file"), error["line"], error["column"]), text("error"), text("help")]
}

/// A resource of the host as `kpull graph` shows it.
fn shown(site: &Site, id: &str) -> serde_json::Value {
    let graph = kpull(&["graph", "h1", "--json", "--site", site.path().to_str().unwrap()]).exits(0);
    graph.json().into_iter().find(|item| item["id"] == id).unwrap()
}

const DIRECTORY: &str = "[[directory]]\npath = \"/etc/web.d\"\nmode = \"0750\"\n";

#[test]
fn what_two_roles_define_identically_is_one_resource_until_neither_has_it() {
    let more = "[[file]]\npath = \"/etc/web.d/two\"\ncontent = \"\"\n";
    let site =
        two(DIRECTORY, &format!("[[directory]]\nmode = \"0750\"\nowner = \"root\"\npath = \"/etc/web.d\"\n{more}"));
    check(&site).exits(0);
    let site = two(
        &format!("{DIRECTORY}after = [\"file:/etc/a\"]\n[[file]]\npath = \"/etc/a\"\ncontent = \"\"\n"),
        &format!("{DIRECTORY}{more}"),
    );
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    assert_eq!(tree.mode("etc/web.d"), 0o750);
    let also = json!([{ "role": "two", "place": "roles/two/role.toml:2:1" }]);
    let directory = shown(&site, "directory:/etc/web.d");
    assert_eq!(
        (&directory["role"], &directory["also"], &directory["after"]),
        (&json!("one"), &also, &json!(["file:/etc/a"]))
    );
    site.host("h1", "address = \"10.0.0.1\"\nroles = [\"two\"]\n").sign();
    tree.kpull("apply").exits(0);
    assert_eq!(tree.mode("etc/web.d"), 0o750, "the other role has it");
    assert!(!tree.at("etc/a").exists());
    site.role("two", "").sign();
    tree.kpull("apply").exits(0);
    assert!(!tree.at("etc/web.d").exists());
}

#[test]
fn packages_of_two_roles_may_be_listed_in_different_ways() {
    let site = two("[[package]]\nnames = [\"curl\", \"git\"]\n", "[[package]]\nname = \"git\"\n");
    check(&site).exits(0);
    let both = "[[package]]\nnames = [\"git\", \"vim\"]\n";
    check(&two("[[package]]\nname = \"git\"\n", both)).exits(0);
}

#[test]
fn different_definitions_are_an_error_with_both_places_and_what_differs() {
    let help = "the other one is at roles/one/role.toml:2:1; keep one of them, or make both identical";
    for (one, second, what) in [
        (DIRECTORY, "[[directory]]\npath = \"/etc/web.d\"\n", "`/etc/web.d`: one and two, which differ in `mode`"),
        (
            "[[package]]\nname = \"git\"\n",
            "[[package]]\nnames = [\"git\"]\nstate = \"absent\"\n",
            "`package:git`: one and two, which differ in `state`",
        ),
        (
            "[[unit]]\nname = \"a.service\"\nenable = true\nrestart_when = [\"file:/x\"]\n[[file]]\npath = \"/x\"\ncontent = \"\"\n",
            "[[unit]]\nname = \"a.service\"\nenable = false\n",
            "`unit:a.service`: one and two, which differ in `enable`",
        ),
    ] {
        assert_eq!(
            refused(one, second),
            ["roles/two/role.toml:2:1".to_owned(), format!("two roles manage {what}"), help.to_owned()]
        );
    }
    let template = "[[template]]\npath = \"/etc/x\"\ntemplate = \"x\"\n";
    let site = two(template, template);
    site.file("roles/one/templates/x", "1").file("roles/two/templates/x", "2");
    let error = check(&site).exits(1).error();
    assert_eq!(
        error["error"],
        "two roles manage `/etc/x`: one and two, which differ in the file that `template` names"
    );
    site.file("roles/two/templates/x", "1");
    check(&site).exits(0);
    let twice = format!("{DIRECTORY}{DIRECTORY}");
    assert_eq!(refused("", &twice)[1], "`/etc/web.d` occurs twice in the role two");
}

const UNIT: &str = "[[unit]]\nname = \"web.service\"\ncontent = \"[Service]\\nExecStart=/bin/web\\nExecReload=/bin/web\\n[Install]\\nWantedBy=multi-user.target\\n\"\nenable = true\n";

#[test]
fn a_role_adds_triggers_to_a_unit_of_another_role() {
    let added = "[[file]]\npath = \"/etc/tls\"\ncontent = \"\"\n[[unit]]\nname = \"web.service\"\nreload_when = [\"file:/etc/tls\"]\n\
                 [[file]]\npath = \"/etc/web\"\ncontent = \"\"\nnotify = [\"restart:web.service\"]\n";
    for site in [two(UNIT, added), two(added, UNIT)] {
        check(&site).exits(0);
        let unit = shown(&site, "unit:web.service");
        let watched = |id: &str, trigger: &str| {
            unit["watches"].as_array().unwrap().contains(&json!({ "id": id, "trigger": trigger }))
        };
        assert!(watched("file:/etc/tls", "reload") && watched("file:/etc/web", "restart"), "{unit}");
        assert!(watched("unit-file:/etc/systemd/system/web.service", "restart"), "{unit}");
    }
}

#[test]
fn a_notification_of_nothing_is_an_error_with_the_name_that_was_meant() {
    let notify = |text: &str| format!("[[file]]\npath = \"/etc/x\"\ncontent = \"\"\nnotify = [\"{text}\"]\n");
    let command = "[[command]]\nname = \"reindex\"\nrun = [\"true\"]\nunless = [\"true\"]\n";
    let one = format!("{UNIT}{command}");
    for (text, at, says, help) in [
        (
            "restart:wbe.service",
            "2:1",
            "`file:/etc/x` notifies `unit:wbe.service`, but this host has no such resource",
            "did you mean `unit:web.service`?",
        ),
        (
            "run:reindx",
            "2:1",
            "`file:/etc/x` notifies `command:reindx`, but this host has no such resource",
            "did you mean `command:reindex`?",
        ),
        (
            "start:web.service",
            "5:10",
            "`start:web.service` is not `restart:UNIT`, `reload:UNIT` or `run:COMMAND`",
            "write a unit with its type, like `restart:nginx.service`, and a command with its `name`",
        ),
    ] {
        assert_eq!(
            refused(&one, &notify(text)),
            [format!("roles/two/role.toml:{at}"), says.to_owned(), help.to_owned()]
        );
    }
    check(&two(&one, &notify("run:reindex"))).exits(0);
    let text = refused("", "[[command]]\nname = \"reindex\"\nrun = [\"true\"]\n");
    assert_eq!(text[1], "nothing defines when to run `command:reindex`");
    check(&two("[[command]]\nname = \"reindex\"\nrun = [\"true\"]\n", &notify("run:reindex"))).exits(0);
}

#[test]
fn patterns_stand_for_the_resources_of_a_host() {
    let files = "[[file]]\nfor_each = [\"a\", \"b\"]\npath = \"/etc/sites/{{ item }}\"\ncontent = \"\"\n";
    let unit = "[[unit]]\nname = \"web.service\"\nreload_when = [\"file:/etc/sites/*\", \"file:/etc/none/*\"]\nafter = [\"file:*/a\"]\n";
    let site = two(files, unit);
    let checked = check(&site).exits(0);
    let warnings: Vec<_> = checked.events("warning").into_iter().map(|event| event["warning"].clone()).collect();
    assert_eq!(warnings, ["`file:/etc/none/*` of `unit:web.service` matches no resource on any host"]);
    let unit = shown(&site, "unit:web.service");
    let watched = ["a", "b"].map(|name| json!({ "id": format!("file:/etc/sites/{name}"), "trigger": "reload" }));
    assert_eq!((&unit["watches"], &unit["after"]), (&json!(watched), &json!(["file:/etc/sites/a"])));
}

#[test]
fn for_each_takes_a_list_or_a_table_and_lists_of_ids_an_expression() {
    let role = r#"
vars.names = ["c", "d"]
vars.ids = "{{ names | map('regex_replace', '^', 'file:/') | list }}"
[[file]]
for_each = [{ name = "a", mode = "0600" }, { name = "{{ names[0] }}" }]
path = "/{{ item.name }}"
content = ""
mode = "{{ item.mode | default('0644') }}"
[[file]]
for_each = { d = "1" }
path = "/{{ item.key }}"
content = "{{ item.value }}"
[[file]]
path = "/z"
content = ""
after = "{{ ids }}"
when = "{{ 'c' in names }}"
"#;
    let site = two(role, "");
    let tree = site.sign().enroll();
    tree.kpull("apply").exits(0);
    assert_eq!((tree.mode("a"), tree.mode("c"), tree.read("d").as_str()), (0o600, 0o644, "1"));
    assert_eq!(shown(&site, "file:/z")["after"], json!(["file:/c", "file:/d"]));
    let file = |more: &str| format!("[[file]]\npath = \"/x\"\ncontent = \"\"\n{more}\n");
    for (more, at, says) in [
        (
            "after = \"file:/y\"",
            "5:9",
            "`file[0].after` can't be read: write a list of texts, or one `{{ expression }}` whose result is such a list",
        ),
        ("after = \"{{ host.name }}\"", "5:9", "`after` needs a list of texts, and this is a string"),
        (
            "for_each = 5",
            "5:12",
            "`file[0].for_each` can't be read: write a list, a table, or a text with an expression whose result is a list or table",
        ),
    ] {
        let found = refused("", &file(more));
        assert_eq!(found[..2], [format!("roles/two/role.toml:{at}"), says.to_owned()]);
    }
}

#[test]
fn a_condition_that_is_neither_true_nor_false_says_how_to_compare() {
    let file = |when: &str| {
        format!(
            "vars.names = []\nvars.none = \"{{{{ none }}}}\"\n[[file]]\npath = \"/x\"\ncontent = \"\"\nwhen = \"{when}\"\n"
        )
    };
    for (when, help) in [
        ("names", "compare: `when = \"names | length > 0\"`"),
        ("names | length", "compare: `when = \"(names | length) != 0\"`"),
        ("host.name", "compare: `when = \"host.name == 'x'\"`"),
    ] {
        assert_eq!(refused("", &file(when))[2], help, "{when}");
    }
    let role =
        "[[file]]\nfor_each = [{ name = \"a\" }]\npath = \"/{{ item.name }}\"\ncontent = \"\"\nwhen = \"item.tls\"\n";
    let found = refused("", role);
    assert_eq!(
        found[1..],
        ["`item.tls` is not defined", "if an item may lack it, write `item.tls is defined` or `item.tls | default(…)`"]
    );
}
