//! Tollgate's own door behind Envoy where others than Envoy can reach it: it answers what passed the check alone.

use serde_json::json;

use super::client::{Http1, Sent, http1};
use super::deployment::{Deployment, KEYS, LOGIN, PASSWORD, WHOAMI, login};
use super::harness::Setup;

const JWKS: &str = "/.well-known/jwks.json";
const PROOF: &str = "x-tollgate-proof";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_door_behind_envoy_answers_only_what_passed_the_check() {
    const DEMAND: (&str, &str) =
        ("    through_envoy: 127.0.0.1:9183", "    demand_proof: true\n    through_envoy: 127.0.0.1:9183");
    let inferno = Deployment::with(Setup { tollgate_edits: vec![DEMAND], ..Setup::default() }).await;
    let stack = &inferno.stack;
    inferno.user("alice", "acme", &["run_inference"]).await;
    let key = &inferno.root.text;
    let made = json!({"name": "k", "permissions": ["run_inference"], "project": "acme", "plane": "inferno", "workloads": ["*"]});
    let requests = [
        login("alice", PASSWORD),
        Sent::new("GET", JWKS),
        Sent::new("GET", &format!("{KEYS}?limit=3")).bearer(key),
        Sent::new("POST", KEYS).json(&made).bearer(key),
        Sent::new("GET", WHOAMI).bearer(key),
    ];
    let forged = ["", "1.AAAA", "x", "1800000000.", &format!("1800000000.{}", "A".repeat(43))].map(str::to_owned);
    let mut tried = 0;
    for request in &requests {
        for proof in &forged {
            // Through Envoy a client's own proof is worth nothing, and takes nothing away.
            for request in [request.clone(), request.clone().header(PROOF, proof).header("x_tollgate_proof", proof)] {
                let request = Sent {
                    headers: request.headers.into_iter().filter(|(name, _)| !name.contains('_')).collect(),
                    ..request
                };
                let reply = stack.send(&request).await;
                assert!([200, 201].contains(&reply.status), "{}: {} {}", request.target, reply.status, reply.text());
            }
            let direct = request.clone().header(PROOF, proof);
            for direct in [direct, request.clone()] {
                let reply = http1(stack.door, &direct).await;
                assert_eq!(reply.status, 403, "{}: {}", request.target, reply.text());
                assert!(reply.text().contains("through Envoy"), "{}", reply.text());
                tried += 1;
            }
        }
    }
    println!("{tried} requests came directly, 0 were answered");
    // The back end has no use for a proof, and does not see one.
    assert_eq!(stack.send(&Sent::new("GET", "/v1/models").bearer(key).header(PROOF, "1.x")).await.status, 200);
    assert!(stack.take_seen().iter().all(|seen| seen.headers.iter().all(|(name, _)| !name.contains("proof"))));
    assert!(Http1::connect(stack.door).await.is_ok());
    assert_eq!(http1(stack.door, &Sent::new("GET", LOGIN)).await.status, 403);
}
