//! Issuers and login in the configuration: what a good one compiles to, and every way to get one wrong.

use std::time::Duration;

use tollgate::config::{self, Problem};
use tollgate_core::denial::Denial;
use tollgate_core::extract::Kinds;
use tollgate_core::issuer::{Algorithm, KeySource};

use crate::world::HEAD;

const GOOD: &str = r#"
credentials:
  - {header: authorization, scheme: Bearer, kinds: [api_key, jwt]}
  - {header: x-api-key}
issuers:
  - name: sso
    issuer: https://sso.example.com
    audience: [tollgate]
    jwks: {url: "https://sso.example.com/jwks.json"}
    plane: data
    leeway_seconds: 10
    subject: "{sub}"
    project: "{tenant}"
    workloads: ["*"]
    permissions: ["{scope}", run]
    role_claim: "{realm.roles}"
    roles: {runner: [run]}
  - {name: other, issuer: https://other.example.com, audience: [x], jwks: {file: keys.json}, project: acme, workloads: []}
login: {issuer: "https://tollgate.example.com", plane: admin, lifetime_seconds: 600}
hosts:
  - match: [api.test]
    routes:
      - {name: data, match: [POST /data], plane: data, all_of: [run], in: {project: key}, credentials: [jwt]}
"#;

fn problems(text: &str) -> Vec<Problem> {
    config::parse(&format!("{HEAD}{text}")).err().map(|found| found.problems().to_vec()).unwrap_or_default()
}

#[test]
fn a_good_one_is_what_it_says() {
    let policy = config::parse(&format!("{HEAD}{GOOD}")).unwrap().policy;
    assert_eq!(policy.credentials[0].kinds, Kinds::ALL);
    assert_eq!(policy.credentials[1].kinds, Kinds { api_key: true, jwt: false });
    let [sso, other] = &policy.issuers[..] else { panic!("{:?}", policy.issuers) };
    assert_eq!((&*sso.name, &*sso.issuer, sso.plane.as_deref()), ("sso", "https://sso.example.com", Some("data")));
    assert_eq!((sso.leeway, other.leeway), (Duration::from_secs(10), Duration::from_secs(5)));
    assert_eq!(sso.keys, KeySource::Url { url: "https://sso.example.com/jwks.json".into(), ca: None });
    assert_eq!(other.keys, KeySource::File("keys.json".into()));
    let usual = [Algorithm::Rs256, Algorithm::Ps256, Algorithm::Es256, Algorithm::Es384, Algorithm::EdDsa];
    assert_eq!(sso.algorithms, usual);
    assert_eq!(other.plane, None);
    let login = policy.login.unwrap();
    assert_eq!((&*login.issuer, &*login.plane), ("https://tollgate.example.com", "admin"));
    assert_eq!(login.lifetime, Duration::from_secs(600));
}

#[test]
fn a_token_reaches_every_workload_only_if_the_configuration_says_so() {
    let granted = |from: &str, said: serde_json::Value| {
        let text = GOOD.replace("workloads: [\"*\"]", from);
        let policy = config::parse(&format!("{HEAD}{text}")).unwrap_or_else(|problems| panic!("{problems}")).policy;
        let claims = serde_json::json!({"sub": "ada", "tenant": "acme", "workloads": said});
        policy.issuers[0].grant(claims.as_object().unwrap()).map(|granted| granted.subject)
    };
    let claimed = "workloads: [\"{workloads}\"]";
    for said in [serde_json::json!("*"), serde_json::json!(["*"])] {
        assert_eq!(granted(claimed, said.clone()), Err(Denial::TokenClaims));
        assert!(granted("workloads: [\"*\"]", said).is_ok());
    }
    assert!(granted(claimed, serde_json::json!(["chat"])).is_ok());
}

/// What is replaced, by what, the path of the problem, and a part of what is said.
type Row = (&'static str, &'static str, &'static str, &'static str);

#[test]
fn each_mistake_is_told_where_it_is() {
    let rows: &[Row] = &[
        ("kinds: [api_key, jwt]", "kinds: [api_key]", "issuers", "no header of `credentials` takes a `jwt`"),
        ("kinds: [api_key, jwt]", "kinds: []", "credentials[0].kinds", "needs at least 1 entry"),
        ("kinds: [api_key, jwt]", "kinds: [api_key, jws]", "credentials[0].kinds[1]", "did you mean `jwt`?"),
        ("credentials: [jwt]", "credentials: []", "hosts[0].routes[0].credentials", "needs at least 1 entry"),
        ("name: sso", "name: key", "issuers[0].name", "begins the subjects of other callers"),
        ("name: sso", "name: user", "issuers[0].name", "begins the subjects of other callers"),
        ("name: sso", "name: \"s:o\"", "issuers[0].name", "the name of an issuer is"),
        ("name: other", "name: sso", "issuers[1].name", "is the name of another issuer already"),
        ("https://other.example.com", "https://sso.example.com", "issuers[1].issuer", "is that of another issuer"),
        ("https://other.example.com", "https://tollgate.example.com", "issuers[1].issuer", "is that of `login`"),
        ("issuer: https://sso.example.com", "issuer: \"\"", "issuers[0].issuer", "must not be empty"),
        ("audience: [x]", "audience: []", "issuers[1].audience", "needs at least 1 entry"),
        ("audience: [x]", "audience: [\"\"]", "issuers[1].audience[0]", "must not be empty"),
        ("https://sso.example.com/jwks.json", "http://sso.example.com/jwks.json", "issuers[0].jwks.url", "in clear"),
        ("https://sso.example.com/jwks.json", "ftp://sso.example.com", "issuers[0].jwks.url", "must be an https URL"),
        ("https://sso.example.com/jwks.json", "/jwks.json", "issuers[0].jwks.url", "must be an https URL"),
        ("https://sso.example.com/jwks.json", "https://u:p@sso.example.com", "issuers[0].jwks.url", "must be an https"),
        ("jwks: {file: keys.json}", "jwks: {}", "issuers[1].jwks", "must have one of `url` and `file`"),
        ("jwks: {file: keys.json}", "jwks: {file: k, url: \"https://a.test\"}", "issuers[1].jwks", "only one of"),
        ("jwks: {file: keys.json}", "jwks: {file: \"\"}", "issuers[1].jwks.file", "must not be empty"),
        ("jwks: {file: keys.json}", "jwks: {file: k, ca: c}", "issuers[1].jwks.ca", "only with `url`"),
        ("plane: data\n    leeway", "plane: dta\n    leeway", "issuers[0].plane", "did you mean `data`?"),
        ("leeway_seconds: 10", "leeway_seconds: 301", "issuers[0].leeway_seconds", "must be at most 300"),
        ("leeway_seconds: 10", "algorithms: [HS256]", "issuers[0].algorithms[0]", "`HS256` is not possible"),
        ("leeway_seconds: 10", "algorithms: [none]", "issuers[0].algorithms[0]", "it may be: RS256"),
        ("leeway_seconds: 10", "algorithms: []", "issuers[0].algorithms", "needs at least 1 entry"),
        ("subject: \"{sub}\"", "subject: ada", "issuers[0].subject", "must be a claim in braces"),
        ("subject: \"{sub}\"", "subject: \"{a..b}\"", "issuers[0].subject", "must be a claim in braces"),
        ("project: \"{tenant}\"", "project: \"*\"", "issuers[0].project", "only on an admin plane"),
        ("project: \"{tenant}\"", "project: \"a/b\"", "issuers[0].project", "is neither a claim"),
        ("project: \"{tenant}\"", "project: \"{tenant\"", "issuers[0].project", "must be a claim in braces"),
        ("workloads: [\"*\"]", "workloads: [\"*\", chat]", "issuers[0].workloads", "`*` must stand alone"),
        ("[\"{scope}\", run]", "[\"{scope}\", runn]", "issuers[0].permissions[1]", "did you mean `run`?"),
        ("[\"{scope}\", run]", "[manage_keys]", "issuers[0].permissions[0]", "only on planes marked `admin: true`"),
        ("roles: {runner: [run]}", "roles: {runner: [rum]}", "issuers[0].roles.runner[0]", "did you mean `run`?"),
        ("    roles: {runner: [run]}\n", "", "issuers[0].roles", "go together"),
        ("    role_claim: \"{realm.roles}\"\n", "", "issuers[0].roles", "go together"),
        ("plane: admin", "plane: admn", "login.plane", "did you mean `admin`?"),
        ("\"https://tollgate.example.com\"", "tollgate", "login.issuer", "must be a URL"),
        ("lifetime_seconds: 600", "lifetime_seconds: 59", "login.lifetime_seconds", "must be at least 60"),
        ("lifetime_seconds: 600", "lifetime_seconds: 86401", "login.lifetime_seconds", "must be at most 86400"),
    ];
    let mut wrong = Vec::new();
    for (from, to, path, phrase) in rows {
        assert_eq!(GOOD.matches(from).count(), 1, "`{from}` must stand once");
        let found = problems(&GOOD.replacen(from, to, 1));
        if !found.iter().any(|one| one.path == *path && one.to_string().contains(phrase)) {
            wrong.push(format!("`{to}`: {path}: ... {phrase} ... expected, found {found:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn without_issuers_nobody_is_told_to_send_a_token() {
    let hosts = "hosts: []";
    let policy = config::parse(&format!("{HEAD}{hosts}")).unwrap().policy;
    assert!(policy.credentials.iter().all(|source| source.kinds.api_key && !source.kinds.jwt));
    let with_login = format!("{HEAD}login: {{issuer: \"https://a.test\", plane: admin}}\n{hosts}");
    let policy = config::parse(&with_login).unwrap().policy;
    let kinds: Vec<bool> = policy.credentials.iter().map(|source| source.kinds.jwt).collect();
    assert_eq!(kinds, [true, false]);
}
