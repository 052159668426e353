//! The keys of an issuer, followed: rotated, down, hostile, and asked about by a crowd. The clock of the waits is tokio's, and
//! stands still unless a test moves it.

use std::time::Duration;

use serde_json::json;
use tollgate::registry::{Actor, RegistryError};
use tollgate_core::decision::Tier;
use tollgate_core::denial::Denial;

use crate::idp::{Answer, Idp};
use crate::mint::{SigningKey, jwks};
use crate::world::{World, claims};

async fn world_of(idp: &Idp) -> World {
    World::new(&format!("{{url: \"{}\"}}", idp.url()), "")
}

#[tokio::test]
async fn a_crowd_with_unknown_keys_is_one_fetch_each_half_minute() {
    let key = SigningKey::generate("known", "EdDSA");
    let idp = Idp::start(Answer::Keys(jwks([&key]))).await;
    let world = world_of(&idp).await;
    let honest = key.token(&claims());
    world.wait_for(&honest, None).await;
    let before = idp.fetches();

    let began = std::time::Instant::now();
    let stranger = SigningKey::generate("x", "EdDSA");
    let payload = claims().to_string();
    let mut answers = std::collections::HashMap::new();
    for n in 0..100_000 {
        let header = json!({"alg": "EdDSA", "kid": format!("unknown-{n}")}).to_string();
        // The signature is not even looked at: there is no such key.
        let token = if n % 1000 == 0 { stranger.token_of(&header, &payload) } else { unsigned(&header, &payload) };
        *answers.entry(world.denial(&token).await).or_insert(0) += 1;
        if n % 10_000 == 0 {
            assert_eq!(world.denial(&honest).await, None);
        }
    }
    assert_eq!(answers.get(&None), None);
    assert_eq!(answers.get(&Some(Denial::TokenKey)), Some(&100_000), "{answers:?}");
    let most = 1 + usize::try_from(began.elapsed().as_secs() / 30).unwrap();
    let fetches = idp.fetches() - before;
    assert!(fetches <= most, "{fetches} fetches, at most {most}");
    println!("100,000 unknown keys: {fetches} fetches in {:?}", began.elapsed());
}

#[tokio::test]
async fn a_new_key_is_accepted_at_its_first_use() {
    let (old, new) = (SigningKey::generate("old", "ES256"), SigningKey::generate("new", "ES256"));
    let idp = Idp::start(Answer::Keys(jwks([&old]))).await;
    let world = world_of(&idp).await;
    world.wait_for(&old.token(&claims()), None).await;
    idp.answer_with(Answer::Keys(jwks([&old, &new])));
    assert_eq!(world.denial(&new.token(&claims())).await, None, "at its first use");
    // A third one, when the turn of half a minute is taken: unknown until the next turn.
    let third = SigningKey::generate("third", "ES256");
    idp.answer_with(Answer::Keys(jwks([&new, &third])));
    assert_eq!(world.denial(&third.token(&claims())).await, Some(Denial::TokenKey));
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    tokio::time::resume();
    assert_eq!(world.denial(&third.token(&claims())).await, None, "after half a minute");
    // The old key is gone, and a new token of it with it.
    let late = old.token(&json!({"jti": "late", "iss": crate::world::ISSUER, "aud": "tollgate", "sub": "a", "exp": 1_796_000_000u64, "tenant": "acme", "scope": "run"}));
    assert_eq!(world.denial(&late).await, Some(Denial::TokenKey));
}

#[tokio::test]
async fn an_issuer_that_is_down_keeps_its_known_keys_and_makes_unknown_ones_503() {
    let (known, unknown) = (SigningKey::generate("known", "EdDSA"), SigningKey::generate("unknown", "EdDSA"));
    for down in [
        Answer::Status(500),
        Answer::Status(404),
        Answer::Text("<html>".to_owned()),
        Answer::Text(r#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#.to_owned()),
        Answer::Text(format!("{{\"keys\":[], \"x\":\"{}\"}}", "x".repeat(300_000))),
        Answer::Silence,
    ] {
        let idp = Idp::start(Answer::Keys(jwks([&known]))).await;
        let world = world_of(&idp).await;
        world.wait_for(&known.token(&claims()), None).await;
        idp.answer_with(down.clone());
        for _ in 0..3 {
            assert_eq!(world.denial(&unknown.token(&claims())).await, Some(Denial::Unavailable), "{down:?}");
            let fresh = known.token(&json!({"iss": crate::world::ISSUER, "aud": "tollgate", "sub": "b", "exp": 1_796_000_000u64, "tenant": "acme", "scope": "run"}));
            assert_eq!(world.denial(&fresh).await, None, "{down:?}");
        }
    }
}

#[tokio::test]
async fn a_token_does_not_outlive_the_key_that_signed_it() {
    let (kept, stolen) = (SigningKey::generate("kept", "EdDSA"), SigningKey::generate("stolen", "ES256"));
    // The key is taken away, another one stands under its name, or there is none at all any more.
    let impostor = SigningKey::generate("stolen", "ES256");
    for (after, denial) in [
        (jwks([&kept]), Denial::TokenKey),
        (jwks([&kept, &impostor]), Denial::TokenSignature),
        (json!({"keys": []}), Denial::TokenKey),
    ] {
        let idp = Idp::start(Answer::Keys(jwks([&kept, &stolen]))).await;
        let world = world_of(&idp).await;
        let (good, bad) = (kept.token(&claims()), stolen.token(&claims()));
        world.wait_for(&bad, None).await;
        assert_eq!((world.denial(&good).await, world.denial(&bad).await), (None, None));
        idp.answer_with(Answer::Keys(after.clone()));
        // Somebody's unknown key has the set fetched anew.
        let stranger = SigningKey::generate("unknown", "EdDSA");
        assert_eq!(world.denial(&stranger.token(&claims())).await, Some(Denial::TokenKey));
        assert_eq!(world.denial(&bad).await, Some(denial), "{after}");
        let is_kept = after["keys"].as_array().is_some_and(|keys| !keys.is_empty());
        assert_eq!(world.denial(&good).await, (!is_kept).then_some(Denial::TokenKey));
    }
}

#[tokio::test]
async fn the_age_of_a_key_set_grows_until_it_is_fetched_again() {
    let key = SigningKey::generate("k", "EdDSA");
    let idp = Idp::start(Answer::Status(500)).await;
    let world = world_of(&idp).await;
    assert_eq!(world.denial(&key.token(&claims())).await, Some(Denial::Unavailable));
    assert_eq!(world.core.resolver.issuer_key_ages(), [], "there is none");
    idp.answer_with(Answer::Keys(jwks([&key])));
    world.wait_for(&key.token(&claims()), None).await;
    let age = || {
        let [(issuer, age)] = <[_; 1]>::try_from(world.core.resolver.issuer_key_ages()).unwrap();
        assert_eq!(issuer, "sso");
        age
    };
    assert!(age() < Duration::from_secs(60), "{:?}", age());
    // The issuer is down from now on: the set stays in force, and grows old.
    idp.answer_with(Answer::Status(500));
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(1_000)).await;
    tokio::time::resume();
    assert!(age() >= Duration::from_secs(1_000), "{:?}", age());
    assert_eq!(world.denial(&key.token(&claims())).await, None);
    let telemetry = tollgate::telemetry::Telemetry::new(None).unwrap();
    let metrics = telemetry.render(&world.core.resolver).unwrap();
    assert!(metrics.contains("tollgate_issuer_keys_age_seconds{issuer=\"sso\"} 10"), "{metrics}");
}

#[tokio::test]
async fn without_any_keys_yet_nothing_is_known() {
    let key = SigningKey::generate("k", "EdDSA");
    let idp = Idp::start(Answer::Status(503)).await;
    let world = world_of(&idp).await;
    assert_eq!(world.denial(&key.token(&claims())).await, Some(Denial::Unavailable));
    // It comes up, and is found to be up without a request that asks.
    idp.answer_with(Answer::Keys(jwks([&key])));
    world.wait_for(&key.token(&claims()), None).await;
}

#[tokio::test]
async fn a_redirect_is_followed_on_the_same_host_alone() {
    let (good, evil) = (SigningKey::generate("k", "EdDSA"), SigningKey::generate("k", "EdDSA"));
    let other = Idp::start(Answer::Keys(jwks([&evil]))).await;
    let idp = Idp::start(Answer::RedirectTo(other.url())).await;
    let world = world_of(&idp).await;
    assert_eq!(world.denial(&evil.token(&claims())).await, Some(Denial::Unavailable));
    assert_eq!(other.fetches(), 0);
    // A loop on the same host ends.
    idp.answer_with(Answer::RedirectTo(format!("http://{}/again", idp.address)));
    let world = world_of(&idp).await;
    assert_eq!(world.denial(&good.token(&claims())).await, Some(Denial::Unavailable));
}

#[tokio::test]
async fn keys_that_are_not_for_signatures_of_this_kind_are_passed_over() {
    let good = SigningKey::generate("good", "RS256");
    let other = SigningKey::generate("other", "RS256");
    let twisted = |changes: serde_json::Value| {
        let mut jwk = other.jwk();
        for (name, value) in changes.as_object().unwrap() {
            jwk[name] = value.clone();
        }
        jwk
    };
    for jwk in [
        twisted(json!({"use": "enc"})),
        twisted(json!({"key_ops": ["encrypt"]})),
        twisted(json!({"key_ops": "verify"})),
        twisted(json!({"alg": "RSA-OAEP"})),
        twisted(json!({"alg": "HS256"})),
        twisted(json!({"alg": 1})),
        twisted(json!({"kty": "oct", "k": "c2VjcmV0"})),
        twisted(json!({"kty": "EC"})),
        twisted(json!({"n": "not base64!"})),
        twisted(json!({"e": ""})),
        json!({"kty": "oct", "k": "c2VjcmV0", "kid": "other", "alg": "HS256"}),
        json!({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "other"}),
        json!({"kty": "OKP", "crv": "X25519", "x": "AA", "kid": "other"}),
        json!("a key"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let set = json!({"keys": [jwk, good.jwk()]});
        let world = World::with_keys(folder.path(), &set, &good.token(&claims())).await;
        let denial = world.denial(&other.token(&claims())).await;
        assert!(matches!(denial, Some(Denial::TokenKey | Denial::TokenSignature)), "{denial:?}: {set}");
    }
}

#[tokio::test]
async fn other_rules_forget_what_was_found_under_the_old_ones() {
    let folder = tempfile::tempdir().unwrap();
    let key = SigningKey::generate("k", "EdDSA");
    let token = key.token(&claims());
    let mut world = World::with_keys(folder.path(), &jwks([&key]), &token).await;
    assert_eq!(world.denial(&token).await, None);
    world.policy.issuers[0].audiences = vec!["other".into()];
    world.core.resolver.adopt(&world.policy);
    assert_eq!(world.denial(&token).await, Some(Denial::TokenAudience));
    world.policy.issuers.clear();
    world.core.resolver.adopt(&world.policy);
    assert_eq!(world.denial(&token).await, Some(Denial::TokenIssuer));
}

fn unsigned(header: &str, payload: &str) -> String {
    use crate::mint::encoded;
    format!("{}.{}.{}", encoded(header.as_bytes()), encoded(payload.as_bytes()), encoded(&[7; 64]))
}

#[tokio::test]
async fn what_was_found_out_about_an_issuer_is_forgotten_when_that_is_asked_for() {
    let key = SigningKey::generate("known", "ES256");
    let idp = Idp::start(Answer::Keys(jwks([&key]))).await;
    let world = world_of(&idp).await;
    let token = key.token(&claims());
    world.wait_for(&token, None).await;
    let tier = async || {
        let bearer = format!("Bearer {token}");
        world.decide("/data", &bearer, |decision| decision.trace().principal.unwrap()).await
    };
    assert_eq!(tier().await, Tier::Cache);
    let registry = &world.core.registry;
    let forget = async |name: &str| registry.forget_issuer(&world.policy, &Actor::operator(), name).await;
    assert!(matches!(forget("nobody").await, Err(RegistryError::NotFound(_))));
    assert_eq!(tier().await, Tier::Cache);
    for _ in 0..2 {
        assert!(forget("sso").await.unwrap().sequence.is_some());
        assert_eq!(tier().await, Tier::Verified);
        assert_eq!(tier().await, Tier::Cache, "what is found out now is remembered");
    }
    let bound = Actor { project: Some("acme".to_owned()), ..Actor::operator() };
    assert!(matches!(registry.forget_issuer(&world.policy, &bound, "sso").await, Err(RegistryError::Forbidden(_))));
    assert_eq!(tier().await, Tier::Cache);
}
