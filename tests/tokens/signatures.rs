//! Signatures are verified beside the checks: while no more can be, whoever is known is answered as ever. What was refused is
//! remembered, and no longer than it is sure to be refused.

use futures_util::future::join_all;
use serde_json::json;
use tollgate_core::denial::Denial;

use crate::idp::{Answer, Idp};
use crate::mint::{SigningKey, encoded, jwks};
#[cfg(feature = "test-panic")]
use crate::world::NOW;
use crate::world::{World, claims, claims_with};

#[cfg(feature = "test-panic")]
const ALGORITHMS: [&str; 9] = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];

/// A token of these claims with a signature of the right length that nobody made.
fn forged(key: &SigningKey, number: usize) -> String {
    let token = key.token(&claims_with(&json!({"jti": number})));
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let other: String = signature.chars().rev().collect();
    format!("{signed}.{other}")
}

#[cfg(feature = "test-panic")]
#[tokio::test]
async fn while_the_queue_is_full_the_known_are_answered() {
    use tollgate::registry::{Actor, KeySpec};

    let folder = tempfile::tempdir().unwrap();
    let keys = ALGORITHMS.map(|algorithm| SigningKey::generate(algorithm, algorithm));
    let world = World::with_keys(folder.path(), &jwks(&keys), &keys[8].token(&claims())).await;
    let spec = KeySpec {
        name: "one".to_owned(),
        plane: "data".to_owned(),
        project: "acme".to_owned(),
        workloads: vec!["*".to_owned()],
        permissions: vec!["run".to_owned()],
        expires_in: None,
    };
    let made = world.core.registry.create_key(&world.policy, &Actor::operator(), spec, None).await.unwrap();
    let api_key = made.secret.expose();
    let fresh = |key: &SigningKey| key.token(&claims_with(&json!({"jti": "fresh"})));
    let known: Vec<String> = keys.iter().map(|key| key.token(&claims_with(&json!({"jti": "kept"})))).collect();
    let refused: Vec<String> = keys.iter().map(|key| forged(key, 1)).collect();
    for (known, refused) in known.iter().zip(&refused) {
        assert_eq!(world.denial(known).await, None);
        assert_eq!(world.denial(refused).await, Some(Denial::TokenSignature));
    }

    let full = world.core.resolver.signatures().fill();
    assert!(full.len() >= 256, "{}", full.len());
    let turned_away = world.core.resolver.signatures().turned_away();
    for ((key, known), refused) in keys.iter().zip(&known).zip(&refused) {
        assert_eq!(world.denial_at("/keys", api_key).await, None, "an API key, {}", key.algorithm);
        assert_eq!(world.denial(known).await, None, "a remembered token, {}", key.algorithm);
        assert_eq!(world.denial(refused).await, Some(Denial::TokenSignature), "one refused before, {}", key.algorithm);
        assert_eq!(world.denial(&fresh(key)).await, Some(Denial::Unavailable), "a new token, {}", key.algorithm);
        assert_eq!(world.denial(&forged(key, 2)).await, Some(Denial::Unavailable), "a forged one, {}", key.algorithm);
    }
    assert_eq!(world.core.resolver.signatures().turned_away(), turned_away + 2 * ALGORITHMS.len() as u64);

    drop(full);
    for key in &keys {
        world.wait_for(&fresh(key), None).await;
        assert_eq!(world.denial(&forged(key, 2)).await, Some(Denial::TokenSignature), "{}", key.algorithm);
    }
}

#[cfg(feature = "test-panic")]
#[tokio::test]
async fn a_genuine_token_that_will_always_be_refused_costs_no_other_signature() {
    let folder = tempfile::tempdir().unwrap();
    let key = SigningKey::generate("k", "ES384");
    let mut world = World::with_keys(folder.path(), &jwks([&key]), &key.token(&claims())).await;
    let token = |changes: serde_json::Value| key.token(&claims_with(&changes));
    let refused = [
        (token(json!({"exp": NOW - 60})), Denial::Expired),
        (token(json!({"aud": "others"})), Denial::TokenAudience),
        (token(json!({"sub": null})), Denial::TokenClaims),
    ];
    let early = token(json!({"nbf": NOW + 60}));
    for (token, denial) in &refused {
        assert_eq!(world.denial(token).await, Some(*denial));
    }
    assert_eq!(world.denial(&early).await, Some(Denial::TokenNotYetValid));

    let full = world.core.resolver.signatures().fill();
    for (token, denial) in &refused {
        assert_eq!(world.denial(token).await, Some(*denial), "while no signature is verified");
    }
    assert_eq!(world.denial(&early).await, Some(Denial::Unavailable), "time may make it right");
    drop(full);
    world.set_now(NOW + 60);
    world.wait_for(&early, None).await;
    // Other rules know nothing of what these refused.
    world.policy.issuers[0].audiences = vec!["others".into()];
    world.core.resolver.adopt(&world.policy);
    world.wait_for(&refused[1].0, None).await;
}

#[tokio::test]
async fn a_crowd_with_one_token_is_one_signature() {
    let folder = tempfile::tempdir().unwrap();
    let key = SigningKey::generate("k", "ES384");
    let world = World::with_keys(folder.path(), &jwks([&key]), &key.token(&claims())).await;
    let token = key.token(&claims_with(&json!({"jti": "crowd"})));
    let answers = join_all((0..2_000).map(|_| world.denial(&token))).await;
    assert!(answers.iter().all(Option::is_none));
}

#[tokio::test]
async fn a_flood_of_forgeries_is_refused_and_the_next_token_passes() {
    let folder = tempfile::tempdir().unwrap();
    let key = SigningKey::generate("k", "ES384");
    let world = World::with_keys(folder.path(), &jwks([&key]), &key.token(&claims())).await;
    let forgeries: Vec<String> = (0..600).map(|number| forged(&key, number)).collect();
    let answers = join_all(forgeries.iter().map(|token| world.denial(token))).await;
    let told = |denial| answers.iter().filter(|answer| **answer == Some(denial)).count();
    assert_eq!(told(Denial::TokenSignature) + told(Denial::Unavailable), answers.len(), "{answers:?}");
    assert!(told(Denial::Unavailable) > 0, "none was turned away");
    assert_eq!(world.denial(&key.token(&claims_with(&json!({"jti": "next"})))).await, None);
}

#[tokio::test]
async fn what_was_refused_passes_once_the_issuer_has_its_key() {
    let (old, new) = (SigningKey::generate("k", "ES256"), SigningKey::generate("k", "ES256"));
    // With a name that both keys have, and with none.
    for header in [json!({"alg": "ES256", "kid": "k"}), json!({"alg": "ES256"})] {
        let idp = Idp::start(Answer::Keys(jwks([&old]))).await;
        let world = World::new(&format!("{{url: \"{}\"}}", idp.url()), "");
        world.wait_for(&old.token(&claims()), None).await;
        let token = new.token_of(&header.to_string(), &claims().to_string());
        for _ in 0..3 {
            assert_eq!(world.denial(&token).await, Some(Denial::TokenSignature));
        }
        idp.answer_with(Answer::Keys(jwks([&new])));
        tokio::time::pause();
        tokio::time::advance(std::time::Duration::from_secs(31)).await;
        tokio::time::resume();
        // Somebody's unknown key has the set fetched anew.
        let stranger = SigningKey::generate("unknown", "EdDSA");
        world.wait_for(&stranger.token(&claims()), Some(Denial::TokenKey)).await;
        world.wait_for(&token, None).await;
    }
}

#[tokio::test]
async fn a_new_key_is_accepted_at_the_first_use_of_a_token_without_a_name() {
    let (old, new) = (SigningKey::generate("old", "ES256"), SigningKey::generate("new", "ES256"));
    let idp = Idp::start(Answer::Keys(jwks([&old]))).await;
    let world = World::new(&format!("{{url: \"{}\"}}", idp.url()), "");
    world.wait_for(&old.token(&claims()), None).await;
    idp.answer_with(Answer::Keys(jwks([&old, &new])));
    let token = new.token_of(r#"{"alg":"ES256"}"#, &claims().to_string());
    assert_eq!(world.denial(&token).await, None, "at its first use");
}

#[tokio::test]
async fn at_most_four_keys_are_tried_for_a_token_without_a_name() {
    let folder = tempfile::tempdir().unwrap();
    let keys: Vec<_> = (0..6).map(|number| SigningKey::generate(&format!("k{number}"), "EdDSA")).collect();
    let world = World::with_keys(folder.path(), &jwks(&keys), &keys[0].token(&claims())).await;
    for (number, key) in keys.iter().enumerate() {
        let token = key.token_of(r#"{"alg":"EdDSA"}"#, &claims().to_string());
        let expected = (number >= 4).then_some(Denial::TokenSignature);
        assert_eq!(world.denial(&token).await, expected, "key {number}");
        assert_eq!(world.denial(&key.token(&claims())).await, None, "key {number} by its name");
    }
}

#[tokio::test]
async fn weak_keys_of_an_issuer_verify_nothing() {
    let good = SigningKey::generate("good", "EdDSA");
    let identity = {
        let mut y = [0; 32];
        y[0] = 1;
        y
    };
    let exponent = |e: &[u8]| {
        let mut jwk = SigningKey::generate("weak", "RS256").jwk();
        jwk["e"] = encoded(e).into();
        jwk
    };
    let folder = tempfile::tempdir().unwrap();
    let weak = [
        (json!({"kty": "OKP", "crv": "Ed25519", "x": encoded(&identity), "kid": "weak"}), "EdDSA"),
        (exponent(&[1]), "RS256"),
        (exponent(&[1, 0, 0]), "RS256"),
        (exponent(&[2, 0, 0, 0, 1]), "RS256"),
    ];
    for (jwk, algorithm) in weak {
        let set = json!({"keys": [jwk, good.jwk()]});
        let world = World::with_keys(folder.path(), &set, &good.token(&claims())).await;
        // R is the identity and S is zero: under the identity as a key that signs everything.
        let header = json!({"alg": algorithm, "kid": "weak"}).to_string();
        let signed = format!("{}.{}", encoded(header.as_bytes()), encoded(claims().to_string().as_bytes()));
        let token = format!("{signed}.{}", encoded(&[identity, [0; 32]].concat()));
        assert_eq!(world.denial(&token).await, Some(Denial::TokenKey), "{set}");
    }
}
