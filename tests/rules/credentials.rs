//! From headers to the one credential: what is missing, ambiguous, unreadable or malformed.

use tollgate::domain::record::ApiKey;
use tollgate_core::denial::Denial;

use crate::world::{HEAD, NOW, Request, compiled, decide, holder, mint, policy};

/// The request with these headers, answered for a caller whom the store knows.
fn answer(headers: &[(&str, &str)]) -> Option<Denial> {
    let request =
        headers.iter().fold(Request::new("POST", "/data"), |request, (name, value)| request.with(name, value));
    decide(policy(), &request, Some(&holder("data", &["run"])), None, NOW).denial()
}

#[test]
fn where_a_key_is_found() {
    let minted = mint("ik_live", 1);
    let key = minted.expose();
    for headers in [
        [("authorization", format!("Bearer {key}"))],
        [("authorization", format!("bearer {key}"))],
        [("authorization", format!("BEARER {key}"))],
        [("authorization", format!("Bearer    {key}"))],
        [("authorization", format!("  Bearer {key}  "))],
        [("Authorization", format!("Bearer {key}"))],
        [("x-api-key", key.to_owned())],
        [("x-api-key", format!(" {key} "))],
    ] {
        let headers = headers.each_ref().map(|(name, value)| (*name, &**value));
        assert_eq!(answer(&headers), None, "{headers:?}");
    }
    assert_eq!(answer(&[("authorization", ""), ("x-api-key", key)]), None);
    assert_eq!(answer(&[("authorization", " \t"), ("x-api-key", key)]), None);
}

#[test]
fn what_is_no_credential() {
    let minted = mint("ik_live", 1);
    let key = minted.expose();
    let bearer = format!("Bearer {key}");
    let other = format!("Bearer {}", mint("ik_live", 2).expose());
    let cut = &key[..key.len() - 1];
    let swapped = key.replace("ik_live", "ik_sdk");
    let rows: Vec<(Vec<(&str, String)>, Denial)> = vec![
        (vec![], Denial::CredentialMissing),
        (vec![("authorization", String::new())], Denial::CredentialMissing),
        (vec![("x-api-key", "   ".to_owned())], Denial::CredentialMissing),
        (vec![("authorization", format!("Basic {key}"))], Denial::CredentialMissing),
        (vec![("authorization", key.to_owned())], Denial::CredentialMissing),
        (vec![("authorization", format!("Bearer{key}"))], Denial::CredentialMissing),
        (vec![("x_api_key", key.to_owned())], Denial::CredentialMissing),
        (vec![("cookie", key.to_owned())], Denial::CredentialMissing),
        (vec![("authorization", "Bearer".to_owned())], Denial::CredentialMalformed),
        (vec![("authorization", "Bearer ".to_owned())], Denial::CredentialMalformed),
        (vec![("authorization", format!("Bearer {key} x"))], Denial::CredentialMalformed),
        (vec![("authorization", format!("Bearer Bearer {key}"))], Denial::CredentialMalformed),
        (vec![("authorization", format!("Bearer {cut}"))], Denial::CredentialMalformed),
        (vec![("authorization", format!("Bearer {key}0"))], Denial::CredentialMalformed),
        (vec![("authorization", format!("Bearer {swapped}"))], Denial::CredentialMalformed),
        (vec![("authorization", format!("Bearer {}", key.to_uppercase()))], Denial::CredentialMalformed),
        (vec![("authorization", "Bearer eyJhbGciOiJub25lIn0.e30.".to_owned())], Denial::CredentialMalformed),
        (vec![("x-api-key", bearer.clone())], Denial::CredentialMalformed),
        (vec![("x-api-key", mint("other", 1).expose().to_owned())], Denial::CredentialMalformed),
        (vec![("authorization", bearer.clone()), ("x-api-key", key.to_owned())], Denial::CredentialAmbiguous),
        (vec![("authorization", format!("Basic {key}")), ("x-api-key", key.to_owned())], Denial::CredentialAmbiguous),
        (vec![("authorization", bearer.clone()), ("authorization", other.clone())], Denial::CredentialAmbiguous),
        (vec![("authorization", bearer.clone()), ("authorization", bearer.clone())], Denial::CredentialAmbiguous),
        (vec![("x-api-key", key.to_owned()), ("X-Api-Key", key.to_owned())], Denial::CredentialAmbiguous),
        (vec![("authorization", format!("{bearer},{other}"))], Denial::CredentialAmbiguous),
        (vec![("authorization", format!("{bearer},"))], Denial::CredentialAmbiguous),
        (vec![("authorization", format!(",{bearer}"))], Denial::CredentialAmbiguous),
        (vec![("x-api-key", format!("{key},{key}"))], Denial::CredentialAmbiguous),
        (vec![("authorization", format!("Bearer\t{key}"))], Denial::CredentialUnreadable),
        (vec![("authorization", format!("Bearer {key}\u{0}"))], Denial::CredentialUnreadable),
        (vec![("authorization", format!("Bearer {key}é"))], Denial::CredentialUnreadable),
    ];
    for (headers, denial) in rows {
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, &**value)).collect();
        assert_eq!(answer(&headers), Some(denial), "{headers:?}");
    }
}

#[test]
fn bytes_that_are_no_text() {
    let request = Request::new("POST", "/data").with("x-api-key", [b'i', 0xff, 0xfe]);
    let denial = decide(policy(), &request, None, None, NOW).denial();
    assert_eq!(denial, Some(Denial::CredentialUnreadable));
}

#[test]
fn every_plane_on_every_other() {
    let (planes, policy) = ([("data", "ik_live"), ("control", "ik_sdk"), ("admin", "ik_adm")], policy());
    for (route, _) in planes {
        for (plane, prefix) in planes {
            let request = Request::new("POST", &format!("/{route}")).bearing(prefix);
            // As a caller who may do everything, and as one whom the store does not know: the plane comes first.
            let holder = holder(plane, &["manage_keys", "run", "write"]);
            for holder in [Some(&holder), None] {
                let denial = decide(policy, &request, holder, None, NOW).denial();
                let expected = match (route == plane, holder) {
                    (false, _) => Some(Denial::WrongPlane),
                    (true, None) => Some(Denial::CredentialUnknown),
                    (true, Some(_)) => None,
                };
                assert_eq!(denial, expected, "a key of {plane} on a route of {route}");
            }
        }
        // A record that says another plane than the prefix it was found by.
        for (plane, _) in planes.into_iter().filter(|(plane, _)| *plane != route) {
            let prefix = planes.into_iter().find(|(name, _)| *name == route).unwrap().1;
            let request = Request::new("POST", &format!("/{route}")).bearing(prefix);
            let holder = holder(plane, &["manage_keys", "run", "write"]);
            assert_eq!(decide(policy, &request, Some(&holder), None, NOW).denial(), Some(Denial::WrongPlane));
        }
    }
}

#[test]
fn the_wrong_plane_wins_over_revoked() {
    let mut holder = holder("control", &["write"]);
    holder.revoked_at = Some(NOW);
    let request = Request::new("POST", "/data").bearing("ik_sdk");
    assert_eq!(decide(policy(), &request, Some(&holder), None, NOW).denial(), Some(Denial::WrongPlane));
}

#[test]
fn a_prefix_that_begins_another_takes_nothing_from_it() {
    let text = format!(
        "{HEAD}
planes: {{data: {{prefix: ik_live}}, control: {{prefix: ik_live2}}, admin: {{prefix: ik_adm, admin: true}}}}
hosts: [{{match: ['*'], routes: [
  {{name: one, match: [POST /one], plane: data, all_of: [run], in: {{project: key}}}},
  {{name: two, match: [POST /two], plane: control, all_of: [run], in: {{project: key}}}}]}}]
"
    );
    let policy = compiled(&text);
    for (path, prefix, plane) in [("/one", "ik_live", "data"), ("/two", "ik_live2", "control")] {
        let request = Request::new("POST", path).bearing(prefix);
        assert_eq!(decide(&policy, &request, Some(&holder(plane, &["run"])), None, NOW).denial(), None, "{path}");
    }
}

#[test]
fn a_header_takes_its_own_kinds_alone() {
    let policy = compiled(&format!(
        "{HEAD}
credentials: [{{header: authorization, scheme: Bearer, kinds: [jwt]}}, {{header: x-api-key}}]
issuers: [{{name: sso, issuer: https://sso.test, audience: [x], jwks: {{file: keys.json}}, project: acme, workloads: []}}]
hosts:
  - match: [api.test]
    routes: [{{name: data, match: [POST /data], plane: data, all_of: [run], in: {{project: key}}, credentials: [api_key, jwt]}}]
"
    ));
    let (minted, holder) = (mint("ik_live", 1), holder("data", &["run"]));
    let (key, token) = (minted.expose(), "eyJhbGciOiJFUzI1NiJ9.e30.c2ln");
    for (header, value, denial) in [
        ("x-api-key", key.to_owned(), None),
        ("authorization", format!("Bearer {token}"), None),
        ("authorization", format!("Bearer {key}"), Some(Denial::CredentialMalformed)),
        ("x-api-key", token.to_owned(), Some(Denial::CredentialMalformed)),
    ] {
        let request = Request::new("POST", "/data").with(header, &value);
        assert_eq!(decide(&policy, &request, Some(&holder), None, NOW).denial(), denial, "{header}: {value}");
    }
}

#[test]
fn every_project_is_reached_on_an_admin_plane_alone() {
    for (plane, prefix, denial) in [("data", "ik_live", Some(Denial::ProjectOutOfScope)), ("admin", "ik_adm", None)] {
        let holder = ApiKey { project: "*".to_owned(), ..holder(plane, &["run", "manage_keys"]) };
        let request = Request::new("POST", &format!("/{plane}")).bearing(prefix);
        assert_eq!(decide(policy(), &request, Some(&holder), None, NOW).denial(), denial, "{plane}");
    }
}

#[test]
fn a_host_label_in_another_case_is_no_name() {
    for (host, denial) in [("ACME.tenants.test", Some(Denial::ProjectOutOfScope)), ("acme.tenants.test", None)] {
        let project = host.split('.').next().unwrap().to_owned();
        let holder = ApiKey { project, ..holder("data", &["run"]) };
        let request = Request::new("POST", "/data").on(host).bearing("ik_live");
        assert_eq!(decide(policy(), &request, Some(&holder), None, NOW).denial(), denial, "{host}");
    }
}

#[test]
fn browsers_only_where_the_route_takes_them() {
    let (policy, holder) = (policy(), holder("data", &["run"]));
    for origin in ["https://evil.test", "null", ""] {
        let on = |path: &str| Request::new("POST", path).bearing("ik_live").with("origin", origin);
        let denial = |path: &str| decide(policy, &on(path), Some(&holder), None, NOW).denial();
        assert_eq!(denial("/data"), Some(Denial::BrowserOrigin), "{origin:?}");
        assert_eq!(denial("/browser"), None);
    }
}

#[test]
fn a_public_route_reads_no_credential() {
    let policy = policy();
    for value in ["", "Bearer", "Bearer a,b", "\u{1}"] {
        let request = Request::new("GET", "/open").with("authorization", value).with("x-api-key", "x");
        let answer = decide(policy, &request, None, None, NOW);
        assert_eq!(answer.denial(), None);
        assert!(answer.removes("authorization") && answer.removes("x-api-key"));
    }
}
