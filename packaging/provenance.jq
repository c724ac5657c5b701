# An in-toto statement (v1) with a predicate of SLSA provenance (v1): the files that packaging/build created, their sources and tools.

def lines: split("\n") | map(select(. != ""));

{
  _type: "https://in-toto.io/Statement/v1",
  # a line of sha256sum: the digest, two spaces, the name
  subject: ($sums | lines | map({ name: .[66:], digest: { sha256: .[:64] } })),
  predicateType: "https://slsa.dev/provenance/v1",
  predicate: {
    buildDefinition: {
      buildType: "urn:kpull:packaging-build:1",
      externalParameters: {
        version: $version,
        revision: $revision,
        architectures: ($arches | lines),
        formats: ($formats | lines),
        fast: ($fast != ""),
        # whether the source had uncommitted changes
        modified: ($modified != ""),
        # whether the caller provided the program instead of building it
        binary: ($binary != "")
      },
      internalParameters: { SOURCE_DATE_EPOCH: ($epoch | tonumber) },
      resolvedDependencies: (
        [{ name: "source", digest: { gitCommit: $commit } }, { name: "Cargo.lock", digest: { sha256: $lock } }]
        + if $binary == "" then [] else [{ name: "kpull", digest: { sha256: $binary } }] end
      )
    },
    runDetails: {
      builder: { id: $builder, version: ($tools | lines | map(split("\t") | { key: .[0], value: .[1] }) | from_entries) }
    }
  }
}
