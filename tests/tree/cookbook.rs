//! The manual's recipes: each passes `check`, makes a tree, leaves nothing to do, and goes without a trace.

use crate::support::cookbook::recipes;
use crate::support::site::{Snapshot, Tree, kpull};
use crate::tree::pki::World;

/// A tree without what stays when a role goes, as the manual says: accounts and their homes.
fn without_accounts(tree: &Tree) -> Snapshot {
    let stays = ["etc/passwd", "etc/group", "etc/shadow", "etc/gshadow", "etc/subuid", "etc/subgid", "home"];
    let is_kept = |path: &str| !stays.iter().any(|start| path.starts_with(start));
    tree.snapshot().into_iter().filter(|(path, _)| is_kept(path)).collect()
}

#[test]
fn each_recipe_is_checked_applied_once_and_removed_completely() {
    let recipes = recipes();
    assert!(recipes.len() >= 40, "{} recipes", recipes.len());
    let mut wrong = Vec::new();
    for recipe in recipes {
        // less swap than anybody needs
        let role = recipe.role.replacen("summary = ", "# ", 1).replace("size = \"2G\"", "size = \"1M\"");
        let world = if role.contains("[[certificate]]") { World::issued } else { World::new };
        let World { site, tree } = world(&role);
        tree.write(
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/bash\npostgres:x:113:113::/var/lib/postgresql:/bin/bash\n",
        );
        tree.write("etc/group", "root:x:0:\npostgres:x:113:\n").write("etc/hosts", "127.0.0.1 localhost\n");
        tree.write("usr/share/zoneinfo/Europe/Berlin", "");
        site.role("web", "").sign();
        tree.kpull("apply").exits(0);
        let before = without_accounts(&tree);

        site.role("web", &role).sign();
        let checked = kpull(&["check", "--site", site.path().to_str().unwrap()]);
        if checked.code != 0 {
            wrong.push(format!("{}: {}{}", recipe.title, checked.stdout, checked.stderr));
            continue;
        }
        let first = tree.kpull("apply --json");
        if first.code != 0 {
            wrong.push(format!("{}: {}{}", recipe.title, first.stdout, first.stderr));
            continue;
        }
        let second = tree.kpull("apply --json").exits(0);
        if !second.changed().is_empty() {
            wrong.push(format!("{}: {:?} are changed again", recipe.title, second.changed()));
        }
        site.role("web", "").sign();
        tree.kpull("apply").exits(0);
        let after = without_accounts(&tree);
        if after != before {
            let left: Vec<_> = after.keys().filter(|path| before.get(*path) != after.get(*path)).collect();
            wrong.push(format!("{}: {left:?} are left", recipe.title));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
