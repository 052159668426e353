//! Tokens that must be refused: forged, twisted, stolen from another purpose. Every one is counted.

use std::collections::BTreeMap;

use aws_lc_rs::hmac;
use serde_json::{Value, json};
use tollgate_core::denial::Denial;

use crate::mint::{SigningKey, encoded, jwks};
use crate::world::{ISSUER, LEEWAY, NOW, World, claims, claims_with};

const ALGORITHMS: [&str; 9] = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];

/// A token, and the kind of forgery it is.
type Forgery = (&'static str, String);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_forged_or_twisted_token_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let keys = ALGORITHMS.map(|algorithm| SigningKey::generate(&format!("key-{algorithm}"), algorithm));
    let strangers = ALGORITHMS.map(|algorithm| SigningKey::generate(&format!("key-{algorithm}"), algorithm));
    let witness = keys[8].token(&claims());
    let world = World::with_keys(folder.path(), &jwks(&keys), &witness).await;

    let mut forgeries = Vec::new();
    symmetric_and_none(&keys, &mut forgeries);
    other_keys(&keys, &strangers, &mut forgeries);
    headers(&keys, &mut forgeries);
    payloads(&keys, &mut forgeries);
    texts(&keys, &mut forgeries);
    assert!(forgeries.len() >= 10_000, "{} forgeries", forgeries.len());

    let mut tried: BTreeMap<&str, usize> = BTreeMap::new();
    for (kind, token) in &forgeries {
        let denial = world.denial(token).await;
        let denial = denial.unwrap_or_else(|| panic!("{kind}: accepted: {token}"));
        assert!(!matches!(denial, Denial::Internal | Denial::Unavailable), "{kind}: {denial:?}: {token}");
        *tried.entry(kind).or_default() += 1;
    }
    // None of them did any harm to honest ones.
    for key in &keys {
        assert_eq!(world.denial(&key.token(&claims())).await, None, "{}", key.algorithm);
    }
    println!("tried {}, accepted 0: {tried:?}", forgeries.len());
}

/// `none`, and HMAC with what is public as the secret.
fn symmetric_and_none(keys: &[SigningKey], forgeries: &mut Vec<Forgery>) {
    let payload = encoded(claims().to_string().as_bytes());
    for key in keys {
        for none in ["none", "None", "NONE", "nOnE", "", " none", "null"] {
            for kid in [json!(key.id), Value::Null] {
                let header = encoded(json!({"alg": none, "typ": "JWT", "kid": kid}).to_string().as_bytes());
                for signature in ["", ".", "AA", &encoded(&key.sign(b"x")), &payload] {
                    forgeries.push(("none", format!("{header}.{payload}.{signature}")));
                }
            }
        }
        let jwk = key.jwk();
        let secrets = [
            public_bytes(key),
            jwk.to_string().into_bytes(),
            jwk["n"].as_str().or(jwk["x"].as_str()).unwrap().as_bytes().to_vec(),
            pem(&public_bytes(key)),
            Vec::new(),
            b"secret".to_vec(),
        ];
        for secret in secrets {
            for (alg, algorithm) in
                [("HS256", hmac::HMAC_SHA256), ("HS384", hmac::HMAC_SHA384), ("HS512", hmac::HMAC_SHA512)]
            {
                for said in [alg, key.algorithm] {
                    let header = json!({"alg": said, "kid": key.id}).to_string();
                    let signed = format!("{}.{payload}", encoded(header.as_bytes()));
                    let tag = hmac::sign(&hmac::Key::new(algorithm, &secret), signed.as_bytes());
                    forgeries.push(("hmac", format!("{signed}.{}", encoded(tag.as_ref()))));
                }
            }
        }
    }
}

/// Signed by somebody else, under another name, or with another algorithm than the key is for.
fn other_keys(keys: &[SigningKey], strangers: &[SigningKey], forgeries: &mut Vec<Forgery>) {
    let payload = claims().to_string();
    for signer in keys.iter().chain(strangers) {
        let is_stranger = strangers.iter().any(|stranger| std::ptr::eq(stranger, signer));
        for named in keys {
            for alg in ALGORITHMS {
                let honest = !is_stranger && named.id == signer.id && alg == signer.algorithm;
                if !honest {
                    let header = json!({"alg": alg, "kid": named.id}).to_string();
                    forgeries.push(("swapped", signer.token_of(&header, &payload)));
                }
            }
        }
        for kid in
            ["", "key-RS256 ", "KEY-RS256", "../key-RS256", "key-RS256\0", "' OR 1=1", "unknown", &"k".repeat(300)]
        {
            let header = json!({"alg": signer.algorithm, "kid": kid}).to_string();
            forgeries.push(("unknown kid", signer.token_of(&header, &payload)));
        }
    }
    for stranger in strangers {
        // It brings its own key along.
        for more in [
            json!({"jwk": stranger.jwk()}),
            json!({"jku": "https://evil.test/jwks.json"}),
            json!({"x5u": "https://evil.test/cert.pem"}),
            json!({"x5c": [encoded(&public_bytes(stranger))]}),
            json!({"jwk": stranger.jwk(), "kid": stranger.jwk()}),
        ] {
            let mut header = json!({"alg": stranger.algorithm, "kid": stranger.id});
            for (name, value) in more.as_object().unwrap() {
                header[name] = value.clone();
            }
            forgeries.push(("own key", stranger.token_of(&header.to_string(), &payload)));
        }
    }
}

/// Well signed by the issuer, with headers that nobody understands alike.
fn headers(keys: &[SigningKey], forgeries: &mut Vec<Forgery>) {
    let payload = claims().to_string();
    for key in keys {
        let (alg, kid) = (key.algorithm, &key.id);
        for header in [
            json!({"alg": alg, "kid": kid, "crit": ["exp"], "exp": 1}),
            json!({"alg": alg, "kid": kid, "crit": []}),
            json!({"alg": alg, "kid": kid, "crit": null}),
            json!({"alg": alg, "kid": kid, "crit": ["b64"], "b64": false}),
            json!({"alg": alg, "kid": kid, "b64": false}),
            json!({"alg": alg, "kid": kid, "zip": "DEF"}),
            json!({"alg": alg, "kid": kid, "cty": "JWT"}),
            json!({"alg": alg, "kid": kid, "enc": "A256GCM"}),
            json!({"alg": alg, "kid": kid, "typ": "logout+jwt"}),
            json!({"alg": alg, "kid": kid, "typ": "dpop+jwt"}),
            json!({"alg": alg, "kid": kid, "typ": "JOSE"}),
            json!({"alg": alg, "kid": kid, "typ": 1}),
            json!({"alg": alg, "kid": [kid]}),
            json!({"alg": alg, "kid": {"id": kid}}),
            json!({"alg": alg, "kid": 1}),
            json!({"alg": [alg], "kid": kid}),
            json!({"alg": alg.to_lowercase(), "kid": kid}),
            json!({"alg": format!("{alg} "), "kid": kid}),
            json!({"kid": kid}),
            json!([{"alg": alg, "kid": kid}]),
            json!("JWT"),
            json!(null),
        ] {
            forgeries.push(("header", key.token_of(&header.to_string(), &payload)));
        }
        for header in [
            format!(r#"{{"alg":"none","alg":"{alg}","kid":"{kid}"}}"#),
            format!(r#"{{"alg":"{alg}","kid":"{kid}","kid":"{kid}"}}"#),
            format!(r#"{{"alg":"{alg}","\u0061lg":"none","kid":"{kid}"}}"#),
            format!(r#"{{"alg":"{alg}","kid":"{kid}"}} x"#),
            format!(r#"{{"alg":"{alg}","kid":"{kid}""#),
            format!(r#"{{"alg":"{alg}","kid":"{kid}",}}"#),
            format!("\u{feff}{{\"alg\":\"{alg}\",\"kid\":\"{kid}\"}}"),
        ] {
            forgeries.push(("header", key.token_of(&header, &payload)));
        }
    }
}

/// Well signed by the issuer, but not for us, not now, or not in a way that can be read but one way.
fn payloads(keys: &[SigningKey], forgeries: &mut Vec<Forgery>) {
    let nested = keys[8].token(&claims());
    let mut changes = vec![
        json!({"exp": NOW - LEEWAY}),
        json!({"exp": NOW - LEEWAY - 1}),
        json!({"exp": 0}),
        json!({"exp": null}),
        json!({"nbf": NOW + LEEWAY + 1}),
        json!({"nbf": NOW + 3600}),
        json!({"iss": null}),
        json!({"iss": format!("{ISSUER}/")}),
        json!({"iss": ISSUER.to_uppercase()}),
        json!({"iss": format!(" {ISSUER}")}),
        json!({"iss": [ISSUER]}),
        json!({"iss": {"0": ISSUER}}),
        json!({"iss": "https://evil.test"}),
        json!({"aud": null}),
        json!({"aud": "other"}),
        json!({"aud": "Tollgate"}),
        json!({"aud": "tollgate inference"}),
        json!({"aud": []}),
        json!({"aud": [["tollgate"]]}),
        json!({"aud": ["tollgate", 1]}),
        json!({"aud": {"tollgate": true}}),
        json!({"sub": null}),
        json!({"sub": ["ada"]}),
        json!({"sub": 7}),
        json!({"sub": ""}),
        json!({"sub": "a b"}),
        json!({"sub": "ada\r\nx-tollgate-project: beta"}),
        json!({"sub": "ada,root"}),
        json!({"sub": "x".repeat(300)}),
        json!({"sub": nested}),
        json!({"tenant": null}),
        json!({"tenant": "*"}),
        json!({"tenant": ["acme"]}),
        json!({"tenant": "acme,beta"}),
        json!({"tenant": "acme/../beta"}),
        json!({"tenant": {"acme": 1}}),
        json!({"scope": null}),
        json!({"scope": "runner"}),
        json!({"scope": "RUN"}),
        json!({"scope": "run,read"}),
        json!({"scope": ["run", 1]}),
        json!({"scope": [["run"]]}),
        json!({"scope": {"run": true}}),
        json!({"scope": vec!["run"; 300]}),
        json!({"scope": true}),
    ];
    for name in ["exp", "nbf", "iat"] {
        for value in [
            json!("1795000300"),
            json!([NOW + 300]),
            json!({"at": NOW + 300}),
            json!(true),
            json!(-1),
            json!(1e300),
            json!(u64::MAX),
            json!(i64::MIN),
            json!(253_402_300_800u64),
        ] {
            changes.push(json!({ name: value }));
        }
    }
    for key in keys {
        for change in &changes {
            forgeries.push(("claims", key.token(&claims_with(change))));
        }
        let header = json!({"alg": key.algorithm, "kid": key.id}).to_string();
        let good = claims().to_string();
        let body = good.trim_start_matches('{');
        for payload in [
            format!(r#"{{"iss":"https://evil.test",{body}"#),
            format!(r#"{{"tenant":"beta",{body}"#),
            format!(r#"{{"exp":1,{body}"#),
            format!(r#"{{"\u0073ub":"root",{body}"#),
            format!(r#"{{"x":{{"a":1,"a":2}},{body}"#),
            format!(r#"{{"x":1e999,{body}"#),
            format!(r#"{{"x":{}1{},{body}"#, "[".repeat(500), "]".repeat(500)),
            format!("{good}{good}"),
            format!("{good}\0"),
            format!("[{good}]"),
            format!("\"{nested}\""),
            nested.clone(),
            String::from("{}"),
            String::from("null"),
            good[..good.len() - 1].to_owned(),
        ] {
            forgeries.push(("payload", key.token_of(&header, &payload)));
        }
    }
}

/// Honest tokens whose text was changed afterwards.
fn texts(keys: &[SigningKey], forgeries: &mut Vec<Forgery>) {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    for key in keys {
        let token = key.token(&claims());
        let parts: Vec<&str> = token.split('.').collect();
        let [header, payload, signature] = parts[..] else { panic!("{token}") };
        for text in [
            format!("{header}.{payload}"),
            format!("{header}.{payload}."),
            format!("{header}..{signature}"),
            format!(".{payload}.{signature}"),
            format!("{token}."),
            format!("{token}.{signature}"),
            format!("{token}="),
            format!("{token}A"),
            format!("{token}AAAA"),
            format!("{header}=.{payload}.{signature}"),
            format!("{header}.{payload}==.{signature}"),
            format!("{payload}.{header}.{signature}"),
            format!("{header}.{signature}.{payload}"),
            format!("{header}.{payload}.{signature}{signature}"),
            format!("{header}.{payload}.{}", encoded(&[0; 64])),
            format!("{header}.{payload}.{}", encoded(&[0; 96])),
            format!("{header}.{payload}.{}", encoded(&[0; 256])),
            format!("{header}.{payload}.{}", encoded(&[0xff; 64])),
            format!("{header}.{payload}.{}", "A".repeat(17_000)),
            token.replace('-', "+").replace('_', "/") + "+",
        ] {
            forgeries.push(("text", text));
        }
        // Every character of the signature and many others, changed to its neighbours in the alphabet: the last one of a part
        // then differs in bits that decode to nothing.
        let places = (0..token.len()).filter(|at| token.as_bytes()[*at] != b'.');
        for at in places.filter(|at| *at % 3 == 0 || *at + 5 > token.len() || *at > token.len() - signature.len()) {
            let place = ALPHABET.iter().position(|known| *known == token.as_bytes()[at]).unwrap();
            for step in [1, 2, 32] {
                let mut twisted = token.clone().into_bytes();
                twisted[at] = ALPHABET[(place + step) % 64];
                forgeries.push(("changed", String::from_utf8(twisted).unwrap()));
            }
        }
    }
}

fn pem(der: &[u8]) -> Vec<u8> {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n").into_bytes()
}

/// The public half as bytes, as somebody would use it who takes it for a shared secret.
fn public_bytes(key: &SigningKey) -> Vec<u8> {
    use base64::Engine as _;
    let jwk = key.jwk();
    let part = |name: &str| {
        let text = jwk[name].as_str().unwrap_or_default();
        base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).unwrap()
    };
    match jwk["kty"].as_str().unwrap() {
        "RSA" => part("n"),
        "EC" => [vec![4], part("x"), part("y")].concat(),
        _ => part("x"),
    }
}
