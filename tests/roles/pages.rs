//! The roles' pages in the documentation: each is made from the role itself, with the comments that stand in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use toml_edit::{DocumentMut, Item, RawString, Table, Value};

use crate::roles::made::Made;
use crate::roles::rendered::ADVICE;

/// What says more about a role.
const MORE: [(&str, &str); 1] = [("hardening", "[Harden the hosts](../usage/cluster.md#harden-the-hosts)")];

#[test]
fn every_role_has_a_page_that_says_what_the_role_does() {
    let (mut differ, mut expected) = (Vec::new(), BTreeSet::new());
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/src");
    let summary = fs::read_to_string(docs.join("SUMMARY.md")).unwrap();
    let is_blessed = std::env::var_os("KPULL_BLESS").is_some();
    for name in Made::shipped().site.roles.keys() {
        let (file, page) = (docs.join(format!("roles/{name}.md")), page(name));
        if is_blessed {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, &page).unwrap();
        }
        if fs::read_to_string(&file).unwrap_or_default() != page {
            differ.push(name.as_str());
        }
        assert!(
            summary.contains(&format!("- [{name}](roles/{name}.md)\n")),
            "SUMMARY.md has no link to roles/{name}.md"
        );
        expected.insert(file);
    }
    assert!(differ.is_empty(), "these pages do not say what the roles do now: {differ:?}\n{ADVICE}");
    let there = fs::read_dir(docs.join("roles")).unwrap().map(|entry| entry.unwrap().path());
    let left: Vec<PathBuf> = there.filter(|file| !expected.contains(file)).collect();
    assert!(left.is_empty(), "pages of no role: {left:?}");
    assert_eq!(summary.matches("](roles/").count(), expected.len(), "SUMMARY.md has links to pages of no role");
}

/// The pages of the documentation, and the README.
fn texts() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut found, mut dirs) = (vec![root.join("README.md")], vec![root.join("docs/src")]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => dirs.push(path),
                false => found.push(path),
            }
        }
    }
    found.retain(|path| path.extension().is_some_and(|end| end == "md"));
    found
}

#[test]
fn pages_show_as_many_resources_of_the_shipped_hosts_as_these_have() {
    let checked = Made::shipped().kpull("check").exits(0).stdout;
    let number = |line: &str| line.split_once(" resources")?.0.rsplit([' ', '(']).next()?.parse::<usize>().ok();
    let host = |line: &str| line.trim_start_matches("✓ ").split([' ', ':']).next().unwrap_or_default().to_owned();
    let hosts: BTreeMap<String, usize> = checked.lines().filter_map(|line| Some((host(line), number(line)?))).collect();
    assert!(hosts.len() >= 4, "{checked}");
    let (mut seen, mut wrong) = (0, Vec::new());
    for page in texts() {
        for line in fs::read_to_string(&page).unwrap().lines() {
            let (Some(expected), Some(resources)) = (number(line), hosts.get(&host(line))) else { continue };
            seen += 1;
            if expected != *resources {
                wrong.push(format!("{}: {line} (it has {resources})", page.display()));
            }
        }
    }
    assert!(wrong.is_empty() && seen > 10, "{seen} lines, of which wrong:\n{}", wrong.join("\n"));
}

#[test]
fn every_variable_of_a_role_has_a_description() {
    let mut silent = Vec::new();
    for name in Made::shipped().site.roles.keys() {
        for group in groups(&role(name)) {
            let explains_itself = group.explains_itself().is_some();
            let rows = group.rows.into_iter().filter(|_| !explains_itself).map(|row| (row.name, row.about));
            let all = rows.chain([(group.name, group.about)]).filter(|(_, about)| about.is_empty());
            silent.extend(all.map(|(variable, _)| format!("roles/{name}/role.toml: {variable}")));
        }
    }
    assert!(silent.is_empty(), "these variables have no comment beside them:\n{}", silent.join("\n"));
}

/// Variables that stand together.
struct Group {
    /// The variable that they are parts of, if they are.
    name: String,
    about: String,
    rows: Vec<Row>,
}

impl Group {
    /// What a row is, if rows are a program's own flags or fields, or systems, whose names explain themselves.
    fn explains_itself(&self) -> Option<&'static str> {
        match self.name.as_str() {
            "flags" => Some("flag"),
            "configuration" => Some("field"),
            "systems" => Some("system"),
            _ => None,
        }
    }
}

/// A variable or flag.
struct Row {
    name: String,
    /// Its default, as written; nothing if a site must set it.
    default: String,
    about: String,
}

fn role(name: &str) -> DocumentMut {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("roles/{name}/role.toml"));
    fs::read_to_string(file).unwrap().parse().unwrap()
}

fn page(name: &str) -> String {
    let doc = role(name);
    let mut page = format!("# {name}\n\n{}.\n", doc["summary"].as_str().unwrap());
    let links: Vec<String> = words(&doc, "requires").iter().map(|name| format!("[{name}]({name}.md)")).collect();
    if !links.is_empty() {
        write!(page, "\nRequired roles: {}.\n", links.join(", ")).unwrap();
    }
    for (_, link) in MORE.iter().filter(|(role, _)| *role == name) {
        write!(page, "\nOn hosts of a Kubernetes cluster, see {link}.\n").unwrap();
    }
    for group in groups(&doc).iter().filter(|group| !group.rows.is_empty()) {
        let of = group.explains_itself().unwrap_or("variable");
        match group.name.as_str() {
            "variables" => write!(
                page,
                "\n## Variables\n\nSet under `[vars.{name}]`; see [Templates](../usage/roles.md#templates).\n"
            )
            .unwrap(),
            name => write!(page, "\n### {name}\n\n{}.\n", capitalized(&group.about)).unwrap(),
        }
        let rows = group.rows.iter().map(|row| vec![code(&row.name), row.default.clone(), row.about.clone()]);
        table(&mut page, &[of, "default", ""], rows);
    }
    section(&mut page, "Assertions", &["message", "reported unless"], asserts(&doc));
    section(&mut page, "Resources", &["resource", ""], resources(&doc));
    section(&mut page, "Probes", &["probe", "request", "passes if", ""], probes(&doc));
    section(&mut page, "Ports", &["unit", "listens on", ""], listens(&doc));
    section(&mut page, "Firewall", &["zone", "allows", "from"], firewall(&doc));
    section(
        &mut page,
        "Certificates",
        &["certificate", "authority: usage", "subject", "names", "path"],
        certificates(&doc),
    );
    section(&mut page, "Secrets", &["secret", ""], secrets(name, &doc));
    page
}

/// Variables: those of the role itself first, then each table of them.
fn groups(doc: &DocumentMut) -> Vec<Group> {
    let mut own = Group { name: "variables".into(), about: "the role's own".into(), rows: Vec::new() };
    let mut tables = Vec::new();
    for name in words(doc, "required") {
        own.rows.push(Row { name, default: "required".into(), about: beside(&doc["required"]) });
    }
    for (name, item) in doc.get("vars").and_then(Item::as_table).into_iter().flat_map(Table::iter) {
        match item.as_table() {
            Some(table) => {
                let rows = table.iter().flat_map(|(name, item)| variables(name, item)).collect();
                tables.push(Group { name: name.into(), about: comment(table.decor().suffix()), rows });
            }
            None => own.rows.push(variable(name, item)),
        }
    }
    for row in &mut own.rows {
        if let Some(kind) = typed(doc, &row.name) {
            row.about = format!("{} ({kind})", row.about);
        }
    }
    [own].into_iter().chain(tables).collect()
}

/// What the role says that a variable of its own has to be, in words.
fn typed(doc: &DocumentMut, name: &str) -> Option<String> {
    doc.get("types")?.get(name)?;
    let role = Made::shipped()
        .site
        .roles
        .values()
        .find(|role| role.doc.value()["summary"].as_str() == doc["summary"].as_str())?;
    Some(role.types.get(name)?.words().replace('|', "\\|"))
}

/// A variable, or those of a table of them.
fn variables(name: &str, item: &Item) -> Vec<Row> {
    match item.as_table() {
        Some(table) => table.iter().flat_map(|(key, item)| variables(&format!("{name}.{key}"), item)).collect(),
        None => vec![variable(name, item)],
    }
}

fn variable(name: &str, item: &Item) -> Row {
    Row { name: name.to_owned(), default: code(&written(item.as_value().unwrap())), about: beside(item) }
}

/// What every entry of a kind says, with what it exists for.
fn entries<'a>(doc: &'a DocumentMut, kind: &str) -> impl Iterator<Item = &'a Table> {
    doc.get(kind).and_then(Item::as_array_of_tables).into_iter().flatten()
}

fn asserts(doc: &DocumentMut) -> Vec<Vec<String>> {
    let text = |entry: &Table, name: &str| entry.get(name).and_then(Item::as_str).unwrap_or_default().to_owned();
    let row = |entry: &Table| vec![text(entry, "message").replace('|', "\\|"), code(&text(entry, "that"))];
    entries(doc, "assert").map(row).collect()
}

fn resources(doc: &DocumentMut) -> Vec<Vec<String>> {
    let elsewhere = ["probe", "firewall", "certificate", "secret", "assert"];
    let kinds = doc.iter().filter(|(kind, item)| item.is_array_of_tables() && !elsewhere.contains(kind));
    let row = |kind: &str, entry: &Table| {
        let key = match kind {
            "block" => code(&format!("{}#{}", plain_field(entry, "path"), plain_field(entry, "name"))),
            "swap" => "off".to_owned(),
            _ => field(
                entry,
                ["name", "path", "key", "template", "boolean"]
                    .into_iter()
                    .find(|name| entry.contains_key(name))
                    .unwrap(),
            ),
        };
        let mut notes = vec![comment(entry.decor().suffix()), condition(entry)];
        if let (Some(members), Some(into)) = (entry.get("members"), entry.get("into")) {
            notes.push(format!("{} into {}", list(members), list(into)));
        }
        for (field, word) in [
            ("restart_when", "restarts after a change of"),
            ("reload_when", "reloads after a change of"),
            ("slot", "needs the slot"),
        ] {
            notes.extend(entry.get(field).map(|item| format!("{word} {}", list(item))));
        }
        vec![format!("{kind} {key}"), join(notes)]
    };
    kinds.flat_map(|(kind, _)| entries(doc, kind).map(move |entry| row(kind, entry))).collect()
}

fn probes(doc: &DocumentMut) -> Vec<Vec<String>> {
    let row = |entry: &Table| {
        let asked = ["tcp", "http", "https", "unit", "command"].into_iter();
        let asked = asked.filter_map(|field| Some(format!("{field} {}", argv(entry.get(field)?)))).collect();
        let passes = ["expect", "expect_body", "expect_status"].into_iter();
        let passes = passes.filter_map(|field| {
            let word = if field == "expect" { "" } else { field.trim_start_matches("expect_") };
            Some(format!("{word} {}", list(entry.get(field)?)).trim().to_owned())
        });
        let mut notes = vec![comment(entry.decor().suffix()), condition(entry)];
        notes.extend(entry.get("before").map(|item| format!("before {}", list(item))));
        notes.extend(match entry.get("decides").map(|item| plain(item.as_value().unwrap())).as_deref() {
            None | Some("true") => None,
            Some("false") => Some("only `kpull verify` runs it".to_owned()),
            Some(text) => Some(format!("decides if {}", code(text))),
        });
        vec![field(entry, "name"), join(asked), join(passes.collect()), join(notes)]
    };
    entries(doc, "probe").map(row).collect()
}

fn listens(doc: &DocumentMut) -> Vec<Vec<String>> {
    let each = |unit: &Table| {
        let name = field(unit, "name");
        let listens = unit.get("listens").and_then(Item::as_array).into_iter().flatten();
        listens
            .map(move |listen| {
                let part = |part: &str| listen.as_inline_table()?.get(part).map(|value| code(&plain(value)));
                let at = part("port").unwrap_or_else(|| code(&plain(listen)));
                let shows = part("certificate").map(|name| format!("with the certificate {name}"));
                let passes = part("through").map(|port| format!("forwards to {port}"));
                vec![name.clone(), at, join([shows, passes].into_iter().flatten().collect())]
            })
            .collect::<Vec<_>>()
    };
    entries(doc, "unit").flat_map(each).collect()
}

fn firewall(doc: &DocumentMut) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for entry in entries(doc, "firewall") {
        let zone = entry.get("zone").map_or_else(String::new, list);
        let note = comment(entry.decor().suffix());
        for field in ["services", "ports"] {
            rows.extend(
                entry
                    .get(field)
                    .map(|item| vec![zone.clone(), list(item), join(vec!["any address".into(), note.clone()])]),
            );
        }
        rows.extend(
            entry
                .get("sources")
                .map(|item| vec![zone.clone(), "everything".into(), join(vec![list(item), note.clone()])]),
        );
        for allow in entry.get("allow").and_then(Item::as_array).into_iter().flatten() {
            let part = |part: &str| allow.as_inline_table()?.get(part).map(|value| code(&plain(value)));
            let what = part("port").or_else(|| part("service")).or_else(|| part("protocol")).unwrap();
            rows.push(vec![zone.clone(), what, part("from").unwrap()]);
        }
    }
    rows
}

fn certificates(doc: &DocumentMut) -> Vec<Vec<String>> {
    let row = |entry: &Table| {
        let name = field(entry, "name");
        let authority = entry.get("authority").map_or_else(|| name.clone(), list);
        let organization = entry.get("organization").map(|item| format!("O {}", list(item)));
        let common_name = entry.get("common_name").map_or_else(|| name.clone(), list);
        let subject = [organization, Some(format!("CN {common_name}"))].into_iter().flatten().collect();
        let usage = entry.get("usage").map_or_else(|| "`server`, `client`".to_owned(), list);
        let names = ["dns", "ip"].into_iter().filter_map(|field| entry.get(field)).map(list).collect();
        vec![name, format!("{authority}: {usage}"), join(subject), join(names), field(entry, "cert")]
    };
    entries(doc, "certificate").map(row).collect()
}

/// Secrets that are files of their own, and those that are asked for in a text.
fn secrets(name: &str, doc: &DocumentMut) -> Vec<Vec<String>> {
    let mut rows: Vec<_> =
        entries(doc, "secret").map(|entry| vec![field(entry, "name"), field(entry, "path")]).collect();
    let site = &Made::shipped().site;
    let of_role = format!("roles/{name}/");
    for (path, text) in site.files.iter().filter(|(path, _)| path.starts_with(&of_role)) {
        let text = String::from_utf8_lossy(text);
        for asked in text.split("secret(").skip(1) {
            let secret = asked.split(['"', '\'']).nth(1).unwrap();
            rows.push(vec![code(secret), format!("used in {}", code(path.strip_prefix(&of_role).unwrap()))]);
        }
    }
    rows
}

fn section(page: &mut String, title: &str, heads: &[&str], rows: Vec<Vec<String>>) {
    if !rows.is_empty() {
        write!(page, "\n## {title}\n").unwrap();
        table(page, heads, rows);
    }
}

fn table(page: &mut String, heads: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | ")).replace("|  |", "| |");
    let heads: Vec<String> = heads.iter().map(ToString::to_string).collect();
    let below = "---|".repeat(heads.len());
    write!(page, "\n{}|{below}\n", line(heads)).unwrap();
    for cells in rows {
        *page += &line(cells);
    }
}

/// When an entry exists, and how often.
fn condition(entry: &Table) -> String {
    let part = |field: &str, word: &str| entry.get(field).map(|item| format!("{word} {}", list(item)));
    join([part("when", "when"), part("for_each", "for each of")].into_iter().flatten().collect())
}

fn field(entry: &Table, name: &str) -> String {
    code(&plain_field(entry, name))
}

fn plain_field(entry: &Table, name: &str) -> String {
    plain(entry[name].as_value().unwrap())
}

/// The texts of a list of the role.
fn words(doc: &DocumentMut, name: &str) -> Vec<String> {
    let list = doc.get(name).and_then(Item::as_array).into_iter().flatten();
    list.map(|value| value.as_str().unwrap().to_owned()).collect()
}

/// A list, or one value, for readers.
fn list(item: &Item) -> String {
    match item.as_array() {
        Some(array) => array.iter().map(|value| code(&plain(value))).collect::<Vec<_>>().join(", "),
        None => code(&plain(item.as_value().unwrap())),
    }
}

/// A program with its arguments as one, or a text.
fn argv(item: &Item) -> String {
    match item.as_array() {
        Some(array) => code(&array.iter().map(plain).collect::<Vec<_>>().join(" ")),
        None => list(item),
    }
}

/// A value without the quotes around a text.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| written(value), str::to_owned)
}

/// A value as it is written, in one line and without comments.
fn written(value: &Value) -> String {
    match value {
        Value::Array(array) => format!("[{}]", array.iter().map(written).collect::<Vec<_>>().join(", ")),
        Value::InlineTable(table) if table.is_empty() => "{}".to_owned(),
        Value::InlineTable(table) => {
            let parts = table.iter().map(|(name, value)| format!("{name} = {}", written(value)));
            format!("{{ {} }}", parts.collect::<Vec<_>>().join(", "))
        }
        other => other.clone().decorated("", "").to_string(),
    }
}

/// The comment beside a variable; of a list of several lines, beside its beginning.
fn beside(item: &Item) -> String {
    let value = item.as_value().unwrap();
    let inner = value.as_array().and_then(|array| array.get(0)).and_then(|first| first.decor().prefix());
    let (inner, outer) = (comment(inner), comment(value.decor().suffix()));
    if outer.is_empty() { inner } else { outer }
}

/// The text of a comment in what stands between values.
fn comment(raw: Option<&RawString>) -> String {
    let text = raw.and_then(RawString::as_str).unwrap_or_default();
    text.lines().next().and_then(|line| line.trim().strip_prefix('#')).unwrap_or_default().trim().replace('|', "\\|")
}

fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

fn code(text: &str) -> String {
    format!("`{}`", text.replace('|', "\\|").replace('\n', " "))
}

fn join(parts: Vec<String>) -> String {
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ")
}
