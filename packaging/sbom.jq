# Converts the output of `cargo metadata` to a CycloneDX bill of materials.

def ref: "pkg:cargo/\(.name)@\(.version | gsub("\\+"; "%2B"))";

def arches: $linked["\(.name) \(.version)"];

def component($type):
  { type: $type, "bom-ref": ref, name, version }
  + (if .description then { description: (.description | gsub("\\s+"; " ") | ltrimstr(" ") | rtrimstr(" ")) } else {} end)
  + ($digests["\(.name) \(.version)"] as $sha256
     | if $sha256 then { hashes: [{ alg: "SHA-256", content: $sha256 }] } else {} end)
  # Old crates write MIT/Apache-2.0. Others name only a file, as LICENSE-MIT, whose text cargo-deny recognizes.
  + ([.license // (.license_file // "" | capture("^LICENSE-(?<name>.+)$").name)
      | { licenses: [{ expression: gsub(" */ *"; " OR ") }] }] | add // {})
  + { purl: ref }
  + (if .repository then { externalReferences: [{ type: "vcs", url: .repository }] } else {} end)
  + (if arches == ["amd64", "arm64"] then {} else { properties: [arches[] | { name: "kpull:architecture", value: . }] } end);

(.packages | map(select(arches)) | map({ key: .id, value: . }) | from_entries) as $packages
| (.resolve.nodes | map({ key: .id, value: [.deps[] | select(any(.dep_kinds[]; .kind == null)) | .pkg | select($packages[.])] })
   | from_entries) as $nodes
| .resolve.root as $root
| ($packages | keys | sort_by($packages[.] | ref)) as $ids
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
