//! Waiting for the fleet, and looking at it: what is said when everybody has confirmed a change, and when somebody has not.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Answer, Api, KEYS};
use crate::fleet::replicas::{Replicas, Script};
use crate::fleet::report::{Replica, WaitReport, Waited};
use crate::server::admin::Door;

const FLEET: &str = "/api/v1/fleet";
const ACME: &str = "/api/v1/projects/acme";

fn sequence(answer: &Answer) -> u64 {
    answer.body["fleet"]["sequence"].as_u64().unwrap_or_else(|| panic!("{}", answer.body))
}

#[tokio::test]
async fn one_process_has_confirmed_what_is_answered() {
    let api = Api::new();
    let (_, first) = api.mint("data", "acme", &["run_inference"]).await;
    let (_, second) = api.mint("data", "acme", &["run_inference"]).await;
    let user = json!({"name": "ann", "password": "correct horse battery staple", "project": "acme",
        "permissions": ["run_inference"]});
    api.operate("POST", "/api/v1/users", user).await;
    let (key, other, ann) = (format!("{KEYS}/{first}"), format!("{KEYS}/{second}"), "/api/v1/users/ann".to_owned());
    let chat = "/api/v1/resources/workload/chat".to_owned();
    let mut last = 0;
    for (method, path, body, status) in [
        ("PATCH", &key, json!({"name": "renamed"}), 200),
        ("PATCH", &key, json!({"name": "renamed"}), 200),
        ("POST", &format!("{key}/rotate"), Value::Null, 201),
        ("DELETE", &other, Value::Null, 200),
        ("PUT", &format!("{ann}/password"), json!({"password": "another long password"}), 200),
        ("PATCH", &ann, json!({"disabled": true}), 200),
        ("PATCH", &ann, json!({"disabled": true}), 200),
        ("DELETE", &ann, Value::Null, 200),
        ("PUT", &chat, json!({"project": "acme"}), 200),
        ("PUT", &chat, json!({"project": "acme"}), 200),
        ("DELETE", &chat, Value::Null, 200),
        ("PATCH", &ACME.to_owned(), json!({"state": "suspended"}), 200),
        ("PATCH", &ACME.to_owned(), json!({"state": "active"}), 200),
        ("PATCH", &ACME.to_owned(), json!({"state": "active"}), 200),
        ("DELETE", &ACME.to_owned(), Value::Null, 200),
    ] {
        let waited = api.operate_with(method, &format!("{path}?wait=fleet"), ("if-match", "*"), body).await;
        assert_eq!(waited.status.as_u16(), status, "{method} {path}: {}", waited.body);
        // Also where nothing had to be changed: whoever did it before may not have waited.
        assert!(sequence(&waited) > last, "{method} {path}: {}", waited.body);
        last = sequence(&waited);
        let expected =
            json!({"level": "sole", "sequence": last, "confirmed": 1, "fenced": [], "lagging": [], "unknown": null});
        assert_eq!(waited.body["fleet"], expected);
    }
}

#[tokio::test]
async fn a_wait_that_makes_no_sense_changes_nothing() {
    let api = Api::new();
    let (_, id) = api.mint("data", "acme", &["run_inference"]).await;
    for query in [
        "wait=everybody",
        "wait=",
        "limit=5s",
        "wait=fleet&limit=",
        "wait=fleet&limit=1s",
        "wait=fleet&limit=9s",
        "wait=fleet&limit=05s",
        "wait=fleet&limit=5",
        "wait=fleet&limit=%2B5s",
        "wait=fleet&colour=red",
        "wiat=fleet",
    ] {
        api.operate("DELETE", &format!("{KEYS}/{id}?{query}"), Value::Null).await.is(400, "VALIDATION_ERROR");
    }
    assert_eq!(api.operate("GET", &format!("{KEYS}/{id}"), Value::Null).await.text("state"), "active");
}

fn replica(name: &str, grace: u64) -> Replica {
    Replica { id: format!("id-{name}"), name: name.to_owned(), grace: Duration::from_secs(grace) }
}

fn done(fenced: &[Replica], lagging: &[Replica]) -> Waited {
    Waited::Done(WaitReport {
        level: "bounded (1 s)".to_owned(),
        sequence: 7,
        confirmed: 2,
        fenced: fenced.to_vec(),
        lagging: lagging.to_vec(),
    })
}

/// With a fleet that answers this, the last one first.
fn scripted(answers: Vec<Waited>) -> (Api, Arc<Script>) {
    let mut api = Api::new();
    let script = Arc::new(Script { answers: answers.into(), ..Script::default() });
    api.parts().replicas = Replicas::Scripted(Arc::clone(&script));
    (api, script)
}

#[tokio::test]
async fn who_lags_makes_it_202_and_who_is_fenced_does_not() {
    let lagging = || done(&[replica("gone", 0)], &[replica("slow", 0), replica("kind", 30)]);
    let (api, script) = scripted(vec![lagging(), lagging(), done(&[replica("gone", 0)], &[])]);
    let (acme, _) = api.mint("admin", "acme", &["manage_keys", "run_inference"]).await;
    let (_, id) = api.mint("data", "acme", &["run_inference"]).await;
    let wait = format!("{KEYS}/{id}?wait=fleet&limit=2s");
    let fenced = api.operate("DELETE", &wait, Value::Null).await;
    assert_eq!((fenced.status.as_u16(), fenced.text("state")), (200, "revoked".to_owned()));
    assert_eq!(fenced.body["fleet"]["fenced"], json!([{"id": "id-gone", "name": "gone", "grace_seconds": 0}]));
    let late = api.operate("DELETE", &wait, Value::Null).await;
    assert_eq!(
        (late.status.as_u16(), late.text("state"), &late.headers["etag"]),
        (202, "revoked".into(), &"\"3\"".parse().unwrap())
    );
    let names = |answer: &Answer| {
        let lagging = answer.body["fleet"]["lagging"].as_array().unwrap().iter();
        lagging.map(|replica| replica["name"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&late), ["slow", "kind"]);
    assert_eq!(late.body["fleet"]["lagging"][1]["grace_seconds"], 30);
    // The hosts are no business of whoever is bound to a project.
    let (_, id) = api.mint("data", "acme", &["run_inference"]).await;
    let at = format!("{KEYS}/{id}/rotate?wait=fleet");
    let bound = api.at(Door::Http).call("POST", &at, &acme, Value::Null).await;
    assert_eq!((bound.status.as_u16(), names(&bound)), (202, vec![Value::Null, Value::Null]));
    assert!(bound.text("key").starts_with("ik_live_") && !bound.body.to_string().contains("\"slow\""));
    let asked = script.asked.lock().unwrap().clone();
    assert!(asked[0].1 <= Duration::from_secs(2) && asked[2].1 > Duration::from_secs(4), "{asked:?}");
    assert!(asked.is_sorted_by(|one, next| one.0.sequence < next.0.sequence), "{asked:?}");
}

#[tokio::test]
async fn what_another_history_may_lack_is_made_again() {
    let (api, script) = scripted(vec![done(&[], &[]), Waited::StartOver]);
    let (_, id) = api.mint("data", "acme", &["run_inference"]).await;
    let at = format!("{KEYS}/{id}?wait=fleet");
    let revoked = api.operate_with("DELETE", &at, ("if-match", "\"1\""), Value::Null).await;
    assert_eq!((revoked.status.as_u16(), &revoked.body["version"]), (200, &json!(3)), "{}", revoked.body);
    let asked = script.asked.lock().unwrap().clone();
    let [(first, _), (second, _)] = asked[..] else { panic!("{asked:?}") };
    // The history that counts is that before the change, and for the second attempt the new one.
    assert_eq!((first.lineages, second.lineages), (0, 1));
    assert!(first.sequence < second.sequence, "{asked:?}");
}

#[tokio::test]
async fn a_key_is_shown_whatever_becomes_of_the_wait() {
    let (api, _) = scripted(vec![Waited::StartOver]);
    // The last wait finds nobody to ask.
    for why in ["another history", "Nobody could be asked"] {
        let (_, id) = api.mint("data", "acme", &["run_inference"]).await;
        let rotated = api.operate("POST", &format!("{KEYS}/{id}/rotate?wait=fleet"), Value::Null).await;
        assert_eq!(rotated.status.as_u16(), 202, "{}", rotated.body);
        assert!(rotated.text("key").starts_with("ik_live_") && rotated.headers.contains_key("location"));
        let unknown = rotated.body["fleet"]["unknown"].as_str().unwrap();
        assert!(unknown.contains(why) && rotated.body["fleet"]["confirmed"] == 0, "{}", rotated.body);
    }
    // Made once each.
    assert_eq!(api.operate("GET", KEYS, Value::Null).await.body["keys"].as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn a_history_that_never_settles_is_given_up_on() {
    let (api, script) = scripted(vec![Waited::StartOver, Waited::StartOver, Waited::StartOver]);
    let suspend = async || {
        let at = format!("{ACME}?wait=fleet");
        api.operate_with("PATCH", &at, ("if-match", "*"), json!({"state": "suspended"})).await
    };
    let lost = suspend().await;
    lost.is(503, "UNAVAILABLE");
    assert!(lost.body["error"]["message"].as_str().unwrap().contains("another history"), "{}", lost.body);
    assert_eq!(script.asked.lock().unwrap().len(), 3);
    let unknown = suspend().await;
    assert_eq!((unknown.status.as_u16(), unknown.text("state")), (202, "suspended".to_owned()), "{}", unknown.body);
    assert_eq!(unknown.body["fleet"]["level"], "unknown");
}

#[tokio::test]
async fn the_fleet_is_for_administrators_of_every_project() {
    let api = Api::new();
    let (acme, id) = api.mint("admin", "acme", &["manage_keys"]).await;
    let (root, _) = api.mint("admin", "*", &["manage_keys"]).await;
    let http = api.at(Door::Http);
    http.call("GET", FLEET, &acme, Value::Null).await.is(403, "PERMISSION_DENIED");
    let log = api.operate("GET", "/api/v1/audit?limit=1", Value::Null).await;
    let row = &log.body["entries"][0];
    assert_eq!(
        (&row["act"], &row["actor"], &row["target"]),
        (&json!("fleet.show"), &json!(format!("key:{id}")), &json!("fleet"))
    );
    api.at(Door::ThroughEnvoy).call("GET", FLEET, &root, Value::Null).await.is(404, "NOT_FOUND");
    let seen = http.call("GET", FLEET, &root, Value::Null).await;
    assert_eq!((seen.status.as_u16(), seen.text("level")), (200, "sole".to_owned()), "{}", seen.body);
    let [only] = &seen.body["replicas"].as_array().unwrap()[..] else { panic!("{}", seen.body) };
    assert_eq!((&only["state"], &only["lag"], &only["lease_ms"]), (&json!("sole"), &json!(0), &Value::Null));
    assert_eq!((&only["since"], &only["is_asked"]), (&json!("2026-11-18T11:06:40Z"), &json!(true)));
    assert_eq!(only["position"], seen.body["head"]);
    let head = seen.body["head"].as_u64().unwrap();
    let suspended = api
        .operate_with("PATCH", &format!("{ACME}?wait=fleet"), ("if-match", "*"), json!({"state": "suspended"}))
        .await;
    let after = http.call("GET", FLEET, &root, Value::Null).await;
    assert!(head < sequence(&suspended) && after.body["head"].as_u64() == Some(sequence(&suspended)));
}
