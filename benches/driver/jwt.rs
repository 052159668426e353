//! JSON Web Tokens: the first check of a token by algorithm, and the repeated check, beside an API key. Never checks a token
//! for the first time twice.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::direct::{BODY, Shape, Target};
use crate::load::{self, Order, Plan};
use crate::mint::{SigningKey, jwks};
use crate::payload::{Form, Payload};
use crate::report::{Row, Samples};
use crate::{Bench, Outcome};

pub const ISSUER: &str = "https://sso.example.com";
/// The file with the issuer's keys, in the folder of the run.
pub const JWKS: &str = "jwks.json";

pub const ROWS: [Row; 7] = [
    Row::new("jwt", "api-key-hot", "us cpu", "api-key-hot"),
    Row::new("jwt", "repeat", "us cpu", "api-key-hot"),
    Row::new("jwt", "first-RS256", "us cpu", "api-key-hot"),
    Row::new("jwt", "first-PS256", "us cpu", "api-key-hot"),
    Row::new("jwt", "first-ES256", "us cpu", "api-key-hot"),
    Row::new("jwt", "first-ES384", "us cpu", "api-key-hot"),
    Row::new("jwt", "first-EdDSA", "us cpu", "api-key-hot"),
];

const ALGORITHMS: [(&str, &str); 5] = [
    ("RS256", "first-RS256"),
    ("PS256", "first-PS256"),
    ("ES256", "first-ES256"),
    ("ES384", "first-ES384"),
    ("EdDSA", "first-EdDSA"),
];
const FORGED: usize = 20_000;
/// The algorithm that stands for all in the table `direct`.
const USUAL: &str = "RS256";

/// The tokens of one algorithm: as many for each round.
struct Batch {
    algorithm: &'static str,
    row: &'static str,
    /// A message with the first of them.
    payload: Payload,
    file: PathBuf,
    /// All of one length, one after the other.
    tokens: Vec<u8>,
    length: usize,
}

/// Tokens that nobody has checked yet.
pub struct Tokens {
    batches: Vec<Batch>,
    per_round: usize,
}

/// For each algorithm a file of tokens that name a key of the issuer and were not signed with it, and the length of each. Makes the
/// file with the keys.
pub fn forged(bench: &Bench) -> Outcome<Vec<(&'static str, PathBuf, usize)>> {
    let keys = ALGORITHMS.map(|(algorithm, _)| SigningKey::generate(algorithm, algorithm));
    fs::write(bench.folder.join(JWKS), jwks(&keys).to_string())?;
    let mut files = Vec::new();
    for key in &keys {
        let honest = token(key, 0);
        let length = honest.len();
        let text: String = (0..FORGED).map(|number| forgery(&honest, number)).collect();
        let file = bench.folder.join(format!("forged.{}", key.algorithm));
        fs::write(&file, text)?;
        files.push((key.algorithm, file, length));
    }
    Ok(files)
}

/// The token with another signature, which is as much work to refuse as a right one to accept.
fn forgery(honest: &str, number: usize) -> String {
    let mut token = honest.to_owned();
    let at = token.len() - 24;
    token.replace_range(at..at + 8, &format!("{number:08}"));
    token
}

impl Tokens {
    /// Makes them, and the file with the keys.
    pub fn make(bench: &Bench) -> Outcome<Self> {
        let keys = ALGORITHMS.map(|(algorithm, _)| SigningKey::generate(algorithm, algorithm));
        fs::write(bench.folder.join(JWKS), jwks(&keys).to_string())?;
        let per_round = bench.scaled(6_000);
        let mut batches = Vec::new();
        for (key, (algorithm, row)) in keys.iter().zip(ALGORITHMS) {
            let made: Vec<String> = (0..per_round * bench.rounds).map(|number| token(key, number)).collect();
            let payload = Payload::new(Form::Map, "POST", &made[0], BODY);
            let file = bench.folder.join(format!("{row}.grpc"));
            fs::write(&file, &payload.bytes)?;
            let length = made[0].len();
            if made.iter().any(|token| token.len() != length) {
                return Err("tokens of different lengths".into());
            }
            batches.push(Batch { algorithm, row, payload, file, tokens: made.concat().into_bytes(), length });
        }
        Ok(Self { batches, per_round })
    }

    /// Until the server has read the keys. Uses up the first token of each algorithm, which is the repeated one.
    pub fn wait_for_keys(&self, address: &str) -> Outcome<()> {
        let start = Instant::now();
        for batch in &self.batches {
            while load::run(&batch.plan(address, 0, 1))?.refused > 0 {
                if start.elapsed() > Duration::from_secs(10) {
                    return Err(format!("{}: the tokens are not accepted", batch.algorithm).into());
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }

    /// One round of every row; `round` counts from 1.
    pub fn round(
        &self,
        bench: &Bench,
        round: usize,
        target: &Target<'_>,
        key: &Shape,
        samples: &mut Samples,
    ) -> Outcome<()> {
        let requests = bench.scaled(60_000);
        samples.add("jwt", "api-key-hot", target.busy(key.file(), requests)?.0);
        for batch in &self.batches {
            if batch.algorithm == USUAL {
                let (repeat, _) = target.busy(&batch.file, requests)?;
                samples.add("jwt", "repeat", repeat);
                samples.add("direct", "jwt-repeat", repeat);
            }
            let before = target.server.cpu()?;
            let report = load::run(&batch.plan(target.address, (round - 1) * self.per_round, self.per_round))?;
            let first = target.server.cpu()?.since(&before) / self.per_round as f64;
            if report.refused > 0 || report.edited != self.per_round {
                return Err(format!("{}: not every token was accepted: {}", batch.row, report.to_json()).into());
            }
            samples.add("jwt", batch.row, first);
            if batch.algorithm == USUAL {
                samples.add("direct", "jwt-first", first);
            }
        }
        Ok(())
    }
}

impl Batch {
    fn plan(&self, address: &str, from: usize, count: usize) -> Plan {
        Plan {
            address: address.to_owned(),
            message: self.payload.bytes.clone(),
            key_at: self.payload.key_at,
            keys: self.tokens[from * self.length..(from + count) * self.length].to_vec(),
            key_length: self.length,
            order: Order::Each,
            connections: 2,
            streams: 16,
            requests: count,
            rate: None,
            lead: Duration::ZERO,
            spread: false,
        }
    }
}

/// As an identity provider makes them; the number makes each another one of the same length.
fn token(key: &SigningKey, number: usize) -> String {
    key.token(&json!({
        "iss": ISSUER, "aud": "tollgate", "sub": format!("service-{number:08}"), "iat": 1_760_000_000u64,
        "exp": 4_000_000_000u64, "jti": format!("6a1f8c1e-{number:08}"), "azp": "inference-gateway",
        "scope": "openid profile run_inference",
    }))
}
