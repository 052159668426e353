//! Inferno, F1: JSON Web Tokens of users and of an identity provider beside API keys, through Envoy. What the provider's
//! failures do to them, and what a client cannot say in their name.

use std::collections::BTreeMap;
use std::time::SystemTime;

use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use super::backend::Seen;
use super::cases::headers;
use super::client::{Http2, Sent};
use super::deployment::{CHAT, Deployment, KEYS, WHOAMI, refusal};
use super::harness::wait_for;
use super::idp::{Answer, Idp};
use super::mint::{SigningKey, encoded, jwks};
use super::spoofing::{Caller, Tally, Way, http1_variants, http2_variants, plain, spellings};

const ISSUER: &str = "https://sso.example.com/realms/inferno";

/// What an honest token of the provider says; each is another one.
fn claims(subject: &str, roles: &[&str]) -> Value {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    json!({"iss": ISSUER, "aud": ["account", "inferno"], "sub": subject, "iat": now, "exp": now + 300,
           "tenant": "acme", "realm_access": {"roles": roles}})
}

/// The identity that the only request which the back end saw came with; no credential may be there.
fn identity(seen: &[Seen]) -> BTreeMap<String, String> {
    let [seen] = seen else { panic!("the back end saw {seen:?}") };
    let mut found = headers(seen);
    assert!(!found.contains_key("authorization") && !found.contains_key("x-api-key"), "{found:?}");
    let user_id = found.remove("x-tollgate-user-id");
    let is_key = found.get("x-tollgate-subject").is_some_and(|subject| subject.starts_with("key:"));
    assert_eq!(
        user_id.is_none_or(|id| id.is_empty()),
        is_key,
        "everybody but a key has an id that is never reused: {found:?}"
    );
    found.retain(|name, _| name.contains("tollgate") && name != "x-tollgate-request-id");
    found.into_iter().map(|(name, value)| (name.replace("x-tollgate-", ""), value)).collect()
}

fn expected(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f1_a_token_of_a_user_and_a_key_side_by_side() {
    let inferno = Deployment::start().await;
    let token = inferno.token_of_new("ada@example.com", "acme", &["run_inference", "manage_keys"]).await;
    let key = inferno.key(&token, &json!({"name": "app", "permissions": ["run_inference"]})).await;
    let chat = || Sent::new("POST", CHAT);
    let of_key = [
        ("subject", &*format!("key:{}", key.id)),
        ("key-id", &key.id),
        ("plane", "inferno"),
        ("project", "acme"),
        ("permissions", "run_inference"),
    ];
    let of_user = [
        ("subject", "user:acme/ada@example.com"),
        ("plane", "inferno"),
        ("project", "acme"),
        ("permissions", "manage_keys,run_inference"),
    ];
    for (request, who) in [
        (chat().bearer(&token), &of_user[..]),
        (chat().header("authorization", &format!("bearer {token}")), &of_user),
        (chat().header("x-api-key", &key.text), &of_key),
        (chat().bearer(&key.text), &of_key),
    ] {
        assert_eq!(inferno.status(request.clone()).await, 200);
        assert_eq!(identity(&inferno.stack.take_seen()), expected(who));
        assert_eq!(inferno.stack.send_h2(&request).await.status, 200);
        assert_eq!(identity(&inferno.stack.take_seen()), expected(who));
    }
    // Never two credentials, never a token where keys belong, never anything else.
    for (request, status) in [
        (chat().bearer(&token).header("x-api-key", &key.text), 400),
        (chat().bearer(&token).bearer(&token), 400),
        (chat().bearer(&format!("{token},{token}")), 400),
        (chat().header("x-api-key", &token), 401),
        (chat().header("authorization", &token), 401),
        (chat().header("authorization", &format!("Basic {token}")), 401),
        (Sent::new("POST", &format!("{CHAT}?access_token={token}")), 401),
        (chat(), 401),
    ] {
        assert_eq!(refusal(&inferno.stack.send(&request).await).0, status, "{:?}", request.headers);
    }
    let missing = inferno.stack.send(&chat()).await.json();
    assert_eq!(missing["error"]["details"]["accepted"], json!(["authorization: Bearer KEY or JWT", "x-api-key: KEY"]));
    assert!(inferno.stack.take_seen().is_empty());
    // Browsers may send tokens, and no keys.
    let browser = |credential: &str| chat().bearer(credential).header("origin", "https://app.example.com");
    assert_eq!(inferno.status(browser(&token)).await, 200);
    assert_eq!(inferno.status(browser(&key.text)).await, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f1_a_token_of_the_identity_provider_means_what_its_roles_say() {
    let keys =
        ["RS256", "PS256", "ES256", "ES384", "EdDSA"].map(|algorithm| SigningKey::generate(algorithm, algorithm));
    let idp = Idp::start(Answer::Keys(jwks(&keys))).await;
    let inferno = Deployment::beside(&idp).await;
    for key in &keys {
        let token = key.token(&claims("7f3a", &["user", "offline_access"]));
        assert_eq!(inferno.call(&token).await, 200, "{}", key.algorithm);
        let who = [
            ("subject", "sso:7f3a"),
            ("plane", "inferno"),
            ("project", "acme"),
            ("permissions", "read_models,run_inference,use_streaming"),
        ];
        assert_eq!(identity(&inferno.stack.take_seen()), expected(&who));
    }
    let [_, _, key, ..] = &keys;
    let operator = key.token(&claims("7f3a", &["operator"]));
    for (method, path, status) in [
        ("GET", "/metrics", 200),
        ("DELETE", "/v1/cache", 200),
        ("POST", CHAT, 403),
        ("GET", KEYS, 403),
        ("GET", WHOAMI, 200),
    ] {
        assert_eq!(inferno.status(Sent::new(method, path).bearer(&operator)).await, status, "{method} {path}");
    }
    // Whatever else a token claims gives nothing: permissions come from roles, and roles from the configuration.
    let mut greedy = claims("7f3a", &["manage_keys", "admin"]);
    for (name, value) in [("scope", "manage_keys run_inference"), ("permissions", "*"), ("project", "*")] {
        greedy[name] = value.into();
    }
    assert_eq!(inferno.call(&key.token(&greedy)).await, 403);
    // A user of ours and a subject of theirs are never taken for each other.
    inferno.user("ada", "acme", &["manage_keys", "run_inference"]).await;
    let namesake = key.token(&claims("ada", &["user"]));
    assert_eq!(inferno.call(&namesake).await, 200);
    assert_eq!(inferno.status(Sent::new("GET", KEYS).bearer(&namesake)).await, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f1_a_forged_token_is_refused() {
    let (key, stranger) = (SigningKey::generate("k", "RS256"), SigningKey::generate("k", "RS256"));
    let idp = Idp::start(Answer::Keys(jwks([&key]))).await;
    let inferno = Deployment::beside(&idp).await;
    let honest = claims("7f3a", &["user"]);
    let text = honest.to_string();
    assert_eq!(inferno.call(&key.token(&honest)).await, 200);
    inferno.stack.take_seen();

    let with = |name: &str, value: Value| {
        let mut changed = honest.clone();
        changed[name] = value;
        key.token(&changed)
    };
    let signed = format!("{}.{}", encoded(br#"{"alg":"HS256","kid":"k"}"#), encoded(text.as_bytes()));
    let mut confused =
        Hmac::<Sha256>::new_from_slice(key.jwk()["n"].as_str().or(key.jwk()["x"].as_str()).unwrap().as_bytes())
            .unwrap();
    confused.update(signed.as_bytes());
    let confused = format!("{signed}.{}", encoded(&confused.finalize().into_bytes()));
    let own_key = json!({"alg": "RS256", "kid": "k", "jwk": stranger.jwk(), "jku": "http://127.0.0.1:1/"}).to_string();
    let [head, payload, _] = key.token(&honest).split('.').map(str::to_owned).collect::<Vec<_>>().try_into().unwrap();
    for (what, token) in [
        ("another key of the same name", stranger.token(&honest)),
        ("a key that it brings along", stranger.token_of(&own_key, &text)),
        ("no signature", format!("{head}.{payload}.")),
        ("none", format!("{}.{payload}.", encoded(br#"{"alg":"none"}"#))),
        ("the public key as a secret", confused),
        ("a critical header", key.token_of(r#"{"alg":"RS256","kid":"k","crit":["x"],"x":1}"#, &text)),
        ("over", with("exp", json!(honest["iat"].as_u64().unwrap() - 60))),
        ("without an end", with("exp", Value::Null)),
        ("not yet", with("nbf", json!(honest["exp"]))),
        ("for somebody else", with("aud", json!("account"))),
        ("of another issuer", with("iss", json!("https://sso.example.com/realms/other"))),
        ("of ourselves", with("iss", json!("https://inferno.example.com"))),
        ("no project", with("tenant", json!("*"))),
        ("a subject with a comma", with("sub", json!("a,b"))),
    ] {
        let reply = inferno.stack.send(&Sent::new("POST", CHAT).bearer(&token)).await;
        assert_eq!(refusal(&reply), (401, "AUTHENTICATION_FAILED".to_owned()), "{what}");
        assert!(!reply.text().contains(&token), "{what}");
    }
    assert!(inferno.stack.take_seen().is_empty());
    assert_eq!(inferno.call(&key.token(&honest)).await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f1_while_the_provider_is_down_known_keys_pass_and_others_are_503() {
    let (known, unknown) = (SigningKey::generate("known", "ES256"), SigningKey::generate("unknown", "ES256"));
    let elsewhere = Idp::start(Answer::Keys(jwks([&known, &unknown]))).await;
    for down in
        [Answer::Status(500), Answer::Text("<html>".to_owned()), Answer::RedirectTo(elsewhere.url()), Answer::Silence]
    {
        let idp = Idp::start(Answer::Keys(jwks([&known]))).await;
        let inferno = Deployment::beside(&idp).await;
        let of_user = inferno.token_of_new("ada", "acme", &["run_inference"]).await;
        let first = known.token(&claims("first", &["user"]));
        wait_for("the keys", async || inferno.call(&first).await == 200).await;
        idp.answer_with(down.clone());
        for n in 0..2 {
            let reply =
                inferno.stack.send(&Sent::new("POST", CHAT).bearer(&unknown.token(&claims("x", &["user"])))).await;
            assert_eq!(refusal(&reply), (503, "UNAVAILABLE".to_owned()), "{down:?}");
            assert_eq!(reply.header("retry-after").as_deref(), Some("1"));
            // Tokens that nobody has seen before, of a known key; and those who need no provider.
            let fresh = known.token(&claims(&format!("fresh-{n}"), &["user"]));
            for credential in [&fresh, &of_user, &inferno.root.text] {
                assert_eq!(inferno.call(credential).await, 200, "{down:?}");
            }
        }
    }
    assert_eq!(elsewhere.fetches(), 0, "nobody follows a redirect to {}", elsewhere.address);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f1_a_new_key_of_the_provider_is_accepted_at_its_first_use() {
    let (old, new) = (SigningKey::generate("old", "EdDSA"), SigningKey::generate("new", "EdDSA"));
    let idp = Idp::start(Answer::Keys(jwks([&old]))).await;
    let inferno = Deployment::beside(&idp).await;
    assert_eq!(inferno.call(&old.token(&claims("7f3a", &["user"]))).await, 200);
    let before = idp.fetches();
    idp.answer_with(Answer::Keys(jwks([&old, &new])));
    for n in 0..3 {
        assert_eq!(inferno.call(&new.token(&claims(&format!("s-{n}"), &["user"]))).await, 200);
    }
    assert_eq!(idp.fetches(), before + 1);
    // Who makes up keys makes nobody ask again, for half a minute.
    for n in 0..20 {
        let stranger = SigningKey::generate(&format!("made-up-{n}"), "EdDSA");
        assert_eq!(inferno.call(&stranger.token(&claims("x", &["user"]))).await, 401);
    }
    assert_eq!(idp.fetches(), before + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_is_said_beside_a_token_survives() {
    const WAYS: [Way; 1] =
        [Way { method: "POST", target: CHAT, identity: &["permissions", "plane", "project", "subject", "user-id"] }];
    let key = SigningKey::generate("k", "EdDSA");
    let idp = Idp::start(Answer::Keys(jwks([&key]))).await;
    let inferno = Deployment::beside(&idp).await;
    let of_user = inferno.token_of_new("ada", "acme", &["run_inference"]).await;
    let of_other = key.token(&claims("7f3a", &["user"]));
    let mut tally = Tally::default();
    for (bearer, subject) in [(of_user, "user:acme/ada"), (of_other, "sso:7f3a")] {
        let caller = Caller { bearer, subject: subject.to_owned() };
        for (sent, way) in http1_variants(&WAYS, &spellings) {
            tally.http1(&inferno.stack, &caller, sent, way).await;
        }
        let mut connection = Http2::connect(inferno.stack.envoy).await;
        for (sent, way) in http2_variants(&WAYS, &plain) {
            tally.http2(&inferno.stack, &mut connection, &caller, sent, way).await;
        }
    }
    tally.judge("beside tokens", 1000);
}
