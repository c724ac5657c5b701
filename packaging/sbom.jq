# cargo's metadata as a CycloneDX bill of materials.

def ref: "pkg:cargo/\(.name)@\(.version | gsub("\\+"; "%2B"))";

# what is linked: neither tests nor build scripts
def linked: [.deps[] | select(any(.dep_kinds[]; .kind == null)) | .pkg];

# everything that is reached from these ids
def reach($nodes):
  def go: . as $known
    | ([$known[] as $id | $nodes[$id][]] + $known | unique) as $more
    | if $more == $known then $known else ($more | go) end;
  go;

def component($type):
  { type: $type, "bom-ref": ref, name, version }
  + (if .description then { description: (.description | gsub("\\s+"; " ") | ltrimstr(" ") | rtrimstr(" ")) } else {} end)
  + ($digests["\(.name) \(.version)"] as $sha256
     | if $sha256 then { hashes: [{ alg: "SHA-256", content: $sha256 }] } else {} end)
  # crates of old write MIT/Apache-2.0
  + (if .license then { licenses: [{ expression: (.license | gsub(" */ *"; " OR ")) }] } else {} end)
  + { purl: ref }
  + (if .repository then { externalReferences: [{ type: "vcs", url: .repository }] } else {} end);

(.packages | map({ key: .id, value: . }) | from_entries) as $packages
| (.resolve.nodes | map({ key: .id, value: linked }) | from_entries) as $nodes
| .resolve.root as $root
| ([$root] | reach($nodes) | sort_by($packages[.] | ref)) as $ids
| { type: "framework", "bom-ref": "rust", name: "rust", version: $rust,
    description: "The compiler's standard library, and the musl that comes with it",
    licenses: [{ expression: "MIT OR Apache-2.0" }],
    externalReferences: [{ type: "vcs", url: "https://github.com/rust-lang/rust" }] } as $compiler
| {
    bomFormat: "CycloneDX",
    specVersion: "1.5",
    version: 1,
    metadata: {
      timestamp: ($epoch | todate),
      component: ($packages[$root] | component("application"))
    },
    components: ([$ids[] | select(. != $root) | $packages[.] | component("library")] + [$compiler]),
    dependencies: ([$ids[] as $id | {
      ref: ($packages[$id] | ref),
      dependsOn: ([$nodes[$id][] | $packages[.] | ref] + (if $id == $root then ["rust"] else [] end) | unique)
    }] + [{ ref: "rust", dependsOn: [] }])
  }
