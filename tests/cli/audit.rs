//! The audit log from outside, as far as it is long.

use tollgate::domain::record::{AuditEntry, Outcome};
use tollgate::store::Write;
use tollgate_guard::time::Timestamp;

use super::server::Server;
use super::signed::PEPPER;
use super::{run, signed};

#[test]
fn a_page_of_rare_rows_is_looked_for_until_it_is_full() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let row = |act: &str| AuditEntry {
        sequence: 0,
        at: Timestamp::from_millis(1),
        actor: "operator".to_owned(),
        actor_id: None,
        act: act.to_owned(),
        target: "key:a".to_owned(),
        project: None,
        outcome: Outcome::Done,
        reason: None,
        peer: "uid:0".to_owned(),
        request_id: String::new(),
    };
    let store = signed::of_server(&path);
    for (act, count) in [("key.rotate", 2), ("key.create", 5_100), ("key.rotate", 1), ("key.create", 5_100)] {
        vec![Write::Audit(row(act)); count].chunks(2_000).for_each(|some| {
            store.apply(some).unwrap();
        });
    }
    drop(store);
    let server = Server::start_on(&format!("{{embedded: {{path: {}}}}}", path.display()), PEPPER);
    let list = ["audit", "list", "--act", "key.rotate", "-o", "json", "--socket", &server.socket()];
    let page = |limit: &str| run(&[&list[..], &["--limit", limit]].concat()).ends(0).json();
    let numbers = |page: &serde_json::Value| -> Vec<u64> {
        page["entries"].as_array().unwrap().iter().map(|entry| entry["sequence"].as_u64().unwrap()).collect()
    };
    let (all, two) = (page("3"), page("2"));
    assert_eq!((numbers(&all), all["next"].as_u64()), (vec![5_103, 2, 1], None));
    assert_eq!((numbers(&two), two["next"].as_u64()), (vec![5_103, 2], Some(2)));
    assert_eq!(numbers(&page("1000")), [5_103, 2, 1]);
}
