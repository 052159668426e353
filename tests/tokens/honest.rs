//! Tokens that must be accepted, and what the back end is told about them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tollgate::clock::Clock;

use tollgate::registry::{Actor, Expected, ResourceSpec};
use tollgate::resolve::Resolver;
use tollgate::resolve::api_key::Digester;
use tollgate::resolve::cache::Sizes;
use tollgate::resolve::pepper::Pepper;
use tollgate_core::decision::Tier;
use tollgate_core::denial::Denial;
use tollgate_core::respond::Decision;
use tollgate_core::token::PresentedToken;
use tollgate_guard::GUARD;
use tollgate_guard::stamps::Stamps;
use tollgate_guard::time::{Moment, Timestamp};
use zeroize::Zeroizing;

use crate::mint::{SigningKey, jwks};
use crate::world::{LEEWAY, NOW, World, claims, claims_with};

const ALGORITHMS: [&str; 9] = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];

#[tokio::test]
async fn every_algorithm_is_accepted_from_its_own_key() {
    let folder = tempfile::tempdir().unwrap();
    let keys = ALGORITHMS.map(|algorithm| SigningKey::generate(algorithm, algorithm));
    let world = World::with_keys(folder.path(), &jwks(&keys), &keys[8].token(&claims())).await;
    for key in &keys {
        let token = key.token(&claims());
        for tier in [Tier::Verified, Tier::Cache] {
            let bearer = format!("Bearer {token}");
            let (allowed, found) =
                world.decide("/data", &bearer, |decision| (is_allowed(decision), decision.trace().principal)).await;
            assert!(allowed, "{}", key.algorithm);
            // The last one was asked for before, to see that the keys are there.
            assert!(found == Some(tier) || key.algorithm == "EdDSA", "{}: {found:?}", key.algorithm);
        }
    }
}

#[tokio::test]
async fn what_an_honest_token_may_say_in_more_than_one_way() {
    let folder = tempfile::tempdir().unwrap();
    let key = SigningKey::generate("k", "ES256");
    let world = World::with_keys(folder.path(), &jwks([&key]), &key.token(&claims())).await;
    for changes in [
        json!({"aud": ["other", "inference"]}),
        json!({"nbf": null, "iat": null}),
        json!({"nbf": NOW + LEEWAY}),
        json!({"exp": NOW - LEEWAY + 1}),
        json!({"exp": (NOW + 60) as f64 + 0.5}),
        json!({"scope": ["run"]}),
        json!({"scope": "run"}),
        json!({"extra": {"deep": [1, 2, {"x": null}]}}),
        json!({"sub": "auth0|5f7c8ec7c33c6c004bbafe82"}),
        json!({"sub": "ada@example.com"}),
    ] {
        assert_eq!(world.denial(&key.token(&claims_with(&changes))).await, None, "{changes}");
    }
    let payload = claims().to_string();
    for header in [
        json!({"alg": "ES256", "kid": "k"}),
        json!({"alg": "ES256", "kid": "k", "typ": "at+jwt"}),
        json!({"alg": "ES256", "kid": "k", "typ": "application/AT+JWT"}),
        // The set has but one key for this algorithm.
        json!({"alg": "ES256"}),
        // Keys that a token brings along are passed over.
        json!({"alg": "ES256", "kid": "k", "jku": "https://evil.test/jwks", "x5u": "https://evil.test", "jwk": {"kty": "oct"}}),
    ] {
        assert_eq!(world.denial(&key.token_of(&header.to_string(), &payload)).await, None, "{header}");
    }
}

#[tokio::test]
async fn a_token_follows_its_project_with_the_next_request() {
    let folder = tempfile::tempdir().unwrap();
    let key = SigningKey::generate("k", "EdDSA");
    let of = |tenant: &str| key.token(&claims_with(&json!({"tenant": tenant})));
    let (acme, beta) = (of("acme"), of("beta"));
    let world = World::with_keys(folder.path(), &jwks([&key]), &acme).await;
    let (registry, operator) = (&world.core.registry, Actor::operator());
    let denials = async || {
        let both = (world.denial(&acme).await, world.denial(&beta).await);
        // One that nobody has seen before is judged alike.
        let fresh = key.token(&claims_with(&json!({"tenant": "acme", "jti": both.0.is_some()})));
        assert_eq!(world.denial(&fresh).await, both.0);
        both
    };
    let ended = Some(Denial::RevokedUnauthenticated);
    assert_eq!(denials().await, (None, None));
    registry.suspend_project(&operator, "acme", Expected::Any).await.unwrap();
    assert_eq!(denials().await, (ended, None));
    registry.resume_project(&operator, "acme", Expected::Any).await.unwrap();
    assert_eq!(denials().await, (None, None));
    registry.delete_project(&operator, "beta", Expected::Any).await.unwrap();
    assert_eq!(denials().await, (None, ended));
}

/// The resolver of a replica in a fleet, under a lease until 10,800.
fn leased(world: &World, now: &Arc<AtomicU64>) -> Resolver {
    let stamps = Arc::new(Stamps::leased(Clock::Manual(Arc::clone(now))));
    stamps.grant(Moment::from_millis(10_800));
    let digester = Arc::new(Digester::new(&Pepper::new(1, Zeroizing::new([7; 32])), &[]));
    let sizes = Sizes { known: 100, unknown: 100, loads: 10 };
    let resolver = Resolver::new(world.core.store.clone(), digester, stamps, Arc::default(), sizes, None);
    resolver.adopt(&world.policy);
    resolver
}

/// Whether the project of a token is barred, and who said so.
async fn look(resolver: &Resolver, token: &str, grace: Duration) -> (bool, Tier) {
    let (presented, begun) = (PresentedToken::parse(token).unwrap(), Instant::now());
    loop {
        match resolver.token(&presented, Timestamp::from_secs(NOW), grace).await {
            Ok(found) => return (found.value.as_ref().unwrap().revoked, found.tier()),
            // Its keys have not been read yet.
            Err(error) => assert!(begun.elapsed() < Duration::from_secs(20), "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// In a grace, too, nobody is refused by what may not be true any more.
#[tokio::test]
async fn a_project_that_was_barred_is_looked_up_again_without_a_lease() {
    let folder = tempfile::tempdir().unwrap();
    let key = SigningKey::generate("k", "EdDSA");
    let world = World::with_keys(folder.path(), &jwks([&key]), &key.token(&claims())).await;
    let (registry, operator) = (&world.core.registry, Actor::operator());
    let now = Arc::new(AtomicU64::new(10_000));
    let resolver = leased(&world, &now);
    let is_barred = async |number: u64| {
        let token = key.token(&claims_with(&json!({"jti": number.to_string()})));
        look(&resolver, &token, Duration::from_secs(30)).await.0
    };
    registry.suspend_project(&operator, "acme", Expected::Any).await.unwrap();
    assert!(is_barred(1).await);
    registry.resume_project(&operator, "acme", Expected::Any).await.unwrap();
    assert!(is_barred(2).await, "the log has not told of it, and there is a lease");
    // The lease is over, and so is what a look-up is good for by itself.
    now.store(10_800, Ordering::SeqCst);
    assert!(!is_barred(3).await);
}

#[tokio::test]
async fn what_is_remembered_of_a_token_is_as_old_as_what_was_found_of_its_project() {
    let folder = tempfile::tempdir().unwrap();
    let key = SigningKey::generate("k", "EdDSA");
    let world = World::with_keys(folder.path(), &jwks([&key]), &key.token(&claims())).await;
    let now = Arc::new(AtomicU64::new(10_799));
    let resolver = leased(&world, &now);
    let [first, second] = ["first", "second"].map(|id| key.token(&claims_with(&json!({"jti": id}))));
    let look = async |token: &str| look(&resolver, token, Duration::ZERO).await;
    assert_eq!(look(&first).await, (false, Tier::Verified));
    // The log has not told of it.
    world.core.registry.suspend_project(&Actor::operator(), "acme", Expected::Any).await.unwrap();
    // The lease is over; what was found is good by itself for one more millisecond.
    let good_until = 10_799 + u64::try_from(GUARD.as_millis()).unwrap();
    now.store(good_until - 1, Ordering::SeqCst);
    assert_eq!(look(&second).await, (false, Tier::Verified), "by the project as it was found with the first one");
    assert_eq!(look(&second).await, (false, Tier::Cache));
    now.store(good_until, Ordering::SeqCst);
    assert_eq!(look(&first).await, (true, Tier::Verified));
    assert_eq!(look(&second).await, (true, Tier::Verified), "what was found late");
}

#[tokio::test]
async fn a_token_ends_in_the_cache_too() {
    let folder = tempfile::tempdir().unwrap();
    let key = SigningKey::generate("k", "EdDSA");
    let token = key.token(&claims_with(&json!({"exp": NOW + 60})));
    let world = World::with_keys(folder.path(), &jwks([&key]), &token).await;
    world.set_now(NOW + 60 + LEEWAY - 1);
    assert_eq!(world.denial(&token).await, None);
    world.set_now(NOW + 60 + LEEWAY);
    assert_eq!(world.denial(&token).await, Some(Denial::Expired));
}

#[tokio::test]
async fn claims_become_who_it_is_and_what_they_may() {
    let folder = tempfile::tempdir().unwrap();
    let key = SigningKey::generate("k", "EdDSA");
    let file = folder.path().join("jwks.json");
    std::fs::write(&file, jwks([&key]).to_string()).unwrap();
    let world = World::of(&format!(
        "issuers:
  - name: sso
    issuer: https://sso.example.com/realms/inference
    audience: [tollgate]
    jwks: {{file: {}}}
    plane: data
    subject: \"{{user.id}}\"
    project: \"{{/https:~1~1example.com~1tenant}}\"
    unknown_projects: allow
    workloads: [\"{{workloads}}\", shared]
    permissions: [read, \"{{scope}}\"]
    role_claim: \"{{realm_access.roles}}\"
    roles: {{runner: [run], tuner: [tune, run]}}
",
        file.display()
    ));
    let good = claims_with(&json!({
        "user": {"id": "u-1"}, "https://example.com/tenant": "beta", "workloads": ["chat"],
        "scope": null, "realm_access": {"roles": ["tuner", "unknown", "offline_access"]},
    }));
    // Of its workloads, not of the whole project: the route wants the project.
    world.wait_for(&key.token(&good), Some(Denial::WorkloadOutOfScope)).await;
    let with = |changes: &Value| {
        let mut claims = good.clone();
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        key.token(&claims)
    };
    for (changes, denial) in [
        (json!({"realm_access": {"roles": []}}), Denial::PermissionMissing),
        (json!({"realm_access": "tuner"}), Denial::PermissionMissing),
        (json!({"realm_access": {"roles": [1]}}), Denial::TokenClaims),
        (json!({"realm_access": {"roles": {"tuner": true}}}), Denial::TokenClaims),
        (json!({"user": "u-1"}), Denial::TokenClaims),
        (json!({"user": {"id": ["u-1"]}}), Denial::TokenClaims),
        (json!({"user": {"id": ""}}), Denial::TokenClaims),
        (json!({"user": {"id": "u 1"}}), Denial::TokenClaims),
        (json!({"user": {"id": "u,1"}}), Denial::TokenClaims),
        (json!({"user": {"id": "ü"}}), Denial::TokenClaims),
        (json!({"https://example.com/tenant": "*"}), Denial::TokenClaims),
        (json!({"https://example.com/tenant": ["beta"]}), Denial::TokenClaims),
        (json!({"https://example.com/tenant": "a/b"}), Denial::TokenClaims),
        (json!({"https://example.com/tenant": ""}), Denial::TokenClaims),
        (json!({"workloads": ["chat", "*"]}), Denial::TokenClaims),
        (json!({"workloads": "*"}), Denial::TokenClaims),
        (json!({"workloads": ["*"]}), Denial::TokenClaims),
        (json!({"workloads": ["a,b"]}), Denial::TokenClaims),
    ] {
        assert_eq!(world.denial(&with(&changes)).await, Some(denial), "{changes}");
    }
}

#[tokio::test]
async fn the_back_end_is_told_who_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let key = SigningKey::generate("k", "EdDSA");
    let token = key.token(&claims());
    let world = World::with_keys(folder.path(), &jwks([&key]), &token).await;
    let bearer = format!("Bearer {token}");
    let (set, removed) = world
        .decide("/data", &bearer, |decision| match decision {
            Decision::Allow(allow) => {
                let set: Vec<(String, String)> =
                    allow.headers_to_set().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
                (set, allow.headers_to_remove().map(str::to_owned).collect::<Vec<_>>())
            }
            Decision::Deny(deny) => panic!("{:?}", deny.denial),
        })
        .await;
    let told = |name: &str| set.iter().find(|(known, _)| known == name).map(|(_, value)| &**value);
    assert_eq!(told("x-tollgate-subject"), Some("sso:ada"));
    // Over the `iss` and the `sub`, whatever the issuer is called here.
    assert_eq!(told("x-tollgate-user-id"), Some("84484dacb2fc14bf9fc82e48b065a7eb"));
    assert_eq!(told("x-tollgate-project"), Some("acme"));
    assert_eq!(told("x-tollgate-plane"), Some("data"));
    // What is not declared means nothing.
    assert_eq!(told("x-tollgate-permissions"), Some("read,run"));
    assert_eq!(told("x-tollgate-key-id"), None);
    for name in ["authorization", "x-api-key", "x-tollgate-key-id"] {
        assert!(removed.iter().any(|removed| removed == name), "{name}");
    }
}

#[tokio::test]
async fn a_token_reaches_its_plane_and_the_routes_that_take_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let key = SigningKey::generate("k", "EdDSA");
    let token = key.token(&claims_with(&json!({"scope": "run manage_keys"})));
    let world = World::with_keys(folder.path(), &jwks([&key]), &token).await;
    assert_eq!(world.denial_at("/admin", &token).await, Some(Denial::WrongPlane));
    assert_eq!(world.denial_at("/keys", &token).await, Some(Denial::CredentialKind));
    // An issuer without a plane reaches nothing.
    let file = folder.path().join("jwks.json");
    let unplaced = World::of(&format!(
        "issuers:
  - {{name: sso, issuer: {}, audience: [tollgate], jwks: {{file: {}}}, project: acme, workloads: [\"*\"]}}
",
        crate::world::ISSUER,
        file.display()
    ));
    unplaced.wait_for(&token, Some(Denial::WrongPlane)).await;
    assert_eq!(unplaced.denial_at("/admin", &token).await, Some(Denial::WrongPlane));
}

#[tokio::test]
async fn a_token_for_a_project_without_a_record_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let key = SigningKey::generate("k", "EdDSA");
    let file = folder.path().join("jwks.json");
    std::fs::write(&file, jwks([&key]).to_string()).unwrap();
    let issuer = |project: &str, said: &str| {
        World::of(&format!(
            "issuers:
  - {{name: sso, issuer: {}, audience: [tollgate], jwks: {{file: {}}}, plane: data, project: \"{project}\",
     workloads: [\"*\"], permissions: [\"{{scope}}\"]{said}}}
",
            crate::world::ISSUER,
            file.display()
        ))
    };
    let token = key.token(&claims());
    let operator = Actor::operator();
    for project in ["{tenant}", "acme"] {
        let open = issuer(project, ", unknown_projects: allow");
        open.wait_for(&token, None).await;
        for said in ["", ", unknown_projects: refuse"] {
            let world = issuer(project, said);
            world.wait_for(&token, Some(Denial::RevokedUnauthenticated)).await;
            // From the next request on, whatever makes the record.
            if said.is_empty() {
                world.core.registry.create_project(&operator, "acme", None).await.unwrap();
            } else {
                let [kind, id, project] = ["run", "r-1", "acme"].map(str::to_owned);
                let spec = ResourceSpec { kind, id, project, slug: None, owner: None };
                world.core.registry.put_resource(&operator, spec, false, Expected::Any).await.unwrap();
            }
            assert_eq!(world.denial(&token).await, None, "{project}{said}");
            world.core.registry.suspend_project(&operator, "acme", Expected::Any).await.unwrap();
            assert_eq!(world.denial(&token).await, Some(Denial::RevokedUnauthenticated));
        }
    }
}

#[tokio::test]
async fn no_token_makes_itself_an_administrator() {
    let folder = tempfile::tempdir().unwrap();
    let key = SigningKey::generate("k", "EdDSA");
    let file = folder.path().join("jwks.json");
    std::fs::write(&file, jwks([&key]).to_string()).unwrap();
    let issuer = |permissions: &str| {
        World::of(&format!(
            "issuers:
  - {{name: sso, issuer: {}, audience: [tollgate], jwks: {{file: {}}}, plane: admin, project: \"*\",
     workloads: [\"*\"], {permissions}}}
",
            crate::world::ISSUER,
            file.display()
        ))
    };
    let token = key.token(&claims_with(&json!({"scope": "manage_keys manage_users run", "roles": ["boss"]})));
    let of_scope = issuer("permissions: [\"{scope}\"]");
    of_scope.wait_for(&token, Some(Denial::WrongPlane)).await;
    assert_eq!(of_scope.denial_at("/admin", &token).await, Some(Denial::PermissionMissing));
    // The operator may, by name or by role.
    for given in ["permissions: [manage_keys]", "role_claim: \"{roles}\", roles: {boss: [manage_keys]}"] {
        let world = issuer(given);
        world.wait_for(&token, Some(Denial::WrongPlane)).await;
        assert_eq!(world.denial_at("/admin", &token).await, None, "{given}");
    }
}

#[tokio::test]
async fn an_address_of_a_person_reaches_the_back_end_and_no_log() {
    let folder = tempfile::tempdir().unwrap();
    let key = SigningKey::generate("k", "EdDSA");
    let token = key.token(&claims_with(&json!({"sub": "ada@example.com"})));
    let world = World::with_keys(folder.path(), &jwks([&key]), &token).await;
    let (told, logged) = world
        .decide("/data", &format!("Bearer {token}"), |decision| match decision {
            Decision::Allow(allow) => {
                let told = allow.headers_to_set().find(|(name, _)| *name == "x-tollgate-subject");
                let logged = allow.metadata().find(|(name, _)| *name == "subject");
                (told.unwrap().1.to_owned(), logged.unwrap().1.to_owned())
            }
            Decision::Deny(deny) => panic!("{:?}", deny.denial),
        })
        .await;
    assert_eq!(told, "sso:ada@example.com");
    assert!(logged.starts_with("sso:#") && logged.len() == "sso:#".len() + 16, "{logged}");
}

fn is_allowed(decision: &Decision<'_>) -> bool {
    matches!(decision, Decision::Allow(_))
}
