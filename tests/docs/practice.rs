//! What the project says of its own security, in the forms that others read.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

/// OpenSSF Security Insights 2.0.0, as far as this project has something to say. A field that the schema does not have is an error.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Insights {
    header: Header,
    project: Project,
    repository: Repository,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Header {
    schema_version: String,
    last_updated: jiff::civil::Date,
    last_reviewed: jiff::civil::Date,
    url: String,
    #[serde(rename = "comment")]
    _comment: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Project {
    name: String,
    administrators: Vec<Contact>,
    documentation: BTreeMap<String, String>,
    repositories: Vec<Named>,
    vulnerability_reporting: Reporting,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Contact {
    name: String,
    email: String,
    primary: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Named {
    name: String,
    url: String,
    #[serde(rename = "comment")]
    _comment: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Reporting {
    reports_accepted: bool,
    bug_bounty_available: bool,
    contact: Contact,
    security_policy: String,
    in_scope: Vec<String>,
    out_of_scope: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Repository {
    url: String,
    status: String,
    #[serde(rename = "accepts-change-request")]
    _accepts: bool,
    #[serde(rename = "accepts-automated-change-request")]
    _accepts_automated: bool,
    #[serde(rename = "bug-fixes-only")]
    _bug_fixes: bool,
    no_third_party_packages: bool,
    core_team: Vec<Contact>,
    license: License,
    documentation: BTreeMap<String, String>,
    release: Release,
    security: Posture,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct License {
    url: String,
    expression: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Release {
    automated_pipeline: bool,
    changelog: String,
    distribution_points: Vec<Link>,
    attestations: Vec<Attestation>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Link {
    uri: String,
    #[serde(rename = "comment")]
    _comment: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Attestation {
    #[serde(rename = "name")]
    _name: String,
    location: String,
    predicate_uri: String,
    #[serde(rename = "comment")]
    _comment: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Posture {
    assessments: Assessments,
    tools: Vec<Tool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Assessments {
    #[serde(rename = "self")]
    own: Assessment,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Assessment {
    #[serde(rename = "comment")]
    _comment: String,
    evidence: String,
    #[serde(rename = "date")]
    _date: jiff::civil::Date,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Tool {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    rulesets: Vec<String>,
    #[serde(default, rename = "comment")]
    _comment: String,
    integration: Integration,
    results: BTreeMap<String, Attestation>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Integration {
    adhoc: bool,
    ci: bool,
    release: bool,
}

fn top(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn security_insights_has_the_fields_of_its_schema_and_names_existing_files() {
    let insights: Insights = serde_saphyr::from_str(&top("security-insights.yml")).unwrap();
    let Insights { header, project, repository } = insights;
    assert_eq!((header.schema_version.as_str(), project.name.as_str()), ("2.0.0", "kpull"));
    assert!(header.last_updated <= header.last_reviewed);
    let policy = top("SECURITY.md");
    for contact in
        project.administrators.iter().chain(&repository.core_team).chain([&project.vulnerability_reporting.contact])
    {
        assert!(!contact.name.is_empty() && contact.primary && policy.contains(&format!("<{}>", contact.email)));
    }
    let reporting = &project.vulnerability_reporting;
    assert!(
        reporting.reports_accepted
            && !reporting.bug_bounty_available
            && policy.contains("The project pays neither for reports nor for answers")
    );
    assert!(!reporting.in_scope.is_empty() && !reporting.out_of_scope.is_empty());
    assert_eq!((repository.status.as_str(), repository.no_third_party_packages), ("active", false));
    assert!(top("Cargo.toml").contains(&format!("license = \"{}\"", repository.license.expression)));
    assert!(!repository.release.automated_pipeline, "a person runs packaging/release");
    assert_eq!(
        repository.release.attestations.iter().map(|one| one.predicate_uri.as_str()).collect::<Vec<_>>(),
        ["https://slsa.dev/provenance/v1"]
    );
    for tool in &repository.security.tools {
        assert!(
            ["fuzzing", "container", "secret", "SCA", "SAST", "other"].contains(&tool.kind.as_str()),
            "{}",
            tool.name
        );
        assert!(!tool.rulesets.is_empty() && tool.results.is_empty(), "{}", tool.name);
        assert!(tool.integration.adhoc && tool.integration.ci && !tool.integration.release, "{}", tool.name);
    }
    for (documentation, known) in [
        (
            &project.documentation,
            &[
                "detailed-guide",
                "code-of-conduct",
                "quickstart-guide",
                "release-process",
                "support-policy",
                "signature-verification",
            ][..],
        ),
        (
            &repository.documentation,
            &["contributing-guide", "dependency-management-policy", "governance", "review-policy", "security-policy"],
        ),
    ] {
        let unknown: Vec<&String> = documentation.keys().filter(|key| !known.contains(&key.as_str())).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
    let mut addresses = vec![
        header.url,
        repository.url,
        repository.license.url,
        repository.release.changelog,
        reporting.security_policy.clone(),
    ];
    addresses.push(repository.security.assessments.own.evidence);
    addresses.extend(project.documentation.into_values().chain(repository.documentation.into_values()));
    addresses.extend(project.repositories.into_iter().map(|one| {
        assert_eq!(one.name, "kpull");
        one.url
    }));
    addresses.extend(repository.release.distribution_points.into_iter().map(|one| one.uri));
    addresses.extend(repository.release.attestations.into_iter().map(|one| one.location));
    for address in addresses {
        let path = address.strip_prefix("https://kpull.example/").unwrap_or_else(|| panic!("{address}"));
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(path).exists(), "{address}");
    }
}

#[test]
fn the_self_assessment_has_every_part_that_tag_security_asks_for() {
    let page = top("docs/src/development/self-assessment.md");
    let headings: Vec<&str> = page.lines().filter(|line| line.starts_with("##")).collect();
    assert_eq!(
        headings,
        [
            "## Metadata",
            "### Security links",
            "## Overview",
            "### Background",
            "### Actors",
            "### Actions",
            "### Goals",
            "### Non-goals",
            "## Self-assessment use",
            "## Security functions and features",
            "## Project compliance",
            "## Secure development practices",
            "## Security issue resolution",
            "## Appendix",
        ]
    );
}
